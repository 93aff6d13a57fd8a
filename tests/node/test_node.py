"""What a node keeps to itself: its seeds and keys, in texts and on the wire."""

from __future__ import annotations

import asyncio
import gc
import re
from typing import Any

import pytest

from helpers.fault_network import Fault, FaultNetwork
from helpers.nodes import (
    SHARED_SEED,
    EventLog,
    Nodes,
    address_of,
    assert_nothing_held,
    in_virtual_time,
    live,
    seed_of,
    until,
)
from helpers.relay import Direction, Kind, Relay
from seigr_toolset_transmissions import NodeConfig, SendOutcome, STTNode
from seigr_toolset_transmissions.errors import (
    STTConnectError,
    STTEndpointError,
    STTListenError,
    STTSeedError,
    STTSessionClosedError,
)
from seigr_toolset_transmissions.identity import Identity
from seigr_toolset_transmissions.transports.memory import MemoryNetwork

# Starting.


async def test_a_listening_node_says_where_it_is() -> None:
    async with Nodes() as nodes:
        node = nodes.make()
        before = node.address
        assert before is None
        address = await node.start(server_mode=True)
        assert address == node.address
        assert address is not None
        assert address[0] == "127.0.0.1"
        assert address[1] > 0
        await node.stop()
        assert node.address is None


async def test_a_node_that_only_dials_has_no_address() -> None:
    async with Nodes() as nodes:
        node = await nodes.start()
        assert node.address is None


async def test_a_node_listens_within_a_block_and_is_stopped_at_its_end() -> None:
    async with Nodes() as nodes:
        hub, peer = nodes.make(), await nodes.start("carol")
        async with hub.listening() as same:
            assert same is hub
            await peer.connect(*address_of(hub))
        assert hub.address is None
        with pytest.raises(RuntimeError, match="not running"):
            await hub.connect("127.0.0.1", 1)
        async with hub.listening():  # once more
            await peer.connect(*address_of(hub))


async def test_a_node_that_cannot_listen_is_not_started_by_its_block() -> None:
    async with Nodes() as nodes:
        port = address_of(await nodes.listen())[1]
        second = nodes.make("alice", port=port)
        with pytest.raises(STTListenError):
            async with second.listening():
                pytest.fail("the block must not begin")
        await second.start()


async def test_a_node_with_a_port_that_only_dials_warns_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Nodes() as nodes:
        node = nodes.make(port=9400)
        for _ in range(2):
            await node.start()
            await node.stop()
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert "port 9400" in record.getMessage()
        assert "node.listening()" in record.getMessage()


@pytest.mark.parametrize("server_mode", [True, False])
async def test_a_node_without_a_port_of_its_own_does_not_warn(
    no_log: None, server_mode: bool
) -> None:
    async with Nodes() as nodes:
        await nodes.make().start(server_mode)


async def test_the_node_id_is_that_of_the_seed() -> None:
    node = STTNode(seed_of("alice"), SHARED_SEED)
    assert node.node_id == Identity.from_seed(seed_of("alice")).node_id
    assert len(node.node_id) == 32


async def test_a_busy_port_is_reported_with_the_remedy() -> None:
    async with Nodes() as nodes:
        first = await nodes.listen()
        port = address_of(first)[1]
        second = nodes.make("alice", port=port)
        with pytest.raises(STTListenError, match=rf"{port}.*another host or port") as caught:
            await second.start(server_mode=True)
        assert isinstance(caught.value.__cause__, OSError)
        with pytest.raises(RuntimeError, match="not running"):
            await second.connect(*address_of(first))
        await first.stop()
        assert await second.start(server_mode=True) == ("127.0.0.1", port)


async def test_a_running_node_cannot_be_started() -> None:
    async with Nodes() as nodes:
        node = await nodes.start()
        with pytest.raises(RuntimeError, match="stop it first"):
            await node.start()


@pytest.mark.parametrize("which", ["node_seed", "shared_seed"])
@pytest.mark.parametrize("bad", [b"", b"fifteen bytes!!", "a text of sixteen", bytearray(32), None])
def test_a_seed_that_cannot_be_used_is_refused_with_the_remedy(which: str, bad: Any) -> None:
    seeds: dict[str, Any] = {"node_seed": b"n" * 16, "shared_seed": b"s" * 16} | {which: bad}
    with pytest.raises(STTSeedError, match=rf"^{which} must .*`stt keygen`") as caught:
        STTNode(**seeds)
    if bad:
        text = bad if isinstance(bad, str) else bytes(bad).decode()
        assert text not in str(caught.value)


async def test_a_block_starts_and_stops_the_node() -> None:
    async with Nodes() as nodes:
        node = nodes.make()
        async with node as entered:
            assert entered is node
            with pytest.raises(RuntimeError):
                await node.start()
        assert_nothing_held(node)
        listener = await nodes.listen("bob")
        async with listener:
            assert listener.address is not None
        assert listener.address is None


@pytest.mark.parametrize("when", ["never", "stopped"])
async def test_a_node_that_does_not_run_says_so(when: str) -> None:
    async with Nodes() as nodes:
        node = nodes.make()
        if when == "stopped":
            await node.start()
            await node.stop()
        with pytest.raises(RuntimeError, match="start"):
            await node.connect("127.0.0.1", 1)
        await node.endpoints.add_endpoint(b"x" * 32, ("127.0.0.1", 1))
        with pytest.raises(RuntimeError, match="start"):
            await node.endpoints.send_to_endpoint(b"x" * 32, b"data")
        assert await node.send_to_all(b"data") == {}
        assert node.sessions == []
        gc.collect()  # a coroutine that was never awaited would be reported now


async def test_a_start_that_is_cancelled_leaves_the_node_stopped() -> None:
    async with Nodes() as nodes:
        node = nodes.make()
        starting = asyncio.create_task(node.start(server_mode=True))
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert await node.start(server_mode=True) is not None


# Sending over sessions.


async def test_sends_use_the_newest_session_that_has_a_connection() -> None:
    async with Nodes(reconnect_delay=30) as nodes, Relay(("", 0)) as relay:
        listener = await nodes.listen()
        relay.target = address_of(listener)
        dialer = await nodes.start()
        old = await nodes.connect(dialer, listener)
        new = await nodes.connect(dialer, listener, relay.address)
        peer = listener.node_id
        assert dialer.get_session_for_endpoint(peer) is new.near
        relay.down = True
        relay.links[0].cut(Kind.RST)
        await until(lambda: new.near.state == "suspended")
        assert dialer.get_session_for_endpoint(peer) is old.near
        await dialer.endpoints.send_to_endpoint(peer, b"over the old one")
        assert (await listener.endpoints.receive_any(timeout=9))[0] == b"over the old one"
        await old.near.close()
        assert dialer.get_session_for_endpoint(peer) is new.near
        info = dialer.endpoints.get_endpoint(peer)
        assert info is not None
        assert info["state"] == "suspended"


async def test_an_older_session_takes_over_when_the_newest_closes() -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen()
        dialer = await nodes.start()
        pairs = [await nodes.connect(dialer, listener) for _ in range(3)]
        peer = listener.node_id
        for pair in reversed(pairs):
            assert dialer.get_session_for_endpoint(peer) is pair.near
            await pair.near.close()
        assert dialer.get_session_for_endpoint(peer) is None


async def test_send_to_sessions_returns_an_outcome_for_each() -> None:
    async with Nodes() as nodes:
        bob, carol = await nodes.listen("bob"), await nodes.listen("carol")
        dialer = await nodes.start()
        to_bob = await nodes.connect(dialer, bob)
        to_carol = await nodes.connect(dialer, carol)
        live(to_carol.near).start_closing()
        unknown = b"?" * 16
        outcomes = await dialer.send_to_sessions(
            [to_bob.near.session_id, unknown, to_carol.near.session_id], b"news"
        )
        assert outcomes == {
            to_bob.near.session_id: SendOutcome.ACCEPTED,
            unknown: SendOutcome.UNKNOWN,
            to_carol.near.session_id: SendOutcome.UNREACHABLE,
        }
        assert await bob.endpoints.receive_any(timeout=9) == (b"news", dialer.node_id)


@pytest.mark.parametrize("how", ["send_to_sessions", "send_to_all", "broadcast"])
async def test_a_recipient_that_does_not_accept_within_send_timeout_is_full(how: str) -> None:
    small: dict[str, Any] = {
        "max_message_bytes": 1024,
        "send_window_bytes": 2048,
        "receive_window_bytes": 2048,
    }
    async with Nodes(**small, inbox_messages=1, send_timeout=0.05) as nodes:
        pair = await nodes.pair()

        async def send() -> SendOutcome:
            data = b"x" * 1000
            if how == "send_to_sessions":
                (outcome,) = (
                    await pair.dialer.send_to_sessions([pair.near.session_id], data)
                ).values()
            elif how == "send_to_all":
                (outcome,) = (await pair.dialer.send_to_all(data)).values()
            else:
                (outcome,) = (await pair.dialer.endpoints.broadcast(data)).values()
            return outcome

        async with asyncio.timeout(5):  # the manager's own default is longer
            outcomes = [await send() for _ in range(6)]
        assert outcomes[0] is SendOutcome.ACCEPTED
        assert outcomes[-1] is SendOutcome.FULL
        assert set(outcomes) == {SendOutcome.ACCEPTED, SendOutcome.FULL}


async def test_send_to_all_reaches_each_peer_once() -> None:
    async with Nodes() as nodes:
        bob, carol = await nodes.listen("bob"), await nodes.listen("carol")
        dialer = await nodes.start()
        assert await dialer.send_to_all(b"nobody") == {}
        for listener in (bob, carol, bob):
            await nodes.connect(dialer, listener)
        await dialer.endpoints.add_endpoint(b"known, but away", None)
        outcomes = await dialer.send_to_all(bytearray(b"news"))
        assert outcomes == {
            bob.node_id: SendOutcome.ACCEPTED,
            carol.node_id: SendOutcome.ACCEPTED,
        }
        for listener in (bob, carol):
            assert await listener.endpoints.receive_any(timeout=9) == (b"news", dialer.node_id)
            with pytest.raises(STTEndpointError):
                await listener.endpoints.receive_any(timeout=0.02)
        outcomes = await dialer.endpoints.broadcast(b"more", timeout=5)
        assert outcomes[b"known, but away"] is SendOutcome.UNREACHABLE


@pytest.mark.parametrize("bad", ["text", 5, None])
async def test_only_bytes_can_be_sent(bad: Any) -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        name = type(bad).__name__
        for sending in (
            pair.near.send(bad),
            pair.dialer.send_to_sessions([pair.near.session_id], bad),
            pair.dialer.send_to_all(bad),
            pair.dialer.endpoints.send_to_endpoint(pair.listener.node_id, bad),
        ):
            with pytest.raises(TypeError, match=name):
                await sending
        with pytest.raises(TypeError, match=name):
            pair.near.send_nowait(bad)
        assert pair.near.stats.messages_sent == 0


async def test_one_session_id_is_not_a_list_of_them() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        ids: Any = pair.near.session_id
        with pytest.raises(TypeError, match="iterable of ids"):
            await pair.dialer.send_to_sessions(ids, b"data")


# Limits.


async def test_sessions_beyond_the_limit_of_a_peer_are_refused() -> None:
    async with Nodes(max_sessions_per_peer=2) as nodes:
        listener = await nodes.listen()
        log = EventLog(listener)
        dialer = await nodes.start()
        results = await asyncio.gather(
            *(dialer.connect(*address_of(listener)) for _ in range(5)), return_exceptions=True
        )
        refusals = [result for result in results if isinstance(result, BaseException)]
        assert len(refusals) == 3
        for refusal in refusals:
            assert type(refusal) is STTConnectError
            assert "accepts no more sessions" in str(refusal)
        await log.until("error")
        # A member that insists does not bring about a flood of events.
        ((name, details),) = log.errors
        assert name == "limit_reached"
        assert details["peer_node_id"] == dialer.node_id
        assert "max_sessions_per_peer is 2" in details["reason"]
        assert listener.stats().handshakes_failed == 3
        assert len(listener.sessions) == len(dialer.sessions) == 2
        await dialer.sessions[0].close()
        await dialer.connect(*address_of(listener))


@in_virtual_time
async def test_dialers_that_left_silently_do_not_use_up_the_limit() -> None:
    third = Fault(Direction.OUT, 224, Kind.FIN)  # right behind the third message
    network = FaultNetwork(MemoryNetwork(), [third] * 5)
    async with Nodes(network, max_sessions_per_peer=2) as nodes:
        listener = await nodes.listen()
        dialer = await nodes.start()
        for _ in range(5):
            with pytest.raises(STTConnectError):
                await dialer.connect(*address_of(listener))
        for _ in range(2):
            await nodes.connect(dialer, listener)
        with pytest.raises(STTConnectError, match="accepts no more sessions"):
            await dialer.connect(*address_of(listener))


async def test_sessions_beyond_the_limit_of_the_node_are_refused() -> None:
    async with Nodes(max_sessions=2) as nodes:
        listener = await nodes.listen()
        log = EventLog(listener)
        alice, carol = await nodes.start("alice"), await nodes.start("carol")
        await nodes.connect(alice, listener)
        await nodes.connect(carol, listener)
        with pytest.raises(STTConnectError, match="accepts no more sessions"):
            await carol.connect(*address_of(listener))
        await log.until("error")
        ((error_type, details),) = log.errors
        assert error_type == "limit_reached"
        assert "max_sessions is 2" in details["reason"]
        assert len(listener.sessions) == 2


@in_virtual_time
async def test_sessions_without_a_connection_are_limited_the_oldest_goes() -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network) as nodes:
        listener = await nodes.listen(config=NodeConfig(max_suspended=2))
        log = EventLog(listener)
        dialer = await nodes.start(config=NodeConfig(reconnect_delay=1000))
        pairs = [await nodes.connect(dialer, listener) for _ in range(4)]
        for cable in network.cables:
            cable.cut(Kind.RST)
            await asyncio.sleep(0)
        await log.until("error", 2)
        assert [details["session_id"] for _, details in log.errors] == [
            pair.far.session_id for pair in pairs[:2]
        ]
        assert {name for name, _ in log.errors} == {"session_lost"}
        assert listener.stats().suspended == 2
        assert listener.stats().sessions_lost == 2


async def test_two_hundred_sessions() -> None:
    count = 200
    async with Nodes(MemoryNetwork(), max_sessions_per_peer=count) as nodes:
        listener = await nodes.listen()
        dialer = await nodes.start()
        sessions = [await dialer.connect(*address_of(listener)) for _ in range(count)]
        await until(lambda: len(listener.sessions) == count)
        outcomes = await dialer.send_to_sessions([s.session_id for s in sessions], b"to each")
        assert set(outcomes.values()) == {SendOutcome.ACCEPTED}
        received = [await listener.endpoints.receive_any(timeout=9) for _ in range(count)]
        assert received == [(b"to each", dialer.node_id)] * count
        stats = listener.stats()
        assert (stats.sessions, stats.peers, stats.suspended) == (count, 1, 0)
        assert stats.sessions_opened == count


async def test_a_thousand_endpoints_beside_the_peers() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        endpoints = pair.dialer.endpoints
        ids = [b"%028d" % k for k in range(1000)]
        for endpoint_id in ids:
            await endpoints.add_endpoint(endpoint_id, None, {"type": "known"})
        assert len(endpoints) == 1001
        outcomes = await endpoints.broadcast(b"to all", timeout=5)
        assert outcomes.pop(pair.listener.node_id) is SendOutcome.ACCEPTED
        assert outcomes == dict.fromkeys(ids, SendOutcome.UNREACHABLE)
        assert (await pair.listener.endpoints.receive_any(timeout=9))[0] == b"to all"
        await pair.near.close()
        await until(lambda: len(endpoints) == 1000)


async def test_errors_of_the_session_are_those_of_this_library() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        await pair.near.close()
        with pytest.raises(STTSessionClosedError):
            await pair.near.send(b"too late")
        with pytest.raises(STTSessionClosedError):
            pair.near.send_nowait(b"too late")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("events", "STTNode(events="), ("config", "STTNode(config="), ("endpoints", "add_endpoint(")],
)
def test_the_parts_of_a_node_cannot_be_replaced(name: str, remedy: str) -> None:
    node = STTNode(bytes(16), bytes(range(16)))
    before = getattr(node, name)
    with pytest.raises(AttributeError, match=re.escape(remedy)):
        setattr(node, name, before)
    assert getattr(node, name) is before
