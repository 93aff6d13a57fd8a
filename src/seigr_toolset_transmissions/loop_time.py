"""The event loop's time, shared out among those of a node that have much to do.

Handing messages to handlers and reading what arrives can each keep a loop busy for as long as its
peers like, and there may be thousands of sessions. So whoever works through more than a little asks
first how long it may go on. What all of them may use in one turn of the loop is bounded, whatever
their number: timers, new connections and sessions that have little to do come to their turn within
some milliseconds. Those that get no more time in a turn queue for the next ones, in order.
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
"""What all that do not queue may use at a time, and those that do as much again. (One turn of the
loop may see the end of such a time and a second one.) A turn costs some 0.05 ms of its own: a loop
that is busy all the time loses one part in a hundred."""

SHARE_SECONDS = 0.001
"""What one gets at a time while others queue: enough for some hundred short messages."""

_AT_A_TIME = int(TURN_SECONDS / SHARE_SECONDS)


class LoopTime:
    """Says who may work, and how long, in this turn of an event loop."""

    __slots__ = ("_called", "_clock", "_end", "_loop", "_queue")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._clock = loop.time
        self._end = float("-inf")  # of what those that do not queue may use
        self._called = False  # whether the loop calls `_next` in its next turn
        self._queue: deque[Callable[[], None]] = deque()

    def until(self) -> float | None:
        """Return until when the caller may work now; None if all time of this turn is used.

        Costs one look at the clock: to hear of each turn's end would cost more than most messages.
        """
        now = self._clock()
        if now >= self._end:
            if self._called:
                return None
            self._begin(now)
        return min(self._end, now + SHARE_SECONDS) if self._queue else self._end

    @property
    def share(self) -> float:
        """Until when one that has queued may work, from now on."""
        return self._clock() + SHARE_SECONDS

    @property
    def wanted(self) -> bool:
        """Whether anybody queues: then who has used its time queues behind them."""
        return bool(self._queue)

    def queue(self, go_on: Callable[[], None]) -> None:
        """Call ``go_on`` in a later turn of the loop, when those that queue already had theirs."""
        self._queue.append(go_on)
        if not self._called:
            self._begin(self._clock())

    async def wait(self) -> float:
        """Queue; return until when the caller may work then."""
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
