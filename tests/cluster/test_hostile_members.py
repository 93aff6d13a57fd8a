"""Members of the group without the node seed, and hubs that say what no hub says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest

from helpers.cluster import Hubs, cluster, hub_of, landing_of, receive
from helpers.nodes import (
    SHARED_SEED,
    EventLog,
    in_virtual_time,
    live,
    seed_of,
    until,
)
from helpers.recorder import Recorder
from seigr_toolset_transmissions import STTNode
from seigr_toolset_transmissions.cluster import Cluster
from seigr_toolset_transmissions.cluster import hub as cluster_hub
from seigr_toolset_transmissions.cluster.messages import (
    Answer,
    Ask,
    Kind,
    pack_numbers,
    pack_routes,
)
from seigr_toolset_transmissions.errors import STTConnectError, STTError
from seigr_toolset_transmissions.transports.memory_bus import MemoryBus
from seigr_toolset_transmissions.transports.pipes import PipeNetwork

if TYPE_CHECKING:
    from seigr_toolset_transmissions.cluster.link import Link


class ListeningBus(MemoryBus):
    """A bus that keeps all that passes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, bytes]] = []

    def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        self.seen.append((subject, data))
        super().publish(subject, data, reply)


@in_virtual_time
async def test_a_member_with_access_to_the_bus_cannot_pose_as_a_hub() -> None:
    async with cluster() as it:
        logs = [EventLog(hub, "hub_joined") for hub in it.hubs]
        await it.nodes.listen("carol", cluster=Cluster(it.bus, name="hub-0"))
        address = hub_of(it.hubs[0])._membership.address
        for secret in (SHARED_SEED, seed_of("alice")):
            member = STTNode(seed_of("carol"), secret, network=PipeNetwork(it.bus))
            async with member:
                with pytest.raises(STTConnectError):
                    await member.connect(*address)
        await asyncio.sleep(5)
        assert [log.entries for log in logs] == [[], []]
        assert all(len(each.cluster.hubs) == 1 for each in it.hubs)
        assert all(len(hub_of(each).others) == 1 for each in it.hubs)


@in_virtual_time
async def test_a_member_takes_no_session_over_at_the_landing_place() -> None:
    bus = ListeningBus()
    async with cluster(bus=bus) as it:
        alice = await it.peer("alice", it.hubs[0])
        session = live(it.hubs[0].get_session_for_endpoint(alice.node_id))
        network = PipeNetwork(bus)
        # It dials the landing place as if it were a hub's ordinary door.
        member = it.nodes.make("carol", network=network)
        async with member:
            with pytest.raises(STTConnectError):
                await member.connect(*landing_of(it.hubs[0]))
        # It repeats what it has seen there, with a first message of its own behind it.
        for length in (28, 60, 1000, 65_535):
            stranger = Recorder()
            transport = await network.dial(stranger, *landing_of(it.hubs[0]))
            transport.write(struct.pack("!H", length) + bytes(length) + bytes(200))
            await stranger.until_lost()
            assert stranger.data == b""
        assert session.connected
        assert session.address != ("", 0)
        assert {each.peer_node_id for each in it.hubs[0].sessions} == {alice.node_id}


@in_virtual_time
async def test_what_passes_over_the_bus_shows_no_endpoint_name_or_message() -> None:
    bus = ListeningBus()
    async with cluster(bus=bus) as it:
        alice = await it.peer("alice", it.hubs[1])
        it.hubs[1].endpoints.update_endpoint(alice.node_id, metadata={"place": "the cellar"})
        await it.hubs[0].endpoints.send_to_endpoint(alice.node_id, b"a secret message")
        await receive(alice, it.hubs[0].node_id, 1)
        assert await it.hubs[0].cluster.find(place="the cellar") == [alice.node_id]
        assert await it.hubs[0].cluster.get_endpoint(alice.node_id)
        everything = b"".join(subject.encode() + data for subject, data in bus.seen)
        for secret in (
            alice.node_id[:8],
            alice.node_id.hex()[:16].encode(),
            b"secret message",
            b"cellar",
            b"hub-1",
            it.hubs[0].node_id[:8],
        ):
            assert secret not in everything


DEEP = b"[" * 100_000 + b"]" * 100_000
HEAD = struct.pack("!BII", Kind.BROADCAST, 1, 0)


def broadcast(chosen: bytes) -> bytes:
    return struct.pack("!BII", Kind.BROADCAST, 1, len(chosen)) + chosen + b"message"


def told(**other: object) -> bytes:
    right: dict[str, object] = {"where": None, "exclude": [], "seconds": 1.0}
    return broadcast(json.dumps({**right, **other}).encode())


NONSENSE = {
    "routes that are cut off": bytes((Kind.ROUTES,)) + b"\xff\xff\xff\xff",
    "half a fingerprint": bytes((Kind.ROUTES,)) + bytes(4 + 3),
    "lane 0": pack_numbers(Kind.LANE, 0, bytes(32)),
    "a short lane": bytes((Kind.LANE,)) + bytes(4),
    "a message without a lane": bytes((Kind.FORWARD,)) + bytes(3),
    "a long close": bytes((Kind.CLOSE,)) + bytes(5),
    "half a confirmation": bytes((Kind.DONE,)) + bytes(7),
    "a short unfit": bytes((Kind.UNFIT,)),
    "a short gone": bytes((Kind.GONE,)) + bytes(19),
    "more delivered than sent": pack_numbers(Kind.GONE, 1, 2, 1),
    "a short moved": bytes((Kind.MOVED,)) + bytes(11),
    "a broadcast without a head": HEAD[:5],
    "a broadcast without JSON": HEAD,
    "a broadcast in deep JSON": broadcast(DEEP),
    "a broadcast for a list": told(where=[1]),
    "a broadcast but for numbers": told(exclude=[1]),
    "a broadcast but for 5": told(exclude=5),
    "a broadcast that takes forever": told(seconds=float("inf")),
    "a broadcast that takes no number": told(seconds=float("nan")),
    "a broadcast that takes too long to count": told(seconds=10**400),
    "a broadcast that takes a list": told(seconds=[]),
    "a broadcast for bad bytes": told(where={"a": {"$bytes": "zz"}}),
    "a short tally": bytes((Kind.TALLY,)) + bytes(11),
    "a short kick": bytes((Kind.KICK,)) + bytes(31),
    "a long ban": bytes((Kind.BAN,)) + bytes(33),
    "a long watch": bytes((Kind.WATCH,)) + bytes(2),
    "half an id": bytes((Kind.IDS,)) + bytes(16),
    "a short unban": bytes((Kind.UNBAN,)) + bytes(31),
}

REQUESTS = {
    "an empty request": b"",
    "an unknown request": b"\xff",
    "a search for a list": bytes((Ask.FIND,)) + bytes(32) + b"[]",
    "a search in deep JSON": bytes((Ask.FIND,)) + bytes(32) + DEEP,
    "a search cut off": bytes((Ask.FIND,)) + bytes(10),
}


def link_of(hub: STTNode) -> Link:
    (other,) = hub_of(hub).others.values()
    return other.link


async def goes_on(it: Hubs, bad: Link) -> None:
    """Check that the link has ended and nothing else, and that the hubs link up again."""
    log = EventLog(it.hubs[0], "error")
    alice = it.nodes.made[-1]
    await until(lambda: it.hubs[1].cluster.hubs and link_of(it.hubs[1]) is not bad)
    await until(lambda: it.hubs[0].cluster.locate(alice.node_id) == "hub-1")
    await it.hubs[0].endpoints.send_to_endpoint(alice.node_id, b"still here")
    assert await receive(alice, it.hubs[0].node_id, 1) == [b"still here"]
    assert len(it.hubs[1].sessions) == 1
    assert log.errors == []


@pytest.mark.parametrize("name", NONSENSE)
@in_virtual_time
async def test_a_hub_that_sends_nonsense_ends_its_link_and_nothing_else(name: str) -> None:
    async with cluster() as it:
        await it.peer("alice", it.hubs[1])
        bad = link_of(it.hubs[1])
        link_of(it.hubs[0]).post(NONSENSE[name])
        await bad.session.wait_closed()
        await goes_on(it, bad)


@pytest.mark.parametrize("again", [1, 2])
@in_virtual_time
async def test_a_hub_that_opens_a_second_lane_to_an_endpoint_ends_its_link_and_nothing_else(
    again: int,
) -> None:
    async with cluster() as it:
        alice = await it.peer("alice", it.hubs[1])
        bad = link_of(it.hubs[1])
        for number in (1, again):
            link_of(it.hubs[0]).post(pack_numbers(Kind.LANE, number, alice.node_id))
        await bad.session.wait_closed()
        await goes_on(it, bad)


@in_virtual_time
async def test_a_hub_that_says_that_it_has_too_many_endpoints_ends_its_link_and_nothing_else() -> (
    None
):
    async with cluster() as it:
        await it.peer("alice", it.hubs[1])
        bad = link_of(it.hubs[1])
        marks = [(number.to_bytes(8), bytes(4), 0) for number in range(1000)]
        with patch.object(cluster_hub, "_MOST_ENDPOINTS", 999):
            for message in pack_routes(marks, ()):
                link_of(it.hubs[0]).post(message)
            await bad.session.wait_closed()
            await goes_on(it, bad)


@in_virtual_time
async def test_a_hub_that_finds_the_same_endpoints_forever_fails_the_search_and_nothing_else() -> (
    None
):
    async with cluster() as it:
        await it.peer("alice", it.hubs[1])
        there = hub_of(it.hubs[1])._membership.node
        assert there is not None

        async def answer(peer_node_id: bytes, data: bytes) -> bytes:
            assert peer_node_id
            assert data
            return b"".join(number.to_bytes(32) for number in range(1, 65_537))

        there.on_request(answer)
        bad = link_of(it.hubs[1])
        assert await it.hubs[0].cluster.find(timeout=60) == []
        await goes_on(it, bad)


@pytest.mark.parametrize("name", REQUESTS)
@in_virtual_time
async def test_a_hub_that_asks_nonsense_ends_its_link_and_nothing_else(name: str) -> None:
    async with cluster() as it:
        await it.peer("alice", it.hubs[1])
        bad = link_of(it.hubs[1])
        with pytest.raises(STTError):
            await link_of(it.hubs[0]).session.request(REQUESTS[name])
        await bad.session.wait_closed()
        await goes_on(it, bad)


@pytest.mark.parametrize(
    "name",
    [
        {"name": "x" * 256},
        {"name": ""},
        {"name": 5},
        {"name": "\ud800" * 100},
        {"incarnation": "text"},
        {"address": ["host"]},
        {"address": ["host", "port"]},
        {"address": 7},
    ],
)
@in_virtual_time
async def test_a_hub_that_does_not_say_who_it_is_gets_no_link(name: dict[str, object]) -> None:
    async with cluster() as it:
        await it.peer("alice", it.hubs[1])
        bad = link_of(it.hubs[1])
        said = {"name": "x", "incarnation": {"$bytes": "00" * 16}, "address": ["host", 1]}
        bad.name = ""  # as if it had not said so yet
        link_of(it.hubs[0]).post(bytes((Kind.NAME,)) + json.dumps({**said, **name}).encode())
        await bad.session.wait_closed()
        await goes_on(it, bad)


@pytest.mark.parametrize(
    "reply",
    [b"", bytes((Answer.REPLY,)) + bytes(40), b"\xff", DEEP, b"{}", b"5"],
    ids=["nothing", "zeros", "unknown", "deep", "no endpoint", "a number"],
)
@in_virtual_time
async def test_a_hub_that_answers_nonsense_fails_the_call_and_nothing_else(reply: bytes) -> None:
    async with cluster() as it:
        alice = await it.peer("alice", it.hubs[1])

        async def answer(peer_node_id: bytes, data: bytes) -> bytes:
            assert peer_node_id
            assert data
            return reply

        node = hub_of(it.hubs[1])._membership.node
        assert node is not None
        node.on_request(answer)
        hub = it.hubs[0]
        for call in (
            lambda: hub.cluster.find(a=1),
            lambda: hub.endpoints.request(alice.node_id, b"?", timeout=5),
            lambda: hub.cluster.get_endpoint(alice.node_id),
        ):
            with contextlib.suppress(STTError):
                await call()
            await asyncio.sleep(5)  # the hubs link up again
            assert hub.cluster.locate(alice.node_id) == "hub-1"
        with pytest.raises(STTError):
            await hub.cluster.get_endpoint(alice.node_id)
        await asyncio.sleep(5)
        await hub.endpoints.send_to_endpoint(alice.node_id, b"still here")
        assert await receive(alice, hub.node_id, 1) == [b"still here"]
