"""Sessions without a connection: which side dials again and when, and when it gives up."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
from itertools import pairwise, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from helpers.fault_network import Direction, Fault, FaultNetwork, Kind
from helpers.nodes import EventLog, Nodes, Pair, address_of, in_virtual_time, live
from seigr_toolset_transmissions import NodeConfig
from seigr_toolset_transmissions.errors import (
    STTConnectError,
    STTRequestTimeoutError,
    STTSessionLostError,
)
from seigr_toolset_transmissions.node import accepting
from seigr_toolset_transmissions.transports.memory import MemoryNetwork
from seigr_toolset_transmissions.transports.tcp import TcpNetwork

if TYPE_CHECKING:
    from collections.abc import Iterable

    from seigr_toolset_transmissions.transports.base import Receiver, Transport

NEVER: dict[str, Any] = {"reconnect_delay": 1e6, "reconnect_delay_max": 1e6}
"""A dialer with these settings does not dial again, except on `retry_now`."""
SECOND_MESSAGE = 160
"""Bytes that a listener has sent when its part of the handshake is done."""
WELCOME_RECORD = 2 + 4 + 17 + 16
"""Bytes of the record with which a listener answers an opening."""
THIRD_MESSAGE = 224
"""Bytes that a dialer has sent when its part is."""


class Network(FaultNetwork):
    """Records when it is dialed."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        super().__init__(MemoryNetwork(), faults)
        self.dialed_at: list[float] = []
        self.dialed = asyncio.Event()

    async def dial(self, receiver: Receiver, host: str, port: int) -> Transport:
        self.dialed_at.append(asyncio.get_running_loop().time())
        self.dialed.set()
        return await super().dial(receiver, host, port)


@pytest.fixture(autouse=True)
def _longest_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each random time the longest possible, so that none is over before a test looks."""
    monkeypatch.setattr(random, "uniform", lambda _low, high: high)


async def suspend(network: Network, pair: Pair) -> list[EventLog]:
    """Cut the connection; return the logs of what comes after both sides have noticed."""
    network.cables[-1].cut(Kind.RST)
    await asyncio.sleep(0.001)
    assert pair.near.state == pair.far.state == "suspended"
    network.dialed.clear()
    return [EventLog(pair.dialer), EventLog(pair.listener)]


async def wait_after_a_cut(network: Network, pair: Pair) -> float:
    """Cut the connection, wait for the next one, and return how long it took to dial that."""
    cut_at = asyncio.get_running_loop().time()
    network.cables[-1].cut(Kind.RST)
    await pair.dialer.events.wait_for("session_resumed", timeout=60)
    return network.dialed_at[-1] - cut_at


async def assert_it_works(pair: Pair) -> None:
    """Each side can still send to the other, and be acknowledged."""
    for session, node in ((pair.near, pair.listener), (pair.far, pair.dialer)):
        await session.send(b"still there")
        await session.flush()
        assert (await node.endpoints.receive_any(timeout=1))[0] == b"still there"


@pytest.mark.parametrize("side", ["dialer", "listener"])
@in_virtual_time
async def test_a_request_without_a_reply_says_how_long_the_connection_has_been_broken(
    side: str,
) -> None:
    network = Network()
    async with Nodes(network, **NEVER) as nodes:
        pair = await nodes.pair()
        await suspend(network, pair)
        await asyncio.sleep(3)
        session = pair.near if side == "dialer" else pair.far
        with pytest.raises(STTRequestTimeoutError) as caught:
            await session.request(b"", timeout=4)
        assert str(caught.value).startswith("no reply within 4 s; the connection has been broken")
        assert float(str(caught.value).split()[-2]) == pytest.approx(7, abs=0.01)
        pair.dialer.retry_now(pair.listener.node_id)
        await pair.dialer.events.wait_for("session_resumed", timeout=1)
        with pytest.raises(STTRequestTimeoutError, match=r"^no reply within 0 s$"):
            await session.request(b"", timeout=0)


# When the dialer dials.


@in_virtual_time
async def test_reconnects_back_off_while_no_one_answers() -> None:
    network = Network()
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        assert pair.listener._life._listener is not None
        await pair.listener._life._listener.close()
        await suspend(network, pair)
        await asyncio.sleep(100)
        times = network.dialed_at
        waits = [later - earlier for earlier, later in pairwise(times)]
        expected = [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30]
        assert waits == [pytest.approx(wait, abs=0.002) for wait in expected]


@in_virtual_time
async def test_idle_connections_that_do_not_last_count_as_attempts_until_one_has_lasted() -> None:
    network = Network()
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        waits = []
        for lasted in (0.1, 0.1, 0.1, 0.49, 0.51, 0.1, 0.1):
            await asyncio.sleep(lasted)
            waits.append(await wait_after_a_cut(network, pair))
        expected = [0.2, 0.4, 0.8, 1.6, 0.2, 0.4, 0.8]
        assert waits == [pytest.approx(wait, abs=0.002) for wait in expected]


@pytest.mark.parametrize("sender", ["dialer", "listener"])
@in_virtual_time
async def test_a_connection_that_brought_anything_restarts_the_back_off(sender: str) -> None:
    network = Network()
    async with Nodes(network, ack_delay=0.001) as nodes:
        pair = await nodes.pair()
        session = pair.near if sender == "dialer" else pair.far
        waits = []
        for talks in (False, False, True, True, False, False, True):
            if talks:
                session.send_nowait(b"across")
            await asyncio.sleep(0.01)
            waits.append(await wait_after_a_cut(network, pair))
        expected = [0.2, 0.4, 0.2, 0.2, 0.4, 0.8, 0.2]
        assert waits == [pytest.approx(wait, abs=0.002) for wait in expected]


@in_virtual_time
async def test_sending_without_acknowledgement_is_not_progress() -> None:
    """The peer accepts each connection, says WELCOME and ends it: it is dialed less and less."""
    welcome_only = [Fault(Direction.IN, SECOND_MESSAGE + WELCOME_RECORD, Kind.RST)] * 50
    network = Network([Fault(Direction.OUT, 1 << 40, Kind.RST), *welcome_only])
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        network.cables[-1].hold()
        pair.near.send_nowait(b"in vain")
        await suspend(network, pair)
        await asyncio.sleep(100)
        waits = [later - earlier for earlier, later in pairwise(network.dialed_at[1:])]
        expected = [0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30]
        assert waits == [pytest.approx(wait, abs=0.05) for wait in expected]
        network.faults = iter(())


@pytest.mark.parametrize(("life", "share"), [(1, 0.8), (5, 0.95)])
@pytest.mark.parametrize("idle", [False, True], ids=["busy", "idle"])
@in_virtual_time
async def test_a_link_that_keeps_being_cut_is_connected_most_of_the_time(
    life: float, share: float, idle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", random.Random(1).uniform)  # noqa: S311 - no secret
    network = Network()
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        connected = sent = 0
        for step in range(6000):  # each of 10 ms
            if step % int(life * 100) == 0:
                network.cables[-1].cut(Kind.RST)
            if not idle and step % 10 == 0:
                pair.near.send_nowait(b"%d" % sent)
                sent += 1
            await asyncio.sleep(0.01)
            connected += pair.near.state == pair.far.state == "open"
        assert connected / 6000 >= share
        received = [(await pair.listener.endpoints.receive_any())[0] for _ in range(sent)]
        assert received == [b"%d" % number for number in range(sent)]


@in_virtual_time
async def test_peers_that_accept_and_drop_at_once_are_not_stormed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the end each is dialed every 15 s on average: a thousand of them, 67 times a second."""
    monkeypatch.setattr(random, "uniform", random.Random(1).uniform)  # noqa: S311 - no secret
    peers = 20
    network = Network()
    async with Nodes(network, max_sessions_per_peer=peers, resume_window=1e6) as nodes:
        pair = await nodes.pair()
        for _ in range(peers - 1):
            await nodes.connect(pair.dialer, pair.listener)
        network.faults = repeat(Fault(Direction.IN, SECOND_MESSAGE + WELCOME_RECORD, Kind.RST))
        for cable in network.cables:
            cable.cut(Kind.RST)
        await asyncio.sleep(120)
        before = len(network.cables)
        await asyncio.sleep(150)
        assert 5 * peers <= len(network.cables) - before <= 15 * peers
        network.faults = iter(())


@in_virtual_time
async def test_retry_now_dials_this_peer_at_once_and_no_other() -> None:
    network = Network()
    async with Nodes(network, **NEVER) as nodes:
        bob = await nodes.pair()
        carol = await nodes.connect(bob.dialer, await nodes.listen("carol"))
        for cable in network.cables:
            cable.cut(Kind.RST)
        await asyncio.sleep(1)
        assert len(network.cables) == 2
        bob.dialer.retry_now(bob.listener.node_id)
        bob.listener.retry_now(bob.dialer.node_id)  # it does not dial: nothing to hurry
        await asyncio.sleep(0.001)
        assert bob.near.state == bob.far.state == "open"
        assert carol.near.state == "suspended"
        await assert_it_works(bob)


@pytest.mark.parametrize("how", ["close", "stop"])
@in_virtual_time
async def test_delivering_before_an_end_does_not_wait_for_the_back_off(
    how: str,
) -> None:
    network = Network()
    async with Nodes(network, **NEVER) as nodes:
        pair = await nodes.pair()
        await suspend(network, pair)
        await pair.near.send(b"last words")
        if how == "close":
            await pair.near.close()
        else:
            assert await pair.dialer.stop() == ()
        assert (await pair.listener.endpoints.receive_any(timeout=1))[0] == b"last words"


# Attempts that fail.


@pytest.mark.parametrize(
    "fault",
    [
        Fault(Direction.OUT, 0, Kind.RST),
        Fault(Direction.IN, SECOND_MESSAGE, Kind.RST),
        Fault(Direction.IN, SECOND_MESSAGE, Kind.FIN),
        Fault(Direction.OUT, THIRD_MESSAGE - 1, Kind.FIN),
        Fault(Direction.OUT, THIRD_MESSAGE, Kind.FIN),
        Fault(Direction.OUT, THIRD_MESSAGE, Kind.RST),
        Fault(Direction.IN, SECOND_MESSAGE + 1, Kind.RST),
        Fault(Direction.OUT, 0, Kind.BLACK_HOLE),
        Fault(Direction.IN, SECOND_MESSAGE, Kind.BLACK_HOLE),
        Fault(Direction.OUT, THIRD_MESSAGE, Kind.BLACK_HOLE),
    ],
    ids=lambda fault: f"{fault.kind.name} {fault.direction.name} {fault.offset}",
)
@in_virtual_time
async def test_an_attempt_that_fails_anywhere_is_followed_by_another(fault: Fault) -> None:
    no_fault = Fault(Direction.OUT, 1 << 40, Kind.RST)
    network = Network([no_fault, fault])
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        logs = await suspend(network, pair)
        for session in (pair.near, pair.far):
            await session.send(b"waits")
        await pair.dialer.events.wait_for("session_resumed", timeout=12)
        await asyncio.gather(pair.near.flush(), pair.far.flush())
        assert len(network.cables) == 3
        for node in (pair.dialer, pair.listener):
            assert (await node.endpoints.receive_any(timeout=1))[0] == b"waits"
        await assert_it_works(pair)
        told = [[name for name in log.names if name != "error"] for log in logs]
        assert told[0] == ["session_resumed"]
        # The listener may have taken the first attempt for a success.
        again = ["session_suspended", "session_resumed"]
        assert told[1] in (["session_resumed"], ["session_resumed", *again])
        assert {error_type for error_type, _ in logs[1].errors} <= {"handshake_failed"}


@pytest.mark.parametrize("turns", range(16))
@in_virtual_time
async def test_a_resume_in_the_very_turn_in_which_the_time_ends_counts(turns: int) -> None:
    """A program that was blocked finds the answer and the end of time in one turn of its loop."""
    network = Network()
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        (log, _) = await suspend(network, pair)
        await network.dialed.wait()
        for _ in range(turns):  # somewhere between the dial and the resumed session
            await asyncio.sleep(0)
        loop: Any = asyncio.get_running_loop()
        loop._virtual.now += nodes.config.connect_timeout + 1
        await asyncio.sleep(300)
        assert log.names == ["session_resumed"]
        await assert_it_works(pair)


# When it is over.


@in_virtual_time
async def test_both_sides_give_a_session_up_when_its_time_is_over() -> None:
    network = Network()
    async with Nodes(network, **NEVER, resume_window=50) as nodes:
        pair = await nodes.pair()
        loop = asyncio.get_running_loop()
        before = loop.time()
        for session in (pair.near, pair.far):
            await session.send(b"a")
            await session.flush()
        logs = await suspend(network, pair)
        for session in (pair.near, pair.far):
            await session.send(b"b")
        await asyncio.sleep(49)
        assert pair.near.state == pair.far.state == "suspended"
        await asyncio.gather(pair.near.wait_closed(), pair.far.wait_closed())
        assert loop.time() - before == pytest.approx(50, abs=0.1)
        await asyncio.sleep(0)
        for log in logs:
            assert log.names == ["error", "session_closed", "peer_disconnected"]
            ((error_type, details),) = log.errors
            assert error_type == "session_lost"
            assert "no connection for 50 s" in details["reason"]
            assert (details["unsent"], details["unknown"]) == ((b"b",), ())


@in_virtual_time
async def test_a_dialer_that_comes_back_too_late_learns_how_far_it_had_come() -> None:
    network = Network()
    async with Nodes(network, **NEVER) as nodes:
        listener = await nodes.listen(config=NodeConfig(resume_window=50))
        pair = await nodes.connect(await nodes.start(), listener)
        await pair.near.send(b"arrives")
        await asyncio.sleep(0.001)
        await suspend(network, pair)  # before it is acknowledged
        assert pair.near.stats.unacknowledged_bytes > 0
        await pair.near.send(b"does not arrive")
        await asyncio.sleep(60)
        assert pair.far.state == "closed"
        pair.dialer.retry_now(listener.node_id)
        await pair.near.wait_closed()
        assert pair.near.error is not None
        assert (await listener.endpoints.receive_any(timeout=1))[0] == b"arrives"
        assert pair.near.error.unsent == (b"does not arrive",)
        assert pair.near.error.unknown == ()


@in_virtual_time
async def test_a_peer_that_was_restarted_is_noticed_by_the_first_dial() -> None:
    network = Network()
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        network.cables[0].hold()
        await pair.near.send(b"to the old process")
        host, port = address_of(pair.listener)
        await pair.listener.stop(drain=0)
        again = nodes.make("bob", host=host, port=port)
        await again.start(server_mode=True)
        log = EventLog(pair.dialer)
        network.cables[0].cut(Kind.RST)
        await pair.near.wait_closed()
        assert asyncio.get_running_loop().time() < 1
        await log.until("peer_disconnected")
        assert log.names == ["session_suspended", "error", "session_closed", "peer_disconnected"]
        ((_, details),) = log.errors
        assert "the peer was restarted" in details["reason"]
        assert details["unknown"] == (b"to the old process",)
        assert details["unsent"] == ()
        assert again.sessions == []


@in_virtual_time
async def test_another_node_at_the_address_is_reported_once_and_long_before_the_end() -> None:
    network = Network()
    async with Nodes(network, resume_window=30.0) as nodes:
        pair = await nodes.pair()
        host, port = address_of(pair.listener)
        log = EventLog(pair.dialer)
        network.cables[0].cut(Kind.RST)
        await pair.listener.stop(drain=0)
        await nodes.make("carol", host=host, port=port).start(server_mode=True)
        await log.until("error")
        assert asyncio.get_running_loop().time() < 1
        assert pair.near.state == "suspended"
        await pair.near.wait_closed()
        await log.until("peer_disconnected")
        (_, first), (last_type, _) = log.errors
        assert log.errors[0][0] == "connect_failed"
        assert first["session_id"] == pair.near.session_id
        assert first["peer_node_id"] == pair.listener.node_id
        assert "does not answer as node" in first["reason"]
        assert last_type == "session_lost"


@pytest.mark.parametrize("turns", range(24))
@in_virtual_time
async def test_a_session_that_ends_while_it_is_dialed_leaves_nothing(turns: int) -> None:
    network = Network()
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        await suspend(network, pair)
        await pair.near.send(b"x")
        await network.dialed.wait()
        for _ in range(turns):
            await asyncio.sleep(0)
        live(pair.near).lose("for this test")
        await asyncio.sleep(300)
        assert len(network.cables) == 2
        assert pair.far.state == "closed"
        for node in (pair.dialer, pair.listener):
            assert node.sessions == []
            assert node.stats().half_open == 0


@in_virtual_time
async def test_beyond_the_limit_of_suspended_sessions_the_oldest_is_given_up_on_both_sides() -> (
    None
):
    network = Network()
    async with Nodes(network, **NEVER, max_suspended=2) as nodes:
        first = await nodes.pair()
        pairs = [first, *[await nodes.connect(first.dialer, first.listener) for _ in range(3)]]
        for pair, cable in zip(pairs, network.cables, strict=True):
            await pair.near.send(b"x")
            await pair.near.flush()
            await pair.near.send(b"y")
            cable.cut(Kind.RST)
            await asyncio.sleep(0.001)
        for pair in pairs[:2]:
            for session in (pair.near, pair.far):
                assert isinstance(session.error, STTSessionLostError)
                assert "more than 2 sessions have no connection" in str(session.error)
        for pair in pairs[2:]:
            assert pair.near.state == pair.far.state == "suspended"


@in_virtual_time
async def test_a_hiccup_that_cuts_every_session_loses_none_by_default() -> None:
    count = 150
    network = Network()
    async with Nodes(network, max_sessions=count, max_sessions_per_peer=count) as nodes:
        first = await nodes.pair()
        for _ in range(count - 1):
            await first.dialer.connect(*address_of(first.listener))
        for cable in network.cables:
            cable.cut(Kind.RST)
        await asyncio.sleep(0.01)
        assert first.listener.stats().suspended == first.dialer.stats().suspended == count
        await asyncio.sleep(10)
        for node in (first.listener, first.dialer):
            stats = node.stats()
            assert (stats.sessions, stats.suspended, stats.sessions_lost) == (count, 0, 0)


@in_virtual_time
async def test_sessions_that_were_never_used_count_as_suspended_and_are_given_up_first() -> None:
    never_used = Fault(Direction.OUT, THIRD_MESSAGE, Kind.FIN)
    network = Network()
    async with Nodes(network, **NEVER, max_suspended=3) as nodes:
        pair = await nodes.pair()
        others = [await nodes.connect(pair.dialer, pair.listener) for _ in range(3)]
        registry = pair.listener._registry
        unused = []
        for _ in range(4):
            network.faults = iter([never_used])
            with pytest.raises(STTConnectError):
                await pair.dialer.connect(*address_of(pair.listener))
            await asyncio.sleep(0.001)
            unused.append(list(registry.unconfirmed)[-1])
        assert list(registry.unconfirmed) == unused[1:]  # the oldest was given up
        assert pair.listener.stats().suspended == 3
        assert pair.listener.stats().sessions == 4 + 3
        for used, cable in enumerate(network.cables[:4]):
            cable.cut(Kind.RST)
            await asyncio.sleep(0.001)
            assert list(registry.unconfirmed) == unused[min(2 + used, 4) :]
            assert pair.listener.stats().suspended == 3
        assert pair.far.state == "closed"
        assert {other.far.state for other in others} == {"suspended"}


# What both sides report.


@in_virtual_time
async def test_a_listener_that_has_not_noticed_the_cut_reports_it_all_the_same() -> None:
    network = Network()
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        logs = [EventLog(pair.dialer), EventLog(pair.listener)]
        network.cables[0].hold()
        live(pair.near).cut("for this test")
        await pair.dialer.events.wait_for("session_resumed", timeout=1)
        await assert_it_works(pair)
        for log in logs:
            assert log.names == ["session_suspended", "session_resumed"]
        network.cables[0].release()
        await asyncio.sleep(100)
        for log in logs:
            assert log.names == ["session_suspended", "session_resumed"]


# A thousand times.


def held() -> tuple[int, int, int]:
    """Blocks of memory, tasks and file descriptors of this process."""
    gc.collect()
    return (
        sys.getallocatedblocks(),
        len(asyncio.all_tasks()),
        len(list(Path("/proc/self/fd").iterdir())),
    )


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts file descriptors in /proc")
def test_a_thousand_reconnects_over_tcp_leave_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A listener remembers first messages, up to a bound that must be reached here.
    monkeypatch.setattr(accepting, "_FIRST_MESSAGES", 100)

    async def main() -> None:
        network = FaultNetwork(TcpNetwork())
        delays = ("reconnect_delay", "reconnect_delay_max", "ack_delay")
        async with Nodes(network, **dict.fromkeys(delays, 0.001)) as nodes:
            pair = await nodes.pair()
            ends = ((pair.near, pair.listener), (pair.far, pair.dialer))
            counts = []
            for number in range(1001):
                network.cables[-1].cut((Kind.RST, Kind.FIN)[number // 2 % 2])
                network.cables.clear()
                session, node = ends[number % 2]
                await session.send(b"%d" % number)
                await session.flush()
                assert (await node.endpoints.receive_any(timeout=9))[0] == b"%d" % number
                if number % 200 == 0:
                    await asyncio.sleep(0.05)  # what has ended is cleared away
                    counts.append(held())
            assert pair.near.stats.resumes == pair.far.stats.resumes == 1001
        blocks, tasks, descriptors = zip(*counts[1:], strict=True)
        assert max(blocks) - min(blocks) < 800  # less than one for each reconnect
        assert max(tasks) == min(tasks)
        assert max(descriptors) == min(descriptors)

    asyncio.run(main())
