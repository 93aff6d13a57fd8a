"""Which first messages a listener answers: recorded ones, and those of many dialers at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from helpers.handshakes import FIRST, SECOND, Raw
from helpers.nodes import (
    Nodes,
    address_of,
    in_virtual_time,
    live,
    memory_nodes,
    until,
)
from helpers.relay import Direction, Relay
from seigr_toolset_transmissions.errors import (
    STTAuthenticationError,
    STTConnectError,
    STTHandshakeError,
)
from seigr_toolset_transmissions.node import dialing
from seigr_toolset_transmissions.protocol.hello import Hello
from seigr_toolset_transmissions.sessions import handshaking
from seigr_toolset_transmissions.sessions.handshaking import FirstMessages

if TYPE_CHECKING:
    from seigr_toolset_transmissions import STTNode


ME, SOMEBODY_ELSE = b"m" * 32, b"e" * 32


class Clock:
    """The wall clock of these tests, in milliseconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000_000
        monkeypatch.setattr(handshaking, "wall_clock", lambda: self.now)


def first_messages(limit: int = 100) -> FirstMessages:
    memory = FirstMessages(limit)
    memory.begin(ME)
    return memory


def is_answered(memory: FirstMessages, key: int, hello: Hello | None = None) -> bool:
    try:
        memory.check(bytes([key]) * FIRST, hello or Hello(1, 1))
    except STTAuthenticationError:
        return False
    return True


def test_a_bounded_number_of_first_messages_is_remembered_by_key() -> None:
    memory = first_messages(3)
    assert [is_answered(memory, key) for key in (0, 1, 2)] == [True] * 3
    assert [is_answered(memory, key) for key in (0, 1, 2)] == [False] * 3
    with pytest.raises(STTAuthenticationError, match="replayed"):
        memory.check(bytes(32) + b"other" * 10, Hello(1, 1))  # the same key
    assert is_answered(memory, 3)  # drives the oldest out
    assert is_answered(memory, 0)  # it does not say when it was written
    assert not is_answered(memory, 3)


def test_a_first_message_is_answered_by_its_recipient_or_by_any_node_if_it_names_none() -> None:
    memory = first_messages()
    assert is_answered(memory, 1, Hello(1, 1))
    assert is_answered(memory, 2, Hello(1, 1).meant_for(ME))
    with pytest.raises(STTAuthenticationError, match="expects another node"):
        memory.check(bytes(FIRST), Hello(1, 1).meant_for(SOMEBODY_ELSE))
    assert is_answered(memory, 0, Hello(1, 1).meant_for(ME))  # what was refused is not remembered


def test_a_first_message_from_before_the_start_is_not_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    memory = first_messages()
    with pytest.raises(STTAuthenticationError, match="before this node's start"):
        memory.check(bytes(FIRST), Hello(1, 1, clock.now - 1))
    assert is_answered(memory, 1, Hello(1, 1, clock.now))
    assert is_answered(memory, 2, Hello(1, 1, clock.now + 10**9))  # its clock is fast
    clock.now += 5000
    memory.begin(ME)
    assert not is_answered(memory, 3, Hello(1, 1, clock.now - 1))
    assert not is_answered(memory, 1, Hello(1, 1, clock.now))


def test_a_forgotten_first_message_is_recognised_by_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    memory = first_messages(2)
    hellos = []
    for key in range(3):
        clock.now += 1000
        hellos.append(Hello(1, 1, clock.now))
        assert is_answered(memory, key, hellos[-1])
    assert [is_answered(memory, key, hello) for key, hello in enumerate(hellos)] == [False] * 3
    # A fast clock of one dialer does not shut others out.
    assert is_answered(memory, 4, Hello(1, 1, clock.now + 10**9))
    for key in (5, 6):
        clock.now += 1000
        assert is_answered(memory, key, Hello(1, 1, clock.now))


@pytest.mark.parametrize("named", [False, True])
async def test_a_recorded_first_message_is_not_answered_by_its_recipient_after_a_restart(
    named: bool,
) -> None:
    async with Nodes() as nodes, Relay(("", 0)) as relay:
        listener, other = await nodes.listen("bob"), await nodes.listen("carol")
        relay.target = address_of(listener)
        dialer = await nodes.start()
        await dialer.connect(*relay.address, expect=listener.node_id if named else None)
        first = bytes(relay.links[0].recorded[Direction.OUT][:FIRST])

        async def answer(node: STTNode) -> int:
            raw = await Raw.to(address_of(node))
            raw.send(first)
            raw.finish()
            return len(await raw.answer())

        assert await answer(listener) == 0
        await listener.stop()
        await listener.start(server_mode=True)
        assert await answer(listener) == 0
        await listener.stop()
        assert await answer(await nodes.listen("bob")) == 0  # as if it was another process
        # A dialer that names no recipient may be answered by any other node, once.
        assert [await answer(other), await answer(other)] == [0 if named else SECOND, 0]


@pytest.mark.parametrize("minutes", [-1e9, -1, 1, 1e6])
@in_virtual_time
async def test_a_wrong_clock_does_not_lock_anyone_out(
    minutes: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = handshaking.wall_clock
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        monkeypatch.setattr(dialing, "wall_clock", lambda: max(0, right() + int(minutes * 60_000)))
        began = asyncio.get_running_loop().time()
        for _ in range(2):
            session = await pair.dialer.connect(*address_of(pair.listener))
            assert session.state == "open"
        live(pair.near).cut("a cable is pulled")
        await pair.dialer.events.wait_for("session_resumed", timeout=5)
        assert asyncio.get_running_loop().time() - began < 3


@in_virtual_time
async def test_members_that_dial_all_at_once_get_in_though_some_are_dropped_at_first() -> None:
    async with memory_nodes(max_half_open=16, max_sessions_per_peer=64) as nodes:
        listener = await nodes.listen()
        dialer = await nodes.start("alice")
        dials = (dialer.connect(*address_of(listener)) for _ in range(60))
        results = await asyncio.gather(*dials)
        assert {session.state for session in results} == {"open"}
        assert listener.stats().handshakes_dropped > 10


@in_virtual_time
async def test_another_shared_seed_is_reported_within_a_second_as_one_of_several_reasons() -> None:
    async with memory_nodes() as nodes:
        listener = await nodes.listen()
        dialer = await nodes.start("alice", shared=b"the seed of another group")
        began = asyncio.get_running_loop().time()
        with pytest.raises(STTHandshakeError, match=r"another shared seed.* or is overloaded"):
            await dialer.connect(*address_of(listener))
        assert asyncio.get_running_loop().time() - began < 1


@in_virtual_time
async def test_a_dial_that_waits_to_be_repeated_ends_with_its_time_and_with_its_node() -> None:
    async with memory_nodes() as nodes:
        listener = await nodes.listen()
        dialer = await nodes.start("alice", shared=b"the seed of another group")
        with pytest.raises(STTConnectError, match="in time"):
            await dialer.connect(*address_of(listener), timeout=0.001)
        connecting = asyncio.ensure_future(dialer.connect(*address_of(listener)))
        await until(lambda: listener.stats().handshakes_failed > 1)
        await dialer.stop()
        with pytest.raises(STTConnectError, match="the node is stopping"):
            await connecting
