"""Which endpoints are connected to which hubs, as far as this hub has heard.

A route is a fingerprint of 8 bytes in the set of the endpoint's hub. So forgetting a hub needs no
search, and a million endpoints take about 80 MB. The hub that a fingerprint leads to knows the
whole id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from ..identity import NODE_ID_BYTES
from .messages import fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Routes"]

H = TypeVar("H")


class Routes(Generic[H]):
    """The fingerprints that each other hub has said it has."""

    def __init__(self) -> None:
        self._by_hub: dict[H, set[bytes]] = {}
        self._newest: dict[bytes, H] = {}  # where more than one hub has said so, for a while

    def add(self, hub: H) -> None:
        """Begin to keep a hub's routes."""
        self._by_hub[hub] = set()

    def forget(self, hub: H) -> set[bytes]:
        """Drop a hub and all its routes; return their fingerprints."""
        marks = self._by_hub.pop(hub, set())
        self._newest = {mark: other for mark, other in self._newest.items() if other is not hub}
        return marks

    def join(self, hub: H, marks: Iterable[bytes]) -> None:
        """Note that a hub has these now. If another hub claims one too, the latest claim counts."""
        joined = set(marks)
        self._by_hub[hub] |= joined
        for other, its in self._by_hub.items():
            if other is not hub:  # as sets, because there may be 100,000 at once and 100 hubs
                self._newest.update(dict.fromkeys(joined & its, hub))

    def leave(self, hub: H, marks: Iterable[bytes]) -> None:
        """Note that a hub has these no longer."""
        for mark in marks:
            self._by_hub[hub].discard(mark)
            if self._newest.get(mark) is hub:
                del self._newest[mark]

    def hub_of(self, endpoint_id: bytes) -> H | None:
        """Return the hub that has an endpoint; None if none has, or if this is not a node id."""
        if len(endpoint_id) != NODE_ID_BYTES:
            return None  # an endpoint that was added by hand, under an id of the user's
        return self.find(fingerprint(endpoint_id))

    def find(self, mark: bytes) -> H | None:
        """Return the hub with this endpoint; None if there is none."""
        newest = self._newest.get(mark)
        if newest is not None:
            return newest
        for hub, marks in self._by_hub.items():
            if mark in marks:
                return hub
        return None

    def count(self, hub: H) -> int:
        """Return how many endpoints a hub has; 0 for one that is not known."""
        return len(self._by_hub.get(hub, ()))
