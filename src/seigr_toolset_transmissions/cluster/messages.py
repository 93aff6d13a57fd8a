"""What hubs of a cluster say to each other: messages and requests over the session of a link.

Pure functions from values to bytes and back. A message begins with its `Kind`, a request with its
`Ask`, and a reply with its `Answer`; numbers are big-endian. A hub ignores a message of a kind that
it does not know, so that hubs of two versions can run side by side while an upgrade goes on.

    NAME       JSON {"version", "name", "incarnation", "address"}
    ROUTES     u32 n | n x (8 bytes fingerprint, 4 bytes of the endpoint's incarnation, u32 age
               in ms) | fingerprints that have left
    LANE       u32 lane | 32 bytes endpoint id
    FORWARD    u32 lane | a message for the endpoint
    CLOSE      u32 lane
    DONE       (u32 lane, u64 delivered)*
    UNFIT      u32 lane | u64 index
    GONE       u32 lane | u64 delivered | u64 sent
    MOVED      u32 lane | u64 taken
    BROADCAST  u32 number | u32 length | JSON {"where", "exclude", "seconds"} | a message
    TALLY      u32 number | u32 accepted | u32 refused
    KICK, BAN, UNBAN   32 bytes endpoint id
    WATCH      u8, whether the sender wants IDS from now on
    IDS        (32 bytes endpoint id)*, of endpoints that a ROUTES has said are here

    ASK        32 bytes endpoint id | a request for it
    FIND       32 bytes, the last id that is known already | JSON, what the metadata must hold
    INFO       32 bytes endpoint id
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import IntEnum
from struct import Struct, error, iter_unpack
from typing import TYPE_CHECKING, Any

from ..errors import STTMessageSizeError
from ..identity import NODE_ID_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..transports.base import Address

__all__ = [
    "FINGERPRINT_BYTES",
    "FORWARD_HEAD",
    "LONGEST_HEAD_BYTES",
    "LONGEST_NAME_BYTES",
    "Answer",
    "Ask",
    "BadMessageError",
    "Joined",
    "Kind",
    "check_where",
    "fingerprint",
    "incarnation_mark",
    "pack_broadcast",
    "pack_done",
    "pack_ids",
    "pack_json",
    "pack_name",
    "pack_numbers",
    "pack_routes",
    "too_long",
    "unpack_broadcast",
    "unpack_done",
    "unpack_gone",
    "unpack_ids",
    "unpack_info",
    "unpack_json",
    "unpack_name",
    "unpack_numbers",
    "unpack_routes",
]

_VERSION = 1

FINGERPRINT_BYTES = 8
_INCARNATION_BYTES = 4

LONGEST_HEAD_BYTES = 64 * 1024
"""A message or request between hubs is at most this much longer than what it carries."""

LONGEST_NAME_BYTES = 255
"""Of the name of a hub, in UTF-8."""

_MOST_ROUTES = 4096
_MOST_COUNTS = 4096
_MOST_IDS = 1024
"""Per message, so that a hub with many peers does not hold up other messages."""

_LONGEST_BROADCAST_SECONDS = 24 * 3600.0

_COUNT = Struct("!I")
_DONE = Struct("!IQ")
_JOINED = Struct("!8s4sI")
_BROADCAST = Struct("!BII")
_LONGEST_AGE = 0xFFFFFFFF


class Kind(IntEnum):
    """The first byte of a message."""

    NAME = 0
    ROUTES = 1
    LANE = 2
    FORWARD = 3
    CLOSE = 4
    DONE = 5
    UNFIT = 6
    GONE = 7
    BROADCAST = 8
    TALLY = 9
    KICK = 10
    BAN = 11
    UNBAN = 12
    MOVED = 13
    WATCH = 14
    IDS = 15


class Ask(IntEnum):
    """The first byte of a request."""

    ASK = 0
    FIND = 1
    INFO = 2


class Answer(IntEnum):
    """The first byte of a reply. All but REPLY stand for an error, whose text or data follows."""

    REPLY = 0
    UNREACHABLE = 1
    REFUSED = 2
    FAILED = 3
    LOST_UNHANDLED = 4
    LOST = 5
    TOO_LONG = 6


FORWARD_HEAD = Struct("!BI")
"""Of a FORWARD: its kind and its lane."""

_NUMBERS = {
    Kind.LANE: Struct("!BI32s"),
    Kind.CLOSE: Struct("!BI"),
    Kind.UNFIT: Struct("!BIQ"),
    Kind.GONE: Struct("!BIQQ"),
    Kind.MOVED: Struct("!BIQ"),
    Kind.TALLY: Struct("!BIII"),
    Kind.KICK: Struct("!B32s"),
    Kind.BAN: Struct("!B32s"),
    Kind.UNBAN: Struct("!B32s"),
    Kind.WATCH: Struct("!B?"),
}


Joined = tuple[bytes, bytes, int]
"""An endpoint that has a session with the hub that says so: its fingerprint, what
`incarnation_mark` gives for that of its process, and for how many ms it has been there. A plain
tuple, because there may be a million."""


class BadMessageError(Exception):
    """A message that no hub sends."""


def too_long(data: bytes, most_bytes: int) -> STTMessageSizeError:
    """Return the error for a message that is longer than this hub's node takes."""
    return STTMessageSizeError(
        f"a message of {len(data)} bytes is longer than max_message_bytes, {most_bytes}"
    )


def fingerprint(endpoint_id: bytes) -> bytes:
    """Return what stands for an endpoint in routes. The endpoint's own hub knows the whole id."""
    return endpoint_id[:FINGERPRINT_BYTES]


def incarnation_mark(incarnation: bytes) -> bytes:
    """Return what tells the processes of an endpoint apart in routes."""
    return incarnation[:_INCARNATION_BYTES]


def pack_numbers(kind: Kind, *values: Any) -> bytes:
    """Return a message of a kind that has a fixed length."""
    return _NUMBERS[kind].pack(kind, *values)


def unpack_numbers(kind: Kind, data: bytes) -> tuple[Any, ...]:
    """Return the values of such a message; raise BadMessageError if its length is wrong."""
    try:
        return _NUMBERS[kind].unpack(data)[1:]
    except error as bad:
        raise BadMessageError(str(bad)) from None


def unpack_gone(data: bytes) -> tuple[int, int, int]:
    """Return the values of a GONE."""
    number, delivered, sent = unpack_numbers(Kind.GONE, data)
    if sent < delivered:
        raise BadMessageError("more messages delivered than sent")
    return number, delivered, sent


def unpack_info(data: bytes) -> dict[str, Any] | None:
    """Return what another hub says of an endpoint; None if it does not have it."""
    told = unpack_json(data)
    match told:
        case None:
            return None
        case {"metadata": dict(), "address": list(address)}:
            return {**told, "address": tuple(address)}
        case {"metadata": dict(), "address": _}:
            return {**told}
    raise BadMessageError("no endpoint")


def pack_ids(ids: Iterable[bytes]) -> Iterator[bytes]:
    """Return the messages that say the whole ids of endpoints."""
    here = list(ids)
    for at in range(0, len(here), _MOST_IDS):
        yield bytes((Kind.IDS,)) + b"".join(here[at : at + _MOST_IDS])


def unpack_ids(data: bytes) -> list[bytes]:
    """Return the endpoint ids that another hub has found, or that stand in an IDS."""
    if len(data) % NODE_ID_BYTES:
        raise BadMessageError("an id is cut off")
    return [data[at : at + NODE_ID_BYTES] for at in range(0, len(data), NODE_ID_BYTES)]


def pack_name(name: str, incarnation: bytes, address: Address, place: bytes) -> bytes:
    """Return what a hub says of itself.

    Args:
        name: Its name.
        incarnation: That of its node.
        address: Where it listens for links.
        place: Where it takes the sockets of connections; empty if it cannot.

    """
    told = {
        "version": _VERSION,
        "name": name,
        "incarnation": incarnation,
        "address": address,
        "place": place,
    }
    return bytes((Kind.NAME,)) + pack_json(told)


def unpack_name(data: bytes) -> tuple[str, bytes, Address, bytes]:
    """Return what `pack_name` was given."""
    told = unpack_json(data[1:])
    match told:
        case {
            "name": str(name),
            "incarnation": bytes(mark),
            "address": [str(host), int(port)],
        } if _is_name(name):
            place = told.get("place")  # hubs of older releases say nothing of that
            return name, mark, (host, port), place if isinstance(place, bytes) else b""
    raise BadMessageError("a hub that does not say who it is")


def _is_name(name: str) -> bool:
    try:
        return 0 < len(name.encode()) <= LONGEST_NAME_BYTES
    except UnicodeEncodeError:
        return False


def pack_routes(joined: Iterable[Joined], left: Iterable[bytes]) -> Iterator[bytes]:
    """Return the messages that say which endpoints have come, and which fingerprints have gone."""
    come = [
        _JOINED.pack(mark, incarnation, min(age, _LONGEST_AGE)) for mark, incarnation, age in joined
    ]
    gone = list(left)
    while come or gone:
        now, come = come[:_MOST_ROUTES], come[_MOST_ROUTES:]
        off, gone = gone[:_MOST_ROUTES], gone[_MOST_ROUTES:]
        yield b"".join((bytes((Kind.ROUTES,)), _COUNT.pack(len(now)), *now, *off))


def unpack_routes(data: bytes) -> tuple[list[Joined], list[bytes]]:
    """Return what `pack_routes` was given for this message."""
    try:
        (count,) = _COUNT.unpack_from(data, 1)
        middle = 1 + _COUNT.size + count * _JOINED.size
        if middle > len(data):
            raise BadMessageError("routes are missing")
        joined = [*_JOINED.iter_unpack(data[1 + _COUNT.size : middle])]
        left = [mark for (mark,) in iter_unpack(f"{FINGERPRINT_BYTES}s", data[middle:])]
    except error as bad:
        raise BadMessageError(str(bad)) from None
    return joined, left


def pack_done(delivered: Mapping[int, int]) -> Iterator[bytes]:
    """Return the messages that say how many messages of each lane were delivered in all."""
    counts = [_DONE.pack(*item) for item in delivered.items()]
    for at in range(0, len(counts), _MOST_COUNTS):
        yield bytes((Kind.DONE,)) + b"".join(counts[at : at + _MOST_COUNTS])


def unpack_done(data: bytes) -> Iterator[tuple[int, int]]:
    """Return the lanes and their counts."""
    if (len(data) - 1) % _DONE.size:
        raise BadMessageError("a count is cut off")
    return _DONE.iter_unpack(data[1:])


def pack_broadcast(
    number: int,
    where: Mapping[str, Any] | None,
    exclude: Iterable[bytes],
    seconds: float,
    data: bytes,
) -> bytes:
    """Return a broadcast: its number, for which endpoints, how long they have, and the message.

    Raises:
        STTMessageSizeError: ``where`` and ``exclude`` are too long.

    """
    chosen = pack_json(
        {
            "where": None if where is None else dict(where),
            "exclude": [*map(bytes.hex, exclude)],
            "seconds": min(max(seconds, 0), _LONGEST_BROADCAST_SECONDS),
        }
    )
    most = LONGEST_HEAD_BYTES - _BROADCAST.size
    if len(chosen) > most:
        raise STTMessageSizeError(
            f"where and exclude of a broadcast take {len(chosen)} bytes on the way to other hubs, "
            f"and at most {most} are allowed: leave out fewer endpoints, or mark those you mean in "
            "their metadata"
        )
    return b"".join((_BROADCAST.pack(Kind.BROADCAST, number, len(chosen)), chosen, data))


def unpack_broadcast(
    data: bytes,
) -> tuple[int, dict[str, Any] | None, frozenset[bytes], float, bytes]:
    """Return what `pack_broadcast` was given."""
    try:
        _kind, number, length = _BROADCAST.unpack_from(data)
        chosen = unpack_json(data[_BROADCAST.size : _BROADCAST.size + length])
        where, exclude = chosen["where"], frozenset(map(bytes.fromhex, chosen["exclude"]))
        seconds = float(chosen["seconds"])
    except (error, KeyError, TypeError, ValueError, OverflowError) as bad:
        raise BadMessageError(f"a broadcast that cannot be read: {bad}") from None
    if where is not None and not isinstance(where, dict):
        raise BadMessageError("a broadcast that is for nobody")
    if not 0 <= seconds <= _LONGEST_BROADCAST_SECONDS:
        raise BadMessageError("a broadcast without a time")
    return number, where, exclude, seconds, data[_BROADCAST.size + length :]


def pack_json(value: Any) -> bytes:
    """Return JSON, with bytes as ``{"$bytes": hex}``; leave out what JSON does not know.

    A key of the application's that begins with ``$`` gets another one in front.
    """
    return json.dumps(_jsonable(value), separators=(",", ":")).encode()


def unpack_json(data: bytes) -> Any:
    """Return the value; raise BadMessageError if it is not JSON."""
    try:
        return json.loads(data, object_hook=_from_json)
    except (ValueError, TypeError, RecursionError) as bad:
        raise BadMessageError(f"not JSON: {bad}") from None


def check_where(where: Mapping[str, Any]) -> None:
    """Raise TypeError unless these values can be compared at another hub."""
    for key, value in where.items():
        if not isinstance(key, str):
            raise TypeError(f"a key of metadata must be a str here, not {key!r}")
        if value is not None and not isinstance(value, str | int | float | bool | bytes):
            raise TypeError(
                f"{key}={value!r}: other hubs can compare str, int, float, bool, bytes and None; "
                "a function of the metadata does not travel to them"
            )


def _jsonable(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, bytes):
        return {"$bytes": value.hex()}
    if isinstance(value, list | tuple):
        return [_jsonable(each) for each in value if _travels(each)]
    return {
        f"${key}" if key.startswith("$") else key: _jsonable(each)
        for key, each in value.items()
        if isinstance(key, str) and _travels(each)
    }


def _travels(value: Any) -> bool:
    return value is None or isinstance(
        value, str | int | float | bool | bytes | list | tuple | Mapping
    )


def _from_json(value: dict[str, Any]) -> Any:
    if value.keys() == {"$bytes"}:
        return bytes.fromhex(value["$bytes"])
    return {key.removeprefix("$"): each for key, each in value.items()}
