"""Handing on what the application is told about one session: its messages, and its events.

Each message has one fate, decided once: handlers of ``data_received`` that are registered when its
turn comes get it, or, if none of them was called, it belongs to the peer's inbox. What only watches
is told of it either way and never decides.

Messages for handlers take their turn among the session's events. Messages for the inbox go there as
soon as there is room, whatever handlers of other events do: one of them may wait for a message.

A task works off what is queued; both exist only while there is something to hand on. Handlers run
in that task, and whatever they or others do to it ends one handler at most: what is left finds
another task. Only the node ends a pump, when the time of all handlers is over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from .errors import STTEndpointError
from .events import Delivery
from .outbox import FRAME_COST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .config import NodeConfig
    from .endpoints import EndpointManager
    from .events import EventEmitter, Handler
    from .loop_time import LoopTime
    from .session import SessionMachine

__all__ = ["Pump", "PumpOwner", "PumpUser", "Step"]

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
"""Messages offered to an inbox at a time, and messages there of which watchers have yet to hear."""


STANDSTILL_SECONDS = 5.0
"""A handler that waits so long to answer over the session whose messages it handles may wait for
ever: its peer may do the same."""

_NOT_ANSWERING = (-1, 0.0)


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

    @property
    def time_is_over(self) -> bool:
        """Whether the node cancels the handlers that still run."""

    def own(
        self, coroutine: Coroutine[Any, Any, None], worker: Pump | None = None
    ) -> asyncio.Task[None]:
        """Run a coroutine as a task of the node, which tells the pump what becomes of it."""

    async def emit(self, event: str, **details: Any) -> None:
        """Emit an event. Raises only if the task is cancelled, or to interrupt the program."""

    def stands_still(self, session: Any) -> None:
        """Warn that a handler waits long to send over the session whose messages it handles."""

    def undelivered(self, session: Any, messages: tuple[bytes, ...]) -> Step:
        """Note messages that cannot be handed on any more; return the step that tells of them."""


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

    __slots__ = (
        "_answering",
        "_delivery",
        "_handed",
        "_messages",
        "_owner",
        "_room",
        "_session",
        "_steps",
        "_task",
        "_told",
        "_turn",
        "_until",
    )

    def __init__(self, session: PumpUser, owner: PumpOwner) -> None:
        self._session = session
        self._owner = owner
        self._messages: deque[bytes] = deque()
        self._handed = 0  # messages that have left the queue
        # Each step comes when so many messages have left the queue: its place among them.
        self._steps: deque[tuple[int, Step]] = deque()
        # The message whose handlers are about to be called, while it may yet turn out otherwise.
        self._delivery: tuple[Delivery, bytes] | None = None
        self._told = False  # whether watchers know the first message, which no handler took
        self._task: asyncio.Task[None] | None = None  # works it all off
        self._turn: asyncio.Future[None] | None = None  # that task waits for it
        self._room: asyncio.Task[None] | None = None  # while the inbox is full
        self._answering = _NOT_ANSWERING  # at which message a handler waits to send, since when
        self._until: float | None = None  # when this pump's time ends, after it has queued for it

    # ------------------------------------------------------------------ what comes in

    def start(self) -> None:
        """Work off in a new task what there is, and what comes meanwhile."""
        self._task = self._owner.own(self._run(), self)

    def add_messages(self, messages: Sequence[bytes]) -> None:
        """Hand on messages, behind all that came before."""
        self._messages.extend(messages)
        if self._told or not self._owner.events.handled("data_received"):
            # Not now: a handler that need not wait may be about to replace the endpoint.
            self._owner.loop.call_soon(self._fill_inbox)

    def add_step(self, step: Step) -> None:
        """Take a step behind all that came before."""
        self._steps.append((self._handed + len(self._messages), step))

    def answers(self) -> None:
        """Note that the caller waits to send over the session, if it handles these messages."""
        if asyncio.current_task() is self._task:
            self._answering = (self._handed, self._owner.loop.time())

    def check(self, now: float) -> None:
        """Say so if a handler waits long to send over the session, and messages wait for it."""
        handed, since = self._answering
        if handed == self._handed and now - since >= STANDSTILL_SECONDS and self._messages:
            self._answering = _NOT_ANSWERING  # once for each wait
            self._owner.stands_still(self._session)

    def take_back(self, step: Step | None) -> bool:
        """Drop ``step`` if nothing came after it and its turn has not come; whether so."""
        if not self._steps or self._steps[-1] != (self._handed + len(self._messages), step):
            return False
        self._steps.pop()
        return True

    def wait_no_more(self) -> None:
        """Try the inbox again now."""
        self._stop_waiting_for_room()
        self._fill_inbox()

    def clear(self) -> None:
        """Drop everything: neither the loop nor any task of it goes on."""
        self._messages.clear()
        self._steps.clear()
        self._delivery = self._task = self._room = None

    # ------------------------------------------------------- what becomes of its task

    def task_ended(self, task: asyncio.Task[None]) -> None:
        """Go on in another task, unless all is done: somebody has ended this one."""
        if task is self._task:
            if not task.cancelled():
                task.exception()  # the loop has it already
            self.start()

    def leave(self, task: asyncio.Task[None]) -> None:
        """Go on in another task: this one waits for the node's stop, or cannot be ended."""
        if task is self._task:
            self._close_delivery()
            self.start()

    def handlers_changed(self) -> None:
        """Go by the handlers that are registered now; to be called between the loop's turns."""
        if self._pushes():
            self._stop_waiting_for_room()
        self._fill_inbox()
        self._take_turn()

    async def _run(self) -> None:
        """Work it all off; tell the session when nothing is left."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  it is one of the node's
        if self._owner.time_is_over:  # had it been before, this would be another task
            self._give_up()
        steps, handled = self._steps, self._owner.events.handled
        while task is self._task:
            if steps and steps[0][0] <= self._handed:
                _, step = steps.popleft()
                await step()
            elif not self._messages:
                self._task = None
                self._session.pumped()
                return
            elif handled("data_received") and not self._told:
                await self._call_handlers(task)
            else:
                self._fill_inbox()
                if self._room is not None and not (steps and steps[0][0] <= self._handed):
                    self._turn = self._owner.loop.create_future()
                    await self._turn
            if task.cancelling():  # others have meant a handler, or all tasks of the program
                return

    def _take_turn(self) -> None:
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    def _give_up(self) -> None:
        """Return the messages that nobody takes any more."""
        self._stop_waiting_for_room()
        self._fill_inbox()
        if self._messages:
            messages = tuple(self._messages)
            self._messages.clear()
            self._handed += len(messages)
            self._steps.appendleft((0, self._owner.undelivered(self._session, messages)))

    # ---------------------------------------------------------------------- handlers

    def _pushes(self) -> bool:
        """Whether the first message is for handlers."""
        return not self._told and self._owner.events.handled("data_received")

    async def _call_handlers(self, task: asyncio.Task[None]) -> None:
        """Hand the messages at the front to the handlers, one at a time, for a turn of the loop."""
        time = self._owner.loop_time
        until, self._until = self._until or time.until(), None
        if until is None:
            self._until = await time.wait()
            return  # much may have changed
        messages, steps = self._messages, self._steps
        events, session = self._owner.events, self._session
        machine, session_id = session.machine, session.session_id
        clock, cancelling = self._owner.loop.time, task.cancelling
        config = self._owner.config
        end = min(until, clock() + config.ack_delay)
        most_bytes = min(_REPORT_BYTES, machine.window // _REPORT_SHARE)
        most_messages = most_bytes // FRAME_COST
        changes = -1  # never a number of them
        size = count = 0  # what handlers have taken since it was last reported
        try:
            for _ in range(_TURN_MESSAGES):
                if events.changes != changes:
                    if not events.handled("data_received"):
                        break
                    changes, handler = events.changes, events.only_handler("data_received")
                data = messages.popleft()
                self._handed += 1
                if handler is None:
                    await self._emit(data)
                    if self._told:
                        break
                else:
                    size += len(data)
                    count += 1
                    # Each coroutine in between would cost as much as the handler.
                    failure = None
                    try:
                        await handler(session_id=session_id, data=data)
                    except BaseException as error:  # noqa: BLE001 - see `_failed`
                        failure = error
                    if failure is not None:
                        try:
                            await self._failed(task, handler, failure)
                        finally:
                            failure = None  # its traceback leads here: no cycle of references
                    if size >= most_bytes or count >= most_messages:
                        machine.consumed(size, count)
                        size = count = 0
                if (
                    not messages
                    or cancelling()
                    or task is not self._task
                    or (steps and steps[0][0] <= self._handed)
                    or clock() > end
                ):
                    break
        finally:
            machine.consumed(size, count)
        if task is self._task:
            session.acknowledge()
            if time.wanted and clock() > until:
                self._until = await time.wait()
            else:
                await asyncio.sleep(0)

    async def _failed(
        self, task: asyncio.Task[None], handler: Handler, failure: BaseException
    ) -> None:
        """Report what a handler has raised, unless it is not the handler's own."""
        try:
            if isinstance(failure, KeyboardInterrupt | SystemExit) or (
                isinstance(failure, GeneratorExit) and _is_being_closed(task)
            ):
                raise failure
            cancelled = isinstance(failure, asyncio.CancelledError)
            if cancelled and task is self._task and self._owner.time_is_over:
                raise failure
            failed = partial(self._owner.events.failed, "data_received", handler, failure)
            if task is self._task and task.cancelling():
                # Others have cancelled it, and may have done so again: this belongs to the next.
                self._steps.appendleft((0, failed))
            else:
                await failed()
        finally:
            del failure  # its traceback leads here: no cycle of references

    async def _emit(self, data: bytes) -> None:
        """Hand a message to several; should no handler be called, it is for the inbox."""
        delivery = Delivery("data_received")
        opened = self._delivery = (delivery, data)
        try:
            session_id = self._session.session_id
            await self._owner.emit(delivery, session_id=session_id, data=data)
        finally:
            if delivery.handler is not None:
                self._session.machine.consumed(len(data), 1)
            if self._delivery is opened:
                self._close_delivery()

    def _close_delivery(self) -> None:
        """Decide what has become of the message that is being handed to several."""
        if self._delivery is None:
            return
        (delivery, data), self._delivery = self._delivery, None
        if delivery.handler is None:
            delivery.watch_only = True
            self._messages.appendleft(data)
            self._handed -= 1
            self._told = True

    # ------------------------------------------------------------------------- inbox

    def _fill_inbox(self) -> None:
        """Put the messages at the front into the inbox, and wait for room if it has none.

        Does nothing if they are for handlers.
        """
        if not self._messages or self._room is not None or self._pushes():
            return
        if self._delivery is not None and self._delivery[0].handler is None:
            return  # the message before these may yet be for the inbox
        events, messages, told = self._owner.events, self._messages, self._told
        watched = events.observed("data_received")
        most = _OFFER_MESSAGES - (len(self._steps) if watched else 0)
        if self._owner.time_is_over:
            most = len(messages)
        elif told:
            most = 1
        batch = list(islice(messages, max(0, most)))
        if not batch:
            return
        taken = self._session.offer(batch)
        if taken:
            self._session.acknowledge()
            for _ in range(taken):
                messages.popleft()
            if watched:
                self._tell_watchers(batch[told:taken])
            self._handed += taken
            self._told = False
        if taken < len(batch):
            self._wait_for_room(batch[taken:])
        elif told:
            self._fill_inbox()
        self._take_turn()

    def _tell_watchers(self, messages: Sequence[bytes]) -> None:
        """Tell those who watch of messages in the inbox, when it is the messages' turn."""
        first = self._handed
        later: list[tuple[int, Step]] = []
        while self._steps and self._steps[-1][0] > first:
            later.append(self._steps.pop())
        for place, data in enumerate(messages, first):
            while later and later[-1][0] <= place:
                self._steps.append(later.pop())
            self._steps.append((place, partial(self._watch, data)))
        self._steps.extend(reversed(later))

    async def _watch(self, data: bytes) -> None:
        # When the time of handlers is over, there may be more of these than can be cancelled.
        if not self._owner.time_is_over and self._owner.events.observed("data_received"):
            name = Delivery("data_received", watch_only=True)
            await self._owner.emit(name, session_id=self._session.session_id, data=data)

    def _wait_for_room(self, messages: Sequence[bytes]) -> None:
        # Room for many, lest a task is woken for each message that the application takes.
        size, count = sum(map(len, messages)), len(messages)
        room = self._room = self._owner.own(self._fill_when_room(size, count))
        room.add_done_callback(self._room_ended)

    async def _fill_when_room(self, size: int, count: int) -> None:
        with suppress(STTEndpointError):  # the user has removed it: to offer adds it again
            await self._owner.endpoints.wait_for_room(self._session.peer_node_id, size, count)
        if self._room is asyncio.current_task():
            self._room = None
            self._fill_inbox()

    def _room_ended(self, room: asyncio.Task[None]) -> None:
        if self._room is room:  # somebody has cancelled it
            self._room = None
            self._fill_inbox()

    def _stop_waiting_for_room(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.cancel()


def _is_being_closed(task: asyncio.Task[None]) -> bool:
    """Tell whether the task's coroutine is closed from outside, as its loop will not go on."""
    try:
        return asyncio.current_task() is not task
    except RuntimeError:  # no loop runs
        return True
