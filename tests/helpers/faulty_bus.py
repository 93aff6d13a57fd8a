"""A bus that loses, doubles, swaps and delays what passes: wraps another one."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seigr_toolset_transmissions.transports.bus import Arrived, Bus, Unsubscribe

if TYPE_CHECKING:
    from seigr_toolset_transmissions.transports.memory_bus import MemoryBus

__all__ = ["FaultyBus", "Odds"]


@dataclass
class Odds:
    """How often each fault happens, from 0.0 to 1.0; the sum is at most 1.0."""

    lose: float = 0.0
    double: float = 0.0
    swap: float = 0.0
    delay: float = 0.0


class FaultyBus(Bus):
    """Treats each message as chance has it, the same way for the same seed.

    A swapped message goes after the next one (or after a second, if there is none); a delayed one
    goes up to 3 seconds later, after any number of others.
    """

    def __init__(self, inner: MemoryBus, odds: Odds, seed: int = 0) -> None:
        super().__init__()
        self._inner = inner
        self.odds = odds
        self._chance = random.Random(seed)  # noqa: S311
        self._swapped: list[tuple[str, bytes, str]] = []
        inner.watch(self._set_up)
        self._set_up(inner.is_up)

    def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        message = (subject, data, reply)
        loop, odds = asyncio.get_running_loop(), self.odds
        fault = self._chance.choices(
            ["lose", "double", "swap", "delay", ""],
            [
                odds.lose,
                odds.double,
                odds.swap,
                odds.delay,
                1 - odds.lose - odds.double - odds.swap - odds.delay,
            ],
        )[0]
        if fault == "swap":
            self._swapped.append(message)
            loop.call_later(1, self._flush)
            return
        if fault == "delay":
            loop.call_later(self._chance.uniform(0, 3), self._inner.publish, *message)
        elif fault != "lose":
            for _ in range(2 if fault == "double" else 1):
                self._inner.publish(*message)
        self._flush()

    def _flush(self) -> None:
        while self._swapped:
            self._inner.publish(*self._swapped.pop())

    async def subscribe(self, prefix: str, arrived: Arrived) -> Unsubscribe:
        return await self._inner.subscribe(prefix, arrived)
