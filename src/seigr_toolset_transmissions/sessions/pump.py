"""Delivers one session's messages and events to the application.

Each message has one fate, decided once: handlers of ``data_received`` that are registered when its
turn comes get it, or, if none of them was called, it belongs to the peer's inbox. Watchers
(`on_any`, `wait_for`, `stream`) see the message either way and do not affect where it goes.

Messages for handlers take their turn among the session's events. Messages for the inbox go there as
soon as there is room, whatever handlers of other events do: one of them may wait for a message.

A task works through the queue; both exist only while there is something to deliver. Handlers run in
that task. If a handler or other code cancels it, at most one handler ends, and another task takes
over the rest. Only the node ends a pump, when the time for all handlers is over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import STTEndpointError
from ..events import Delivery
from ..foundation.futures import retrieve
from ..protocol.outbox import FRAME_COST
from .worker import WorkerOwner, is_being_closed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..endpoints.transport_side import TransportEndpoints
    from ..events import Handler
    from ..protocol.machine import SessionMachine

__all__ = ["Pump", "PumpOwner", "PumpUser", "Step"]

Step = Callable[[], Coroutine[Any, Any, None]]
"""Something that the application is told, in its turn."""

_TURN_MESSAGES = 1024
"""The most messages that handlers get in one turn of the loop if none of them waits. The turn ends
earlier when its time is used up, and after ``ack_delay`` at the latest, because the peer must be
told what was consumed."""

_REPORT_BYTES = 64 * 1024
_REPORT_SHARE = 16
"""Handlers may take this many bytes, as windows count them, but no more than this share of the
receive window, before the session's state is told: reporting each message would cost as much as a
short handler. Until then the peer gets no credit for them, however long the next handler waits."""

_OFFER_MESSAGES = 1024
"""The most messages that are offered to an inbox at a time, and the most there that watchers have
not been told of yet."""


STANDSTILL_SECONDS = 5.0
"""A handler that waits so long to answer over the session whose messages it handles may wait
forever: its peer may be doing the same."""

_NOT_ANSWERING = (-1, 0.0)


class PumpOwner(WorkerOwner, Protocol):
    """What a pump needs of the node."""

    @property
    def endpoints(self) -> TransportEndpoints:
        """Where messages go if no handler takes them."""

    async def emit(self, event: str, **details: Any) -> None:
        """Emit an event. Raises only what cancels the task or interrupts the program."""

    def stands_still(self, session: Any) -> None:
        """Warn that a handler has long waited to send on the session whose messages it handles."""

    def handler_lasts(self, session: Any, event: str) -> None:
        """Warn that a handler runs for long while more events of its session wait for it."""

    def undelivered(self, session: Any, messages: tuple[bytes, ...]) -> Step:
        """Note messages that can no longer be handed over; return the step that reports them."""


class PumpUser(Protocol):
    """The session whose messages and events are delivered."""

    machine: SessionMachine
    """Its state, which must be told what the application has taken."""
    peer_node_id: bytes

    @property
    def session_id(self) -> bytes:
        """Given to handlers."""

    def offer(self, messages: Sequence[bytes]) -> int:
        """Put as many messages into the peer's inbox as it has room for; return how many."""

    def acknowledge(self) -> None:
        """Acknowledge what was received and consumed, soon enough for the peer to go on."""

    def pumped(self) -> None:
        """Note that everything has been handed over; whatever comes next needs another pump."""


class Pump:
    """Hands over what it is given until there is nothing left."""

    __slots__ = (
        "_answering",
        "_delivery",
        "_mark",
        "_messages",
        "_owner",
        "_queued",
        "_room",
        "_session",
        "_since",
        "_step",
        "_steps",
        "_task",
        "_told",
        "_turn",
        "_until",
        "context",
    )

    def __init__(self, session: PumpUser, owner: PumpOwner) -> None:
        self._session = session
        self._owner = owner
        self._messages: deque[bytes] = deque()
        self._queued = 0  # messages that were ever put into the queue
        # Each step, with its place among the messages (it runs when that many have left the queue)
        # and the event that it emits.
        self._steps: deque[tuple[int, str, Step]] = deque()
        self._step: tuple[int, str, Step] | None = None  # the one that runs
        # The message that is being handed to several handlers, until it is clear that one got it.
        self._delivery: tuple[Delivery, bytes] | None = None
        self._told = False  # whether watchers know the first message, which no handler took
        self._task: asyncio.Task[None] | None = None  # works through it all
        self.context: Context = Context()  # in which that task runs; whatever owns the task sets it
        self._turn: asyncio.Future[None] | None = None  # that task waits for it
        self._room: asyncio.Task[None] | None = None  # while the inbox is full
        self._answering = _NOT_ANSWERING  # at which message a handler waits to send, and since when
        self._mark: tuple[int, object] = (-1, None)  # how far the pump had come at the last check
        self._since = 0.0  # the check since when it has come no further; infinity: it has warned
        self._until: float | None = None  # when this pump's time ends, if it has queued for it

    # ------------------------------------------------------------------ what comes in

    def start(self) -> None:
        """Work through what there is, and what comes meanwhile, in a new task."""
        self._task = self._owner.own(self._run(), self)

    @property
    def _handed(self) -> int:
        """How many messages have left the queue."""
        return self._queued - len(self._messages)

    def add_messages(self, messages: Sequence[bytes]) -> None:
        """Hand over messages, after all that came before."""
        self._messages.extend(messages)
        self._queued += len(messages)
        if self._told or not self._owner.events.handled("data_received"):
            # Not now, because a handler that is running may be about to replace the endpoint.
            self._owner.loop.call_soon(self._fill_inbox)

    def add_step(self, event: str, step: Step) -> None:
        """Take a step, which emits an event, after all that came before."""
        self._steps.append((self._queued, event, step))

    def answers(self) -> None:
        """Note that the caller waits to send over the session, if it handles these messages."""
        if asyncio.current_task() is self._task:
            self._answering = (self._handed, self._owner.loop.time())

    def check(self, now: float, *, sending: bool) -> None:
        """Warn if a handler runs for long while others wait for it. Call this about once a second.

        Args:
            now: The loop's time.
            sending: Whether anything waits to send over the session; it may be the handler.

        """
        handed, since = self._answering
        waits = handed == self._handed and now - since >= STANDSTILL_SECONDS
        if sending and waits and self._messages:
            self._answering = _NOT_ANSWERING  # once for each wait
            self._owner.stands_still(self._session)
        patience = self._owner.config.handler_warning
        mark = (self._handed, self._step)
        if mark != self._mark:
            self._mark, self._since = mark, now
        elif (
            patience is not None
            and now - self._since >= patience
            and (self._messages or self._steps)
            and self._room is None  # else they wait for room in the inbox
        ):
            self._since = float("inf")  # once for each handler
            event = "data_received" if self._step is None else self._step[1]
            self._owner.handler_lasts(self._session, event)

    def take_back(self, step: Step | None) -> bool:
        """Drop ``step`` if it is the last one and its turn has not come; return whether it was."""
        if not self._steps or self._steps[-1][::2] != (self._queued, step):
            return False
        self._steps.pop()
        return True

    def wait_no_more(self) -> None:
        """Try the inbox again now."""
        self._stop_waiting_for_room()
        self._fill_inbox()

    def clear(self) -> None:
        """Drop everything: neither the loop nor any of its tasks will go on."""
        self._messages.clear()
        self._steps.clear()
        self._delivery = self._step = self._task = self._room = None

    # ------------------------------------------------------------------ its task

    def task_ended(self, task: asyncio.Task[None]) -> None:
        """Go on in another task, unless all is done: other code has ended this one."""
        if task is self._task:
            retrieve(task)  # the loop has it already
            self.start()

    def leave(self, task: asyncio.Task[None]) -> None:
        """Go on in another task: this one waits for the node to stop, or cannot be ended."""
        if task is self._task:
            self._close_delivery()
            self.start()

    def handlers_changed(self) -> None:
        """Go by the handlers that are registered now; called by the loop, not within a handler."""
        if self._pushes():
            self._stop_waiting_for_room()
        self._fill_inbox()
        self._take_turn()

    async def _run(self) -> None:
        """Work through it all; tell the session when nothing is left."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  it is one of the node's
        if self._owner.time_is_over:  # checking once is enough: the node then ends this task
            self._give_up()
        steps, handled = self._steps, self._owner.events.handled
        while task is self._task:
            self._step = None
            if steps and steps[0][0] <= self._handed:
                self._step = steps.popleft()
                await self._step[2]()
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
            if task.cancelling():  # by other code, which meant a handler or all tasks it found
                return

    def _take_turn(self) -> None:
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    def _give_up(self) -> None:
        """Give up the messages that nothing will take any more, and report them."""
        self._stop_waiting_for_room()
        self._fill_inbox()
        if self._messages:
            messages = tuple(self._messages)
            self._messages.clear()
            self._steps.appendleft((0, "error", self._owner.undelivered(self._session, messages)))

    # ---------------------------------------------------------------------- handlers

    def _pushes(self) -> bool:
        """Whether the first message is for handlers."""
        return not self._told and self._owner.events.handled("data_received")

    async def _call_handlers(self, task: asyncio.Task[None]) -> None:
        """Hand the messages at the front to the handlers, one by one, for a turn of the loop."""
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
        context, clean = self.context, self.context.copy()
        changes = -1  # differs from any count of changes
        cost, each = 0, FRAME_COST  # cost: what handlers have taken since the last report
        failure: BaseException | None = None
        try:
            for _ in range(_TURN_MESSAGES):
                if events.changes != changes:
                    if not events.handled("data_received"):
                        break
                    changes, handler = events.changes, events.only_handler("data_received")
                data = messages.popleft()
                if handler is None:
                    await self._emit(data)
                    if self._told:
                        break
                else:
                    cost += len(data) + each
                    # A coroutine in between would cost as much as the handler.
                    try:
                        await handler(session_id=session_id, data=data)
                    except BaseException as error:  # noqa: BLE001 - see `_failed`
                        failure = error
                    if failure is not None:
                        try:
                            await self._failed(task, handler, failure)
                        finally:
                            failure = None  # its traceback leads here: no cycle of references
                    if cost >= most_bytes:
                        machine.consumed(cost, 0)
                        cost = 0
                if (
                    not messages
                    or cancelling()
                    or task is not self._task
                    or (steps and steps[0][0] <= self._handed)
                    or context != clean
                    or clock() > end
                ):
                    break
        finally:
            machine.consumed(cost, 0)
        if task is self._task:
            session.acknowledge()
            if context != clean:  # a handler has set context variables; the next must not see them
                self.start()
            elif time.wanted and clock() > until:
                self._until = await time.wait()
            else:
                await asyncio.sleep(0)

    async def _failed(
        self, task: asyncio.Task[None], handler: Handler, failure: BaseException
    ) -> None:
        """Report what a handler has raised; re-raise what is not its failure."""
        try:
            if isinstance(failure, KeyboardInterrupt | SystemExit) or (
                isinstance(failure, GeneratorExit) and is_being_closed(task)
            ):
                raise failure
            cancelled = isinstance(failure, asyncio.CancelledError)
            if cancelled and task is self._task and self._owner.time_is_over:
                raise failure
            failed = partial(self._owner.events.failed, "data_received", handler, failure)
            if task is self._task and task.cancelling():
                # Other code has cancelled it, and may do so again: the next task reports this.
                self._steps.appendleft((0, "error", failed))
            else:
                await failed()
        finally:
            del failure  # its traceback leads here: no cycle of references

    async def _emit(self, data: bytes) -> None:
        """Hand a message to several handlers; if none is called, it goes to the inbox."""
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
        """Decide whether a handler got the message that is being handed to several."""
        if self._delivery is None:
            return
        (delivery, data), self._delivery = self._delivery, None
        if delivery.handler is None:
            delivery.watch_only = True
            self._messages.appendleft(data)
            self._told = True

    # ------------------------------------------------------------------------- inbox

    def _fill_inbox(self) -> None:
        """Put the messages at the front into the inbox, and wait for room if it is full.

        Does nothing if they are for handlers.
        """
        if not self._messages or self._room is not None or self._pushes():
            return
        if self._delivery is not None and self._delivery[0].handler is None:
            return  # the message before these may still turn out to be for the inbox
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
            if watched:
                self._tell_watchers(batch[told:taken])
            for _ in range(taken):
                messages.popleft()
            self._told = False
        if taken < len(batch):
            self._wait_for_room(batch[taken:])
        elif told:
            self._fill_inbox()
        self._take_turn()

    def _tell_watchers(self, messages: Sequence[bytes]) -> None:
        """Show messages that are in the inbox to watchers, when their turn comes."""
        first = self._handed
        later: list[tuple[int, str, Step]] = []
        while self._steps and self._steps[-1][0] > first:
            later.append(self._steps.pop())
        for place, data in enumerate(messages, first):
            while later and later[-1][0] <= place:
                self._steps.append(later.pop())
            self._steps.append((place, "data_received", partial(self._watch, data)))
        self._steps.extend(reversed(later))

    async def _watch(self, data: bytes) -> None:
        # After the time for handlers is over, there may be more of these than can be cancelled.
        if not self._owner.time_is_over and self._owner.events.observed("data_received"):
            name = Delivery("data_received", watch_only=True)
            await self._owner.emit(name, session_id=self._session.session_id, data=data)

    def _wait_for_room(self, messages: Sequence[bytes]) -> None:
        # Wait for room for many, or each message that the application takes would wake a task.
        size, count = sum(map(len, messages)), len(messages)
        room = self._room = self._owner.own(self._fill_when_room(size, count))
        room.add_done_callback(self._room_ended)

    async def _fill_when_room(self, size: int, count: int) -> None:
        with suppress(STTEndpointError):  # it was removed: the next offer adds it again
            await self._owner.endpoints.wait_for_room(self._session.peer_node_id, size, count)
        if self._room is asyncio.current_task():
            self._room = None
            self._fill_inbox()

    def _room_ended(self, room: asyncio.Task[None]) -> None:
        if self._room is room:  # other code has cancelled it
            self._room = None
            self._fill_inbox()

    def _stop_waiting_for_room(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.cancel()
