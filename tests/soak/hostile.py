"""Strangers and forgers in large numbers: ``python -m tests.soak.hostile``.

It sends mutated handshakes and records to a node in memory, and probes and silent connections to a
node in a process of its own, over TCP on loopback. It measures the processor time that a refused
stranger costs. Prints a summary, and exits with code 1 if a bound is exceeded.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import random
import resource
import socket
import statistics
import sys
import time
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.material import Material
from benchmarks.measures.base import Setting
from benchmarks.measures.strangers import ABOVE_BARE, Strangers
from benchmarks.peers import OWN
from helpers.clock import run_virtual
from helpers.independent import Keys
from helpers.nodes import SHARED_SEED, memory_nodes
from helpers.strangers import PROBES, Forger, opening_of, probe
from seigr_toolset_transmissions import STTNode, generate_seed
from seigr_toolset_transmissions.protocol.hello import Hello

if TYPE_CHECKING:
    from types import TracebackType

KINDS = {"first": 0.55, "second": 0.15, "third": 0.15, "record": 0.15}
"""What to change, and how often: a handshake message, or a record after the handshake."""

MEMORY_MIB = 5.0
HANDSHAKE_SECONDS = 1.0
STRANGER_MICROSECONDS = 20.0
AT_ONCE = 20
"""Probes under way at a time."""
MEMBER_EVERY = 250
"""Silent connections between two handshakes of a member."""


class Verdict:
    """Prints each result, and remembers whether all were good."""

    def __init__(self) -> None:
        self.good = True

    def say(self, good: bool, text: str) -> None:
        self.good = self.good and good
        print(f"{'ok    ' if good else 'FAILED'} {text}", flush=True)


def resident_mib() -> float:
    """Return how much memory this process occupies, in MiB."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def forge(count: int, chance: random.Random, verdict: Verdict) -> None:
    """Change ``count`` handshakes and records."""
    began = time.monotonic()
    async with memory_nodes() as nodes:
        listener = await nodes.listen()
        assert nodes.network is not None
        forger = Forger(nodes.network, listener, Keys(SHARED_SEED), chance)
        # The node's memory of first messages is bounded: fill it before measuring.
        for _ in range(1 << 16):
            listener._life.acceptor._first_messages.check(chance.randbytes(64), Hello(1, 1))
        await forger.begin()
        kinds = chance.choices(list(KINDS), list(KINDS.values()), k=count)
        warm = count // 10
        for kind in kinds[:warm]:
            await forger.forge(kind)
        before = resident_mib()
        for kind in kinds[warm:]:
            await forger.forge(kind)
        growth = resident_mib() - before
        await forger.end()
        left = len(listener._life.acceptor.answering)
    verdict.say(
        forger.done.total() == count and not left,
        f"{count} mutated handshakes and records {dict(forger.done)}, none accepted, "
        f"{time.monotonic() - began:.0f} s",
    )
    verdict.say(not forger.undocumented(), f"undocumented exceptions: {forger.undocumented()}")
    verdict.say(growth < MEMORY_MIB, f"memory grew by {growth:.1f} MiB (< {MEMORY_MIB} MiB)")


class Child:
    """A listening node in a process of its own, with the shared seed of the tests."""

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.soak.hostile", "--listen", stdin=PIPE, stdout=PIPE
        )
        assert self._process.stdout is not None
        self.address = "127.0.0.1", int(await self._process.stdout.readline())
        return self

    async def report(self, half_open: int) -> dict[str, Any]:
        """Return its report, once no more than ``half_open`` connections are half-open."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        while True:
            self._process.stdin.write(b"\n")
            answer: dict[str, Any] = json.loads(await self._process.stdout.readline())
            if answer["half_open"] <= half_open:
                return answer
            await asyncio.sleep(0.1)

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        await self._process.wait()


class _Counting(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


async def listen() -> None:
    """Run as the child: print the port, then a report for each line of input, until it ends."""
    node = STTNode(generate_seed(), SHARED_SEED)
    address = await node.start(server_mode=True)
    assert address is not None
    lines = _Counting()  # of what strangers cause: the node has said where it listens
    logger = logging.getLogger("seigr_toolset_transmissions")
    logger.addHandler(lines)
    logger.setLevel(logging.DEBUG)
    print(address[1], flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        stats = node.stats()
        report = {
            "tasks": len(asyncio.all_tasks()),
            "log_lines": lines.count,
            "memory": resident_mib(),
            "half_open": stats.half_open,
            "sessions": stats.sessions,
            "failed": stats.handshakes_failed,
            "dropped": stats.handshakes_dropped,
        }
        print(json.dumps(report), flush=True)
    await node.stop()


async def knock(count: int, chance: random.Random, verdict: Verdict) -> None:
    """Probe a node ``count`` times."""
    async with Child() as child:
        opening = opening_of(SHARED_SEED)
        reader, writer = await asyncio.open_connection(*child.address)
        writer.write(opening)
        await reader.readexactly(160)
        writer.transport.abort()
        probes = [*PROBES.values(), opening]
        before = await child.report(half_open=0)
        began = time.monotonic()
        answered = 0
        for _ in range(0, count, AT_ONCE):
            chosen = chance.choices(probes, k=AT_ONCE)
            answers = await asyncio.gather(*(probe(child.address, data) for data in chosen))
            answered += sum(map(len, answers))
        spent = time.monotonic() - began
        after = await child.report(half_open=0)
    refused = after["failed"] + after["dropped"] - before["failed"] - before["dropped"]
    verdict.say(
        answered == 0 and refused == count,
        f"{count} probes: {answered} bytes answered, {refused} refused, {spent:.0f} s",
    )
    verdict.say(
        after["log_lines"] == 0 and after["tasks"] == before["tasks"],
        f"left behind: {after['log_lines']} log lines, {after['tasks'] - before['tasks']} tasks; "
        f"memory grew by {after['memory'] - before['memory']:.1f} MiB",
    )


async def crowd(count: int, verdict: Verdict) -> None:
    """Open ``count`` silent connections; see how long a member's handshake takes."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    silent: list[socket.socket] = []
    times: list[float] = []
    async with Child() as child, STTNode(generate_seed(), SHARED_SEED) as member:
        try:
            for number in range(count):
                silent.append(socket.create_connection(child.address))
                if number % MEMBER_EVERY == 0:
                    began = time.monotonic()
                    session = await member.connect(*child.address, timeout=30)
                    times.append(time.monotonic() - began)
                    await session.close()
            report = await child.report(half_open=256)
        finally:
            for stranger in silent:
                stranger.close()
    verdict.say(
        max(times) < HANDSHAKE_SECONDS,
        f"{count} half-open connections: {len(times)} handshakes of a member meanwhile, "
        f"the longest {max(times) * 1000:.0f} ms; {report['half_open']} half-open in the end, "
        f"{report['dropped']} dropped, {report['memory']:.0f} MiB",
    )


class _Nowhere:
    """A transport that costs nothing."""

    peer_address = ("203.0.113.7", 7)

    def write(self, data: bytes) -> None:
        raise AssertionError("a stranger was answered")

    def abort(self) -> None:
        pass


async def charge(chance: random.Random, verdict: Verdict) -> None:
    """Measure what refusing a stranger costs: our part, and the total beyond a bare listener."""
    node = STTNode(generate_seed(), SHARED_SEED)
    await node.start(server_mode=True)
    transport: Any = _Nowhere()
    costs = []
    for _ in range(10):
        openings = [memoryview(chance.randbytes(64)) for _ in range(1000)]
        began = time.process_time()
        for opening in openings:
            receiver = node._life.acceptor.accept()
            receiver.connection_made(transport)
            receiver.bytes_received(opening)
            receiver.connection_lost(None)
        costs.append((time.process_time() - began) * 1000)
        await asyncio.sleep(0)
    await node.stop()
    cost = statistics.median(costs)
    setting = Setting(material=Material(""), quick=False, loops=("asyncio",), peers=(OWN,))
    [case] = Strangers().cases(setting)
    [beyond] = [sample.value for sample in case.run() if sample.key.metric == ABOVE_BARE]
    verdict.say(
        cost <= STRANGER_MICROSECONDS,
        f"a refused stranger: {cost:.1f} us of processor time (<= {STRANGER_MICROSECONDS:.0f} us); "
        f"with the socket and the event loop {beyond:.0f} us beyond accepting and resetting",
    )


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--forgeries", type=int, default=100_000, help="default: %(default)s")
    parser.add_argument("--probes", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--half-open", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="of all random choices")
    parser.add_argument("--listen", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.listen:
        asyncio.run(listen())
        return 0
    chance = random.Random(options.seed)  # noqa: S311 - no secret
    verdict = Verdict()
    run_virtual(forge(options.forgeries, chance, verdict))
    asyncio.run(knock(options.probes, chance, verdict))
    asyncio.run(crowd(options.half_open, verdict))
    asyncio.run(charge(chance, verdict))
    print("all ok" if verdict.good else "FAILED")
    return 0 if verdict.good else 1


if __name__ == "__main__":
    sys.exit(main())
