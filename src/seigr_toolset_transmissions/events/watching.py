"""What only watches the emits of one event and never waits: `Waiter` and `Stream`.

Both are told of an emit by a plain call, before anything in the emit can wait. All watchers
therefore see all emits in the order in which these began.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..errors import STTEventError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Occurrence", "Room", "Stream", "Waiter", "Watcher"]


class Occurrence(NamedTuple):
    """One emit of an event, as `EventEmitter.wait_for` and `EventEmitter.stream` give it.

    `kwargs` is a copy of its own: nobody else sees what is changed in it.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Watcher(Protocol):
    """What is told of emits."""

    def see(self, occurrence: Occurrence) -> Room | None:
        """Take note of an emit; return the room that the emit must wait for, if any."""

    def give_up(self, reason: str) -> None:
        """Expect no further emit: raise `STTEventError` once all that was seen has been read."""


class Waiter:
    """Waits for the first occurrence for which a predicate is true."""

    def __init__(self, predicate: Callable[[Occurrence], object] | None) -> None:
        self._predicate = predicate
        self._found: Occurrence | None = None
        self._failure: BaseException | None = None
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def see(self, occurrence: Occurrence) -> None:
        """Settle if the occurrence fits, or if the predicate fails."""
        if self.settled.done():
            return
        try:
            if self._predicate is not None and not self._predicate(occurrence):
                return
            self._found = occurrence
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:  # noqa: BLE001 - `result` raises it
            self._failure = exc
        self.settled.set_result(None)

    def give_up(self, reason: str) -> None:
        """Settle with an error."""
        if not self.settled.done() and not self.settled.get_loop().is_closed():
            self._failure = STTEventError(reason)
            self.settled.set_result(None)

    def result(self) -> Occurrence | None:
        """Return what was found, or None if nothing was; raise what the predicate has raised."""
        failure, self._failure = self._failure, None
        try:
            if failure is not None:
                raise failure
            return self._found
        finally:
            del failure  # its traceback leads here: no cycle of references


class Room:
    """The place in front of a full stream in which one occurrence waits."""

    __slots__ = ("_stream", "occurrence", "opened")

    def __init__(self, stream: Stream, occurrence: Occurrence) -> None:
        self._stream = stream
        self.occurrence = occurrence
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def wait(self) -> None:
        """Return when the stream has the occurrence, or was closed."""
        await self.opened

    def leave(self) -> None:
        """Wait no more: if the stream has not got the occurrence yet, it never gets it."""
        self._stream.withdraw(self)


class Stream:
    """A bounded queue of occurrences, and the async iterator that reads it."""

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._queue: deque[Occurrence] = deque()
        self._blocked: OrderedDict[Room, None] = OrderedDict()  # in order of their emits
        self._arrived = asyncio.Event()
        self._closed = False
        self._given_up: str | None = None  # the reason

    def see(self, occurrence: Occurrence) -> Room | None:
        """Add an occurrence, if need be as soon as there is room for it."""
        if self._closed or self._given_up is not None:
            return None
        if len(self._queue) < self._maxsize:  # then no other emit waits for room
            self._queue.append(occurrence)
            self._arrived.set()
            return None
        room = Room(self, occurrence)
        self._blocked[room] = None
        return room

    def give_up(self, reason: str) -> None:
        """Fail every iteration, once what waits has been read."""
        self._given_up = reason
        with contextlib.suppress(RuntimeError):  # its loop may have been closed
            self._arrived.set()

    def withdraw(self, room: Room) -> None:
        """Forget what waits for room."""
        self._blocked.pop(room, None)

    def close(self) -> None:
        """Discard everything, let the emits that wait go on, end every iteration."""
        self._closed = True
        self._queue.clear()
        for room in self._blocked:
            if not room.opened.done():  # or its emit was cancelled just now
                room.opened.set_result(None)
        self._arrived.set()

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Occurrence:
        while not self._queue:
            if self._closed:
                raise StopAsyncIteration
            if self._given_up is not None:
                raise STTEventError(self._given_up)
            self._arrived.clear()
            await self._arrived.wait()
        occurrence = self._queue.popleft()
        while self._blocked and len(self._queue) < self._maxsize:
            room, _ = self._blocked.popitem(last=False)
            if not room.opened.done():  # or its emit was cancelled just now
                room.opened.set_result(None)
                self._queue.append(room.occurrence)
        return occurrence
