"""What a session reports to its node, and needs of it; the node's registry implements it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from .answering import AnsweringOwner
from .pump import PumpOwner

if TYPE_CHECKING:
    from ..errors import STTProtocolError

__all__ = ["SessionOwner"]

S_contra = TypeVar("S_contra", contravariant=True)


class SessionOwner(PumpOwner, AnsweringOwner, Protocol[S_contra]):
    """What a session needs of its node."""

    def session_opened(self, session: S_contra) -> None:
        """Note that both sides consider the session established."""

    def session_refused(self, session: S_contra, cause: Exception | None) -> None:
        """Note that the session was never opened, or that the peer will not resume it."""

    def session_suspended(self, session: S_contra, cause: Exception | None) -> None:
        """Note that the session lost its connection."""

    def session_unused(self, session: S_contra) -> None:
        """Note that the accepted session lost its connection before its first use."""

    def broken_for(self, session: S_contra) -> float | None:
        """Return for how many seconds the session has been suspended; None if it is not."""

    def session_resumed(self, session: S_contra) -> None:
        """Note that the session goes on over a new connection."""

    def offended(self, session: S_contra, cause: STTProtocolError) -> None:
        """Note that the connection brought bytes that the peer did not write."""

    def session_closing(self, session: S_contra) -> None:
        """Note that the session accepts no more messages."""

    def session_ended(self, session: S_contra, cause: Exception | None) -> None:
        """Note that the session is over; ``cause`` is None after an acknowledged close."""

    def ensure_endpoint(self, session: S_contra) -> None:
        """Make sure that the peer is an endpoint, which the user may have removed."""

    def check_caller(self) -> None:
        """Raise RuntimeError if the caller is in another event loop, or in a forked child."""

    def check_thread(self) -> None:
        """Raise RuntimeError in a forked child, and in debug mode in another thread."""
