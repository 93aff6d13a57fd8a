"""An event loop with virtual time: hours of timeouts pass in milliseconds, the same on each run.

When nothing is ready, time jumps to the next timer. When there is no timer either, nothing can ever
happen again, and the loop raises `DeadlockError` instead of hanging. Threads of ``run_in_executor``
and ``asyncio.to_thread`` work: while one runs, time stands still and the loop waits for it.
Sockets, pipes and signals do not work: waiting for the outside world cannot be hurried.
``time.monotonic`` stays real; only ``loop.time`` and everything based on it is virtual.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Executor

__all__ = ["DeadlockError", "VirtualTimeLoop", "run_virtual"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class DeadlockError(AssertionError):
    """Nothing is ready, no timer is set and no thread runs: the loop would wait forever."""


class _Selector(selectors.DefaultSelector):
    """Passes virtual time where a selector would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.threads = 0  # that run for the loop; it hears of their end through its self-pipe

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if self.get_map():  # the first is the loop's self-pipe
            raise RuntimeError("real I/O cannot run in virtual time")
        return super().register(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if self.threads:
            return super().select(None)
        if timeout is None:
            raise DeadlockError("nothing is ready, no timer is set and no thread runs")
        self.now += timeout
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits for time to pass. Its time starts at 0.0 seconds."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._virtual.threads += 1
        future.add_done_callback(self._thread_done)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        self._virtual.threads += 1  # one more thread waits for those of the executor
        try:
            await super().shutdown_default_executor()
        finally:
            self._virtual.threads -= 1

    def _thread_done(self, _: asyncio.Future[Any]) -> None:
        self._virtual.threads -= 1


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` on a `VirtualTimeLoop` of its own and return what it returns.

    Raises:
        AssertionError: ``main`` ended but left tasks behind (the message names them), or something
            was reported to the loop's exception handler in the meantime (the ``__cause__``).
        DeadlockError: ``main`` waits for something that can never happen; the message names the
            waiting tasks.

    """
    reports: list[dict[str, Any]] = []
    left: list[str] = []
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        loop = runner.get_loop()

        def note(_: asyncio.AbstractEventLoop, report: dict[str, Any]) -> None:
            reports.append(report)
            if not isinstance(report.get("exception", Exception()), Exception):
                loop.stop()  # the test has timed out: this loop would run forever

        loop.set_exception_handler(note)

        async def supervised() -> T:
            result = await main
            left.extend(_names(loop, except_for=asyncio.current_task()))
            return result

        try:
            result = runner.run(supervised())
        except DeadlockError as error:
            error.add_note(f"waiting: {', '.join(_names(loop))}")
            raise
    if left:
        raise AssertionError(f"tasks left behind: {', '.join(left)}")
    for report in reports:
        raise AssertionError(f"reported to the loop: {report}") from report.get("exception")
    return result


def _names(
    loop: asyncio.AbstractEventLoop, *, except_for: asyncio.Task[Any] | None = None
) -> list[str]:
    tasks = asyncio.all_tasks(loop) - {except_for}
    return sorted(f"{task.get_name()} ({task.get_coro()!r})" for task in tasks)
