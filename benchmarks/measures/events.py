"""Events: an awaited emit that ends when all handlers have ended.

There are two kinds of handlers. Those of "emit" only count. Those of "emit, handlers that wait 1
ms" wait first, as handlers do that ask something of somebody, which shows whether they run
concurrently.

Each library is used as it is meant to be used from asyncio. They promise different things, which
the table cannot show. Ours runs handlers concurrently, returns their results in order and isolates
their failures. pyee starts a task for each handler and returns before they have run; the benchmark
waits for them. blinker awaits one handler after the other, and the first exception skips the rest.
psygnal has a queue of its own, from which one task awaits one handler after the other; the
benchmark waits for that too. The plain loop of awaits shows what the handlers themselves cost.
"""

from __future__ import annotations

import asyncio
import importlib.util
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks import roles
from benchmarks.peers import OWN
from benchmarks.processes import Child

from .base import Case, Key, Metric, Sample, Setting

if TYPE_CHECKING:
    from benchmarks.processes import Link

__all__ = ["HANDLERS", "WAITING_HANDLERS", "Events", "emit"]

HANDLERS = (0, 1, 10, 100)
WAITING_HANDLERS = (1, 10, 100)
_PLAIN = "a loop of awaits"
_SECONDS = 0.4
_QUICK_SECONDS = 0.1
_WAIT_SECONDS = 0.001

Emit = Callable[[int], Awaitable[object]]
Handler = Callable[[int], Awaitable[object]]
Install = Callable[[list[Handler], Callable[[], int]], Awaitable[Emit]]
"""Register handlers with a library. The function returns how many calls of them have ended."""


def emit(handlers: int, *, waiting: bool = False) -> Metric:
    """Return the metric of one emit to this many handlers, which wait for something or not."""
    name, digits = ("emit, handlers that wait 1 ms", 0) if waiting else ("emit", 2)
    return Metric(name, handlers, "us", digits, of="handlers")


async def _own(handlers: list[Handler], _ended: Callable[[], int]) -> Emit:
    from seigr_toolset_transmissions import EventEmitter

    events = EventEmitter()
    for handler in handlers:
        events.register("event", handler)
    return partial(events.emit, "event")


async def _plain(handlers: list[Handler], _ended: Callable[[], int]) -> Emit:
    async def call_all(value: int) -> None:
        for handler in handlers:
            await handler(value)

    return call_all


async def _pyee(handlers: list[Handler], _ended: Callable[[], int]) -> Emit:
    from pyee.asyncio import AsyncIOEventEmitter

    emitter = AsyncIOEventEmitter()
    for handler in handlers:
        emitter.on("event", handler)

    async def emit(value: int) -> None:
        emitter.emit("event", value)
        await emitter.wait_for_complete()

    return emit


async def _blinker(handlers: list[Handler], _ended: Callable[[], int]) -> Emit:
    from blinker import Signal

    signal = Signal()
    for handler in handlers:
        signal.connect(handler, weak=False)
    return partial(signal.send_async)


async def _psygnal(handlers: list[Handler], ended: Callable[[], int]) -> Emit:
    from psygnal import Signal, get_async_backend, set_async_backend

    if get_async_backend() is None:
        set_async_backend("asyncio")
        await asyncio.sleep(0)  # until its task runs

    class Sender:
        event = Signal(int)

    sender = Sender()
    for handler in handlers:
        sender.event.connect(handler, check_nargs=False)

    async def emit(value: int) -> None:
        due = ended() + len(handlers)
        sender.event.emit(value)
        while ended() < due:  # noqa: ASYNC110 - there is nothing else to wait for
            await asyncio.sleep(0)

    return emit


_LIBRARIES: dict[str, tuple[str | None, Install]] = {
    OWN: (None, _own),
    "pyee": ("pyee", _pyee),
    "blinker": ("blinker", _blinker),
    "psygnal": ("psygnal", _psygnal),
    _PLAIN: (None, _plain),
}


class Events:
    """Each library, with 0, 1, 10 and 100 handlers."""

    name = "events"

    def cases(self, setting: Setting) -> list[Case]:
        """Return one case for each installed library and loop."""
        seconds = _QUICK_SECONDS if setting.quick else _SECONDS
        return [
            Case(name, "emit", partial(_measure, name, loop, seconds))
            for name, (module, _) in _LIBRARIES.items()
            if module is None or importlib.util.find_spec(module) is not None
            for loop in setting.loops
        ]


def _measure(name: str, loop: str, seconds: float) -> list[Sample]:
    with Child(time_library, name, loop, seconds, limit=60.0) as child:
        timed: list[tuple[Metric, float]] = child.link.hear("timed")
    return [Sample(Key(metric, loop, name), value * 1e6) for metric, value in timed]


def time_library(link: Link, name: str, loop: str, seconds: float) -> None:
    """Report the seconds of one emit, for each number and kind of handlers."""
    timed: list[tuple[Metric, float]] = []

    async def main() -> None:
        for waiting, counts in ((False, HANDLERS), (True, WAITING_HANDLERS)):
            for count in counts:
                cost = await _time_emit(_LIBRARIES[name][1], count, seconds, waiting=waiting)
                timed.append((emit(count, waiting=waiting), cost))

    roles.run(main(), loop)
    link.tell("timed", timed)


async def _time_emit(install: Install, count: int, seconds: float, *, waiting: bool) -> float:
    ended = 0

    def make() -> Handler:  # a separate function for each: some emitters keep a set
        async def count_up(*_values: Any) -> None:
            nonlocal ended
            ended += 1

        async def wait_and_count_up(*_values: Any) -> None:
            nonlocal ended
            await asyncio.sleep(_WAIT_SECONDS)
            ended += 1

        return wait_and_count_up if waiting else count_up

    emit = await install([make() for _ in range(count)], lambda: ended)
    batch = 1 if waiting else max(10, 5_000 // (count + 1))
    for value in range(batch):
        await emit(value)
    ended = emits = 0
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        for value in range(batch):
            await emit(value)
        emits += batch
        if ended != emits * count:
            raise ValueError(f"{ended} calls of handlers have ended, not {emits * count}")
    return (time.perf_counter() - begun) / emits
