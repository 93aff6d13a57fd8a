"""Requests to endpoints: which session they take, dialing, timeouts, and many at once."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import pytest

from helpers.nodes import address_of, in_virtual_time, live, memory_nodes
from seigr_toolset_transmissions import NodeConfig
from seigr_toolset_transmissions.endpoints import EndpointManager
from seigr_toolset_transmissions.errors import (
    STTConnectError,
    STTEndpointError,
    STTMessageSizeError,
    STTRequestError,
    STTRequestFailedError,
    STTRequestRefusedError,
    STTRequestTimeoutError,
    STTRequestUnreachableError,
)

if TYPE_CHECKING:
    from helpers.nodes import Nodes
    from seigr_toolset_transmissions import STTNode

UNKNOWN = b"nobody".ljust(32)


class Answers:
    """Answers the requests of a node: at once, after a while, or with a failure."""

    def __init__(self, node: STTNode) -> None:
        self.asked: list[bytes] = []
        self.cancelled = 0
        node.on_request(self.answer)

    async def answer(self, peer_node_id: bytes, data: bytes) -> bytes:
        self.asked.append(data)
        if data == b"fail":
            raise STTRequestFailedError(b"as asked")
        if data.startswith(b"wait "):
            try:
                await asyncio.sleep(float(data[5:]))
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return b"re: " + data


async def hub_and_peers(nodes: Nodes) -> tuple[STTNode, dict[str, STTNode]]:
    """A hub that listens, and two nodes with a session to it."""
    hub = await nodes.listen("alice")
    peers = {name: await nodes.start(name) for name in ("bob", "carol")}
    for peer in peers.values():
        await nodes.connect(peer, hub)
    return hub, peers


def assert_no_request_left(*nodes: STTNode) -> None:
    for node in nodes:
        for session in map(live, node.sessions):
            books = session.machine.exchanges
            assert books is None or not (books._open or books._given_up or books._unanswered)


# -- one -------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_request_goes_over_the_session_that_a_message_would_take() -> None:
    async with memory_nodes(max_sessions_per_peer=3) as nodes:
        pair = await nodes.pair()
        answers = Answers(pair.listener)
        for _ in range(2):
            await nodes.connect(pair.dialer, pair.listener)
        peer = pair.listener.node_id
        chosen = pair.dialer.get_session_for_endpoint(peer)
        assert chosen is not None
        before = chosen.stats.messages_sent
        assert await pair.dialer.endpoints.request(peer, bytearray(b"a")) == b"re: a"
        await pair.dialer.endpoints.send_to_endpoint(peer, b"b")
        assert chosen.stats.messages_sent == before + 2
        assert answers.asked == [b"a"]


@in_virtual_time
async def test_a_request_to_an_endpoint_without_a_session_dials_it_once() -> None:
    async with memory_nodes() as nodes:
        hub, peer = await nodes.listen("bob"), await nodes.start("alice")
        Answers(hub)
        await peer.endpoints.add_endpoint(hub.node_id, address_of(hub))
        several = [peer.endpoints.request(hub.node_id, b"%d" % n, timeout=5) for n in range(3)]
        assert await asyncio.gather(*several) == [b"re: 0", b"re: 1", b"re: 2"]
        assert len(peer.sessions) == 1


@in_virtual_time
async def test_a_peer_that_is_kept_connected_is_waited_for() -> None:
    async with memory_nodes(reconnect_delay=0.1, reconnect_delay_max=0.2) as nodes:
        hub, peer = await nodes.listen("bob"), await nodes.start("alice")
        Answers(hub)
        address = address_of(hub)
        await hub.stop()
        await peer.endpoints.add_endpoint(hub.node_id, address, connect=True)
        with pytest.raises(STTRequestTimeoutError) as caught:
            await peer.endpoints.request(hub.node_id, b"early", timeout=1)
        assert caught.value.handled is False
        request = asyncio.create_task(peer.endpoints.request(hub.node_id, b"late", timeout=10))
        await asyncio.sleep(1)
        hub._port = address[1]
        await hub.start(server_mode=True)
        assert await request == b"re: late"


@in_virtual_time
async def test_a_request_that_waits_in_a_session_that_is_lost_goes_over_the_next_one() -> None:
    async with memory_nodes(
        send_window_messages=1, reconnect_delay=0.1, reconnect_delay_max=0.2
    ) as nodes:
        hub, peer = await nodes.listen("bob"), await nodes.start("alice")
        answers = Answers(hub)
        await peer.endpoints.add_endpoint(hub.node_id, address_of(hub), connect=True)
        await peer.endpoints.wait_connected(hub.node_id)
        session = live(peer.get_session_for_endpoint(hub.node_id))
        session.send_nowait(b"fills the window")
        request = asyncio.create_task(peer.endpoints.request(hub.node_id, b"again", timeout=10))
        await asyncio.sleep(0)
        session.abort()
        assert await request == b"re: again"
        assert answers.asked == [b"again"]


@pytest.mark.parametrize(
    ("address", "cause"),
    [(("192.0.2.1", 9), STTConnectError), (None, STTEndpointError), ("unknown", STTEndpointError)],
    ids=["a dial that fails", "no address", "an unknown endpoint"],
)
@in_virtual_time
async def test_a_peer_that_cannot_be_reached_is_said_to_be_so(
    address: Any, cause: type[Exception]
) -> None:
    async with memory_nodes() as nodes:
        node = await nodes.start()
        if address != "unknown":
            await node.endpoints.add_endpoint(UNKNOWN, address)
        with pytest.raises(STTRequestUnreachableError) as caught:
            await node.endpoints.request(UNKNOWN, b"?", timeout=100)
        assert caught.value.handled is False
        assert isinstance(caught.value.__cause__, cause)
        assert str(caught.value) == str(caught.value.__cause__)
        assert isinstance(caught.value, STTConnectError)


@in_virtual_time
async def test_the_time_covers_dialing_and_the_reply() -> None:
    async with memory_nodes() as nodes:
        hub, peer = await nodes.listen("bob"), await nodes.start("alice")
        answers = Answers(hub)
        await peer.endpoints.add_endpoint(hub.node_id, address_of(hub))
        with pytest.raises(STTRequestTimeoutError) as caught:
            await peer.endpoints.request(hub.node_id, b"wait 100", timeout=1)
        assert caught.value.handled is None
        await asyncio.sleep(1)
        assert answers.cancelled == 1
        assert_no_request_left(hub, peer)


@in_virtual_time
async def test_a_cancelled_request_is_told_to_the_peer() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        answers = Answers(pair.listener)
        peer = pair.listener.node_id
        request = asyncio.create_task(pair.dialer.endpoints.request(peer, b"wait 100"))
        await asyncio.sleep(1)
        request.cancel()
        await asyncio.sleep(1)
        assert answers.cancelled == 1
        assert_no_request_left(pair.dialer, pair.listener)


@pytest.mark.parametrize("timeout", [math.nan, "5", b"5", 1j])
@in_virtual_time
async def test_a_timeout_that_is_none_is_refused_before_anything_is_sent(timeout: Any) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        answers = Answers(pair.listener)
        endpoints, peer = pair.dialer.endpoints, pair.listener.node_id
        wrong = ValueError if isinstance(timeout, float) else TypeError
        with pytest.raises(wrong, match="timeout must be"):
            await pair.near.request(b"?", timeout=timeout)
        with pytest.raises(wrong, match="timeout must be"):
            await endpoints.request(peer, b"?", timeout=timeout)
        with pytest.raises(wrong, match="timeout must be"):
            await endpoints.request_many([peer], b"?", timeout=timeout)
        await asyncio.sleep(1)
        assert answers.asked == []


@in_virtual_time
async def test_when_the_time_is_over_nothing_is_sent() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        answers = Answers(pair.listener)
        endpoints, peer = pair.dialer.endpoints, pair.listener.node_id
        with pytest.raises(STTRequestTimeoutError) as caught:
            await pair.near.request(b"?", timeout=-0.001)
        assert caught.value.handled is False
        with pytest.raises(STTRequestTimeoutError) as caught:
            await endpoints.request(peer, b"?", timeout=-math.inf)
        assert caught.value.handled is False
        outcome = (await endpoints.request_many([peer], b"?", timeout=-1))[peer]
        assert isinstance(outcome, STTRequestTimeoutError)
        assert outcome.handled is False
        await asyncio.sleep(1)
        assert answers.asked == []


@pytest.mark.parametrize("timeout", [None, math.inf, 1e300])
@in_virtual_time
async def test_a_request_may_take_for_ever(timeout: float | None) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        Answers(pair.listener)
        endpoints, peer = pair.dialer.endpoints, pair.listener.node_id
        assert await endpoints.request(peer, b"wait 5000", timeout=timeout) == b"re: wait 5000"
        assert await endpoints.request_many([peer], b"x", timeout=timeout) == {peer: b"re: x"}


@in_virtual_time
async def test_a_manager_on_its_own_says_who_can_ask() -> None:
    manager = EndpointManager()
    await manager.add_endpoint(b"x", None)
    with pytest.raises(STTEndpointError, match=r"use that of a node, as in node\.endpoints"):
        await manager.request(b"x", b"?")
    with pytest.raises(STTEndpointError, match="use that of a node"):
        await manager.request_many([], b"?")


# -- many ------------------------------------------------------------------------------------


@in_virtual_time
async def test_each_of_many_has_an_outcome_in_the_order_given() -> None:
    async with memory_nodes() as nodes:
        hub, peers = await hub_and_peers(nodes)
        bob, carol = (peer.node_id for peer in peers.values())
        answers = Answers(peers["bob"])
        outcomes = await hub.endpoints.request_many([UNKNOWN, carol, bob, bob], b"?")
        assert list(outcomes) == [UNKNOWN, carol, bob]
        assert outcomes[bob] == b"re: ?"
        assert answers.asked == [b"?"]
        assert isinstance(outcomes[carol], STTRequestRefusedError)
        assert isinstance(outcomes[UNKNOWN], STTRequestUnreachableError)
        failed = (await hub.endpoints.request_many([bob], b"fail"))[bob]
        assert isinstance(failed, STTRequestFailedError)
        assert failed.data == b"as asked"
        assert await hub.endpoints.request_many([], b"?") == {}


@in_virtual_time
async def test_one_that_is_slow_or_dials_delays_no_other() -> None:
    async with memory_nodes() as nodes:
        hub, peers = await hub_and_peers(nodes)
        bob, carol = (peer.node_id for peer in peers.values())
        slow, quick = Answers(peers["bob"]), Answers(peers["carol"])
        await hub.endpoints.add_endpoint(UNKNOWN, ("192.0.2.1", 9))
        loop = asyncio.get_running_loop()

        async def hang(peer_node_id: bytes, data: bytes) -> bytes:
            return await slow.answer(peer_node_id, b"wait 100")

        peers["bob"].on_request(hang)
        began = loop.time()
        outcomes = await hub.endpoints.request_many([bob, UNKNOWN, carol], b"?", timeout=3)
        assert loop.time() - began == pytest.approx(3, abs=0.1)
        assert outcomes[carol] == b"re: ?"
        assert quick.asked == [b"?"]
        late, unreachable = outcomes[bob], outcomes[UNKNOWN]
        assert isinstance(late, STTRequestTimeoutError)
        assert late.handled is None
        assert isinstance(unreachable, STTRequestError)
        assert unreachable.handled is False
        await asyncio.sleep(1)
        assert slow.cancelled == 1
        assert_no_request_left(hub, *peers.values())


@in_virtual_time
async def test_without_a_timeout_many_have_the_time_that_they_have_to_accept_a_message() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair(send_timeout=2.0)
        Answers(pair.listener)
        loop, peer = asyncio.get_running_loop(), pair.listener.node_id
        began = loop.time()
        outcomes = await pair.dialer.endpoints.request_many([peer], b"wait 100")
        assert loop.time() - began == pytest.approx(2, abs=0.1)
        assert isinstance(outcomes[peer], STTRequestTimeoutError)


@in_virtual_time
async def test_a_cancel_gives_all_up_and_tells_their_peers() -> None:
    async with memory_nodes() as nodes:
        hub, peers = await hub_and_peers(nodes)
        answers = [Answers(peer) for peer in peers.values()]
        await hub.endpoints.add_endpoint(UNKNOWN, None, connect=False)
        ids = [peer.node_id for peer in peers.values()]
        before = asyncio.all_tasks()
        many = asyncio.create_task(hub.endpoints.request_many(ids, b"wait 100", timeout=None))
        await asyncio.sleep(1)
        many.cancel()
        with pytest.raises(asyncio.CancelledError):
            await many
        await asyncio.sleep(1)
        assert [each.cancelled for each in answers] == [1, 1]
        assert_no_request_left(hub, *peers.values())
        assert asyncio.all_tasks() == before


@in_virtual_time
async def test_a_cancel_while_one_of_many_dials_leaves_no_task_behind() -> None:
    async with memory_nodes() as nodes:
        hub, peers = await hub_and_peers(nodes)
        Answers(peers["bob"])
        await hub.endpoints.add_endpoint(UNKNOWN, ("192.0.2.1", 9), connect=True)
        bob = peers["bob"].node_id
        many = asyncio.create_task(hub.endpoints.request_many([UNKNOWN, bob], b"x", timeout=None))
        await asyncio.sleep(0)
        before = asyncio.all_tasks()
        await asyncio.sleep(5)
        many.cancel()
        with pytest.raises(asyncio.CancelledError):
            await many
        left = [task for task in asyncio.all_tasks() - before if "_ask" in repr(task)]
        assert left == []


@in_virtual_time
async def test_a_request_too_long_for_one_of_many_is_its_outcome() -> None:
    async with memory_nodes() as nodes:
        hub = await nodes.listen("alice")
        small = await nodes.start("bob", config=NodeConfig(max_message_bytes=5000))
        large = await nodes.start("carol")
        for peer in (small, large):
            await nodes.connect(peer, hub)
            Answers(peer)
        data = bytes(6000)
        outcomes = await hub.endpoints.request_many([small.node_id, large.node_id], data)
        assert outcomes[large.node_id] == b"re: " + data
        error = outcomes[small.node_id]
        assert isinstance(error, STTRequestError)
        assert error.handled is False
        assert isinstance(error.__cause__, STTMessageSizeError)


@in_virtual_time
async def test_more_than_there_is_room_for_take_their_turn() -> None:
    async with memory_nodes(send_window_messages=2) as nodes:
        pair = await nodes.pair()
        answers = Answers(pair.listener)
        endpoints, peer = pair.dialer.endpoints, pair.listener.node_id
        several = (endpoints.request_many([peer], b"%d" % n) for n in range(20))
        outcomes = await asyncio.gather(*several)
        assert [each[peer] for each in outcomes] == [b"re: %d" % n for n in range(20)]
        assert answers.asked == [b"%d" % n for n in range(20)]


@pytest.mark.parametrize(
    "ids", [b"one id", "text", [b""], ["text"], [b"good", None]], ids=lambda ids: repr(ids)
)
@in_virtual_time
async def test_what_is_no_id_is_refused_before_anything_is_sent(ids: Any) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        answers = Answers(pair.listener)
        if isinstance(ids, list):
            ids = [pair.listener.node_id, *ids]
        with pytest.raises((TypeError, ValueError)):
            await pair.dialer.endpoints.request_many(ids, b"?")
        await asyncio.sleep(1)
        assert answers.asked == []


@in_virtual_time
async def test_peers_with_a_session_cost_no_task_each(monkeypatch: pytest.MonkeyPatch) -> None:
    async with memory_nodes() as nodes:
        hub, peers = await hub_and_peers(nodes)
        for peer in peers.values():
            Answers(peer)
        monkeypatch.setattr(asyncio, "create_task", None)
        outcomes = await hub.endpoints.request_many([p.node_id for p in peers.values()], b"x")
        assert set(outcomes.values()) == {b"re: x"}


@in_virtual_time
async def test_stopping_the_node_ends_every_request() -> None:
    async with memory_nodes() as nodes:
        hub, peers = await hub_and_peers(nodes)
        for peer in peers.values():
            Answers(peer)
        ids = [peer.node_id for peer in peers.values()]
        many = asyncio.create_task(hub.endpoints.request_many(ids, b"wait 100", timeout=None))
        await asyncio.sleep(1)
        await hub.stop()
        outcomes = await many
        assert all(isinstance(each, STTRequestError) for each in outcomes.values())
        again = await hub.endpoints.request_many(ids, b"?")
        assert all(isinstance(each, STTRequestUnreachableError) for each in again.values())
