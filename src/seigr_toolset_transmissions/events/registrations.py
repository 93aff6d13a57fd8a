"""Registrations in order, of which any number can be ended at a constant cost each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Registration", "Registrations"]

T = TypeVar("T")


class Registration(Generic[T]):
    """One registration.

    Attributes:
        handler: What was registered.
        once: Whether a call ends it.
        active: Whether it has not ended. Emits that have not called the handler yet look here.
        due: How many emits have a task that is to call the handler but has not begun.

    """

    __slots__ = ("active", "due", "handler", "once")

    def __init__(self, handler: T, *, once: bool) -> None:
        self.handler = handler
        self.once = once
        self.active = True
        self.due = 0


class Registrations(Generic[T]):
    """What is registered for one event, oldest first."""

    __slots__ = ("_ended", "entries")

    def __init__(self) -> None:
        # Some may have ended, but fewer than half: to take each out at once would make the end of
        # many cost the square of their number. A list of one therefore holds an active one.
        self.entries: list[Registration[T]] = []
        self._ended = 0

    def __bool__(self) -> bool:
        return bool(self.entries)

    def __iter__(self) -> Iterator[Registration[T]]:
        """Iterate over the active ones."""
        return (registration for registration in self.entries if registration.active)

    def add(self, handler: T, *, once: bool = False) -> Registration[T]:
        """Register a handler, behind all others."""
        registration = Registration(handler, once=once)
        self.entries.append(registration)
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
        if self._ended:
            self._tidy()  # lest removals in order search through all that were removed before
        for index, registration in enumerate(self.entries):
            if registration.handler is handler or registration.handler == handler:
                registration.active = False
                del self.entries[index]
                return True
        return False

    def end_all(self) -> None:
        """End every registration."""
        for registration in self.entries:
            registration.active = False
        self._tidy()

    def _tidy(self) -> None:
        self.entries = list(self)
        self._ended = 0
