"""`Monitor`: watches a node for a while. It keeps rates, their history and the latest events."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from time import thread_time, time
from typing import TYPE_CHECKING, Any, Self

from ..node.event_types import ARGUMENTS
from ..node.runtime import NOT_RUNNING
from .view import SeenEvent, View, seconds_between

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ..events import Occurrence
    from ..node import STTNode

__all__ = ["Monitor"]

_INTERVAL = 1.0
"""Seconds from one snapshot to the next."""

_SHARE = 20
"""A pause lasts at least this many times as long as the snapshot before it took: with very many
endpoints, watching takes no more than a twentieth of the loop's time."""

_MOST_LETTERS = 200
"""How much of a text an event keeps."""

_NAMES = tuple(name for name in ARGUMENTS if name != "data_received")

_FACTS = ("session_id", "peer_node_id", "status", "hub", "error_type")
_DETAILS = ("session_id", "peer_node_id", "address", "reason", "attempts", "count", "event")
"""What is kept of an event, and of the details of an error: none of them can be a payload."""


class Monitor(View):
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
        super().__init__()
        self._node = node
        self._entered: ExitStack | None = None
        self._timer: asyncio.TimerHandle | None = None

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
        self._begin()
        self._loop = runtime.loop
        self._watching = True
        self._take()
        self._entered = ExitStack()
        watcher = _Watcher(self._see, self._end)
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

    def _take(self) -> None:
        """Take a snapshot, and set the timer for the next one."""
        began = thread_time()
        shot = self._node.snapshot()
        if shot.uptime is None or (self._shots and seconds_between(self._shots[-1], shot) <= 0):
            self._end()  # the node, or its life that was watched
            return
        self._add(shot)
        pause = max(_INTERVAL, _SHARE * (thread_time() - began))
        self._timer = self._loop.call_later(pause, self._take)

    def _see(self, occurrence: Occurrence) -> None:
        if self._watching:
            facts = _facts(occurrence.kwargs)
            self._note(SeenEvent(self._seen + 1, time(), occurrence.name, facts))

    def _end(self, broken: ConnectionError | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super()._end(broken)


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


def _facts(arguments: dict[str, Any]) -> dict[str, str | int]:
    # A program may emit events of these names too, with any arguments.
    facts = {name: _plain(value) for name, value in arguments.items() if name in _FACTS}
    if isinstance(details := arguments.get("details"), dict):
        facts |= {name: _plain(details[name]) for name in _DETAILS if name in details}
    return facts


def _plain(value: object) -> str | int:
    if isinstance(value, bytes):
        return value[: _MOST_LETTERS // 2].hex()
    if isinstance(value, int) and value.bit_length() < 64:
        return value
    if isinstance(value, tuple) and len(value) == 2:  # an address
        return f"{value[0]} port {value[1]}"[:_MOST_LETTERS]
    return str(value)[:_MOST_LETTERS] if isinstance(value, str) else type(value).__name__
