"""A broker that treats what hubs say as it likes: it can hold them up, and nothing else."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from helpers.clock import run_virtual
from helpers.cluster import cluster, hub_of, receive
from helpers.nodes import EventLog, until
from seigr_toolset_transmissions.transports.memory_bus import MemoryBus

if TYPE_CHECKING:
    from collections.abc import Callable

    from helpers.cluster import Hubs
    from seigr_toolset_transmissions import STTNode

COUNT = 300


class HostileBus(MemoryBus):
    """A bus that drops, repeats, delays, alters, misleads and invents, while it is ``hostile``."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.chance = random.Random(seed)  # noqa: S311 - no secret
        self.hostile = False
        self.seen: list[tuple[str, bytes, str]] = []
        self.faults: list[Callable[[str, bytes, str], None]] = [
            self.drop,
            self.repeat,
            self.delay,
            self.mislead,
            self.alter,
            self.replay,
            self.invent,
        ]
        self.done = 0

    def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        self.seen.append((subject, data, reply))
        if self.hostile and self.chance.random() < 0.04:
            self.done += 1
            fault = self.faults[self.done % len(self.faults)]
            fault(subject, data, reply)
        else:
            super().publish(subject, data, reply)

    def drop(self, subject: str, data: bytes, reply: str) -> None:
        pass

    def repeat(self, subject: str, data: bytes, reply: str) -> None:
        for _ in range(3):
            super().publish(subject, data, reply)

    def delay(self, subject: str, data: bytes, reply: str) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(self.chance.uniform(0, 3), super().publish, subject, data, reply)

    def mislead(self, subject: str, data: bytes, reply: str) -> None:
        """Bring it to somebody else."""
        other, _, _ = self.chance.choice(self.seen)
        super().publish(other, data, reply)

    def alter(self, subject: str, data: bytes, reply: str) -> None:
        changed = bytearray(data)
        if changed:
            changed[self.chance.randrange(len(changed))] ^= 1 << self.chance.randrange(8)
        super().publish(subject, bytes(changed), reply)

    def replay(self, subject: str, data: bytes, reply: str) -> None:
        super().publish(subject, data, reply)
        super().publish(*self.chance.choice(self.seen))

    def invent(self, subject: str, data: bytes, reply: str) -> None:
        """Say something of its own, to this end of a pipe or in an announcement's place."""
        super().publish(subject, self.chance.randbytes(self.chance.randrange(1, 200)), reply)


async def talk(hub: STTNode, endpoint_id: bytes) -> None:
    for number in range(COUNT):
        await hub.endpoints.send_to_endpoint(endpoint_id, number.to_bytes(4) + hub_name(hub))
        await asyncio.sleep(0.02)


def hub_name(hub: STTNode) -> bytes:
    return hub.cluster.name.encode()


async def converse(it: Hubs, bus: HostileBus) -> None:
    names = "alice", "carol"
    peers = [await it.peer(name, it.hubs[2 - i]) for i, name in enumerate(names)]
    logs = [EventLog(hub, "error") for hub in it.hubs]
    bus.hostile = True
    talks = [
        asyncio.create_task(talk(hub, peer.node_id))
        for hub in it.hubs
        for peer in peers
        if hub.cluster.locate(peer.node_id) != hub.cluster.name
    ]
    await asyncio.wait(talks)
    bus.hostile = False
    for peer in peers:
        received = await receive(peer, it.hubs[0].node_id, 2 * COUNT)
        for name in {data[4:] for data in received}:
            numbers = [int.from_bytes(data[:4]) for data in received if data[4:] == name]
            assert numbers == list(range(COUNT)), name
        assert len({data[4:] for data in received}) == 2
    for each in talks:
        each.result()
    await asyncio.sleep(5)
    assert [log.errors for log in logs] == [[]] * 3
    assert all(len(hub.cluster.hubs) == 2 for hub in it.hubs)


@pytest.mark.parametrize("seed", range(5))
def test_a_hostile_bus_makes_hubs_lose_double_and_mislead_nothing(seed: int) -> None:
    async def main() -> None:
        bus = HostileBus(seed)
        async with cluster(3, grace=120, bus=bus) as it:
            await converse(it, bus)
            assert bus.done > 2 * len(bus.faults)
            # Nobody has got in: there are no other hubs, and all know one another's names.
            for hub in it.hubs:
                names = {each.name for each in hub.cluster.hubs} | {hub.cluster.name}
                assert names == {"hub-0", "hub-1", "hub-2"}
                assert len(hub_of(hub).others) == 2

    run_virtual(main())


def test_invented_announcements_are_not_believed() -> None:
    async def main() -> None:
        bus = HostileBus(0)
        async with cluster(2, bus=bus) as it:
            subject = next(each for each, _, _ in bus.seen if each.startswith("stt.hubs."))
            before = hub_of(it.hubs[0])._membership.meeting
            assert before is not None
            members = before.members()
            for length in (0, 1, 12, 28, 44, 5000):
                bus.publish(subject, bus.chance.randbytes(length))
            for old in [data for each, data, _ in bus.seen if each == subject]:
                bus.publish(subject, old[:-1] + bytes((old[-1] ^ 1,)) if old else b"")
            await asyncio.sleep(0.1)
            assert before.members() == members
            await until(lambda: len(it.hubs[0].cluster.hubs) == 1)

    run_virtual(main())
