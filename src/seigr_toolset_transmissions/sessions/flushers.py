"""Tasks that wait until the peer has acknowledged the messages accepted before they asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["Flushers"]


class Flushers:
    """The waiting flushes of one session."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def add(self, target: int, waiter: asyncio.Future[None]) -> None:
        """Have ``waiter`` end once ``target`` messages are acknowledged."""
        self._waiting.append((target, waiter))

    def settle(self, acked: int) -> bool:
        """Note how many messages are acknowledged; return whether no flush waits any more."""
        still = []
        for target, waiter in self._waiting:
            if waiter.done():
                continue  # cancelled
            if target > acked:
                still.append((target, waiter))
            else:
                waiter.set_result(None)
        self._waiting = still
        return not still

    def fail(self, new_error: Callable[[], Exception]) -> None:
        """Raise a new error in each task that waits."""
        for _, waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(new_error())
        self._waiting = []
