"""The table of endpoints, a part at a time: filtered, sorted, and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence

    from ..stats import EndpointSnapshot
    from .view import Rates

    RatesOf = Callable[[Container[bytes] | None], Mapping[bytes, Rates]]

__all__ = ["Query", "address_text", "rows_of"]

_MOST_ROWS = 100
_MOST_LETTERS = 200
"""How much of a name is shown, and how long a filter may be."""

_BY_VALUE = {
    "state": attrgetter("state"),
    "rtt": attrgetter("rtt"),
    "inbox": attrgetter("inbox_bytes"),
    "unacknowledged": attrgetter("unacknowledged_bytes"),
    "active": attrgetter("last_activity"),
}
_BY_RATE = {
    "received": attrgetter("bytes_received"),
    "sent": attrgetter("bytes_sent"),
}
SORTS: tuple[str, ...] = ("added", "name", *_BY_VALUE, *_BY_RATE)


@dataclass(frozen=True, slots=True)
class Query:
    """Which part of the table is asked for."""

    sort: str
    """One of `SORTS`."""
    descending: bool
    text: str
    """What the name, the id or the address must contain; ``""``: anything."""
    state: str
    """The state that an endpoint must have; ``""``: any."""
    offset: int
    count: int

    @classmethod
    def read(cls, given: Mapping[str, str]) -> Query:
        """Return what a request asks for.

        Raises:
            ValueError: It makes no sense.

        """
        sort, text = given.get("sort", "added"), given.get("filter", "")
        offset, count = int(given.get("offset", "0")), int(given.get("count", "50"))
        if sort not in SORTS:
            raise ValueError(f"sort by one of {', '.join(SORTS)}")
        if offset < 0 or not 0 <= count <= _MOST_ROWS or len(text) > _MOST_LETTERS:
            raise ValueError(f"at most {_MOST_ROWS} rows, and {_MOST_LETTERS} letters")
        descending = given.get("order", "up") == "down"
        return cls(sort, descending, text.casefold(), given.get("state", ""), offset, count)


def rows_of(
    endpoints: Sequence[EndpointSnapshot],
    rates: RatesOf,
    query: Query,
    selected: bytes | None,
    banned: frozenset[bytes],
) -> dict[str, Any]:
    """Return the part of the table that a query asks for, and how many rows match.

    Args:
        endpoints: All of them.
        rates: Returns the rates of those with these ids, or of all.
        query: What is asked for.
        selected: The id of an endpoint that is shown in any case, if it is there; None: none.
        banned: The ids of banned peers.

    """
    matching = [endpoint for endpoint in endpoints if _matches(endpoint, query)]
    _sort(matching, rates, query)
    shown = matching[query.offset : query.offset + query.count]
    chosen = [each for each in endpoints if each.endpoint_id == selected] if selected else []
    known = rates({each.endpoint_id for each in (*shown, *chosen)})

    def row(endpoint: EndpointSnapshot) -> dict[str, Any]:
        return _row(endpoint, known.get(endpoint.endpoint_id), banned)

    return {
        "matching": len(matching),
        "rows": list(map(row, shown)),
        "selected": row(chosen[0]) if chosen else None,
    }


def _row(
    endpoint: EndpointSnapshot, rates: Rates | None, banned: frozenset[bytes]
) -> dict[str, Any]:
    return {
        "id": endpoint.endpoint_id.hex(),
        "name": (endpoint.name or "")[:_MOST_LETTERS],
        "state": endpoint.state,
        "address": address_text(endpoint.address),
        "rtt": endpoint.rtt,
        "received": None if rates is None else rates.bytes_received,
        "sent": None if rates is None else rates.bytes_sent,
        "inbox": endpoint.inbox_bytes,
        "inbox_messages": endpoint.inbox_messages,
        "unacknowledged": endpoint.unacknowledged_bytes,
        "active": endpoint.last_activity,
        "sessions": endpoint.sessions,
        "resumes": endpoint.resumes,
        "messages_sent": endpoint.messages_sent,
        "messages_received": endpoint.messages_received,
        "bytes_sent": endpoint.bytes_sent,
        "bytes_received": endpoint.bytes_received,
        "banned": endpoint.endpoint_id in banned,
    }


def address_text(address: tuple[str, int] | None) -> str:
    """Return an address as people write it; ``""`` if there is none."""
    if address is None:
        return ""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _matches(endpoint: EndpointSnapshot, query: Query) -> bool:
    if query.state and endpoint.state != query.state:
        return False
    text = query.text
    return (
        not text
        or text in (endpoint.name or "").casefold()
        or text in endpoint.endpoint_id.hex()
        or text in address_text(endpoint.address)
    )


def _sort(matching: list[EndpointSnapshot], rates: RatesOf, query: Query) -> None:
    """Sort them in place. What is not known comes last, in either order."""
    if query.sort == "added":
        if query.descending:
            matching.reverse()
        return
    key: Callable[[EndpointSnapshot], Any]
    if query.sort == "name":

        def key(endpoint: EndpointSnapshot) -> Any:
            return (endpoint.name or "").casefold() or None

    elif (of_rates := _BY_RATE.get(query.sort)) is not None:
        known = rates(None)

        def key(endpoint: EndpointSnapshot) -> Any:
            found = known.get(endpoint.endpoint_id)
            return None if found is None else of_rates(found)

    else:
        key = _BY_VALUE[query.sort]
    keyed = [(key(endpoint), endpoint) for endpoint in matching]
    first = [pair for pair in keyed if pair[0] is not None]
    first.sort(key=lambda pair: pair[0], reverse=query.descending)
    last = [endpoint for value, endpoint in keyed if value is None]
    matching[:] = [*(endpoint for _, endpoint in first), *last]
