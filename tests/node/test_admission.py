"""How many connections may be half-open, and which one goes when there are too many."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.nodes import Nodes, address_of, until
from seigr_toolset_transmissions import NodeConfig
from seigr_toolset_transmissions.node.admission import Admission


class Stranger:
    """A connection in its handshake."""

    def __init__(self, admission: Admission[Stranger], host: str = "127.0.0.1") -> None:
        self.admission = admission
        self.peer_address = (host, 1)
        self.dropped = False

    def drop(self) -> None:
        self.dropped = True
        self.admission.leave(self)


def admission(**settings: int | bool) -> Admission[Stranger]:
    return Admission(NodeConfig(**settings))  # type: ignore[arg-type]  # numbers and one switch


def test_the_first_half_comes_in_without_any_being_dropped() -> None:
    gate = admission(max_half_open=100)
    strangers = [Stranger(gate) for _ in range(50)]
    assert all(gate.enter(stranger) for stranger in strangers)
    assert not any(stranger.dropped for stranger in strangers)
    assert len(gate) == 50


def test_there_are_never_more_than_the_limit_and_the_newest_is_always_in() -> None:
    gate = admission(max_half_open=100)
    strangers = []
    for _ in range(1000):
        stranger = Stranger(gate)
        assert gate.enter(stranger)
        assert not stranger.dropped
        strangers.append(stranger)
        assert len(gate) <= 100
    assert sum(not stranger.dropped for stranger in strangers) == len(gate) > 50


def test_a_connection_that_knows_the_seed_is_dropped_only_if_all_do() -> None:
    gate = admission(max_half_open=10)
    members = [Stranger(gate) for _ in range(4)]
    for member in members:
        gate.enter(member)
        gate.prove(member)
    for _ in range(1000):
        gate.enter(Stranger(gate))
    assert not any(member.dropped for member in members)
    more = [Stranger(gate) for _ in range(100)]
    for member in more:
        gate.enter(member)
        gate.prove(member)
    assert len(gate) <= 10
    assert any(member.dropped for member in more)


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
        ("2001:db8:0:100::1", "2001:db8:0:1ff::7", "2001:db8:0:200::1"),
        ("fe80::1%eth0", "fe80::1%eth1", "fd00::1"),
        ("::ffff:192.0.2.1", "192.0.2.1", "::ffff:192.0.2.2"),
    ],
)
def test_one_source_gets_no_more_than_its_share(one: str, same: str, other: str) -> None:
    gate = admission(max_half_open_per_source=2)
    first = Stranger(gate, one)
    assert gate.enter(first)
    assert gate.enter(Stranger(gate, same))
    assert not gate.enter(Stranger(gate, one))
    assert gate.enter(Stranger(gate, other))
    gate.leave(first)
    gate.leave(first)
    assert gate.enter(Stranger(gate, same))
    assert not gate.enter(Stranger(gate, same))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1"])
def test_loopback_is_limited_only_if_asked_for(host: str) -> None:
    gate = admission(max_half_open_per_source=1)
    assert all(gate.enter(Stranger(gate, host)) for _ in range(5))
    gate = admission(max_half_open_per_source=1, limit_loopback=True)
    assert gate.enter(Stranger(gate, host))
    assert not gate.enter(Stranger(gate, host))


def test_a_network_that_is_not_the_internet_knows_no_sources() -> None:
    gate = admission(max_half_open_per_source=1)
    assert all(gate.enter(Stranger(gate, "a name in memory")) for _ in range(5))


@given(steps=st.lists(st.tuples(st.sampled_from("epl"), st.integers(0, 30)), max_size=80))
def test_the_books_always_balance(steps: list[tuple[str, int]]) -> None:
    gate = admission(max_half_open=8, max_half_open_per_source=3)
    known: list[Stranger] = []
    inside: set[Stranger] = set()
    for step, number in steps:
        if step == "e":
            stranger = Stranger(gate, f"192.0.2.{number % 4}")
            if gate.enter(stranger):
                known.append(stranger)
                inside.add(stranger)
        elif known:
            stranger = known[number % len(known)]
            if step == "p":
                gate.prove(stranger)
            else:
                gate.leave(stranger)
                inside.discard(stranger)
        inside -= {stranger for stranger in known if stranger.dropped}
        assert len(gate) == len(inside) <= 8
    for stranger in known:
        gate.leave(stranger)
    assert len(gate) == 0
    assert gate._sources == {}


async def test_a_member_gets_in_while_strangers_fill_the_door() -> None:
    async with Nodes(max_half_open=32) as nodes:
        listener = await nodes.listen()
        dialer = await nodes.start()
        strangers = [await asyncio.open_connection(*address_of(listener)) for _ in range(100)]
        await until(lambda: listener.stats().handshakes_dropped >= 68)
        assert listener.stats().half_open <= 32
        for _ in range(10):
            session = await dialer.connect(*address_of(listener), timeout=1)
            assert session.state == "open"
            await session.close()
        for _, writer in strangers:
            writer.close()
        await until(lambda: listener.stats().half_open == 0)
