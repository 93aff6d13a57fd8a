"""The sides of a measurement, each run in a process of its own; here are the loops that are timed.

Both sides use the same clock, `time.perf_counter`, which is the machine's and not the process's.
What a side reports goes through its `Link`; where it must wait for the other one, the parent
passes the word on.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from .messages import Pool
from .peers import PEERS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable

    from .peers.base import Crowd, Hub, Job, Sink
    from .processes import Link

__all__ = ["Broadcast", "Calls", "Stretch", "caller", "crowd", "echo", "hub", "sink", "source"]

_WARM = 200
"""Messages, or calls, before those that are timed."""
_WARM_BYTES = 16 * 1024 * 1024
_CONCURRENT_DIALS = 16
_SETTLE_SECONDS = 0.3
_AFTERMATH_SECONDS = 0.1
"""After a broadcast: here a copy too many would come, and acknowledgements go back."""


class Stretch(NamedTuple):
    """When one side began and ended, and the processor time of its process meanwhile."""

    begun: float
    ended: float
    cpu: float


class Calls(NamedTuple):
    """Seconds of each round trip, in order, and the processor time of the caller's process."""

    seconds: list[float]
    cpu: float


class Broadcast(NamedTuple):
    """One broadcast as its hub saw it: when it began, and the processor time of its process."""

    begun: float
    cpu: float
    """Until all had it."""
    cpu_settled: float
    """Until nothing more followed: acknowledgements have come."""


def run(main: Coroutine[Any, Any, None], loop: str) -> None:
    """Run on the loop of this name: ``asyncio`` or ``uvloop``."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


def warm_count(job: Job) -> int:
    """Return how many messages go before those that are timed."""
    return max(4, min(_WARM, _WARM_BYTES // job.size))


# ------------------------------------------------------------------------------------ one way


def sink(link: Link, job: Job) -> None:
    """Receive ``job.count`` messages, look at each, and report the `Stretch`."""
    if PEERS[job.peer].blocking:
        _sink_blocking(link, job)
    else:
        run(_sink(link, job), job.loop)


class _Collector:
    """Takes messages from a handler; small ones are kept, large ones looked at."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._kept: list[bytes] = []
        self._count = self._due = 0
        self._full = asyncio.Event()
        self._fault: ValueError | None = None
        self.ended = 0.0

    def take(self, data: bytes) -> None:
        if self._pool.kept:
            self._kept.append(data)
        else:
            try:
                self._pool.check(data, self._count)
            except ValueError as error:
                self._fault = error  # whoever has called us may swallow it
                self._full.set()
        self._count += 1
        if self._count == self._due:
            self.ended = time.perf_counter()
            self._full.set()

    def expect(self, count: int) -> None:
        """Begin again, with message 0, and wait for so many."""
        if self._count != self._due:
            raise ValueError(f"{self._count - self._due} messages beyond the {self._due} due")
        self._count, self._due = 0, count
        self._kept.clear()
        self._full.clear()

    async def all(self) -> None:
        await self._full.wait()
        if self._fault is not None:
            raise self._fault
        self._pool.check_all(self._kept)


async def _sink(link: Link, job: Job) -> None:
    pool, warm = Pool(job.size, job.count), warm_count(job)
    collector = _Collector(pool)
    collector.expect(warm)
    sink: Sink = await PEERS[job.peer].open_sink(job, collector.take)
    link.tell("address", sink.address)
    if sink.receive is None:
        await collector.all()
        collector.expect(job.count)
        link.tell("warm")
        begun, cpu = time.perf_counter(), time.process_time()
        await collector.all()
        stretch = Stretch(begun, collector.ended, time.process_time() - cpu)
    else:
        await _receive(sink, pool, warm)
        link.tell("warm")
        stretch = await _receive(sink, pool, job.count)
    link.tell("received", stretch)
    await link.listen("close")
    await sink.close()


async def _receive(sink: Sink, pool: Pool, count: int) -> Stretch:
    assert sink.receive is not None
    unwrap = sink.unwrap
    if pool.kept:
        first = await sink.receive()
        receive: Any = sink.receive
        begun, cpu = time.perf_counter(), time.process_time()
        received = [await receive() for _ in range(count - 1)]
        stretch = Stretch(begun, time.perf_counter(), time.process_time() - cpu)
        pool.check_all([unwrap(first), *map(unwrap, received)])
        return stretch
    begun, cpu = time.perf_counter(), time.process_time()
    for index in range(count):
        pool.check(unwrap(await sink.receive()), index)
    return Stretch(begun, time.perf_counter(), time.process_time() - cpu)


def _sink_blocking(link: Link, job: Job) -> None:
    pool = Pool(job.size, job.count)
    sink: Sink = PEERS[job.peer].open_sink(job, lambda _: None)
    link.tell("address", sink.address)
    _receive_blocking(sink, pool, warm_count(job))
    link.tell("warm")
    link.tell("received", _receive_blocking(sink, pool, job.count))
    link.hear("close")
    sink.close()


def _receive_blocking(sink: Sink, pool: Pool, count: int) -> Stretch:
    assert sink.receive is not None
    receive, unwrap = sink.receive, sink.unwrap
    if pool.kept:
        begun, cpu = time.perf_counter(), time.process_time()
        received = [receive() for _ in range(count)]
        stretch = Stretch(begun, time.perf_counter(), time.process_time() - cpu)
        pool.check_all([unwrap(data) for data in received])
        return stretch
    begun, cpu = time.perf_counter(), time.process_time()
    for index in range(count):
        pool.check(unwrap(receive()), index)
    return Stretch(begun, time.perf_counter(), time.process_time() - cpu)


def source(link: Link, job: Job, address: Any) -> None:
    """Send the messages when told to, and report the `Stretch`."""
    if PEERS[job.peer].blocking:
        _source_blocking(link, job, address)
    else:
        run(_source(link, job, address), job.loop)


async def _source(link: Link, job: Job, address: Any) -> None:
    source = await PEERS[job.peer].open_source(job, address)
    send = source.send
    pool = Pool(job.size, job.count)
    for data in pool.messages(warm_count(job)):
        await send(data)
    messages = pool.messages(job.count)
    await link.listen("go")
    begun, cpu = time.perf_counter(), time.process_time()
    for data in messages:
        await send(data)
    await source.drain()
    link.tell("sent", Stretch(begun, time.perf_counter(), time.process_time() - cpu))
    await link.listen("close")
    await source.close()


def _source_blocking(link: Link, job: Job, address: Any) -> None:
    source = PEERS[job.peer].open_source(job, address)
    send = source.send
    pool = Pool(job.size, job.count)
    for data in pool.messages(warm_count(job)):
        send(data)
    messages = pool.messages(job.count)
    link.hear("go")
    begun, cpu = time.perf_counter(), time.process_time()
    for data in messages:
        send(data)
    source.drain()
    link.tell("sent", Stretch(begun, time.perf_counter(), time.process_time() - cpu))
    link.hear("close")
    source.close()


# ---------------------------------------------------------------------------------- round trip


def echo(link: Link, job: Job) -> None:
    """Send back what comes until told to close."""
    peer = PEERS[job.peer]
    if peer.blocking:
        server = peer.open_echo(job)
        link.tell("address", server.address)
        link.hear("close")
        server.close()
        return

    async def main() -> None:
        server = await peer.open_echo(job)
        link.tell("address", server.address)
        await link.listen("close")
        await server.close()

    run(main(), job.loop)


def caller(link: Link, job: Job, address: Any) -> None:
    """Ask one question after the other, look at each answer, and report the `Calls`."""
    pool = Pool(job.size, job.count)
    questions = [*pool.messages(warm_count(job)), *pool.messages(job.count)]
    if PEERS[job.peer].blocking:
        calls = _ask_blocking(job, address, questions)
    else:
        box: list[Calls] = []
        run(_ask(job, address, questions, box), job.loop)
        (calls,) = box
    link.tell("called", Calls(calls.seconds[-job.count :], calls.cpu))


async def _ask(job: Job, address: Any, questions: list[bytes], box: list[Calls]) -> None:
    caller = await PEERS[job.peer].open_caller(job, address)
    ask, clock, seconds = caller.ask, time.perf_counter, []
    cpu = time.process_time()
    for question in questions:
        begun = clock()
        answer = await ask(question)
        seconds.append(clock() - begun)
        if answer != question:
            raise ValueError("an answer that is not its question")
    box.append(Calls(seconds, time.process_time() - cpu))
    await caller.close()


def _ask_blocking(job: Job, address: Any, questions: list[bytes]) -> Calls:
    caller = PEERS[job.peer].open_caller(job, address)
    ask, clock, seconds = caller.ask, time.perf_counter, []
    cpu = time.process_time()
    for question in questions:
        begun = clock()
        answer = ask(question)
        seconds.append(clock() - begun)
        if answer != question:
            raise ValueError("an answer that is not its question")
    calls = Calls(seconds, time.process_time() - cpu)
    caller.close()
    return calls


# --------------------------------------------------------------------------------------- crowd


def resident_bytes() -> int:
    """Return the memory that this process occupies, or, where that is not told, its peak."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123
            return int(statm.read().split()[1]) * resource.getpagesize()
    except FileNotFoundError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _settled_bytes() -> int:
    gc.collect()
    return resident_bytes()


def hub(link: Link, job: Job) -> None:
    """Hold ``job.sessions``; report memory while they are idle, and each `Broadcast`."""
    if PEERS[job.peer].blocking:
        _hub_blocking(link, job)
    else:
        run(_hub(link, job), job.loop)


async def _hub(link: Link, job: Job) -> None:
    hub: Hub = await PEERS[job.peer].open_hub(job)
    before = _settled_bytes()
    cpu = time.process_time()
    link.tell("address", hub.address)
    await link.listen("joined")
    cpu = time.process_time() - cpu
    await asyncio.sleep(_SETTLE_SECONDS)
    _all_there(hub, job)
    link.tell("idle", (_settled_bytes() - before, cpu))
    pool = Pool(job.size, max(1, job.rounds))
    for message in pool.messages(job.rounds):
        await link.listen("broadcast")
        begun, cpu = time.perf_counter(), time.process_time()
        await hub.broadcast(message)
        await link.listen("arrived")
        delivered = time.process_time() - cpu
        await link.listen("settled")
        link.tell("done", Broadcast(begun, delivered, time.process_time() - cpu))
    await link.listen("close")
    _all_there(hub, job)
    link.tell("used", _settled_bytes() - before)
    await hub.close()


def _hub_blocking(link: Link, job: Job) -> None:
    hub: Hub = PEERS[job.peer].open_hub(job)
    before = _settled_bytes()
    cpu = time.process_time()
    link.tell("address", hub.address)
    link.hear("joined")
    cpu = time.process_time() - cpu
    time.sleep(_SETTLE_SECONDS)
    _all_there(hub, job)
    link.tell("idle", (_settled_bytes() - before, cpu))
    pool = Pool(job.size, max(1, job.rounds))
    for message in pool.messages(job.rounds):
        link.hear("broadcast")
        begun, cpu = time.perf_counter(), time.process_time()
        hub.broadcast(message)
        link.hear("arrived")
        delivered = time.process_time() - cpu
        link.hear("settled")
        link.tell("done", Broadcast(begun, delivered, time.process_time() - cpu))
    link.hear("close")
    link.tell("used", _settled_bytes() - before)
    hub.close()


def _all_there(hub: Hub, job: Job) -> None:
    if hub.connected() != job.sessions:
        raise ValueError(f"{hub.connected()} sessions, not {job.sessions}")


class _Arrivals:
    """When each copy of a broadcast arrived: one for each member of the crowd, and no other."""

    def __init__(self, job: Job) -> None:
        self._messages = Pool(job.size, max(1, job.rounds)).messages(job.rounds)
        self._message = next(self._messages, b"")
        self._sessions = job.sessions
        self._times: dict[Hashable, float] = {}
        self._fault = ""
        self.complete = asyncio.Event()

    def take(self, data: bytes, member: Hashable) -> None:
        if data != self._message:
            self._fault = "a member received something else than the broadcast"
        elif member in self._times:
            self._fault = "a member received a broadcast twice"
        else:
            self._times[member] = time.perf_counter()
        if self._fault or len(self._times) == self._sessions:
            self.complete.set()

    def finish(self) -> list[float]:
        """Return this round's times and begin the next."""
        if self._fault:
            raise ValueError(self._fault)
        times, self._times = list(self._times.values()), {}
        self._message = next(self._messages, b"")
        self.complete.clear()
        return times


def crowd(link: Link, job: Job, address: Any) -> None:
    """Join a hub ``job.sessions`` times, report how long that took, and when broadcasts came."""
    run(_crowd(link, job, address), job.loop)


async def _crowd(link: Link, job: Job, address: Any) -> None:
    arrivals = _Arrivals(job)
    crowd: Crowd = await PEERS[job.peer].open_crowd(job, address, arrivals.take)
    places = iter(range(job.sessions))

    async def dial() -> None:
        for _ in places:
            await crowd.connect()

    begun, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(dial() for _ in range(min(_CONCURRENT_DIALS, job.sessions))))
    link.tell("joined", Stretch(begun, time.perf_counter(), time.process_time() - cpu))
    for _ in range(job.rounds):
        await link.listen("broadcast")
        link.tell("ready")
        await arrivals.complete.wait()
        link.tell("arrived")
        await asyncio.sleep(_AFTERMATH_SECONDS)
        link.tell("settled", arrivals.finish())
    await link.listen("close")
    await crowd.close()
