"""Requests between two nodes whose handlers, callers and sessions do what they should not."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from helpers.nodes import EventLog, in_virtual_time, live, memory_nodes, until
from seigr_toolset_transmissions.errors import (
    STTMessageSizeError,
    STTRequestError,
    STTRequestFailedError,
    STTRequestLostError,
    STTRequestRefusedError,
    STTRequestTimeoutError,
)
from seigr_toolset_transmissions.protocol.exchanges import MAX_OPEN, REPLY_BYTES

if TYPE_CHECKING:
    from helpers.nodes import Pair
    from seigr_toolset_transmissions import STTNode


def serve_forever(pair: Pair) -> list[bytes]:
    """Have the listener's handlers wait until they are cancelled; return what they were asked."""
    asked: list[bytes] = []

    @pair.listener.on_request
    async def hang(peer_node_id: bytes, data: bytes) -> bytes:
        asked.append(data)
        await asyncio.get_running_loop().create_future()
        return data

    return asked


async def outcomes(*tasks: asyncio.Task[bytes]) -> list[bytes | BaseException]:
    """Return what has become of these tasks, which must end soon."""
    async with asyncio.timeout(30):
        return await asyncio.gather(*tasks, return_exceptions=True)


# ------------------------------------------------------------------ what handlers do


@in_virtual_time
async def test_a_failure_with_wrong_data_is_reported_and_the_caller_hears_of_it() -> None:
    async with memory_nodes(max_message_bytes=5000) as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.listener, "error")

        @pair.listener.on_request
        async def fail(peer_node_id: bytes, data: bytes) -> bytes:
            raise STTRequestFailedError("text" if data == b"text" else bytes(5000))  # type: ignore[arg-type]

        for data in (b"text", b"long"):
            with pytest.raises(STTRequestFailedError) as caught:
                await pair.near.request(data, timeout=5)
            assert (caught.value.data, caught.value.handled) == (b"", True)
        await until(lambda: len(log.errors) == 2)
        assert [type(details["exception"]) for _, details in log.errors] == [
            TypeError,
            STTMessageSizeError,
        ]


@in_virtual_time
async def test_a_reply_that_is_too_long_is_a_failure_of_the_handler() -> None:
    async with memory_nodes(max_message_bytes=5000) as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.listener, "error")

        @pair.listener.on_request
        async def much(peer_node_id: bytes, data: bytes) -> bytes:
            return bytes(int(data))

        longest = 5000 - REPLY_BYTES
        assert len(await pair.near.request(b"%d" % longest)) == longest
        with pytest.raises(STTRequestFailedError):
            await pair.near.request(b"%d" % (longest + 1), timeout=5)
        await until(lambda: log.errors)
        assert isinstance(log.errors[0][1]["exception"], STTMessageSizeError)


@in_virtual_time
async def test_a_handler_of_errors_that_waits_does_not_hold_up_requests() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        go_on = asyncio.Event()

        @pair.listener.events.on("error")
        async def wait(**_: Any) -> None:
            await go_on.wait()

        @pair.listener.on_request
        async def answer(peer_node_id: bytes, data: bytes) -> bytes:
            if data == b"fail":
                raise ValueError
            return data

        with pytest.raises(STTRequestFailedError):
            await pair.near.request(b"fail")
        assert await pair.near.request(b"next", timeout=5) == b"next"
        go_on.set()


@in_virtual_time
async def test_what_a_cancelled_handler_raises_in_its_clean_up_is_reported() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.listener, "error")

        @pair.listener.on_request
        async def stumble(peer_node_id: bytes, data: bytes) -> bytes:
            try:
                await asyncio.sleep(1000)
            finally:
                raise ValueError(data)

        with pytest.raises(STTRequestTimeoutError):
            await pair.near.request(b"1", timeout=1)
        await until(lambda: len(log.errors) == 1)
        request = asyncio.create_task(pair.near.request(b"2"))
        await asyncio.sleep(1)
        pair.far.abort()
        await outcomes(request)
        await until(lambda: [kind for kind, _ in log.errors].count("handler_failed") == 2)


@in_virtual_time
async def test_a_handler_that_is_cancelled_has_the_time_to_clean_up() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        done = []

        @pair.listener.on_request
        async def thorough(peer_node_id: bytes, data: bytes) -> bytes:
            try:
                await asyncio.sleep(1000)
            finally:
                await asyncio.sleep(3)
                done.append(data)
            return data

        request = asyncio.create_task(pair.near.request(b"1"))
        await asyncio.sleep(1)
        with pytest.raises(STTRequestTimeoutError):
            await pair.near.request(b"2", timeout=1)
        await pair.near.close()  # and every frame that arrives meanwhile leaves it alone
        assert isinstance((await outcomes(request))[0], STTRequestLostError)
        await asyncio.sleep(5)
        assert sorted(done) == [b"1", b"2"]


@in_virtual_time
async def test_handlers_that_others_cancel_fail_and_the_next_go_on() -> None:
    async with memory_nodes(max_requests=2) as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.listener, "error")
        running: list[asyncio.Task[Any] | None] = []

        @pair.listener.on_request
        async def hang(peer_node_id: bytes, data: bytes) -> bytes:
            if data >= b"2":
                return data
            running.append(asyncio.current_task())
            await asyncio.sleep(1000)
            return data

        requests = [asyncio.create_task(pair.near.request(b"%d" % n)) for n in range(4)]
        await asyncio.sleep(1)
        for task in running:
            assert task is not None
            task.cancel()
        ends = await outcomes(*requests)
        assert [getattr(end, "handled", end) for end in ends] == [True, True, b"2", b"3"]
        assert [kind for kind, _ in log.errors] == ["handler_failed"] * 2


@in_virtual_time
async def test_replies_that_wait_for_room_survive_whoever_cancels_every_task() -> None:
    async with memory_nodes(max_requests=4) as nodes:
        pair = await nodes.pair()
        serve_forever(pair)
        requests = [asyncio.create_task(pair.near.request(b"%d" % n)) for n in range(8)]
        await asyncio.sleep(1)
        far = live(pair.far)
        for size in (1000, 0):
            while far.try_send(bytes(size)):  # until neither the inbox nor the window takes more
                while far.try_send(bytes(size)):
                    pass
                await asyncio.sleep(1)
        for request in requests[4:]:
            request.cancel()  # where they wait, and no room for a reply
        pair.near.ping()
        owned = pair.listener._runtime.tasks
        before = owned()
        await until(lambda: owned() - before)
        for _ in range(3):
            for task in owned():
                task.cancel()
            await asyncio.sleep(0)
        while True:
            try:
                await pair.dialer.endpoints.receive_any(timeout=1)
            except TimeoutError:
                break
        ends = await outcomes(*requests)
        assert [getattr(end, "handled", end) for end in ends[:4]] == [True] * 4
        books = live(pair.near).machine.exchanges
        assert books is not None
        assert not books._open
        assert not books._given_up


@in_virtual_time
async def test_requests_do_not_see_each_others_context_variables() -> None:
    variable: ContextVar[bytes] = ContextVar("variable", default=b"")
    async with memory_nodes(max_requests=2) as nodes:
        pair = await nodes.pair()

        @pair.listener.on_request
        async def answer(peer_node_id: bytes, data: bytes) -> bytes:
            seen = variable.get()
            variable.set(data)
            if data == b"3":
                await asyncio.sleep(1)
            return seen

        replies = await asyncio.gather(*(pair.near.request(b"%d" % n) for n in range(10)))
        assert set(replies) == {b""}


# ------------------------------------------------------------------- stop and close


@in_virtual_time
async def test_a_handler_may_close_its_session_and_goes_on() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        went_on = asyncio.Event()

        @pair.listener.on_request
        async def close(peer_node_id: bytes, data: bytes) -> bytes:
            await pair.far.close()
            went_on.set()
            return b"nobody hears it"

        with pytest.raises(STTRequestLostError) as caught:
            await pair.near.request(b"close", timeout=30)
        assert caught.value.handled is None
        await asyncio.wait_for(went_on.wait(), 10)


@in_virtual_time
async def test_a_handler_may_stop_its_node_and_goes_on() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        went_on = asyncio.Event()

        @pair.listener.on_request
        async def stop(peer_node_id: bytes, data: bytes) -> bytes:
            await pair.listener.stop()
            went_on.set()
            return b"nobody hears it"

        with pytest.raises(STTRequestLostError):
            await pair.near.request(b"stop", timeout=30)
        await asyncio.wait_for(went_on.wait(), 30)
        assert pair.listener.sessions == []


@pytest.mark.parametrize("end", ["near.close", "far.close", "near.abort", "far.abort"])
@pytest.mark.parametrize("count", [200, MAX_OPEN + 200])
@in_virtual_time
async def test_every_caller_hears_when_the_session_ends(end: str, count: int) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        asked = serve_forever(pair)
        requests = [asyncio.create_task(pair.near.request(b"%d" % n)) for n in range(count)]
        await asyncio.sleep(1)
        side, verb = end.split(".")
        ending = getattr(getattr(pair, side), verb)()
        if ending is not None:
            await ending
        ends = await outcomes(*requests)
        closed = {"near.close": "this side", "far.close": "the peer"}.get(end)
        if closed is not None:  # the first was being handled
            assert str(ends[0]) == f"{closed} closed the session before the reply came"
        for number, error in enumerate(ends):
            assert isinstance(error, STTRequestError)
            assert error.handled is not (b"%d" % number not in asked)
            if number >= MAX_OPEN and end != "far.close":  # its refusals make room for these
                assert error.handled is False
        if end == "far.close":
            refused = sum(isinstance(error, STTRequestRefusedError) for error in ends)
            assert refused >= min(count - len(asked), 800)  # credit does not reach for more
        assert len(asked) == 64


@in_virtual_time
async def test_a_session_closes_at_once_although_its_requests_use_up_the_credit() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        serve_forever(pair)
        requests = [asyncio.create_task(pair.near.request(b"")) for _ in range(MAX_OPEN)]
        await asyncio.sleep(1)
        assert not live(pair.near).machine.outbox.can_send()
        await pair.near.send(b"farewell")
        loop = asyncio.get_running_loop()
        before = loop.time()
        await pair.near.close()
        assert loop.time() - before < 1
        assert (await pair.listener.endpoints.receive_any(timeout=1))[0] == b"farewell"
        for error in await outcomes(*requests):
            assert isinstance(error, STTRequestLostError)


@in_virtual_time
async def test_a_session_of_a_stopped_node_takes_no_request() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        await pair.dialer.stop()
        with pytest.raises(STTRequestLostError) as caught:
            await pair.near.request(b"")
        assert caught.value.handled is False


@pytest.mark.parametrize("side", ["dialer", "listener"])
@in_virtual_time
async def test_a_node_that_stops_ends_requests_in_both_directions(side: str) -> None:
    async with memory_nodes(max_requests=3) as nodes:
        pair = await nodes.pair()
        serve_forever(pair)
        pair.dialer.on_request(pair.listener._runtime.request_handler)
        requests = [
            asyncio.create_task(session.request(b"%d" % n))
            for session in (pair.near, pair.far)
            for n in range(10)
        ]
        await asyncio.sleep(1)
        loop = asyncio.get_running_loop()
        before = loop.time()
        await getattr(pair, side).stop()
        for error in await outcomes(*requests):
            assert isinstance(error, STTRequestError)
        assert loop.time() - before < 2


def test_a_program_that_ends_with_requests_running_ends() -> None:
    called = asyncio.Event()

    async def main() -> None:
        nodes = memory_nodes(max_requests=1)
        pair = await nodes.pair()

        @pair.listener.on_request
        async def hang(peer_node_id: bytes, data: bytes) -> bytes:
            called.set()
            await asyncio.sleep(1000)
            return data

        requests = [asyncio.create_task(pair.near.request(b"%d" % n)) for n in range(5)]
        await called.wait()
        assert not any(request.done() for request in requests)

    asyncio.run(asyncio.wait_for(main(), 10))


# ------------------------------------------------------------ callers, room and slots


@in_virtual_time
async def test_requests_beyond_those_that_may_be_open_are_not_asked_one_round_trip_each() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()

        @pair.listener.on_request
        async def answer(peer_node_id: bytes, data: bytes) -> bytes:
            return data

        await pair.near.request(b"")
        rounds = live(pair.near).machine._ping_token
        await asyncio.gather(*(pair.near.request(b"") for _ in range(4 * MAX_OPEN)))
        assert live(pair.near).machine._ping_token - rounds < 10


@in_virtual_time
async def test_a_failed_request_leaves_no_cycle_of_references() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        serve_forever(pair)
        gc.collect()
        gc.disable()
        try:
            try:
                await pair.near.request(b"", timeout=1)
            except STTRequestTimeoutError as error:
                kept = weakref.ref(error)
            await asyncio.sleep(1)
            assert kept() is None
        finally:
            gc.enable()


@in_virtual_time
async def test_a_closed_session_is_freed_although_a_time_out_was_far_away() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        serve_forever(pair)
        request = asyncio.create_task(pair.near.request(b"", timeout=100_000))
        await asyncio.sleep(1)
        await pair.near.close()
        with contextlib.suppress(STTRequestLostError):
            await request
        await asyncio.sleep(1)
        loop: Any = asyncio.get_running_loop()
        assert not [
            timer
            for timer in loop._scheduled
            if "Requesting" in repr(timer) and not timer.cancelled()
        ]


@in_virtual_time
async def test_handlers_ask_each_other_back_as_deep_as_max_requests_allows_and_no_deeper() -> None:
    async with memory_nodes(max_requests=5) as nodes:
        pair = await nodes.pair()
        for node in (pair.dialer, pair.listener):

            async def ask_back(peer: bytes, data: bytes, node: STTNode = node) -> bytes:
                rest = int(data)
                if not rest:
                    return b"end"
                return b"." + await node.endpoints.request(peer, b"%d" % (rest - 1), timeout=60)

            node.on_request(ask_back)
        ask = partial(pair.dialer.endpoints.request, pair.listener.node_id, timeout=1)
        assert await ask(b"9") == b".........end"
        with pytest.raises(STTRequestTimeoutError):
            await ask(b"10")
        await asyncio.sleep(1)
        assert await ask(b"9") == b".........end"  # the chain has ended, and holds nothing
