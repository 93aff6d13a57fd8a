"""Exactly once and in order, wherever the cable breaks: two whole nodes, in virtual time.

The scenario sends ten messages each way at once, some of them in parts. It is cut at some byte
offsets here and at every offset by ``python -m tests.soak.every_cut``.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from helpers.fault_network import Direction, Fault, FaultNetwork, Kind
from helpers.lossless import messages, run_scenario
from helpers.nodes import Nodes, in_virtual_time
from seigr_toolset_transmissions import NodeConfig
from seigr_toolset_transmissions.protocol import outbox
from seigr_toolset_transmissions.transports.memory import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import Iterator

    from helpers.fault_network import Cable
    from seigr_toolset_transmissions import STTNode

PART_BYTES = 100
SIZES = [0, 1, 64, 99, 100, 101, 250, 30, 5, 7]
TO_LISTENER = messages(b"out", SIZES)
TO_DIALER = messages(b"in", SIZES)
STRIDE = 31


@pytest.fixture(autouse=True)
def _short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MAX_DATA_BYTES", PART_BYTES)
    monkeypatch.setattr(outbox, "FIRST_PART_BYTES", PART_BYTES // 3)


def offsets(direction: Direction) -> Iterator[int]:
    """Some offsets of the undisturbed scenario's bytes, the first and the last included."""
    total = run_scenario(TO_LISTENER, TO_DIALER).cables[0].passed[direction]
    yield from range(0, total, STRIDE)
    yield total


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name)
@pytest.mark.parametrize("direction", Direction, ids=lambda direction: direction.name)
def test_a_cut_anywhere_loses_doubles_and_reorders_nothing(
    direction: Direction, kind: Kind
) -> None:
    for offset in offsets(direction):
        outcome = run_scenario(TO_LISTENER, TO_DIALER, [Fault(direction, offset, kind)])
        assert outcome.at_listener == TO_LISTENER, offset
        assert outcome.at_dialer == TO_DIALER, offset


def test_a_message_longer_than_any_connection_lives_arrives() -> None:
    """Each new connection carries at least one part, so a long message makes progress."""
    long = messages(b"long", [20 * PART_BYTES])
    faults = [Fault(Direction.OUT, 900, Kind.RST) for _ in range(15)]
    outcome = run_scenario(long, [], faults)
    assert outcome.at_listener == long
    assert len(outcome.cables) > 5


def test_a_thousand_cuts_in_a_row_lose_nothing() -> None:
    many = messages(b"m", [20] * 2000)
    faults = [Fault(Direction.OUT, 400 + k % 700, list(Kind)[k % 2]) for k in range(1000)]
    outcome = run_scenario(many, many, faults)
    assert outcome.at_listener == many
    assert outcome.at_dialer == many


@in_virtual_time
async def test_old_connections_that_hang_and_are_released_deliver_nothing_twice() -> None:
    """A thousand resumes; what was on its way before each one arrives late, in both directions."""
    chance = random.Random(1)  # noqa: S311 - no secret
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network) as nodes:
        # The dialer notices a silence within two seconds, the listener much later.
        dialer = await nodes.start(config=NodeConfig(ping_interval=0.5, ping_timeout=0.5))
        pair = await nodes.connect(dialer, await nodes.listen())
        received = {node: _record(node) for node in (pair.dialer, pair.listener)}
        sent: dict[STTNode, list[bytes]] = {pair.dialer: [], pair.listener: []}

        async def talk() -> None:
            for node, side in ((pair.listener, pair.near), (pair.dialer, pair.far)):
                for _ in range(chance.randrange(4)):
                    size = chance.choice((0, 9, PART_BYTES, 3 * PART_BYTES))
                    sent[node] += messages(b"%d:" % len(sent[node]), [size])
                    await side.send(sent[node][-1])
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)

        hanging: list[Cable] = []
        for _ in range(1000):
            await talk()
            network.cables[-1].hold()
            hanging.append(network.cables[-1])
            await talk()
            occurrence = chance.choice(("session_suspended", "session_resumed"))
            await pair.dialer.events.wait_for(occurrence)
            while len(hanging) > chance.randrange(3):
                await talk()  # some before the release, also of a connection before the last
                hanging.pop(0).release()
            if occurrence == "session_suspended":
                await pair.dialer.events.wait_for("session_resumed")
        for cable in hanging:
            cable.release()
        await asyncio.gather(pair.near.flush(), pair.far.flush())
        await asyncio.sleep(100)  # whatever would come twice, or too late, comes now
        assert pair.near.stats.resumes == pair.far.stats.resumes == 1000
        for node, expected in sent.items():
            assert len(expected) > 2000
            assert received[node] == expected


def _record(node: STTNode) -> list[bytes]:
    received: list[bytes] = []

    async def record(session_id: bytes, data: bytes) -> None:
        received.append(data)

    node.events.register("data_received", record)
    return received


def test_both_sides_report_a_cut_and_its_end() -> None:
    outcome = run_scenario(TO_LISTENER, TO_DIALER, [Fault(Direction.OUT, 700, Kind.RST)])
    expected = [
        "session_created",
        "peer_connected",
        "session_suspended",
        "session_resumed",
        "session_closed",
        "peer_disconnected",
    ]
    assert outcome.events == {"listener": expected, "dialer": expected}
