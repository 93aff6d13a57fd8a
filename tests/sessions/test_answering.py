"""Requests of the peer alone, with a node and a session that do as they are told."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, cast

import pytest

from helpers.nodes import in_virtual_time
from seigr_toolset_transmissions import NodeConfig
from seigr_toolset_transmissions.errors import (
    STTMessageSizeError,
    STTRequestFailedError,
    STTSessionClosedError,
)
from seigr_toolset_transmissions.protocol.exchanges import Exchanges, ReplyStatus
from seigr_toolset_transmissions.protocol.outbox import FRAME_COST
from seigr_toolset_transmissions.sessions.answering import Answering, RequestHandler
from seigr_toolset_transmissions.sessions.loop_time import TURN_SECONDS, LoopTime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from seigr_toolset_transmissions.protocol.frames import FrameType

OK, FAILED, REFUSED, CANCELLED = ReplyStatus
PEER = b"the peer's node id"
variable: ContextVar[str] = ContextVar("variable", default="clean")


class World:
    """The node, the session and its outbox in one."""

    peer_node_id = PEER
    messages_sent = messages_acked = 0

    def __init__(self, max_requests: int = 64) -> None:
        self.config = NodeConfig(max_requests=max_requests)
        self.loop = asyncio.get_running_loop()
        self.loop_time = LoopTime(self.loop)
        self.time_is_over = False
        self.request_handler: RequestHandler | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.replies: list[tuple[int, ReplyStatus, bytes]] = []
        self.window = 1000  # of which a sixteenth is less than one request
        self.taken = 0  # what the peer has credit for again, and what its requests have cost
        self.cost = 0
        self.room = 10_000  # replies
        self.room_came = asyncio.Event()
        self.closed = False
        self.reports: list[BaseException] = []
        self.may_report = asyncio.Event()
        self.may_report.set()
        self.asked = 0
        self.books = Exchanges(cast("Any", self))
        self.answering = Answering(cast("Any", self), self.books, cast("Any", self))

    # As the node

    def own(
        self, coroutine: Coroutine[Any, Any, None], worker: Answering | None = None
    ) -> asyncio.Task[None]:
        context = copy_context()
        task = asyncio.Task(coroutine, loop=self.loop, context=context)
        self.tasks.add(task)
        if worker is not None:
            worker.context = context
            task.add_done_callback(worker.task_ended)
        task.add_done_callback(self.tasks.discard)
        return task

    @property
    def events(self) -> World:
        return self

    async def failed(self, name: str, handler: RequestHandler, failure: BaseException) -> None:
        current = asyncio.current_task()
        assert current is not None
        assert not current.cancelling()
        assert (name, handler) == ("request", self.request_handler)
        self.reports.append(failure.with_traceback(None))
        await self.may_report.wait()

    # As the session

    @property
    def machine(self) -> World:
        return self

    def consumed(self, size: int, count: int) -> None:
        self.taken += size + count * FRAME_COST

    def acknowledge_later(self) -> None: ...

    def accept(self, accept: Callable[..., int], /, *args: Any, **_: Any) -> bool:
        return accept(*args) > 0

    async def accept_in_turn(self, accept: Callable[..., int], /, *args: Any, **_: Any) -> None:
        while not accept(*args):
            await self.room_came.wait()

    # As its outbox

    def bears(self, size: int) -> bool:
        return size <= 1000

    def send_as(self, kind: FrameType, message: bytes) -> int:
        if self.closed:
            raise STTSessionClosedError("closed")
        if len(message) > 1000:
            raise STTMessageSizeError("too long")
        if not self.room:
            return 0
        self.room -= 1
        reply = int.from_bytes(message[:8]), ReplyStatus(message[8]), message[9:]
        assert reply[0] in self.books._unanswered
        self.replies.append(reply)
        return 1

    # For tests

    async def ask(self, *data: bytes) -> None:
        for one in data:
            self.books.on_request(self.asked.to_bytes(8) + one)
            self.asked += 1
            self.cost += 8 + len(one) + FRAME_COST
        self.answering.take()
        await turns()

    async def cancel(self, *request_ids: int) -> None:
        for request_id in request_ids:
            self.books.on_cancel(request_id)
        self.answering.take()
        await turns()

    async def give_room(self) -> None:
        self.room = 10_000
        self.room_came.set()
        await turns()

    def close(self) -> None:
        self.answering.refuse_waiting()
        self.closed = True
        self.room_came.set()
        self.answering.end()

    @property
    def statuses(self) -> dict[int, ReplyStatus]:
        assert len({reply[0] for reply in self.replies}) == len(self.replies)
        return {request_id: status for request_id, status, _ in self.replies}


async def turns(count: int = 12) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def world(max_requests: int = 64) -> AsyncIterator[World]:
    """Make a world; see at its end that nothing is left."""
    one = World(max_requests)
    yield one
    await turns()
    assert not one.tasks
    answering = one.answering
    for left in ("_lanes", "_running", "_cancelled", "_reporting", "_waiting"):
        assert not getattr(answering, left), left
    if not one.closed:
        assert not one.books._unanswered
        assert one.taken == one.cost


async def echo(peer_node_id: bytes, data: bytes) -> bytes:
    assert peer_node_id == PEER
    return data


class OddError(Exception):
    """A failure that can be referred to weakly."""


class Hang:
    """A handler that waits for `go_on`; `asked` and `cancelled` tell what it was called for."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.asked: list[bytes] = []
        self.cancelled: list[bytes] = []
        self.tasks: list[asyncio.Task[Any]] = []

    async def __call__(self, peer_node_id: bytes, data: bytes) -> bytes:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.append(task)
        self.asked.append(data)
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.append(data)
            raise
        return data


def raising(error: BaseException) -> RequestHandler:
    async def handler(peer_node_id: bytes, data: bytes) -> bytes:
        raise error

    return handler


@in_virtual_time
async def test_quick_handlers_share_one_task() -> None:
    async with world() as one:
        lanes = set()

        async def handler(peer_node_id: bytes, data: bytes) -> bytes:
            lanes.add(asyncio.current_task())
            return data

        one.request_handler = handler
        await one.ask(b"0", b"1", b"2")
        assert one.replies == [(number, OK, b"%d" % number) for number in range(3)]
        assert len(lanes) == 1


@in_virtual_time
async def test_without_a_handler_all_are_refused() -> None:
    async with world() as one:
        await one.ask(b"0", b"1")
        assert one.replies == [(0, REFUSED, b""), (1, REFUSED, b"")]


@in_virtual_time
async def test_handlers_that_wait_run_at_once_up_to_the_limit() -> None:
    async with world(max_requests=3) as one:
        one.request_handler = hang = Hang()
        await one.ask(*(b"%d" % number for number in range(5)))
        assert hang.asked == [b"0", b"1", b"2"]
        assert one.taken == 3 * (9 + FRAME_COST)  # the others use up credit
        hang.go_on.set()
        await turns()
        assert hang.asked == [b"%d" % number for number in range(5)]
        assert set(one.statuses.values()) == {OK}


@in_virtual_time
async def test_one_that_arrives_while_all_wait_gets_a_task() -> None:
    async with world() as one:
        one.request_handler = hang = Hang()
        await one.ask(b"0")
        await one.ask(b"1")
        assert hang.asked == [b"0", b"1"]
        hang.go_on.set()


@pytest.mark.parametrize(
    ("error", "data", "reported"),
    [
        (STTRequestFailedError(b"why"), b"why", None),
        (STTRequestFailedError(bytearray(b"why")), b"why", None),  # type: ignore[arg-type]
        (STTRequestFailedError(bytes(1000)), b"", STTMessageSizeError),
        (ValueError(), b"", ValueError),
        (GeneratorExit(), b"", GeneratorExit),
        (asyncio.CancelledError(), b"", asyncio.CancelledError),
    ],
)
@in_virtual_time
async def test_each_failure_has_a_reply_and_the_next_one_its_turn(
    error: BaseException, data: bytes, reported: type[BaseException] | None
) -> None:
    async with world(max_requests=1) as one:
        one.request_handler = raising(error)
        await one.ask(b"0", b"1")
        assert one.replies == [(0, FAILED, data), (1, FAILED, data)]
        assert {type(report) for report in one.reports} == ({reported} if reported else set())


@pytest.mark.parametrize("reply", ["text", None, 5, bytes(1000)])
@in_virtual_time
async def test_a_reply_that_cannot_be_sent_is_a_failure(reply: object) -> None:
    async with world() as one:

        async def handler(peer_node_id: bytes, data: bytes) -> bytes:
            return reply  # type: ignore[return-value]

        one.request_handler = handler
        await one.ask(b"0")
        assert one.replies == [(0, FAILED, b"")]
        assert isinstance(one.reports[0], TypeError | STTMessageSizeError)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_does_and_the_peer_hears_of_a_failure(
    error: type[BaseException],
) -> None:
    one: World

    async def main() -> None:
        nonlocal one
        one = World()
        one.request_handler = raising(error())
        await one.ask(b"0")

    with pytest.raises(error):
        asyncio.run(main())
    assert one.replies == [(0, FAILED, b"")]
    assert one.reports == []


@in_virtual_time
async def test_a_report_that_waits_holds_up_no_other_request() -> None:
    async with world(max_requests=2) as one:
        one.may_report.clear()
        one.request_handler = raising(ValueError())
        await one.ask(b"0", b"1", b"2")
        assert one.statuses == {0: FAILED, 1: FAILED}  # as many as may run
        one.may_report.set()
        await turns()
        assert one.statuses == dict.fromkeys(range(3), FAILED)
        assert len(one.reports) == 3


# ---------------------------------------------------------------------- cancellation


@in_virtual_time
async def test_a_cancel_reaches_what_runs_and_what_waits() -> None:
    async with world(max_requests=2) as one:
        one.request_handler = hang = Hang()
        await one.ask(*(b"%d" % number for number in range(4)))
        await one.cancel(1, 2)
        assert hang.cancelled == [b"1"]
        assert one.statuses == {1: CANCELLED, 2: CANCELLED}
        assert hang.asked == [b"0", b"1", b"3"]
        hang.go_on.set()
        await turns()
        assert one.statuses == {1: CANCELLED, 2: CANCELLED, 0: OK, 3: OK}
        assert one.reports == []


@in_virtual_time
async def test_a_cancel_that_comes_with_its_request_prevents_the_call() -> None:
    async with world() as one:
        one.request_handler = hang = Hang()
        one.books.on_request(bytes(8))
        one.cost = 8 + FRAME_COST
        await one.cancel(0)
        assert hang.asked == []
        assert one.statuses == {0: CANCELLED}


@in_virtual_time
async def test_a_handler_is_cancelled_once_and_may_clean_up() -> None:
    async with world() as one:
        cancels = 0
        go_on = asyncio.Event()

        async def thorough(peer_node_id: bytes, data: bytes) -> bytes:
            nonlocal cancels
            while not go_on.is_set():
                try:
                    await go_on.wait()
                except asyncio.CancelledError:
                    cancels += 1
            return data

        one.request_handler = thorough
        await one.ask(b"0", b"1")
        await one.cancel(0)
        await one.cancel(0)
        assert cancels == 1
        one.close()
        one.answering.end()
        await turns()
        one.answering.end()
        await turns()
        assert cancels == 2
        go_on.set()


@in_virtual_time
async def test_a_failure_in_the_clean_up_is_reported() -> None:
    async with world() as one:

        async def stumble(peer_node_id: bytes, data: bytes) -> bytes:
            try:
                await asyncio.sleep(1000)
            finally:
                raise ValueError

        one.request_handler = stumble
        await one.ask(b"0", b"1")
        await one.cancel(0)
        assert one.statuses == {0: CANCELLED}
        one.close()
        await turns()
        assert [type(report) for report in one.reports] == [ValueError, ValueError]


@in_virtual_time
async def test_whoever_cancels_the_task_of_a_handler_ends_that_one_alone() -> None:
    async with world(max_requests=1) as one:
        one.request_handler = hang = Hang()
        await one.ask(b"0", b"1")
        hang.tasks[0].cancel()
        await turns()
        assert hang.tasks[0].cancelled()
        assert one.statuses == {0: FAILED}
        assert isinstance(one.reports[0], asyncio.CancelledError)
        assert hang.asked == [b"0", b"1"]
        hang.go_on.set()


@in_virtual_time
async def test_when_the_time_of_the_node_is_over_a_cancelled_handler_is_no_failure() -> None:
    async with world() as one:
        one.request_handler = hang = Hang()
        await one.ask(b"0")
        one.time_is_over = True
        hang.tasks[0].cancel()
        await turns()
        assert one.statuses == {0: FAILED}
        assert one.reports == []


# ------------------------------------------------------------------------------ room


@in_virtual_time
async def test_replies_wait_for_room() -> None:
    async with world() as one:
        one.room = 0
        one.request_handler = echo
        await one.ask(b"0", b"1")
        assert one.replies == []
        await one.give_room()
        assert one.replies == [(0, OK, b"0"), (1, OK, b"1")]


@in_virtual_time
async def test_refusals_wait_for_room_and_survive_a_cancellation() -> None:
    async with world(max_requests=1) as one:
        one.room = 0
        await one.ask(b"0", b"1")
        for task in list(one.tasks):
            task.cancel()
        await turns()
        await one.give_room()
        assert one.statuses == {0: CANCELLED, 1: REFUSED}


@in_virtual_time
async def test_a_reply_in_a_task_of_its_own_survives_whoever_cancels_that() -> None:
    async with world(max_requests=1) as one:
        one.request_handler = hang = Hang()
        await one.ask(b"0", b"1")
        one.room = 0
        one.books.on_cancel(1)
        one.answering.take()
        for _ in range(3):
            for task in one.tasks - set(hang.tasks):
                task.cancel()  # the first time before it has begun
            await turns(2)
        await one.give_room()
        assert one.statuses == {1: CANCELLED}
        hang.go_on.set()


@in_virtual_time
async def test_a_reply_cancelled_where_it_waits_for_room_is_still_one() -> None:
    async with world() as one:
        one.room = 0
        one.request_handler = echo
        await one.ask(b"0")
        for task in list(one.tasks):
            task.cancel()
        await turns()
        await one.give_room()
        assert one.statuses == {0: CANCELLED}


# --------------------------------------------------------------------------- the end


@in_virtual_time
async def test_at_the_end_waiting_ones_are_refused_and_running_ones_cancelled() -> None:
    async with world(max_requests=2) as one:
        one.request_handler = hang = Hang()
        await one.ask(*(b"%d" % number for number in range(5)))
        one.close()
        await turns()
        assert one.statuses == dict.fromkeys((2, 3, 4), REFUSED)
        assert sorted(hang.cancelled) == [b"0", b"1"]
        await one.ask(b"late")
        assert len(hang.asked) == 2
        assert one.reports == []


@in_virtual_time
async def test_the_end_waits_for_no_room() -> None:
    async with world(max_requests=1) as one:
        one.request_handler = echo
        one.room = 0
        await one.ask(b"0", b"1")
        one.close()
        await turns()
        assert one.replies == []


@in_virtual_time
async def test_a_handler_that_ends_the_session_goes_on() -> None:
    async with world() as one:
        went_on = False

        async def end(peer_node_id: bytes, data: bytes) -> bytes:
            nonlocal went_on
            one.close()
            await asyncio.sleep(0)
            went_on = True
            return b""

        one.request_handler = end
        await one.ask(b"0")
        assert went_on
        assert one.replies == []


@in_virtual_time
async def test_a_handler_that_is_left_is_not_cancelled_and_takes_no_other_request() -> None:
    async with world(max_requests=1) as one:
        one.request_handler = hang = Hang()
        await one.ask(b"0", b"1")
        one.answering.leave(hang.tasks[0])
        one.answering.handlers_changed()
        one.close()
        await turns()
        assert hang.cancelled == []
        hang.go_on.set()
        await turns()
        assert hang.asked == [b"0"]


@in_virtual_time
async def test_a_report_goes_on_at_the_end() -> None:
    async with world() as one:
        one.may_report.clear()
        one.request_handler = raising(ValueError())
        await one.ask(b"0")
        (lane,) = one.tasks
        one.close()
        await turns()
        assert not lane.done()
        one.may_report.set()


# ------------------------------------------------------------------ what is left behind


@in_virtual_time
async def test_what_a_handler_does_to_its_context_reaches_no_other() -> None:
    async with world(max_requests=1) as one:

        async def dirty(peer_node_id: bytes, data: bytes) -> bytes:
            seen = variable.get()
            variable.set("dirty")
            return seen.encode()

        one.request_handler = dirty
        await one.ask(b"0", b"1", b"2")
        assert [data for _, _, data in one.replies] == [b"clean"] * 3


@pytest.mark.parametrize("how", ["fails", "cancelled", "ended"])
@in_virtual_time
async def test_a_failure_leaves_no_cycle_of_references(how: str) -> None:
    kept: list[weakref.ref[BaseException]] = []

    async def fail(peer_node_id: bytes, data: bytes) -> bytes:
        try:
            if how != "fails":
                await asyncio.sleep(1000)
        finally:
            error = OddError()
            kept.append(weakref.ref(error))
            try:
                raise error
            finally:
                del error

    gc.collect()
    gc.disable()
    try:
        async with world() as one:
            one.request_handler = fail
            await one.ask(b"0")
            if how == "cancelled":
                await one.cancel(0)
            elif how == "ended":
                one.close()
            await turns()
            one.reports.clear()
            await turns()
            assert [reference() for reference in kept] == [None]
    finally:
        gc.enable()


def test_a_loop_that_is_closed_meanwhile_hears_nothing_more() -> None:
    loop = asyncio.new_event_loop()

    async def begin() -> World:
        one = World()
        one.request_handler = Hang()
        await one.ask(b"0")
        return one

    one = loop.run_until_complete(begin())
    for task in one.tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    one.tasks.clear()
    replies = one.replies
    del one, task
    gc.collect()
    assert replies == []


# -------------------------------------------------------------------------- fairness


@in_virtual_time
async def test_a_flood_of_quick_requests_lets_the_loop_turn() -> None:
    async with world() as one:
        loop: Any = asyncio.get_running_loop()

        async def work(peer_node_id: bytes, data: bytes) -> bytes:
            loop._virtual.now += TURN_SECONDS / 10
            return data

        one.request_handler = work
        for number in range(1000):
            one.books.on_request(number.to_bytes(8))
        one.cost = 1000 * (8 + FRAME_COST)
        one.answering.take()
        longest = 0.0
        while one.tasks:
            before = loop.time()
            await asyncio.sleep(0)
            longest = max(longest, loop.time() - before)
        assert longest <= 2 * TURN_SECONDS
        assert len(one.replies) == 1000


@in_virtual_time
async def test_while_more_waits_what_was_taken_is_reported_in_one() -> None:
    async with world() as one:
        one.window = 1 << 20
        one.request_handler = echo
        reported: list[int] = []
        consumed = one.consumed

        def note(size: int, count: int) -> None:
            reported.append(size)
            consumed(size, count)

        one.consumed = note  # type: ignore[method-assign]
        await one.ask(*(b"%04d" % number for number in range(200)))
        assert max(reported) < 5 * 1024
        assert len(reported) == 4
