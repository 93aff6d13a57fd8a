"""One session between input and output: which end counts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from seigr_toolset_transmissions.cli.converse import Output, converse
from seigr_toolset_transmissions.cli.failures import Failure
from seigr_toolset_transmissions.errors import STTSessionClosedError

if TYPE_CHECKING:
    from collections.abc import Awaitable


class Conversation:
    """A call of `converse` whose session ends when the test says so."""

    def __init__(self, feed: Awaitable[None] | None) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.output = Output()
        self.task = asyncio.ensure_future(converse(self.ended, self.output, feed))

    async def goes_on(self) -> bool:
        for _ in range(5):
            await asyncio.sleep(0)
        return not self.task.done()


async def endless(stopped: list[bool]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        stopped.append(True)


async def fail(error: Exception) -> None:
    raise error


async def test_it_ends_with_the_session_and_stops_sending() -> None:
    stopped: list[bool] = []
    conversation = Conversation(endless(stopped))
    assert await conversation.goes_on()
    conversation.ended.set_result(None)
    await conversation.task
    assert stopped == [True]


async def test_it_ends_with_the_session_even_if_everything_was_sent_before() -> None:
    conversation = Conversation(asyncio.sleep(0))
    assert await conversation.goes_on()
    conversation.ended.set_result(None)
    await conversation.task


async def test_a_session_that_was_lost_is_a_failure() -> None:
    conversation = Conversation(None)
    conversation.ended.set_exception(Failure("the session was lost: cut"))
    with pytest.raises(Failure, match="the session was lost: cut"):
        await conversation.task


async def test_input_that_cannot_be_read_is_a_failure_at_once() -> None:
    conversation = Conversation(fail(Failure("cannot read standard input: gone")))
    with pytest.raises(Failure, match="cannot read standard input: gone"):
        await conversation.task


async def test_a_peer_that_closes_before_it_has_all_input_is_a_failure() -> None:
    conversation = Conversation(fail(STTSessionClosedError("closed")))
    assert await conversation.goes_on()  # how the session ended is not known yet
    conversation.ended.set_result(None)
    with pytest.raises(Failure, match="the peer closed the session before the input had ended"):
        await conversation.task


async def test_input_that_was_there_when_the_peer_closed_makes_that_a_failure_too() -> None:
    came = asyncio.Event()

    async def feed() -> None:
        await came.wait()
        raise STTSessionClosedError("closed")

    conversation = Conversation(feed())
    conversation.ended.set_result(None)
    assert await conversation.goes_on()
    came.set()
    with pytest.raises(Failure, match="the peer closed the session before the input had ended"):
        await conversation.task


async def test_the_first_failure_to_write_ends_it_and_nothing_more_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped: list[bool] = []
    conversation = Conversation(endless(stopped))
    written: list[bytes] = []

    async def write(data: bytes, _observe: object) -> None:
        written.append(data)
        raise BrokenPipeError

    monkeypatch.setattr(conversation.output._stream, "write", write)
    writers = [asyncio.ensure_future(conversation.output.write(data)) for data in (b"1", b"2")]
    with pytest.raises(BrokenPipeError):
        await conversation.task
    assert stopped == [True]
    writers.append(asyncio.ensure_future(conversation.output.write(b"3")))
    await asyncio.sleep(0)
    assert not any(writer.done() for writer in writers)

    conversation.output.give_up()
    await asyncio.gather(*writers)
    await conversation.output.write(b"4")
    assert not {b"3", b"4"} & set(written)


async def test_a_writer_with_a_slow_reader_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[bool] = []
    conversation = Conversation(None)
    monkeypatch.setattr(conversation.output._stream, "write", lambda *_: endless(stopped))
    writer = asyncio.ensure_future(conversation.output.write(b"data"))
    conversation.task.cancel()
    await asyncio.wait((conversation.task,))
    assert not writer.done()
    conversation.output.give_up()
    await writer
    assert await conversation.goes_on() is False
    assert stopped == [True]


async def test_cancelled_it_ends_when_sending_has_ended() -> None:
    stopped: list[bool] = []
    conversation = Conversation(endless(stopped))
    assert await conversation.goes_on()
    conversation.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await conversation.task
    assert stopped == [True]
