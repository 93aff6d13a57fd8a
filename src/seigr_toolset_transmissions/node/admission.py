"""Limits how many connections may be in a handshake at once, so strangers cannot crowd out members.

A connection is *half-open* from its start until its dialer is authenticated. When there are too
many, one is dropped at random rather than the newest. So a flood of silent connections mostly drops
its own, and a member, whose handshake takes a few turns of the loop, is hardly ever hit.
Connections whose first message has proven that the dialer knows the shared seed are dropped only if
there are no others.
"""

from __future__ import annotations

import random
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from ..config import NodeConfig
    from ..transports.base import Address

__all__ = ["Admission", "HalfOpen"]

_IPV6_PREFIX_BITS = 56
"""A site commonly gets a /56 (RFC 6177, BCP 157), and with it all addresses in that network."""


class HalfOpen(Protocol):
    """A connection in its handshake."""

    @property
    def peer_address(self) -> Address:
        """Where the dialer is."""

    def drop(self) -> None:
        """End the connection in silence; calls `Admission.leave`."""


H = TypeVar("H", bound=HalfOpen)


class _Bag(Generic[H]):
    """A set from which an item can be drawn at random."""

    __slots__ = ("_items", "_places")

    def __init__(self) -> None:
        self._items: list[H] = []
        self._places: dict[H, int] = {}

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: H) -> None:
        self._places[item] = len(self._items)
        self._items.append(item)

    def discard(self, item: H) -> bool:
        place = self._places.pop(item, None)
        if place is None:
            return False
        last = self._items.pop()
        if last is not item:
            self._items[place] = last
            self._places[last] = place
        return True

    def draw(self) -> H:
        return random.choice(self._items)  # noqa: S311 - nothing depends on its being secret


class Admission(Generic[H]):
    """The half-open connections of a node.

    Args:
        config: ``max_half_open``, ``max_half_open_per_source`` and ``limit_loopback``.

    """

    def __init__(self, config: NodeConfig) -> None:
        self._most = config.max_half_open
        self._most_per_source = config.max_half_open_per_source
        self._limit_loopback = config.limit_loopback
        self._strangers: _Bag[H] = _Bag()
        self._proven: _Bag[H] = _Bag()
        self._sources: dict[int | str, int] = {}  # how many connections come from each
        self._source_of: dict[H, int | str] = {}

    def __len__(self) -> int:
        return len(self._strangers) + len(self._proven)

    def enter(self, connection: H) -> bool:
        """Admit a new connection; return False if its source already has too many.

        Beyond half of ``max_half_open``, another one may be dropped in its place. The more there
        are, the more likely that is.
        """
        source = self._source(connection.peer_address)
        if source is not None:
            count = self._sources.get(source, 0)
            if count >= self._most_per_source:
                return False
            self._sources[source] = count + 1
            self._source_of[connection] = source
        early = self._most // 2
        if random.random() * (self._most - early) < len(self) - early:  # noqa: S311
            (self._strangers or self._proven).draw().drop()
        self._strangers.add(connection)
        return True

    def prove(self, connection: H) -> None:
        """Note that the connection's dialer knows the shared seed."""
        if self._strangers.discard(connection):
            self._proven.add(connection)

    def leave(self, connection: H) -> None:
        """Note that the connection has ended or is no longer half-open. May be called twice."""
        if not (self._strangers.discard(connection) or self._proven.discard(connection)):
            return
        source = self._source_of.pop(connection, None)
        if source is not None:
            self._sources[source] -= 1
            if not self._sources[source]:
                del self._sources[source]

    def _source(self, address: Address) -> int | str | None:
        return _source_of(address[0], limit_loopback=self._limit_loopback)


@lru_cache(maxsize=1024)
def _source_of(host: str, *, limit_loopback: bool) -> int | str | None:
    """Return what counts as the source of a connection; None if it is not limited."""
    try:
        ip = ip_address(host.partition("%")[0])
    except ValueError:  # not an Internet address: another network, with rules of its own
        return None
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_loopback and not limit_loopback:
        return None
    if isinstance(ip, IPv6Address):
        return int(ip) >> (128 - _IPV6_PREFIX_BITS)
    return str(ip)
