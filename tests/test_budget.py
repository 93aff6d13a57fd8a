"""What a node holds in all: back-pressure first, then refusal, then the end of who goes on."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from helpers.nodes import EventLog, address_of, in_virtual_time, memory_nodes, until
from seigr_toolset_transmissions.budget import ByteBudget, PeerBudget
from seigr_toolset_transmissions.errors import STTConnectError, STTLimitError

if TYPE_CHECKING:
    from helpers.nodes import Nodes
    from seigr_toolset_transmissions import Session, STTNode

LIMIT = 1600
STEP = LIMIT // 16
SHARE = LIMIT // 8 // 10


class Watched:
    """A budget over numbers that the test sets: what is held in all, and by one of ten peers."""

    def __init__(self) -> None:
        self.held = 0
        self.of_peer = LIMIT
        self.sums = self.relieved = self.reopened = 0
        self.budget = ByteBudget(
            LIMIT,
            call_later=asyncio.get_running_loop().call_later,
            held=self._add_up,
            peers=lambda: 10,
            relieve=self._relieve,
            reopened=self._reopen,
        )
        self.peer = PeerBudget(self.budget, b"peer", lambda _: self.of_peer)

    def _add_up(self) -> int:
        self.sums += 1
        return self.held

    def _relieve(self) -> None:
        self.relieved += 1

    def _reopen(self) -> None:
        assert not self.budget.shut
        self.reopened += 1

    def take(self, count: int) -> bool:
        try:
            self.peer.take(count)
        except STTLimitError:
            return False
        return True


@in_virtual_time
async def test_it_is_added_up_once_for_each_step_received() -> None:
    watched = Watched()
    for _ in range(STEP * 3):
        assert watched.take(1)
    assert watched.sums == 3


@pytest.mark.parametrize(("held", "shut"), [(LIMIT // 2, False), (LIMIT // 2 + 1, True)])
@in_virtual_time
async def test_it_is_shut_above_half(held: int, shut: bool) -> None:
    watched = Watched()
    watched.held = held
    assert watched.take(STEP)
    assert watched.budget.shut is watched.peer.shut is shut
    watched.of_peer = SHARE
    assert not watched.peer.shut
    watched.of_peer += 1
    assert watched.peer.shut is shut
    watched.budget.stop()


@pytest.mark.parametrize(("held", "enough"), [(LIMIT * 7 // 8, True), (LIMIT * 7 // 8 + 1, False)])
@in_virtual_time
async def test_above_seven_eighths_nothing_more_is_taken(held: int, enough: bool) -> None:
    watched = Watched()
    watched.held = held
    assert watched.take(STEP) is enough
    assert watched.take(1) is enough
    watched.held = LIMIT * 7 // 8
    assert watched.take(1)
    watched.budget.stop()


@in_virtual_time
async def test_a_peer_may_hold_its_share_in_any_case() -> None:
    watched = Watched()
    watched.held = LIMIT
    assert not watched.take(STEP)
    watched.of_peer = SHARE - 5
    assert watched.take(5)
    assert not watched.take(6)
    watched.of_peer = SHARE
    assert not watched.take(1)
    watched.budget.stop()


@in_virtual_time
async def test_it_opens_again_soon_after_enough_was_taken() -> None:
    watched = Watched()
    watched.held = LIMIT * 7 // 8
    watched.take(STEP)
    await asyncio.sleep(1)
    assert watched.relieved == pytest.approx(20, abs=1)
    assert watched.reopened == 0
    watched.held = LIMIT // 2
    await asyncio.sleep(0.06)
    assert watched.reopened == 1
    sums = watched.sums
    await asyncio.sleep(10)
    assert watched.sums == sums  # no timer goes on
    watched.held = LIMIT * 7 // 8
    watched.take(STEP)
    assert watched.budget.shut
    watched.budget.stop()


@in_virtual_time
async def test_a_stopped_budget_has_no_timer_and_is_open() -> None:
    watched = Watched()
    watched.held = LIMIT * 7 // 8
    watched.take(STEP)
    watched.budget.stop()
    assert not watched.budget.shut
    sums = watched.sums
    await asyncio.sleep(10)
    assert watched.sums == sums
    watched.budget.stop()


# Whole nodes.

KIB = 1024
SETTINGS: dict[str, Any] = {
    "max_message_bytes": 8 * KIB,
    "receive_window_bytes": 32 * KIB,
    "send_window_bytes": 64 * KIB,
    "inbox_bytes": 8 * KIB,
    "max_sessions_per_peer": 100,
}
MESSAGE = 1000


async def several(nodes: Nodes, count: int, limit: int) -> tuple[STTNode, list[Session]]:
    """A listener with this budget, and sessions of one dialer with it."""
    config = dataclasses.replace(nodes.config, max_buffered_bytes=limit)
    hub = await nodes.listen("bob", config=config)
    dialer = await nodes.start("alice")
    return hub, [await dialer.connect(*address_of(hub)) for _ in range(count)]


async def pour(session: Session, sent: list[int]) -> None:
    """Send numbered messages for ever."""
    while True:
        await session.send(sent[0].to_bytes(8) + bytes(MESSAGE - 8))
        sent[0] += 1


@in_virtual_time
async def test_peers_that_send_more_than_is_taken_are_stopped_and_lose_nothing() -> None:
    limit = 800 * KIB
    async with memory_nodes(**SETTINGS) as nodes:
        hub, sessions = await several(nodes, 20, limit)
        log = EventLog(hub)
        await asyncio.sleep(1)
        sent = [[0] for _ in sessions]
        pouring = [
            asyncio.ensure_future(pour(session, count))
            for session, count in zip(sessions, sent, strict=True)
        ]
        await asyncio.sleep(60)
        held = hub.stats().buffered_bytes
        assert limit // 2 < held <= limit
        with pytest.raises(STTConnectError, match="takes no more sessions"):
            await nodes.made[1].connect(*address_of(hub))
        assert {session.state.value for session in sessions} == {"open"}
        for task in pouring:
            task.cancel()
        await asyncio.gather(*pouring, return_exceptions=True)
        received: dict[bytes, int] = {}
        total = sum(count for (count,) in sent)
        for _ in range(total):
            data, _ = await hub.endpoints.receive_any(timeout=5)
            received[data[:8]] = received.get(data[:8], 0) + 1
        assert sum(received.values()) == total
        assert (await nodes.made[1].connect(*address_of(hub))).state == "open"
        assert {name for name, _ in log.errors} == {"limit_reached"}  # the session refused above


@in_virtual_time
async def test_a_peer_that_fills_the_rest_all_the_same_loses_its_session() -> None:
    async with memory_nodes(**SETTINGS) as nodes:
        hub, sessions = await several(nodes, 20, 200 * KIB)  # 20 windows are 640 KiB
        log = EventLog(hub)
        pouring = [asyncio.ensure_future(pour(session, [0])) for session in sessions]
        await asyncio.sleep(60)
        assert hub.stats().buffered_bytes <= 200 * KIB
        reasons = {d["reason"] for name, d in log.errors if name == "limit_reached"}
        assert reasons == {"the node holds all that it may (max_buffered_bytes)"}
        assert 0 < len(hub.sessions) < 20
        for task in pouring:
            task.cancel()
        await asyncio.gather(*pouring, return_exceptions=True)
        # Whoever is left goes on as soon as the application takes what is there.
        survivor = next(session for session in sessions if session.state == "open")
        sending = asyncio.ensure_future(survivor.send(b"goes on"))
        while (await hub.endpoints.receive_any(timeout=5))[0] != b"goes on":
            pass
        await sending


@in_virtual_time
async def test_a_message_left_unfinished_is_not_waited_for_while_memory_is_short() -> None:
    async with memory_nodes(**SETTINGS) as nodes:
        hub, sessions = await several(nodes, 20, 800 * KIB)
        log = EventLog(hub)
        await until(lambda: len(hub.sessions) == 20)
        bad = hub.get_session(sessions[0].session_id)
        assert bad is not None
        bad.machine._parts, bad.machine._parts_since = [b"x"], asyncio.get_running_loop().time()
        pouring = [asyncio.ensure_future(pour(session, [0])) for session in sessions[1:]]
        await asyncio.sleep(29)
        assert bad.state == "open"
        await asyncio.sleep(3)
        assert bad.state == "closed"
        assert len(hub.sessions) == 19
        ((_, details), *_) = [e for e in log.errors if e[0] == "limit_reached"]
        assert details["reason"] == "a message was left unfinished while memory was short"
        for task in pouring:
            task.cancel()
        await asyncio.gather(*pouring, return_exceptions=True)
