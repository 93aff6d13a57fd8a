"""Shares the event loop's time fairly among a node's busy sessions.

Handing messages to handlers and reading what arrives can each keep a loop busy for as long as its
peers like, and there may be thousands of sessions. So code that has more than a little to do first
asks how long it may run. The time that all sessions together may use in one turn of the loop is
bounded, however many there are: timers, new connections and sessions with little to do get their
turn within a few milliseconds. A session that gets no more time in a turn queues for later ones.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["LoopTime"]

TURN_SECONDS = 0.004
"""The time that all callers that do not queue may use at once; those that queue may use as much
again. (Within one turn of the loop, one such period may end and another begin.) A turn itself costs
about 0.05 ms: a loop that is always busy loses one part in a hundred."""

SHARE_SECONDS = 0.001
"""The time that a caller gets while others queue: enough for a few hundred short messages."""

_AT_A_TIME = int(TURN_SECONDS / SHARE_SECONDS)


class LoopTime:
    """Decides how long each caller may work in this turn of an event loop."""

    __slots__ = ("_called", "_clock", "_end", "_loop", "_queue")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._clock = loop.time
        self._end = float("-inf")  # when the time of callers that do not queue is used up
        self._called = False  # whether the loop calls `_next` in its next turn
        self._queue: deque[Callable[[], None]] = deque()

    def until(self) -> float | None:
        """Return until when the caller may work now; None if this turn's time is used up.

        Costs one look at the clock. Being told of each turn's end would cost more than most
        messages do.
        """
        now = self._clock()
        if now >= self._end:
            if self._called:
                return None
            self._begin(now)
        return min(self._end, now + SHARE_SECONDS) if self._queue else self._end

    @property
    def share(self) -> float:
        """Until when a caller that has queued may work, starting now."""
        return self._clock() + SHARE_SECONDS

    @property
    def wanted(self) -> bool:
        """Whether any caller queues: one that has used its time must then queue behind it."""
        return bool(self._queue)

    def queue(self, go_on: Callable[[], None]) -> None:
        """Call ``go_on`` in a later turn of the loop, after all that queue already."""
        self._queue.append(go_on)
        if not self._called:
            self._begin(self._clock())

    async def wait(self) -> float:
        """Queue for a turn; return until when the caller may work in it."""
        future = self._loop.create_future()
        self.queue(partial(_wake, future))
        await future
        return self.share

    def _begin(self, now: float) -> None:
        self._end = now + TURN_SECONDS
        self._called = True
        self._loop.call_soon(self._next)

    def _next(self) -> None:
        self._called = False
        if self._queue:
            for _ in range(min(len(self._queue), _AT_A_TIME)):
                self._queue.popleft()()
            self._begin(self._clock())


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
