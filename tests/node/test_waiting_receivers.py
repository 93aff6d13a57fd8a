"""What `receive_from` does when the peer it waits for has gone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from helpers.nodes import address_of, in_virtual_time, memory_nodes, until
from seigr_toolset_transmissions.errors import (
    STTEndpointError,
    STTPeerGoneError,
    STTSessionClosedError,
    STTTimeoutError,
)

if TYPE_CHECKING:
    from seigr_toolset_transmissions import STTNode

ENDED = "closed its session|was lost"


async def waiting_for(node: STTNode, peer: bytes, **options: Any) -> asyncio.Task[Any]:
    task = asyncio.create_task(node.endpoints.receive_from(peer, **options))
    await asyncio.sleep(1)
    assert not task.done()
    return task


@pytest.mark.parametrize("added", [False, True], ids=["joined by itself", "added by hand"])
@in_virtual_time
async def test_a_receiver_learns_that_the_peer_closed_its_session(added: bool) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        hub, peer = pair.listener, pair.dialer.node_id
        if added:
            await hub.endpoints.remove_endpoint(peer)
            await hub.endpoints.add_endpoint(peer, None)
        waiting = await waiting_for(hub, peer)
        await pair.near.close()
        said = f"^peer {peer.hex()} closed its session; receive_from"
        with pytest.raises(STTPeerGoneError, match=said) as ended:
            await waiting
        assert isinstance(ended.value, TimeoutError)  # it was waited for in vain
        await asyncio.sleep(1)
        assert (peer in hub.endpoints) == added
        for timeout in (None, 1):  # whoever asks later hears the same
            with pytest.raises(STTSessionClosedError, match=said) as later:
                await hub.endpoints.receive_from(peer, timeout=timeout)
            assert not isinstance(later.value, TimeoutError)  # a loop that retries must not spin


@pytest.mark.parametrize("how", ["close", "kick", "abort"])
@in_virtual_time
async def test_a_receiver_learns_how_the_session_ended(how: str) -> None:
    said = {
        "close": "this side closed its session with peer {}; receive_from",
        "kick": "the session with peer {} was lost: the peer was kicked; receive_from",
        "abort": "the peer aborted the session",
    }
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        hub, peer = pair.listener, pair.dialer.node_id
        waiting = await waiting_for(hub, peer)
        if how == "close":
            await pair.far.close()
        elif how == "kick":
            await hub.kick(peer)
        else:
            pair.near.abort()
        with pytest.raises(STTSessionClosedError, match=said[how].format(peer.hex())):
            await waiting


@pytest.mark.parametrize("room", [1000, 2], ids=["in the inbox", "before a full inbox"])
@in_virtual_time
async def test_what_arrived_before_the_end_is_received_first(room: int) -> None:
    async with memory_nodes(inbox_messages=room) as nodes:
        pair = await nodes.pair()
        hub, peer = pair.listener, pair.dialer.node_id
        for number in range(10):
            await pair.near.send(b"%d" % number)
        await pair.near.close()
        for number in range(10):
            assert await hub.endpoints.receive_from(peer) == (b"%d" % number, peer)
        with pytest.raises(STTSessionClosedError, match=ENDED):
            await hub.endpoints.receive_from(peer)


@in_virtual_time
async def test_a_handler_of_the_end_receives_what_is_left_and_the_error() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        hub, peer = pair.listener, pair.dialer.node_id
        received: list[Any] = []

        @hub.events.on("session_closed")
        async def drain(session_id: bytes) -> None:
            while True:
                received.append((await hub.endpoints.receive_from(peer))[0])

        @hub.events.on("error")
        async def note(error_type: str, details: dict[str, Any]) -> None:
            received.append(type(details["exception"]))

        await pair.near.send(b"last")
        await pair.near.close()
        await until(lambda: received == [b"last", STTSessionClosedError])


@in_virtual_time
async def test_a_patient_receiver_waits_until_the_peer_is_back() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        hub, peer = pair.listener, pair.dialer.node_id
        patient = await waiting_for(hub, peer, reconnect=True)
        impatient = await waiting_for(hub, peer)
        await pair.near.close()
        await asyncio.sleep(100)
        assert impatient.done()
        assert not patient.done()
        with pytest.raises(STTSessionClosedError, match=ENDED):
            await impatient
        assert peer in hub.endpoints  # although it had joined by itself
        again = await nodes.connect(pair.dialer, hub)
        await again.near.send(b"back")
        assert await patient == (b"back", peer)


@in_virtual_time
async def test_a_session_more_or_suspended_keeps_receivers_waiting() -> None:
    async with memory_nodes(max_sessions_per_peer=2) as nodes:
        pair = await nodes.pair()
        other = await nodes.connect(pair.dialer, pair.listener)
        hub, peer = pair.listener, pair.dialer.node_id
        waiting = await waiting_for(hub, peer)
        await pair.near.close()
        hub._registry.sessions[other.far.session_id].cut("the connection breaks")
        await asyncio.sleep(0)
        await other.near.send(b"resumed")
        assert await waiting == (b"resumed", peer)
        again = await waiting_for(hub, peer)
        await other.near.close()
        with pytest.raises(STTSessionClosedError, match=ENDED):
            await again


@in_virtual_time
async def test_receivers_of_a_wanted_endpoint_wait_for_its_next_session() -> None:
    async with memory_nodes() as nodes:
        hub, peer = await nodes.listen("bob"), await nodes.start("alice")
        await peer.endpoints.add_endpoint(hub.node_id, address_of(hub), connect=True)
        await until(lambda: peer.node_id in hub.endpoints)
        waiting = await waiting_for(peer, hub.node_id)
        for session in hub.sessions:
            await session.close()
        await until(lambda: peer.sessions and hub.sessions)
        await hub.endpoints.send_to_endpoint(peer.node_id, b"again")
        assert await waiting == (b"again", hub.node_id)


@in_virtual_time
async def test_receivers_wait_while_the_peer_is_dialed_again() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        hub, peer = pair.listener, pair.dialer
        await peer.endpoints.remove_endpoint(hub.node_id)
        await peer.endpoints.add_endpoint(hub.node_id, address_of(hub))
        await pair.near.close()
        await asyncio.sleep(1)
        sending = asyncio.create_task(peer.endpoints.send_to_endpoint(hub.node_id, b"ask"))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(peer.endpoints.receive_from(hub.node_id))
        await sending
        await hub.endpoints.receive_any()
        await hub.endpoints.send_to_endpoint(peer.node_id, b"answer")
        assert await waiting == (b"answer", hub.node_id)
        # And when the dial fails, there is nothing to wait for.
        await hub.stop()
        await asyncio.sleep(1)
        sending = asyncio.create_task(peer.endpoints.send_to_endpoint(hub.node_id, b"ask"))
        await asyncio.sleep(0)
        with pytest.raises(STTSessionClosedError, match=ENDED):
            await peer.endpoints.receive_from(hub.node_id)
        await asyncio.wait([sending])
        assert sending.exception() is not None


@in_virtual_time
async def test_an_endpoint_that_never_had_a_session_is_waited_for() -> None:
    async with memory_nodes() as nodes:
        node = await nodes.start()
        await node.endpoints.add_endpoint(b"a stranger", None)
        with pytest.raises(STTTimeoutError):
            await node.endpoints.receive_from(b"a stranger", timeout=1000)


@in_virtual_time
async def test_asking_for_what_is_there_is_a_timeout_whatever_has_ended() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        hub, peer = pair.listener, pair.dialer.node_id
        await hub.endpoints.remove_endpoint(peer)
        await hub.endpoints.add_endpoint(peer, None)
        await pair.near.close()
        await asyncio.sleep(1)
        with pytest.raises(STTTimeoutError):
            await hub.endpoints.receive_from(peer, timeout=0)


@in_virtual_time
async def test_an_endpoint_that_was_added_again_starts_from_scratch() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        hub, peer = pair.listener, pair.dialer.node_id
        await pair.near.close()
        await asyncio.sleep(1)
        await hub.endpoints.add_endpoint(peer, None)
        with pytest.raises(STTTimeoutError):
            await hub.endpoints.receive_from(peer, timeout=100)
        await hub.endpoints.remove_endpoint(peer)
        with pytest.raises(STTEndpointError, match="unknown"):
            await hub.endpoints.receive_from(peer)
