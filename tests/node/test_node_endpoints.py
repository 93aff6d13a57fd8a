"""A node's peers as endpoints: when they come and go, and what their inboxes hold."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from helpers.nodes import (
    EventLog,
    Nodes,
    address_of,
    free_port,
    in_virtual_time,
    memory_nodes,
    seed_of,
    until,
)
from seigr_toolset_transmissions import SendOutcome
from seigr_toolset_transmissions.errors import (
    STTConnectError,
    STTEndpointError,
    STTIdentityError,
)
from seigr_toolset_transmissions.identity import Identity


async def test_a_peer_is_an_endpoint_while_it_is_connected() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.listener)
        info = pair.listener.endpoints.get_endpoint(pair.dialer.node_id)
        assert info is not None
        assert info["address"] == pair.far.address
        assert info["address"][0] == "127.0.0.1"
        assert info["state"] == "connected"
        assert info["metadata"] == {}
        info = pair.dialer.endpoints.get_endpoint(pair.listener.node_id)
        assert info is not None
        assert info["address"] == address_of(pair.listener)
        await pair.near.flush()
        await pair.near.send(b"x")
        await pair.near.flush()
        info = pair.dialer.endpoints.get_endpoint(pair.listener.node_id)
        assert info is not None
        assert info["min_rtt"] is not None
        assert info["rtt"] is not None
        assert 0 <= info["min_rtt"] <= info["rtt"] < 5
        await pair.listener.endpoints.receive_any()
        await pair.near.close()
        await log.until("peer_disconnected")
        await until(lambda: len(pair.listener.endpoints) == 0)
        await until(lambda: len(pair.dialer.endpoints) == 0)


async def test_the_endpoint_stays_until_peer_disconnected_was_emitted() -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen()
        present: dict[str, bool] = {}

        async def look(event: str, **_: bytes) -> None:
            present[event] = dialer.node_id in listener.endpoints

        dialer = await nodes.start()
        for event in ("session_created", "session_closed", "peer_disconnected"):

            async def handler(event: str = event, **details: bytes) -> None:
                await look(event, **details)

            listener.events.register(event, handler)
        session = await dialer.connect(*address_of(listener))
        await session.close()
        await until(lambda: "peer_disconnected" in present)
        await until(lambda: dialer.node_id not in listener.endpoints)
        assert present == {
            "session_created": True,
            "session_closed": True,
            "peer_disconnected": True,
        }


async def test_messages_outlive_the_session_that_brought_them() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.listener)
        for data in (b"1", b"2", b"3"):
            await pair.near.send(data)
        await pair.near.close()
        await log.until("peer_disconnected")
        await until(lambda: not pair.listener._registry.peers)
        endpoints, peer = pair.listener.endpoints, pair.dialer.node_id
        assert peer in endpoints
        info = endpoints.get_endpoint(peer)
        assert info is not None
        assert info["state"] == "disconnected"
        assert await endpoints.receive_from(peer) == (b"1", peer)
        assert await endpoints.receive_any() == (b"2", peer)
        assert peer in endpoints
        assert await endpoints.receive_from(peer) == (b"3", peer)
        assert peer not in endpoints


async def test_messages_beyond_the_inbox_outlive_the_session_too() -> None:
    async with Nodes(inbox_messages=2) as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.listener)
        messages = [b"%d" % k for k in range(10)]
        for data in messages:
            await pair.near.send(data)
        await pair.near.close()
        await log.until("peer_disconnected")
        for data in messages:
            assert (await pair.listener.endpoints.receive_any(timeout=9))[0] == data


async def test_an_endpoint_that_the_user_added_stays() -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen()
        log = EventLog(listener)
        dialer = await nodes.start()
        await listener.endpoints.add_endpoint(dialer.node_id, None, {"name": "alice"})
        session = await dialer.connect(*address_of(listener))
        await log.until("peer_connected")
        info = listener.endpoints.get_endpoint(dialer.node_id)
        assert info is not None
        assert (info["address"], info["state"]) == (None, "connected")
        await session.close()
        await log.until("peer_disconnected")
        await until(lambda: not listener._registry.peers)
        info = listener.endpoints.get_endpoint(dialer.node_id)
        assert info is not None
        assert info["metadata"] == {"name": "alice"}
        assert (info["state"], info["rtt"]) == ("disconnected", None)


async def test_the_first_send_dials_an_endpoint_with_an_address() -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen()
        dialer = await nodes.start()
        peer = listener.node_id
        await dialer.endpoints.add_endpoint(peer, address_of(listener))
        assert dialer.sessions == []
        await dialer.endpoints.send_to_endpoint(peer, b"hello")
        assert await listener.endpoints.receive_any(timeout=9) == (b"hello", dialer.node_id)
        (session,) = dialer.sessions
        await session.close()
        await dialer.endpoints.send_to_endpoint(peer, b"hello again")
        assert await listener.endpoints.receive_any(timeout=9) == (b"hello again", dialer.node_id)


async def test_sends_at_once_share_one_dial() -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen()
        dialer = await nodes.start()
        peer = listener.node_id
        await dialer.endpoints.add_endpoint(peer, address_of(listener))
        messages = {b"%d" % k for k in range(20)}
        sends = [
            asyncio.create_task(dialer.endpoints.send_to_endpoint(peer, data)) for data in messages
        ]
        await asyncio.sleep(0)
        info = dialer.endpoints.get_endpoint(peer)
        assert info is not None
        assert info["state"] == "connecting"
        sends.pop().cancel()  # a cancelled send does not take the others with it
        await asyncio.wait(sends)
        received = {(await listener.endpoints.receive_any(timeout=9))[0] for _ in sends}
        assert len(received & messages) == 19
        assert len(dialer.sessions) == 1


async def test_another_identity_at_the_address_gets_nothing() -> None:
    async with Nodes() as nodes:
        listener = await nodes.listen("bob")
        log = EventLog(listener)
        dialer = await nodes.start()
        carol = Identity.from_seed(seed_of("carol")).node_id
        await dialer.endpoints.add_endpoint(carol, address_of(listener))
        for _ in range(2):
            with pytest.raises(STTIdentityError):
                await dialer.endpoints.send_to_endpoint(carol, b"for carol only")
        outcomes = await dialer.endpoints.send_to_many([carol], b"for carol only")
        assert outcomes == {carol: SendOutcome.UNREACHABLE}
        await log.until("error")
        assert set(log.names) == {"error"}
        assert listener.stats().sessions_opened == 0


async def test_an_endpoint_without_an_address_to_dial_is_reported() -> None:
    async with Nodes() as nodes:
        node = await nodes.start()
        await node.endpoints.add_endpoint(b"x" * 32, None)
        with pytest.raises(STTEndpointError, match=r"None.*update_endpoint"):
            await node.endpoints.send_to_endpoint(b"x" * 32, b"data")


async def test_an_address_without_a_listener_is_reported() -> None:
    async with Nodes() as nodes:
        node = await nodes.start()
        await node.endpoints.add_endpoint(b"x" * 32, ("127.0.0.1", free_port()))
        with pytest.raises(STTConnectError, match="cannot reach"):
            await node.endpoints.send_to_endpoint(b"x" * 32, b"data")
        outcomes = await node.endpoints.broadcast(b"data")
        assert outcomes == {b"x" * 32: SendOutcome.UNREACHABLE}


async def test_a_user_may_give_an_address_to_a_peer_that_came_by_itself() -> None:
    """Adding it again makes it the user's, and it can be dialed."""
    async with Nodes() as nodes:
        listener = await nodes.listen("bob")
        dialer = await nodes.listen("alice")
        pair = await nodes.connect(dialer, listener)
        peer = dialer.node_id
        await listener.endpoints.remove_endpoint(peer)
        await listener.endpoints.add_endpoint(peer, address_of(dialer))
        await pair.near.close()
        await until(lambda: not listener._registry.peers)
        await listener.endpoints.send_to_endpoint(peer, b"my turn to dial")
        assert (await dialer.endpoints.receive_any(timeout=9))[0] == b"my turn to dial"


async def test_an_endpoint_that_came_by_itself_goes_however_it_was_described() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        endpoints, peer = pair.listener.endpoints, pair.dialer.node_id
        endpoints.update_endpoint(peer, address=("192.0.2.1", 1), metadata={"name": "alice"})
        await pair.near.close()
        await until(lambda: peer not in endpoints)


@pytest.mark.parametrize("first", [10, 11, 12, 15, 19])
@in_virtual_time
async def test_the_bound_of_an_inbox_holds_for_the_peers_next_session(first: int) -> None:
    async with memory_nodes(inbox_messages=10) as nodes:
        pair = await nodes.pair()
        endpoints = pair.listener._endpoints
        for number in range(first):
            await pair.near.send(b"%d" % number)
        await pair.near.close()
        await asyncio.sleep(1)
        again = await nodes.connect(pair.dialer, pair.listener)
        for number in range(first, 1000):
            await again.near.send(b"%d" % number)
        await asyncio.sleep(1)
        for number in range(1000):
            assert endpoints.held_bytes(1) - endpoints.held_bytes() <= max(first, 10)
            data, _ = await endpoints.manager.receive_any(timeout=1)
            assert data == b"%d" % number


@in_virtual_time
async def test_a_listener_that_sends_and_closes_cannot_fill_its_dialers_inbox_either() -> None:
    settings: Any = {"max_message_bytes": 1000, "receive_window_bytes": 4000}
    async with memory_nodes(inbox_bytes=4000, **settings) as nodes:
        listener, dialer = await nodes.listen(), await nodes.start()

        async def hear_and_leave() -> None:
            pair = await nodes.connect(dialer, listener)
            for _ in range(3):
                await pair.far.send(bytes(900))
            await pair.far.close()
            await until(lambda: not dialer.sessions)

        async def until_refused() -> None:
            for _ in range(20):
                await hear_and_leave()

        with pytest.raises(STTConnectError, match="to be received"):
            await until_refused()
        await until(lambda: not listener.sessions)
        assert dialer._endpoints.held_bytes() < 3 * 4000
        while dialer._endpoints.held_bytes():
            await dialer.endpoints.receive_any(timeout=1)
        await hear_and_leave()


@in_virtual_time
async def test_a_peer_that_keeps_coming_back_cannot_fill_its_inbox_endlessly() -> None:
    """What a session leaves behind goes to the inbox beyond its bounds; no other may follow."""
    settings: Any = {"max_message_bytes": 1000, "receive_window_bytes": 4000}
    async with memory_nodes(inbox_bytes=4000, **settings) as nodes:
        listener = await nodes.listen()
        log = EventLog(listener)
        dialer = await nodes.start()

        async def send_and_leave() -> None:
            session = await dialer.connect(*address_of(listener))
            for _ in range(3):
                await session.send(bytes(900))
            await session.close()
            await until(lambda: not listener.sessions)

        async def until_refused() -> None:
            for _ in range(20):
                await send_and_leave()

        with pytest.raises(STTConnectError, match="accepts no more sessions"):
            await until_refused()
        assert 2 * 4000 < listener.stats().buffered_bytes < 3 * 4000
        ((name, details),) = log.errors
        assert name == "limit_reached"
        assert "to be received" in details["reason"]
        while listener.stats().buffered_bytes:
            await listener.endpoints.receive_any(timeout=1)
        await send_and_leave()
