"""The benchmarks: every peer passes every measure that it takes part in, with little to do."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter, deque
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks import cluster, cluster_scale, roles, seeing, workers
from benchmarks.goals import GOALS, Goal, judge
from benchmarks.material import Material
from benchmarks.measures import crowds, one_way, requests, round_trip
from benchmarks.measures.base import Key, Sample, Samples, Setting
from benchmarks.measures.pairs import make_job
from benchmarks.messages import Pool
from benchmarks.peers import OWN, PEERS
from benchmarks.peers.base import BATCHES, HANDLER, ITERATOR, Line
from benchmarks.peers.nats_broker import Nats, run_broker
from benchmarks.processes import Child
from helpers.browser import find_browser
from helpers.nodes import in_virtual_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.peers.base import Job

ROOT = Path(__file__).parent.parent

needs_broker = pytest.mark.skipif(
    PEERS[Nats.name].missing() is not None, reason="nats-server or nats-py is missing"
)

pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(600),  # it only ends a hang: a trial takes about a second
]

TRIALS: dict[str, tuple[Callable[[Job, str], list[Sample]], dict[str, object]]] = {
    "oneway": (one_way._measure, {"count": 300}),
    "roundtrip": (round_trip._measure, {"count": 50}),
    "requests": (requests._measure, {"stretches": ((1, 20), (16, 100))}),
    "crowd": (crowds._measure, {"sessions": 5, "rounds": 2}),
}
"""For each ability of a peer: what measures it, and the little that it has to do."""


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    """What a run of the benchmarks shares, with the broker if there is one."""
    material = Material(str(tmp_path_factory.mktemp("benchmark")))
    material.make()
    setting = Setting(material, quick=True, loops=("asyncio",), peers=tuple(PEERS))
    with ExitStack() as stack:
        if PEERS[Nats.name].missing() is None:
            broker = stack.enter_context(Child(run_broker, material, limit=600.0))
            setting.brokers[Nats.name] = broker.link.hear("address")
            stack.callback(broker.link.tell, "done")
        yield setting


@pytest.mark.parametrize(
    ("name", "ability"),
    [(name, ability) for name, peer in PEERS.items() for ability in TRIALS if ability in peer.can],
)
def test_a_peer_passes_what_it_can_do(name: str, ability: str, setting: Setting) -> None:
    peer = PEERS[name]
    if (reason := peer.missing()) is not None:
        pytest.skip(reason)
    measure, work = TRIALS[ability]
    if peer.one_at_a_time:
        work = {"stretches": ((1, 20),)}
    samples = measure(make_job(setting, peer, "asyncio", **work), "asyncio")
    assert {sample.key.peer for sample in samples} == {name}
    # So few sessions weigh less than the memory of a process changes by itself.
    assert all(s.value > 0 for s in samples if not s.key.metric.name.startswith("memory"))


def test_a_checkout_measures_and_writes_its_report(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-m", "benchmarks", "--quick", "--peers", OWN]
    chosen = ["--only", "requests", "--only", "layers", "--output", str(tmp_path)]
    subprocess.run([*command, *chosen], cwd=ROOT, env=environment, check=True)
    report = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert report.startswith("# Benchmark results\n")
    assert "### requests of 64 B\n" in report
    assert "### the path of a message of 64 B\n" in report
    assert "Not measured" not in report


@pytest.mark.parametrize("consumer", [HANDLER, BATCHES, ITERATOR])
def test_our_library_is_measured_with_each_way_to_receive(consumer: str, setting: Setting) -> None:
    assert consumer in PEERS[OWN].consumers
    job = make_job(setting, PEERS[OWN], "asyncio", count=300, consumer=consumer)
    rate, cpu = one_way._measure(job, "asyncio")
    assert one_way.pull(64) != rate.key.metric == one_way._CONSUMERS[consumer](64)
    assert one_way.cpu(one_way.pull(64)) != cpu.key.metric == one_way.cpu(rate.key.metric)
    assert rate.value > 0 < cpu.value


# ---------------------------------------------------------------------- requests in flight


async def test_as_many_requests_as_asked_for_are_in_flight() -> None:
    flying, seen = 0, Counter[int]()

    async def ask(data: bytes) -> bytes:
        nonlocal flying
        flying += 1
        seen[flying] += 1
        await asyncio.sleep(0)
        flying -= 1
        return data

    made = await roles._request(ask, Pool(64).messages(100), 16)
    assert len(made.seconds) == 100 == seen.total()
    assert max(seen) == 16


async def test_a_wrong_reply_fails_the_measurement() -> None:
    async def ask(data: bytes) -> bytes:
        await asyncio.sleep(0)
        return data[::-1]

    with pytest.raises(ExceptionGroup, match="TaskGroup"):
        await roles._request(ask, Pool(64).messages(100), 16)


def test_as_many_requests_as_asked_for_are_in_flight_without_a_loop() -> None:
    flying: deque[bytes] = deque()
    seen = []

    def receive() -> bytes:
        seen.append(len(flying))
        return flying.popleft()

    made = roles._request_blocking(
        Line(flying.append, receive, flying.clear), Pool(64).messages(100), 16
    )
    assert len(made.seconds) == 100
    assert seen[:85] == [16] * 85
    assert seen[85:] == [*range(15, 0, -1)]


def test_a_wrong_reply_fails_the_measurement_without_a_loop() -> None:
    line = Line(lambda _: None, lambda: b"", lambda: None)
    with pytest.raises(ValueError, match="does not match"):
        roles._request_blocking(line, Pool(64).messages(100), 16)


# --------------------------------------------------------------------------------- goals


def test_every_goal_is_against_something_that_is_measured() -> None:
    others = {goal.other for goal in GOALS if isinstance(goal.other, str)}
    assert others <= {*PEERS, "pyee", "blinker", "psygnal"}


@pytest.mark.parametrize(("theirs", "met"), [(99.0, True), (101.0, False), (None, None)])
def test_a_goal_is_held_against_the_medians_of_one_loop(
    theirs: float | None, met: bool | None
) -> None:
    metric, other = requests.rate(64, 256), "pyzmq CURVE, asyncio"
    samples = Samples()
    samples.add(Sample(Key(metric, "asyncio", OWN), value) for value in (1.0, 300.0, 900.0))
    samples.add([Sample(Key(metric, "uvloop", other), 1.0)])
    if theirs is not None:
        samples.add([Sample(Key(metric, "asyncio", other), theirs)])
    [verdict] = [
        verdict
        for verdict in judge(samples, ("asyncio", "uvloop"))
        if verdict.goal == Goal(metric, other, at_least=3)
    ]
    assert (verdict.loop, verdict.own, verdict.other) == ("asyncio", 300.0, theirs)
    assert verdict.met is met


@needs_broker
def test_messages_through_two_hubs_are_measured() -> None:
    (found,) = cluster.measure(count=300, rounds=1)
    for cost in found:
        assert cost.per_second > 0
        assert cost.cpu > 0


def test_real_sessions_that_do_nothing_are_weighed() -> None:
    found = workers.measure_idle(members=2, each=3, workers=1, seconds=0.1)
    assert found.opening_cpu > 0
    assert found.spread == [6]


def test_members_exchange_messages_with_workers_and_come_and_go() -> None:
    with ExitStack() as stack:
        stage = workers._Stage(stack, 2, [3])
        stage.do("connect", 1)
        for order in ("exchange", "come and go"):
            assert workers._cost(stage, order, 2) > 0
        (state,) = stage.do("look")
        assert state.sessions == 3
        stage.end()


@in_virtual_time
async def test_many_hubs_agree_on_all_routes_after_a_death_and_soon_after_a_split() -> None:
    assert await cluster_scale.scale(hub_count=4, endpoints=400, storm=100)


@pytest.mark.skipif(
    find_browser() is None and "STT_REQUIRE_ALL" not in os.environ, reason="there is no Chromium"
)
def test_what_watching_costs_is_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeing, "_SETTLING", 0.1)
    monkeypatch.setattr(seeing, "_STARTING", 0.5)
    asyncio.run(seeing.measure(endpoints=5, events=100, rounds=1, turn=0.3, stay=0.5))
    printed = capsys.readouterr().out
    for text in (
        "stt top: ",
        "a page is open: ",
        "a console that nobody looks at: ",
        "of a processor",
        " ms\n",
    ):
        assert text in printed
