"""Holding a session back: whoever holds it sends first, and everybody else waits behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import STTSessionClosedError

if TYPE_CHECKING:
    import asyncio
    from collections import deque
    from collections.abc import Callable

    from ..protocol.outbox import Outbox

__all__ = ["Hold"]


class Hold:
    """Keeps a session from accepting anything but what is sent here, until `end`.

    What waits for room already goes before it.

    Args:
        outbox: The session's.
        flush_soon: Has it send what is due.
        turns: The turns of those that wait to send.
        turn: The one that this takes, behind those.

    """

    def __init__(
        self,
        outbox: Outbox,
        flush_soon: Callable[[], None],
        turns: deque[asyncio.Future[None]],
        turn: asyncio.Future[None],
    ) -> None:
        self._outbox = outbox
        self._flush_soon = flush_soon
        self._turns = turns
        self._turn = turn
        turns.append(turn)

    def try_send(self, data: bytes) -> bool:
        """Accept a message if there is room for it at once; return whether it was accepted.

        Raises:
            STTMessageSizeError: It is longer than the peer allows.

        """
        if not self._turns or self._turns[0] is not self._turn:
            return False
        try:
            accepted = self._outbox.send(data) > 0
        except STTSessionClosedError:
            return False
        self._flush_soon()
        return accepted

    def end(self) -> None:
        """Let everything go on. May be called again."""
        if self._turn in self._turns:
            self._turns.remove(self._turn)
            if self._turns and not self._turns[0].done():
                self._turns[0].set_result(None)
