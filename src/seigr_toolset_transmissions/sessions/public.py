"""A session as the application sees it; `session.LiveSession` implements it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..errors import STTSessionLostError
    from ..stats import SessionStats
    from ..transports.base import Address

__all__ = ["Session", "SessionState"]


class SessionState(StrEnum):
    """What a session can do now."""

    OPEN = "open"
    SUSPENDED = "suspended"
    """Without a connection: messages are accepted into the window and wait."""
    CLOSING = "closing"
    """Accepts no more messages; those already accepted are being delivered."""
    CLOSED = "closed"


class Session(ABC):
    """An ordered, lossless stream of messages with one peer. Made by `STTNode`.

    In a forked child, every method that sends or waits raises RuntimeError. In an event loop other
    than the node's, every method that waits does.

    Attributes:
        peer_node_id: The peer's authenticated identity, 32 bytes.
        peer_incarnation: 16 random bytes that the peer drew when it started; another value means
            that it was restarted.
        address: Where the peer is, or was last: host and port.
        dial_address: Host and port if this side dialed, and dials again when needed; else None.
        error: Why the session ended if messages may have been lost with it, else None.

    """

    __slots__ = ()

    peer_node_id: bytes
    peer_incarnation: bytes
    address: Address
    dial_address: Address | None
    error: STTSessionLostError | None

    @property
    @abstractmethod
    def session_id(self) -> bytes:
        """16 bytes, the same on both sides."""

    @property
    @abstractmethod
    def state(self) -> SessionState:
        """What the session can do now."""

    @property
    @abstractmethod
    def rtt(self) -> float | None:
        """Smoothed round-trip time in seconds; None until it has been measured."""

    @property
    @abstractmethod
    def min_rtt(self) -> float | None:
        """Shortest round-trip time in seconds; None until it has been measured."""

    @property
    @abstractmethod
    def stats(self) -> SessionStats:
        """Totals since the session began."""

    @abstractmethod
    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Accept a message for delivery; wait while the send window is full.

        Messages from several tasks are accepted in the order of the calls. If cancelled, the
        message was not accepted. Raises what `send_nowait` does, except STTWindowFullError.
        """

    @abstractmethod
    def send_nowait(self, data: bytes | bytearray | memoryview) -> None:
        """Accept a message for delivery, without waiting.

        An accepted message is delivered exactly once and in order as long as both processes live,
        across broken connections; otherwise ``error`` (``session_lost``) reports it.

        Raises:
            STTWindowFullError: There is no room in the send window; nothing was accepted.
            STTSessionLostError: The session was lost; a `STTSessionClosedError` that says how.
            STTSessionClosedError: The session accepts no more messages.
            STTMessageSizeError: The message is too long.
            TypeError: ``data`` is not bytes-like.

        """

    @abstractmethod
    async def request(
        self, data: bytes | bytearray | memoryview, *, timeout: float | None = None
    ) -> bytes:
        """Send a request and return the peer's reply.

        It reaches the peer's handler (see `STTNode.on_request`) at most once. Any number of
        requests may run at the same time; they are handed to the handler in the order of their
        calls. If cancelled, the peer is told, and its handler is cancelled too.

        Args:
            data: The request, up to 8 bytes shorter than the longest message.
            timeout: How many seconds to wait for the reply; None: until the session ends; below 0:
                the time is over, and nothing is sent.

        Raises:
            STTRequestError: There is no good reply; ``handled`` says whether the peer's handler
                was called. It is a `STTRequestTimeoutError`, `STTRequestRefusedError`,
                `STTRequestFailedError` or `STTRequestLostError`.
            STTMessageSizeError: The request is too long; nothing was sent.
            TypeError: ``data`` is not bytes-like, or ``timeout`` not a number.
            ValueError: ``timeout`` is NaN.

        """

    @abstractmethod
    async def flush(self) -> None:
        """Wait until the peer has acknowledged every message accepted so far.

        Raises:
            STTSessionLostError: The session ended first; the error holds the uncertain messages.
            STTSessionClosedError: The session ended first.

        """

    @abstractmethod
    def ping(self) -> None:
        """Ask the peer for a sign of life, which measures the round trip. Needs a connection."""

    @abstractmethod
    async def close(self) -> None:
        """Accept no more messages, deliver those accepted, and end the session on both sides.

        Takes at most ``close_timeout``. You may call it again, and from a handler. If cancelled,
        the session keeps closing. Requests that have no reply yet are cancelled, whichever side
        sent them.

        Raises:
            STTSessionLostError: Messages could not be delivered in that time; the error holds
                them. The session has ended nevertheless.

        """

    @abstractmethod
    async def wait_closed(self) -> None:
        """Wait until the session has ended in any way; `error` then says how."""

    @abstractmethod
    def abort(self, reason: str = "aborted by this side") -> None:
        """End the session at once, delivering nothing more. Does nothing if it has ended.

        If there is a connection, the peer is informed: its session is lost at once, and it knows
        that messages may be missing. Without one, the peer finds out when the two connect again, or
        after its ``resume_window``. Undelivered messages are reported as for any lost session.
        """
