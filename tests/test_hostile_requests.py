"""Requests and replies of a member of the group that means harm; see ``test_hostile_member``."""

from __future__ import annotations

import asyncio

import pytest

from helpers.hostile import CREDIT, KIB, WINDOW, asked, replied, scene
from helpers.independent import ACCEPTED, CANCEL, DATA, PART, REPLY, REQUEST, frame, number, numbers
from helpers.nodes import in_virtual_time, live, until
from seigr_toolset_transmissions.errors import STTRequestLostError, STTRequestTimeoutError


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (replied(0, 4), "unknown status 4"),
        (replied(3), "not open"),
        (replied(0) + replied(0), "not open"),
        (frame(REPLY, bytes(8)), "too short"),
        (number(CANCEL, 0), "has not arrived"),
    ],
    ids=["unknown status", "to nothing", "twice", "too short", "cancelled by its receiver"],
)
@in_virtual_time
async def test_a_bad_reply_ends_the_session_and_every_caller_gets_an_outcome(
    answer: bytes, reason: str
) -> None:
    async with scene() as here:
        channel = await here.open()
        session = here.session(channel)
        assert session is not None
        asking = [asyncio.ensure_future(session.request(b"?")) for _ in range(3)]
        await asyncio.sleep(1)
        channel.write(numbers(3, CREDIT), answer)
        await asyncio.wait(asking, timeout=1)
        assert all(isinstance(task.exception(), STTRequestLostError) for task in asking)
        assert here.errors()[0][0] == "protocol_error"
        assert reason in here.errors()[0][1]


@in_virtual_time
async def test_requests_that_are_never_answered_time_out_and_are_bounded() -> None:
    async with scene() as here:
        channel = await here.open()
        session = here.session(channel)
        assert session is not None
        asking = [asyncio.ensure_future(session.request(b"?", timeout=5)) for _ in range(1500)]
        await asyncio.sleep(4)
        books = live(session).machine.exchanges
        assert books is not None
        assert books.asked == 1024  # the others wait at their callers
        await asyncio.wait(asking, timeout=2)
        assert all(isinstance(task.exception(), STTRequestTimeoutError) for task in asking)
        assert len(books._open) + len(books._given_up) == 1024
        assert here.errors() == []


@in_virtual_time
async def test_a_peer_that_never_answers_leaves_nothing_behind_of_10_000_requests() -> None:
    async with scene() as here:
        channel = await here.open()
        session = here.session(channel)
        assert session is not None
        endpoints, peer = here.node.endpoints, session.peer_node_id
        before = len(asyncio.all_tasks())
        several = (endpoints.request_many([peer], b"?", timeout=5) for _ in range(10_000))
        outcomes = await asyncio.gather(*several)
        late = [each[peer] for each in outcomes]
        assert all(isinstance(error, STTRequestTimeoutError) for error in late)
        books = live(session).machine.exchanges
        assert books is not None
        assert books.asked == 1024  # the others were never sent
        assert not books._open
        assert len(books._given_up) == 1024  # until Mallory replies, or the session ends
        assert len(asyncio.all_tasks()) == before
        again = (await endpoints.request_many([peer], b"?", timeout=1))[peer]
        assert isinstance(again, STTRequestTimeoutError)
        assert again.handled is False
        asking = live(session)._requesting
        assert asking is not None
        assert not asking._waiting
        assert here.errors() == []


@in_virtual_time
async def test_requests_without_end_whose_replies_are_never_read_are_bounded() -> None:
    """Mallory gives no more credit, and takes back no id: what waits for her stays small."""
    async with scene(max_requests=8) as here:

        @here.node.on_request
        async def answer(_peer_node_id: bytes, _data: bytes) -> bytes:
            return bytes(10 * KIB)

        channel, welcome = await here.dial(credit=0)
        assert welcome.status == ACCEPTED
        channel.write(numbers(0, 0))
        await until(lambda: here.session(channel) is not None)
        session = live(here.session(channel))
        channel.write(*(asked(n) for n in range(600)))
        await asyncio.sleep(2)
        books = session.machine.exchanges
        assert books is not None
        assert session.machine.outbox.unacked_cost <= here.node.config.send_window_bytes
        assert len(books._unanswered) <= 1024
        assert len(session._answering._lanes) <= 8  # type: ignore[union-attr]
        assert session.machine.held_cost <= WINDOW


@in_virtual_time
async def test_a_peer_that_could_take_no_reply_may_not_ask() -> None:
    async with scene() as here:
        channel, _ = await here.dial(max_message=8)
        channel.write(numbers(0, CREDIT), asked(0))
        await here.log.until("error")
        assert "longest message is below any reply" in here.errors()[0][1]


@in_virtual_time
async def test_requests_cancelled_at_once_without_end_are_bounded() -> None:
    """Their replies wait for Mallory, who never acknowledges one, until she may ask no more."""
    async with scene(max_requests=8, send_window_bytes=WINDOW) as here:

        @here.node.on_request
        async def wait(_peer_node_id: bytes, _data: bytes) -> bytes:
            await asyncio.Event().wait()
            return b""

        channel, _ = await here.dial(credit=0)
        channel.write(numbers(0, 0))
        await until(lambda: here.session(channel) is not None)
        session = live(here.session(channel))
        for first in range(0, 10_000, 500):
            if channel.stream.ended.is_set():
                break
            numbers_asked = range(first, first + 500)
            channel.write(*map(asked, numbers_asked), *(number(CANCEL, n) for n in numbers_asked))
            await asyncio.sleep(1)
            books = session.machine.exchanges
            assert books is not None
            assert len(books._unanswered) <= 1024
            assert session.machine.outbox.unacked_cost <= WINDOW
            assert len(asyncio.all_tasks()) < 1200
        assert ("limit_reached", "more than 1024 open requests") in here.errors()
        await asyncio.sleep(1)
        assert len(asyncio.all_tasks()) < 100


@in_virtual_time
async def test_parts_that_end_as_another_kind_are_what_their_last_frame_says() -> None:
    async with scene() as here:
        requests: list[bytes] = []

        @here.node.on_request
        async def answer(_peer_node_id: bytes, data: bytes) -> bytes:
            requests.append(data)
            return data

        channel = await here.open()
        channel.write(frame(PART, bytes(3)), frame(PART, bytes(5) + b"ab"), frame(REQUEST, b"c"))
        channel.write(frame(PART, bytes(8)), frame(DATA, b"a message"))
        received, _ = await here.node.endpoints.receive_from(here.mallory.node_id)
        assert received == bytes(8) + b"a message"
        await until(lambda: requests == [b"abc"])
        assert here.errors() == []
