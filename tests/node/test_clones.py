"""Two live processes with one identity are reported; a restarted peer is not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from helpers.fault_network import FaultNetwork, Kind
from helpers.nodes import EventLog, Nodes, address_of, in_virtual_time, live, memory_nodes, until
from seigr_toolset_transmissions.node import clones
from seigr_toolset_transmissions.node.clones import Clones
from seigr_toolset_transmissions.transports.memory import MemoryNetwork

if TYPE_CHECKING:
    from seigr_toolset_transmissions import STTNode
    from seigr_toolset_transmissions.node.runtime import Runtime
    from seigr_toolset_transmissions.sessions.session import LiveSession
    from seigr_toolset_transmissions.transports.base import Address

PEER = b"p" * 32
A, B, C = (bytes([letter]) * 16 for letter in b"ABC")
HERE, THERE = ("192.0.2.1", 1), ("192.0.2.2", 2)


class Reports:
    def __init__(self) -> None:
        self.details: list[dict[str, Any]] = []
        self.clones = Clones(cast("Runtime", self))
        self.now = 0.0

    def report(self, error_type: str, details: dict[str, Any]) -> None:
        assert error_type == "identity_conflict"
        self.details.append(details)

    def see(self, *incarnations: bytes, address: Address = HERE, peer: bytes = PEER) -> int:
        """Let a peer show these incarnations; return how many conflicts were reported so far."""
        for incarnation in incarnations:
            self.clones.seen(peer, incarnation, address, self.now)
        return len(self.details)


def test_a_peer_restarted_any_number_of_times_is_not_a_conflict() -> None:
    reports = Reports()
    assert reports.see(A, A, B, B, C, *(bytes([k]) * 16 for k in range(100))) == 0
    assert len(reports.clones._seen[PEER]) == 5


@pytest.mark.parametrize("between", [[B], [B, C], [B, B, B]])
def test_an_incarnation_that_comes_back_is_a_conflict_with_both_addresses(
    between: list[bytes],
) -> None:
    reports = Reports()
    assert reports.see(A, address=HERE) == 0
    assert reports.see(*between, address=THERE) == 0
    assert reports.see(A, address=HERE) == 1
    (details,) = reports.details
    assert details["peer_node_id"] == PEER
    assert details["addresses"] == (HERE, THERE)
    assert "192.0.2.1 port 1" in details["reason"]
    assert "192.0.2.2 port 2" in details["reason"]
    assert reports.see(A) == 1
    assert reports.see(between[-1]) == 2


def test_the_log_gets_a_line_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    reports = Reports()
    reports.see(A, B, A, B, A)
    assert len(caplog.records) == 1
    assert caplog.records[0].levelname == "WARNING"
    reports.now = 11
    reports.see(B)
    assert len(caplog.records) == 2


def test_the_memory_of_incarnations_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clones, "_PEERS", 3)
    monkeypatch.setattr(clones, "_SUSPECTS", 3)
    reports = Reports()
    for number in range(10):
        reports.see(A, peer=bytes([number]) * 32)
    assert len(reports.clones._seen) == 3

    class Silent:
        def ping(self) -> None: ...

    for _ in range(10):
        reports.clones.suspect(cast("LiveSession", Silent()), 0)
    assert len(reports.clones._suspects) == 3


class Played:
    """A session whose peer answers a PING when the test says so."""

    peer_node_id, peer_incarnation, address = PEER, A, HERE
    connected = accepts = True

    def __init__(self) -> None:
        self.machine = self
        self.ping_time: float | None = None
        self.now = 0.0

    def ping(self) -> None:
        if self.ping_time is None:
            self.ping_time = self.now

    def answer(self) -> None:
        self.ping_time = None


def test_only_the_answer_to_a_ping_sent_after_the_later_life_was_seen_is_proof() -> None:
    reports, session = Reports(), Played()
    session.ping()  # at 0, before anything was suspected
    reports.see(A, B)
    session.now = 1
    reports.clones.suspect(cast("LiveSession", session), 1)
    reports.clones.check(1, patience=9)
    session.answer()  # the old one, perhaps long ago
    session.now = 2
    reports.clones.check(2, patience=9)
    assert session.ping_time == 2
    reports.clones.check(3, patience=9)
    assert reports.details == []
    session.answer()
    reports.clones.check(4, patience=9)
    assert len(reports.details) == 1
    assert not reports.clones._suspects


def test_a_suspect_that_does_not_answer_in_time_is_forgotten() -> None:
    reports, session = Reports(), Played()
    reports.see(A, B)
    reports.clones.suspect(cast("LiveSession", session), 0)
    reports.clones.check(18, patience=9)
    assert reports.clones._suspects
    reports.clones.check(18.1, patience=9)
    assert not reports.clones._suspects
    assert reports.details == []


# Whole nodes.


async def conflict(log: EventLog) -> dict[str, Any]:
    """Wait for the error, and return its details."""
    await until(lambda: any(name == "identity_conflict" for name, _ in log.errors), 60)
    return next(details for name, details in log.errors if name == "identity_conflict")


async def add_peer(node: STTNode, hub: STTNode) -> None:
    await node.endpoints.add_endpoint(hub.node_id, address_of(hub), connect=True)


@in_virtual_time
async def test_a_hub_dialed_by_two_copies_of_a_node_reports_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with memory_nodes() as nodes:
        hub = await nodes.listen("bob")
        log = EventLog(hub)
        for _ in range(2):
            await add_peer(await nodes.start("alice"), hub)
            await until(lambda: hub.sessions)
        details = await conflict(log)
        assert details["peer_node_id"] == nodes.made[1].node_id
        assert len({*details["addresses"]}) == 2
        assert "two live processes" in caplog.text


@in_virtual_time
async def test_a_node_that_reaches_two_copies_at_one_address_reports_them() -> None:
    network = MemoryNetwork()
    async with Nodes(network, reconnect_delay=0.01) as nodes:
        copies = [await nodes.listen("bob"), await nodes.listen("bob")]
        dialer = await nodes.start("alice")
        log = EventLog(dialer)
        await dialer.endpoints.add_endpoint(copies[0].node_id, address_of(copies[0]), connect=True)
        for turn in (1, 0):
            await until(lambda: dialer.sessions)
            (session,) = dialer.sessions
            address = address_of(copies[turn])
            dialer.endpoints.update_endpoint(copies[0].node_id, address=address)
            live(session).cut("a balancer has moved it")
            await session.wait_closed()
        details = await conflict(log)
        assert {*details["addresses"]} == {address_of(copy) for copy in copies}


@pytest.mark.parametrize("how", ["stopped", Kind.BLACK_HOLE, Kind.RST])
@in_virtual_time
async def test_a_restarted_peer_is_not_a_conflict_whether_or_not_its_old_connection_has_ended(
    how: Any,
) -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network, reconnect_delay=1e6, reconnect_delay_max=1e6) as nodes:
        hub, peer = await nodes.listen("bob"), await nodes.start("alice")
        log = EventLog(hub)
        await peer.connect(*address_of(hub))
        await until(lambda: hub.sessions)
        if how == "stopped":
            await peer.stop()
        else:  # as if it was killed: nothing comes from it any more
            network.cables[0].cut(how)
        again = await nodes.start("alice")
        await again.connect(*address_of(hub))
        await asyncio.sleep(100)
        assert "identity_conflict" not in [name for name, _ in log.errors]
