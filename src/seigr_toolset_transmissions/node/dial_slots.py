"""How many dials of a node run at once, and which of them come first.

Each dial takes a socket. If there is no answer, it keeps the socket until its time is over. So
thousands of endpoints with ``connect=True`` and dead addresses must neither use up the descriptors
of the process, nor delay a dial that a call is waiting for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from enum import IntEnum

__all__ = ["DialSlots", "Rank", "Turn"]

_MOST = 256
"""Dials at once: a quarter of the descriptors that most systems give a process."""

_MOST_WANTED = 64
"""How many of these may be dials that no call is waiting for."""


class Rank(IntEnum):
    """Why a peer is dialed; the lowest rank comes first."""

    ASKED = 0
    """Something waits for it: a call of ``connect``, a message, a session without a connection."""
    WANTED = 1
    """The endpoint was added with ``connect=True``."""
    AGAIN = 2
    """The same, and the last attempt has failed."""


class Turn:
    """One dial's place in the queue."""

    __slots__ = ("granted", "rank", "running")

    def __init__(self, rank: Rank = Rank.ASKED) -> None:
        self.rank: Rank = rank
        self.running: bool = False
        self.granted: asyncio.Future[None] | None = None  # once it has to wait


class DialSlots:
    """The dials that run, and those that wait for one of them to end: by rank, then by age."""

    def __init__(self) -> None:
        self._running = [0] * len(Rank)
        self._waiting: list[deque[Turn]] = [deque() for _ in Rank]

    async def begin(self, turn: Turn) -> None:
        """Wait for the turn of this dial, which then runs until `end`.

        If cancelled, it does not run, and no longer waits.
        """
        if self._has_room(turn.rank):  # then no dial is waiting that would come before it
            self._run(turn)
            return
        turn.granted = asyncio.get_running_loop().create_future()
        self._waiting[turn.rank].append(turn)
        try:
            await turn.granted
        except asyncio.CancelledError:
            if turn.granted.cancelled():
                with suppress(ValueError):  # `_grant` has come across it
                    self._waiting[turn.rank].remove(turn)
            else:  # granted in the same turn of the loop in which we were cancelled
                self.end(turn)
            raise

    def end(self, turn: Turn) -> None:
        """Note that the dial is over."""
        self._running[turn.rank] -= 1
        self._grant()

    def hurry(self, turn: Turn) -> None:
        """Note that a call waits for this dial now."""
        if turn.rank is Rank.ASKED or turn.running:
            return
        if turn.granted is None:
            turn.rank = Rank.ASKED
        elif not turn.granted.done():
            self._waiting[turn.rank].remove(turn)
            turn.rank = Rank.ASKED
            self._waiting[turn.rank].append(turn)
            self._grant()

    def _run(self, turn: Turn) -> None:
        turn.running = True
        self._running[turn.rank] += 1

    def _grant(self) -> None:
        for queue in self._waiting:
            while queue and self._has_room(queue[0].rank):
                turn = queue.popleft()
                assert turn.granted is not None  # noqa: S101  it waits
                if turn.granted.done():  # cancelled, and about to leave by itself
                    continue
                self._run(turn)
                turn.granted.set_result(None)

    def _has_room(self, rank: Rank) -> bool:
        running = sum(self._running)
        wanted = running - self._running[Rank.ASKED]
        return running < _MOST and (rank is Rank.ASKED or wanted < _MOST_WANTED)
