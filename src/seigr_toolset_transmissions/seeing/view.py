"""What is seen of a node over time: snapshots, the rates between them, their history, events."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from itertools import takewhile
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Container, Iterator

    from ..stats import EndpointSnapshot, NodeSnapshot, NodeStats

__all__ = ["News", "Rates", "Sample", "SeenEvent", "View", "seconds_between"]

_MOST_SAMPLES = 600
_MOST_EVENTS = 1000


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


class SeenEvent(NamedTuple):
    """An event that a `Monitor` has seen. It holds no payload."""

    number: int
    """1 for the first event that the monitor saw in this block, and so on: a gap shows how many
    are not kept any more, or never reached this process."""
    time: float
    """When, in seconds since the epoch."""
    name: str
    """The event's name, such as ``"peer_connected"``."""
    facts: dict[str, str | int]
    """Its arguments, ids in hexadecimal. Of the details of an ``error`` only those that say whom it
    is about, and why. Texts are cut after 200 characters."""


class News(NamedTuple):
    """What a `Monitor` has seen since its reader last looked."""

    sample: Sample | None
    """The latest sample; None if there was no new one."""
    events: list[SeenEvent]
    """The new events, oldest first."""


class View:
    """What is seen of a node, in this process (`Monitor`) or another (`RemoteMonitor`)."""

    def __init__(self) -> None:
        self._watching = False
        self._broken: ConnectionError | None = None
        self._begin()

    def _begin(self) -> None:
        """Forget everything."""
        # Set at all that is new, and at samples. Whoever waits next replaces one that is set.
        self._arrived: asyncio.Event = asyncio.Event()
        self._sampled: asyncio.Event = asyncio.Event()
        self._shots: tuple[NodeSnapshot, ...] = ()  # the last one or two
        self._history: deque[Sample] = deque(maxlen=_MOST_SAMPLES)
        self._events: deque[SeenEvent] = deque(maxlen=_MOST_EVENTS)
        self._seen = 0  # the number of the last event

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

    def endpoint_rates(self, only: Container[bytes] | None = None) -> dict[bytes, Rates]:
        """Return the rates of each endpoint of the latest snapshot, by its id.

        It is empty until there are two snapshots.

        Args:
            only: The ids of the endpoints that you need; None: all of them.

        """
        if len(self._shots) < 2:
            return {}
        before, now = self._shots
        seconds = seconds_between(before, now)
        old = {endpoint.endpoint_id: endpoint for endpoint in before.endpoints}
        return {
            endpoint.endpoint_id: _rates(old.get(endpoint.endpoint_id), endpoint, seconds)
            for endpoint in now.endpoints
            if only is None or endpoint.endpoint_id in only
        }

    async def samples(self) -> AsyncIterator[Sample]:
        """Iterate over the samples to come, until the block or the node ends.

        A slow reader misses samples: it always gets the latest one.

        Raises:
            ConnectionError: As `news` does.

        """
        history = self._history
        sample = history[-1] if history else None
        while self._history is history:  # else it was left, and entered again
            if history and history[-1] is not sample:
                sample = history[-1]
                yield sample
            elif self._watching:
                # Not as `news` waits: events, however many, do not wake this.
                self._sampled = _unset(self._sampled)
                await self._sampled.wait()
            elif self._broken is not None:
                raise self._broken
            else:
                return

    def news(self) -> AsyncIterator[News]:
        """Iterate over all that comes from now on, samples and events, until block or node ends.

        A slow reader gets all that is new at once, but only the latest sample, and at most the last
        1,000 events.

        Raises:
            ConnectionError: The node is in another process, which has ended without a word.

        """
        return self._news_since(self._seen, self._history[-1] if self._history else None)

    async def _news_since(self, seen: int, sample: Sample | None) -> AsyncIterator[News]:
        history = self._history
        while self._history is history:  # else it was left, and entered again
            latest = history[-1] if history else None
            if self._seen > seen or latest is not sample:
                events = list(self._since(seen))
                news = News(None if latest is sample else latest, events[::-1])
                sample, seen = latest, self._seen
                yield news
            elif self._watching:
                self._arrived = _unset(self._arrived)
                await self._arrived.wait()
            elif self._broken is not None:
                raise self._broken
            else:
                return

    def _since(self, number: int) -> Iterator[SeenEvent]:
        """Return the events after the one with this number, latest first."""
        return takewhile(lambda event: event.number > number, reversed(self._events))

    def _add(self, shot: NodeSnapshot) -> None:
        if self._shots:
            before = self._shots[-1]
            rates = _rates(before.stats, shot.stats, seconds_between(before, shot))
            self._history.append(Sample(shot.time, shot.stats, rates, *_round_trips(shot)))
            self._wake()
        self._shots = (*self._shots[-1:], shot)

    def _note(self, event: SeenEvent) -> None:
        self._events.append(event)
        self._seen = event.number
        self._arrived.set()

    def _end(self, broken: ConnectionError | None = None) -> None:
        if self._watching:
            self._watching = False
            self._broken = broken
            self._wake()

    def _wake(self) -> None:
        self._arrived.set()
        self._sampled.set()


def _unset(event: asyncio.Event) -> asyncio.Event:
    return asyncio.Event() if event.is_set() else event


def seconds_between(before: NodeSnapshot, now: NodeSnapshot) -> float:
    """Return how long the node ran from one snapshot to another; at most 0 if not at all."""
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
