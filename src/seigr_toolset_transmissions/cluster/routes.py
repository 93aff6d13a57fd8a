"""Which endpoints are connected to which hubs, as far as this hub has heard.

A route is a fingerprint of 8 bytes among those of the endpoint's hub. So forgetting a hub needs no
search, and a million endpoints take 75 to 100 MB. The hub that a fingerprint leads to knows the
whole id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from ..identity import NODE_ID_BYTES
from .messages import fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterable, KeysView

__all__ = ["Routes"]

H = TypeVar("H")


class Routes(Generic[H]):
    """The fingerprints that each other hub has said it has."""

    def __init__(self) -> None:
        # Each fingerprint with the number of the claim that brought it: several hubs may claim one.
        self._by_hub: dict[H, dict[bytes, int]] = {}
        self._claims = 0

    def add(self, hub: H) -> None:
        """Begin to keep a hub's routes."""
        self._by_hub[hub] = {}

    def forget(self, hub: H) -> KeysView[bytes]:
        """Drop a hub and all its routes; return their fingerprints."""
        return self._by_hub.pop(hub, {}).keys()

    def join(self, hub: H, marks: Iterable[bytes]) -> None:
        """Note that a hub has these now. If another hub claims one too, the latest claim counts."""
        self._claims += 1
        self._by_hub[hub].update(dict.fromkeys(marks, self._claims))

    def leave(self, hub: H, marks: Iterable[bytes]) -> None:
        """Note that a hub has these no longer."""
        its = self._by_hub[hub]
        for mark in marks:
            its.pop(mark, None)

    def hub_of(self, endpoint_id: bytes) -> H | None:
        """Return the hub that has an endpoint; None if none has, or if this is not a node id."""
        if len(endpoint_id) != NODE_ID_BYTES:
            return None  # an endpoint that was added by hand, under an id of the user's
        return self.find(fingerprint(endpoint_id))

    def find(self, mark: bytes) -> H | None:
        """Return the hub with this endpoint; None if there is none."""
        found, latest = None, 0
        for hub, marks in self._by_hub.items():
            claim = marks.get(mark, 0)
            if claim > latest:
                found, latest = hub, claim
        return found

    def count(self, hub: H) -> int:
        """Return how many endpoints a hub has; 0 for one that is not known."""
        return len(self._by_hub.get(hub, ()))
