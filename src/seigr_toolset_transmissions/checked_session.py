"""The session of a node in asyncio's debug mode, which finds calls from other threads."""

from __future__ import annotations

from .live_session import Session

__all__ = ["CheckedSession"]


class CheckedSession(Session):
    """Refuses to send for a caller in another thread than the event loop's.

    Without debug mode nobody looks, since it would cost as much as a part of the sending. What is
    not on the way of each message looks in any case.
    """

    __slots__ = ()

    def try_send(self, data: bytes) -> bool:
        """Accept a message if there is room for it, as `Session.try_send` says.

        Raises:
            RuntimeError: The caller is in another thread.

        """
        self._owner.check_thread()
        return super().try_send(data)
