"""Handing on, in order, what the application is told about one session.

Messages for handlers, messages for an inbox that is full, and events go through one queue. A task
works it off; queue and task exist only while there is something in it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from .outbox import FRAME_COST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .config import NodeConfig
    from .endpoints import EndpointManager
    from .events import EventEmitter
    from .loop_time import LoopTime
    from .session import SessionMachine

__all__ = ["Pump", "PumpOwner", "PumpUser", "Step"]

logger = logging.getLogger(__name__)

Step = Callable[[], Coroutine[Any, Any, None]]
"""Something that the application is told, in its turn."""

_TURN_MESSAGES = 1024
"""Messages handed to handlers before others get a turn of the loop, should no handler wait. It ends
when the time for it is used, and after ``ack_delay`` in any case, for the peer must hear of what
was consumed."""

_REPORT_BYTES = 64 * 1024
_REPORT_SHARE = 16
"""So much, and this share of the receive window, handlers may have taken before the session's state
hears of it (and as much again of `FRAME_COST`): to tell it of each message would cost as much as a
short handler. Until then the peer gets no credit for it, however long the next handler waits."""

_OFFER_MESSAGES = 1024
"""Queued messages offered to an inbox at a time."""


class PumpOwner(Protocol):
    """What a pump needs of the node."""

    @property
    def config(self) -> NodeConfig:
        """The node's settings."""

    @property
    def events(self) -> EventEmitter:
        """Where handlers are registered."""

    @property
    def endpoints(self) -> EndpointManager:
        """Where messages go that no handler wants."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The node's event loop."""

    @property
    def loop_time(self) -> LoopTime:
        """Its time, which all pumps share."""

    async def emit(self, event: str, **details: Any) -> None:
        """Emit an event; never raises, but if cancelled."""


class PumpUser(Protocol):
    """The session of which the application is told."""

    machine: SessionMachine
    """Its state, which must hear what the application has taken."""
    peer_node_id: bytes

    @property
    def session_id(self) -> bytes:
        """Given to handlers."""

    def offer(self, messages: Sequence[bytes]) -> int:
        """Put as many messages as it holds into the peer's inbox; return how many."""

    def acknowledge(self) -> None:
        """See that the peer hears, soon enough, of what was received and consumed."""

    def pumped(self) -> None:
        """Note that all has been handed on; what comes next takes another pump."""


class Pump:
    """Hands on what it is given until there is nothing left."""

    __slots__ = ("_owner", "_queue", "_room", "_session", "_until")

    def __init__(self, session: PumpUser, owner: PumpOwner) -> None:
        self._session = session
        self._owner = owner
        self._queue: deque[bytes | Step] = deque()
        self._room: asyncio.Task[int] | None = None  # while the inbox is full
        self._until: float | None = None  # when this pump's turn ends, after it has queued for it

    def add(self, items: Sequence[bytes | Step]) -> None:
        """Hand on messages and steps behind all that came before."""
        self._queue.extend(items)

    def take_back(self, step: Step | None) -> bool:
        """Drop ``step`` if it is the last one added and its turn has not come; whether so."""
        if not self._queue or self._queue[-1] is not step:
            return False
        self._queue.pop()
        return True

    def clear(self) -> None:
        """Hand on nothing more."""
        self._queue.clear()

    def wait_no_more(self) -> None:
        """Try the inbox again, full or not."""
        if self._room is not None:
            self._room.cancel()

    async def run(self) -> None:
        """Work the queue off; tell the session when it is empty."""
        queue = self._queue
        try:
            while queue:
                if not isinstance(queue[0], bytes):
                    await queue.popleft()()  # type: ignore[operator]  # no message
                elif self._owner.events.handled("data_received"):
                    await self._call_handlers()
                else:
                    await self._fill_inbox()
        except asyncio.CancelledError:
            # The node stops, and the handlers' time is over. The end is told all the same.
            count = sum(isinstance(item, bytes) for item in queue)
            if count:
                logger.warning("%r ended; messages not handed on: %d", self._session, count)
            while queue:
                item = queue.popleft()
                if not isinstance(item, bytes):
                    await item()
            raise
        finally:
            self._session.pumped()

    async def _call_handlers(self) -> None:
        """Hand the messages at the front to the handlers, one at a time."""
        queue = self._queue
        events, session = self._owner.events, self._session
        machine, session_id = session.machine, session.session_id
        clock = self._owner.loop.time
        config = self._owner.config
        time = self._owner.loop_time
        until, self._until = self._until or time.until(), None
        if until is None:
            until = await time.wait()
        end = min(until, clock() + config.ack_delay)
        most_bytes = min(_REPORT_BYTES, config.receive_window_bytes // _REPORT_SHARE)
        most_messages = most_bytes // FRAME_COST
        changes = -1  # never a number of them
        size = count = 0  # what handlers have taken since it was last reported
        try:
            for _ in range(_TURN_MESSAGES):
                if events.changes != changes:
                    if not events.handled("data_received"):
                        break
                    changes, handler = events.changes, events.only_handler("data_received")
                data = queue.popleft()
                if type(data) is not bytes:
                    queue.appendleft(data)
                    break
                size += len(data)
                count += 1
                if handler is None:
                    await self._owner.emit("data_received", session_id=session_id, data=data)
                else:
                    # Each coroutine in between would cost as much as the handler.
                    failure = None
                    try:
                        await handler(session_id=session_id, data=data)
                    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001
                        failure = error
                    if failure is not None:
                        await events.failed("data_received", handler, failure)
                        failure = None  # its traceback leads here: no cycle of references
                if size >= most_bytes or count >= most_messages:
                    machine.consumed(size, count)
                    size = count = 0
                if not queue or clock() > end:
                    break
        finally:
            machine.consumed(size, count)
        session.acknowledge()
        if time.wanted and clock() > until:
            self._until = await time.wait()
        else:
            await asyncio.sleep(0)

    async def _fill_inbox(self) -> None:
        """Put the messages at the front into the inbox; wait if there is no room."""
        messages = []
        for item in islice(self._queue, _OFFER_MESSAGES):
            if not isinstance(item, bytes):
                break
            messages.append(item)
        events, session_id = self._owner.events, self._session.session_id
        taken = self._offer(messages) or await self._offer_when_room(messages)
        for data in messages[:taken]:
            # A handler that has come meanwhile is not for these: they are in the inbox.
            if events.observed("data_received") and not events.handled("data_received"):
                await self._owner.emit("data_received", session_id=session_id, data=data)

    def _offer(self, messages: Sequence[bytes]) -> int:
        taken = self._session.offer(messages)
        if taken:
            self._session.acknowledge()
            for _ in range(taken):
                self._queue.popleft()
        return taken

    async def _offer_when_room(self, messages: Sequence[bytes]) -> int:
        # Room for many, lest this task is woken for each message that the application takes.
        size, count = sum(map(len, messages)), len(messages)

        async def wait_and_offer() -> int:
            # In one step and one task: the turn that the wait has earned is lost otherwise.
            await self._owner.endpoints.wait_for_room(self._session.peer_node_id, size, count)
            return 0 if self._owner.events.handled("data_received") else self._offer(messages)

        room = self._room = asyncio.ensure_future(wait_and_offer())
        try:
            await asyncio.wait((room,))
        finally:
            room.cancel()
            self._room = None
        return 0 if room.cancelled() or room.exception() else room.result()
