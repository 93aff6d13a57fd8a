"""`EventEmitter`: who is called when an event is emitted, and what becomes of the results."""

from __future__ import annotations

import asyncio
import sys
from asyncio import CancelledError, current_task
from contextlib import asynccontextmanager
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..callables import is_async
from .delivery import Delivery, announced
from .emission import Emission
from .handlers import Handler, check_handler, check_name, describe, log, log_failure
from .isolation import SpareLane, finish, new_lane
from .registrations import Registration, Registrations
from .scopes import Scope, below_error, is_cancellation, timed_out
from .watching import Occurrence, Stream, Waiter, Watcher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

__all__ = ["EventEmitter"]

_H = TypeVar("_H", bound=Handler)
_T = TypeVar("_T")


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
    """How often something was registered or removed, or `emit` replaced on the instance."""

    def __init__(self) -> None:
        # What the user has registered, by event. Never empty registrations.
        self._registered: dict[str, Registrations[Handler]] = {}
        # What `wait_for` and `stream` have registered; likewise.
        self._watchers: dict[str, Registrations[Watcher]] = {}
        self._any: Registrations[Handler] = Registrations()
        # By event, the handler whose call is all that an emit has to do.
        self._only: dict[str, Handler] = {}
        # Events that a replaced `emit` may have been given as a `Delivery`, and lost that.
        self._announced: set[str] = set()
        self._spare = SpareLane()
        self.followers: set[Callable[[], None]] = set()
        """Called whenever `changes` changes, within the change; for the emitter's owner."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "emit":
            self.changes += 1

    @property
    def _handlers(self) -> dict[str, list[Handler]]:
        """A new dict of the handlers by event, to look at."""
        return {name: self.handlers(name) for name in self._registered}

    def on(self, name: str) -> Callable[[_H], _H]:
        """Return a decorator that registers a handler for `name` and returns it unchanged."""
        check_name(name)

        def decorator(handler: _H) -> _H:
            self.register(name, handler)
            return handler

        return decorator

    def register(self, name: str, handler: Handler) -> None:
        """Call `handler` at every later emit of `name`, after those registered before it."""
        self._register(name, handler, once=False)

    def once(self, name: str) -> Callable[[_H], _H]:
        """Return a decorator like `on`, for a handler that is called at most once.

        It is removed before it is called, so that neither a nested nor a concurrent emit calls it
        again. `remove_handler` with the handler itself removes it earlier.
        """
        check_name(name)

        def decorator(handler: _H) -> _H:
            self._register(name, handler, once=True)
            return handler

        return decorator

    def on_any(self, handler: _H) -> _H:
        """Call ``handler(name, args, kwargs)`` at every later emit; return `handler` unchanged.

        It starts before the event's own handlers, and runs and fails like them, but its result is
        not among the emit's. `kwargs` is a copy of its own. It also sees the ``error`` events of
        other handlers' failures. All handlers of `on_any` see emits that run concurrently in one
        order, that in which these began.
        """
        check_handler(handler, "on_any")
        self._any.add(handler)
        self._changed(*self._registered)
        return handler

    def remove_handler(self, name: str, handler: Handler) -> None:
        """Remove the oldest registration of a handler equal to `handler`; none is no error.

        Where an emit has not started it yet, it is not called any more.
        """
        registered = self._registered.get(name)
        if registered is not None and registered.end_first(handler):
            self._ended(self._registered, name)

    def remove_any(self, handler: Handler) -> None:
        """Remove the oldest `on_any` registration of a handler equal to `handler`, if any."""
        if self._any.end_first(handler):
            self._changed(*self._registered)

    def clear_event(self, name: str) -> None:
        """Remove every handler of `name`. What waits in `wait_for` or `stream` goes on waiting."""
        if (registered := self._registered.get(name)) is not None:
            registered.end_all()
            self._ended(self._registered, name)

    def clear_all(self) -> None:
        """Remove the handlers of every event and of `on_any`.

        What waits in `wait_for` or `stream` goes on waiting: its own block ends it.
        """
        for name in list(self._registered):
            self.clear_event(name)
        self._any.end_all()
        self._changed()

    def handlers(self, name: str) -> list[Handler]:
        """Return a new list of the handlers of `name`, in order of registration.

        What `on_any`, `wait_for` and `stream` registered is not in it.
        """
        return [registration.handler for registration in self._registered.get(name, ())]

    def events(self) -> list[str]:
        """Return a new list of the names that have at least one handler."""
        return list(self._registered)

    def handled(self, name: str) -> bool:
        """Tell whether there is a handler of `name`: whether `handlers` returns any."""
        return name in self._registered

    def subscribed(self, name: str) -> bool:
        """Tell whether anybody has asked for this very event: by a handler, `wait_for`, `stream`.

        What `on_any` registered does not count: it watches everything, and need not act on it.
        """
        return name in self._registered or name in self._watchers

    def observed(self, name: str) -> bool:
        """Tell whether anything would see an emit of `name`, to spare making what nobody sees.

        Handlers count, `on_any`, `wait_for` and `stream`, and an ``emit`` that was replaced on the
        instance, on the class or in a subclass.
        """
        return (
            name in self._registered
            or bool(self._any.entries)
            or name in self._watchers
            or self._emit_is_replaced()
        )

    async def emit(self, name: str, /, *args: Any, **kwargs: Any) -> list[Any]:
        """Call every handler that is registered for `name` now, and wait until all have ended.

        What `wait_for` and `stream` have registered is told before anything can wait. The handlers
        start in order of registration and run concurrently: the first that has to wait goes on in
        the calling task, and each after it has a task of its own. One that is removed before it
        started is not called; one that is registered meanwhile waits for the next emit. Each call
        has a copy of the caller's context: what it does to context variables is for itself alone.

        Whatever a handler raises (`CancelledError` of its own included, and `TypeError` for
        arguments it does not take) harms neither the others nor the caller: the failure is logged
        with its traceback and emitted as ``error`` with ``error_type="handler_failed"`` and
        ``details`` of ``event``, ``handler`` and ``exception``, which is awaited too. What fails
        during an ``error`` event, in any emit that its handlers make before it has ended, or after
        this emit was cancelled, is logged only.

        A handler whose time-out cancels the calling task, and never takes that back, cancels
        neither that task nor the emit.

        Returns:
            The handlers' results in order of registration, a failure as its exception object; an
            empty list if there is no handler.

        Raises:
            TypeError: `name` is not a ``str``. Nothing was called.
            CancelledError: The calling task was cancelled. Handlers may have run wholly, in part or
                not at all; all that were running have been cancelled and have ended. (A single
                handler that swallows the cancellation and returns, or raises a `TimeoutError`, or
                another error ``from`` it, keeps it from the caller, as anything that is awaited
                does. In a task that was cancelled before the emit, a `CancelledError` of a single
                handler's own counts as the task's.)
            BaseException: `KeyboardInterrupt` and `SystemExit` from a handler, after all other
                handlers were cancelled and have ended.

        """
        handler = self._only.get(name)
        if handler is None or type(name) is Delivery:
            if self._any.entries or self._watchers or name in self._registered:
                return await self._emit_to_several(name, args, kwargs)
            if type(name) is not str:
                check_name(name)
            return []
        try:
            spare = self._spare
            lane, spare.lane = spare.lane or new_lane(), None  # the handler may emit, too, or wait
            context = copy_context()
            results = context.run(lane, handler(*args, **kwargs))
            if type(results) is not list:
                results = await finish(context, lane, results)
            spare.lane = lane
            return results  # noqa: TRY300 - faster here than in an `else` block
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as exc:  # noqa: BLE001 - reported, and in the results
            failure = exc
        try:
            await self.failed(name, handler, failure)
            return [failure]
        finally:
            del failure  # its traceback leads here: no cycle of references

    def deliver(self, delivery: Delivery, **kwargs: Any) -> Awaitable[object]:
        """Emit an event so that ``delivery`` hears of it, whatever a replaced `emit` does with it.

        The caller awaits what this returns. A replacement may pass on another string of the same
        name. What it emits after ``delivery`` became ``watch_only`` reaches only those who watch.
        """
        if self._emit_is_replaced():
            return self._announce(delivery, kwargs)
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

        That holds until `changes` has another value, or ``emit`` is replaced on the class. To await
        the handler costs half of what an `emit` does, but what the handler does to context
        variables stays done. The caller passes to `failed` whatever the handler raises, but for
        `KeyboardInterrupt` and `SystemExit`.
        """
        return None if self._emit_is_replaced() else self._only.get(name)

    async def failed(self, name: str, handler: Handler, failure: BaseException) -> None:
        """Log and report that a handler of `name` has failed, as `emit` does.

        Call it when `failure` is handled no more (behind the ``except`` block, not within).

        Raises:
            CancelledError: The calling task was cancelled, and the failure comes of that. Where
                that cannot be, take the cancellation back first (`asyncio.Task.uncancel`).

        """
        try:
            if is_cancellation(failure, sys.exception()):
                if isinstance(failure, CancelledError):
                    raise failure
                log_failure(name, handler, failure)
                raise CancelledError
            if timed_out(failure) and (task := current_task()) is not None:
                task.uncancel()
            log_failure(name, handler, failure)
            if name != "error" and not below_error():
                await self._report(name, handler, failure)
        finally:
            del failure  # its traceback leads here: no cycle of references

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
            STTEventError: Whoever emits it has ended, as a node that is stopped: see `give_up`.
            TypeError: `name` is not a ``str``, or `predicate` is async.
            Exception: Whatever `predicate` raised; the emit is not affected.

        However it ends, cancelled included, nothing stays registered.

        """
        check_name(name)
        if predicate is not None and is_async(predicate):
            raise TypeError(f"the predicate {describe(predicate)} is async: write it with `def`")
        waiter = Waiter(predicate)
        registration = self._watch(name, waiter)
        try:
            await asyncio.wait((waiter.settled,), timeout=timeout)
        finally:
            self._end(self._watchers, name, registration)
        found = waiter.result()
        if found is None:
            raise TimeoutError(f"no matching event {name!r} within {timeout} s")
        return found

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
            STTEventError: On reading, when everything that had come was read: whoever emits it has
                ended: see `give_up`. A node does when it is stopped.

        """
        check_name(name)
        if maxsize < 1:
            raise ValueError(f"maxsize must be a number of at least 1, not {maxsize!r}")
        stream = Stream(maxsize)
        registration = self._watch(name, stream)
        try:
            yield stream
        finally:
            self._end(self._watchers, name, registration)
            stream.close()

    def give_up(self, names: Iterable[str], reason: str) -> None:
        """End each `wait_for` and `stream` of these events, because their emitting side has ended.

        They raise `STTEventError` with this reason; a stream does so once all its pending
        occurrences have been read. Calls that begin later wait as usual. Handlers are unaffected.
        """
        for name in names:
            for registration in self._watchers.get(name, ()):
                registration.handler.give_up(reason)

    def _register(self, name: str, handler: Handler, *, once: bool) -> None:
        check_name(name)
        check_handler(handler, f"event {name!r}")
        self._registered.setdefault(name, Registrations()).add(handler, once=once)
        self._changed(name)

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
        """End a registration; if it has ended, its registrations may be gone."""
        if registration.active:
            table[name].end(registration)
            self._ended(table, name)

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
                and name != "error"  # what is below it must know
                and name not in self._watchers
                and name not in self._announced
                and not self._any
            ):
                self._only[name] = entries[0].handler
            else:
                self._only.pop(name, None)
        for follower in tuple(self.followers):
            follower()

    def _emit_is_replaced(self) -> bool:
        return "emit" in self.__dict__ or type(self).emit is not _ORIGINAL_EMIT

    async def _emit_to_several(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Any]:
        check_name(name)
        if type(name) is not Delivery and (meant := announced.get()) == (self, name):
            name = meant[1]
        emission = Emission(
            name,
            args,
            kwargs,
            _all(self._watchers.get(name)),
            _all(self._any),
            _all(self._registered.get(name)),
            partial(self._end, self._registered, name),
            self._report,
        )
        await emission.run()
        return emission.results()

    async def _report(self, name: str, handler: Handler, exc: BaseException) -> None:
        """Emit the event ``error`` about a failure, which is in the log."""
        details = {"event": name, "handler": handler, "exception": exc}
        scope = Scope(is_error=True)  # a wrapper of `emit` may do more than to emit this
        scope.enter()
        try:
            await self.emit("error", error_type="handler_failed", details=details)
        except Exception:  # noqa: BLE001 - a wrapper's own failure; the handler's is logged
            log.exception("the replaced emit of %s failed for an error event", describe(self))
        finally:
            scope.leave()


def _all(registrations: Registrations[_T] | None) -> list[Registration[_T]]:
    """Return what is registered now, and perhaps some that have ended, which are marked so."""
    return registrations.entries.copy() if registrations else []


_ORIGINAL_EMIT = EventEmitter.emit
"""To recognise one that was replaced, on the class too."""
