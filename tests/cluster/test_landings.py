"""Peers behind a balancer: a connection lands at any hub, and reaches the one with its session."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import sys
import tempfile
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from cryptography.exceptions import InvalidTag

from helpers.cluster import Hubs, cluster, hub_of, landing_of, landings_of, receive
from helpers.nodes import EventLog, Nodes, address_of, in_virtual_time, live, until
from helpers.recorder import Recorder
from seigr_toolset_transmissions import NodeConfig
from seigr_toolset_transmissions.cluster import Cluster
from seigr_toolset_transmissions.cluster.landings import Landings
from seigr_toolset_transmissions.transports.base import Network
from seigr_toolset_transmissions.transports.memory import memory_pair
from seigr_toolset_transmissions.transports.memory_bus import MemoryBus
from seigr_toolset_transmissions.transports.pipes import PipeNetwork
from seigr_toolset_transmissions.transports.tcp import TcpNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    from seigr_toolset_transmissions import STTNode
    from seigr_toolset_transmissions.sessions.session import LiveSession
    from seigr_toolset_transmissions.transports.base import (
        Address,
        Listener,
        Receiver,
        Transport,
    )


on_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="connections are passed on Linux only"
)


class Balancer(Network):
    """Leads each connection to the next of some addresses, whatever address is dialed."""

    def __init__(self, network: Network, addresses: Iterator[Address]) -> None:
        self.network = network
        self.addresses = addresses

    async def dial(self, receiver: Receiver, host: str, port: int) -> Transport:
        return await self.network.dial(receiver, *next(self.addresses))

    async def listen(self, accept: Callable[[], Receiver], host: str, port: int) -> Listener:
        raise NotImplementedError


def balanced(it: Hubs, order: Iterator[int]) -> Balancer:
    assert it.nodes.network is not None
    return Balancer(it.nodes.network, (address_of(it.hubs[index]) for index in order))


async def peer_at(it: Hubs, name: str, order: Iterator[int]) -> STTNode:
    """Return a peer that reaches hubs in this order, connected to the first."""
    peer = await it.nodes.start(name, network=balanced(it, order))
    await peer.connect("balancer", 1)
    await until(lambda: all(each.cluster.locate(peer.node_id) for each in it.hubs))
    return peer


def cut(node: STTNode, hub: STTNode) -> None:
    live(node.get_session_for_endpoint(hub.node_id)).cut("test")


@pytest.mark.parametrize("count", [2, 4])
@in_virtual_time
async def test_sessions_that_land_anywhere_lose_nothing(count: int) -> None:
    chance = random.Random(count)  # noqa: S311 - no secret
    async with cluster(count) as it:
        hub = it.hubs[0]
        home = iter([0] + [chance.randrange(count) for _ in range(1000)])
        alice = await peer_at(it, "alice", home)
        await asyncio.sleep(5)
        logs = [EventLog(node) for node in (alice, *it.hubs)]
        there, back = asyncio.create_task(send(alice, hub)), asyncio.create_task(send(hub, alice))
        for _ in range(30):
            await asyncio.sleep(chance.uniform(0.1, 1))
            cut(alice, hub)
        await asyncio.gather(there, back)
        numbers = [b"%d" % number for number in range(1000)]
        assert await receive(hub, alice.node_id, 1000) == numbers
        assert await receive(alice, hub.node_id, 1000) == numbers
        assert [log.errors for log in logs] == [[]] * (count + 1)
        assert all(len(each.sessions) == (each is hub) for each in it.hubs)


async def send(sender: STTNode, receiver: STTNode) -> None:
    for number in range(1000):
        await sender.endpoints.send_to_endpoint(receiver.node_id, b"%d" % number)
        await asyncio.sleep(0.01)


@in_virtual_time
async def test_the_owner_sees_where_the_dialer_is_and_no_hub_between() -> None:
    async with cluster() as it:
        alice = await peer_at(it, "alice", iter([0, 1]))
        await asyncio.sleep(5)
        session = live(it.hubs[0].get_session_for_endpoint(alice.node_id))
        direct = session.address
        cut(alice, it.hubs[0])
        await until(lambda: session.stats.resumes == 1)
        assert session.address[0] == direct[0]


@in_virtual_time
async def test_a_peer_that_is_cut_off_while_its_hub_stops_loses_nothing_and_moves() -> None:
    async with cluster() as it:
        first, second = it.hubs
        alice = await peer_at(it, "alice", iter([0] + [1] * 1000))
        await asyncio.sleep(5)
        logs = [EventLog(node) for node in (alice, first, second)]
        numbers = [b"%d" % number for number in range(100)]
        cut(alice, first)
        for number in numbers:
            await alice.endpoints.send_to_endpoint(first.node_id, number)
            await first.endpoints.send_to_endpoint(alice.node_id, number)
        assert await first.stop() == ()
        assert await receive(first, alice.node_id, 100) == numbers
        assert await receive(alice, first.node_id, 100) == numbers
        assert [log.errors for log in logs] == [[], [], []]


@in_virtual_time
async def test_a_dialer_whose_hub_is_lost_learns_it_from_another_one() -> None:
    async with cluster(grace=2) as it:
        alice = await peer_at(it, "alice", iter([0] + [1] * 1000))
        await asyncio.sleep(5)
        log = EventLog(alice, "error")
        it.bus.take_down()
        await until(lambda: not it.hubs[1].cluster.hubs)
        cut(alice, it.hubs[0])
        await until(lambda: log.errors and log.errors[-1][0] == "session_lost")
        assert log.errors[-1][1]["reason"] == "the peer was restarted"


@in_virtual_time
async def test_a_dialer_whose_hub_is_out_of_reach_tries_until_it_is_back() -> None:
    async with cluster() as it:
        alice = await peer_at(it, "alice", iter([0] + [1] * 1000))
        await asyncio.sleep(5)
        it.bus.take_down()
        await asyncio.sleep(0.1)
        session = live(alice.get_session_for_endpoint(it.hubs[0].node_id))
        cut(alice, it.hubs[0])
        await asyncio.sleep(5)
        assert not session.connected
        it.bus.bring_up()
        await until(lambda: session.connected)
        assert session.stats.resumes == 1


@in_virtual_time
async def test_a_hub_that_has_just_started_lets_dialers_try_again_until_it_is_linked() -> None:
    async with cluster(1) as it:
        late = it.nodes.make("bob", cluster=it.another("late"))
        order = iter([0] + [1] * 1000)
        it.hubs.append(late)
        async with late.listening():
            alice = await it.nodes.start("alice", network=balanced(it, order))
            await alice.connect("balancer", 1)
            cut(alice, it.hubs[0])
            session = live(alice.get_session_for_endpoint(it.hubs[0].node_id))
            await until(lambda: session.connected)
            assert session.stats.resumes == 1


@in_virtual_time
async def test_a_connection_that_was_passed_on_is_not_passed_on_again() -> None:
    async with cluster() as it:
        alice = await peer_at(it, "alice", iter([0, 1]))
        await asyncio.sleep(5)
        former = bytes(16)  # as if the first hub had been restarted, and the second not heard of it
        live(alice.get_session_for_endpoint(it.hubs[0].node_id)).peer_incarnation = former
        for link, _ in hub_of(it.hubs[1]).others.values():
            link.incarnation = former
        log = EventLog(alice, "error")
        cut(alice, it.hubs[0])
        await log.until("error")
        assert log.errors[0][1]["reason"] == "the peer was restarted"
        await until(lambda: len(landings_of(it.hubs[1])) == 0)


@in_virtual_time
async def test_no_more_connections_are_passed_on_than_a_node_may_have_sessions() -> None:
    async with cluster(config=NodeConfig(max_sessions=1)) as it:
        alice = await peer_at(it, "alice", iter([0] + [1] * 1000))
        await asyncio.sleep(5)
        session = live(alice.get_session_for_endpoint(it.hubs[0].node_id))
        landings = landings_of(it.hubs[1])
        relay = Recorder()
        near, _ = memory_pair(Recorder(), relay)
        assert landings.pass_on(near, b"nobody's", ("nowhere", 1), b"")
        assert not landings.pass_on(near, b"nobody's", ("nowhere", 1), b"")
        cut(alice, it.hubs[0])
        await until(lambda: session.connected)  # once the first has failed


@in_virtual_time
async def test_a_relay_ends_with_either_side_and_loses_nothing_on_the_way() -> None:
    async with cluster() as it:
        alice = await peer_at(it, "alice", iter([0, 1]))
        await asyncio.sleep(5)
        cut(alice, it.hubs[0])
        session = live(alice.get_session_for_endpoint(it.hubs[0].node_id))
        await until(lambda: session.connected)
        assert len(landings_of(it.hubs[1])) == 1
        data = bytes(1024 * 1024)
        for _ in range(8):  # more than any buffer on the way holds
            await alice.endpoints.send_to_endpoint(it.hubs[0].node_id, data)
        await session.close()
        assert await receive(it.hubs[0], alice.node_id, 8) == [data] * 8
        await until(lambda: len(landings_of(it.hubs[1])) == 0)


@in_virtual_time
async def test_strangers_on_the_bus_reach_no_hub_through_its_landing_place() -> None:
    async with cluster() as it:
        network, stranger = PipeNetwork(it.bus), Recorder()
        address = landing_of(it.hubs[0])
        for preface in (b"\xff\xff\xff\xff", b"\x00\x10\x00\x00" + bytes(16), bytes(64)):
            stranger = Recorder()
            transport = await network.dial(stranger, *address)
            transport.write(preface)
            await stranger.until_lost()
            assert stranger.data == b""
        silent = Recorder()
        await network.dial(silent, *address)
        await silent.until(lambda: silent.lost, seconds=30)  # once its time is over
        assert landings_of(it.hubs[0]).arrivals == set()


@in_virtual_time
async def test_a_dialer_of_an_older_release_learns_elsewhere_that_its_session_is_lost() -> None:
    async with cluster() as it:
        alice = await peer_at(it, "alice", iter([0, 1]))
        await asyncio.sleep(5)
        (session,) = map(live, alice.sessions)
        session.peer_is_hub = False  # it does not know that hubs share an identity
        log = EventLog(alice, "error")
        cut(alice, it.hubs[0])
        await log.until("error")
        assert log.errors[0][1]["reason"] == "the peer was restarted"


class ListeningBus(MemoryBus):
    """A bus that keeps all that passes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bytes] = []

    def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        self.seen.append(data)
        super().publish(subject, data, reply)


@in_virtual_time
async def test_what_a_hub_has_said_of_one_connection_is_believed_of_no_other() -> None:
    bus = ListeningBus()
    async with cluster(bus=bus) as it:
        alice = await peer_at(it, "alice", iter([0, 1]))
        await asyncio.sleep(5)
        bus.seen.clear()
        cut(alice, it.hubs[0])
        await until(lambda: live(alice.get_session_for_endpoint(it.hubs[0].node_id)).connected)
        key = landings_of(it.hubs[1])._cipher
        (said,) = [each for each in bus.seen if is_preface(each[HEAD:], key)]
        sealed, message = struct.unpack_from("!HH", said, HEAD)
        network = PipeNetwork(bus)
        for start in (said[HEAD : HEAD + 4 + sealed] + bytes(message), said[HEAD:-1] + b"x"):
            stranger = Recorder()
            transport = await network.dial(stranger, *landing_of(it.hubs[0]))
            transport.write(start)
            await stranger.until_lost()
            assert stranger.data == b""


HEAD = 21  # of an envelope


def is_preface(data: bytes, cipher: ChaCha20Poly1305) -> bool:
    if len(data) < 40:
        return False
    end = 4 + struct.unpack_from("!HH", data)[0]
    try:
        cipher.decrypt(data[4:16], data[16:end], data[end:])
    except InvalidTag:
        return False
    return True


class SlowDial(Network):
    """Connects after a second."""

    def __init__(self) -> None:
        self.far: Recorder | None = None

    async def dial(self, receiver: Receiver, host: str, port: int) -> Transport:
        await asyncio.sleep(1)
        self.far = Recorder()
        near, _ = memory_pair(receiver, self.far)
        return near

    async def listen(self, accept: Callable[[], Receiver], host: str, port: int) -> Listener:
        raise NotImplementedError


@pytest.mark.parametrize("after", [0.0, 0.5, 0.999, 1.5])
@pytest.mark.parametrize("ends", ["dialer", "abort", "cancel"])
@in_virtual_time
async def test_a_relay_ends_whenever_its_dialer_its_hub_or_its_task_does(
    after: float, ends: str
) -> None:
    async with cluster() as it:
        network, dialer = SlowDial(), Recorder()
        landings = Landings(hub_of(it.hubs[0]), network, bytes(32))
        near, far = memory_pair(Recorder(), dialer)
        before = asyncio.all_tasks()
        assert landings.pass_on(near, bytes(80), ("owner", 1), b"")
        (task,) = asyncio.all_tasks() - before
        if after:
            await asyncio.sleep(after)
        if ends == "dialer":
            far.abort()
        elif ends == "abort":
            landings.end()
        else:
            task.cancel()
        await asyncio.sleep(3)
        if ends == "cancel" and after > 1:
            assert len(landings) == 1  # it has done its work
            landings.end()
            await asyncio.sleep(1)
        assert len(landings) == 0
        assert dialer.lost
        assert network.far is None or network.far.lost


@asynccontextmanager
async def on_one_machine(*, meet: str = "in a folder") -> AsyncIterator[Hubs]:
    """Run two hubs that have a folder, if only for sockets, and peers that reach them over TCP."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own paths may be too long for a socket
        bus = MemoryBus()
        async with Nodes(TcpNetwork()) as nodes:
            it = Hubs(nodes, bus, 10.0, {})
            for name in ("hub-0", "hub-1"):
                where = f"unix://{folder}/hubs" if meet == "in a folder" else bus
                its = Cluster(where, name=name)
                if meet == "on a bus":
                    its.folder = folder
                it.hubs.append(await nodes.listen("bob", cluster=its))
            await until(lambda: all(hub.cluster.hubs for hub in it.hubs))
            yield it


async def landed_at_the_other(it: Hubs) -> LiveSession:
    """Return a peer's session with the first hub, whose connection came by the other."""
    alice = await peer_at(it, "alice", iter([0, 1]))
    session = live(alice.get_session_for_endpoint(it.hubs[0].node_id))
    cut(alice, it.hubs[0])
    await until(lambda: session.stats.resumes == 1)
    return session


@on_linux
@pytest.mark.parametrize("meet", ["in a folder", "on a bus"])
async def test_on_one_machine_a_hub_has_no_part_in_a_connection_that_it_has_passed_on(
    meet: str,
) -> None:
    async with on_one_machine(meet=meet) as it:
        owner, other = it.hubs
        session = await landed_at_the_other(it)
        far = live(owner.get_session(session.session_id))
        assert far.address[1] not in (0, address_of(other)[1])
        assert len(landings_of(other)) == 0
        await other.stop()
        for data in (b"there", b"back"):
            await session.send(data)
            await far.send(data)
        await asyncio.gather(session.flush(), far.flush())
        assert (session.stats.resumes, far.stats.resumes) == (1, 1)


@on_linux
async def test_a_connection_is_relayed_to_a_hub_that_takes_no_sockets() -> None:
    async with on_one_machine() as it:
        passing = landings_of(it.hubs[0])._passing
        assert passing is not None
        passing.close()  # as in older releases
        session = await landed_at_the_other(it)
        assert len(landings_of(it.hubs[1])) == 1
        await session.close()


@pytest.mark.parametrize("words", [b"", b"\0\x20\0\x20" + bytes(64), b"\xff\xff\xff\xff"])
@in_virtual_time
async def test_a_socket_that_no_hub_has_given_is_closed(words: bytes) -> None:
    async with cluster() as it:
        near, far = socket.socketpair()
        landings_of(it.hubs[0])._take(near, words)
        assert far.recv(1) == b""
        far.close()


@in_virtual_time
async def test_a_link_that_is_dialed_again_costs_no_session() -> None:
    async with cluster() as it:
        alice = await peer_at(it, "alice", iter([0] + [1] * 1000))
        await asyncio.sleep(15)
        session = live(alice.get_session_for_endpoint(it.hubs[0].node_id))
        (other,) = hub_of(it.hubs[1]).others.values()
        other.link.session.abort("test")
        await asyncio.sleep(0.05)
        cut(alice, it.hubs[0])
        await until(lambda: session.stats.resumes == 1)


@in_virtual_time
async def test_a_hub_that_has_not_joined_yet_ends_no_session_of_another() -> None:
    async with cluster(1) as it:
        it.bus.take_down()
        late = it.nodes.make("bob", cluster=it.another("late"))
        it.hubs.append(late)
        async with late.listening():
            order = iter([0] + [1] * 1000)
            alice = await it.nodes.start("alice", network=balanced(it, order))
            await alice.connect("balancer", 1)
            session = live(alice.get_session_for_endpoint(it.hubs[0].node_id))
            await asyncio.sleep(5)
            cut(alice, it.hubs[0])
            await asyncio.sleep(1)
            it.bus.bring_up()
            await until(lambda: session.stats.resumes == 1, seconds=60)
