"""Programs that start in any order: sends and waits for peers that are not there yet."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from helpers.nodes import address_of, in_virtual_time, memory_nodes
from seigr_toolset_transmissions import EndpointManager, SendOutcome
from seigr_toolset_transmissions.errors import (
    STTConnectError,
    STTEndpointError,
    STTHandshakeError,
    STTTimeoutError,
)
from seigr_toolset_transmissions.node.arrivals import Arrivals

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from seigr_toolset_transmissions import STTNode


async def begun(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Start something and give it time to begin waiting."""
    task = asyncio.create_task(coroutine)
    await asyncio.sleep(3)
    assert not task.done()
    return task


async def late_pair(nodes: Any) -> tuple[STTNode, STTNode]:
    """A node that keeps another connected, and that other, which does not run yet."""
    early, late = nodes.make("alice"), nodes.make("bob", port=9400)
    await early.start()
    await early.endpoints.add_endpoint(late.node_id, late_address(late), connect=True)
    return early, late


def late_address(_late: STTNode) -> tuple[str, int]:
    return "127.0.0.1", 9400


@in_virtual_time
async def test_sends_to_a_wanted_peer_wait_until_it_is_there_and_arrive_in_order() -> None:
    async with memory_nodes() as nodes:
        early, late = await late_pair(nodes)
        send = early.endpoints.send_to_endpoint
        sends = [await begun(send(late.node_id, b"%d" % number)) for number in range(5)]
        await late.start(server_mode=True)
        await asyncio.gather(*sends)
        for number in range(5):
            assert (await late.endpoints.receive_any(timeout=5))[0] == b"%d" % number


@in_virtual_time
async def test_a_send_that_waits_ends_after_its_timeout_or_a_cancel_and_sends_nothing() -> None:
    async with memory_nodes() as nodes:
        early, late = await late_pair(nodes)
        send = early.endpoints.send_to_endpoint
        with pytest.raises(STTTimeoutError, match="not within 2 s"):
            await send(late.node_id, b"late", timeout=2)
        cancelled = await begun(send(late.node_id, b"cancelled"))
        cancelled.cancel()
        await asyncio.wait((cancelled,))
        await late.start(server_mode=True)
        await send(late.node_id, b"in time", timeout=60)
        assert (await late.endpoints.receive_any(timeout=5))[0] == b"in time"
        with pytest.raises(STTTimeoutError):
            await late.endpoints.receive_any(timeout=5)


@in_virtual_time
async def test_a_broadcast_does_not_wait_for_peers_that_are_not_there() -> None:
    async with memory_nodes() as nodes:
        early, late = await late_pair(nodes)
        async with asyncio.timeout(5):
            outcomes = await early.endpoints.broadcast(b"news")
        assert outcomes == {late.node_id: SendOutcome.UNREACHABLE}


@pytest.mark.parametrize("how", ["stop", "remove", "unwanted"])
@in_virtual_time
async def test_those_who_wait_hear_when_the_peer_cannot_come_any_more(how: str) -> None:
    async with memory_nodes() as nodes:
        early, late = await late_pair(nodes)
        endpoints = early.endpoints
        sending = await begun(endpoints.send_to_endpoint(late.node_id, b""))
        waiting = await begun(endpoints.wait_connected(late.node_id))
        match how:
            case "stop":
                await early.stop()
            case "remove":
                await endpoints.remove_endpoint(late.node_id)
            case _:
                await endpoints.add_endpoint(late.node_id, late_address(late), exist_ok=True)
        with pytest.raises((STTConnectError, STTEndpointError)):
            await asyncio.wait_for(sending, 10)
        if how == "unwanted":  # it may still connect by itself
            await asyncio.sleep(1)
            assert not waiting.done()
            waiting.cancel()
        else:
            with pytest.raises((STTConnectError, STTEndpointError)):
                await asyncio.wait_for(waiting, 1)


@in_virtual_time
async def test_a_wait_for_a_peer_of_a_node_that_does_not_run_names_the_remedy() -> None:
    async with memory_nodes() as nodes:
        endpoints, peer = nodes.make().endpoints, b"a" * 32
        await endpoints.add_endpoint(peer, None)
        with pytest.raises(STTConnectError, match="not running: use it within `async with node`"):
            await endpoints.wait_connected(peer)


@in_virtual_time
async def test_a_peer_that_answers_with_another_seed_ends_the_wait_before_long() -> None:
    async with memory_nodes() as nodes:
        early, late = await late_pair(nodes)
        stranger = nodes.make("bob", shared=b"the shared seed of another group", port=9400)
        sending = await begun(early.endpoints.send_to_endpoint(late.node_id, b""))
        await stranger.start(server_mode=True)
        with pytest.raises(STTHandshakeError):
            await asyncio.wait_for(sending, 60)
        with pytest.raises(STTHandshakeError):
            await early.endpoints.wait_connected(late.node_id, timeout=1)
        await stranger.stop()
        await late.start(server_mode=True)
        await asyncio.sleep(60)
        await early.endpoints.send_to_endpoint(late.node_id, b"now")
        assert (await late.endpoints.receive_any(timeout=5))[0] == b"now"


@in_virtual_time
async def test_wait_connected_returns_whichever_side_has_dialed() -> None:
    async with memory_nodes() as nodes:
        hub = await nodes.listen()
        peer = nodes.make("carol")
        await hub.endpoints.add_endpoint(peer.node_id, None)
        with pytest.raises(STTTimeoutError):
            await hub.endpoints.wait_connected(peer.node_id, timeout=1)
        waiting = await begun(hub.endpoints.wait_connected(peer.node_id))
        await peer.start()
        await peer.connect(*address_of(hub))
        await asyncio.wait_for(waiting, 1)
        await hub.endpoints.wait_connected(peer.node_id, timeout=0)


@in_virtual_time
async def test_a_wait_that_times_out_says_why_the_peer_has_no_session() -> None:
    async with memory_nodes() as nodes:
        early, late = await late_pair(nodes)
        other = nodes.make("carol").node_id
        wait_connected = early.endpoints.wait_connected
        with pytest.raises(STTTimeoutError, match="still being dialed"):
            await wait_connected(late.node_id, timeout=0)
        await asyncio.sleep(5)
        with pytest.raises(
            STTTimeoutError, match="not within 1 s; the last dial failed: cannot reach"
        ):
            await wait_connected(late.node_id, timeout=1)
        with pytest.raises(STTTimeoutError, match="the last dial failed: cannot reach"):
            await early.endpoints.send_to_endpoint(late.node_id, b"", timeout=1)
        await early.endpoints.add_endpoint(other, None)
        with pytest.raises(STTTimeoutError, match="nobody dials it: add it with connect=True"):
            await wait_connected(other, timeout=1)


@in_virtual_time
async def test_a_node_refuses_to_connect_to_what_cannot_be_a_peer() -> None:
    async with memory_nodes() as nodes:
        node = await nodes.listen()
        for wrong, said in ((node.node_id, "this node's own id"), (b"hub", "32 bytes, not 3")):
            with pytest.raises(ValueError, match=said):
                await node.endpoints.add_endpoint(wrong, address_of(node), connect=True)
            assert wrong not in node.endpoints


async def test_a_node_refuses_an_address_for_an_id_that_is_none_of_a_node() -> None:
    async with memory_nodes() as nodes:
        endpoints = nodes.make().endpoints
        with pytest.raises(ValueError, match="the peer's node id, 32 bytes, not 3"):
            await endpoints.add_endpoint(b"hub", "host:1")
        assert b"hub" not in endpoints
        await endpoints.add_endpoint(b"hub", None)  # nothing to dial: any name does
        with pytest.raises(ValueError, match="the peer's node id, 32 bytes, not 3"):
            endpoints.update_endpoint(b"hub", address="host:1", metadata={"changed": True})
        info = endpoints.get_endpoint(b"hub")
        assert info is not None
        assert (info["address"], info["metadata"]) == (None, {})


async def test_a_node_may_note_where_it_can_be_reached_itself() -> None:
    async with memory_nodes() as nodes:
        node = nodes.make()
        await node.endpoints.add_endpoint(node.node_id, "host:1")
        node.endpoints.update_endpoint(node.node_id, address="host:2")
        info = node.endpoints.get_endpoint(node.node_id)
        assert info is not None
        assert info["address"] == ("host", 2)


async def test_a_manager_on_its_own_knows_no_connections() -> None:
    endpoints = EndpointManager()
    await endpoints.add_endpoint(b"a", "anything")
    with pytest.raises(STTEndpointError, match="on its own"):
        await endpoints.wait_connected(b"a")
    with pytest.raises(STTEndpointError, match="unknown"):
        await endpoints.wait_connected(b"b")


@in_virtual_time
async def test_a_peer_that_dialed_first_may_be_added_all_the_same() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        hub, peer = pair.listener.endpoints, pair.dialer.node_id
        with pytest.raises(STTEndpointError, match="already exists"):
            await hub.add_endpoint(peer, None)
        metadata = {"room": "kitchen"}
        await hub.add_endpoint(peer, "localhost:9400", metadata, exist_ok=True)
        await hub.add_endpoint(peer, ("localhost", 9401), exist_ok=True)
        info = hub.get_endpoint(peer)
        assert info is not None
        assert (info["address"], info["metadata"]) == (("localhost", 9401), metadata)
        await pair.near.close()
        await asyncio.sleep(1)
        assert peer in hub  # it is the program's now


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        ("host:1", ("host", 1)),
        ("[::1]:9400", ("::1", 9400)),
        (":9400", ("", 9400)),
        (("host", 65_535), ("host", 65_535)),
        (("::1", 1, 0, 0), ("::1", 1, 0, 0)),
        (None, None),
    ],
)
async def test_an_address_is_read_when_it_is_given(address: Any, kept: Any) -> None:
    async with memory_nodes() as nodes:
        endpoints = nodes.make().endpoints
        added, updated = b"a" * 32, b"b" * 32
        await endpoints.add_endpoint(added, address)
        await endpoints.add_endpoint(updated, None)
        endpoints.update_endpoint(updated, address=address)
        for endpoint_id in (added, updated):
            info = endpoints.get_endpoint(endpoint_id)
            assert info is not None
            assert info["address"] == kept


@pytest.mark.parametrize(
    "address",
    [
        "",
        "host",
        "host:",
        "host:x",
        "::1:9400",
        "host:70000",
        ("host", -1),
        ("host",),
        9400,
        b"h:1",
    ],
)
async def test_what_is_no_address_is_refused_when_it_is_given(address: Any) -> None:
    async with memory_nodes() as nodes:
        endpoints = nodes.make().endpoints
        there = b"a" * 32
        await endpoints.add_endpoint(there, ("host", 1))
        with pytest.raises((TypeError, ValueError), match=r"host:port|from 0 to 65535"):
            await endpoints.add_endpoint(b"b" * 32, address)
        with pytest.raises((TypeError, ValueError), match=r"host:port|from 0 to 65535"):
            endpoints.update_endpoint(there, address=address)
        assert endpoints.list_endpoints() == [there]
        info = endpoints.get_endpoint(there)
        assert info is not None
        assert info["address"] == ("host", 1)


@in_virtual_time
async def test_what_is_refused_leaves_the_endpoint_and_its_messages_as_they_were() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        hub, peer = pair.listener.endpoints, pair.dialer.node_id
        await pair.near.send(b"unread")
        await pair.near.close()
        await asyncio.sleep(1)  # the endpoint is there only for its message
        with pytest.raises(ValueError, match="host:port"):
            await hub.add_endpoint(peer, "nowhere")
        assert await hub.receive_any(timeout=1) == (b"unread", peer)
        await hub.add_endpoint(peer, None, {"room": 1}, exist_ok=True)
        with pytest.raises(ValueError, match="host:port"):
            hub.update_endpoint(peer, address="nowhere", metadata={"room": 2})
        info = hub.get_endpoint(peer)
        assert info is not None
        assert info["metadata"] == {"room": 1}


async def test_nobody_can_be_kept_connected_without_an_address() -> None:
    async with memory_nodes() as nodes:
        endpoints = nodes.make().endpoints
        with pytest.raises(ValueError, match="connect=True needs an address"):
            await endpoints.add_endpoint(b"a", None, connect=True)
        assert not endpoints.list_endpoints()


async def test_nothing_is_kept_for_those_who_wait_no_more() -> None:
    arrivals = Arrivals()
    waiting = [asyncio.create_task(arrivals.change(b"a")) for _ in range(3)]
    await asyncio.sleep(0)
    waiting.pop().cancel()
    await asyncio.sleep(0)
    arrivals.note(b"b")
    arrivals.note(b"a")
    await asyncio.gather(*waiting)
    assert arrivals.waiting == {}
    again = asyncio.create_task(arrivals.change(b"a"))
    await asyncio.sleep(0)
    arrivals.note_all()
    await again
