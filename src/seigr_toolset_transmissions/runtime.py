"""What all parts of a running node share: its settings, its loop, its tasks and its voice.

A node's parts (`dialing`, `accepting`, `registry`, `reconnect`, `keeper`) each do one thing; this
is the ground on which they stand, so that none of them needs to know the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from weakref import ref

from .events import Delivery, task_of_emit
from .forks import belongs_to_parent
from .unheard import UnheardErrors

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .config import NodeConfig
    from .endpoints import EndpointManager
    from .events import EventEmitter

__all__ = ["Counters", "Runtime", "Worker"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_REPORT_SECONDS = 1.0
"""What strangers and hostile members can bring about is reported at most this often, with a count,
so that a flood of it does not become a flood of events and tasks."""

_inside: ContextVar[ref[asyncio.Task[Any]] | None] = ContextVar("_inside", default=None)
"""The task of a node in which, or on whose behalf, the present code runs. Code that waits for that
task waits for itself."""


@dataclass(slots=True)
class Counters:
    """What has happened since the node was made; see `figures.NodeStats`."""

    sessions_opened: int = 0
    sessions_lost: int = 0
    resumes: int = 0
    handshakes_failed: int = 0
    handshakes_dropped: int = 0
    peers_denied: int = 0


class _Report:
    """How often something happened since it was last reported, when that was, and who reports."""

    __slots__ = ("count", "last", "task")

    def __init__(self) -> None:
        self.count = 0
        self.last = float("-inf")
        self.task: asyncio.Task[None] | None = None


class Worker(Protocol):
    """Whose work one of the node's tasks does, and can be gone on with by another."""

    def task_ended(self, task: asyncio.Task[Any]) -> None:
        """Note that the task has ended."""

    def leave(self, task: asyncio.Task[Any]) -> None:
        """Go on without the task: it waits for the node's stop, or cannot be ended."""

    def handlers_changed(self) -> None:
        """Note that handlers were registered or removed."""


class Runtime:
    """One node's common ground.

    Attributes:
        config: The node's settings.
        events: Where its handlers are registered.
        endpoints: Its peers, as the application sees them.
        counters: What has happened so far.
        incarnation: 16 random bytes of this life of the node; empty while it does not run.
        stopping: Whether the node is being stopped.
        time_is_over: Whether the stopping node waits no longer for handlers, and cancels them.
            Whoever cancels a task of the node before that is no part of it.
        orphaned: Whether this is a forked child, and the node is its parent's.

    """

    def __init__(
        self,
        config: NodeConfig,
        events: EventEmitter,
        endpoints: EndpointManager,
        counters: Counters,
    ) -> None:
        self.config = config
        self.events = events
        self.endpoints = endpoints
        self.counters = counters
        self.incarnation = b""
        self.stopping = False
        self.time_is_over = False
        self.orphaned = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context = Context()  # that of `node.STTNode.start`, while the node runs
        self._tasks: dict[asyncio.Task[Any], Worker | None] = {}
        self._handled = False  # whether there was a handler of messages
        self._stirred = False  # whether workers are to be told that there are some, or none
        self._stop_callers: set[asyncio.Task[Any]] = set()  # they wait for `stop`: not it for them
        self._quiet = asyncio.Event()  # set when something has ended
        self._reports: dict[str, _Report] = {}  # by type, of which there are a few
        self._unheard = UnheardErrors()

    # ------------------------------------------------------------------- lifetime

    def begin(self, loop: asyncio.AbstractEventLoop, incarnation: bytes) -> None:
        """Begin a life in this loop, whose tasks see the context variables of this moment."""
        self._loop = loop
        self._context = copy_context()
        self.incarnation = incarnation
        self._quiet = asyncio.Event()
        self.stopping = self.time_is_over = self._stirred = False
        self._handled = self.events.handled("data_received")
        self.events.followers.add(self._stir)

    def end(self) -> None:
        """End it; what handlers that could not be ended still do finds no running node."""
        self._unheard.flush()
        self.events.followers.discard(self._stir)
        self._loop = None
        self._context = Context()
        self.incarnation = b""
        self.stopping = False
        self._stop_callers.clear()

    def orphan(self) -> None:
        """Be of no use any more: this is a forked child, and the node is its parent's."""
        self._loop = None
        self.incarnation = b""
        self.orphaned = True

    @property
    def running(self) -> bool:
        """Whether the node has a loop: it starts, runs or stops."""
        return self._loop is not None and not self._loop.is_closed()

    @property
    def bereft(self) -> bool:
        """Whether the loop was closed while the node ran: nothing of this life can go on."""
        return self._loop is not None and self._loop.is_closed()

    def check_process(self) -> None:
        """See that the node belongs to this process.

        Raises:
            RuntimeError: It was started in the process that forked this one.

        """
        if self.orphaned:
            raise belongs_to_parent("the node")

    def check_caller(self) -> None:
        """See that the calling coroutine may use the node.

        Raises:
            RuntimeError: It runs in another event loop than the node, or in a forked child.

        """
        self.check_process()
        if self.running and asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                "the node runs in another event loop: use it there (from another thread, with "
                "asyncio.run_coroutine_threadsafe()), or stop it there first"
            )

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop in which the node runs.

        Raises:
            RuntimeError: It does not run, or runs in the process that forked this one.

        """
        if self._loop is None:
            self.check_process()
            raise RuntimeError("the node is not running: await node.start() first")
        return self._loop

    def check_thread(self) -> None:
        """See, in asyncio's debug mode, that the caller is in the thread of the node's loop.

        Raises:
            RuntimeError: It is not; or this is a forked child.

        """
        self.check_process()
        if self._loop is not None and self._loop.get_debug():
            self._loop.call_soon(_do_nothing).cancel()  # this is what checks it

    # ---------------------------------------------------------------------- tasks

    def own(
        self,
        coroutine: Coroutine[Any, Any, T],
        worker: Worker | None = None,
        *,
        calls_handlers: bool = True,
    ) -> asyncio.Task[T]:
        """Run a coroutine as a task of the node, which ends with it.

        It runs in a copy of the context in which the node was started: a handler must not see the
        context variables of whoever happened to dial, to send or to receive.
        """
        if self._loop is None:
            coroutine.close()
        context = self._context.copy()
        # Not create_task: an eager task factory would run application code within our own.
        task = asyncio.Task(coroutine, loop=self.loop, context=context)
        if calls_handlers:  # else nothing in it can stop the node; a connection keeps its context
            context.run(_inside.set, ref(task))
        self._tasks[task] = worker
        task.add_done_callback(self._disown)
        return task

    def _disown(self, task: asyncio.Task[Any]) -> None:
        worker = self._tasks.pop(task, None)
        if worker is not None:
            worker.task_ended(task)
        self.ended()

    def _stir(self) -> None:
        """Tell the workers, when the present step of the program is over, of other handlers."""
        handled = self.events.handled("data_received")
        if handled != self._handled:
            self._handled = handled
            if self.running and not self._stirred:
                self._stirred = True
                self.loop.call_soon(self._handlers_changed)

    def _handlers_changed(self) -> None:
        self._stirred = False
        for worker in list(self._tasks.values()):
            if worker is not None:
                worker.handlers_changed()

    def spare_caller(self) -> None:
        """Do not wait for the node's task in which this is called: it waits for us.

        Nor for one that waits for the calling task. A task that a handler has made inherits the
        handler's context, but need not be waited for.
        """
        inside = _inside.get()
        caller = None if inside is None else inside()
        calling = asyncio.current_task()
        if caller is None or calling is None:
            return
        if any(_waits_for(task, calling) for task in (caller, task_of_emit()) if task is not None):
            self._stop_callers.add(caller)
            self.go_on_without({caller})
            self.ended()

    def go_on_without(self, tasks: set[asyncio.Task[Any]]) -> None:
        """Let other tasks do what these would have done next."""
        for task in tasks:
            worker = self._tasks.get(task)
            if worker is not None:
                worker.leave(task)

    def tasks(self) -> set[asyncio.Task[Any]]:
        """Return the tasks that run, but for those that wait for the node's stop."""
        return self._tasks.keys() - self._stop_callers

    def ended(self) -> None:
        """Note that something has ended for which `until_none` may wait."""
        self._quiet.set()

    async def until_none(self, things: Callable[[], object], seconds: float) -> None:
        """Wait until there are no such things any more, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while things():
                    self._quiet.clear()
                    await self._quiet.wait()

    # ---------------------------------------------------------------------- voice

    async def emit(self, event: str, **details: Any) -> None:
        """Emit an event; a wrapper of ``emit`` that raises must not take the node down.

        Raises:
            CancelledError: The task was cancelled. Unless the node has done that, it counts as the
                failure of the handler that ran, and was reported.
            BaseException: `KeyboardInterrupt` or `SystemExit` of a handler.

        """
        name = event if isinstance(event, Delivery) else Delivery(event)
        failure: BaseException | None = None
        try:
            await self.events.deliver(name, **details)
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except Exception:
            logger.exception("emitting %r failed", event)
        except BaseException as error:  # noqa: BLE001 - reported
            failure = error
        if failure is not None:
            try:
                await self._report_failure(name, failure)
            finally:
                failure = None  # its traceback leads here: no cycle of references

    async def _report_failure(self, event: Delivery, failure: BaseException) -> None:
        """Report what others have done to a handler, or it to us; raise a cancellation after it."""
        task = asyncio.current_task()
        cancelled = isinstance(failure, asyncio.CancelledError)
        try:
            if cancelled and self.time_is_over:
                raise failure
            while task is not None and task.cancelling():
                task.uncancel()
            if event.handler is not None:
                await self.events.failed(str(event), event.handler, failure)
            if cancelled:
                raise failure
        finally:
            del failure  # its traceback leads here: no cycle of references

    async def emit_error(self, error_type: str, details: dict[str, Any]) -> None:
        """Emit the event ``error``, or warn in the log if nobody has asked for it.

        See ``docs/events.md``.
        """
        self.warn_if_unheard(error_type, details)
        await self.emit("error", error_type=error_type, details=details)

    def warn_if_unheard(self, error_type: str, details: dict[str, Any]) -> None:
        """Warn in the log, unless somebody has asked for errors: then it is told, or will be."""
        if not self.events.subscribed("error"):
            self._unheard.note(error_type, details)
            if self._loop is None:
                self._unheard.flush()  # it belongs to the life that has ended: nobody else will

    def report(self, error_type: str, details: dict[str, Any]) -> None:
        """Emit the event ``error`` about what others may bring about at will.

        At most one a second of each type, and none while the handlers of the last one run;
        ``count`` in its details says how many there were since then.
        """
        report = self._reports.setdefault(error_type, _Report())
        report.count += 1
        now = self.loop.time()
        if self.stopping or now - report.last < _REPORT_SECONDS:
            return
        if report.task is not None and not report.task.done():
            return  # a handler that hangs, or a stream that nobody reads
        report.last = now
        count, report.count = report.count, 0
        report.task = self.own(self.emit_error(error_type, details | {"count": count}))


def _waits_for(task: asyncio.Future[Any], other: asyncio.Task[Any]) -> bool:
    """Tell whether a task cannot go on before another one has ended, as far as that shows."""
    if task is other:
        return True
    # There is no public way to ask for it. What `asyncio.wait_for` awaits up to Python 3.11 is told
    # of the end of its task by a partial function.
    awaited = getattr(task, "_fut_waiter", None)
    calls = [call for call, _ in getattr(other, "_callbacks", None) or ()]
    if any(isinstance(call, partial) and awaited in call.args for call in calls):
        return awaited is not None
    return any(
        _waits_for(future, other)
        for future in (awaited, *getattr(task, "_children", ()))
        if future is not None
    )


def _do_nothing() -> None:
    pass
