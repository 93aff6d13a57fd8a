"""What a publish/subscribe bus must do so that connections can be made over it (see `pipes`).

Little is asked of a bus. It may lose messages, deliver them twice or swap them: a connection over
it notices, and ends. But it must say when nobody has subscribed to a subject, and when it is out of
reach.

A subject is text: names, each of letters, digits, ``-``, ``_``, ``~`` or ``%``, with dots between.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable

__all__ = ["Arrived", "Bus", "Unsubscribe"]

Arrived = Callable[[str, bytes, str], None]
Unsubscribe = Callable[[], Awaitable[None]]


class Bus(ABC):
    """A connection to a publish/subscribe bus, used from one event loop.

    A subclass says with `_set_up` whether it reaches the bus. At first it does not.
    """

    def __init__(self) -> None:
        self._is_up = False
        self._watchers: list[Callable[[bool], None]] = []

    @property
    def is_up(self) -> bool:
        """Whether the bus can be reached, as far as is known."""
        return self._is_up

    def watch(self, changed: Callable[[bool], None]) -> None:
        """Call ``changed(is_up)`` from now on, whenever the bus is lost or back.

        What was published shortly before a loss may have been lost with it.
        """
        self._watchers.append(changed)

    def _set_up(self, is_up: bool) -> None:
        if self._is_up is not is_up:
            self._is_up = is_up
            for changed in self._watchers:
                changed(is_up)

    @abstractmethod
    def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        """Send ``data``, at most 128 KiB and 21 bytes, to every subscriber of ``subject``.

        Never blocks, never raises, and never calls a subscriber before it returns. While the bus is
        down, ``data`` is lost.

        Args:
            subject: Where to.
            data: What; not empty.
            reply: A subject that is told to the subscribers. If there are none, an empty message
                comes to that subject instead.

        """

    @abstractmethod
    async def subscribe(self, prefix: str, arrived: Arrived) -> Unsubscribe:
        """Call ``arrived(name, data, reply)`` for each message to a subject ``prefix.name``.

        When this returns, the bus knows of the subscription, and keeps it when it is down for a
        while. ``arrived`` is called from the event loop, and must not raise. It is called no more
        once the function that this returns was called and awaited.

        Raises:
            OSError: The bus cannot be reached.

        """
