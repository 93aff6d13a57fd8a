"""What a monitor socket says: lines of JSON, each an object with a ``type``.

``docs/monitoring.md`` describes them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from ..stats import NodeSnapshot
from .view import SeenEvent

if TYPE_CHECKING:
    from .view import Rates

__all__ = ["HELLO", "Remark", "event_line", "line", "parse", "snapshot_line"]

_encode = json.JSONEncoder(separators=(",", ":")).encode
_SNAPSHOT = b'{"type":"snapshot",'


class Remark(NamedTuple):
    """A line that is neither a snapshot nor an event."""

    kind: str
    facts: dict[str, Any]


def line(kind: str, **facts: object) -> bytes:
    """Return a line of this type."""
    return _encode({"type": kind, **facts}).encode() + b"\n"


HELLO: bytes = line("monitor", version=1)
"""The first line: what a reader knows a monitor by."""


def snapshot_line(shot: NodeSnapshot, rates: Rates | None) -> bytes:
    """Return the line of a snapshot, and of the node's rates since the one before, if known."""
    shown = _encode(None if rates is None else rates._asdict())
    return b'%s"rates":%s,%s\n' % (_SNAPSHOT, shown.encode(), shot.to_json()[1:].encode())


def event_line(event: SeenEvent) -> bytes:
    """Return the line of an event."""
    return line("event", number=event.number, time=event.time, name=event.name, facts=event.facts)


def parse(data: bytes) -> NodeSnapshot | SeenEvent | Remark:
    """Return what a line says.

    Raises:
        ValueError: No monitor says this.

    """
    if data.startswith(_SNAPSHOT):  # it may be long, and is read only once
        return NodeSnapshot.from_json(data)
    try:
        facts = json.loads(data)
        if facts["type"] == "event":  # further keys may come with later versions
            number, time = int(facts["number"]), float(facts["time"])
            return SeenEvent(number, time, str(facts["name"]), dict(facts["facts"]))
        return Remark(facts["type"], facts)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"this is no line of a monitor: {error!r}") from error
