"""Requests that the peer sends over one session, and the handler that answers them.

Up to ``max_requests`` handlers run concurrently, alongside those of messages. Tasks of the node,
called lanes here, take the waiting requests in order. When its handler returns, a lane continues
with the next request; when all lanes are waiting in handlers, another lane starts. So a handler
that never waits needs no task of its own.

Every request gets a reply, whatever happens in its handler, unless the session ends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVarTuple

from ..errors import STTMessageSizeError, STTRequestFailedError, STTSessionClosedError
from ..foundation.futures import retrieve
from ..foundation.payload import as_bytes
from ..protocol.exchanges import REQUEST_BYTES, ReplyStatus
from ..protocol.outbox import FRAME_COST
from .worker import WorkerOwner, is_being_closed

if TYPE_CHECKING:
    from ..protocol.exchanges import Arrived, Exchanges
    from ..protocol.machine import SessionMachine

__all__ = ["Answering", "AnsweringOwner", "RequestHandler"]

Ts = TypeVarTuple("Ts")

_OK, _REFUSED = ReplyStatus.OK, ReplyStatus.REFUSED  # see `machine`
_COST = REQUEST_BYTES + FRAME_COST

_REPORT_BYTES = 4 * 1024
_REPORT_SHARE = 16
"""While more requests wait, handlers may take this many bytes, but no more than this share of the
receive window, before the session learns of it: reporting each request would cost as much as a
short handler."""

RequestHandler = Callable[[bytes, bytes], Awaitable[bytes]]
"""Called with the asking peer's node id and the request; returns the reply."""


class AnsweringOwner(WorkerOwner, Protocol):
    """What answering needs of the node."""

    @property
    def request_handler(self) -> RequestHandler | None:
        """What answers requests; None to refuse them all."""


class Answerer(Protocol):
    """What answering needs of the session."""

    peer_node_id: bytes
    machine: SessionMachine

    def accept(self, accept: Callable[[*Ts], int], /, *args: *Ts) -> bool:
        """Accept something for sending, if its turn has come and there is room."""

    async def accept_in_turn(
        self, accept: Callable[[*Ts], int], /, *args: *Ts, past_holds: bool
    ) -> None:
        """Accept something for sending, in its turn, or before all holds."""

    def acknowledge_later(self) -> None:
        """Acknowledge what was consumed, within ``ack_delay``."""


class Answering:
    """The requests of the peer over one session."""

    __slots__ = (
        "_books",
        "_cancelled",
        "_ended",
        "_lanes",
        "_owner",
        "_reporting",
        "_running",
        "_session",
        "_taken",
        "_waiting",
        "_watching",
        "context",
    )

    def __init__(self, session: Answerer, books: Exchanges, owner: AnsweringOwner) -> None:
        self._session = session
        self._books = books
        self._owner = owner
        self._waiting: deque[Arrived] = deque()
        self._lanes: set[asyncio.Task[None]] = set()
        self._running: dict[int, asyncio.Task[None]] = {}  # requests whose handler runs
        self._cancelled: set[int] = set()  # those among them that the peer has cancelled
        self._reporting: set[asyncio.Task[None]] = set()  # lanes that report a failure
        self._taken = 0  # bytes, as windows count them, that handlers took since the last report
        self._watching = False  # whether the loop calls `_start_lane` after this turn's handlers
        self._ended = False
        self.context: Context = Context()  # in which the newest lane runs; whatever owns it sets it

    # ------------------------------------------------------------------ what comes in

    def take(self) -> None:
        """Take the requests and cancellations that have arrived."""
        books = self._books
        arrived, books.arrived = books.arrived, []
        cancelled, books.cancelled = set(books.cancelled), []
        if self._ended:
            return  # when the peer learns of the end, it knows that its requests are lost
        if arrived:
            self._waiting.extend(arrived)
            self._start_lane()
        if cancelled:
            for request_id in (cancelled & self._running.keys()) - self._cancelled:
                self._cancelled.add(request_id)
                self._running[request_id].cancel()
            waiting, self._waiting = self._waiting, deque()
            for request_id, data in waiting:
                if request_id in cancelled:
                    self._taken += len(data) + _COST
                    self._reply_soon(request_id, ReplyStatus.CANCELLED)
                else:
                    self._waiting.append((request_id, data))
            if self._taken:
                self._report()

    def refuse_waiting(self) -> None:
        """Refuse the waiting requests while there is room: the session will soon accept no more."""
        while self._waiting:
            request_id, _ = self._waiting.popleft()
            if not self._session.accept(self._books.answer, request_id, ReplyStatus.REFUSED, b""):
                return

    def end(self) -> None:
        """Cancel every handler except one that calls this: no reply can be sent any more.

        Each is cancelled only once, because its cleanup may have to wait for something.
        """
        if self._ended:
            return
        self._ended = True
        self._waiting.clear()
        caller = asyncio.current_task(self._owner.loop)
        for lane in self._lanes - self._reporting:
            if lane is not caller and not lane.cancelling():
                lane.cancel()

    # -------------------------------------------------------------------------- lanes

    def _start_lane(self) -> None:
        """Start a lane if requests wait and every lane is waiting in a handler."""
        self._watching = False
        busy = len(self._running) + len(self._reporting)
        if self._waiting and busy == len(self._lanes) < self._owner.config.max_requests:
            self._lanes.add(self._owner.own(self._run(), self))

    def task_ended(self, task: asyncio.Task[None]) -> None:
        """Continue in another lane if requests wait."""
        self._lanes.discard(task)
        retrieve(task)  # the loop has it already
        if not self._ended:
            self._start_lane()

    def leave(self, task: asyncio.Task[None]) -> None:
        """Forget a lane whose handler waits for the node to stop, so that nothing cancels it."""
        self._lanes.discard(task)
        self._running = {one: lane for one, lane in self._running.items() if lane is not task}

    def handlers_changed(self) -> None:
        """Do nothing: the handlers of events do not answer requests."""

    async def _run(self) -> None:
        """Answer waiting requests until this task holds state that the next one must not see."""
        lane = asyncio.current_task()
        assert lane is not None  # noqa: S101  it is one of the node's
        context, clean = self.context, self.context.copy()
        time, clock = self._owner.loop_time, self._owner.loop.time
        until = time.until() or await time.wait()
        most = min(_REPORT_BYTES, self._session.machine.window // _REPORT_SHARE)
        while self._waiting and lane in self._lanes:
            request_id, data = self._waiting.popleft()
            self._taken += len(data) + _COST
            if not self._waiting or self._taken >= most:
                self._report()
            await self._answer(lane, request_id, data)
            if lane.cancelling() or context != clean:
                return
            if clock() > until:
                until = await time.wait()

    async def _answer(self, lane: asyncio.Task[None], request_id: int, data: bytes) -> None:
        """Call the handler and send what it returns."""
        handler = self._owner.request_handler
        if handler is None:
            await self._reply(request_id, _REFUSED, b"")
            return
        self._running[request_id] = lane
        if self._waiting and not self._watching:
            self._watching = True
            self._owner.loop.call_soon(self._start_lane)
        status, reply = _OK, b""
        failure: BaseException | None = None
        try:
            try:
                reply = await handler(self._session.peer_node_id, data)
                if type(reply) is not bytes:
                    reply = _as_reply(reply)
            except STTRequestFailedError as error:
                if error.is_outcome:  # another peer's words to this node are not for this peer
                    raise
                status, reply = ReplyStatus.FAILED, error.data
        except BaseException as error:  # noqa: BLE001 - see `_failed`
            failure = error
        if request_id in self._running:
            del self._running[request_id]
        if failure is None and request_id not in self._cancelled:
            try:
                if not self._session.accept(self._books.answer, request_id, status, reply):
                    await self._reply(request_id, status, reply)
            except STTMessageSizeError as error:
                failure = error
            except STTSessionClosedError:
                return  # nobody waits for the reply
            else:
                return
        try:
            await self._failed(lane, request_id, handler, failure)
        finally:
            failure = None  # its traceback leads here: no cycle of references

    async def _failed(
        self,
        lane: asyncio.Task[None],
        request_id: int,
        handler: RequestHandler,
        failure: BaseException | None,
    ) -> None:
        """Reply that the request has failed or was cancelled, and report what was raised."""
        try:
            if isinstance(failure, GeneratorExit) and is_being_closed(lane):
                raise failure
            cancelled = request_id in self._cancelled
            self._cancelled.discard(request_id)
            self._reply_soon(request_id, ReplyStatus.CANCELLED if cancelled else ReplyStatus.FAILED)
            if failure is None or (
                isinstance(failure, asyncio.CancelledError)
                and (cancelled or self._ended or self._owner.time_is_over)
            ):
                return
            if isinstance(failure, KeyboardInterrupt | SystemExit):
                raise failure
            cancelled = lane.cancelling() > 0
            while lane.cancelling():
                lane.uncancel()  # so that it does not end the report
            self._reporting.add(lane)
            try:
                self._start_lane()
                await self._owner.events.failed("request", handler, failure)
            finally:
                self._reporting.discard(lane)
            if cancelled:
                raise asyncio.CancelledError  # it may have been meant for all tasks: this one ends
        finally:
            del failure  # its traceback leads here: no cycle of references

    def _report(self) -> None:
        """Give the peer credit for what this side no longer holds."""
        taken, self._taken = self._taken, 0
        self._session.machine.consumed(taken, 0)
        self._session.acknowledge_later()

    # ------------------------------------------------------------------------ replies

    async def _reply(self, request_id: int, status: ReplyStatus, data: bytes) -> None:
        """Send a reply, and wait for room. Does nothing if the session has ended."""
        session, answer = self._session, self._books.answer
        try:
            if not session.accept(answer, request_id, status, data):
                await session.accept_in_turn(answer, request_id, status, data, past_holds=True)
        except STTSessionClosedError:
            pass
        except asyncio.CancelledError:
            self._reply_soon(request_id, ReplyStatus.CANCELLED)
            raise

    def _reply_soon(self, request_id: int, status: ReplyStatus) -> None:
        """Send an empty reply, in a task of its own if there is no room for it now."""
        if self._ended:
            return
        try:
            if self._session.accept(self._books.answer, request_id, status, b""):
                return
        except STTSessionClosedError:
            return
        sending = self._owner.own(self._send_in_turn(request_id, status))
        sending.add_done_callback(partial(self._sent, request_id, status))

    async def _send_in_turn(self, request_id: int, status: ReplyStatus) -> None:
        with suppress(STTSessionClosedError):
            answer = self._books.answer
            await self._session.accept_in_turn(answer, request_id, status, b"", past_holds=True)

    def _sent(self, request_id: int, status: ReplyStatus, sending: asyncio.Task[None]) -> None:
        if sending.cancelled():  # by other code, perhaps before it had begun
            self._reply_soon(request_id, status)


def _as_reply(returned: Any) -> bytes:
    """Return what a handler has returned as ``bytes``; raise TypeError if it is no reply."""
    try:
        return as_bytes(returned)
    except TypeError:
        kind = "None" if returned is None else type(returned).__name__
        raise TypeError(
            'a handler of requests must return its reply as bytes, b"" if there is nothing to '
            f"say, not {kind}"
        ) from None
