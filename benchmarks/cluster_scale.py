"""Many hubs and very many endpoints, in one process: ``python -m benchmarks.cluster_scale``.

The hubs, their links, what they say to each other, and their routes are real. Two things are not:
the bus that the hubs meet on is in memory, and endpoints are ids with a session that does nothing,
so nobody sends to them. After a storm of endpoints that join, one hub dies and its endpoints join
others; then the bus is split in two, endpoints move from one half to the other, and the split
heals. For each step this prints how long it takes until every hub has the routes of all others,
for how much of that the process waited for a processor (on Linux; other programs had it), and the
processor time and the bytes that a hub spends. Where each hub has a machine of its own, its work
goes on beside that of the others; here one core does the work of all.

With ``--members``, sessions are real instead: ``--each`` of them has so many, at workers that share
a port. Prints what they take while they do nothing. A member is a node, which takes some 20 us of
processor time a second: with very many sessions, let each have many.

Exits with code 1 if routes are not equal 2 seconds after the split has healed, or if an endpoint
still has two routes 30 seconds after that. The 2 seconds are how long a hub with a core of its own
needs: what elapsed, less the time for which the process waited for a processor or worked for the
other hubs; but never less than the hub's own work, and the time until it is met.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

from seigr_toolset_transmissions import STTNode
from seigr_toolset_transmissions.cluster import Cluster
from seigr_toolset_transmissions.sessions.public import SessionState
from seigr_toolset_transmissions.transports.bus import Bus
from seigr_toolset_transmissions.transports.memory import MemoryNetwork

from .roles import resident_bytes
from .workers import measure_idle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from seigr_toolset_transmissions.cluster.hub import Hub
    from seigr_toolset_transmissions.sessions.session import LiveSession
    from seigr_toolset_transmissions.transports.bus import Arrived, Unsubscribe

__all__ = ["scale"]

_GRACE = 3.0
_PATIENCE = 600.0
_MEETING_SECONDS = 1.1
"""A hub says once a second where it is, and is dialed a tenth of a second after it was heard."""
_AT_ONCE = 50_000
"""Endpoints that join before the storm do so in portions."""
MOST_HEALING = 2.0
MOST_DOUBLE = 30.0


class _Switch:
    """What all ports share."""

    def __init__(self) -> None:
        self.subscribers: dict[str, list[tuple[_Port, Arrived]]] = {}
        self.bytes = 0


class _Port(Bus):
    """One hub's access to the bus, which reaches only ports of the same side."""

    def __init__(self, switch: _Switch) -> None:
        super().__init__()
        self.side = 0
        self._switch = switch
        self._set_up(True)

    def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        self._switch.bytes += len(data)
        asyncio.get_running_loop().call_soon(self._deliver, subject, data, reply)

    def _deliver(self, subject: str, data: bytes, reply: str) -> None:
        prefix, _, name = subject.rpartition(".")
        entries = self._switch.subscribers.get(prefix, ())
        here = [arrived for port, arrived in entries if port.side == self.side]
        for arrived in here:
            arrived(name, data, reply)
        if not here and reply:
            asyncio.get_running_loop().call_soon(self._deliver, reply, b"", "")

    async def subscribe(self, prefix: str, arrived: Arrived) -> Unsubscribe:
        here = self._switch.subscribers.setdefault(prefix, [])
        entry = (self, arrived)
        here.append(entry)

        async def unsubscribe() -> None:
            with contextlib.suppress(ValueError):
                here.remove(entry)

        return unsubscribe


class _Stub:
    """The session of an endpoint that only exists."""

    __slots__ = ("__weakref__", "hub", "peer_node_id", "state", "suspended_at")

    peer_incarnation = bytes(16)
    peer_is_hub = False

    def __init__(self, hub: _Hub, endpoint_id: bytes) -> None:
        self.hub = hub
        self.peer_node_id = endpoint_id
        self.state = SessionState.OPEN
        self.suspended_at: float | None = None

    def suspend(self) -> None:
        """Lose the connection."""
        self.state = SessionState.SUSPENDED
        self.suspended_at = _now()

    def lose(self, _reason: str) -> None:
        """End, as when the peer has connected elsewhere."""
        self.state = SessionState.CLOSED
        self.hub.leave(self.peer_node_id)


class _Hub:
    """A hub, and its endpoints."""

    def __init__(self, switch: _Switch, network: MemoryNetwork, seeds: list[bytes], n: int) -> None:
        self.port = _Port(switch)
        self.cluster = Cluster(self.port, name=f"hub-{n}", grace=_GRACE)
        self.node = STTNode(seeds[0], seeds[1], "hub", n + 1, network=network, cluster=self.cluster)

    @property
    def inside(self) -> Hub:
        """What stands behind the cluster: the public interface has no such sessions."""
        assert self.cluster._hub is not None  # noqa: SLF001
        return self.cluster._hub  # noqa: SLF001

    @property
    def ids(self) -> dict[bytes, LiveSession]:
        """Its endpoints, and their sessions."""
        return self.inside.registry.routes

    def broken_for(self, session: LiveSession) -> float | None:
        """Stand in for what the registry says of sessions without a connection."""
        at = cast("_Stub", session).suspended_at
        return None if at is None else _now() - at

    def join(self, endpoint_id: bytes) -> None:
        """Have an endpoint."""
        self.ids[endpoint_id] = cast("LiveSession", _Stub(self, endpoint_id))
        self.inside._route_changed(endpoint_id)  # noqa: SLF001

    def leave(self, endpoint_id: bytes) -> None:
        """Have it no longer."""
        del self.ids[endpoint_id]
        self.inside._route_changed(endpoint_id)  # noqa: SLF001

    def knows(self, others: list[_Hub]) -> bool:
        """Whether it has as many routes to each of the others as that has endpoints."""
        counts = {each.name: each.endpoints for each in self.cluster.hubs}
        return counts == {
            other.cluster.name: len(other.ids) for other in others if other is not self
        }


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _until_equal(hubs: list[_Hub]) -> float:
    """Wait until all hubs know the endpoints of all others; return how long it took."""
    began = _now()
    async with asyncio.timeout(_PATIENCE):
        for hub in hubs:
            while not hub.knows(hubs):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    return _now() - began


class _Costs:
    """Prints what each step costs a hub."""

    def __init__(self, switch: _Switch, hubs: int) -> None:
        self._switch = switch
        self._hubs = hubs
        self.begin()

    def begin(self) -> None:
        self._cpu, self._bytes, self._waited = time.process_time(), self._switch.bytes, _waited()

    def report(self, what: str, seconds: float) -> float:
        """Print a step, and begin the next one; return how long it takes with a core for each hub.

        See the module.
        """
        spent = time.process_time() - self._cpu
        cpu, waited = spent / self._hubs, _waited() - self._waited
        size = (self._switch.bytes - self._bytes) / self._hubs
        print(
            f"{what}: {seconds:.1f} s, {waited:.1f} s of them without a processor; of each hub "
            f"{cpu * 1000:,.0f} ms of processor time, {size / 1e6:.2f} MB sent",
            flush=True,
        )
        self.begin()
        return max(_MEETING_SECONDS, seconds - waited - spent) + cpu


def _waited() -> float:
    """Return for how many seconds this thread has waited for a processor; 0.0 where none tells."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


async def scale(hub_count: int, endpoints: int, storm: int) -> bool:
    """Run all steps; return whether the healing met its limits."""
    switch, network = _Switch(), MemoryNetwork()
    seeds = [secrets.token_bytes(32), secrets.token_bytes(32)]
    hubs = [_Hub(switch, network, seeds, number) for number in range(hub_count)]
    costs = _Costs(switch, hub_count)
    print(f"{hub_count} hubs, {endpoints:,} endpoints, then {storm:,} more at once")
    async with contextlib.AsyncExitStack() as stack:
        began = _now()
        for hub in hubs:
            await stack.enter_async_context(hub.node.listening())
            vars(hub.inside.registry)["broken_for"] = hub.broken_for
        await _until_equal(hubs)
        costs.report("all hubs have met", _now() - began)
        await _fill(hubs, endpoints, costs)
        _join(hubs, (secrets.token_bytes(32) for _ in range(storm)))
        costs.report("storm is over", await _until_equal(hubs))
        await asyncio.sleep(5)
        costs.report("nothing happens", 5)
        dead = hubs.pop()
        dead.port.side = -1
        _join(hubs, iter(list(dead.ids)))
        costs.report("a hub has died, its endpoints have moved", await _until_equal(hubs))
        good = await _split(hubs, costs)
        good &= _exact(hubs)
    return good


async def _fill(hubs: list[_Hub], endpoints: int, costs: _Costs) -> None:
    """Have endpoints join, and print what their routes weigh."""
    weight, took = 0, 0.0
    for at in range(0, endpoints, _AT_ONCE):
        _join(hubs, (secrets.token_bytes(32) for _ in range(min(_AT_ONCE, endpoints - at))))
        before = resident_bytes()
        took += await _until_equal(hubs)
        weight += resident_bytes() - before
    costs.report("endpoints have joined", took)
    each = weight / (endpoints * (len(hubs) - 1))
    whole = resident_bytes() / 1e6
    print(f"a route takes {each:.0f} bytes at each of the other hubs; the process {whole:,.0f} MB")


def _join(hubs: list[_Hub], ids: Iterator[bytes]) -> None:
    for number, endpoint_id in enumerate(ids):
        hubs[number % len(hubs)].join(endpoint_id)


async def _split(hubs: list[_Hub], costs: _Costs) -> bool:
    """Split the hubs, have a tenth of one half's endpoints move, and heal the split."""
    halves = hubs[::2], hubs[1::2]
    for hub in halves[1]:
        hub.port.side = 1
    began = _now()
    await asyncio.gather(*map(_until_equal, halves))
    costs.report("split: each half has forgotten the other", _now() - began)
    for number, hub in enumerate(halves[0]):
        for endpoint_id, session in list(hub.ids.items())[::10]:
            cast("_Stub", session).suspend()
            halves[1][number % len(halves[1])].join(endpoint_id)
    await asyncio.gather(*map(_until_equal, halves))
    costs.report("a tenth of one half has moved to the other", 0)
    for hub in halves[1]:
        hub.port.side = 0
    healing = costs.report("healed: all routes are equal", await _until_equal(hubs))
    began = _now()
    while (double := _double(hubs)) and _now() - began < MOST_DOUBLE:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    await _until_equal(hubs)
    took = _now() - began
    costs.report(f"{double} endpoints have two routes", took)
    good = not double and healing <= MOST_HEALING
    print(
        f"goals: equal {MOST_HEALING:g} s after healing (a hub needs {healing:.1f} s), none with "
        f"two routes after {MOST_DOUBLE:.0f} s: {'met' if good else 'MISSED'}"
    )
    return good


def _double(hubs: list[_Hub]) -> int:
    """Return how many endpoints more than one hub has."""
    return sum(len(hub.ids) for hub in hubs) - len(set[bytes]().union(*(hub.ids for hub in hubs)))


def _exact(hubs: list[_Hub]) -> bool:
    """Return whether each hub leads each endpoint of the others to its hub."""
    wrong = sum(
        hub.cluster.locate(endpoint_id) != other.cluster.name
        for hub in hubs[:2]
        for other in hubs
        for endpoint_id in other.ids
    )
    print(f"{wrong} wrong routes at two hubs: {'FAILED' if wrong else 'ok'}")
    return not wrong


def _report_idle(members: int, each: int, workers: int, seconds: float) -> int:
    """Measure and print what real sessions take; return the exit code."""
    found = measure_idle(members, each, workers, seconds)
    sessions = members * each
    print(
        f"{sessions:,} sessions of {members:,} members at {workers} workers: open after "
        f"{found.seconds:,.0f} s, {found.opening_cpu * 1e6:,.0f} us of processor time each at "
        f"their worker; the workers have {min(found.spread):,} to {max(found.spread):,}\n"
        f"memory of a session: {found.worker_bytes:,.0f} bytes at its worker, "
        f"{found.member_bytes:,.0f} at its member, without the system's buffers\n"
        f"idle for {seconds:,.0f} s: all workers took {found.worker_share:.1%} of a processor, "
        f"{found.worker_share / sessions * 1e6:.1f} us a second for each session; "
        f"all members {found.member_share:.1%}"
    )
    return 0


def main() -> int:
    """Run as a program; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hubs", type=int, default=20, help="how many (default: %(default)s)")
    parser.add_argument("--endpoints", type=int, default=200_000, help="of all (%(default)s)")
    parser.add_argument("--storm", type=int, default=20_000, help="more (default: %(default)s)")
    parser.add_argument("--members", type=int, default=0, help="real and idle, instead")
    parser.add_argument("--each", type=int, default=1, help="sessions of a member (%(default)s)")
    parser.add_argument("--workers", type=int, default=6, help="that have them (%(default)s)")
    parser.add_argument("--idle", type=float, default=60.0, help="for so many s (%(default)s)")
    options = parser.parse_args()
    if options.members:
        return _report_idle(options.members, options.each, options.workers, options.idle)
    logging.disable()
    return 0 if asyncio.run(scale(options.hubs, options.endpoints, options.storm)) else 1


if __name__ == "__main__":
    sys.exit(main())
