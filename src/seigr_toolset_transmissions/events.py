"""EventEmitter: named events, the async handlers registered for them, and how both are run.

What an event means is its user's business. This file decides who is called, when, with what,
and what becomes of a handler's result, failure or cancellation. An emitter belongs to one
event loop and is not thread-safe.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import sys
import types
from asyncio import CancelledError, current_task
from collections import OrderedDict, deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Sequence,
)
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar, copy_context
from typing import Any, NamedTuple, Self, TypeVar
from weakref import ref

from .errors import STTEventError

__all__ = ["Delivery", "EventEmitter", "Handler", "Occurrence", "task_of_emit"]

_log = logging.getLogger(__name__)
_UNSET: Any = object()

Handler = Callable[..., Awaitable[Any]]
_Call = tuple[Handler, tuple[Any, ...], dict[str, Any]]
"""A handler, and what it is called with."""
_H = TypeVar("_H", bound=Handler)


class Occurrence(NamedTuple):
    """One emit of an event, as `EventEmitter.wait_for` and `EventEmitter.stream` give it."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


_of_emit: ContextVar[ref[asyncio.Task[None]] | None] = ContextVar("_of_emit", default=None)


def task_of_emit() -> asyncio.Task[None] | None:
    """Return the task, made by an emit that waits for it, in or on whose behalf this is called."""
    task = _of_emit.get()
    return None if task is None else task()


class Delivery(str):
    """An event's name that tells, when its emit has ended, whether a handler was called.

    For what must go elsewhere if none was. It is the event's name for all else, and a wrapper of
    ``emit`` passes it on like any other.

    Attributes:
        handler: The handler that was called last; None: none yet.
        watch_only: Whether only `EventEmitter.on_any`, `wait_for` and `stream` are to be told.

    """

    __slots__ = ("handler", "watch_only")

    handler: Handler | None
    watch_only: bool

    def __new__(cls, name: str, *, watch_only: bool = False) -> Self:
        """Name an event."""
        delivery = super().__new__(cls, name)
        delivery.handler = None
        delivery.watch_only = watch_only
        return delivery


class EventEmitter:
    """Runs async handlers when the event they are registered for is emitted.

    A handler is an ``async def`` function, a bound async method, a `functools.partial` of one,
    or an object with ``async def __call__``. Handlers are held by strong references, and one that
    is registered twice is called twice.

    Every method and decorator that registers raises `STTEventError` if the handler is anything
    else, and `TypeError` if the event's name is not a ``str``; nothing was registered then.

    Everything that emits must call ``events.emit(...)``: assigning a wrapper to ``emit`` on the
    instance then sees every event. `on_any` is the cleaner way to the same.
    """

    changes = 0
    """How often something was registered or removed, or `emit` replaced."""

    def __init__(self) -> None:
        # The user's handlers, and nothing else, by event. Never an empty list. Changed in place.
        self._handlers: dict[str, list[Handler]] = {}
        # Called as (name, args, kwargs): under None what `on_any` registered, under an event's
        # name its `wait_for` and `stream`. Never an empty list.
        self._watchers: dict[str | None, list[Handler]] = {}
        self.followers: set[Callable[[], None]] = set()
        """Called whenever `changes` changes, within the change; for the emitter's owner."""
        # The emits under way to several handlers, to be told of removals.
        self._running: set[_Emission] = set()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "emit":
            self.changes += 1

    def on(self, name: str) -> Callable[[_H], _H]:
        """Return a decorator that registers a handler for `name` and returns it unchanged."""
        _check_name(name)

        def decorator(handler: _H) -> _H:
            self.register(name, handler)
            return handler

        return decorator

    def register(self, name: str, handler: Handler) -> None:
        """Call `handler` at every later emit of `name`, after those registered before it."""
        _check_name(name)
        _check_handler(handler, f"event {name!r}")
        self._add(self._handlers, name, handler)

    def once(self, name: str) -> Callable[[_H], _H]:
        """Return a decorator like `on`, for a handler that is called at most once.

        It is removed before it is called, so that neither a nested nor a concurrent emit calls it
        again. `remove_handler` with the handler itself removes it earlier.
        """
        _check_name(name)

        def decorator(handler: _H) -> _H:
            _check_handler(handler, f"event {name!r}")
            self._add(self._handlers, name, _Once(self, name, handler))
            return handler

        return decorator

    def on_any(self, handler: _H) -> _H:
        """Call ``handler(name, args, kwargs)`` at every later emit; return `handler` unchanged.

        It starts before the event's own handlers, and runs and fails like them, but its result is
        not among the emit's. It also sees the ``error`` events of other handlers' failures.
        """
        _check_handler(handler, "on_any")
        self._add(self._watchers, None, handler)
        return handler

    def remove_handler(self, name: str, handler: Handler) -> None:
        """Remove the oldest registration of a handler equal to `handler`; none is no error.

        Where an emit has not started it yet, it is not called any more.
        """
        self._remove(self._handlers, name, handler)

    def remove_any(self, handler: Handler) -> None:
        """Remove the oldest `on_any` registration of a handler equal to `handler`, if any."""
        self._remove(self._watchers, None, handler)

    def clear_event(self, name: str) -> None:
        """Remove every handler of `name`. What waits in `wait_for` or `stream` goes on waiting."""
        for handler in self._handlers.get(name, [])[:]:
            self._remove(self._handlers, name, handler)

    def clear_all(self) -> None:
        """Remove the handlers of every event and of `on_any`.

        What waits in `wait_for` or `stream` goes on waiting: its own block ends it.
        """
        for name in list(self._handlers):
            self.clear_event(name)
        for handler in self._watchers.get(None, [])[:]:
            self._remove(self._watchers, None, handler)

    def handlers(self, name: str) -> list[Handler]:
        """Return a new list of the handlers of `name`, in order of registration.

        What `on_any`, `wait_for` and `stream` registered is not in it.
        """
        return [_original(handler) for handler in self._handlers.get(name, ())]

    def events(self) -> list[str]:
        """Return a new list of the names that have at least one handler."""
        return list(self._handlers)

    def handled(self, name: str) -> bool:
        """Tell whether there is a handler of `name`: whether `handlers` returns any."""
        return name in self._handlers

    def subscribed(self, name: str) -> bool:
        """Tell whether anybody has asked for this very event: by a handler, `wait_for`, `stream`.

        What `on_any` registered does not count: it watches everything, and need not act on it.
        """
        return name in self._handlers or name in self._watchers

    def observed(self, name: str) -> bool:
        """Tell whether anything would see an emit of `name`, to spare making what nobody sees.

        Handlers count, `on_any`, `wait_for` and `stream`, and an ``emit`` that was replaced on the
        instance or in a subclass.
        """
        return (
            name in self._handlers
            or (bool(self._watchers) and (name in self._watchers or None in self._watchers))
            or "emit" in self.__dict__
            or type(self).emit is not EventEmitter.emit
        )

    async def emit(self, name: str, /, *args: Any, **kwargs: Any) -> list[Any]:
        """Call every handler that is registered for `name` now, and wait until all have ended.

        They start in order of registration and run concurrently: the first that has to wait goes
        on in the calling task, and each after it has a task of its own. One that is removed before
        it started is not called; one that is registered meanwhile waits for the next emit.

        A handler that raises (`CancelledError` of its own included, and `TypeError` for arguments
        it does not take) harms neither the others nor the caller: the failure is logged with its
        traceback and emitted as ``error`` with ``error_type="handler_failed"`` and ``details`` of
        ``event``, ``handler`` and ``exception``, which is awaited too. What fails during an
        ``error`` event, or after the emit was cancelled, is logged only.

        Returns:
            The handlers' results in order of registration, a failure as its exception object; an
            empty list if there is no handler.

        Raises:
            TypeError: `name` is not a ``str``. Nothing was called.
            CancelledError: The calling task was cancelled. Handlers may have run wholly, in part or
                not at all; all that were running have been cancelled and have ended. (A single
                handler that swallows the cancellation and returns, or raises another error
                ``from`` it, keeps it from the caller, as anything that is awaited does. In a task
                that was cancelled before the emit, a `CancelledError` of a single handler's own
                counts as the task's.)
            BaseException: `KeyboardInterrupt`, `SystemExit` and their like from a handler, after
                all other handlers were cancelled and have ended.

        """
        handlers = self._handlers.get(name)
        watchers = self._watchers
        if (watchers and (None in watchers or name in watchers)) or name.__class__ is Delivery:
            return await self._emit_to_several(name, args, kwargs)
        if not handlers:
            if type(name) is not str:
                _check_name(name)
            return []
        if len(handlers) > 1:
            return await self._emit_to_several(name, args, kwargs)
        handler = handlers[0]
        try:
            return [await handler(*args, **kwargs)]
        except (Exception, CancelledError) as exc:  # noqa: BLE001 - reported, and in the results
            failure = exc
        try:
            await self.failed(name, handler, failure)
            return [failure]
        finally:
            del failure  # its traceback leads here: no cycle of references

    def only_handler(self, name: str) -> Handler | None:
        """Return the handler to call if an emit of `name` would do nothing but call it, else None.

        That holds until `changes` has another value. To await the handler costs half of what an
        `emit` does. Who does so calls `failed` with whatever `Exception` or `CancelledError` it
        raises.
        """
        handlers = self._handlers.get(name)
        if (
            handlers is None
            or len(handlers) != 1
            or name in self._watchers
            or None in self._watchers
            or "emit" in self.__dict__
            or type(self).emit is not EventEmitter.emit
        ):
            return None
        return handlers[0]

    async def failed(self, name: str, handler: Handler, failure: BaseException) -> None:
        """Log and report that a handler of `name` has failed, as `emit` does.

        Call it when `failure` is handled no more (behind the ``except`` block, not within).

        Raises:
            CancelledError: The calling task was cancelled, and the failure comes of that.

        """
        if cancellation := _cancellation_in(failure, sys.exception()):
            if failure is not cancellation:
                _log_failure(name, handler, failure)
            raise cancellation
        await self._report(name, handler, failure)

    async def wait_for(
        self,
        name: str,
        predicate: Callable[[Occurrence], object] | None = None,
        timeout: float | None = None,
    ) -> Occurrence:
        """Wait for the next emit of `name`, or the next one for which `predicate` is true.

        Args:
            name: The event's name.
            predicate: A plain function of the `Occurrence`; None takes the first.
            timeout: Seconds; None waits for ever.

        Returns:
            The occurrence. An emit that begins after this coroutine has begun is not missed.

        Raises:
            TimeoutError: Nothing fitted in `timeout` seconds.
            TypeError: `name` is not a ``str``, or `predicate` is async.
            Exception: Whatever `predicate` raised; the emit is not affected.

        However it ends, cancelled included, nothing stays registered.

        """
        _check_name(name)
        if predicate is not None and _is_async(predicate):
            raise TypeError(f"the predicate {_describe(predicate)} is async: write it with `def`")
        outcome: asyncio.Future[Occurrence | Exception]
        outcome = asyncio.get_running_loop().create_future()

        async def watch(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            occurrence = Occurrence(name, args, kwargs)
            if outcome.done():
                return
            try:
                if predicate is None or predicate(occurrence):
                    outcome.set_result(occurrence)
            except Exception as exc:  # noqa: BLE001 - it is the waiter's, who raises it
                outcome.set_result(exc)

        self._add(self._watchers, name, watch)
        try:
            await asyncio.wait((outcome,), timeout=timeout)
        finally:
            self._remove(self._watchers, name, watch)
        if not outcome.done():
            raise TimeoutError(f"no event {name!r} that was waited for within {timeout} s")
        result = outcome.result()
        if isinstance(result, Exception):
            raise result
        return result

    @asynccontextmanager
    async def stream(
        self, name: str, *, maxsize: int = 64
    ) -> AsyncIterator[AsyncIterator[Occurrence]]:
        """Open an async iterator over the emits of `name` from now on.

        Use it as ``async with events.stream("x") as stream: async for occurrence in stream: ...``.
        At most `maxsize` occurrences wait in it. When it is full, emits of `name` wait for room
        (nothing is dropped, unless the waiting emit is cancelled): do not emit more than that
        from the task that reads. Cancelling a read loses nothing.

        Leaving the block ends the iteration for every reader, discards what was not read, and
        lets the waiting emits go on.

        Raises:
            TypeError: On entering: `name` is not a ``str``.
            ValueError: On entering: `maxsize` is less than 1.

        """
        _check_name(name)
        if maxsize < 1:
            raise ValueError(f"maxsize is a number of occurrences, at least 1, not {maxsize!r}")
        stream = _Stream(maxsize)
        self._add(self._watchers, name, stream.put)
        try:
            yield stream
        finally:
            self._remove(self._watchers, name, stream.put)
            stream.close()

    def _changed(self) -> None:
        self.changes += 1
        for follower in tuple(self.followers):
            follower()

    def _add(self, table: dict[Any, list[Handler]], key: str | None, handler: Handler) -> None:
        self._changed()
        table.setdefault(key, []).append(handler)

    def _remove(self, table: dict[Any, list[Handler]], key: str | None, handler: Handler) -> None:
        self._changed()
        registered = table.get(key, [])
        for index, entry in enumerate(registered):
            if handler in (entry, _original(entry)):
                del registered[index]
                for emission in self._running:
                    emission.forget(registered, index)
                break
        if not registered:
            table.pop(key, None)

    async def _emit_to_several(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Any]:
        _check_name(name)
        delivery = name if isinstance(name, Delivery) else Delivery(name)
        name = str(name)
        emission = _Emission(delivery, self._report)
        if watchers := self._watchers:
            # A copy: what a watcher does to it must not change what handlers are called with.
            seen = (name, args, kwargs.copy())
            emission.take(watchers.get(None, []), seen, {})
            emission.take(watchers.get(name, []), seen, {})
        watching = len(emission.calls)
        if not delivery.watch_only:
            emission.take(self._handlers.get(name, []), args, kwargs)
        emission.watching = watching
        await emission.run(self._running)
        return emission.results(watching)

    async def _report(self, name: str, handler: Handler, exc: BaseException) -> None:
        _log_failure(name, handler, exc)
        if name == "error":
            return  # a failure to handle errors must not make more of them
        details = {"event": name, "handler": _original(handler), "exception": exc}
        try:
            await self.emit("error", error_type="handler_failed", details=details)
        except Exception:  # noqa: BLE001 - a wrapper's own failure; the handler's is logged
            _log.exception("the replaced emit of %s failed for an error event", _describe(self))


class _Once:
    """A registration that ends when it is called."""

    __slots__ = ("_events", "_name", "handler")

    def __init__(self, events: EventEmitter, name: str, handler: Handler) -> None:
        self._events = events
        self._name = name
        self.handler = handler

    def __call__(self, /, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        EventEmitter.remove_handler(self._events, self._name, self)
        return self.handler(*args, **kwargs)

    def __repr__(self) -> str:
        return f"once({self.handler!r})"


class _Emission:
    """One emit to several handlers: `take` them, `run`, ask for `results`.

    As long as none has to wait, they run one after the other in the caller's task: a task of its
    own costs more than most handlers. The first that waits keeps the caller's, as a single handler
    would; those after it get one each.
    """

    __slots__ = (
        "_cancels",
        "_context",
        "_fatal",
        "_given_up",
        "_handled",
        "_interrupted",
        "_name",
        "_outcomes",
        "_owner",
        "_removed",
        "_report",
        "_sources",
        "_tasks",
        "_waits",
        "calls",
        "watching",
    )

    def __init__(
        self, name: Delivery, report: Callable[[str, Handler, BaseException], Awaitable[None]]
    ) -> None:
        self.calls: list[_Call] = []
        self.watching = 0  # so many of the calls tell watchers
        self._name = name
        self._report = report
        # Each list that was taken from, and which calls its first items are.
        self._sources: list[tuple[list[Handler], Sequence[int]]] = []
        self._removed: set[int] = set()  # calls that must not be made any more
        self._outcomes: list[Any] = []  # of each call; `_UNSET` if it was not made
        self._tasks: list[tuple[int | None, asyncio.Task[None]]] = []  # and which call each makes
        self._context = copy_context()
        self._owner = current_task()
        self._cancels = 0 if self._owner is None else self._owner.cancelling()
        self._handled = sys.exception()
        self._waits = False  # whether a handler waits in the caller's task
        self._given_up = False
        self._fatal: BaseException | None = None  # why, unless the caller's task was cancelled
        self._interrupted = False  # whether we have cancelled the caller's task therefore

    def take(
        self, registered: list[Handler], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Add a call of each handler that is in the list now."""
        first = len(self.calls)
        self.calls += [(handler, args, kwargs) for handler in registered]
        self._sources.append((registered, range(first, len(self.calls))))

    def forget(self, registered: list[Handler], index: int) -> None:
        """Take note that the item at `index` was removed from the list `registered`."""
        for number, (source, calls) in enumerate(self._sources):
            if source is registered and index < len(calls):  # later ones are not of this emit
                self._removed.add(calls[index])
                self._sources[number] = (source, [*calls[:index], *calls[index + 1 :]])

    async def run(self, running: set[_Emission]) -> None:
        """Make the calls and wait for their ends; cancellation is as of `EventEmitter.emit`.

        Meanwhile it is in `running`, to hear of removals.
        """
        self._outcomes += [_UNSET] * len(self.calls)
        due = enumerate(self.calls)
        running.add(self)
        try:
            await _tell_when_waiting(self._make(due), functools.partial(self._start_others, due))
            self._waits = False
            if self._cancelled():
                raise CancelledError  # noqa: TRY301 - the handler has swallowed it
            for index, task in self._tasks:  # mostly all end in one turn, whence not together
                if not task.done():
                    await asyncio.wait((task,))
                if index is not None and self._outcomes[index] is _UNSET and task.cancelled():
                    self._fail(index, CancelledError())  # by others, before it began
        except BaseException:
            await self._cancel()
            if self._fatal is None:
                raise
            if self._interrupted and self._owner is not None:
                self._owner.uncancel()
        finally:
            running.discard(self)

    def results(self, first: int) -> list[Any]:
        """Hand over the outcomes from the first-th call on; raise what is for the emit to raise."""
        if self._fatal is not None:
            raise self._fatal
        results = [outcome for outcome in self._outcomes[first:] if outcome is not _UNSET]
        self._outcomes.clear()  # a failure's traceback leads here: no cycle of references
        return results

    async def _make(self, calls: Iterable[tuple[int, _Call]]) -> None:
        for index, (handler, args, kwargs) in calls:
            if index in self._removed or (self._name.watch_only and index >= self.watching):
                continue
            if index >= self.watching:
                self._name.handler = _original(handler)
            try:
                self._outcomes[index] = await handler(*args, **kwargs)
            except (Exception, CancelledError) as exc:  # noqa: BLE001 - reported
                self._fail(index, exc)
            except BaseException as exc:  # noqa: BLE001 - for the emit to raise, not the loop
                self._abort(exc)

    def _start_others(self, due: Iterable[tuple[int, _Call]]) -> None:
        """Make the calls that are due yet in a task each: the one before them waits."""
        self._waits = True
        for index, call in due:
            self._start(index, self._make([(index, call)]))

    def _start(self, index: int | None, coroutine: Coroutine[Any, Any, None]) -> None:
        # Not create_task: an eager one would run within the handler that waits. And what the
        # handlers before it have done to the caller's context is not for this one.
        loop = asyncio.get_running_loop()
        context = self._context.copy()
        task = asyncio.Task(coroutine, loop=loop, context=context)
        context.run(_of_emit.set, ref(task))
        self._tasks.append((index, task))

    def _fail(self, index: int, exc: BaseException) -> None:
        """Note and report a failure, or go on with the cancellation that it comes of."""
        self._outcomes[index] = exc
        handler = self.calls[index][0]
        cancelled = self._given_up
        if current_task() is not self._owner:
            if isinstance(exc, CancelledError) and (cancelled or self._cancelled()):
                raise exc
        elif self._waits:
            cancelled = cancelled or self._cancelled()
            if cancellation := _cancellation_in(exc, self._handled):
                if exc is not cancellation:
                    _log_failure(self._name, handler, exc)
                raise cancellation
        if cancelled:
            _log_failure(self._name, handler, exc)
        else:
            self._start(None, self._tell(handler, exc))

    async def _tell(self, handler: Handler, failure: BaseException) -> None:
        try:
            await self._report(str(self._name), handler, failure)
        except CancelledError:
            raise
        except BaseException as exc:  # noqa: BLE001 - as of any other handler
            self._abort(exc)

    def _cancelled(self) -> bool:
        owner = self._owner
        return owner is not None and owner.cancelling() > self._cancels

    def _abort(self, exc: BaseException) -> None:
        """Cancel everything because of what a handler has raised, for the emit to raise it."""
        own = current_task()
        if own is self._owner or isinstance(exc, GeneratorExit):
            raise exc
        self._given_up = True
        if self._fatal is None:
            self._fatal = exc
        for _, task in self._tasks:
            if task is not own:
                task.cancel()
        if self._waits and not self._interrupted and self._owner is not None:
            self._interrupted = self._owner.cancel()

    async def _cancel(self) -> None:
        """Cancel what runs and wait for its end; a cancellation meanwhile only repeats that."""
        self._given_up = True
        while pending := [task for _, task in self._tasks if not task.done()]:
            for task in pending:
                task.cancel()
            with suppress(CancelledError):  # what the emit is to raise, it raises after this
                await asyncio.wait(pending)


@types.coroutine
def _tell_when_waiting(
    coroutine: Coroutine[Any, Any, None], waits: Callable[[], None]
) -> Generator[Any, Any, None]:
    """Await the coroutine, and call `waits` when it has to wait for the first time."""
    steps = coroutine.__await__()
    awaited = next(steps, _UNSET)
    if awaited is _UNSET:
        return
    waits()
    with suppress(StopIteration):
        while True:
            try:
                answer = yield awaited
            except BaseException as exc:  # noqa: BLE001 - passed on
                awaited = steps.throw(exc)
            else:
                awaited = steps.send(answer)


class _Stream:
    """A bounded queue of occurrences: `put` waits for room, iteration for an occurrence."""

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._queue: deque[Occurrence] = deque()
        self._blocked: OrderedDict[asyncio.Future[None], Occurrence] = OrderedDict()
        self._arrived = asyncio.Event()
        self._closed = False

    async def put(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Add an occurrence; if cancelled while it waits for room, it was not added."""
        if self._closed:
            return
        occurrence = Occurrence(name, args, kwargs)
        if len(self._queue) < self._maxsize:  # then nobody is blocked, who would come first
            self._queue.append(occurrence)
            self._arrived.set()
            return
        room = asyncio.get_running_loop().create_future()
        self._blocked[room] = occurrence
        try:
            await room
        finally:
            self._blocked.pop(room, None)

    def close(self) -> None:
        """Discard everything, release who waits in `put`, end every iteration."""
        self._closed = True
        self._queue.clear()
        for room in self._blocked:
            if not room.done():
                room.set_result(None)
        self._arrived.set()

    def __aiter__(self) -> _Stream:
        return self

    async def __anext__(self) -> Occurrence:
        while not self._queue:
            if self._closed:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        occurrence = self._queue.popleft()
        while self._blocked and len(self._queue) < self._maxsize:
            room, blocked = self._blocked.popitem(last=False)
            if not room.done():  # else its emit was cancelled
                room.set_result(None)
                self._queue.append(blocked)
        return occurrence


def _cancellation_in(
    failure: BaseException, handled: BaseException | None
) -> CancelledError | None:
    """Return the cancellation of this task that `failure` is, or that it came up in the wake of.

    `handled` is what the task handled before, which ends the chain of contexts. What was raised
    ``from`` another exception replaces it on purpose, as `asyncio.timeout` does: not looked into.
    """
    task = current_task()
    if task is None or not task.cancelling():
        return None
    exc: BaseException | None = failure
    while exc is not None and exc is not handled:
        if isinstance(exc, CancelledError):
            return exc
        exc = None if exc.__suppress_context__ else exc.__context__
    return None


def _original(handler: Handler) -> Handler:
    return handler.handler if isinstance(handler, _Once) else handler


def _log_failure(name: str, handler: Handler, exc: BaseException) -> None:
    described = _describe(_original(handler))
    _log.error("handler %s of event %r failed", described, name, exc_info=exc)


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        hint = "; write @events.on('name')" if callable(name) else ""
        raise TypeError(f"an event's name is a str, not {type(name).__name__}{hint}")


def _is_async(handler: object) -> bool:
    while isinstance(handler, functools.partial):
        handler = handler.func
    call = getattr(type(handler), "__call__", None)  # noqa: B004 - its kind is asked for
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(call)


def _check_handler(handler: object, purpose: str) -> None:
    if _is_async(handler):
        return
    if isinstance(handler, type):
        remedy = "it is a class; give an instance that has `async def __call__(self, ...)`"
    elif inspect.iscoroutine(handler):
        remedy = "it is the coroutine of a call; give the `async def` function, without calling it"
    elif inspect.isasyncgenfunction(handler):
        remedy = "it is an async generator; write an `async def` without `yield`"
    elif callable(handler):
        remedy = "write it as `async def`"
    else:
        remedy = "it cannot be called; give an `async def` function"
    raise STTEventError(f"{_describe(handler)} is no async handler for {purpose}: {remedy}")


def _describe(subject: object) -> str:
    while isinstance(subject, functools.partial):
        subject = subject.func
    if inspect.isroutine(subject) or isinstance(subject, type):
        return f"{getattr(subject, '__module__', None)}.{subject.__qualname__}"
    return f"an object of {type(subject).__module__}.{type(subject).__qualname__}"
