"""Holding a session back: whoever holds it sends first, and other messages wait behind.

Replies do not wait: their order among messages means nothing, and somebody waits for them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..errors import STTSessionClosedError

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from ..protocol.outbox import Outbox

__all__ = ["Hold", "HoldTurn", "line_up"]


class HoldTurn(asyncio.Future[None]):
    """The turn of a hold."""


def line_up(
    turns: deque[asyncio.Future[None]], turn: asyncio.Future[None], *, past_holds: bool
) -> None:
    """Add a turn at the end, or before all holds."""
    end = len(turns)
    holds = (at for at, each in enumerate(turns) if isinstance(each, HoldTurn))
    turns.insert(next(holds, end) if past_holds else end, turn)


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
        turn: HoldTurn,
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
