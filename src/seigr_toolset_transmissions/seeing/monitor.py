"""`Monitor`: watches a node for a while. It keeps rates, their history and the latest events."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from operator import attrgetter
from time import thread_time, time
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from ..node.event_types import ARGUMENTS
from ..node.runtime import NOT_RUNNING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType

    from ..events import Occurrence
    from ..node import STTNode
    from ..stats import EndpointSnapshot, NodeSnapshot, NodeStats

__all__ = ["Monitor", "Rates", "Sample", "SeenEvent"]

_INTERVAL = 1.0
"""Seconds from one snapshot to the next."""

_SHARE = 20
"""A pause lasts at least this many times as long as the snapshot before it took: with very many
endpoints, watching takes no more than a twentieth of the loop's time."""

_MOST_SAMPLES = 600
_MOST_EVENTS = 1000
_MOST_LETTERS = 200
"""How much of a text an event keeps."""

_NAMES = tuple(name for name in ARGUMENTS if name != "data_received")

_FACTS = ("session_id", "peer_node_id", "status", "hub", "error_type")
_DETAILS = ("session_id", "peer_node_id", "address", "reason", "attempts", "count", "event")
"""What is kept of an event, and of the details of an error: none of them can be a payload."""


class Rates(NamedTuple):
    """What came and went each second, between two snapshots."""

    messages_sent: float
    messages_received: float
    bytes_sent: float
    bytes_received: float


_totals = attrgetter(*Rates._fields)


@dataclass(frozen=True, slots=True)
class Sample:
    """A node at one moment, as the history keeps it."""

    time: float
    """When, in seconds since the epoch."""
    stats: NodeStats
    """The counters of the node."""
    rates: Rates
    """What all its sessions sent and received each second since the snapshot before."""
    rtt: float | None
    """The median round-trip time of its endpoints in seconds; None while none is known."""
    rtt_high: float | None
    """The round-trip time that one endpoint in twenty exceeds; None while none is known."""


@dataclass(frozen=True, slots=True)
class SeenEvent:
    """An event that a `Monitor` has seen. It holds no payload."""

    number: int
    """1 for the first event that the monitor saw in this block, and so on: a gap shows how many
    are not kept any more."""
    time: float
    """When, in seconds since the epoch."""
    name: str
    """The event's name, such as ``"peer_connected"``."""
    facts: dict[str, str | int]
    """Its arguments, ids in hexadecimal. Of the details of an ``error`` only those that say whom it
    is about, and why. Texts are cut after 200 characters."""


class Monitor:
    """Watches a node for as long as its block lasts, or until the node stops.

    ::

        async with Monitor(node) as monitor:
            async for sample in monitor.samples():
                print(sample.rates.bytes_received)

    It takes a snapshot when the block is entered and then once a second; less often if a snapshot
    takes more than 50 ms, as it does with thousands of endpoints. It keeps the last 600 samples and
    the last 1,000 events, and does nothing for each message. To the node's log, what only a
    monitor has seen is unhandled.

    After the end, what the monitor has kept can still be read. Entered again, it begins anew.

    Args:
        node: The node to watch. It must be running when the block is entered.

    """

    def __init__(self, node: STTNode) -> None:
        self._node = node
        self._watching = False
        self._entered: ExitStack | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._arrived: asyncio.Event = asyncio.Event()  # set, and replaced, at each sample
        self._shots: tuple[NodeSnapshot, ...] = ()  # the last one or two
        self._history: deque[Sample] = deque(maxlen=_MOST_SAMPLES)
        self._events: deque[SeenEvent] = deque(maxlen=_MOST_EVENTS)
        self._seen = 0

    async def __aenter__(self) -> Self:
        """Begin to watch.

        Raises:
            RuntimeError: The node is not running, or runs in another event loop, or in this forked
                child's parent; or the monitor is already in use.

        """
        runtime = self._node._registry.runtime  # noqa: SLF001 - a monitor looks inside
        runtime.check_caller()
        if not runtime.running:
            raise RuntimeError(NOT_RUNNING)
        if self._entered is not None:
            raise RuntimeError("this monitor is already in use: make another one")
        self._history = deque(maxlen=_MOST_SAMPLES)
        self._events.clear()
        self._seen = 0
        self._loop = runtime.loop
        self._arrived = asyncio.Event()
        self._watching = True
        self._shots = ()
        self._take()
        self._entered = ExitStack()
        watcher = _Watcher(self._note, self._end)
        self._entered.enter_context(self._node.events._watching(_NAMES, watcher))  # noqa: SLF001
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Stop watching; never waits."""
        self._end()
        entered, self._entered = self._entered, None
        if entered is not None:
            entered.close()

    @property
    def watching(self) -> bool:
        """Whether the block has begun, and neither it nor the node has ended."""
        return self._watching

    @property
    def snapshot(self) -> NodeSnapshot:
        """The latest snapshot.

        Raises:
            RuntimeError: The block was never entered.

        """
        if not self._shots:
            raise RuntimeError("nothing was watched yet: use `async with monitor` first")
        return self._shots[-1]

    @property
    def history(self) -> list[Sample]:
        """A new list of the last 600 samples, oldest first.

        The first one comes a second after the block has begun.
        """
        return list(self._history)

    @property
    def events(self) -> list[SeenEvent]:
        """A new list of the last 1,000 events that the node's emitter has emitted, oldest first.

        All but ``data_received``; if several nodes share the emitter, the events of all of them.
        """
        return list(self._events)

    def endpoint_rates(self) -> dict[bytes, Rates]:
        """Return the rates of each endpoint of the latest snapshot, by its id.

        It is empty until there are two snapshots.
        """
        if len(self._shots) < 2:
            return {}
        before, now = self._shots
        seconds = _seconds(before, now)
        old = {endpoint.endpoint_id: endpoint for endpoint in before.endpoints}
        return {
            endpoint.endpoint_id: _rates(old.get(endpoint.endpoint_id), endpoint, seconds)
            for endpoint in now.endpoints
        }

    async def samples(self) -> AsyncIterator[Sample]:
        """Iterate over the samples to come, until the block or the node ends.

        A slow reader misses samples: it always gets the latest one.
        """
        history = self._history
        while self._watching and self._history is history:
            await self._arrived.wait()
            if self._history is not history:
                return  # the monitor was left, and entered again
            if self._watching:
                yield history[-1]

    def _take(self) -> None:
        """Take a snapshot, and set the timer for the next one."""
        began = thread_time()
        shot = self._node.snapshot()
        if shot.uptime is None or (self._shots and _seconds(self._shots[-1], shot) <= 0):
            self._end()  # the node, or its life that was watched
            return
        if self._shots:
            before = self._shots[-1]
            rates = _rates(before.stats, shot.stats, _seconds(before, shot))
            self._history.append(Sample(shot.time, shot.stats, rates, *_round_trips(shot)))
            self._wake()
        self._shots = (*self._shots[-1:], shot)
        pause = max(_INTERVAL, _SHARE * (thread_time() - began))
        self._timer = self._loop.call_later(pause, self._take)

    def _wake(self) -> None:
        arrived, self._arrived = self._arrived, asyncio.Event()
        arrived.set()

    def _note(self, occurrence: Occurrence) -> None:
        if self._watching:
            self._seen += 1
            facts = _facts(occurrence.kwargs)
            self._events.append(SeenEvent(self._seen, time(), occurrence.name, facts))

    def _end(self) -> None:
        if not self._watching:
            return
        self._watching = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake()


class _Watcher:
    """What the emitter of the node tells of its events.

    A watcher, not a handler: with a handler, the node would take an error for handled.
    """

    acts: bool = False

    def __init__(self, note: Callable[[Occurrence], None], end: Callable[[], None]) -> None:
        self._note = note
        self._end = end
        self._loop = asyncio.get_running_loop()

    @property
    def abandoned(self) -> bool:
        """See `events.watching.Watcher`."""
        return self._loop.is_closed()

    def see(self, occurrence: Occurrence) -> None:
        """Note an emit."""
        self._note(occurrence)

    def give_up(self, names: frozenset[str], reason: str) -> None:
        """End: the node has stopped."""
        self._end()


def _seconds(before: NodeSnapshot, now: NodeSnapshot) -> float:
    return (now.uptime or 0.0) - (before.uptime or 0.0)


def _rates(
    before: NodeStats | EndpointSnapshot | None,
    now: NodeStats | EndpointSnapshot,
    seconds: float,
) -> Rates:
    """Return what has grown each second. What is new, or has begun again, has grown from 0."""
    new = _totals(now)
    if before is None:
        return Rates(*(total / seconds for total in new))
    grown = [total - earlier for total, earlier in zip(new, _totals(before), strict=True)]
    return Rates(*(total / seconds for total in (new if min(grown) < 0 else grown)))


def _round_trips(shot: NodeSnapshot) -> tuple[float | None, float | None]:
    known = sorted(endpoint.rtt for endpoint in shot.endpoints if endpoint.rtt is not None)
    count = len(known)
    return (known[count // 2], known[count * 19 // 20]) if count else (None, None)


def _facts(arguments: dict[str, Any]) -> dict[str, str | int]:
    # A program may emit events of these names too, with any arguments.
    facts = {name: arguments[name] for name in _FACTS if name in arguments}
    if isinstance(details := arguments.get("details"), dict):
        facts |= {name: details[name] for name in _DETAILS if name in details}
    return {name: _plain(value) for name, value in facts.items()}


def _plain(value: object) -> str | int:
    if isinstance(value, int):
        return value
    if isinstance(value, bytes):
        return value.hex()[:_MOST_LETTERS]
    if isinstance(value, tuple) and len(value) == 2:  # an address
        return f"{value[0]} port {value[1]}"[:_MOST_LETTERS]
    return str(value)[:_MOST_LETTERS] if isinstance(value, str) else type(value).__name__
