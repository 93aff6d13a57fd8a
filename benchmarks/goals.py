"""The goals of this library: ratios within one run, or absolute values where that is the point."""

from __future__ import annotations

from typing import NamedTuple

from .measures import crowds, endpoints, events, one_way, requests, round_trip, strangers
from .measures.base import Key, Metric, Samples
from .measures.pairs import BLOCKING
from .peers import OWN, PEERS

__all__ = ["GOALS", "Goal", "Verdict", "judge"]

_ZMQ_ASYNCIO = "pyzmq CURVE, asyncio"
_ZMQ_BLOCKING = "pyzmq CURVE, blocking"
_RAW = "raw sockets (plain)"
_TLS = "asyncio mutual TLS"
_ASKING_ASYNCIO = (
    _ZMQ_ASYNCIO,
    "pyzmq CURVE REQ, asyncio",
    "python-socketio TLS",
    "nats-py TLS",
    "gRPC TLS",
)
_ASKING_MANY = (
    _ZMQ_BLOCKING,
    *(name for name in _ASKING_ASYNCIO if not PEERS[name].one_at_a_time),
)
_MOST_IN_FLIGHT = max(requests.IN_FLIGHT)
_BROADCAST_SESSIONS = (1_000, 5_000)
_EMITTERS = ("pyee", "blinker", "psygnal")
_SEQUENTIAL_EMITTERS = ("blinker", "psygnal")
"""Emitters that await one handler after the other."""


class Goal(NamedTuple):
    """Our value must be ``at_least`` or ``at_most`` this many times the other's."""

    metric: Metric
    other: str | Metric | None
    """A peer, or another metric of ours. None: the bound is absolute."""
    at_least: float | None = None
    at_most: float | None = None
    theirs: Metric | None = None
    """The metric of the peer. None: the same."""

    @property
    def against(self) -> str:
        """What the value is compared with."""
        if self.other is None:
            return ""
        return str(self.other) if self.theirs is None else f"{self.other}: {self.theirs}"

    @property
    def text(self) -> str:
        """The bound, in as few characters as possible."""
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
    *(
        Goal(metric(64), _ZMQ_BLOCKING, at_least=2, theirs=one_way.pull(64))
        for metric in (one_way.push, one_way.batches, one_way.iterated)
    ),
    Goal(one_way.pull(1024), _ZMQ_ASYNCIO, at_least=8),
    Goal(one_way.pull(64 * 1024), _ZMQ_ASYNCIO, at_least=1.5),
    Goal(one_way.pull(64 * 1024), _ZMQ_BLOCKING, at_least=1.5),
    Goal(one_way.pull(1024 * 1024), _ZMQ_ASYNCIO, at_least=1.2),
    Goal(one_way.pull(1024 * 1024), _ZMQ_BLOCKING, at_least=1.2),
    *(
        Goal(metric(size), one_way.pull(size), at_least=round(1 / 1.3, 2))
        for metric in (one_way.push, one_way.batches, one_way.iterated)
        for size in one_way.SIZES
    ),
    Goal(round_trip.MEDIAN, _ZMQ_ASYNCIO, at_most=0.7),
    Goal(round_trip.MEDIAN, "asyncio streams (plain)", at_most=1.5),
    Goal(round_trip.MEDIAN, "asyncio protocol (plain)", at_most=1.5),
    *(
        Goal(requests.rate(size, _MOST_IN_FLIGHT), other, at_least=3)
        for size in requests.SIZES
        for other in _ASKING_MANY
    ),
    *(
        Goal(requests.alone(size), other, at_most=1)
        for size in requests.SIZES
        for other in _ASKING_ASYNCIO
    ),
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
        # Spread over 10,000 times the memory, they miss the processor's caches: not quite flat.
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
    """Return a verdict for each goal and loop for which we have a value of our own."""
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
        theirs = goal.theirs or goal.metric
        keys = [Key(theirs, kind, goal.other) for kind in (loop, BLOCKING)]
    other = next((value for key in keys if (value := samples.median(key)) is not None), None)
    met = _holds(goal, own / other) if other else None
    return Verdict(goal, loop, own, other, met)


def _holds(goal: Goal, value: float) -> bool:
    low, high = goal.at_least, goal.at_most
    return (low is None or value >= low) and (high is None or value <= high)
