"""Requests of this side alone, with a session that does as it is told."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import TYPE_CHECKING, Any, TypeVarTuple, cast

import pytest

from helpers.nodes import in_virtual_time
from seigr_toolset_transmissions.errors import (
    STTMessageSizeError,
    STTRequestError,
    STTRequestFailedError,
    STTRequestLostError,
    STTRequestRefusedError,
    STTRequestTimeoutError,
    STTSessionClosedError,
    STTSessionLostError,
)
from seigr_toolset_transmissions.protocol import exchanges
from seigr_toolset_transmissions.protocol.exchanges import (
    REPLY_BYTES,
    REQUEST_BYTES,
    Exchanges,
    ReplyStatus,
)
from seigr_toolset_transmissions.protocol.outbox import Undelivered
from seigr_toolset_transmissions.sessions.requesting import Requesting

if TYPE_CHECKING:
    from collections.abc import Callable

    from seigr_toolset_transmissions.protocol.frames import FrameType

Ts = TypeVarTuple("Ts")


class Session:
    """The session, and its outbox: takes what there is room for."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.longest = 1000
        self.room = 10_000  # messages
        self.closed = False
        self.room_came = asyncio.Event()
        self.in_turn = 0  # how often a request has waited for room
        self.told = 0
        self.broken: float | None = None
        self.books = Exchanges(cast("Any", self))
        self.requesting = Requesting(self, self.books, asyncio.get_running_loop())

    # As `Outbox`

    messages_acked = 0

    @property
    def messages_sent(self) -> int:
        return len(self.sent)

    def send_as(self, kind: FrameType, message: bytes) -> int:
        if self.closed:
            raise STTSessionClosedError("closed")
        if len(message) > self.longest:
            raise STTMessageSizeError("too long")
        if not self.room:
            return 0
        self.room -= 1
        self.sent.append(message)
        return 1

    # As `Asker`

    def accept(self, accept: Callable[[*Ts], int], /, *args: *Ts) -> bool:
        return accept(*args) > 0

    async def accept_in_turn(self, accept: Callable[[*Ts], int], /, *args: *Ts) -> None:
        self.in_turn += 1
        while not accept(*args):
            await self.room_came.wait()

    def tell_cancels(self) -> None:
        self.told += 1

    def broken_for(self) -> float | None:
        return self.broken

    # For tests

    def ask(self, data: bytes = b"", timeout: float | None = None) -> asyncio.Task[bytes]:
        return asyncio.create_task(self.requesting.request(data, timeout))

    def reply(self, request_id: int, status: int = ReplyStatus.OK, data: bytes = b"") -> None:
        self.books.on_reply(request_id.to_bytes(8) + bytes([status]) + data)
        self.requesting.settle()

    def end(
        self, unsent: tuple[bytes, ...] = (), cause: STTSessionClosedError | None = None
    ) -> None:
        self.closed = True
        self.room_came.set()
        lost = self.books.lose(Undelivered((), (), unsent))
        self.requesting.end(lost, cause or STTSessionClosedError("closed"))

    def assert_nothing_is_left(self) -> None:
        assert not self.books._open
        assert not self.requesting._waiting
        assert self.requesting._timer is None or not self.closed


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@in_virtual_time
async def test_each_reply_goes_to_its_request() -> None:
    session = Session()
    first, second = session.ask(b"1"), session.ask(b"2")
    await turns()
    assert session.sent == [bytes(8) + b"1", bytes(7) + b"\x012"]
    session.reply(1, data=b"two")
    session.reply(0, data=b"one")
    assert (await first, await second) == (b"one", b"two")
    session.assert_nothing_is_left()


@pytest.mark.parametrize(
    ("status", "kind", "handled", "said"),
    [
        (ReplyStatus.FAILED, STTRequestFailedError, True, b"why"),
        (ReplyStatus.REFUSED, STTRequestRefusedError, False, None),
        (ReplyStatus.CANCELLED, STTRequestFailedError, None, b""),
    ],
)
@in_virtual_time
async def test_each_status_but_ok_is_an_error(
    status: ReplyStatus, kind: type[STTRequestError], handled: bool | None, said: bytes | None
) -> None:
    session = Session()
    request = session.ask()
    await turns()
    session.reply(0, status, said or b"")
    with pytest.raises(kind) as caught:
        await request
    assert caught.value.handled is handled
    assert getattr(caught.value, "data", None) == said
    session.assert_nothing_is_left()


@in_virtual_time
async def test_what_is_too_long_is_not_asked() -> None:
    session = Session()
    with pytest.raises(STTMessageSizeError):
        await session.ask(bytes(session.longest - REQUEST_BYTES + 1))
    request = session.ask(bytes(session.longest - REQUEST_BYTES))
    await turns()
    session.reply(0)
    assert await request == b""
    session.assert_nothing_is_left()


@in_virtual_time
async def test_a_time_out_ends_the_wait_and_the_peer_is_told() -> None:
    session = Session()
    loop = asyncio.get_running_loop()
    # The second must not wait for the timer of the first, nor the first for that of the second.
    ends: list[tuple[float, float]] = []

    async def ask(seconds: float) -> None:
        with pytest.raises(STTRequestTimeoutError) as caught:
            await session.requesting.request(b"", seconds)
        assert caught.value.handled is None
        assert str(caught.value) == f"no reply within {seconds} s"
        ends.append((seconds, loop.time()))

    await asyncio.gather(*map(ask, (5, 3, 0, 5, 10)))
    assert [(seconds, round(when, 3)) for seconds, when in ends] == [
        (seconds, seconds) for seconds in (0, 3, 5, 5, 10)
    ]
    assert session.told == 4  # two at once
    session.assert_nothing_is_left()
    assert session.requesting._timer is None


@in_virtual_time
async def test_a_time_out_without_a_connection_says_so() -> None:
    session = Session()
    session.broken = 3.00004
    request = session.ask(timeout=4.99996)  # what is left of five seconds
    with pytest.raises(STTRequestTimeoutError) as caught:
        await request
    assert str(caught.value) == "no reply within 5 s; the connection has been broken for 3 s"


@in_virtual_time
async def test_a_timer_of_requests_that_have_their_replies_hurts_nobody() -> None:
    session = Session()
    first = session.ask(timeout=1)
    await turns()
    session.reply(0)
    await first
    second = session.ask(timeout=1.5)
    await asyncio.sleep(1.2)
    session.reply(1, data=b"in time")
    assert await second == b"in time"
    await asyncio.sleep(5)
    assert session.requesting._timer is None
    assert session.told == 0


@in_virtual_time
async def test_a_reply_at_the_moment_of_the_time_out_wins() -> None:
    session = Session()
    request = session.ask(timeout=1)
    await turns()
    asyncio.get_running_loop().call_at(0.999999, session.reply, 0, ReplyStatus.OK, b"phew")
    asyncio.get_running_loop().call_at(1, session.requesting.settle)
    assert await request == b"phew"


@in_virtual_time
async def test_a_cancelled_request_is_told_and_its_late_reply_is_dropped() -> None:
    session = Session()
    request = session.ask(timeout=100)
    await turns()
    request.cancel()
    await asyncio.wait([request])
    assert request.cancelled()
    assert session.told == 1
    session.reply(0)
    assert session.books.late == 1
    session.assert_nothing_is_left()


@pytest.mark.parametrize("status", [ReplyStatus.OK, ReplyStatus.REFUSED])
@in_virtual_time
async def test_a_request_cancelled_as_its_reply_comes_leaves_nothing(status: ReplyStatus) -> None:
    session = Session()
    for reply_first in (True, False):
        request = session.ask()
        await turns()
        if reply_first:
            session.reply(0, status)
        request.cancel()
        if not reply_first:
            session.reply(1, status)
        await asyncio.wait([request])
        assert request.cancelled()
        session.assert_nothing_is_left()
    assert session.told == 0  # both had their reply
    gc.collect()  # an exception that nobody has looked at would be reported now


@in_virtual_time
async def test_requests_wait_for_a_slot_in_the_order_of_their_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exchanges, "MAX_OPEN", 2)
    session = Session()
    requests = [session.ask(b"%d" % number) for number in range(6)]
    await turns()
    assert len(session.sent) == 2
    requests[2].cancel()  # whose turn would be next
    requests[4].cancel()
    await turns()
    session.reply(0)
    await turns()
    late = session.ask(b"6")
    await turns()
    for request_id in range(1, 4):
        session.reply(request_id)
        await turns()
    session.reply(4)
    await asyncio.wait([*requests, late])
    assert [message[8:] for message in session.sent] == [b"0", b"1", b"3", b"5", b"6"]
    assert session.in_turn == 0
    session.assert_nothing_is_left()


@in_virtual_time
async def test_the_one_whose_turn_has_come_may_be_cancelled_before_it_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exchanges, "MAX_OPEN", 1)
    session = Session()
    requests = [session.ask(b"%d" % number) for number in range(3)]
    await turns()
    session.reply(0)
    requests[1].cancel()
    await turns()
    assert [message[8:] for message in session.sent] == [b"0", b"2"]
    session.reply(1)
    assert await requests[2] == b""
    session.assert_nothing_is_left()


@in_virtual_time
async def test_a_slot_that_is_gone_again_is_waited_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exchanges, "MAX_OPEN", 1)
    session = Session()
    first, second = session.ask(), session.ask()
    await turns()
    session.reply(0)
    monkeypatch.setattr(exchanges, "MAX_OPEN", 0)
    await turns()
    assert not second.done()
    monkeypatch.setattr(exchanges, "MAX_OPEN", 1)
    session.requesting.settle()
    await turns()
    session.reply(1)
    assert [await first, await second] == [b"", b""]


@in_virtual_time
async def test_requests_wait_for_room_and_behind_each_other() -> None:
    session = Session()
    session.room = 0
    requests = [session.ask(b"%d" % number) for number in range(4)]
    await turns()
    assert session.in_turn == 1  # the others wait behind it
    requests[1].cancel()
    requests[0].cancel()
    await turns()
    assert session.in_turn == 2
    session.room = 10
    session.room_came.set()
    await turns()
    session.reply(0)
    session.reply(1)
    assert [await requests[2], await requests[3]] == [b"", b""]
    assert [message[8:] for message in session.sent] == [b"2", b"3"]
    session.assert_nothing_is_left()


@in_virtual_time
async def test_a_time_out_before_there_was_room_says_that_nothing_was_sent() -> None:
    session = Session()
    session.room = 0
    requests = [session.ask(timeout=timeout) for timeout in (2, 1, 0)]
    for request in requests:
        with pytest.raises(STTRequestTimeoutError) as caught:
            await request
        assert caught.value.handled is False
    assert (session.sent, session.told) == ([], 0)
    session.assert_nothing_is_left()


@in_virtual_time
async def test_the_end_of_the_session_ends_every_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "MAX_OPEN", 2)
    session = Session()
    requests = [session.ask(b"%d" % number, timeout=1000) for number in range(5)]
    await turns()
    session.end(unsent=(session.sent[1],))
    ends = await asyncio.gather(*requests, session.ask(b"late"), return_exceptions=True)
    assert {type(error) for error in ends} == {STTRequestLostError}
    assert [cast("STTRequestError", error).handled for error in ends] == [None] + [False] * 5
    assert str(ends[0]) == "the peer closed the session before the reply came"
    session.assert_nothing_is_left()
    assert session.requesting._timer is None


@in_virtual_time
async def test_a_request_whose_session_is_lost_says_how() -> None:
    session = Session()
    request = session.ask()
    await turns()
    facts: dict[str, Any] = {"session_id": b"", "peer_node_id": b"", "unsent": (), "unknown": ()}
    session.end(cause=STTSessionLostError("the cable is gone", **facts))
    with pytest.raises(STTRequestLostError, match=r"^the cable is gone$"):
        await request


@in_virtual_time
async def test_closing_cancels_what_was_asked_and_refuses_what_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exchanges, "MAX_OPEN", 2)
    session = Session()
    requests = [session.ask(timeout=1000) for _ in range(4)]
    await turns()
    session.closed = True
    session.requesting.close(STTSessionClosedError("closed"))
    assert session.told == 1
    # Nobody waits for the peer, which may be gone: neither for its replies nor for their slots.
    ends = await asyncio.gather(*requests, session.ask(b"late"), return_exceptions=True)
    assert {type(error) for error in ends} == {STTRequestLostError}
    assert [cast("STTRequestError", error).handled for error in ends] == [None] * 2 + [False] * 3
    assert str(ends[0]) == "this side closed the session before the reply came"
    session.reply(0)
    session.reply(1)
    session.end()
    session.assert_nothing_is_left()


@in_virtual_time
async def test_the_end_of_the_session_ends_the_wait_for_room() -> None:
    session = Session()
    session.room = 0
    requests = [session.ask() for _ in range(3)]
    await turns()
    session.end()
    for error in await asyncio.gather(*requests, return_exceptions=True):
        assert isinstance(error, STTRequestLostError)
        assert error.handled is False
    session.assert_nothing_is_left()


@in_virtual_time
async def test_a_request_cancelled_as_the_session_ends_leaves_nothing() -> None:
    session = Session()
    request = session.ask()
    await turns()
    session.end()
    request.cancel()
    await asyncio.wait([request])
    assert request.cancelled()
    gc.collect()
    session.assert_nothing_is_left()


@pytest.mark.parametrize("end", ["reply", "timeout", "refusal", "loss"])
@in_virtual_time
async def test_nothing_keeps_what_was_replied(end: str) -> None:
    session = Session()

    async def ask() -> weakref.ref[asyncio.Future[bytes]]:
        future: asyncio.Future[bytes]
        request = session.ask(timeout=1)
        await turns()
        (((future, _, _), _),) = session.books._open.values()
        kept = weakref.ref(future)
        del future
        if end == "reply":
            session.reply(0, data=bytes(REPLY_BYTES))
        elif end == "refusal":
            session.reply(0, ReplyStatus.REFUSED)
        elif end == "loss":
            session.end()
        await asyncio.wait([request])
        request.exception()
        return kept

    gc.collect()
    gc.disable()
    try:
        kept = await ask()
        await turns()
        assert kept() is None
    finally:
        gc.enable()
