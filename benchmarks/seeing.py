"""What it costs to watch a node: ``python -m benchmarks.seeing``.

A hub listens over TCP. A crowd in another process connects to it; its members come and go, and some
of them send. The hub's program emits events. In turns, the hub shows nothing, makes a monitor
socket that nobody reads, is watched by ``stt top``, serves a console that nobody looks at, and
serves one with a page open in Chromium. For each turn this prints what share of a processor the hub
needs. The difference is what a hub that is busy all the time cannot do otherwise while it is
watched; it does not depend on what else the machine does, the browser included. Then one page stays
open, and the memory of the hub and of the page is shown minute by minute. Exits with code 1 if a
page takes 5 % of the hub's processor, or a task of the page 100 ms of processor time. How long a
task really takes depends on what else the machine does. ``--only top`` needs no Chromium, emits no
events beyond those of the crowd, and exits with code 1 if ``stt top`` takes 5 %.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import resource
import secrets
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from benchmarks.processes import Child, Failure, Link
from helpers.browser import Browser, Page, find_browser
from seigr_toolset_transmissions import NodeConfig, STTNode
from seigr_toolset_transmissions.identity import Identity
from seigr_toolset_transmissions.seeing import serve_console, serve_monitor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

__all__ = ["measure"]

_MESSAGE = bytes(1024)
_MESSAGES = 2000.0
"""How many messages come each second."""
_CHANGES = 20.0
"""How many members leave each second; as many others come."""
_SETTLING = 2.0
"""Seconds from the opening of a page to the measuring."""
_LEAST_DESCRIPTORS = 8192
_STARTING = 4.0
"""Seconds after which `stt top` shows the node."""
MOST_TAKEN = 0.05
MOST_BUSY = 100.0
"""Milliseconds."""

OBSERVE = """new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) (window.busy ??= []).push(entry.duration);
}).observe({ type: "longtask", buffered: true })"""


def _allow_descriptors() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _LEAST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_LEAST_DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


# --------------------------------------------------------------------------------- the crowd


def crowd(link: Link, shared_seed: bytes, address: tuple[str, int], size: int) -> None:
    """Play the members, until the parent says so."""
    _allow_descriptors()
    asyncio.run(_crowd(link, shared_seed, address, size))


async def _crowd(link: Link, shared_seed: bytes, address: tuple[str, int], size: int) -> None:
    async def join() -> STTNode:
        node = STTNode(secrets.token_bytes(32), shared_seed)
        # Not derived from a seed, which takes 100 ms.
        node._keys._identity = Identity(X25519PrivateKey.generate())  # noqa: SLF001
        await node.start()
        await node.connect(*address, timeout=60)
        return node

    members: list[STTNode] = []
    while len(members) < size:
        members += await asyncio.gather(*(join() for _ in range(min(50, size - len(members)))))
    link.tell("ready")

    async def change() -> None:
        while True:
            place = random.randrange(1, size)  # noqa: S311 - no secret
            leaving, members[place] = members[place], await join()
            await leaving.stop()
            await asyncio.sleep(1 / _CHANGES)

    tasks = [asyncio.create_task(change()), asyncio.create_task(_send(members[0]))]
    await link.listen("done")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*(node.stop(drain=0) for node in members))


async def _send(node: STTNode) -> None:
    [session] = node.sessions
    async for count in _paced(_MESSAGES):
        for _ in range(count):
            await session.send(_MESSAGE)


async def _paced(each_second: float) -> AsyncIterator[int]:
    """Iterate over how many are due, a hundred times a second."""
    began, done = time.monotonic(), 0
    while True:
        due = int((time.monotonic() - began) * each_second) - done
        done += due
        yield due
        await asyncio.sleep(0.01)


# ----------------------------------------------------------------------------------- the hub


async def _receive(node: STTNode) -> None:
    """Take all messages, and do nothing with them."""
    while True:
        await node.endpoints.receive_many()


async def _emit(node: STTNode, events: int) -> None:
    """Emit so many events a second."""
    number = 0
    async for count in _paced(events):
        for _ in range(count):
            number += 1
            await node.events.emit("peer_connected", peer_node_id=number.to_bytes(32))


async def _share(seconds: float) -> float:
    """Return what share of a processor this process needs."""
    gc.collect()
    cpu, began = time.process_time(), time.monotonic()
    await asyncio.sleep(seconds)
    return (time.process_time() - cpu) / (time.monotonic() - began)


class _Pages:
    """Pages of the browser, and how busy they were, in milliseconds."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self.longest: float = 0.0
        """The most processor time that a task took while it was traced."""
        self.busy: list[float] = []
        """How long tasks took of which the browser says that they took long."""

    async def open(self, url: str) -> Page:
        """Open a page, and return once it shows the node."""
        page = await self._browser.open(url)
        await page.call("Performance.enable", timeDomain="threadTicks")
        await page.run(OBSERVE)
        await page.until("document.getElementById('state').dataset.state === 'live'", 60)
        return page

    async def close(self, page: Page) -> None:
        """Leave a page."""
        self.busy += await page.run("window.busy ?? []")
        await page.go("about:blank")

    @asynccontextmanager
    async def traced(self) -> AsyncIterator[None]:
        """Find the longest task of a block."""
        async with self._browser.traced() as events:
            yield
        threads = {
            (event["pid"], event["tid"])
            for event in events
            if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
        }
        for event in events:
            if event["name"].endswith("::RunTask") and (event["pid"], event["tid"]) in threads:
                self.longest = max(self.longest, event.get("tdur", 0) / 1000)


@asynccontextmanager
async def _watched_by_top(path: Path) -> AsyncIterator[None]:
    """Let ``stt top`` watch the node, at a terminal of its own."""
    command = [sys.executable, "-m", "seigr_toolset_transmissions.cli", "top", str(path)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", f"import pty; pty.spawn({command!r})"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"},
    )
    try:
        await asyncio.sleep(_STARTING)
        if process.returncode is not None:
            raise Failure("stt top has ended")
        yield
    finally:
        process.terminate()  # and with it the terminal, which ends the command
        await process.wait()


async def _in_turns(
    node: STTNode, pages: _Pages | None, folder: Path, rounds: int, seconds: float
) -> float:
    """Print what the hub needs, watched or not; return the share that a page takes, or stt top."""
    path = folder / "monitor"

    async def alone() -> float:
        return await _share(seconds)

    async def shown() -> float:
        async with serve_monitor(node, path):
            return await _share(seconds)

    async def topped() -> float:
        async with serve_monitor(node, path), _watched_by_top(path):
            return await _share(seconds)

    async def served() -> float:
        async with serve_console(node):
            return await _share(seconds)

    async def watched() -> float:
        assert pages is not None
        async with serve_console(node) as console:
            page = await pages.open(console.url)
            await asyncio.sleep(_SETTLING)
            async with pages.traced():
                found = await _share(seconds)
            await pages.close(page)
            return found

    ways: dict[str, Callable[[], Awaitable[float]]] = {
        "nothing": alone,
        "a monitor socket that nobody reads": shown,
        "stt top": topped,
    }
    if pages is not None:
        ways |= {"a console that nobody looks at": served, "a page is open": watched}
    found: dict[str, list[float]] = defaultdict(list)
    for turn in range(rounds):
        for name, way in list(ways.items())[:: 1 if turn % 2 else -1]:
            found[name].append(await way())
            print(f"  {name}: {found[name][-1]:.1%}", flush=True)
    # Compared round by round: the machine may be slower in one round than in another.
    first = found["nothing"]
    taken = {
        name: statistics.median(one - other for one, other in zip(values, first, strict=True))
        for name, values in found.items()
    }
    print("shares of a processor that the hub needs, medians:")
    for name, values in found.items():
        print(f"  {name}: {statistics.median(values):.1%} ({taken[name]:+.1%})", flush=True)
    return taken["stt top" if pages is None else "a page is open"]


async def _stay(node: STTNode, pages: _Pages, seconds: float) -> None:
    """Keep a page open, and print what it and the hub need, minute by minute."""
    async with serve_console(node) as console:
        page = await pages.open(console.url)
        began, last, spent = time.monotonic(), 0.0, 0.0
        while True:
            await asyncio.sleep(min(60.0, max(1.0, seconds - last)))
            passed = time.monotonic() - began
            await page.call("HeapProfiler.collectGarbage")
            figures = await page.call("Performance.getMetrics")
            metrics: dict[str, Any] = {each["name"]: each["value"] for each in figures["metrics"]}
            busy = (metrics["TaskDuration"] - spent) / (passed - last)
            last, spent = passed, metrics["TaskDuration"]
            print(
                f"after {passed:4.0f} s: hub {_resident() / 1e6:.1f} MB; page "
                f"{metrics['JSHeapUsedSize'] / 1e6:.2f} MB, {metrics['Nodes']:,.0f} nodes, "
                f"{busy:.1%} of a processor",
                flush=True,
            )
            if passed >= seconds:
                break
        await pages.close(page)


def _resident() -> int:
    """Return the memory that this process takes now, in bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


async def measure(
    endpoints: int, events: int, rounds: int, turn: float, stay: float, *, browser: bool = True
) -> bool:
    """Run everything, or all but the console; return whether the limits were met."""
    program = find_browser() if browser else None
    if browser and program is None:
        raise SystemExit("there is no Chromium: install it, or measure with --only top")
    _allow_descriptors()
    shared_seed = secrets.token_bytes(32)
    node = STTNode(
        secrets.token_bytes(32), shared_seed, config=NodeConfig(max_sessions=2 * endpoints + 100)
    )
    folder = Path(tempfile.mkdtemp(prefix="browser-"))
    limit = 600 + stay + rounds * 5 * (turn + 30)
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        await stack.enter_async_context(node.listening())
        tasks = [asyncio.create_task(_receive(node)), asyncio.create_task(_emit(node, events))]
        for task in tasks:
            stack.callback(task.cancel)
        assert node.address is not None
        child = stack.enter_context(Child(crowd, shared_seed, node.address, endpoints, limit=limit))
        await child.link.listen("ready")
        print(
            f"{endpoints:,} endpoints, of which {_CHANGES:g} leave and {_CHANGES:g} come each "
            f"second; {events:,} events and {_MESSAGES:,.0f} messages a second"
        )
        pages = None
        if program is not None:
            pages = _Pages(await stack.enter_async_context(Browser(program, folder)))
        taken = await _in_turns(node, pages, folder, rounds, turn)
        if stay and pages is not None:
            await _stay(node, pages, stay)
        child.link.tell("done")
    if pages is None:
        return taken < MOST_TAKEN
    print(
        f"the longest task of the page: {pages.longest:.0f} ms of processor time; tasks that took "
        f"over 50 ms: {len(pages.busy)}, the longest {max(pages.busy, default=0.0):.0f} ms"
    )
    return taken < MOST_TAKEN and pages.longest <= MOST_BUSY


def main() -> int:
    """Read the options, and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seeing", description=__doc__)
    parser.add_argument("--endpoints", type=int, default=2000, help="[default: 2000]")
    parser.add_argument("--events", type=int, help="a second [default: 5000; of --only top: 0]")
    parser.add_argument("--rounds", type=int, default=7, help="[default: 7]")
    parser.add_argument("--turn", type=float, default=6.0, help="seconds [default: 6]")
    parser.add_argument(
        "--stay", type=float, default=600.0, help="seconds of one page; 0: none [default: 600]"
    )
    parser.add_argument("--only", choices=["top"], help="measure nothing but stt top")
    chosen = parser.parse_args()
    events = chosen.events
    if events is None:
        events = 5000 if chosen.only is None else 0
    sizes = (chosen.endpoints, events, chosen.rounds, chosen.turn, chosen.stay)
    return 0 if asyncio.run(measure(*sizes, browser=chosen.only is None)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
