"""`Emission`: one emit to several."""

from __future__ import annotations

import asyncio
import sys
import types
from asyncio import CancelledError, current_task
from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from .delivery import Delivery, announced
from .handlers import Handler, log_failure
from .scopes import Scope, is_cancellation, mark_task
from .watching import Occurrence, Room, Watcher

if TYPE_CHECKING:
    from .registrations import Registration

__all__ = ["Emission"]

_UNSET: Any = object()
_ENDED = object()
_CONTEXT_CHANGED = object()

Report = Callable[[str, Handler, BaseException], Coroutine[Any, Any, None]]


class Emission:
    """One emit to several: make it, `run` it, and ask for its `results`.

    Watchers are told first. As long as no handler has to wait, they run one after the other in the
    caller's task: a task of its own costs more than most handlers. The first that waits keeps the
    caller's, as a single handler would; those after it get one each.

    Args:
        name: The event; a `Delivery` is told what becomes of it.
        args: What handlers are called with.
        kwargs: The same; watchers and `on_any` get copies.
        watchers: What never waits.
        any_handlers: What `on_any` has registered, called with name, args and kwargs.
        handlers: The event's handlers.
        end: Ends a handler's registration.
        report: Emits the event ``error`` about a handler's failure.

    """

    __slots__ = (
        "_any",
        "_args",
        "_base",
        "_calls",
        "_cancelled",
        "_cancels",
        "_context",
        "_delivery",
        "_end",
        "_fatal",
        "_given_up",
        "_handled",
        "_interrupted",
        "_kwargs",
        "_name",
        "_outcomes",
        "_own_cancels",
        "_owner",
        "_report",
        "_rooms",
        "_scheduled",
        "_scope",
        "_tasks",
        "_waits",
        "_watchers",
    )

    def __init__(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        watchers: Sequence[Registration[Watcher]],
        any_handlers: Sequence[Registration[Handler]],
        handlers: Sequence[Registration[Handler]],
        end: Callable[[Registration[Handler]], None],
        report: Report,
    ) -> None:
        self._name = str(name)
        self._delivery = name if isinstance(name, Delivery) else None
        self._args = args
        self._kwargs = kwargs
        self._watchers = watchers
        self._calls = [*any_handlers, *handlers]
        self._any = len(any_handlers)  # so many of the calls are theirs
        self._end = end
        self._report = report
        self._outcomes = [_UNSET] * len(self._calls)  # `_UNSET` for a call that was not made
        self._rooms: list[Room] = []
        self._tasks: list[tuple[int | None, asyncio.Task[None]]] = []  # and which call each makes
        self._scheduled: set[int] = set()  # calls that are due in a task which has not begun
        self._owner = current_task()
        self._cancels = 0 if self._owner is None else self._owner.cancelling()
        self._own_cancels = 0  # of cancellations since then, those that its handler brought about
        self._cancelled = False  # whether there were others
        self._handled = sys.exception()
        self._waits = False  # whether a handler waits in the caller's task
        self._given_up = False
        self._fatal: BaseException | None = None  # why, unless the caller's task was cancelled
        self._interrupted = False  # whether we have cancelled the caller's task therefore
        self._base = copy_context()  # what each handler finds
        if announced.get() is not None:
            self._base.run(announced.set, None)
        self._scope = Scope(is_error=name == "error")
        self._base.run(self._scope.enter)
        self._context = self._base.copy()  # in which those run that do not wait

    async def run(self) -> None:
        """Tell the watchers, make the calls and wait for their ends.

        What it raises is as of `EventEmitter.emit`.
        """
        try:
            self._tell_watchers()
            await self._start()
            await self._wait_for_others()
        except GeneratorExit:
            # The emit is closed: nothing can be awaited any more, and its loop may be closed, too.
            with suppress(RuntimeError):
                self._cancel()
            self._outcomes = []
            raise
        except BaseException:
            await self._cancel_and_wait()
            self._outcomes = []
            if self._fatal is None:
                raise
            if self._interrupted and self._owner is not None:
                self._owner.uncancel()
        finally:
            fatal = self._clean_up()
        try:
            if fatal is not None:
                raise fatal
        finally:
            del fatal  # its traceback leads here: no cycle of references

    def results(self) -> list[Any]:
        """Hand over the handlers' results, when `run` has ended.

        They are kept nowhere else: a failure's traceback leads to all that runs in the emit.
        """
        outcomes, self._outcomes = self._outcomes[self._any :], []
        return [outcome for outcome in outcomes if outcome is not _UNSET]

    def _tell_watchers(self) -> None:
        for registration in self._watchers:
            if registration.active:
                occurrence = Occurrence(self._name, self._args, self._kwargs.copy())
                if (room := registration.handler.see(occurrence)) is not None:
                    self._rooms.append(room)

    @types.coroutine
    def _start(self) -> Generator[Any, Any, None]:
        """Make the calls until one waits; then await that one, while others make the rest."""
        due = enumerate(self._calls)
        steps = self._make(due).__await__()
        awaited = self._context.run(next, steps, _ENDED)
        while awaited is _CONTEXT_CHANGED:
            self._context = self._base.copy()
            awaited = self._context.run(next, steps, _ENDED)
        if awaited is _ENDED:
            return
        self._waits = True
        self._leave_to_tasks(due)
        with suppress(StopIteration):
            while True:
                if getattr(awaited, "_asyncio_future_blocking", None):
                    awaited = _Observed(awaited, self._note_cancellation)
                self._own_cancels = min(self._own_cancels, self._count_cancels())
                try:
                    answer = yield awaited
                except BaseException as exc:  # noqa: BLE001 - passed on
                    thrown = exc
                else:
                    awaited = self._context.run(steps.send, answer)
                    continue
                try:  # no longer within the except block: it is not what the handler is handling
                    awaited = self._context.run(steps.throw, thrown)
                finally:
                    del thrown
        self._waits = False
        if self._fatal is not None or self._is_cancelled():
            raise CancelledError  # the handler has swallowed it
        self._take_back()

    async def _make(
        self, due: Iterable[tuple[int, Registration[Handler]]], *, alone: bool = False
    ) -> None:
        """Make calls, one after the other: `alone` in a task of their own, or in the caller's."""
        delivery = self._delivery
        for index, registration in due:
            if index < self._any and not self._is_its_turn(index, registration, alone=alone):
                self._leave_to_tasks([(index, registration)])
                self._leave_to_tasks(due)
                return
            if not registration.active:
                continue
            if delivery is not None and index >= self._any:
                if delivery.watch_only:
                    continue
                delivery.handler = registration.handler
            if registration.once:
                self._end(registration)
            try:
                self._outcomes[index] = await (
                    registration.handler(*self._args, **self._kwargs)
                    if index >= self._any
                    else registration.handler(self._name, self._args, self._kwargs.copy())
                )
            except GeneratorExit:
                raise
            except (KeyboardInterrupt, SystemExit) as exc:
                if not alone:
                    raise
                self._abort(exc)
            except BaseException as exc:
                if self._is_cancellation(exc, alone=alone):
                    if isinstance(exc, CancelledError):
                        raise
                    log_failure(self._name, registration.handler, exc)
                    raise CancelledError from None
                self._fail(index, exc)
            if not (alone or self._waits) and self._context != self._base:
                await _change_context()

    def _is_its_turn(self, index: int, registration: Registration[Handler], *, alone: bool) -> bool:
        """Tell whether a handler of `on_any` may be called now: not before it is for older emits.

        Tasks begin in the order in which they were made.
        """
        if not alone:
            return not registration.due
        self._scheduled.discard(index)
        registration.due -= 1
        return True

    def _leave_to_tasks(self, due: Iterable[tuple[int, Registration[Handler]]]) -> None:
        """Make calls in a task each."""
        for index, registration in due:
            if index < self._any:
                self._scheduled.add(index)
                registration.due += 1
            self._start_task(index, self._make([(index, registration)], alone=True))

    def _start_task(self, index: int | None, coroutine: Coroutine[Any, Any, None]) -> None:
        # Not create_task: an eager one would run within the handler that waits.
        loop = asyncio.get_running_loop()
        context = self._base.copy()
        task = asyncio.Task(coroutine, loop=loop, context=context)
        mark_task(task, context)
        self._tasks.append((index, task))

    async def _wait_for_others(self) -> None:
        for index, task in self._tasks:  # mostly all end in one turn, whence not together
            if not task.done():
                await asyncio.wait((task,))
            if self._fatal is not None or index is None:
                continue
            if self._outcomes[index] is _UNSET and task.cancelled():
                self._fail(index, CancelledError())  # by others
        if self._fatal is None:
            for room in self._rooms:
                await room.wait()

    def _is_cancellation(self, exc: BaseException, *, alone: bool) -> bool:
        """Tell whether a handler has ended so because the emit is cancelled."""
        if alone:
            return isinstance(exc, CancelledError) and (self._given_up or self._is_cancelled())
        return self._waits and self._is_cancelled() and is_cancellation(exc, self._handled)

    def _note_cancellation(self) -> None:
        """Take note that the caller's task is being cancelled, while a handler waits in it.

        Time-outs cancel the task in which they were begun, and those of some libraries never take
        that back.
        """
        if self._fatal is None and self._scope.is_here():
            self._own_cancels += 1
        else:
            self._cancelled = True

    def _count_cancels(self) -> int:
        """Return how often the caller's task was cancelled since, and that not taken back."""
        return 0 if self._owner is None else self._owner.cancelling() - self._cancels

    def _is_cancelled(self) -> bool:
        """Tell whether anything but its own handler has cancelled the caller's task."""
        return self._cancelled or self._count_cancels() > self._own_cancels

    def _take_back(self) -> None:
        """Undo what a handler that has ended did to the caller's task."""
        while self._owner is not None and self._count_cancels() > 0:
            self._owner.uncancel()
        self._own_cancels = 0

    def _fail(self, index: int, exc: BaseException) -> None:
        """Note and report a handler's failure."""
        self._outcomes[index] = exc
        handler = self._calls[index].handler
        log_failure(self._name, handler, exc)
        if not (self._given_up or self._scope.is_below_error()):
            self._start_task(None, self._tell(handler, exc))

    async def _tell(self, handler: Handler, failure: BaseException) -> None:
        try:
            await self._report(self._name, handler, failure)
        except (KeyboardInterrupt, SystemExit) as exc:
            self._abort(exc)

    def _abort(self, exc: BaseException) -> None:
        """Cancel everything because of what was raised in another task, for the emit to raise it.

        That task must not raise it, or the loop would.
        """
        if self._fatal is not None:
            return
        self._fatal = exc
        self._cancel()
        if self._waits and self._owner is not None:
            self._interrupted = self._owner.cancel()

    def _cancel(self) -> None:
        """Cancel what runs, but for the present task."""
        self._given_up = True
        own = current_task()
        for _, task in self._tasks:
            if task is not own:
                task.cancel()

    async def _cancel_and_wait(self) -> None:
        """Cancel what runs and wait for its end; a cancellation meanwhile only repeats that."""
        self._given_up = True
        while pending := [task for _, task in self._tasks if not task.done()]:
            for task in pending:
                task.cancel()
            with suppress(CancelledError):  # what the emit is to raise, it raises after this
                await asyncio.wait(pending)

    def _clean_up(self) -> BaseException | None:
        """Let go of all, lest tracebacks that lead here make cycles; return the fatal exception."""
        self._scope.end()
        for room in self._rooms:
            room.leave()
        for index in self._scheduled:
            self._calls[index].due -= 1
        fatal, self._fatal, self._handled, self._owner = self._fatal, None, None, None
        self._tasks = []
        return fatal


@types.coroutine
def _change_context() -> Generator[Any, Any, None]:
    """Go on in another context; only for what `Emission` runs in the caller's task."""
    yield _CONTEXT_CHANGED


class _Observed:
    """What a task waits for; tells, by a call in the context of whatever cancels it, when it is."""

    __slots__ = ("_asyncio_future_blocking", "_cancelled", "_fut_waiter")

    def __init__(self, awaited: Any, cancelled: Callable[[], None]) -> None:
        # The protocol of tasks with what they await: the awaited one is marked, and unmarked by
        # the task that begins to wait for it.
        self._asyncio_future_blocking = True
        awaited._asyncio_future_blocking = False  # noqa: SLF001
        self._fut_waiter = awaited  # a task's name for it, by which a stopping node finds it
        self._cancelled = cancelled

    def get_loop(self) -> asyncio.AbstractEventLoop:
        loop: asyncio.AbstractEventLoop = self._fut_waiter.get_loop()
        return loop

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Context) -> None:
        self._fut_waiter.add_done_callback(callback, context=context)

    def cancel(self, msg: object = None) -> bool:
        self._cancelled()
        cancelled: bool = self._fut_waiter.cancel(msg=msg)
        return cancelled
