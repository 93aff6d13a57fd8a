"""Dials of a node: names with several addresses, peers that move, and the order of dials."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any

import pytest

from helpers.nodes import SHARED_SEED, EventLog, Nodes, address_of, in_virtual_time, live, until
from seigr_toolset_transmissions import NodeConfig, STTNode
from seigr_toolset_transmissions.errors import (
    STTConnectError,
    STTHandshakeError,
    STTIdentityError,
    STTSilenceError,
)
from seigr_toolset_transmissions.transports.memory import MemoryNetwork

if TYPE_CHECKING:
    from seigr_toolset_transmissions.transports.base import Address, Receiver, Transport


class Named(MemoryNetwork):
    """A network with names for several addresses, and addresses that do not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, list[Address]] = {}
        self.dialed: list[Address] = []
        self.urgent: dict[str, bool] = {}
        self.dialing = 0
        self.most = 0

    async def resolve(self, host: str, port: int, *, urgent: bool = True) -> list[Address]:
        self.urgent[host] = urgent
        return self.names.get(host, [(host, port)])

    async def dial(self, receiver: Receiver, host: str, port: int) -> Transport:
        self.dialed.append((host, port))
        self.dialing += 1
        self.most = max(self.most, self.dialing)
        try:
            if host == "dead":
                await asyncio.sleep(1e9)
            return await super().dial(receiver, host, port)
        finally:
            self.dialing -= 1


class Mute:
    """A server that is not a node: it accepts, and then says nothing or closes at once."""

    def __init__(self, *, ends: bool) -> None:
        self.ends = ends

    def connection_made(self, transport: Transport) -> None:
        if self.ends:
            transport.abort()

    def bytes_received(self, data: memoryview) -> int:
        return len(data)

    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def connection_lost(self, cause: Exception | None) -> None: ...


@pytest.mark.parametrize(
    ("host", "port", "expect", "error"),
    [
        (None, 1, None, TypeError),
        (b"bob", 1, None, TypeError),
        ("bob", "1", None, TypeError),
        ("bob", 1.0, None, TypeError),
        ("bob", 1, "b" * 32, TypeError),
        ("bob", 1, b"b" * 31, ValueError),
    ],
)
@in_virtual_time
async def test_what_cannot_be_dialed_is_a_mistake_of_the_caller(
    host: Any, port: Any, expect: Any, error: type[Exception]
) -> None:
    async with Nodes(Named()) as nodes:
        node = await nodes.start()
        with pytest.raises(error):
            await node.connect(host, port, expect=expect)
        assert node.stats().handshakes_failed == 0


# Names with several addresses.


@pytest.mark.parametrize("first", ["nobody", "another node", "mute", "ends", "another seed"])
@pytest.mark.parametrize("how", ["connect", "endpoint", "reconnect"])
@in_virtual_time
async def test_the_next_address_is_tried_if_another_node_answers_at_the_first(
    first: str, how: str
) -> None:
    network = Named()
    async with Nodes(network) as nodes:
        wanted, dialer = await nodes.listen("bob"), await nodes.start("alice")
        seed = b"the seed of another group" if first == "another seed" else SHARED_SEED
        other = await nodes.listen("carol", shared=seed)
        listener = await network.listen(lambda: Mute(ends=first == "ends"), "mute", 9)
        wrong = {
            "nobody": ("localhost", 1),
            "mute": listener.address,
            "ends": listener.address,
        }.get(first, address_of(other))
        network.names["name"] = [wrong, address_of(wanted)]
        began = asyncio.get_running_loop().time()
        if how == "connect":
            session = await dialer.connect("name", 5, expect=wanted.node_id)
        elif how == "endpoint":
            await dialer.endpoints.add_endpoint(wanted.node_id, ("name", 5))
            await dialer.endpoints.send_to_endpoint(wanted.node_id, b"for bob only")
            session = dialer.sessions[0]
        else:
            names, network.names["name"] = network.names["name"], [address_of(wanted)]
            session = await dialer.connect("name", 5)
            network.names["name"] = names
            live(session).cut("a cable is pulled")
            await dialer.events.wait_for("session_resumed", timeout=10)
        assert session.peer_node_id == wanted.node_id
        assert asyncio.get_running_loop().time() - began < 3
        assert not other.sessions


@in_virtual_time
async def test_a_name_that_does_not_lead_to_the_peer_fails_in_time() -> None:
    network = Named()
    async with Nodes(network) as nodes:
        others = [await nodes.listen("bob"), await nodes.listen("carol")]
        dialer = await nodes.start("alice")
        network.names["name"] = [address_of(other) for other in others]
        began = asyncio.get_running_loop().time()
        with pytest.raises(STTSilenceError):
            await dialer.connect("name", 5, expect=bytes(32))
        assert asyncio.get_running_loop().time() - began < 2
        network.names["name"] = [("dead", k) for k in range(5)]
        with pytest.raises(STTConnectError, match="in time"):
            await dialer.connect("name", 5)
        await until(lambda: network.dialing == 0)


# Peers that move.


@pytest.mark.parametrize("wanted", [False, True])
@in_virtual_time
async def test_a_suspended_session_is_dialed_where_its_peer_is_now(wanted: bool) -> None:
    network = Named()
    async with Nodes(network) as nodes:
        listener, dialer = await nodes.listen("bob"), await nodes.start("alice")
        port = address_of(listener)[1]
        network.names = {"old": [address_of(listener)], "new": [address_of(listener)]}
        endpoints, peer = dialer.endpoints, listener.node_id
        await endpoints.add_endpoint(peer, ("old", port), connect=wanted)
        if not wanted:
            await endpoints.send_to_endpoint(peer, b"hello")
        await until(lambda: dialer.sessions)
        (session,) = dialer.sessions
        network.names["old"] = [("dead", 1)]
        live(session).cut("the peer moves")
        await until(lambda: network.dialed[-1][0] == "dead")
        endpoints.update_endpoint(peer, address=("new", port))
        dialer.retry_now(peer)
        await session.send(b"after the move")
        await dialer.events.wait_for("session_resumed", timeout=0.1)
        assert session.dial_address == ("new", port)
        # From now on that is its address, whatever happens to the endpoint.
        await endpoints.remove_endpoint(peer)
        live(session).cut("a cable is pulled")
        await dialer.events.wait_for("session_resumed", timeout=5)


@in_virtual_time
async def test_an_address_that_is_wrong_does_not_keep_a_session_from_where_it_was_dialed() -> None:
    network = Named()
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        await pair.dialer.endpoints.remove_endpoint(pair.listener.node_id)
        await pair.dialer.endpoints.add_endpoint(pair.listener.node_id, ("localhost", 1))
        live(pair.near).cut("a cable is pulled")
        await pair.dialer.events.wait_for("session_resumed", timeout=5)


@in_virtual_time
async def test_an_address_that_was_merely_seen_is_not_dialed() -> None:
    network = Named()
    async with Nodes(network) as nodes:
        listener, dialer = await nodes.listen("bob"), await nodes.start("alice")
        address = address_of(listener)
        network.names["name"] = [address]
        session = await dialer.connect("name", 5)
        live(session).cut("a cable is pulled")
        network.names["name"] = [("localhost", 1), address]
        network.dialed.clear()
        await dialer.events.wait_for("session_resumed", timeout=5)
        assert network.dialed == [("localhost", 1), address]
        assert session.dial_address == ("name", 5)


# Many dials.


async def add_dead(node: STTNode, count: int) -> None:
    for number in range(count):
        endpoint_id = secrets.token_bytes(32)
        await node.endpoints.add_endpoint(endpoint_id, ("dead", number), connect=True)


@in_virtual_time
async def test_dead_addresses_use_up_no_descriptors_and_starve_no_other() -> None:
    network = Named()
    async with Nodes(network) as nodes:
        bob, carol = await nodes.listen("bob"), await nodes.listen("carol")
        dialer = await nodes.start("alice")
        session = await dialer.connect(*address_of(bob))
        await add_dead(dialer, 3000)
        await asyncio.sleep(60)
        assert network.most == 64
        began = asyncio.get_running_loop().time()
        await dialer.connect(*address_of(carol))
        live(session).cut("a cable is pulled")
        await dialer.events.wait_for("session_resumed", timeout=1)
        assert asyncio.get_running_loop().time() - began < 1
        assert network.urgent == {"dead": False, address_of(bob)[0]: True}


@in_virtual_time
async def test_a_wanted_peer_that_is_there_comes_before_those_that_have_failed() -> None:
    network = Named()
    async with Nodes(network, connect_timeout=1) as nodes:
        bob, dialer = await nodes.listen("bob"), await nodes.start("alice")
        await add_dead(dialer, 1000)
        await asyncio.sleep(30)  # each has failed once
        await dialer.endpoints.add_endpoint(bob.node_id, address_of(bob), connect=True)
        await dialer.events.wait_for("peer_connected", timeout=1.5)


@in_virtual_time
async def test_a_message_hurries_the_dial_that_waits_in_the_background() -> None:
    network = Named()
    async with Nodes(network, connect_timeout=1000) as nodes:
        bob, dialer = await nodes.listen("bob"), await nodes.start("alice")
        await add_dead(dialer, 100)
        await dialer.endpoints.add_endpoint(bob.node_id, address_of(bob), connect=True)
        await asyncio.sleep(100)
        assert not dialer.sessions
        await dialer.endpoints.send_to_endpoint(bob.node_id, b"now")
        assert dialer.sessions
        assert len(network.dialed) == 65


@in_virtual_time
async def test_the_time_of_a_wanted_dial_begins_when_its_turn_has_come() -> None:
    network = Named()
    async with Nodes(network) as nodes:
        bob, dialer = await nodes.listen("bob"), await nodes.start("alice")
        log = EventLog(dialer)
        await add_dead(dialer, 128)
        await dialer.endpoints.add_endpoint(bob.node_id, address_of(bob), connect=True)
        await log.until("peer_connected", seconds=30)
        assert {bob.node_id} & {details["peer_node_id"] for _, details in log.errors} == set()


@pytest.mark.parametrize("waiting", [False, True])
@in_virtual_time
async def test_a_stop_ends_dials_that_run_and_dials_that_wait(waiting: bool) -> None:
    network = Named()
    async with Nodes(network, connect_timeout=1000) as nodes:
        dialer = await nodes.start("alice")
        dials = [
            asyncio.ensure_future(dialer.connect("dead", port))
            for port in range(300 if waiting else 1)
        ]
        await asyncio.sleep(1)
        assert network.dialing == min(len(dials), 256)
        await dialer.stop()
        for dial in dials:
            with pytest.raises(STTConnectError, match="the node is stopping"):
                await dial
        assert network.dialing == 0


def test_a_silence_error_is_caught_as_either_of_its_causes() -> None:
    assert issubclass(STTSilenceError, STTHandshakeError)
    assert issubclass(STTSilenceError, STTIdentityError)
    assert NodeConfig().connect_timeout == 10
