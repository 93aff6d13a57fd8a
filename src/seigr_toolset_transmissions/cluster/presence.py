"""Presence: which endpoint is at which hub, for a program that watches it.

Routes know endpoints by fingerprint only. While a hub watches, the others also tell it the whole
ids (WATCH and IDS in `messages`). What it then knows is one place for each endpoint, the one that
`locate` gives, and for each watch what has changed since it was last read: not a queue of events,
which a slow reader would let grow.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from ..stats import Presence
from .messages import Kind, fingerprint, pack_numbers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ..node.registry import Registry
    from .link import Link
    from .other import Other

__all__ = ["Watch", "Watching", "WatchingOwner"]


class WatchingOwner(Protocol):
    """What watching needs of its hub."""

    others: dict[bytes, Other]
    registry: Registry

    def locate(self, endpoint_id: bytes) -> str | None:
        """Return the name of the hub that an endpoint is connected to; None if there is none."""


class Watch:
    """The changes that one reader has not read yet.

    Args:
        places: Where all endpoints are now, by their ids.

    Attributes:
        skipped: See `node.cluster_base.PresenceStream`.

    """

    def __init__(self, places: Mapping[bytes, str]) -> None:
        self.skipped: int = 0
        self._places = places
        self._unread: OrderedDict[bytes, str | None] = OrderedDict.fromkeys(places)
        """Where the reader believes those endpoints to be that have changed."""
        self._changed = asyncio.Event()
        self._over = False

    def note(self, endpoint_id: bytes, former: str | None, place: str | None) -> None:
        """Note a change."""
        if endpoint_id not in self._unread:
            self._unread[endpoint_id] = former
            self._changed.set()
            return
        self.skipped += 1
        if self._unread[endpoint_id] == place:
            self.skipped += 1
            del self._unread[endpoint_id]

    def end(self) -> None:
        """End the iteration after what is there."""
        self._over = True
        self._changed.set()

    def close(self) -> None:
        """End the iteration now."""
        self._unread.clear()
        self.end()

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> Presence:
        while not self._unread:
            if self._over:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        endpoint_id, former = self._unread.popitem(last=False)
        return Presence(endpoint_id, self._places.get(endpoint_id), former)


class Watching:
    """What this hub knows of the places of endpoints while it is watched, and its watches."""

    def __init__(self, owner: WatchingOwner) -> None:
        self._owner = owner
        self._watches: set[Watch] = set()
        self._ids: dict[bytes, bytes] = {}  # by fingerprint
        self._places: dict[bytes, str] = {}

    @contextmanager
    def watch(self) -> Iterator[Watch]:
        """Watch for as long as the block lasts."""
        watch = Watch(self._places)
        self._watches.add(watch)
        if len(self._watches) == 1:
            self.told(self._owner.registry.routes)
            self._tell_all(watches=True)
        try:
            yield watch
        finally:
            watch.close()
            if watch in self._watches:  # else this hub has left
                self._watches.remove(watch)
                if not self._watches:
                    self._ids.clear()
                    self._places.clear()
                    self._tell_all(watches=False)

    def _tell_all(self, *, watches: bool) -> None:
        for other in self._owner.others.values():
            other.link.post(pack_numbers(Kind.WATCH, watches))

    def link_began(self, link: Link) -> None:
        """Have a hub tell the ids of its endpoints, if they are watched."""
        if self._watches:
            link.post(pack_numbers(Kind.WATCH, True))

    def told(self, ids: Iterable[bytes]) -> None:
        """Note the ids of endpoints that are, or were, at a hub."""
        if self._watches:
            for endpoint_id in ids:
                self._look_for(endpoint_id)

    def routes_changed(self, marks: Iterable[bytes]) -> None:
        """Note that these endpoints have come, left or moved."""
        if self._watches:
            for mark in marks:
                endpoint_id = self._ids.get(mark)
                if endpoint_id is not None:  # else its hub says so soon
                    self._look_for(endpoint_id)

    def _look_for(self, endpoint_id: bytes) -> None:
        mark = fingerprint(endpoint_id)
        if self._ids.get(mark, endpoint_id) != endpoint_id:
            return  # somebody has made two ids with one fingerprint: one of them is enough
        former, place = self._places.get(endpoint_id), self._owner.locate(endpoint_id)
        if place == former:
            return
        if place is None:
            del self._places[endpoint_id], self._ids[mark]
        else:
            self._places[endpoint_id] = place
            self._ids[mark] = endpoint_id
        for watch in self._watches:
            watch.note(endpoint_id, former, place)

    def end(self) -> None:
        """End all iterations: this hub leaves."""
        for watch in self._watches:
            watch.end()
        self._watches.clear()
