"""Background work of a node that continues even if someone cancels its task.

Some programs cancel all tasks they find, for instance on a signal. If a session were not dialed
again because of that, it would keep its messages forever, and never report them.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .runtime import Runtime

__all__ = ["Duty"]

logger: logging.Logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.2
"""How long the work pauses after other code has cancelled its task. (It does not begin again at
once, because the event loop itself may be about to end.)"""


class Duty:
    """Does some work in a task, and in another one if that task ends before the work is done.

    Args:
        runtime: The node's runtime, which owns the tasks.
        work: Returns a coroutine that does the work, or returns at once if none is left. If the
            coroutine raises anything, it is started again.

    """

    __slots__ = ("_runtime", "_task", "_timer", "_work")

    def __init__(self, runtime: Runtime, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._runtime = runtime
        self._work = work
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._begin()

    def _begin(self) -> None:
        self._task = self._runtime.own(self._work())
        self._task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if task is not self._task:
            return
        failure = None if task.cancelled() else task.exception()
        if (failure is not None or task.cancelled()) and self._runtime.running:
            self._timer = self._runtime.loop.call_later(_PAUSE_SECONDS, self._begin)
        if failure is not None:  # last, because the failure may be a logging handler's
            logger.error("a task of the node failed; another one goes on", exc_info=failure)

    def end(self) -> None:
        """Cancel the work, unless it calls this itself: then it ends on its own."""
        task, self._task = self._task, None
        if self._timer is not None:
            self._timer.cancel()
        if task is not None and task is not asyncio.current_task():
            task.cancel()
