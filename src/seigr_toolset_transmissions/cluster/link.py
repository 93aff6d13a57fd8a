"""One link: the session with another hub, and what waits to go over it.

What this hub says of its own accord (routes, confirmations) is never refused: it waits in a backlog
while the session's window is full. Everything after it waits behind it, so messages arrive in the
order of the calls. A hub that stops reading makes the backlog grow, until the link is cut off.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from ..errors import STTSessionClosedError
from ..sessions.public import SessionState

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from ..node.duty import Duty
    from ..sessions.session import LiveSession
    from ..transports.base import Address

__all__ = ["Link"]

_MOST_BACKLOG = 32 * 1024 * 1024


class Link:
    """The link to one other hub, for one session with it.

    Args:
        session: The session.
        keep: Does some work in a task of the node, whoever cancels that.

    Attributes:
        name: The hub's name; "" until the hub has said who it is.
        incarnation: That of its node.
        address: Where it listens for links.
        place: Where it takes the sockets of connections; empty if it cannot.
        wants_ids: Whether the hub wants to know the whole ids of endpoints that join this one.

    """

    __slots__ = (
        "_backlog",
        "_backlog_bytes",
        "_draining",
        "_keep",
        "address",
        "incarnation",
        "name",
        "place",
        "session",
        "wants_ids",
    )

    def __init__(
        self,
        session: LiveSession,
        keep: Callable[[Callable[[], Coroutine[Any, Any, None]]], Duty],
    ) -> None:
        self.session: LiveSession = session
        self.name: str = ""
        self.incarnation: bytes = b""
        self.address: Address = ("", 0)
        self.place: bytes = b""
        self.wants_ids: bool = False
        self._keep = keep
        self._backlog: deque[bytes] = deque()
        self._backlog_bytes = 0
        self._draining: asyncio.Future[None] | None = None  # while there is a backlog

    @property
    def is_up(self) -> bool:
        """Whether the link has a connection; what is sent without one waits."""
        return self.session.state is SessionState.OPEN

    def post(self, message: bytes) -> None:
        """Send a message, whatever the backlog. It is lost only with the link. Never raises."""
        if self._draining is None:
            try:
                if self.session.try_send(message):
                    return
            except STTSessionClosedError:
                return
            self._draining = asyncio.get_running_loop().create_future()
            self._keep(self._drain)
        self._backlog.append(message)
        self._backlog_bytes += len(message)
        if self._backlog_bytes > _MOST_BACKLOG:  # later, because the session may be calling
            loop = asyncio.get_running_loop()
            loop.call_soon(self.session.abort, "the hub has stopped reading")

    async def _drain(self) -> None:
        try:
            while self._backlog:
                await self.session.send(self._backlog[0])  # if cancelled, it stays the first
                self._backlog_bytes -= len(self._backlog.popleft())
        except STTSessionClosedError:
            self._backlog.clear()
            self._backlog_bytes = 0
        if self._draining is not None:
            self._draining.set_result(None)
            self._draining = None

    def try_send(self, message: bytes) -> bool:
        """Send a message if there is room for it; return whether it was sent.

        Raises:
            STTSessionClosedError: The link is lost.

        """
        return self._draining is None and self.session.try_send(message)

    async def send(self, message: bytes) -> None:
        """Wait for room and send a message. If cancelled, it is not sent.

        Raises:
            STTSessionClosedError: The link is lost.

        """
        while self._draining is not None:
            await asyncio.wait((self._draining,))
        await self.session.send(message)

    def not_sent(self) -> tuple[bytes, ...]:
        """Return the messages that have certainly not reached the hub."""
        return (self.session.error or self.session.machine.outbox.undelivered()).unsent
