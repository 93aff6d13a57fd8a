"""Keeps registrations in order; removing one takes constant time, however many there are."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Registration", "Registrations"]

T = TypeVar("T")


class Registration(Generic[T]):
    """One registration.

    Attributes:
        handler: What was registered.
        once: Whether a call ends it.
        active: Whether it has not ended. An emit checks this before it calls the handler.
        due: How many emits have a task that will call the handler but has not begun.

    """

    __slots__ = ("active", "due", "handler", "once")

    def __init__(self, handler: T, *, once: bool) -> None:
        self.handler: T = handler
        self.once: bool = once
        self.active: bool = True
        self.due: int = 0


class Registrations(Generic[T]):
    """What is registered for one event, oldest first."""

    __slots__ = ("_ended", "_places", "entries")

    def __init__(self) -> None:
        # Fewer than half of them have ended: removing each at once would make ending many of them
        # cost the square of their number. So a list of one holds an active one.
        self.entries: list[Registration[T]] = []
        self._ended = 0
        # Once a handler was searched for: where each one's registrations are in `entries`, oldest
        # first. Some of these may have ended, too.
        self._places: dict[T, deque[int]] | None = None

    def __bool__(self) -> bool:
        return bool(self.entries)

    def __iter__(self) -> Iterator[Registration[T]]:
        """Iterate over the active ones."""
        return (registration for registration in self.entries if registration.active)

    def add(self, handler: T, *, once: bool = False) -> Registration[T]:
        """Register a handler after all others."""
        registration = Registration(handler, once=once)
        if self._places is not None:
            try:
                self._places.setdefault(handler, deque()).append(len(self.entries))
            except TypeError:  # it is not hashable
                self._places = None
        self.entries.append(registration)
        return registration

    def end(self, registration: Registration[T]) -> None:
        """End one of these registrations; do nothing if it has ended already."""
        if not registration.active:
            return
        registration.active = False
        self._ended += 1
        if 2 * self._ended >= len(self.entries):
            self._tidy()

    def end_first(self, handler: T) -> bool:
        """End the oldest registration of an equal handler; return whether there was one."""
        place = self._take_oldest(handler)
        if place is None:
            return False
        ended: Registration[Any] = Registration(None, once=False)  # keeps no handler alive
        ended.active = False
        registration, self.entries[place] = self.entries[place], ended
        self.end(registration)
        return True

    def end_all(self) -> None:
        """End every registration."""
        for registration in self.entries:
            registration.active = False
        self._tidy()

    def _take_oldest(self, handler: T) -> int | None:
        """Return the place of the oldest active registration of a handler equal to `handler`."""
        try:
            if self._places is None:
                self._places = {}
                for place, found in self._active():
                    self._places.setdefault(found.handler, deque()).append(place)
            places = self._places.pop(handler, None)
        except TypeError:  # one of them is not hashable
            self._places = None
            equal = (place for place, found in self._active() if found.handler == handler)
            return next(equal, None)
        while places:
            place = places.popleft()
            if self.entries[place].active:
                if places:
                    self._places[handler] = places
                return place
        return None

    def _active(self) -> Iterator[tuple[int, Registration[T]]]:
        return ((place, found) for place, found in enumerate(self.entries) if found.active)

    def _tidy(self) -> None:
        self.entries = list(self)
        self._ended = 0
        self._places = None
