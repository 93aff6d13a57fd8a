"""What a measure is: it plans cases, runs them one by one, and yields samples."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from benchmarks.material import Material

__all__ = ["Case", "Key", "Measure", "Metric", "Sample", "Samples", "Setting", "interleave"]


class Metric(NamedTuple):
    """What is measured, at which size, and in which unit."""

    name: str
    size: int = 0
    """What the metric depends on: a number of bytes, sessions, handlers or endpoints."""
    unit: str = ""
    digits: int = 1
    more_is_better: bool = False
    of: str = ""
    """What ``size`` counts: ``B``, ``sessions``, ..."""

    def __str__(self) -> str:
        if not self.of:
            return self.name
        return f"{self.name}, {size_text(self.size, self.of)}"


def size_text(size: int, of: str) -> str:
    """Return a size as people write it."""
    if of == "B":
        for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
            if size >= factor and size % factor == 0:
                return f"{size // factor} {unit}"
        return f"{size} B"
    return f"{size:,} {of}" if size != 1 else f"1 {of.removesuffix('s')}"


class Key(NamedTuple):
    """Which metric, of which peer, on which event loop."""

    metric: Metric
    loop: str
    peer: str


class Sample(NamedTuple):
    """One value of one round."""

    key: Key
    value: float


class Samples:
    """All values of a run, and why some are missing."""

    def __init__(self) -> None:
        self._values: defaultdict[Key, list[float]] = defaultdict(list)
        self.notes: dict[str, None] = {}
        """In order; each once."""

    def add(self, samples: Iterable[Sample]) -> None:
        """Add the values of one round."""
        for key, value in samples:
            self._values[key].append(value)

    def median(self, key: Key) -> float | None:
        """Return the median of the rounds; None if there are none."""
        values = self._values.get(key)
        return statistics.median(values) if values else None

    def values(self, key: Key) -> list[float]:
        """Return the values of all rounds."""
        return list(self._values.get(key, ()))

    @property
    def keys(self) -> list[Key]:
        """Everything that was measured, in order of measurement."""
        return list(self._values)


@dataclass(frozen=True)
class Setting:
    """What the user chose, and what all measurements share."""

    material: Material
    quick: bool
    loops: tuple[str, ...]
    peers: tuple[str, ...]
    brokers: dict[str, object] = field(default_factory=dict)


class Case(NamedTuple):
    """One thing to run, for a few seconds. ``peer`` and ``label`` name it to the user."""

    peer: str
    label: str
    run: Callable[[], list[Sample]]
    once: bool = False
    """Whether one round is enough, because it takes long and its values vary little."""


class Measure(Protocol):
    """A kind of measurement."""

    @property
    def name(self) -> str:
        """Its name on the command line."""

    def cases(self, setting: Setting) -> list[Case]:
        """Return the cases of one round, in the order in which the peers take turns."""


def interleave(cases: list[Case], turn: int) -> list[Case]:
    """Rotate the cases, so that a different peer comes first in each round."""
    if not cases:
        return []
    start = turn % len(cases)
    return cases[start:] + cases[:start]
