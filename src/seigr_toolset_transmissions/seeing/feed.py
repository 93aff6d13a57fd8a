"""`Feed`: what all open pages of a console are told once a second, made once for all of them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .monitor import Monitor
from .rows import Query, address_text, rows_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Container

    from ..node import STTNode
    from ..stats import NodeSnapshot
    from .view import Rates, Sample, SeenEvent

__all__ = ["Feed", "dumps"]

_LINGER = 60
"""How many samples are taken after the last page was closed: one that is loaded again finds the
history of the plots."""

_MOST_NEW = 100
"""How many new events a page gets with a sample."""

_MOST_BANNED = 100


class Feed:
    """Watches a node while pages are open, and for a minute after the last one was closed.

    Args:
        node: The node.
        control: Whether pages may do something to it.

    """

    def __init__(self, node: STTNode, *, control: bool) -> None:
        self._node = node
        self._control = control
        self._monitor = Monitor(node)
        self._watching: asyncio.Task[None] | None = None
        self._news: asyncio.Event = asyncio.Event()  # set, and replaced, with each message
        self._message = b""
        self._told = 0  # the number of the last event in a message
        self._watches = 0  # how often it has begun to watch: the numbers of events begin again
        self._closed = False
        self.pages: int = 0

    async def messages(self) -> AsyncGenerator[bytes]:
        """Iterate over server-sent events: ``begin``, a ``sample`` a second, and then ``end``.

        A slow reader misses samples. The data of ``end`` is ``"node"`` if the node does not run, or
        has started again, and ``"console"`` if the console closes.
        """
        if not await self._begin():
            yield _event("end", "console" if self._closed else "node")
            return
        watching = self._watching
        self.pages += 1
        try:
            yield _event("begin", self._beginning())
            while self._watching is watching:
                await self._news.wait()
                if self._watching is watching:
                    yield self._message
            yield _event("end", "console" if self._closed else "node")
        finally:
            self.pages -= 1

    def rows(self, query: Query, selected: bytes | None) -> dict[str, Any]:
        """Return a part of the table of endpoints, the selected one if there, and the time."""
        monitor = self._monitor
        shot = monitor.snapshot if monitor.watching else self._node.snapshot()
        rates = monitor.endpoint_rates if monitor.watching else _no_rates
        found = rows_of(shot.endpoints, rates, query, selected, self._node.banned)
        return {"time": shot.time} | found

    async def close(self) -> None:
        """Stop watching, and end all iterations."""
        self._closed = True
        if (watching := self._watching) is not None:
            watching.cancel()
            await asyncio.wait({watching})
            await self._end()  # in case it was cancelled before it began

    async def _begin(self) -> bool:
        """Begin to watch, unless that has begun; return False if there is nothing to watch."""
        if self._watching is None:
            running = self._node._registry.runtime.running  # noqa: SLF001 - as a monitor does
            if self._closed or not running:
                return False
            self._told = 0
            self._watches += 1
            await self._monitor.__aenter__()  # never waits
            self._watching = asyncio.get_running_loop().create_task(self._watch())
        return True

    async def _watch(self) -> None:
        unseen = 0
        try:
            async for sample in self._monitor.samples():
                unseen = 0 if self.pages else unseen + 1
                if unseen > _LINGER:
                    return
                self._tell(sample)
        finally:
            await self._end()

    async def _end(self) -> None:
        """Stop watching; never waits."""
        await self._monitor.__aexit__(None, None, None)
        self._watching = None
        self._wake()

    def _tell(self, sample: Sample) -> None:
        if self.pages:
            events = [event for event in self._monitor.events if event.number > self._told]
            told = {"point": _point(sample)} | self._now(self._monitor.snapshot)
            if events:
                told["events"] = list(map(_seen, events[-_MOST_NEW:]))
                self._told = events[-1].number
            self._message = _event("sample", told)
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _beginning(self) -> dict[str, Any]:
        monitor = self._monitor
        return {
            "node": monitor.snapshot.node_id.hex(),
            "watch": self._watches,
            "control": self._control,
            "points": list(map(_point, monitor.history)),
            "events": list(map(_seen, monitor.events)),
        } | self._now(monitor.snapshot)

    def _now(self, shot: NodeSnapshot) -> dict[str, Any]:
        banned = self._node.banned
        return {
            "uptime": shot.uptime,
            "address": address_text(shot.address),
            "stats": asdict(shot.stats),
            "endpoints": len(shot.endpoints),
            "states": Counter(endpoint.state for endpoint in shot.endpoints),
            "hub": shot.hub,
            "hubs": list(map(asdict, shot.hubs)),
            "banned": sorted(node_id.hex() for node_id in banned)[:_MOST_BANNED],
            "banned_count": len(banned),
        }


def _no_rates(_: Container[bytes] | None = None) -> dict[bytes, Rates]:
    return {}


def dumps(shown: object) -> bytes:
    """Return this as JSON, in one line of ASCII."""
    return json.dumps(shown, separators=(",", ":")).encode()


def _event(name: str, data: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), dumps(data))


def _point(sample: Sample) -> list[float | None]:
    """Return what the plots show of a sample."""
    stats, rates = sample.stats, sample.rates
    return [
        sample.time,
        rates.bytes_received,
        rates.bytes_sent,
        rates.messages_received,
        rates.messages_sent,
        sample.rtt,
        sample.rtt_high,
        stats.sessions,
        stats.suspended,
    ]


def _seen(event: SeenEvent) -> list[Any]:
    return [event.number, event.time, event.name, event.facts]
