"""Events: an emit that is awaited, with handlers that do nothing but count.

Each library is used as it is meant to be from asyncio. They promise different things, which the
table cannot show: ours runs handlers concurrently, returns their results in order and isolates
their failures; blinker awaits one after the other, and the first exception skips the rest; pyee
starts tasks, returns before they have run, and is waited for here; psygnal starts tasks too, from
a queue of its own. The plain loop of awaits is what the handlers themselves cost.
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

__all__ = ["HANDLERS", "PLAIN", "Events", "emit"]

HANDLERS = (0, 1, 10, 100)
PLAIN = "a loop of awaits"
_SECONDS = 0.4
_QUICK_SECONDS = 0.1

Emit = Callable[[int], Awaitable[object]]
Handler = Callable[[int], Awaitable[object]]
Install = Callable[[list[Handler]], Emit]


def emit(handlers: int) -> Metric:
    """Return the metric of one emit to so many handlers."""
    return Metric("emit", handlers, "us", 2, of="handlers")


def _own(handlers: list[Handler]) -> Emit:
    from seigr_toolset_transmissions import EventEmitter

    events = EventEmitter()
    for handler in handlers:
        events.register("event", handler)
    return partial(events.emit, "event")


def _plain(handlers: list[Handler]) -> Emit:
    async def call_all(value: int) -> None:
        for handler in handlers:
            await handler(value)

    return call_all


def _pyee(handlers: list[Handler]) -> Emit:
    from pyee.asyncio import AsyncIOEventEmitter

    emitter = AsyncIOEventEmitter()
    for handler in handlers:
        emitter.on("event", handler)

    async def emit(value: int) -> None:
        emitter.emit("event", value)
        await emitter.wait_for_complete()

    return emit


def _blinker(handlers: list[Handler]) -> Emit:
    from blinker import Signal

    signal = Signal()
    for handler in handlers:
        signal.connect(handler, weak=False)
    return signal.send_async


def _psygnal(handlers: list[Handler]) -> Emit:
    from psygnal import Signal, get_async_backend, set_async_backend

    if get_async_backend() is None:
        set_async_backend("asyncio")

    class Sender:
        event = Signal(int)

    sender = Sender()
    for handler in handlers:
        sender.event.connect(handler, check_nargs=False)

    async def emit(value: int) -> None:
        sender.event.emit(value)
        await asyncio.sleep(0)

    return emit


_LIBRARIES: dict[str, tuple[str | None, Install]] = {
    OWN: (None, _own),
    "pyee": ("pyee", _pyee),
    "blinker": ("blinker", _blinker),
    "psygnal": ("psygnal", _psygnal),
    PLAIN: (None, _plain),
}


class Events:
    """Each library, with 0, 1, 10 and 100 handlers."""

    name = "events"

    def cases(self, setting: Setting) -> list[Case]:
        """One case for each library and loop that is installed."""
        seconds = _QUICK_SECONDS if setting.quick else _SECONDS
        return [
            Case(name, "emit", partial(_measure, name, loop, seconds))
            for name, (module, _) in _LIBRARIES.items()
            if module is None or importlib.util.find_spec(module) is not None
            for loop in setting.loops
        ]


def _measure(name: str, loop: str, seconds: float) -> list[Sample]:
    with Child(time_library, name, loop, seconds, limit=60.0) as child:
        timed: dict[int, float] = child.link.hear("timed")
    return [Sample(Key(emit(count), loop, name), value * 1e6) for count, value in timed.items()]


def time_library(link: Link, name: str, loop: str, seconds: float) -> None:
    """Report, for each number of handlers, the seconds of one emit."""
    timed: dict[int, float] = {}

    async def main() -> None:
        for count in HANDLERS:
            timed[count] = await _time_emit(_LIBRARIES[name][1], count, seconds)

    roles.run(main(), loop)
    link.tell("timed", timed)


async def _time_emit(install: Install, count: int, seconds: float) -> float:
    calls = 0

    def make() -> Handler:  # a function of its own for each: some emitters keep a set
        async def handler(*_values: Any) -> None:
            nonlocal calls
            calls += 1

        return handler

    emit = install([make() for _ in range(count)])
    for value in range(100):
        await emit(value)
    await _all_called(lambda: calls, 100 * count)
    calls = emits = 0
    batch = max(10, 5_000 // (count + 1))
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        for value in range(batch):
            await emit(value)
        emits += batch
    await _all_called(lambda: calls, emits * count)
    return (time.perf_counter() - begun) / emits


async def _all_called(calls: Callable[[], int], due: int) -> None:
    for _ in range(100_000):
        if calls() >= due:
            break
        await asyncio.sleep(0)
    if calls() != due:
        raise ValueError(f"{calls()} calls of handlers, not {due}")
