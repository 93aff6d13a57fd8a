"""Hubs whose links go over TCP: those that find each other on a bus, and those that have a list."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from helpers.cluster import hub_of, landings_of
from helpers.nats_server import NatsServer, needs_nats
from helpers.nodes import (
    SHARED_SEED,
    EventLog,
    Nodes,
    address_of,
    free_port,
    in_virtual_time,
    live,
    memory_nodes,
    seed_of,
    until,
)
from helpers.recorder import Recorder
from seigr_toolset_transmissions import STTNode
from seigr_toolset_transmissions.cluster import Cluster, direct
from seigr_toolset_transmissions.cluster.direct import ListMeeting
from seigr_toolset_transmissions.cluster.door import DoorNetwork, own_host
from seigr_toolset_transmissions.errors import STTConnectError
from seigr_toolset_transmissions.transports.memory import MemoryNetwork
from seigr_toolset_transmissions.transports.memory_bus import MemoryBus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LIST = ["tcp://10.0.0.5:7000", "tcp://10.0.0.6:7000", "tcp://10.0.0.7:7000"]


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> MemoryNetwork:
    """What links go over instead of TCP."""
    network = MemoryNetwork()
    monkeypatch.setattr(direct, "TcpNetwork", lambda: network)
    return network


@asynccontextmanager
async def started(*clusters: Cluster) -> AsyncIterator[tuple[Nodes, list[STTNode]]]:
    """Run hubs, and wait until they have met."""
    async with memory_nodes() as nodes:
        hubs = [await nodes.listen("bob", cluster=each) for each in clusters]
        await until(lambda: all(len(hub.cluster.hubs) == len(hubs) - 1 for hub in hubs))
        yield nodes, hubs


async def exchange(nodes: Nodes, hubs: list[STTNode], name: str = "alice") -> STTNode:
    """Connect a peer to the last hub, and send to it from the first."""
    peer = await nodes.start(name)
    await peer.connect(*address_of(hubs[-1]))
    await until(lambda: hubs[0].cluster.locate(peer.node_id) == hubs[-1].cluster.name)
    await hubs[0].endpoints.send_to_endpoint(peer.node_id, b"hi")
    assert await peer.endpoints.receive_any(timeout=10) == (b"hi", hubs[0].node_id)
    return peer


def link_address(hub: STTNode) -> tuple[str, int]:
    return hub_of(hub)._membership.address


@pytest.mark.usefixtures("network")
@in_virtual_time
async def test_hubs_with_the_same_list_meet_and_each_takes_an_address_of_its_own() -> None:
    async with started(*(Cluster(LIST, name=f"hub-{i}") for i in range(3))) as (nodes, hubs):
        assert [link_address(hub) for hub in hubs] == [(f"10.0.0.{n}", 7000) for n in (5, 6, 7)]
        await exchange(nodes, hubs)


@pytest.mark.usefixtures("network")
@in_virtual_time
async def test_links_go_past_the_bus_that_hubs_met_on() -> None:
    bus = MemoryBus()
    clusters = [
        Cluster(bus, name=f"hub-{i}", direct=True, address=f"tcp://10.0.0.{i}") for i in range(2)
    ]
    async with started(*clusters) as (nodes, hubs):
        log = EventLog(hubs[0], "hub_suspended")
        bus.take_down()
        await exchange(nodes, hubs)
        await asyncio.sleep(30)
        await hubs[0].endpoints.send_to_endpoint(nodes.made[-1].node_id, b"still")
        assert (await nodes.made[-1].endpoints.receive_any())[0] == b"still"
        assert log.entries == []


@pytest.mark.usefixtures("network")
@in_virtual_time
async def test_a_session_that_lands_elsewhere_is_passed_on_over_the_port_of_the_links() -> None:
    async with started(Cluster(LIST, name="a"), Cluster(LIST, name="b")) as (nodes, hubs):
        alice = await exchange(nodes, hubs)
        session = live(alice.get_session_for_endpoint(hubs[0].node_id))
        session.dial_address = address_of(hubs[0])
        session.cut("test")
        await hubs[0].endpoints.send_to_endpoint(alice.node_id, b"after")
        assert (await alice.endpoints.receive_any())[0] == b"after"
        assert len(landings_of(hubs[0])) == 1
        assert alice.stats().resumes == 1


def kill(hub: STTNode, network: MemoryNetwork) -> None:
    """Have a hub do nothing any more, as if it had been killed."""

    inside = hub_of(hub)
    assert isinstance(inside._membership.meeting, ListMeeting)
    inside._membership.meeting.network._network = MemoryNetwork()  # where there is nobody
    del network._listeners[link_address(hub)]
    for link, _ in inside.others.values():
        link.session.cut("killed")


@pytest.mark.parametrize("killed", [0, 1], ids=["is dialed", "dials"])
@in_virtual_time
async def test_a_hub_that_was_killed_and_restarts_at_its_address_is_met_at_once(
    killed: int, network: MemoryNetwork
) -> None:
    async with started(Cluster(LIST, name="a"), Cluster(LIST, name="b")) as (nodes, hubs):
        other = hubs[1 - killed]
        log = EventLog(other, "hub_joined", "hub_lost")
        kill(hubs[killed], network)
        again = await nodes.listen("bob", cluster=Cluster(LIST, name="again"))
        await log.until("hub_joined", seconds=3)
        assert log.names == ["hub_lost", "hub_joined"]
        assert [hub.name for hub in other.cluster.hubs] == ["again"]
        assert link_address(again) == link_address(hubs[killed])


@in_virtual_time
async def test_the_peers_of_a_listed_hub_learn_that_it_is_gone_once_its_link_is_lost(
    network: MemoryNetwork,
) -> None:
    async with started(Cluster(LIST[:2], name="a"), Cluster(LIST[:2], name="b")) as (_, hubs):
        await asyncio.sleep(20)
        log = EventLog(hubs[1], "hub_suspended", "hub_lost")
        kill(hubs[0], network)
        await log.until("hub_suspended")
        await log.until("hub_lost")
        assert not hub_of(hubs[1])._membership.expects_links()


@pytest.mark.usefixtures("network")
@in_virtual_time
async def test_hubs_that_are_away_are_dialed_again_and_reported_once() -> None:
    async with memory_nodes() as nodes:
        last = await nodes.listen("bob", cluster=Cluster(LIST, address=LIST[2], name="last"))
        first = await nodes.listen("bob", cluster=Cluster(LIST, address=LIST[0], name="first"))
        logs = [EventLog(hub, "error") for hub in (first, last)]
        await asyncio.sleep(60)
        hows = "it has not dialed this hub", "Connection refused"
        for log, how in zip(logs, hows, strict=True):
            ((kind, details),) = log.errors
            assert kind == "hub_unreachable"
            assert details["address"] == ("10.0.0.6", 7000)
            assert how in details["reason"]
        late = await nodes.listen("bob", cluster=Cluster(LIST, name="late"))
        await until(lambda: len(late.cluster.hubs) == 2, 3.5)
        assert all(len(log.errors) == 1 for log in logs)


@pytest.mark.usefixtures("network")
@in_virtual_time
async def test_a_hub_that_is_not_in_the_list_dials_all_that_are() -> None:
    async with started(*(Cluster(LIST, name=f"hub-{i}") for i in range(3))) as (nodes, hubs):
        visitor = await nodes.start("bob", cluster=Cluster(LIST, address="tcp://127.0.0.1"))
        await until(lambda: len(visitor.cluster.hubs) == 3)
        assert all(len(hub.cluster.hubs) == 3 for hub in hubs)


@in_virtual_time
async def test_a_hub_none_of_whose_addresses_is_free_says_so_and_tries_again(
    network: MemoryNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    async with memory_nodes() as nodes:
        taken = await network.listen(Recorder, "10.0.0.5", 7000)
        hub = await nodes.listen("bob", cluster=Cluster(LIST[:1], name="hub"))
        await asyncio.sleep(0.5)
        (record,) = caplog.records
        assert record.getMessage() == (
            "hub 'hub' has not joined its cluster: cannot listen for links: 10.0.0.5 port 7000: "
            "Address already in use. Give this hub an address of its own, with address= or in the "
            "list of all; trying again in 1 s"
        )
        await taken.close()
        await until(lambda: hub_of(hub)._membership.meeting)


@pytest.mark.usefixtures("network")
@in_virtual_time
async def test_a_hub_that_cannot_be_linked_with_by_its_own_settings_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus = MemoryBus()
    async with memory_nodes() as nodes:
        for cluster in (Cluster(bus, direct=True, address=LIST[0]), Cluster(bus)):
            await nodes.listen("bob", cluster=cluster)
        await asyncio.sleep(5)
        texts = [record.getMessage() for record in caplog.records]
        assert len(texts) == 2
        assert any("it has direct=True, and this one has not" in text for text in texts)
        assert any("this one has direct=True, and it has not" in text for text in texts)


@in_virtual_time
async def test_two_hubs_that_announce_one_address_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(direct, "TcpNetwork", MemoryNetwork)  # each on a machine of its own
    bus = MemoryBus()
    async with memory_nodes() as nodes:
        for _ in range(2):
            cluster = Cluster(bus, direct=True, address="tcp://10.0.0.5:7000")
            await nodes.listen("bob", cluster=cluster)
        await asyncio.sleep(5)
        assert ["give each its own" in each.getMessage() for each in caplog.records] == [True] * 2


@in_virtual_time
async def test_a_member_of_the_group_is_no_hub_at_the_port_of_the_links(
    network: MemoryNetwork,
) -> None:
    async with started(Cluster(LIST, name="a"), Cluster(LIST, name="b")) as (nodes, hubs):
        logs = [EventLog(hub, "hub_joined") for hub in hubs]
        await nodes.listen("carol", cluster=Cluster(LIST, address=LIST[2], name="a"))
        where = link_address(hubs[0])
        landing = DoorNetwork(network).landing_of(where)
        for secret in (SHARED_SEED, seed_of("alice")):
            for way, address in (
                (network, where),
                (DoorNetwork(network), where),
                (DoorNetwork(network), landing),
            ):
                async with STTNode(seed_of("carol"), secret, network=way) as member:
                    with pytest.raises(STTConnectError):
                        await member.connect(*address)
        await asyncio.sleep(5)
        assert [log.entries for log in logs] == [[], []]
        assert all(len(hub_of(hub).others) == 1 for hub in hubs)


@in_virtual_time
async def test_a_connection_that_does_not_say_what_it_is_for_ends(network: MemoryNetwork) -> None:
    async with started(Cluster(LIST, name="a"), Cluster(LIST, name="b")) as (_, hubs):
        began = asyncio.get_running_loop().time()
        silent, wrong = Recorder(), Recorder()
        await network.dial(silent, *link_address(hubs[0]))
        (await network.dial(wrong, *link_address(hubs[0]))).write(b"\xff" + bytes(100))
        await wrong.until_lost()
        assert asyncio.get_running_loop().time() - began < 1
        await silent.until_lost()
        assert 9 < asyncio.get_running_loop().time() - began < 11


@pytest.mark.parametrize("said", [b"", b"\x01"], ids=["nothing", "that they are passed on"])
@in_virtual_time
async def test_a_flood_of_connections_to_the_port_of_the_links_is_bounded(
    said: bytes, network: MemoryNetwork
) -> None:
    async with started(Cluster(LIST, name="a"), Cluster(LIST, name="b")) as (nodes, hubs):
        many = [Recorder() for _ in range(2000)]
        for each in many:
            (await network.dial(each, *link_address(hubs[0]))).write(said)
        await asyncio.sleep(1)
        assert sum(not each.lost for each in many) <= 1024
        late = await nodes.listen("bob", cluster=Cluster(LIST, name="late"))
        await until(lambda: len(late.cluster.hubs) == 2, 2)


@needs_nats
async def test_hubs_at_a_real_server_reach_each_other_over_tcp() -> None:
    with NatsServer() as server:
        async with Nodes() as nodes:
            hubs = [
                await nodes.listen("bob", cluster=Cluster(server.url, name=name, direct=True))
                for name in ("a", "b")
            ]
            await until(lambda: all(hub.cluster.hubs for hub in hubs))
            server.kill()
            await exchange(nodes, hubs)
            for hub in hubs:
                host, port = link_address(hub)
                with socket.create_connection((host, port), 5):
                    pass
            if not host.startswith("127."):
                with pytest.raises(OSError, match="refused"):
                    socket.create_connection(("127.0.0.1", port), 5)


async def test_hubs_with_a_list_meet_over_tcp_also_where_the_address_is_not_this_machines() -> None:
    ports = free_port(), free_port()
    addresses = [f"tcp://localhost:{port}" for port in ports]
    async with Nodes() as nodes:
        one = await nodes.listen("bob", cluster=Cluster(addresses, name="a"))
        # 192.0.2.1 stands for a published port of a container: nothing here has this address.
        outside = f"tcp://192.0.2.1:{ports[1]}"
        other = await nodes.listen("bob", cluster=Cluster(addresses, name="b", address=outside))
        await until(lambda: one.cluster.hubs and other.cluster.hubs)
        assert link_address(other) == ("192.0.2.1", ports[1])
        await exchange(nodes, [one, other])


@pytest.mark.parametrize(
    ("where", "options", "error", "text"),
    [
        ([], {}, ValueError, "is empty"),
        (["tcp://10.0.0.5"], {}, ValueError, "has no port"),
        (["tcp://[::]:7000"], {}, ValueError, "leads other hubs nowhere"),
        (["10.0.0.5:7000"], {}, ValueError, "not the address of a hub"),
        (["tcp://10.0.0.5:seven"], {}, ValueError, "not the address of a hub"),
        (["tcp://ada@10.0.0.5:7000"], {}, ValueError, "not the address of a hub"),
        (["tcp://10.0.0.5:7000/x"], {}, ValueError, "not the address of a hub"),
        ([5], {}, TypeError, "must be a str"),
        (5, {}, TypeError, "a list of the addresses"),
        ("tcp://10.0.0.5:7000", {}, ValueError, "a list of the addresses"),
        ("unix:///run/hubs", {"direct": True}, ValueError, "not in a folder"),
        (MemoryBus(), {"address": LIST[0]}, ValueError, "for hubs with direct=True"),
        (MemoryBus(), {"direct": True, "address": "x"}, ValueError, "not the address of a hub"),
    ],
)
def test_what_is_said_about_addresses_is_checked_at_once(
    where: Any, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        Cluster(where, **options)


@pytest.fixture
def interfaces(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """By the host that a socket is connected to: the address of this machine's interface."""
    found: dict[str, str] = {}

    class Probe(socket.socket):
        def connect(self, name: Any) -> None:
            if name[0] not in found:
                raise OSError("unreachable")
            self.own = found[name[0]]

        def getsockname(self) -> tuple[str, int]:
            return self.own, 1

    monkeypatch.setattr("seigr_toolset_transmissions.cluster.door.socket.socket", Probe)
    return found


async def test_a_hub_announces_the_interface_that_leads_to_the_server(
    interfaces: dict[str, str],
) -> None:
    assert await own_host(("10.0.0.1", 4222)) == "127.0.0.1"  # no network at all
    interfaces["192.0.2.1"] = "203.0.113.5"
    assert await own_host(None) == "203.0.113.5"
    interfaces |= {"127.0.0.1": "127.0.0.1", "10.0.0.1": "10.0.0.5"}
    assert await own_host(("127.0.0.1", 4222)) == "203.0.113.5"
    assert await own_host(("10.0.0.1", 4222)) == "10.0.0.5"
