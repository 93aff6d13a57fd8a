"""How many dials of a node run at once, and who comes first.

Each dial takes a socket, and one that nobody answers keeps it until its time is over. Thousands of
dead addresses that are to be kept connected must neither use up the descriptors of the process nor
delay a dial for which somebody waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager, suppress
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["DialSlots", "Rank", "Turn"]

_MOST = 256
"""Dials at once: a quarter of the descriptors that most systems give a process."""

_MOST_WANTED = 64
"""Of these, those for which nobody waits."""


class Rank(IntEnum):
    """Whose dial comes first."""

    ASKED = 0
    """Somebody waits for it: a call of ``connect``, a message, a session without a connection."""
    WANTED = 1
    """An endpoint is to be kept connected."""
    AGAIN = 2
    """The same, and the last attempt has failed."""


class Turn:
    """One dial's place in the queue."""

    __slots__ = ("granted", "rank")

    def __init__(self, rank: Rank = Rank.ASKED) -> None:
        self.rank = rank
        self.granted: asyncio.Future[None] | None = None  # while it waits, and from then on


class DialSlots:
    """The dials that run, and those that wait for one of them to end: by rank, then by age."""

    def __init__(self) -> None:
        self._running = [0] * len(Rank)
        self._waiting: list[deque[Turn]] = [deque() for _ in Rank]

    @asynccontextmanager
    async def slot(self, turn: Turn) -> AsyncIterator[None]:
        """Wait for the turn of this dial; the block is its run."""
        turn.granted = asyncio.get_running_loop().create_future()
        self._waiting[turn.rank].append(turn)
        self._grant()
        try:
            await turn.granted
        except asyncio.CancelledError:
            if turn.granted.cancelled():
                with suppress(ValueError):  # `_grant` has come across it
                    self._waiting[turn.rank].remove(turn)
            else:  # granted in the turn of the loop in which we were cancelled
                self._end(turn)
            raise
        try:
            yield
        finally:
            self._end(turn)

    def hurry(self, turn: Turn) -> None:
        """Note that somebody waits for this dial now."""
        if turn.rank is Rank.ASKED or turn.granted is None:
            turn.rank = Rank.ASKED
        elif not turn.granted.done():
            self._waiting[turn.rank].remove(turn)
            turn.rank = Rank.ASKED
            self._waiting[turn.rank].append(turn)
            self._grant()

    def _end(self, turn: Turn) -> None:
        self._running[turn.rank] -= 1
        self._grant()

    def _grant(self) -> None:
        for rank, queue in zip(Rank, self._waiting, strict=True):
            while queue and self._has_room(rank):
                turn = queue.popleft()
                assert turn.granted is not None  # noqa: S101  it waits
                if turn.granted.done():  # cancelled, and about to leave by itself
                    continue
                self._running[rank] += 1
                turn.granted.set_result(None)

    def _has_room(self, rank: Rank) -> bool:
        running = sum(self._running)
        wanted = running - self._running[Rank.ASKED]
        return running < _MOST and (rank is Rank.ASKED or wanted < _MOST_WANTED)
