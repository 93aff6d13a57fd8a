"""`Emission`: one emit to several handlers or watchers."""

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
    from ..foundation.repeats import Repeats
    from .registrations import Registration

__all__ = ["Emission"]

_UNSET: Any = object()
_ENDED = object()
_CONTEXT_CHANGED = object()

Report = Callable[[str, Handler, BaseException], Coroutine[Any, Any, None]]


class Emission:
    """One emit to several handlers or watchers: create it and `run` it.

    Watchers come first. As long as no handler has to wait, handlers run one after the other in the
    caller's task, because a task of its own costs more than most handlers do. The first that waits
    keeps the caller's task, as a single handler would; each one after it gets its own.

    Args:
        name: The event; a `Delivery` records what becomes of it.
        args: What handlers are called with.
        kwargs: The same; watchers and `on_any` get copies.
        watchers: They never wait. Here and below, some may have ended and are marked so.
        any_handlers: What `on_any` has registered, called with name, args and kwargs.
        handlers: The event's handlers.
        end: Ends a handler's registration.
        failures: Where handlers' failures are logged.
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
        "_failures",
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
        end: Callable[[str, Registration[Handler]], None],
        failures: Repeats,
        report: Report,
    ) -> None:
        self._name = str(name)
        self._delivery = name if isinstance(name, Delivery) else None
        self._args = args
        self._kwargs = kwargs
        self._watchers = tuple(watchers)
        self._calls = [*any_handlers, *handlers]
        self._any = len(any_handlers)  # how many of the first calls are theirs
        self._end = end
        self._failures = failures
        self._report = report
        self._outcomes = [_UNSET] * len(self._calls)  # `_UNSET` for a call that was not made
        self._rooms: list[Room] = []
        self._tasks: list[tuple[int | None, asyncio.Task[None]]] = []  # and which call each makes
        self._scheduled: set[int] = set()  # calls whose task has not begun
        self._owner = current_task()
        self._cancels = 0 if self._owner is None else self._owner.cancelling()
        self._own_cancels = 0  # how many cancellations since then its own handler caused
        self._cancelled = False  # whether there were others
        self._handled = sys.exception()
        self._waits = False  # whether a handler waits in the caller's task
        self._given_up = False
        self._fatal: BaseException | None = None  # why, unless the caller's task was cancelled
        self._interrupted = False  # whether we cancelled the caller's task because of that
        self._base = copy_context()  # what each handler starts with
        if announced.get() is not None:
            self._base.run(announced.set, None)
        self._scope = Scope(is_error=name == "error")
        self._base.run(self._scope.enter)
        self._context = self._base.copy()  # shared by handlers that do not wait or change it

    async def run(self) -> list[Any]:
        """Inform the watchers, make the calls and wait until all have ended.

        Returns and raises what `EventEmitter.emit` does.
        """
        try:
            if self._watchers:
                self._tell_watchers()
            if self._calls:
                await self._start()
            if self._tasks or self._rooms:
                await self._wait_for_others()
        except GeneratorExit:
            # The coroutine is being closed: nothing can be awaited, and its loop may be closed too.
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
        return self._results()

    def _results(self) -> list[Any]:
        """Hand over the handlers' results.

        Nothing else keeps them: a failure's traceback leads to everything that runs in the emit.
        """
        outcomes, self._outcomes = self._outcomes, []
        if self._any:
            del outcomes[: self._any]
        return [outcome for outcome in outcomes if outcome is not _UNSET]

    def _tell_watchers(self) -> None:
        for registration in self._watchers:
            if registration.active:
                occurrence = Occurrence(self._name, self._args, self._kwargs.copy())
                if (room := registration.handler.see(occurrence)) is not None:
                    self._rooms.append(room)

    @types.coroutine
    def _start(self) -> Generator[Any, Any, None]:
        """Make the calls until one waits; then await that one, while tasks make the others."""
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
                try:  # not in the except block: the handler must not see it as being handled
                    awaited = self._context.run(steps.throw, thrown)
                finally:
                    del thrown
        self._waits = False
        if self._fatal is not None or self._is_cancelled():
            raise CancelledError  # which the handler has swallowed
        self._take_back()

    async def _make(
        self, due: Iterable[tuple[int, Registration[Handler]]], *, alone: bool = False
    ) -> None:
        """Make calls one after the other: in a task of their own if `alone`, or in the caller's."""
        delivery, args, kwargs, any_handlers = self._delivery, self._args, self._kwargs, self._any
        base = self._base
        for index, registration in due:
            if index < any_handlers and not self._is_its_turn(index, registration, alone=alone):
                self._leave_to_tasks([(index, registration)])
                self._leave_to_tasks(due)
                return
            if not registration.active:
                continue
            if delivery is not None and index >= any_handlers:
                if delivery.watch_only:
                    continue
                delivery.handler = registration.handler
            if registration.once:
                self._end(self._name, registration)
            try:
                self._outcomes[index] = await (
                    registration.handler(*args, **kwargs)
                    if index >= any_handlers
                    else registration.handler(self._name, args, kwargs.copy())
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
                    log_failure(self._failures, self._name, registration.handler, exc)
                    raise CancelledError from None
                self._fail(index, exc)
            if self._context != base and not (alone or self._waits):
                await _change_context()

    def _is_its_turn(self, index: int, registration: Registration[Handler], *, alone: bool) -> bool:
        """Return whether an `on_any` handler may be called now: older emits call it first.

        Tasks begin in the order in which they were created.
        """
        if not alone:
            return not registration.due
        self._scheduled.discard(index)
        registration.due -= 1
        return True

    def _leave_to_tasks(self, due: Iterable[tuple[int, Registration[Handler]]]) -> None:
        """Make each call in a task of its own."""
        for index, registration in due:
            if index < self._any:
                self._scheduled.add(index)
                registration.due += 1
            self._start_task(index, self._make([(index, registration)], alone=True))

    def _start_task(self, index: int | None, coroutine: Coroutine[Any, Any, None]) -> None:
        # Not create_task: an eager task would run inside the handler that waits.
        loop = asyncio.get_running_loop()
        context = self._base.copy()
        task = asyncio.Task(coroutine, loop=loop, context=context)
        mark_task(task, context)
        self._tasks.append((index, task))

    async def _wait_for_others(self) -> None:
        for index, task in self._tasks:  # one by one: usually all have ended in the same turn
            if not task.done():
                await asyncio.wait((task,))
            if self._fatal is not None or index is None:
                continue
            if self._outcomes[index] is _UNSET and task.cancelled():
                self._fail(index, CancelledError())  # something else cancelled it
        if self._fatal is None:
            for room in self._rooms:
                await room.wait()

    def _is_cancellation(self, exc: BaseException, *, alone: bool) -> bool:
        """Return whether a handler ended with this exception because the emit was cancelled."""
        if alone:
            return isinstance(exc, CancelledError) and (self._given_up or self._is_cancelled())
        return self._waits and self._is_cancelled() and is_cancellation(exc, self._handled)

    def _note_cancellation(self) -> None:
        """Note that the caller's task is being cancelled while a handler waits in it.

        A timeout cancels the task in which it was started, and those of some libraries never take
        that back.
        """
        if self._fatal is None and self._scope.is_here():
            self._own_cancels += 1
        else:
            self._cancelled = True

    def _count_cancels(self) -> int:
        """Return how many cancellations of the caller's task since then were not taken back."""
        return 0 if self._owner is None else self._owner.cancelling() - self._cancels

    def _is_cancelled(self) -> bool:
        """Return whether anything but its own handler has cancelled the caller's task."""
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
        log_failure(self._failures, self._name, handler, exc)
        if not (self._given_up or self._scope.is_below_error()):
            self._start_task(None, self._tell(handler, exc))

    async def _tell(self, handler: Handler, failure: BaseException) -> None:
        try:
            await self._report(self._name, handler, failure)
        except (KeyboardInterrupt, SystemExit) as exc:
            self._abort(exc)

    def _abort(self, exc: BaseException) -> None:
        """Cancel everything because of an exception in another task, so that the emit raises it.

        That task must not raise it itself, or the event loop would.
        """
        if self._fatal is not None:
            return
        self._fatal = exc
        self._cancel()
        if self._waits and self._owner is not None:
            self._interrupted = self._owner.cancel()

    def _cancel(self) -> None:
        """Cancel everything that runs, except the current task."""
        self._given_up = True
        own = current_task()
        for _, task in self._tasks:
            if task is not own:
                task.cancel()

    async def _cancel_and_wait(self) -> None:
        """Cancel everything that runs and wait for its end; if cancelled meanwhile, do so again."""
        self._given_up = True
        while pending := [task for _, task in self._tasks if not task.done()]:
            for task in pending:
                task.cancel()
            with suppress(CancelledError):  # the emit raises its own exception after this
                await asyncio.wait(pending)

    def _clean_up(self) -> BaseException | None:
        """Drop references that tracebacks would turn into cycles; return the fatal exception."""
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
    """Continue in another context; only for what `Emission` runs in the caller's task."""
    yield _CONTEXT_CHANGED


class _Observed:
    """Stands in for what a task awaits; reports a cancellation, in the canceller's context."""

    __slots__ = ("_asyncio_future_blocking", "_cancelled", "_fut_waiter")

    def __init__(self, awaited: Any, cancelled: Callable[[], None]) -> None:
        # The protocol between a task and what it awaits: an awaitable is marked, and the task that
        # begins to wait for it removes the mark.
        self._asyncio_future_blocking = True
        awaited._asyncio_future_blocking = False  # noqa: SLF001
        self._fut_waiter = awaited  # named as in a task, so that a stopping node can follow it
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
