"""What the parts of a running node share: settings, event loop, tasks, and the emitting of events.

A node's parts (such as `dialing`, `accepting`, `registry` and `keeper`) each do one thing. They all
depend on this module, and none of them needs to know the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import ref

from ..events import Delivery, task_of_emit
from ..foundation.forks import belongs_to_parent
from ..foundation.repeats import Repeats
from .unheard import ErrorLog

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from ..config import NodeConfig
    from ..endpoints.transport_side import TransportEndpoints
    from ..events import EventEmitter
    from ..sessions.answering import RequestHandler
    from ..sessions.worker import Worker
    from ..stats import SessionStats, Traffic

__all__ = ["NOT_RUNNING", "NO_MORE_MESSAGES", "Counters", "Runtime"]

logger: logging.Logger = logging.getLogger(__name__)

T = TypeVar("T")

NOT_RUNNING = (
    "the node is not running: use it within `async with node` (or `node.listening()`), or await "
    "node.start() first"
)
"""What a call that needs a running node is told."""

NO_MORE_MESSAGES = "the node was stopped: no more messages will arrive"
"""What a receive that is waiting is told when its node stops."""

_REPORT_SECONDS = 1.0
"""What strangers and hostile members can bring about is reported at most this often, with a count,
so that a flood of it does not become a flood of events and tasks."""

_inside: ContextVar[ref[asyncio.Task[Any]] | None] = ContextVar("_inside", default=None)
"""The task of a node in which, or on whose behalf, the present code runs. Code that waits for that
task waits for itself."""


@dataclass(slots=True)
class Counters:
    """What has happened since the node was made; see `stats.NodeStats`.

    The traffic is that of the sessions that have ended.
    """

    sessions_opened: int = 0
    sessions_lost: int = 0
    resumes: int = 0
    handshakes_failed: int = 0
    handshakes_dropped: int = 0
    peers_denied: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0

    def count(self, ended: SessionStats | Traffic) -> None:
        """Add the traffic of a session that has ended."""
        self.messages_sent += ended.messages_sent
        self.messages_received += ended.messages_received
        self.bytes_sent += ended.bytes_sent
        self.bytes_received += ended.bytes_received


class _Report:
    """How often something happened since its last report, the time of that, and its task."""

    __slots__ = ("count", "last", "task")

    def __init__(self) -> None:
        self.count = 0
        self.last = float("-inf")
        self.task: asyncio.Task[None] | None = None


class Runtime:
    """What all parts of one node share.

    Attributes:
        config: The node's settings.
        events: Where its handlers are registered.
        endpoints: Its peers, and what they have sent.
        counters: What has happened so far.
        began: When this life of the node began, by its loop's clock.
        incarnation: 16 random bytes of this life of the node; empty while it does not run.
        is_hub: Whether the node is one of several processes with its node id: hubs of a cluster.
        stopping: Whether the node is being stopped.
        time_is_over: Whether the stopping node no longer waits for handlers, but cancels them.
            If a task of the node is cancelled before that, other code has done it.
        request_handler: What answers the requests of peers; None to refuse them.
        orphaned: Whether this is a forked child, and the node is its parent's.

    """

    def __init__(
        self,
        config: NodeConfig,
        events: EventEmitter,
        endpoints: TransportEndpoints,
        counters: Counters,
    ) -> None:
        self.config = config
        self.events = events
        self.endpoints = endpoints
        self.counters = counters
        self.began: float = 0.0
        self.incarnation: bytes = b""
        self.is_hub: bool = False
        self.stopping: bool = False
        self.time_is_over: bool = False
        self.orphaned: bool = False
        self.request_handler: RequestHandler | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context = Context()  # that of `node.STTNode.start`, while the node runs
        self._tasks: dict[asyncio.Task[Any], Worker | None] = {}
        self._handled = False  # whether there was a handler of messages
        self._stirred = False  # whether workers will be told that this has changed
        self._stop_callers: set[asyncio.Task[Any]] = set()  # wait for `stop`, so it does not wait
        self._quiet = asyncio.Event()  # set when something has ended
        self._reports: dict[str, _Report] = {}  # by type, of which there are a few
        self._error_log = ErrorLog()
        self._failures = Repeats(logger)

    # ------------------------------------------------------------------- lifetime

    def begin(
        self, loop: asyncio.AbstractEventLoop, incarnation: bytes, *, is_hub: bool = False
    ) -> None:
        """Begin a life in this loop, whose tasks see the context variables of this moment."""
        self._loop = self.events.loop = self.endpoints.manager.loop = loop
        self.began = loop.time()
        self._context = copy_context()
        self.incarnation = incarnation
        self.is_hub = is_hub
        self._quiet = asyncio.Event()
        self.stopping = self.time_is_over = self._stirred = False
        self.events.forget_abandoned()  # such a stream of errors would keep them from the log
        self._handled = self.events.handled("data_received")
        self.events.followers.add(self._stir)

    def end(self) -> None:
        """End this life: handlers that could not be ended find no running node."""
        self.events.followers.discard(self._stir)
        self._loop = None
        self._context = Context()
        self.incarnation = b""
        self.stopping = False
        self._stop_callers.clear()
        # Last, because a logging handler of the application may fail.
        self._error_log.flush()
        self._failures.flush()

    def orphan(self) -> None:
        """Be of no use any more: this is a forked child, and the node is its parent's."""
        self._loop = self.events.loop = self.endpoints.manager.loop = None
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
        """Check that the node belongs to this process.

        Raises:
            RuntimeError: It was started in the process that forked this one.

        """
        if self.orphaned:
            raise belongs_to_parent("the node")

    def check_caller(self) -> None:
        """Check that the calling coroutine may use the node.

        Raises:
            RuntimeError: It runs in another event loop than the node, or in a forked child.

        """
        if self.orphaned:
            raise belongs_to_parent("the node")
        loop = self._loop  # every receive that waits comes here: no further calls
        if loop is not None and asyncio.get_running_loop() is not loop and self.running:
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
            raise RuntimeError(NOT_RUNNING)
        return self._loop

    def check_thread(self) -> None:
        """Check, in asyncio's debug mode, that the caller is in the thread of the node's loop.

        Raises:
            RuntimeError: It is not; or this is a forked child.

        """
        if self.orphaned:  # every send to another hub comes here: no further calls
            raise belongs_to_parent("the node")
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
        if worker is not None:
            worker.context = context
        task.add_done_callback(self._disown)
        return task

    def _disown(self, task: asyncio.Task[Any]) -> None:
        worker = self._tasks.pop(task, None)
        if worker is not None:
            worker.task_ended(task)
        self.ended()

    def _stir(self) -> None:
        """Tell the workers in the loop's next turn if there are handlers now, or no longer."""
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
        """Do not wait for the node's task that makes this call, directly or through other tasks.

        It waits for the stop itself. (A task that a handler has made inherits the handler's
        context. If that handler does not wait for the task, the stop waits for the handler.)
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
        """Return the running tasks, without those that wait for the node to stop."""
        return self._tasks.keys() - self._stop_callers

    def ended(self) -> None:
        """Note that something has ended that `until_none` may be waiting for."""
        self._quiet.set()

    async def until_none(self, things: Callable[[], object], seconds: float) -> None:
        """Wait until there are no such things left, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while things():
                    self._quiet.clear()
                    await self._quiet.wait()

    # ---------------------------------------------------------------------- voice

    async def emit(self, event: str, **details: Any) -> None:
        """Emit an event. If a wrapper of ``emit`` raises an exception, that is only logged.

        Raises:
            CancelledError: The task was cancelled. Unless the node did that, it counts as a failure
                of the handler that was running, and has been reported.
            BaseException: `KeyboardInterrupt` or `SystemExit` from a handler.

        """
        if not self.events.observed(event):
            return
        name = event if isinstance(event, Delivery) else Delivery(event)
        failure: BaseException | None = None
        try:
            await self.events.deliver(name, **details)
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except Exception as error:  # noqa: BLE001 - in the log
            self._failures.error(f"emitting {name!r} failed", error)
        except BaseException as error:  # noqa: BLE001 - reported
            failure = error
        if failure is not None:
            try:
                await self._report_failure(name, failure)
            finally:
                failure = None  # its traceback leads here: no cycle of references

    async def _report_failure(self, event: Delivery, failure: BaseException) -> None:
        """Report what ended a handler, be it a cancellation from outside; then re-raise that."""
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
        """Emit the event ``error``, and log it: as a warning if nothing handles errors.

        See ``docs/events.md``.
        """
        try:
            self._error_log.note(error_type, details, handled=self.events.subscribed("error"))
            if self._loop is None:
                self._error_log.flush()  # the node's life has ended, and its last flush with it
        finally:  # a logging handler of the application may fail
            await self.emit("error", error_type=error_type, details=details)

    def log_suspended(self, details: dict[str, Any]) -> None:
        """Log that a session cannot be resumed yet: a warning, unless a handler knows of it."""
        self._error_log.cannot_resume(details, handled=self.events.subscribed("session_suspended"))

    def report(self, error_type: str, details: dict[str, Any]) -> None:
        """Emit the event ``error`` about something that others can cause as often as they like.

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
    """Return whether a task is known to wait until another one has ended.

    There is no public way to ask. If asyncio lacks the attributes that are read here, the answer is
    False, and a stop waits for the task until its time is over.
    """
    told: list[object] = []
    if sys.version_info < (3, 12):
        # There, a partial function tells the waiter of `asyncio.wait_for` that its task has ended.
        calls = [call for call, *_ in getattr(other, "_callbacks", None) or ()]
        told = [arg for call in calls if isinstance(call, partial) for arg in call.args]
    pending: list[Any] = [task]
    seen: set[Any] = {None}  # tasks may wait for each other
    while pending:
        waiting = pending.pop()
        if waiting is other or (waiting is not task and waiting in told):
            return True
        seen.add(waiting)
        awaited = (getattr(waiting, "_fut_waiter", None), *getattr(waiting, "_children", ()))
        pending += [future for future in awaited if future not in seen]
    return False


def _do_nothing() -> None:
    pass
