"""Endpoints: the cost of adding, finding and removing one as their number grows; their memory."""

from __future__ import annotations

import gc
import time
import tracemalloc
from functools import partial
from typing import TYPE_CHECKING

from benchmarks import roles
from benchmarks.peers import OWN
from benchmarks.processes import Child
from seigr_toolset_transmissions import EndpointManager

from .base import Case, Key, Metric, Sample, Setting

if TYPE_CHECKING:
    from benchmarks.processes import Link

__all__ = ["OPERATIONS", "SIZES", "Endpoints", "find", "memory", "operation"]

SIZES = (10, 100, 1_000, 10_000, 100_000, 1_000_000)
_QUICK_SIZES = SIZES[:-1]
OPERATIONS = ("add", "get", "remove")
_AT_ONCE = 1_000
_WEIGHED = 20_000
"""tracemalloc slows everything down, and the bytes per endpoint hardly depend on the number."""


def operation(name: str, endpoints: int) -> Metric:
    """Return the metric of one call while there are this many endpoints."""
    return Metric(f"{name} an endpoint", endpoints, "us", 2, of="endpoints")


def find(endpoints: int) -> Metric:
    """Return the metric of a search through all metadata, per endpoint."""
    return Metric("find by metadata, per endpoint", endpoints, "us", 3, of="endpoints")


def memory(endpoints: int) -> Metric:
    """Return the metric of the bytes that an idle endpoint takes, including its id."""
    return Metric("memory of an idle endpoint", endpoints, "B", 0, of="endpoints")


class Endpoints:
    """An `EndpointManager` on its own."""

    name = "endpoints"

    def cases(self, setting: Setting) -> list[Case]:
        """Return one case: there are no peers, and no loop is used."""
        sizes = _QUICK_SIZES if setting.quick else SIZES
        return [Case(OWN, "endpoints", partial(_measure, sizes, setting.loops[0]))]


def _measure(sizes: tuple[int, ...], loop: str) -> list[Sample]:
    with Child(time_endpoints, sizes, limit=300.0) as child:
        timed: list[tuple[Metric, float]] = child.link.hear("timed")
    return [Sample(Key(metric, loop, OWN), value) for metric, value in timed]


def time_endpoints(link: Link, sizes: tuple[int, ...]) -> None:
    """Report the costs at each size."""
    timed: list[tuple[Metric, float]] = []

    async def main() -> None:
        timed.append((memory(_WEIGHED), await _weigh(_WEIGHED)))
        for size in sizes:
            timed.extend(await _time(size))

    roles.run(main(), "asyncio")
    link.tell("timed", timed)


def _id(number: int) -> bytes:
    return number.to_bytes(28)


async def _filled(size: int) -> EndpointManager:
    manager = EndpointManager()
    for number in range(size):
        await manager.add_endpoint(_id(number), ("127.0.0.1", 1), {"type": number % 100})
    return manager


async def _weigh(size: int) -> float:
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    manager = EndpointManager()
    address = ("127.0.0.1", 1)
    for number in range(size):
        await manager.add_endpoint(_id(number), address)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    if len(manager) != size:
        raise ValueError("not all endpoints were added")
    return (after - before) / size


async def _time(size: int) -> list[tuple[Metric, float]]:
    manager = await _filled(size)
    gc.collect()
    gc.freeze()  # the collector skips what is already there while new ones are added
    try:
        fresh = [_id(size + number) for number in range(_AT_ONCE)]
        # Known endpoints, spread over all of them.
        known = [_id(number * size // _AT_ONCE) for number in range(_AT_ONCE)]
        seconds: dict[str, list[float]] = {name: [] for name in OPERATIONS}
        for _ in range(5):
            begun = time.perf_counter()
            for endpoint_id in fresh:
                await manager.add_endpoint(endpoint_id, ("127.0.0.1", 1))
            added = time.perf_counter()
            for endpoint_id in known:
                if manager.get_endpoint(endpoint_id) is None:
                    raise ValueError("a known endpoint was not found")
            got = time.perf_counter()
            for endpoint_id in fresh:
                await manager.remove_endpoint(endpoint_id)
            removed = time.perf_counter()
            for name, span in zip(
                OPERATIONS, (added - begun, got - added, removed - got), strict=True
            ):
                seconds[name].append(span / _AT_ONCE * 1e6)
        begun = time.perf_counter()
        found = manager.find(type=7)
        searched = time.perf_counter() - begun
        if len(found) != len(range(7, size, 100)) or len(manager) != size:
            raise ValueError("find did not find what is there")
    finally:
        gc.unfreeze()
    return [
        *((operation(name, size), min(values)) for name, values in seconds.items()),
        (find(size), searched / size * 1e6),
    ]
