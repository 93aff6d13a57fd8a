"""Registrations in order, of which any number can be ended at a constant cost each."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Registration", "Registrations"]

T = TypeVar("T")

_number = attrgetter("number")


class Registration(Generic[T]):
    """One registration.

    Attributes:
        handler: What was registered.
        once: Whether a call ends it.
        active: Whether it has not ended. Emits that have not called the handler yet look here.
        due: How many emits have a task that is to call the handler but has not begun.
        number: Greater than those of older registrations.

    """

    __slots__ = ("active", "due", "handler", "number", "once")

    def __init__(self, handler: T, number: int, *, once: bool) -> None:
        self.handler = handler
        self.number = number
        self.once = once
        self.active = True
        self.due = 0


class Registrations(Generic[T]):
    """What is registered for one event, oldest first."""

    __slots__ = ("_by_handler", "_ended", "entries")

    def __init__(self) -> None:
        # Some may have ended, but fewer than half: to take each out at once would make the end of
        # many cost the square of their number. A list of one therefore holds an active one.
        self.entries: list[Registration[T]] = []
        self._ended = 0
        # Each handler's, oldest first, since one was looked for: some may have ended, too.
        self._by_handler: dict[T, deque[Registration[T]]] | None = None

    def __bool__(self) -> bool:
        return bool(self.entries)

    def __iter__(self) -> Iterator[Registration[T]]:
        """Iterate over the active ones."""
        return (registration for registration in self.entries if registration.active)

    def add(self, handler: T, *, once: bool = False) -> Registration[T]:
        """Register a handler, behind all others."""
        number = self.entries[-1].number + 1 if self.entries else 0
        registration = Registration(handler, number, once=once)
        self.entries.append(registration)
        if self._by_handler is not None:
            try:
                self._by_handler.setdefault(handler, deque()).append(registration)
            except TypeError:  # it has no hash
                self._by_handler = None
        return registration

    def end(self, registration: Registration[T]) -> None:
        """End one of these registrations; nothing happens if it has ended."""
        if not registration.active:
            return
        registration.active = False
        self._ended += 1
        if 2 * self._ended >= len(self.entries):
            self._tidy()

    def end_first(self, handler: T) -> bool:
        """End the oldest registration of a handler equal to `handler`, if any; return whether."""
        registration = self._take_oldest(handler)
        if registration is None:
            return False
        registration.active = False
        del self.entries[bisect_left(self.entries, registration.number, key=_number)]
        if 2 * self._ended >= len(self.entries):
            self._tidy()
        return True

    def end_all(self) -> None:
        """End every registration."""
        for registration in self.entries:
            registration.active = False
        self._tidy()

    def _take_oldest(self, handler: T) -> Registration[T] | None:
        try:
            if self._by_handler is None:
                self._by_handler = {}
                for registration in self:
                    self._by_handler.setdefault(registration.handler, deque()).append(registration)
            found = self._by_handler.pop(handler, None)
        except TypeError:  # something has no hash
            self._by_handler = None
            return next((found for found in self if found.handler == handler), None)
        while found:
            registration = found.popleft()
            if registration.active:
                if found:
                    self._by_handler[handler] = found
                return registration
        return None

    def _tidy(self) -> None:
        self.entries = list(self)
        self._ended = 0
        self._by_handler = None
