"""The session of a node in asyncio's debug mode, which finds calls from other threads."""

from __future__ import annotations

from .session import LiveSession

__all__ = ["CheckedSession"]


class CheckedSession(LiveSession):
    """Refuses to send if the caller is in another thread than the event loop's.

    Outside debug mode `try_send` does not check that, because the check would cost a good part of
    what sending does.
    """

    __slots__ = ()

    def try_send(self, data: bytes) -> bool:
        """Accept a message if there is room for it, as `LiveSession.try_send` says.

        Raises:
            RuntimeError: The caller is in another thread.

        """
        self._owner.check_thread()
        return super().try_send(data)
