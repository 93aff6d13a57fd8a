"""What a publish/subscribe bus must do so that connections can be made over it (see `pipes`).

The requirements are low. A bus may lose, duplicate or reorder messages: a connection over it
notices, and ends. But it must report when a subject has no subscribers, and when the bus is
unreachable.

A subject is a string of names separated by dots. A name consists of letters, digits, ``-``, ``_``,
``~`` and ``%``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from types import MethodType
from weakref import WeakMethod

__all__ = ["Arrived", "Bus", "Unsubscribe"]

Arrived = Callable[[str, bytes, str], None]
Unsubscribe = Callable[[], Awaitable[None]]


class Bus(ABC):
    """A connection to a publish/subscribe bus, used from one event loop.

    A subclass calls `_set_up` when it reaches or loses the bus. It starts out as not reached.
    """

    def __init__(self) -> None:
        self._is_up = False
        self._watchers: list[Callable[[], Callable[[bool], None] | None]] = []

    @property
    def is_up(self) -> bool:
        """Whether the bus is reachable, as far as this side knows."""
        return self._is_up

    @property
    def server(self) -> tuple[str, int] | None:
        """Host and port of the server that the bus is connected to; None if that means nothing."""
        return None

    def watch(self, changed: Callable[[bool], None]) -> None:
        """From now on, call ``changed(is_up)`` whenever the bus is lost or comes back.

        Messages published shortly before a loss may be lost too. The bus does not keep the object
        of a bound method alive: the calls end with it.
        """
        bound = isinstance(changed, MethodType)
        self._watchers.append(WeakMethod(changed) if bound else lambda: changed)

    def _set_up(self, is_up: bool) -> None:
        if self._is_up is not is_up:
            self._is_up = is_up
            self._watchers = [watcher for watcher in self._watchers if watcher() is not None]
            for watcher in list(self._watchers):
                changed = watcher()
                if changed is not None:
                    changed(is_up)

    @abstractmethod
    def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        """Send ``data``, at most 128 KiB and 21 bytes, to every subscriber of ``subject``.

        Never blocks, never raises, and never calls a subscriber before it returns. While the bus is
        down, ``data`` is lost.

        Args:
            subject: Where to send it.
            data: What to send; not empty.
            reply: A subject that subscribers get along with the data. If there are no subscribers,
                the bus sends an empty message to that subject instead.

        """

    @abstractmethod
    async def subscribe(self, prefix: str, arrived: Arrived) -> Unsubscribe:
        """Call ``arrived(name, data, reply)`` for each message to a subject ``prefix.name``.

        When this returns, the subscription is in effect, and it survives outages of the bus.
        ``arrived`` is called from the event loop and must not raise. To unsubscribe, call and await
        the function that this returns; after that, ``arrived`` is not called again.

        Raises:
            OSError: The bus cannot be reached.

        """
