"""The sides of a measurement, each in a process of its own; the timed loops are here.

Both sides use the same clock, `time.perf_counter`, which is the machine's and not the process's. A
side reports through its `Link`. Where it has to wait for the other side, the parent passes the word
on.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
import time
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from .messages import Pool
from .peers import PEERS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable, Iterator

    from .peers.base import Crowd, Hub, Job, Line, Sink
    from .processes import Link

__all__ = [
    "Broadcast",
    "Calls",
    "Requests",
    "Stretch",
    "caller",
    "crowd",
    "echo",
    "hub",
    "requester",
    "resident_bytes",
    "responder",
    "sink",
    "source",
]

_WARM = 200
"""Messages, or calls, before the timed ones."""
_WARM_BYTES = 16 * 1024 * 1024
_CONCURRENT_DIALS = 16
_SETTLE_SECONDS = 0.3
_AFTERMATH_SECONDS = 0.1
"""Seconds after a broadcast, for any surplus copy to arrive and acknowledgements to return."""


class Stretch(NamedTuple):
    """When one side did its part, and the processor time its process spent on it."""

    ended: float
    cpu: float
    begun: float = 0.0
    """When it began, for a side that begins on its own."""


class Calls(NamedTuple):
    """Seconds of each round trip, in order, and the processor time of the caller's process."""

    seconds: list[float]
    cpu: float


class Requests(NamedTuple):
    """Requests: the seconds all of them took, those of each, and the process's processor time."""

    elapsed: float
    seconds: list[float]
    cpu: float


class Broadcast(NamedTuple):
    """One broadcast as seen by its hub: when it began, and the processor time it took."""

    begun: float
    cpu: float
    """Processor time until the system had all copies."""
    cpu_settled: float
    """Processor time until nothing more followed, acknowledgements included."""


def run(main: Coroutine[Any, Any, None], loop: str) -> None:
    """Run on the loop of this name: ``asyncio`` or ``uvloop``."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


def warm_count(job: Job) -> int:
    """Return how many messages precede the timed ones."""
    return max(4, min(_WARM, _WARM_BYTES // job.size))


# ------------------------------------------------------------------------------------ one way


def sink(link: Link, job: Job) -> None:
    """Receive ``job.count`` messages, check each, and report the `Stretch`."""
    if PEERS[job.peer].blocking:
        _sink_blocking(link, job)
    else:
        run(_sink(link, job), job.loop)


class _Collector:
    """Takes messages from a handler and compares them."""

    def __init__(self) -> None:
        self._batches: Iterator[list[bytes]] = iter(())
        self._expected: list[bytes] = []
        self.received: list[bytes] = []
        """Messages not compared yet."""
        self._over = asyncio.Event()
        self._fault = ""
        self.ended = 0.0

    def take(self, data: bytes) -> None:
        self.received.append(data)
        if len(self.received) < len(self._expected):
            return
        if self.received != self._expected:  # the caller may swallow an exception
            self._fault = "the messages received are not the ones sent"
        self.received.clear()
        self._expected = next(self._batches, [])
        if self._fault or not self._expected:
            self.ended = time.perf_counter()
            self._over.set()

    def expect(self, batches: list[list[bytes]]) -> None:
        """Start again, and expect these messages."""
        self._batches = iter(batches)
        self._expected = next(self._batches)
        self._over.clear()

    async def all(self) -> None:
        await self._over.wait()
        if self._fault:
            raise ValueError(self._fault)


async def _sink(link: Link, job: Job) -> None:
    pool = Pool(job.size)
    warm, timed = pool.batches(warm_count(job)), pool.batches(job.count)
    collector = _Collector()
    collector.expect(warm)
    sink: Sink = await PEERS[job.peer].open_sink(job, collector.take)
    link.tell("address", sink.address)
    if sink.receive is None and sink.gather is None:
        await collector.all()
        collector.expect(timed)
        link.tell("warm")
        cpu = time.process_time()
        await collector.all()
        stretch = Stretch(collector.ended, time.process_time() - cpu)
    else:
        await _receive(sink, warm)
        link.tell("warm")
        stretch = await _receive(sink, timed)
    link.tell("received", stretch)
    await link.listen("close")
    if collector.received:
        raise ValueError("more was received than was sent")
    await sink.close()


async def _receive(sink: Sink, batches: list[list[bytes]]) -> Stretch:
    cpu = time.process_time()
    for expected in batches:
        receive: Any = sink.receive
        if sink.gather is not None:
            received = await sink.gather(len(expected))
        elif sink.pairs:
            received = [(await receive())[0] for _ in expected]
        else:
            received = [await receive() for _ in expected]
        if received != expected:
            raise ValueError("the messages received are not the ones sent")
    return Stretch(time.perf_counter(), time.process_time() - cpu)


def _sink_blocking(link: Link, job: Job) -> None:
    pool = Pool(job.size)
    warm, timed = pool.batches(warm_count(job)), pool.batches(job.count)
    sink: Sink = PEERS[job.peer].open_sink(job, lambda _: None)
    link.tell("address", sink.address)
    _receive_blocking(sink, warm)
    link.tell("warm")
    link.tell("received", _receive_blocking(sink, timed))
    link.hear("close")
    sink.close()


def _receive_blocking(sink: Sink, batches: list[list[bytes]]) -> Stretch:
    receive: Any = sink.receive
    cpu = time.process_time()
    for expected in batches:
        if [receive() for _ in expected] != expected:
            raise ValueError("the messages received are not the ones sent")
    return Stretch(time.perf_counter(), time.process_time() - cpu)


def source(link: Link, job: Job, address: Any) -> None:
    """Send the messages at the parent's signal, and report the `Stretch`."""
    if PEERS[job.peer].blocking:
        _source_blocking(link, job, address)
    else:
        run(_source(link, job, address), job.loop)


async def _source(link: Link, job: Job, address: Any) -> None:
    source = await PEERS[job.peer].open_source(job, address)
    send = source.send
    pool = Pool(job.size)
    for data in pool.messages(warm_count(job)):
        await send(data)
    messages = pool.messages(job.count)
    await link.listen("go")
    begun, cpu = time.perf_counter(), time.process_time()
    for data in messages:
        await send(data)
    await source.drain()
    link.tell("sent", Stretch(time.perf_counter(), time.process_time() - cpu, begun))
    await link.listen("close")
    await source.close()


def _source_blocking(link: Link, job: Job, address: Any) -> None:
    source = PEERS[job.peer].open_source(job, address)
    send = source.send
    pool = Pool(job.size)
    for data in pool.messages(warm_count(job)):
        send(data)
    messages = pool.messages(job.count)
    link.hear("go")
    begun, cpu = time.perf_counter(), time.process_time()
    for data in messages:
        send(data)
    source.drain()
    link.tell("sent", Stretch(time.perf_counter(), time.process_time() - cpu, begun))
    link.hear("close")
    source.close()


# ---------------------------------------------------------------------------------- round trip


def echo(link: Link, job: Job) -> None:
    """Send back everything that arrives, until the parent says to close."""
    _serve(link, job, PEERS[job.peer].open_echo)


def _serve(link: Link, job: Job, open_server: Callable[[Job], Any]) -> None:
    """Serve until the parent says to close; before and after each stretch, report the CPU time."""
    reports = 2 * len(job.stretches)
    if PEERS[job.peer].blocking:
        server = open_server(job)
        link.tell("address", server.address)
        for _ in range(reports):
            link.hear("report")
            link.tell("cpu", time.process_time())
        link.hear("close")
        server.close()
        return

    async def main() -> None:
        server = await open_server(job)
        link.tell("address", server.address)
        for _ in range(reports):
            await link.listen("report")
            link.tell("cpu", time.process_time())
        await link.listen("close")
        await server.close()

    run(main(), job.loop)


def caller(link: Link, job: Job, address: Any) -> None:
    """Ask one question after the other, check each answer, and report the `Calls`."""
    pool = Pool(job.size)
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
            raise ValueError("an answer does not match its question")
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
            raise ValueError("an answer does not match its question")
    calls = Calls(seconds, time.process_time() - cpu)
    caller.close()
    return calls


# ------------------------------------------------------------------------------------ requests


def responder(link: Link, job: Job) -> None:
    """Reply to every request with its own bytes, until the parent says to close."""
    _serve(link, job, PEERS[job.peer].open_responder)


def requester(link: Link, job: Job, address: Any) -> None:
    """Make the requests of each stretch at the parent's signal; report the `Requests`."""
    if PEERS[job.peer].blocking:
        _requester_blocking(link, job, address)
    else:
        run(_requester(link, job, address), job.loop)


async def _requester(link: Link, job: Job, address: Any) -> None:
    caller = await PEERS[job.peer].open_requester(job, address)
    pool = Pool(job.size)
    for in_flight, count in job.stretches:
        await _request(caller.ask, pool.messages(warm_count(job)), in_flight)
        link.tell("warm")
        await link.listen("go")
        link.tell("requested", await _request(caller.ask, pool.messages(count), in_flight))
    await caller.close()


def _requester_blocking(link: Link, job: Job, address: Any) -> None:
    line: Line = PEERS[job.peer].open_requester(job, address)
    pool = Pool(job.size)
    for in_flight, count in job.stretches:
        _request_blocking(line, pool.messages(warm_count(job)), in_flight)
        link.tell("warm")
        link.hear("go")
        link.tell("requested", _request_blocking(line, pool.messages(count), in_flight))
    line.close()


async def _request(
    ask: Callable[[bytes], Any], questions: Iterator[bytes], in_flight: int
) -> Requests:
    clock, seconds = time.perf_counter, []

    async def ask_on() -> None:
        for question in questions:  # the tasks share them
            begun = clock()
            reply = await ask(question)
            seconds.append(clock() - begun)
            if reply != question:
                raise ValueError("a reply does not match its request")

    begun, cpu = clock(), time.process_time()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(in_flight):
            tasks.create_task(ask_on())
    return Requests(clock() - begun, seconds, time.process_time() - cpu)


def _request_blocking(line: Line, questions: Iterator[bytes], in_flight: int) -> Requests:
    send, receive, clock, seconds = line.send, line.receive, time.perf_counter, []
    waiting: deque[tuple[bytes, float]] = deque()
    begun, cpu = clock(), time.process_time()
    for question in islice(questions, in_flight):
        waiting.append((question, clock()))
        send(question)
    while waiting:
        reply = receive()
        question, asked = waiting.popleft()
        seconds.append(clock() - asked)
        if reply != question:
            raise ValueError("a reply does not match its request")
        for following in islice(questions, 1):
            waiting.append((following, clock()))
            send(following)
    return Requests(clock() - begun, seconds, time.process_time() - cpu)


# --------------------------------------------------------------------------------------- crowd


def resident_bytes() -> int:
    """Return the memory this process occupies, or its peak where the system shows no more."""
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
    pool = Pool(job.size)
    for message in pool.messages(job.rounds):
        await link.listen("broadcast")
        begun, cpu = time.perf_counter(), time.process_time()
        await hub.broadcast(message)
        await asyncio.sleep(0)  # uvloop writes at the end of a turn
        sent = time.process_time() - cpu
        await link.listen("arrived")
        if PEERS[job.peer].sends_later:
            sent = time.process_time() - cpu
        await link.listen("settled")
        link.tell("done", Broadcast(begun, sent, time.process_time() - cpu))
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
    pool = Pool(job.size)
    for message in pool.messages(job.rounds):
        link.hear("broadcast")
        begun, cpu = time.perf_counter(), time.process_time()
        hub.broadcast(message)
        sent = time.process_time() - cpu
        link.hear("arrived")
        link.hear("settled")
        link.tell("done", Broadcast(begun, sent, time.process_time() - cpu))
    link.hear("close")
    link.tell("used", _settled_bytes() - before)
    hub.close()


def _all_there(hub: Hub, job: Job) -> None:
    if hub.connected() != job.sessions:
        raise ValueError(f"{hub.connected()} sessions, not {job.sessions}")


class _Arrivals:
    """When each copy of a broadcast arrived: one for each member of the crowd, and no other."""

    def __init__(self, job: Job) -> None:
        self._messages = Pool(job.size).messages(job.rounds)
        self._message = next(self._messages, b"")
        self._sessions = job.sessions
        self._times: dict[Hashable, float] = {}
        self._fault = ""
        self.complete = asyncio.Event()

    def take(self, data: bytes, member: Hashable) -> None:
        if data != self._message:
            self._fault = "a member received something other than the broadcast"
        elif member in self._times:
            self._fault = "a member received a broadcast twice"
        else:
            self._times[member] = time.perf_counter()
        if self._fault or len(self._times) == self._sessions:
            self.complete.set()

    def finish(self) -> list[float]:
        """Return this round's times and start the next."""
        if self._fault:
            raise ValueError(self._fault)
        times, self._times = list(self._times.values()), {}
        self._message = next(self._messages, b"")
        self.complete.clear()
        return times


def crowd(link: Link, job: Job, address: Any) -> None:
    """Join a hub ``job.sessions`` times; report how long that took, and when broadcasts came."""
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
    link.tell("joined", Stretch(time.perf_counter(), time.process_time() - cpu, begun))
    for _ in range(job.rounds):
        await link.listen("broadcast")
        link.tell("ready")
        await arrivals.complete.wait()
        link.tell("arrived")
        await asyncio.sleep(_AFTERMATH_SECONDS)
        link.tell("settled", arrivals.finish())
    await link.listen("close")
    await crowd.close()
