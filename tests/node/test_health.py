"""The health of peers: verdicts, figures, events, and what probing them costs."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from itertools import pairwise
from statistics import mean
from typing import TYPE_CHECKING, Any, Self, cast

import pytest

from helpers.clock import VirtualTimeLoop
from helpers.fault_network import FaultNetwork, Kind
from helpers.nodes import Nodes, Pair, address_of, in_virtual_time, live, memory_nodes, until
from seigr_toolset_transmissions import Health, HealthMonitor, HealthStatus, SessionState, STTNode
from seigr_toolset_transmissions.errors import STTConfigError, STTEventError
from seigr_toolset_transmissions.node import health as module
from seigr_toolset_transmissions.transports.memory import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HEALTHY, SUSPECT, UNHEALTHY, UNKNOWN = HealthStatus
NOTHING = Health(UNKNOWN, None, None, None)


class Verdicts:
    """Records each change that a node's emitter tells of, and when, from now on."""

    def __init__(self, node: STTNode) -> None:
        self.told: list[tuple[int, bytes, HealthStatus]] = []
        self._began = asyncio.get_running_loop().time()
        node.events.register("health_changed", self._note)

    async def _note(self, peer_node_id: bytes, status: HealthStatus) -> None:
        seconds = round(asyncio.get_running_loop().time() - self._began)
        self.told.append((seconds, peer_node_id, status))

    @property
    def timeline(self) -> list[tuple[int, HealthStatus]]:
        return [(seconds, status) for seconds, _, status in self.told]


class Link:
    """Alice, who watches Bob over a cable that the test can hold."""

    def __init__(self) -> None:
        self.network = FaultNetwork(MemoryNetwork())
        self.nodes = Nodes(self.network, ping_interval=1000, ping_timeout=1000, write_timeout=1000)

    async def __aenter__(self) -> Self:
        await self.nodes.__aenter__()
        self.pair: Pair = await self.nodes.pair()
        self.alice: STTNode = self.pair.dialer
        self.bob: bytes = self.pair.listener.node_id
        self.verdicts = Verdicts(self.alice)
        return self

    async def __aexit__(self, *ended: Any) -> None:  # noqa: PYI036
        for cable in self.network.cables:
            if cable._held is not None:
                cable.release()
        await self.nodes.__aexit__(*ended)

    def hold(self) -> None:
        self.network.cables[-1].hold()

    def release(self) -> None:
        self.network.cables[-1].release()


class SlowHandler:
    """Handles what a node's emitter tells of health, but ends no call until the test says so."""

    def __init__(self, node: STTNode) -> None:
        self.told: list[HealthStatus] = []
        self.go_on = asyncio.Event()
        node.events.register("health_changed", self._note)

    async def _note(self, peer_node_id: bytes, status: HealthStatus) -> None:
        self.told.append(status)
        await self.go_on.wait()


# ------------------------------------------------------------------------------ verdicts


@in_virtual_time
async def test_a_peer_that_answers_is_healthy_from_the_first_answer_on() -> None:
    async with Link() as link, HealthMonitor(link.alice) as monitor:
        assert monitor.health(link.bob) == NOTHING
        await asyncio.sleep(100)
        assert link.verdicts.told == [(0, link.bob, HEALTHY)]
        assert monitor.status(link.bob) is HEALTHY
        assert monitor.status(link.bob) == "healthy"
        assert monitor.health(link.bob) == Health(HEALTHY, 0.0, 0.0, 0.0)


@in_virtual_time
async def test_a_black_hole_is_suspect_then_unhealthy_and_healthy_again_with_the_next_answer() -> (
    None
):
    async with Link() as link, HealthMonitor(link.alice) as monitor:
        await asyncio.sleep(1)
        link.hold()
        await asyncio.sleep(98)
        assert link.verdicts.timeline == [(0, HEALTHY), (7, SUSPECT), (17, UNHEALTHY)]
        assert monitor.health(link.bob).loss == 19 / 20
        link.release()
        await asyncio.sleep(10)
        assert link.verdicts.timeline[3:] == [(100, HEALTHY)]
        assert live(link.pair.near).stats.resumes == 0


@in_virtual_time
async def test_the_thresholds_say_how_many_lost_probes_in_a_row_it_takes() -> None:
    async with (
        Link() as link,
        HealthMonitor(link.alice, interval=1, timeout=0.5, suspect_after=2, unhealthy_after=4),
    ):
        await asyncio.sleep(0.6)
        for probes in (1, 2, 1, 4):
            link.hold()
            await asyncio.sleep(probes)
            link.release()
            await asyncio.sleep(1)
        statuses = [status for _, _, status in link.verdicts.told]
        assert statuses == [HEALTHY, SUSPECT, HEALTHY, SUSPECT, UNHEALTHY, HEALTHY]


@in_virtual_time
async def test_a_peer_that_never_answered_is_unknown_until_it_is_suspect() -> None:
    async with Link() as link:
        link.hold()
        async with HealthMonitor(link.alice, suspect_after=2) as monitor:
            await asyncio.sleep(6)
            assert monitor.health(link.bob) == Health(UNKNOWN, None, None, 1.0)
            await asyncio.sleep(5)
            assert link.verdicts.timeline == [(7, SUSPECT)]


@in_virtual_time
async def test_an_answer_that_comes_too_late_is_not_taken_for_that_of_the_next_probe() -> None:
    async with Link() as link, HealthMonitor(link.alice) as monitor:
        await asyncio.sleep(4)
        for seconds in (1.5, 3, 6.5):  # from the probe on: the last one lasts into the next probe
            link.hold()
            await asyncio.sleep(1 + seconds)
            link.release()
            await asyncio.sleep(-(1 + seconds) % 5)
        assert monitor.health(link.bob).loss == 3 / 5
        assert monitor.health(link.bob).rtt == pytest.approx(1.5 / 8)
        assert link.verdicts.timeline == [(0, HEALTHY), (12, SUSPECT), (22, UNHEALTHY)]
        await asyncio.sleep(5)
        assert link.verdicts.timeline[3:] == [(25, HEALTHY)]


@in_virtual_time
async def test_a_link_slower_than_the_timeout_is_unhealthy_though_it_carries_everything() -> None:
    async with Link() as link, HealthMonitor(link.alice):
        await asyncio.sleep(4)
        for _ in range(4):
            link.hold()
            await asyncio.sleep(4)
            link.release()
            await asyncio.sleep(1)
            assert link.pair.near.state is SessionState.OPEN
        assert link.verdicts.timeline == [(0, HEALTHY), (7, SUSPECT), (17, UNHEALTHY)]


@in_virtual_time
async def test_a_suspended_session_loses_its_probes_at_once_until_it_is_resumed() -> None:
    async with Link() as link, HealthMonitor(link.alice) as monitor:
        await asyncio.sleep(4)
        near = live(link.pair.near)
        host, port = address_of(link.pair.listener)
        near.dial_address = (host, port + 1)  # where nobody listens
        link.network.cables[-1].cut(Kind.RST)
        await until(lambda: link.pair.near.state is SessionState.SUSPENDED)
        await asyncio.sleep(12)
        assert link.verdicts.timeline == [(0, HEALTHY), (5, SUSPECT), (15, UNHEALTHY)]
        near.dial_address = (host, port)
        link.alice.retry_now(link.bob)
        await asyncio.sleep(5)
        assert link.pair.near.stats.resumes == 1
        assert link.verdicts.timeline[3:] == [(20, HEALTHY)]
        assert monitor.health(link.bob).loss == 3 / 5


@in_virtual_time
async def test_a_probe_whose_connection_breaks_is_lost_although_the_session_goes_on() -> None:
    async with Link() as link, HealthMonitor(link.alice):
        await asyncio.sleep(4)
        link.hold()
        await asyncio.sleep(1.5)  # the probe is under way
        link.network.cables[-1].cut(Kind.RST)
        await until(lambda: link.pair.near.stats.resumes)
        await asyncio.sleep(10)
        assert link.verdicts.timeline == [(0, HEALTHY), (7, SUSPECT), (10, HEALTHY)]


# ------------------------------------------------------------------------------- figures


@in_virtual_time
async def test_round_trips_are_smoothed_as_in_rfc_6298() -> None:
    async with Link() as link, HealthMonitor(link.alice) as monitor:
        await asyncio.sleep(4)
        link.hold()
        await asyncio.sleep(1.8)
        link.release()
        await asyncio.sleep(0)
        await until(lambda: monitor.health(link.bob).rtt)
        figures = monitor.health(link.bob)
        assert figures.rtt == pytest.approx(0.8 / 8, abs=0.01)
        assert figures.rtt_deviation == pytest.approx(0.8 / 4, abs=0.01)


@in_virtual_time
async def test_the_first_round_trip_counts_as_it_is() -> None:
    async with Link() as link:
        link.hold()
        async with HealthMonitor(link.alice) as monitor:
            await asyncio.sleep(1)
            link.release()
            await asyncio.sleep(1)
            figures = monitor.health(link.bob)
            assert (figures.rtt, figures.rtt_deviation) == pytest.approx((1, 0.5))


@in_virtual_time
async def test_the_loss_is_that_of_the_last_twenty_probes() -> None:
    async with Link() as link, HealthMonitor(link.alice) as monitor:
        await asyncio.sleep(1)
        link.hold()
        await asyncio.sleep(5 * 5)
        link.release()
        seen = []
        for _ in range(21):
            await asyncio.sleep(5)
            seen.append(monitor.health(link.bob).loss)
        assert seen[0] == 5 / 7
        assert seen[13:] == [count / 20 for count in (5, 5, 4, 3, 2, 1, 0, 0)]


# -------------------------------------------------------------------- peers come and go


@in_virtual_time
async def test_a_peer_that_connects_is_probed_at_once_and_one_that_leaves_is_forgotten() -> None:
    async with memory_nodes() as nodes:
        bob, alice = await nodes.listen(), await nodes.start()
        verdicts = Verdicts(bob)
        async with HealthMonitor(bob) as monitor:
            for _ in range(3):
                await asyncio.sleep(100)
                pair = await nodes.connect(alice, bob)
                await asyncio.sleep(1)
                assert monitor.status(alice.node_id) is HEALTHY
                await pair.near.close()
                assert monitor.health(alice.node_id) == NOTHING
                assert monitor._watched == {}
            await asyncio.sleep(20)
            assert monitor._agenda == []
            assert monitor._timer is None
        assert verdicts.timeline == [(100, HEALTHY), (201, HEALTHY), (302, HEALTHY)]


@in_virtual_time
async def test_a_probe_says_nothing_if_its_session_ends_and_the_peer_has_another_one() -> None:
    async with Link() as link, HealthMonitor(link.alice) as monitor:
        await asyncio.sleep(4)
        link.hold()
        await asyncio.sleep(1.5)  # the probe is under way
        first = link.pair.near
        await link.nodes.connect(link.alice, link.pair.listener)
        first.abort()
        await asyncio.sleep(10)
        assert link.verdicts.timeline == [(0, HEALTHY)]
        assert monitor.health(link.bob).loss == 0


@in_virtual_time
async def test_a_peer_with_several_sessions_is_probed_over_the_one_that_carries_messages() -> None:
    async with Link() as link, HealthMonitor(link.alice):
        link.hold()
        await link.nodes.connect(link.alice, link.pair.listener)
        await asyncio.sleep(30)
        assert [status for _, _, status in link.verdicts.told][-1] is HEALTHY
        link.hold()
        await asyncio.sleep(30)
        assert [status for _, _, status in link.verdicts.told][-2:] == [SUSPECT, UNHEALTHY]


@in_virtual_time
async def test_the_library_s_own_pings_neither_count_nor_confuse() -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network, ping_interval=0.5) as nodes:
        pair = await nodes.pair()
        verdicts = Verdicts(pair.dialer)
        async with HealthMonitor(pair.dialer) as monitor:
            await asyncio.sleep(4.9)
            network.cables[0].hold()
            pair.near.ping()
            assert live(pair.near).machine.ping_time is not None
            await asyncio.sleep(1)  # the probe joins that PING
            network.cables[0].release()
            await asyncio.sleep(0.5)
            assert verdicts.timeline == [(0, HEALTHY)]
            figures = monitor.health(pair.listener.node_id)
            assert figures.loss == 0
            assert figures.rtt is not None
            assert figures.rtt > 0.9 / 8
            await asyncio.sleep(100)
            assert verdicts.timeline == [(0, HEALTHY)]


@in_virtual_time
async def test_a_peer_that_answers_no_ping_at_all_costs_no_memory() -> None:
    async with Link() as link, HealthMonitor(link.alice) as monitor:
        await asyncio.sleep(1)
        link.hold()
        await asyncio.sleep(500)
        assert len(live(link.pair.near).machine._askers) == 1
        assert len(monitor._agenda) == 1


# ---------------------------------------------------------------- events and handlers


@in_virtual_time
async def test_a_slow_handler_holds_up_no_probe_and_hears_the_latest() -> None:
    async with Link() as link:
        slow = SlowHandler(link.alice)
        async with HealthMonitor(link.alice) as monitor:
            await asyncio.sleep(1)
            link.hold()
            await asyncio.sleep(20)
            assert slow.told == [HEALTHY]
            assert monitor.status(link.bob) is UNHEALTHY
            slow.go_on.set()
            await asyncio.sleep(1)
            assert slow.told == [HEALTHY, UNHEALTHY]


@in_virtual_time
async def test_nothing_is_emitted_once_the_block_is_left() -> None:
    async with Link() as link:
        slow = SlowHandler(link.alice)
        async with HealthMonitor(link.alice) as monitor:
            await asyncio.sleep(1)
            link.hold()
            await asyncio.sleep(8)
            assert monitor.status(link.bob) is SUSPECT
        assert monitor.health(link.bob) == NOTHING
        slow.go_on.set()
        link.release()
        await asyncio.sleep(100)
        assert slow.told == [HEALTHY]
        assert not link.alice._registry.followers


@in_virtual_time
async def test_no_task_is_made_for_changes_that_nobody_would_hear_of() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        tasks = asyncio.all_tasks()
        async with HealthMonitor(pair.dialer) as monitor:
            await asyncio.sleep(1)
            assert monitor.status(pair.listener.node_id) is HEALTHY
            assert monitor._teller is None
            assert asyncio.all_tasks() <= tasks


@in_virtual_time
async def test_a_handler_whose_task_is_cancelled_keeps_no_later_change_from_being_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Link() as link:
        told: list[HealthStatus] = []

        @link.alice.events.on("health_changed")
        async def careless(peer_node_id: bytes, status: HealthStatus) -> None:
            told.append(status)
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(1)

        async with HealthMonitor(link.alice):
            await asyncio.sleep(1)
            link.hold()
            await asyncio.sleep(20)
        assert told == [HEALTHY, SUSPECT, UNHEALTHY]
    assert {record.levelno for record in caplog.records} <= {logging.WARNING, logging.ERROR}


@in_virtual_time
async def test_two_monitors_of_a_node_each_have_their_own_verdicts() -> None:
    async with (
        Link() as link,
        HealthMonitor(link.alice) as patient,
        HealthMonitor(link.alice, interval=1, timeout=0.1, unhealthy_after=1) as strict,
    ):
        await asyncio.sleep(4.5)
        link.hold()
        await asyncio.sleep(1.5)
        link.release()
        await asyncio.sleep(0)
        assert patient.status(link.bob) is HEALTHY
        assert strict.status(link.bob) is UNHEALTHY
        await asyncio.sleep(30)
        assert patient.health(link.bob).loss == 0
        assert strict.status(link.bob) is HEALTHY
        assert Counter(status for _, _, status in link.verdicts.told) == {HEALTHY: 3, UNHEALTHY: 1}


# ------------------------------------------------------------------- begin and end


@in_virtual_time
async def test_a_monitor_ends_with_its_node_and_goes_on_when_that_is_started_again() -> None:
    async with memory_nodes() as nodes:
        bob, alice = await nodes.listen(), await nodes.start()
        async with HealthMonitor(bob) as monitor:
            for _ in range(2):
                await nodes.connect(alice, bob)
                await asyncio.sleep(1)
                assert monitor.status(alice.node_id) is HEALTHY
                await bob.stop()
                assert monitor.status(alice.node_id) is UNKNOWN
                assert monitor._timer is None
                await bob.start(server_mode=True)


@in_virtual_time
async def test_a_wait_for_a_verdict_ends_when_the_node_is_stopped() -> None:
    async with Link() as link, HealthMonitor(link.alice):
        waiting = asyncio.create_task(
            link.alice.events.wait_for("health_changed", lambda _: False, timeout=1000)
        )
        await asyncio.sleep(1)
        await link.alice.stop()
        with pytest.raises(STTEventError, match="the node was stopped"):
            await waiting


@in_virtual_time
async def test_a_block_may_be_left_by_cancellation_and_entered_again() -> None:
    async with Link() as link:
        monitor = HealthMonitor(link.alice)

        async def watch() -> None:
            async with monitor:
                await asyncio.sleep(1000)

        for _ in range(2):
            watching = asyncio.create_task(watch())
            await asyncio.sleep(1)
            assert monitor.status(link.bob) is HEALTHY
            watching.cancel()
            await asyncio.wait((watching,))
            assert monitor.status(link.bob) is UNKNOWN
            assert monitor._timer is None
        assert len(link.verdicts.told) == 2


@in_virtual_time
async def test_a_monitor_needs_a_node_that_runs_and_serves_one_block_at_a_time() -> None:
    async with memory_nodes() as nodes:
        monitor = HealthMonitor(nodes.make())
        with pytest.raises(RuntimeError, match="not running: use it within `async with node`"):
            await monitor.__aenter__()
        async with HealthMonitor(await nodes.start("bob")) as monitor:
            with pytest.raises(RuntimeError, match="already in use"):
                await monitor.__aenter__()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"interval": 0}, "interval"),
        ({"interval": float("nan")}, "interval"),
        ({"interval": float("inf")}, "interval"),
        ({"interval": "5"}, "interval"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"interval": 1}, "timeout must be at most 1, so .* not 2"),
        ({"suspect_after": 0}, "suspect_after"),
        ({"suspect_after": 1.5}, "suspect_after"),
        ({"unhealthy_after": True}, "unhealthy_after"),
        ({"suspect_after": 4}, "unhealthy_after must be at least 4, so .* not 3"),
    ],
)
def test_parameters_that_cannot_work_are_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(STTConfigError, match=named):
        HealthMonitor(cast("STTNode", None), **wrong)


# ---------------------------------------------------------------------- many peers


class Crowd:
    """Stands for a node with many peers, each of which answers after `delay` seconds."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.routes: dict[bytes, Any] = {}
        self.followers: set[Callable[[bytes], None]] = set()
        self.running = True
        self.runtime = self.events = self
        self.probes: deque[tuple[float, bytes]] = deque()
        self.delay = 0.001

    def check_caller(self) -> None:
        pass

    def observed(self, _: str) -> bool:
        return False

    @property
    def _registry(self) -> Crowd:
        return self

    def come(self, number: int) -> None:
        peer_node_id = number.to_bytes(4, "little") * 8
        self.routes[peer_node_id] = _Peer(self, peer_node_id)
        for follow in self.followers:
            follow(peer_node_id)

    def monitor(self) -> HealthMonitor:
        return HealthMonitor(cast("STTNode", self))


class _Peer:
    state = SessionState.OPEN

    def __init__(self, crowd: Crowd, peer_node_id: bytes) -> None:
        self.crowd = crowd
        self.peer_node_id = peer_node_id

    def ping(self, answered: Callable[[float], None]) -> None:
        crowd = self.crowd
        crowd.probes.append((crowd.loop.time(), self.peer_node_id))
        crowd.loop.call_later(crowd.delay, answered, crowd.delay)


def per_turn(probes: Iterable[tuple[float, bytes]]) -> Counter[float]:
    return Counter(when for when, _ in probes)


@in_virtual_time
async def test_ten_thousand_peers_are_probed_all_through_the_interval() -> None:
    crowd = Crowd()
    for number in range(10_000):
        crowd.come(number)
    tasks = asyncio.all_tasks()
    async with crowd.monitor() as monitor:
        await asyncio.sleep(20.001)
        assert asyncio.all_tasks() == tasks
        assert len(monitor._agenda) == 10_000
        assert all(monitor.status(peer) is HEALTHY for peer in crowd.routes)
    assert len(crowd.probes) == pytest.approx(40_000, abs=400)
    turns = per_turn(crowd.probes)
    assert max(turns.values()) <= 2 * 10_000 / module._TURNS + 1
    assert len(turns) <= 4 * module._TURNS + 1
    per_peer: dict[bytes, list[float]] = {}
    for when, peer in crowd.probes:
        per_peer.setdefault(peer, []).append(when)
    for times in per_peer.values():
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert mean(gaps) == pytest.approx(5, abs=0.06)


@in_virtual_time
async def test_peers_that_all_connect_at_once_are_spread_from_their_second_probes_on() -> None:
    crowd = Crowd()
    async with crowd.monitor():
        for number in range(1000):
            crowd.come(number * 65)
        await asyncio.sleep(0.1)
        assert len(crowd.probes) == 1000
        await asyncio.sleep(9.95)
        crowd.probes.clear()
        await asyncio.sleep(5)
        assert max(per_turn(crowd.probes).values()) < 40
        assert len(crowd.probes) == pytest.approx(1000, abs=40)


@in_virtual_time
async def test_after_a_standstill_each_peer_is_probed_once_and_what_has_arrived_counts() -> None:
    crowd = Crowd()
    for number in range(100):
        crowd.come(number)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    async with crowd.monitor() as monitor:
        await asyncio.sleep(7)
        crowd.delay = 1
        await asyncio.sleep(0.5)
        crowd.probes.clear()
        loop._virtual.now += 60
        await asyncio.sleep(0.01)
        assert len(crowd.probes) <= 100
        assert {peer for _, peer in crowd.probes} == set(crowd.routes)
        await asyncio.sleep(20)
        assert {monitor.health(peer).loss for peer in crowd.routes} == {0}
        assert max(per_turn(list(crowd.probes)[-200:]).values()) <= 3  # spread as before


@in_virtual_time
async def test_peers_that_come_and_go_leave_nothing_behind() -> None:
    crowd = Crowd()
    async with crowd.monitor() as monitor:
        for number in range(2000):
            crowd.come(number)
            await asyncio.sleep(0.05)
            peer, _ = crowd.routes.popitem()
            for follow in crowd.followers:
                follow(peer)
            assert len(monitor._agenda) <= 5 / 0.05 + 2
        assert monitor._watched == {}
