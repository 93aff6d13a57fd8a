"""`EventEmitter`: registers handlers, and calls them when an event is emitted."""

from __future__ import annotations

import asyncio
import sys
from asyncio import CancelledError, current_task
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from ..foundation.callables import is_async
from ..foundation.repeats import Repeats
from ..foundation.threads import run_in
from .delivery import Delivery, announced
from .emission import Emission
from .handlers import Handler, check_handler, check_name, describe, log, log_failure
from .isolation import Only
from .registrations import Registration, Registrations
from .scopes import Scope, below_error, is_cancellation, timed_out
from .watching import EventStream, Expected, Occurrence, Overflow, Stream, Waiter, Watcher

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from .watching import Predicate

__all__ = ["EventEmitter"]

_H = TypeVar("_H", bound=Handler)
_T = TypeVar("_T")


class EventEmitter:
    """Runs async handlers when the event they are registered for is emitted.

    A handler is an ``async def`` function, a bound async method, a `functools.partial` of one,
    or an object with ``async def __call__``. Handlers are held by strong references, and one that
    is registered twice is called twice.

    Every method and decorator that registers raises `STTEventError` if the handler is anything
    else, and `TypeError` if the event's name is not a ``str``; it then registers nothing.

    All code that emits must call ``events.emit(...)``, so that a wrapper assigned to ``emit`` on
    the instance sees every event. `on_any` is a cleaner way to do that.
    """

    changes: int = 0
    """How often something was registered or removed, or `emit` replaced on the instance."""

    def __init__(self) -> None:
        # What the user has registered, by event. Never empty registrations.
        self._registered: dict[str, Registrations[Handler]] = {}
        # What `wait_for` and `stream` have registered; likewise.
        self._watchers: dict[str, Registrations[Watcher]] = {}
        self._any: Registrations[Handler] = Registrations()
        # What an emit does, by event: it calls the only handler, or more than that (None).
        self._plans: dict[str, Only | None] = {}
        # Events that a replaced `emit` may have been given as a `Delivery` and passed on as a str.
        self._announced: set[str] = set()
        self._failures = Repeats(log)
        self.followers: set[Callable[[], None]] = set()
        """For the emitter's owner: called during each change that `changes` counts."""
        self.loop: asyncio.AbstractEventLoop | None = None
        """Where `emit_threadsafe` emits: the loop in which the emitter was made, if one was
        running, or in which its node was started last. Or set it yourself."""
        with suppress(RuntimeError):
            self.loop = asyncio.get_running_loop()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "emit":
            self.changes += 1

    @property
    def _handlers(self) -> dict[str, list[Handler]]:
        """A new dict of the handlers by event, for inspection."""
        return {name: self.handlers(name) for name in self._registered}

    def on(self, name: str) -> Callable[[_H], _H]:
        """Return a decorator that registers a handler for `name` and returns it unchanged."""
        self._check_name(name)

        def decorator(handler: _H) -> _H:
            self.register(name, handler)
            return handler

        return decorator

    def register(self, name: str, handler: Handler) -> None:
        """Call `handler` at every later emit of `name`, after those registered before it."""
        self._register(name, handler, once=False)

    def registered(self, name: str, handler: Handler) -> AbstractContextManager[None]:
        """Call `handler` at every emit of `name` while the block runs.

        Use it as ``with events.registered("x", handler): ...``. It ends this registration, however
        the block ends, and no other one of the same handler. A call that is running then goes on.
        """
        return self._registered_meanwhile(name, handler)

    @contextmanager
    def _registered_meanwhile(self, name: str, handler: Handler) -> Iterator[None]:
        registration = self._register(name, handler, once=False)
        try:
            yield
        finally:
            self._end(self._registered, name, registration)

    def once(self, name: str) -> Callable[[_H], _H]:
        """Return a decorator like `on`, for a handler that is called at most once.

        It is removed before it is called, so neither a nested nor a concurrent emit calls it
        again. `remove_handler` with the handler itself removes it earlier.
        """
        self._check_name(name)

        def decorator(handler: _H) -> _H:
            self._register(name, handler, once=True)
            return handler

        return decorator

    def on_any(self, handler: _H) -> _H:
        """Call ``handler(name, args, kwargs)`` at every later emit; return `handler` unchanged.

        It starts before the event's own handlers, and runs and fails as they do, but `emit` does
        not return its result. It gets its own copy of `kwargs`. It also sees the ``error`` events
        about other handlers' failures. All `on_any` handlers see concurrent emits in the same
        order: the one in which they began.
        """
        check_handler(handler, "on_any")
        self._any.add(handler)
        self._changed(*self._registered)
        return handler

    def remove_handler(self, name: str, handler: Handler) -> None:
        """Remove the oldest registration of a handler equal to `handler`, if there is one.

        A running emit that has not started the handler yet does not call it.
        """
        registered = self._registered.get(name)
        if registered is not None and registered.end_first(handler):
            self._ended(self._registered, name)

    def remove_any(self, handler: Handler) -> None:
        """Remove the oldest `on_any` registration of a handler equal to `handler`, if any."""
        if self._any.end_first(handler):
            self._changed(*self._registered)

    def clear_event(self, name: str) -> None:
        """Remove every handler of `name`. Calls of `wait_for` and `stream` keep waiting."""
        if (registered := self._registered.get(name)) is not None:
            registered.end_all()
            self._ended(self._registered, name)

    def clear_all(self) -> None:
        """Remove the handlers of every event and of `on_any`.

        Calls of `wait_for` and `stream` keep waiting.
        """
        for name in list(self._registered):
            self.clear_event(name)
        self._any.end_all()
        self._changed()

    def handlers(self, name: str) -> list[Handler]:
        """Return a new list of the handlers of `name`, in order of registration.

        It leaves out what `on_any`, `wait_for` and `stream` have registered.
        """
        return [registration.handler for registration in self._registered.get(name, ())]

    def events(self) -> list[str]:
        """Return a new list of the names that have at least one handler."""
        return list(self._registered)

    def handled(self, name: str) -> bool:
        """Return whether there is a handler of `name`: whether `handlers` returns any."""
        return name in self._registered

    def subscribed(self, name: str) -> bool:
        """Return whether this event has a handler, or a `wait_for` or `stream` waits for it.

        `on_any` does not count: it watches everything and need not act on it. Nor does a monitor.
        """
        watchers = self._watchers.get(name, ())
        return name in self._registered or any(each.handler.acts for each in watchers)

    def observed(self, name: str) -> bool:
        """Return whether anything would see an emit of `name`, so that callers can skip it.

        Handlers, `on_any`, `wait_for` and `stream` count, and so does an ``emit`` that was replaced
        on the instance, on the class or in a subclass.
        """
        return (
            name in self._registered
            or bool(self._any.entries)
            or name in self._watchers
            or "emit" in self.__dict__  # as `_emit_is_replaced`: asked for each record
            or type(self).emit is not _ORIGINAL_EMIT
        )

    async def emit(self, name: str, /, *args: Any, **kwargs: Any) -> list[Any]:
        """Call every handler that is registered for `name` now, and wait until all have ended.

        `wait_for` and `stream` see the event before anything can wait. The handlers start in order
        of registration and run concurrently: the first one that has to wait continues in the
        calling task, and each one after it gets a task of its own. A handler that is removed before
        it has started is not called; one that is registered meanwhile waits for the next emit. Each
        call gets a copy of the caller's context, so its changes to context variables affect nothing
        else.

        Whatever a handler raises (including its own `CancelledError`, and `TypeError` for arguments
        it does not take) harms neither the others nor the caller: the failure is logged, and
        emitted as ``error`` with ``error_type="handler_failed"`` and ``details`` of ``event``,
        ``handler`` and ``exception``, which is awaited too. A failure during an ``error`` event, in
        any emit that its handlers make before it has ended, or after this emit was cancelled, is
        only logged. The log has the traceback of a handler's first failure with one type of
        exception, and counts those that follow: one line every 10 seconds, until there are none.

        A handler whose timeout cancels the calling task, and never takes that back, cancels
        neither that task nor the emit.

        Returns:
            The handlers' results in order of registration, a failure as its exception object; an
            empty list if there is no handler.

        Raises:
            TypeError: `name` is not a ``str``. Nothing was called.
            CancelledError: The calling task was cancelled. Handlers may have run completely, partly
                or not at all; all that were running have been cancelled and have ended. (A single
                handler that swallows the cancellation and returns, or raises a `TimeoutError`, or
                another error ``from`` it, keeps it from the caller, as anything that is awaited
                does. In a task that was cancelled before the emit, a single handler's own
                `CancelledError` counts as the task's.)
            BaseException: `KeyboardInterrupt` and `SystemExit` from a handler, once all other
                handlers have been cancelled and have ended.

        """
        if name not in self._plans:
            if self._any.entries:
                return await self._emit_to_several(name, args, kwargs)
            if type(name) is not str:
                check_name(name)
            return []
        only = self._plans[name]
        if only is None:
            return await self._emit_to_several(name, args, kwargs)
        try:
            call = only.handler(*args, **kwargs)
            context = copy_context()
            try:
                results = context.run(only.lane, call)
            except ValueError:
                if not only.is_busy():
                    raise
                results = None
            if type(results) is list:
                return results
            return await only.finish(context, call, results)
        except BaseException as exc:
            only.mend()
            if isinstance(exc, KeyboardInterrupt | SystemExit | GeneratorExit):
                raise
            failure = exc
        try:
            await self.failed(name, only.handler, failure)
            return [failure]
        finally:
            del failure  # its traceback leads here: no cycle of references

    def emit_threadsafe(
        self, name: str, /, *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future[list[Any]]:
        """Emit in the emitter's event loop (`loop`), whatever thread this is called in.

        It never waits. Emits of one thread begin in the order of these calls.

        Returns:
            A future for what `emit` returns or raises. Cancelling it cancels the emit. Its
            ``result`` waits, so do not call that in the loop's own thread, and give it a timeout:
            if the loop is closed before the emit has begun, the future is never done.

        Raises:
            TypeError: `name` is not a ``str``.
            RuntimeError: No loop is known, or it was closed. Nothing is emitted.

        """
        check_name(name)

        async def emit() -> list[Any]:
            return await self.emit(name, *args, **kwargs)

        return run_in(
            self.loop,
            emit(),
            unknown="the emitter knows no event loop: start its node first, or in the loop set "
            "`events.loop = asyncio.get_running_loop()`",
            closed=f"the emitter's event loop was closed: {name!r} can be emitted once its node "
            "has started in another one, or `events.loop` is set to it",
        )

    def deliver(self, delivery: Delivery, **kwargs: Any) -> Awaitable[object]:
        """Emit an event so that ``delivery`` is updated, whatever a replaced `emit` does with it.

        The caller awaits what this returns. A replacement may pass on another string of the same
        name. What it emits after ``delivery`` became ``watch_only`` reaches only watchers.
        """
        if self._emit_is_replaced():
            return self._announce(delivery, kwargs)
        if delivery in self._plans:
            return self._emit_to_several(delivery, (), kwargs)
        return self.emit(delivery, **kwargs)

    async def _announce(self, delivery: Delivery, kwargs: dict[str, Any]) -> None:
        if delivery not in self._announced:
            self._announced.add(str(delivery))
            self._changed(delivery)
        announced.set((self, delivery))
        try:
            await self.emit(delivery, **kwargs)
        finally:
            announced.set(None)

    def only_handler(self, name: str) -> Handler | None:
        """Return the handler to call if an emit of `name` would do nothing but call it, else None.

        The answer holds until `changes` changes, or ``emit`` is replaced on the class. Awaiting the
        handler costs half of what an `emit` does, but its changes to context variables remain. The
        caller passes to `failed` whatever the handler raises, except `KeyboardInterrupt` and
        `SystemExit`.
        """
        only = self._plans.get(name)
        return None if only is None or self._emit_is_replaced() else only.handler

    async def failed(self, name: str, handler: Handler, failure: BaseException) -> None:
        """Log and report that a handler of `name` has failed, as `emit` does.

        Call it when `failure` is no longer being handled (after the ``except`` block, not in it).

        Raises:
            CancelledError: The calling task was cancelled, which caused the failure. If that is
                impossible, take the cancellation back first (`asyncio.Task.uncancel`).

        """
        try:
            if is_cancellation(failure, sys.exception()):
                if isinstance(failure, CancelledError):
                    raise failure
                log_failure(self._failures, name, handler, failure)
                raise CancelledError
            if timed_out(failure) and (task := current_task()) is not None:
                task.uncancel()
            log_failure(self._failures, name, handler, failure)
            if name != "error" and not below_error():
                await self._report(name, handler, failure)
        finally:
            del failure  # its traceback leads here: no cycle of references

    async def wait_for(
        self,
        name: str | tuple[str, ...],
        predicate: Predicate | None = None,
        timeout: float | None = None,
    ) -> Occurrence[dict[str, Any]]:
        """Wait for the next emit of `name`, or the next one for which `predicate` is true.

        Args:
            name: The event's name; or several names, for whichever comes first. The occurrence
                says which one that was.
            predicate: A plain function of the `Occurrence`; None takes the first.
            timeout: Seconds; None: no limit.

        Returns:
            The occurrence. An emit that begins after this coroutine has begun is not missed.

        Raises:
            TimeoutError: Nothing matched within `timeout` seconds.
            STTEventError: The side that emits the event (with several names: each of them) has
                ended, as a node does when it is stopped: see `give_up`.
            TypeError: `name` is not a ``str``, or `predicate` is async.
            ValueError: `name` is an empty tuple.
            Exception: Whatever `predicate` raised; the emit is not affected.

        However it ends, even by a cancellation, nothing stays registered.

        """
        with self._waiting(name, predicate) as waiter:
            return await waiter.wait(timeout)

    def expect(
        self,
        name: str | tuple[str, ...],
        predicate: Predicate | None = None,
        timeout: float | None = None,
    ) -> AbstractAsyncContextManager[Expected[dict[str, Any]]]:
        """Expect an event that the body of the block causes, without ever missing it.

        ::

            async with events.expect("x", timeout=5) as expected:
                await something_that_leads_to_x()
            print(expected.occurrence.kwargs)

        It waits as `wait_for` does, but begins before the body, so it sees what is emitted while
        the body runs. The block's end waits for the event if it has not come by then, for at most
        `timeout` seconds from that moment, and raises what `wait_for` does. If the body raises an
        exception or is cancelled, that propagates at once, without waiting for the event.
        """
        return self._expect(name, predicate, timeout)

    @asynccontextmanager
    async def _expect(
        self,
        name: str | tuple[str, ...],
        predicate: Predicate | None,
        timeout: float | None,
    ) -> AsyncIterator[Waiter]:
        with self._waiting(name, predicate) as waiter:
            yield waiter
            await waiter.wait(timeout)

    @contextmanager
    def _waiting(
        self,
        name: str | tuple[str, ...],
        predicate: Predicate | None,
    ) -> Iterator[Waiter]:
        names = name if isinstance(name, tuple) else (name,)
        if not names:
            raise ValueError("name at least one event to wait for")
        for each in names:
            self._check_name(each)
        if predicate is not None and is_async(predicate):
            raise TypeError(f"the predicate {describe(predicate)} is async: write it with `def`")
        waiter = Waiter(names, predicate)
        with self._watching(names, waiter):
            yield waiter

    def stream(
        self,
        name: str,
        *,
        maxsize: int = 64,
        overflow: Overflow = "wait",
    ) -> AbstractAsyncContextManager[EventStream[dict[str, Any]]]:
        """Open an async iterator over the emits of `name` from now on.

        Use it as ``async with events.stream("x") as stream: async for occurrence in stream: ...``.
        It holds at most `maxsize` occurrences. When it is full, emits of `name` wait for room
        (nothing is dropped, unless the waiting emit is cancelled), so do not emit more than that
        from the task that reads. With ``overflow="drop_oldest"`` they never wait: a full stream
        drops its oldest occurrence for the new one, and ``stream.dropped`` counts what was dropped.
        Cancelling a read loses nothing.

        Leaving the block ends the iteration for every reader, discards what was not read, and
        releases the waiting emits.

        Raises:
            TypeError: On entering: `name` is not a ``str``.
            ValueError: On entering: `maxsize` is less than 1, or `overflow` is unknown.
            STTEventError: On reading, once everything that the stream holds has been read: the side
                that emits the event has ended, as a node does when it is stopped: see `give_up`.

        """
        return self._open_stream(name, maxsize, overflow)

    @asynccontextmanager
    async def _open_stream(self, name: str, maxsize: int, overflow: str) -> AsyncIterator[Stream]:
        self._check_name(name)
        if maxsize < 1:
            raise ValueError(f"maxsize must be a number of at least 1, not {maxsize!r}")
        if overflow not in get_args(Overflow):
            raise ValueError(f"overflow must be 'wait' or 'drop_oldest', not {overflow!r}")
        stream = Stream(maxsize, drops=overflow == "drop_oldest")
        try:
            with self._watching((name,), stream):
                yield stream
        finally:
            stream.close()

    def give_up(self, names: Iterable[str], reason: str) -> None:
        """End what waits for these events and no others, because nothing emits them any more.

        That is each `wait_for`, `expect` and `stream`. They raise `STTEventError` with this reason;
        a stream does so once all its pending occurrences have been read. Calls that begin later
        wait as usual. Handlers are unaffected.
        """
        ended = frozenset(names)
        for name in ended:
            for registration in self._watchers.get(name, ()):
                registration.handler.give_up(ended, reason)

    def forget_abandoned(self) -> None:
        """End what `wait_for` and `stream` registered in event loops that were closed since."""
        for name, registrations in list(self._watchers.items()):
            for registration in tuple(registrations):
                if registration.handler.abandoned:
                    self._end(self._watchers, name, registration)

    def _check_name(self, name: str) -> None:
        """Check that something can be registered for an event of this name."""
        check_name(name)

    def _check_handler(self, name: str, handler: Handler) -> None:
        """Check that a handler can be one of this event."""
        check_handler(handler, f"event {name!r}")

    def _register(self, name: str, handler: Handler, *, once: bool) -> Registration[Handler]:
        self._check_name(name)
        self._check_handler(name, handler)
        registration = self._registered.setdefault(name, Registrations()).add(handler, once=once)
        self._changed(name)
        return registration

    @contextmanager
    def _watching(self, names: tuple[str, ...], watcher: Watcher) -> Iterator[None]:
        """Have a watcher see each emit of these events while the block runs."""
        registrations = [(name, self._watch(name, watcher)) for name in names]
        try:
            yield
        finally:
            for name, registration in registrations:
                self._end(self._watchers, name, registration)

    def _watch(self, name: str, watcher: Watcher) -> Registration[Watcher]:
        registration = self._watchers.setdefault(name, Registrations()).add(watcher)
        self._changed(name)
        return registration

    def _end(
        self,
        table: dict[str, Registrations[_T]],
        name: str,
        registration: Registration[_T],
    ) -> None:
        """End a registration. If it has ended before, its table entry may be gone."""
        if registration.active:
            table[name].end(registration)
            self._ended(table, name)

    def _end_handler(self, name: str, registration: Registration[Handler]) -> None:
        self._end(self._registered, name, registration)

    def _ended(self, table: dict[str, Registrations[_T]], name: str) -> None:
        """Note that registrations of an event have ended."""
        if not table[name]:
            del table[name]
        self._changed(name)

    def _changed(self, *names: str) -> None:
        """Note that what an emit of these events does has changed."""
        self.changes += 1
        for name in names:
            entries = registered.entries if (registered := self._registered.get(name)) else ()
            if (
                len(entries) == 1
                and not entries[0].once
                and name != "error"  # emits within its handlers must know that they are
                and name not in self._watchers
                and name not in self._announced
                and not self._any
            ):
                self._plans[name] = Only(entries[0].handler)
            elif entries or name in self._watchers:
                self._plans[name] = None
            else:
                self._plans.pop(name, None)
        for follower in tuple(self.followers):
            follower()

    def _emit_is_replaced(self) -> bool:
        return "emit" in self.__dict__ or type(self).emit is not _ORIGINAL_EMIT

    def _emit_to_several(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Awaitable[list[Any]]:
        """Begin an emit that needs more than one call; the caller awaits the rest at once."""
        if type(name) is not Delivery:
            check_name(name)
            if (meant := announced.get()) is not None and meant == (self, name):
                name = meant[1]
        emission = Emission(
            name,
            args,
            kwargs,
            self._watchers[name].entries if name in self._watchers else (),
            self._any.entries,
            self._registered[name].entries if name in self._registered else (),
            self._end_handler,
            self._failures,
            self._report,
        )
        return emission.run()

    async def _report(self, name: str, handler: Handler, exc: BaseException) -> None:
        """Emit the event ``error`` about a failure, which is in the log."""
        details = {"event": name, "handler": handler, "exception": exc}
        scope = Scope(is_error=True)  # a wrapper of `emit` may do more than emit this
        scope.enter()
        try:
            await self.emit("error", error_type="handler_failed", details=details)
        except Exception as failure:  # noqa: BLE001 - a wrapper's own; the handler's is logged
            self._failures.error(
                f"the replaced emit of {describe(self)} failed for an error event", failure
            )
        finally:
            scope.leave()


_ORIGINAL_EMIT = EventEmitter.emit
"""For noticing that it was replaced, on the class too."""
