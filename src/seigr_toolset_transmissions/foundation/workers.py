"""Threads for blocking calls: looking names up, deriving keys.

asyncio's default executor will not do: the application's blocking calls and ours would wait for
each other there. And the interpreter does not wait for these threads when it exits, as it does for
those of a `ThreadPoolExecutor`: a look-up may hang for a minute.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial
from threading import Lock, Thread, current_thread
from time import monotonic
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from .forks import in_child

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LATE_SECONDS", "Workers"]

P = ParamSpec("P")
T = TypeVar("T")

LATE_SECONDS = 1.0
"""A call that has run for longer does not keep others waiting, if more threads are allowed."""


class Workers(Executor):
    """Runs calls in its own threads, first come, first served.

    A thread lives as long as there are calls to run. A module creates one of these, once.

    Args:
        name: The name of the threads, for debuggers.
        threads: How many calls may run at once.
        most: How many threads there may be if some calls are late (`LATE_SECONDS`) and block the
            others; ``threads`` if None.

    """

    def __init__(self, name: str, threads: int, most: int | None = None) -> None:
        self._name = name
        self._threads = threads
        self._most = threads if most is None else most
        self._begin_process()
        in_child(self._begin_process)

    def _begin_process(self) -> None:
        # A forked child has none of its parent's threads.
        self._lock = Lock()
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._busy_since: dict[Thread, float] = {}

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a call in a thread; return its future. Part of the executor interface."""
        future: Future[T] = Future()
        with self._lock:
            self._calls.append((future, partial(fn, *args, **kwargs)))
        self._start_thread_if_due()
        return future

    async def run(self, call: Callable[[], T], late: Callable[[], object] = lambda: None) -> T:
        """Run a call in a thread and wait for it.

        If cancelled, a call that has not begun is dropped; one that has begun goes on, and its
        outcome is ignored. ``late`` is called, again and again, once the call has been running for
        `LATE_SECONDS`.
        """
        began: list[float] = []

        def timed() -> T:
            began.append(monotonic())
            return call()

        future = asyncio.get_running_loop().run_in_executor(self, timed)
        try:
            while not (await asyncio.wait((future,), timeout=LATE_SECONDS))[0]:
                self._start_thread_if_due()
                if began and monotonic() - began[0] >= LATE_SECONDS:
                    late()
            return future.result()
        finally:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                future.cancel()

    def _start_thread_if_due(self) -> None:
        with self._lock:
            late = monotonic() - LATE_SECONDS
            busy = sum(since > late for since in self._busy_since.values())
            if not self._calls or busy >= self._threads or len(self._busy_since) >= self._most:
                return
            thread = Thread(target=self._work, name=self._name, daemon=True)
            self._busy_since[thread] = monotonic()
            try:
                thread.start()
            except RuntimeError:  # the system has no thread left
                del self._busy_since[thread]
                if not self._busy_since:
                    self._calls.pop()
                    raise

    def _work(self) -> None:
        thread = current_thread()
        while True:
            with self._lock:
                if not self._calls:
                    del self._busy_since[thread]
                    return
                future, call = self._calls.popleft()
                self._busy_since[thread] = monotonic()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:  # noqa: BLE001 - the waiting caller gets it
                    future.set_exception(error)
            del future, call
