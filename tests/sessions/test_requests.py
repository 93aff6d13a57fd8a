"""Requests and replies between two nodes in virtual time."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from helpers.nodes import EventLog, in_virtual_time, memory_nodes
from seigr_toolset_transmissions import NodeConfig
from seigr_toolset_transmissions.errors import (
    STTEventError,
    STTRequestFailedError,
    STTRequestLostError,
    STTRequestRefusedError,
    STTRequestTimeoutError,
)
from seigr_toolset_transmissions.sessions.session import LiveSession

if TYPE_CHECKING:
    from helpers.nodes import Pair
    from seigr_toolset_transmissions import Session


def live(session: Session) -> LiveSession:
    assert isinstance(session, LiveSession)
    return session


def serve_echo(pair: Pair) -> list[bytes]:
    """Have the listener echo what it is asked; return what it has been asked."""
    asked: list[bytes] = []

    @pair.listener.on_request
    async def echo(peer_node_id: bytes, data: bytes) -> bytes:
        assert peer_node_id == pair.dialer.node_id
        asked.append(data)
        return b"re: " + data

    return asked


@in_virtual_time
async def test_a_request_returns_what_the_handler_of_the_peer_returns() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        serve_echo(pair)
        assert await pair.near.request(b"hello") == b"re: hello"
        assert await pair.near.request(bytearray(b""), timeout=1) == b"re: "


@in_virtual_time
async def test_both_sides_may_ask() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()

        @pair.listener.on_request
        async def ask_back(peer_node_id: bytes, data: bytes) -> bytes:
            return await pair.far.request(data + b"?")

        @pair.dialer.on_request
        async def answer(peer_node_id: bytes, data: bytes) -> bytes:
            return data + b"!"

        assert await pair.near.request(b"so") == b"so?!"


@in_virtual_time
async def test_many_requests_at_once_each_get_their_own_reply() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        asked = serve_echo(pair)
        data = [b"%d" % number for number in range(5000)]
        replies = await asyncio.gather(*map(pair.near.request, data))
        assert replies == [b"re: " + one for one in data]
        assert asked == data


@in_virtual_time
async def test_handlers_that_wait_run_at_the_same_time_up_to_max_requests() -> None:
    async with memory_nodes(max_requests=10) as nodes:
        pair = await nodes.pair()
        running = most = 0

        @pair.listener.on_request
        async def slow(peer_node_id: bytes, data: bytes) -> bytes:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(1)
            running -= 1
            return data

        loop = asyncio.get_running_loop()
        start = loop.time()
        await asyncio.gather(*(pair.near.request(b"") for _ in range(35)))
        assert most == 10
        assert loop.time() - start == pytest.approx(4, abs=0.1)


@in_virtual_time
async def test_large_requests_and_replies_go_in_parts() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        serve_echo(pair)
        data = bytes(range(256)) * 2000
        assert await pair.near.request(data) == b"re: " + data
        assert (
            await asyncio.gather(*(pair.near.request(data) for _ in range(5)))
            == [b"re: " + data] * 5
        )


@in_virtual_time
async def test_messages_pass_requests_that_wait() -> None:
    async with memory_nodes(max_requests=1) as nodes:
        pair = await nodes.pair()
        go_on = asyncio.Event()

        @pair.listener.on_request
        async def wait(peer_node_id: bytes, data: bytes) -> bytes:
            await go_on.wait()
            return data

        requests = [asyncio.create_task(pair.near.request(b"%d" % n)) for n in range(100)]
        await asyncio.sleep(0.1)
        await pair.near.send(b"a message")
        assert (await pair.listener.endpoints.receive_any(timeout=1))[0] == b"a message"
        go_on.set()
        assert await asyncio.gather(*requests) == [b"%d" % n for n in range(100)]


@in_virtual_time
async def test_a_node_without_a_handler_refuses() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        with pytest.raises(STTRequestRefusedError) as caught:
            await pair.near.request(b"anybody?")
        assert caught.value.handled is False
        serve_echo(pair)
        assert await pair.near.request(b"now") == b"re: now"
        pair.listener.on_request(None)
        with pytest.raises(STTRequestRefusedError):
            await pair.near.request(b"gone")


async def _lacks_one(data: bytes) -> bytes:
    return data


async def _wants_more(peer_node_id: bytes, data: bytes, extra: object) -> bytes:
    return data


def _plain(peer_node_id: bytes, data: bytes) -> bytes:
    return data


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (
            _lacks_one,
            r"_lacks_one cannot handle requests, which .* \(peer_node_id, data\)",
        ),
        (_wants_more, "_wants_more cannot .* missing a required argument: 'extra'; let it take"),
        (_plain, "_plain is not an async handler for requests: write it as `async def`"),
    ],
)
@in_virtual_time
async def test_a_handler_that_cannot_answer_is_refused_and_the_former_one_stays(
    handler: Any, said: str
) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        serve_echo(pair)
        with pytest.raises(STTEventError, match=said):
            pair.listener.on_request(handler)
        assert await pair.near.request(b"still") == b"re: still"


@in_virtual_time
async def test_a_handler_of_requests_may_name_its_parameters_as_it_likes() -> None:
    async def named_otherwise(who: bytes, /, what: bytes, extra: bytes = b"!") -> bytes:
        return what + extra

    async def any_number(*args: bytes) -> bytes:
        return args[1] + b"!"

    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        for handler in (named_otherwise, any_number, partial(named_otherwise, extra=b"!")):
            pair.listener.on_request(handler)
            assert await pair.near.request(b"hello") == b"hello!"


@in_virtual_time
async def test_what_one_peer_has_said_of_its_failure_is_not_passed_on_to_another() -> None:
    async with memory_nodes() as nodes:
        hub = await nodes.listen("alice")
        asker = await nodes.connect(await nodes.start("bob"), hub)
        inner = await nodes.connect(await nodes.start("carol"), hub)
        log = EventLog(hub, "error")

        @inner.dialer.on_request
        async def fail(peer_node_id: bytes, data: bytes) -> bytes:
            raise STTRequestFailedError(b"a secret of carol")

        @hub.on_request
        async def ask_on(peer_node_id: bytes, data: bytes) -> bytes:
            try:
                return await hub.endpoints.request(inner.dialer.node_id, data)
            except STTRequestFailedError as error:
                if data == b"on purpose":
                    raise STTRequestFailedError(error.data) from error
                raise

        with pytest.raises(STTRequestFailedError) as caught:
            await asker.near.request(b"by mistake")
        assert caught.value.data == b""
        assert [kind for kind, _ in log.errors] == ["handler_failed"]
        with pytest.raises(STTRequestFailedError) as caught:
            await asker.near.request(b"on purpose")
        assert caught.value.data == b"a secret of carol"
        assert len(log.errors) == 1


@pytest.mark.parametrize("room", [2, 20, 200])
@in_virtual_time
async def test_closing_with_requests_that_wait_gives_each_one_outcome(room: int) -> None:
    async with memory_nodes(max_requests=1) as nodes:
        listener = await nodes.listen(
            "bob", config=NodeConfig(send_window_messages=room, max_requests=1)
        )
        pair = await nodes.connect(await nodes.start("alice"), listener)
        handled: list[bytes] = []

        @listener.on_request
        async def wait(peer_node_id: bytes, data: bytes) -> bytes:
            handled.append(data)
            await asyncio.sleep(100)
            return data

        asking = [asyncio.create_task(pair.near.request(b"%d" % n)) for n in range(100)]
        await asyncio.sleep(1)
        assert handled == [b"0"]
        await pair.far.close()
        await asyncio.wait(asking)
        errors = [task.exception() for task in asking]
        refused = [error for error in errors if isinstance(error, STTRequestRefusedError)]
        lost = [error for error in errors if isinstance(error, STTRequestLostError)]
        assert len(refused) + len(lost) == 100
        assert len(refused) == min(99, room)
        assert all(error.handled is None for error in lost)
        assert handled == [b"0"]


@in_virtual_time
async def test_a_handler_chooses_what_its_failure_tells() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.listener, "error")

        @pair.listener.on_request
        async def fail(peer_node_id: bytes, data: bytes) -> bytes:
            if data == b"told":
                raise STTRequestFailedError(b"no such device")
            if data == b"wrong":
                return "text"  # type: ignore[return-value]
            raise ValueError("an internal matter")

        for data, said in ((b"told", b"no such device"), (b"", b""), (b"wrong", b"")):
            with pytest.raises(STTRequestFailedError) as caught:
                await pair.near.request(data)
            assert (caught.value.data, caught.value.handled) == (said, True)
            assert "internal" not in str(caught.value)
        assert [kind for kind, _ in log.errors] == ["handler_failed", "handler_failed"]
        exceptions = [details["exception"] for _, details in log.errors]
        assert [type(exception) for exception in exceptions] == [ValueError, TypeError]
        assert str(exceptions[1]).endswith('b"" if there is nothing to say, not str')


@in_virtual_time
async def test_a_failure_that_is_too_long_to_tell_is_a_failure_without_words() -> None:
    async with memory_nodes(max_message_bytes=1000) as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.listener)

        @pair.listener.on_request
        async def fail(_peer_node_id: bytes, _data: bytes) -> bytes:
            raise STTRequestFailedError(bytes(1000))

        with pytest.raises(STTRequestFailedError) as caught:
            await pair.near.request(b"", timeout=5)
        assert caught.value.data == b""
        await log.until("error")


@in_virtual_time
async def test_a_request_that_times_out_cancels_its_handler() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        cancelled: list[bytes] = []

        @pair.listener.on_request
        async def hang(peer_node_id: bytes, data: bytes) -> bytes:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                cancelled.append(data)
                raise
            return data

        loop = asyncio.get_running_loop()
        start = loop.time()
        with pytest.raises(STTRequestTimeoutError) as caught:
            await pair.near.request(b"slow", timeout=5)
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.handled is None
        assert loop.time() - start == pytest.approx(5, abs=0.1)
        await asyncio.sleep(1)
        assert cancelled == [b"slow"]
        books = live(pair.near).machine.exchanges
        assert books is not None
        assert books.late == 1


@in_virtual_time
async def test_a_caller_that_is_cancelled_cancels_the_handler() -> None:
    async with memory_nodes(max_requests=1) as nodes:
        pair = await nodes.pair()
        ended: list[bytes] = []

        @pair.listener.on_request
        async def hang(peer_node_id: bytes, data: bytes) -> bytes:
            try:
                await asyncio.sleep(1000)
            finally:
                ended.append(data)
            return data

        first, second = (asyncio.create_task(pair.near.request(data)) for data in (b"1", b"2"))
        await asyncio.sleep(1)
        second.cancel()  # it waits there, and is never handled
        await asyncio.sleep(1)
        assert ended == []
        first.cancel()
        await asyncio.sleep(1)
        assert ended == [b"1"]
        serve_echo(pair)
        assert await pair.near.request(b"3") == b"re: 3"


@in_virtual_time
async def test_when_the_session_is_lost_each_request_says_whether_it_was_handled() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        cancelled = asyncio.Event()

        @pair.listener.on_request
        async def hang(peer_node_id: bytes, data: bytes) -> bytes:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                cancelled.set()
                raise
            return data

        request = asyncio.create_task(pair.near.request(b"", timeout=100))
        await asyncio.sleep(1)
        pair.near.abort()
        with pytest.raises(STTRequestLostError) as caught:
            await request
        assert caught.value.handled is None
        await asyncio.wait_for(cancelled.wait(), 1)
        with pytest.raises(STTRequestLostError) as caught:
            await pair.near.request(b"late")
        assert caught.value.handled is False


@pytest.mark.parametrize("timeout", [0, 1e-9, 1e-4])
@pytest.mark.anyio
async def test_requests_without_time_each_time_out_on_any_loop(timeout: float) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()

        @pair.listener.on_request
        async def hang(peer_node_id: bytes, data: bytes) -> bytes:
            await asyncio.Event().wait()
            return b""

        several = (pair.near.request(b"%d" % number, timeout=timeout) for number in range(3))
        errors = await asyncio.gather(*several, return_exceptions=True)
        assert {type(error) for error in errors} == {STTRequestTimeoutError}
