"""What this library has to reach, as ratios within one run, or absolute where that is the point."""

from __future__ import annotations

from typing import NamedTuple

from .measures import crowds, endpoints, events, one_way, round_trip, strangers
from .measures.base import Key, Metric, Samples
from .measures.pairs import BLOCKING
from .peers import OWN, PEERS

__all__ = ["GOALS", "Goal", "Verdict", "judge"]

_ZMQ_ASYNCIO = "pyzmq CURVE, asyncio"
_ZMQ_BLOCKING = "pyzmq CURVE, blocking"
_RAW = "raw sockets (plain)"
_TLS = "asyncio mutual TLS"
_BROADCAST_SESSIONS = (1_000, 5_000)
_EMITTERS = ("pyee", "blinker", "psygnal")
_SEQUENTIAL_EMITTERS = ("blinker", "psygnal")
"""Those that await one handler after the other."""


class Goal(NamedTuple):
    """Ours must be ``at_least`` or ``at_most`` so many times the other's."""

    metric: Metric
    other: str | Metric | None
    """A peer; or another metric of ours; or None: the bound is absolute."""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def text(self) -> str:
        """What must hold, in the fewest words."""
        sign, bound = (">=", self.at_least) if self.at_most is None else ("<=", self.at_most)
        unit = f" {self.metric.unit}" if self.other is None else " x"
        return f"{sign} {bound:g}{unit}"


class Verdict(NamedTuple):
    """A goal on one event loop, and whether it is met."""

    goal: Goal
    loop: str
    own: float
    other: float | None
    """The other's value; None if the bound is absolute, or the other was not measured."""
    met: bool | None
    """None: it was not measured."""


GOALS: tuple[Goal, ...] = (
    Goal(one_way.pull(64), _ZMQ_ASYNCIO, at_least=10),
    Goal(one_way.pull(64), _ZMQ_BLOCKING, at_least=2),
    Goal(one_way.pull(1024), _ZMQ_ASYNCIO, at_least=8),
    Goal(one_way.pull(64 * 1024), _ZMQ_ASYNCIO, at_least=1.5),
    Goal(one_way.pull(64 * 1024), _ZMQ_BLOCKING, at_least=1.5),
    Goal(one_way.pull(1024 * 1024), _ZMQ_ASYNCIO, at_least=1.2),
    Goal(one_way.pull(1024 * 1024), _ZMQ_BLOCKING, at_least=1.2),
    *(
        Goal(one_way.push(size), one_way.pull(size), at_least=round(1 / 1.3, 2))
        for size in one_way.SIZES
    ),
    Goal(round_trip.MEDIAN, _ZMQ_ASYNCIO, at_most=0.7),
    Goal(round_trip.MEDIAN, "asyncio streams (plain)", at_most=1.5),
    Goal(round_trip.MEDIAN, "asyncio protocol (plain)", at_most=1.5),
    *(Goal(crowds.broadcast(sessions), _RAW, at_most=2) for sessions in _BROADCAST_SESSIONS),
    *(
        Goal(metric(sessions), other, at_most=1)
        for metric in (crowds.broadcast, crowds.in_all)
        for sessions in _BROADCAST_SESSIONS
        for other in ("websockets TLS", _ZMQ_ASYNCIO, _TLS)
        if sessions <= PEERS[other].most_sessions
    ),
    Goal(crowds.opening(1_000), _TLS, at_least=1.5),
    Goal(crowds.idle(1_000), None, at_most=10),
    Goal(crowds.idle(10_000), None, at_most=10),
    Goal(crowds.used(10_000), None, at_most=10),
    Goal(crowds.idle(1_000), "websockets TLS", at_most=1),
    Goal(crowds.process(10_000), None, at_most=120),
    Goal(endpoints.memory(20_000), None, at_most=700),
    *(
        # What is spread over 10,000 times the memory misses the processor's caches: not quite flat.
        Goal(endpoints.operation(name, most), endpoints.operation(name, 100), at_most=3)
        for name in endpoints.OPERATIONS
        for most in (endpoints.SIZES[-1],)
    ),
    *(
        Goal(events.emit(handlers), library, at_most=1)
        for handlers in events.HANDLERS
        for library in _EMITTERS
    ),
    *(
        Goal(events.emit(handlers, waiting=True), library, at_most=1)
        for handlers in events.WAITING_HANDLERS[1:]
        for library in _SEQUENTIAL_EMITTERS
    ),
    Goal(strangers.ABOVE_BARE, None, at_most=20),
)


def judge(samples: Samples, loops: tuple[str, ...]) -> list[Verdict]:
    """Return a verdict for each goal and loop for which there is a value of ours."""
    return [
        verdict
        for goal in GOALS
        for loop in loops
        if (verdict := _judge(goal, loop, samples)) is not None
    ]


def _judge(goal: Goal, loop: str, samples: Samples) -> Verdict | None:
    own = samples.median(Key(goal.metric, loop, OWN))
    if own is None:
        return None
    if goal.other is None:
        return Verdict(goal, loop, own, None, _holds(goal, own))
    if isinstance(goal.other, Metric):
        keys = [Key(goal.other, loop, OWN)]
    else:
        keys = [Key(goal.metric, kind, goal.other) for kind in (loop, BLOCKING)]
    other = next((value for key in keys if (value := samples.median(key)) is not None), None)
    met = _holds(goal, own / other) if other else None
    return Verdict(goal, loop, own, other, met)


def _holds(goal: Goal, value: float) -> bool:
    low, high = goal.at_least, goal.at_most
    return (low is None or value >= low) and (high is None or value <= high)
