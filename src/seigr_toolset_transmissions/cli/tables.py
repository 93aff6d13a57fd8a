"""Tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .amounts import rtt_text
from .printable import printable_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .. import HubInfo

__all__ = ["hub_table"]


def hub_table(hubs: Sequence[HubInfo]) -> Iterator[str]:
    """Return the lines of a table of hubs."""
    names = [printable_line(hub.name) for hub in hubs]
    width = max(map(len, ["hub", *names]))
    yield f"{'hub':{width}}  link       round trip  endpoints"
    for hub, name in zip(hubs, names, strict=True):
        link = "up" if hub.connected else "suspended"
        yield f"{name:{width}}  {link:9}  {rtt_text(hub.rtt):>10}  {hub.endpoints:9,}"
