"""A broker that treats what hubs say as it likes: it can hold them up, and nothing else."""

from __future__ import annotations

import asyncio
import random
from contextlib import ExitStack
from struct import Struct
from typing import TYPE_CHECKING, Self
from unittest.mock import patch

import pytest

from helpers.clock import run_virtual
from helpers.cluster import cluster, hub_of, landings_of, receive
from helpers.nodes import EventLog, until
from seigr_toolset_transmissions.protocol.outbox import Outbox
from seigr_toolset_transmissions.sessions.session import LiveSession
from seigr_toolset_transmissions.transports.memory_bus import MemoryBus

if TYPE_CHECKING:
    from collections.abc import Callable

    from helpers.cluster import Hubs
    from seigr_toolset_transmissions import STTNode

COUNT = 300


END = "stt.to.0123456789abcdef.0123456789abcdef"
"""Where an invented hub claims to be."""

HEAD = Struct("!B8sIQ")
OPEN, OPENED, DATA = 0, 1, 3
"""Of an envelope: see `transports.pipes`."""

Message = tuple[str, bytes, str]


class HostileBus(MemoryBus):
    """A bus that does to messages what it likes, while it is ``hostile``."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.chance = random.Random(seed)  # noqa: S311 - no secret
        self.hostile = False
        self.seen: list[Message] = []
        self.faults: list[Callable[[str, bytes, str], None]] = [
            self.drop,
            self.repeat,
            self.delay,
            self.reorder,
            self.swap,
            self.mislead,
            self.alter,
            self.replay,
            self.invent,
            self.invent_hub,
        ]
        self.done = 0
        self._late: list[Message] = []  # go after the next one
        self._swapped: Message | None = None  # goes where the next one should

    def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        self.seen.append((subject, data, reply))
        if subject == END and data and data[0] == OPENED:  # a hub lets the invented one speak
            speech = HEAD.pack(DATA, data[1:9], 0, 0) + self.chance.randbytes(100)
            super().publish(reply, speech)
        elif self.hostile and self.chance.random() < 0.04:
            self.done += 1
            fault = self.faults[self.done % len(self.faults)]
            fault(subject, data, reply)
        else:
            self._pass(subject, data, reply)

    def _pass(self, subject: str, data: bytes, reply: str) -> None:
        late, self._late = self._late, []
        swapped, self._swapped = self._swapped, None
        if swapped is not None:
            super().publish(subject, *swapped[1:])
            subject = swapped[0]
        for message in ((subject, data, reply), *late):
            super().publish(*message)

    def drop(self, subject: str, data: bytes, reply: str) -> None:
        pass

    def repeat(self, subject: str, data: bytes, reply: str) -> None:
        for _ in range(3):
            super().publish(subject, data, reply)

    def delay(self, subject: str, data: bytes, reply: str) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(self.chance.uniform(0, 3), super().publish, subject, data, reply)

    def reorder(self, subject: str, data: bytes, reply: str) -> None:
        self._late.append((subject, data, reply))

    def swap(self, subject: str, data: bytes, reply: str) -> None:
        self._swapped = subject, data, reply

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

    def invent_hub(self, subject: str, data: bytes, reply: str) -> None:
        """Connect to all hubs, in the name of one that does not exist, and announce it."""
        super().publish(subject, data, reply)
        for known in sorted({each for each, _, _ in self.seen}):
            if known.startswith("stt.at."):
                super().publish(known, HEAD.pack(OPEN, bytes(8), 0, 1 << 20), END)
            elif known.startswith("stt.hubs."):
                super().publish(known, self.chance.randbytes(44))


class Wire:
    """What goes into sessions, and what comes out, while this is used as ``with``."""

    def __init__(self) -> None:
        self.said: dict[Outbox, list[bytes]] = {}
        self.heard: dict[LiveSession, list[bytes]] = {}

    def __enter__(self) -> Self:
        send, arrived, wire = Outbox.send, LiveSession.messages_arrived, self

        def note_said(outbox: Outbox, message: bytes) -> int:
            accepted = send(outbox, message)
            if accepted:
                wire.said.setdefault(outbox, []).append(message)
            return accepted

        def note_heard(session: LiveSession, messages: list[bytes]) -> None:
            wire.heard.setdefault(session, []).extend(messages)
            arrived(session, messages)

        self._patches = ExitStack()
        self._patches.enter_context(patch.object(Outbox, "send", note_said))
        self._patches.enter_context(patch.object(LiveSession, "messages_arrived", note_heard))
        return self

    def __exit__(self, *_: object) -> None:
        self._patches.close()

    def check(self, hubs: list[STTNode]) -> None:
        """Whatever a hub has said, the other has heard, in order, and nothing else."""
        by_name = {hub.cluster.name: hub_of(hub) for hub in hubs}
        for hub in by_name.values():
            for session_id, (link, _) in hub.others.items():
                there = by_name[link.name].others[session_id].link.session
                assert self.heard[there] == self.said[link.session.machine.outbox]


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
    for each in talks:
        each.result()
    for peer in peers:
        received = await receive(peer, it.hubs[0].node_id, 2 * COUNT)
        for name in {data[4:] for data in received}:
            numbers = [int.from_bytes(data[:4]) for data in received if data[4:] == name]
            assert numbers == list(range(COUNT)), name
        assert len({data[4:] for data in received}) == 2
    for node in (*peers, *it.hubs):  # nothing else has arrived anywhere
        with pytest.raises(TimeoutError):
            await node.endpoints.receive_any(timeout=5)
    assert [log.errors for log in logs] == [[]] * 3
    for hub in it.hubs:
        assert set(await hub.cluster.find()) == {peer.node_id for peer in peers}


def check_nobody_got_in(it: Hubs) -> None:
    """There are no other hubs, all know one another, and nobody has been let in in their name."""
    addresses = {hub_of(hub)._membership.address for hub in it.hubs}
    for hub in it.hubs:
        names = {each.name for each in hub.cluster.hubs} | {hub.cluster.name}
        assert names == {"hub-0", "hub-1", "hub-2"}
        assert len(hub_of(hub).others) == 2
        membership = hub_of(hub)._membership
        assert membership.meeting is not None
        assert {*membership.meeting.members(), membership.address} == addresses
        assert hub.stats().sessions_opened == len(hub.sessions)
        assert membership.node is not None
        assert membership.node.stats().sessions_opened == 2
        assert not hub.banned
        assert not landings_of(hub).arrivals
        assert len(landings_of(hub)) == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_hostile_bus_makes_hubs_lose_double_and_mislead_nothing(seed: int) -> None:
    async def main() -> None:
        bus = HostileBus(seed)
        with Wire() as wire:
            async with cluster(3, grace=120, bus=bus) as it:
                await converse(it, bus)
                assert bus.done > 2 * len(bus.faults)
                check_nobody_got_in(it)
                wire.check(it.hubs)

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
