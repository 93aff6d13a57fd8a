"""Watchers, which see the emits of one event and never wait: `Waiter` and `Stream`.

A plain call informs them of an emit before the emit can wait for anything, so all watchers see
emits in the order in which they began.

A watcher whose event loop was closed ignores everything: nothing can read it any more, and an emit
that waited for room in it would never end.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from ..errors import STTEventError

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    K_co = TypeVarWithDefault("K_co", covariant=True, default=Any)
else:
    K_co = TypeVar("K_co", covariant=True)

__all__ = [
    "EventStream",
    "Expected",
    "Occurrence",
    "Overflow",
    "Predicate",
    "Room",
    "Stream",
    "Waiter",
    "Watcher",
]

Overflow = Literal["wait", "drop_oldest"]
"""What an emit does that finds a stream full: it waits for room, or has the oldest one dropped."""


class Occurrence(NamedTuple, Generic[K_co]):
    """One emit of an event, as `EventEmitter.wait_for` and `EventEmitter.stream` give it.

    `kwargs` is a copy, so changes to it affect nothing else. A type checker knows what it holds if
    the event is one of a node's own and comes from ``node.events``.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: K_co


Predicate = Callable[[Occurrence], object]
"""What says, by a true value, that an occurrence is the one to wait for."""


class EventStream(Protocol[K_co]):
    """What `EventEmitter.stream` gives: an async iterator over the emits of an event."""

    def __aiter__(self) -> EventStream[K_co]: ...

    async def __anext__(self) -> Occurrence[K_co]: ...

    @property
    def dropped(self) -> int:
        """How many occurrences a full stream has dropped so far; 0 if it makes emits wait."""


class Expected(Protocol[K_co]):
    """What `EventEmitter.expect` gives."""

    @property
    def occurrence(self) -> Occurrence[K_co]:
        """The emit that was expected. It is there at the latest when the block has ended.

        Raises:
            STTEventError: It has not come yet.

        """


class Watcher(Protocol):
    """Sees emits."""

    @property
    def acts(self) -> bool:
        """Whether the program may act on what it sees; else an error is still an unhandled one."""

    @property
    def abandoned(self) -> bool:
        """Whether its event loop was closed: nothing can ever read it."""

    def see(self, occurrence: Occurrence) -> Room | None:
        """Note an emit; return the room that the emit must wait for, if any."""

    def give_up(self, names: frozenset[str], reason: str) -> None:
        """Expect no more emits of these events.

        If there are no others to expect, raise `STTEventError` once everything seen has been read.
        """


class Waiter:
    """Waits for the first occurrence, of any of several events, for which a predicate is true."""

    acts: bool = True

    def __init__(self, names: tuple[str, ...], predicate: Predicate | None) -> None:
        self._names = names
        self._predicate = predicate
        self._found: Occurrence | None = None
        self._failure: BaseException | None = None
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def abandoned(self) -> bool:
        """See `Watcher`."""
        return self.settled.get_loop().is_closed()

    def see(self, occurrence: Occurrence) -> None:
        """Settle if the occurrence fits, or if the predicate fails."""
        if self.settled.done() or self.abandoned:
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

    def give_up(self, names: frozenset[str], reason: str) -> None:
        """Settle with an error, unless one of the other events may still come."""
        if names.issuperset(self._names) and not self.settled.done() and not self.abandoned:
            self._failure = STTEventError(reason)
            self.settled.set_result(None)

    async def wait(self, timeout: float | None) -> Occurrence:
        """Return what was found; raise what the predicate raised, or `TimeoutError`."""
        await asyncio.wait((self.settled,), timeout=timeout)
        failure, self._failure = self._failure, None
        try:
            if failure is not None:
                raise failure
        finally:
            del failure  # its traceback leads here: no cycle of references
        if self._found is None:
            raise TimeoutError(f"no matching event {self._wanted()} within {timeout} s")
        return self._found

    @property
    def occurrence(self) -> Occurrence:
        """See `Expected`."""
        if self._found is None:
            raise STTEventError(
                f"the expected event {self._wanted()} has not come yet: the end of the block waits "
                "for it"
            )
        return self._found

    def _wanted(self) -> str:
        return " or ".join(map(repr, self._names))


class Room:
    """The place in front of a full stream in which one occurrence waits."""

    __slots__ = ("_stream", "occurrence", "opened")

    def __init__(self, stream: Stream, occurrence: Occurrence) -> None:
        self._stream = stream
        self.occurrence: Occurrence = occurrence
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def wait(self) -> None:
        """Return once the stream has the occurrence, or is closed."""
        await self.opened

    def leave(self) -> None:
        """Stop waiting: if the stream does not have the occurrence yet, it never gets it."""
        self._stream.withdraw(self)


class Stream:
    """A bounded queue of occurrences, and the async iterator that reads it."""

    acts: bool = True

    def __init__(self, maxsize: int, *, drops: bool) -> None:
        self._maxsize = maxsize
        self._drops = drops  # the oldest, if it is full
        self.dropped: int = 0
        self._queue: deque[Occurrence] = deque()
        self._blocked: OrderedDict[Room, None] = OrderedDict()  # in order of their emits
        self._arrived = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._given_up: str | None = None  # the reason

    @property
    def abandoned(self) -> bool:
        """See `Watcher`."""
        return self._loop.is_closed()

    def see(self, occurrence: Occurrence) -> Room | None:
        """Add an occurrence, now or as soon as there is room for it."""
        if self._closed or self._given_up is not None or self.abandoned:
            return None
        if len(self._queue) < self._maxsize:  # then no other emit waits for room
            self._queue.append(occurrence)
            self._arrived.set()
            return None
        if self._drops:
            self._queue.popleft()
            self._queue.append(occurrence)
            self.dropped += 1
            return None
        room = Room(self, occurrence)
        self._blocked[room] = None
        return room

    def give_up(self, names: frozenset[str], reason: str) -> None:
        """Fail every iteration, once what waits has been read."""
        self._given_up = reason
        if not self.abandoned:
            self._arrived.set()

    def withdraw(self, room: Room) -> None:
        """Forget an occurrence that waits for room."""
        self._blocked.pop(room, None)

    def close(self) -> None:
        """Discard everything, release the waiting emits, and end every iteration."""
        self._closed = True
        self._queue.clear()
        if self.abandoned:
            return
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
