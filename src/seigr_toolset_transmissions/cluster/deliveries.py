"""Deliveries: the lanes of other hubs, seen from the hub that has the endpoints.

A delivery takes the messages of one lane to its endpoint's session, in order. While the session is
full, they wait here. The sending hub has credit for as many as a lane may have under way, so one
slow peer holds up nobody else. The delivery tells the other hub what the endpoint has acknowledged.
When the session ends, it says how many messages were delivered and how many more may have been.

An endpoint can have several sessions here. As in a node on its own, new messages go over the one
that has its route, and what another session was given stays with that one. So when the route
changes, the other hub learns how many messages the delivery has taken, and sends the rest again
over a new lane.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..errors import STTMessageSizeError, STTSessionClosedError
from ..sessions.public import SessionState
from .messages import FORWARD_HEAD, BadMessageError, Kind, pack_done, pack_numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from ..node.duty import Duty
    from ..sessions.session import LiveSession
    from .link import Link

__all__ = ["Deliveries", "DeliveriesOwner"]

_COST = 64
"""Bytes that each waiting message counts for, on top of its length."""

_BROADCASTS = 0
"""The number of a delivery that no lane has: it brings broadcasts to an endpoint without room."""


_HEAD_BYTES = FORWARD_HEAD.size


def _head(number: int) -> bytes:
    return FORWARD_HEAD.pack(Kind.FORWARD, number)


class DeliveriesOwner(Protocol):
    """What deliveries need of their cluster."""

    @property
    def most_held_bytes(self) -> int:
        """How much may wait here of what another hub has sent."""

    def own(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine as a task of the node."""

    def keep(self, work: Callable[[], Coroutine[Any, Any, None]]) -> Duty:
        """Do some work in a task of the node, whoever cancels that."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that the node runs on."""

    def session_with(self, endpoint_id: bytes) -> LiveSession | None:
        """Return the session of this hub with an endpoint; None if there is none."""


class _Waiting(NamedTuple):
    """A message that waits for room, and what says later whether a broadcast was accepted."""

    data: bytes
    outcome: asyncio.Future[bool] | None = None  # None: one of the lane's own, which count


class _Delivery:
    """What one lane brings to one endpoint."""

    __slots__ = (
        "_closing",
        "_confirming",
        "_delivered",
        "_drainer",
        "_positions",
        "_queue",
        "_taken",
        "deliveries",
        "draining",
        "moved",
        "number",
        "session",
    )

    def __init__(self, deliveries: Deliveries, number: int, session: LiveSession) -> None:
        self.deliveries: Deliveries = deliveries
        self.number: int = number
        self.session: LiveSession = session
        self.moved: bool = False  # whether another session gets what this one was not given
        self._queue: deque[_Waiting] = deque()
        # Each is settled once the endpoint has acknowledged that many of the session's messages.
        self._positions: list[int] = []
        self._taken = 0  # messages that were handed to the session, or that it refused
        self._delivered = 0
        self.draining: asyncio.Future[None] | None = None  # while messages wait for room
        self._drainer: Duty | None = None
        self._confirming = False
        self._closing = False

    @property
    def is_open(self) -> bool:
        """Whether it takes messages."""
        return not self._closing

    def put(self, data: bytes) -> None:
        """Take a message of the lane."""
        if self._closing:
            return  # the other hub learns from GONE or MOVED that it was not delivered
        if self.draining is None:
            try:
                if self.session.try_send(data):
                    self._settle()
                    return
            except STTMessageSizeError:
                self._refuse()
                return
            except STTSessionClosedError:
                self._end_when_closed()
                return
        self._wait(_Waiting(data))

    def put_broadcast(self, data: bytes) -> asyncio.Future[bool]:
        """Put a broadcast behind what waits; return what says whether the session accepts it.

        If that is cancelled, the broadcast is withdrawn.
        """
        outcome: asyncio.Future[bool] = self.deliveries.owner.loop.create_future()
        waiting = _Waiting(data, outcome)
        outcome.add_done_callback(lambda _: self._withdraw(waiting))
        self._wait(waiting)
        return outcome

    def _withdraw(self, waiting: _Waiting) -> None:
        if waiting in self._queue and waiting != self._queue[0]:  # `_drain` takes out that one
            self._queue.remove(waiting)

    def _wait(self, waiting: _Waiting) -> None:
        if self.draining is None:
            self.draining = self.deliveries.owner.loop.create_future()
            self._drainer = self.deliveries.owner.keep(self._drain)
        self._queue.append(waiting)
        if waiting.outcome is None:
            self.deliveries.grow(len(waiting.data) + _COST)

    async def _drain(self) -> None:
        try:
            while self._queue:
                waiting = self._queue[0]  # if cancelled, it stays the first
                if waiting.outcome is None:
                    await self._drain_own(waiting.data)
                elif not waiting.outcome.done():
                    await self._drain_broadcast(waiting.data, waiting.outcome)
                self._queue.popleft()
        except STTSessionClosedError:
            self._end_when_closed()
        self._stop_draining()
        if self.number == _BROADCASTS and self.is_open:
            self.deliveries.remove(self)

    async def _drain_own(self, data: bytes) -> None:
        try:
            await self.session.send(data)
        except STTMessageSizeError:
            self._refuse()
        else:
            self._settle()
        self.deliveries.grow(-len(data) - _COST)

    async def _drain_broadcast(self, data: bytes, outcome: asyncio.Future[bool]) -> None:
        def accept() -> int:
            return 1 if outcome.done() else self.session.machine.outbox.send(data)

        accepted = True
        try:
            if not self.session.accept(accept):
                await self.session.accept_in_turn(accept)
        except STTMessageSizeError:
            accepted = False
        if not outcome.done():
            outcome.set_result(accepted)

    def _stop_draining(self) -> None:
        if self._drainer is not None:
            self._drainer.end()
            self._drainer = None
        if self.draining is not None:
            self.draining.set_result(None)
            self.draining = None

    def _settle(self) -> None:
        """Confirm a message once the endpoint has acknowledged all that the session has now."""
        self._taken += 1
        self._positions.append(self.session.machine.outbox.messages_sent)
        self._begin_confirming()

    def _begin_confirming(self) -> None:
        if not self._confirming:
            self._confirming = True
            self.deliveries.owner.keep(self._confirm)

    def _refuse(self) -> None:
        """Tell the other hub of a message that is too long for the endpoint."""
        self.deliveries.link.post(pack_numbers(Kind.UNFIT, self.number, self._taken))
        self._settle()

    def _end_when_closed(self) -> None:
        """End once the session has closed, which still delivers what it was given."""
        self._closing = True
        self._clear()
        if self.session.state is SessionState.CLOSED:
            self.end()
        else:
            self._begin_confirming()

    async def _confirm(self) -> None:
        """Tell the other hub what the endpoint acknowledges, until nothing is left."""
        try:
            while self._positions:
                await self.session.flush()
                self._count()
        except STTSessionClosedError:
            self._closing = True
        if self.moved and not self._positions:
            self.deliveries.remove(self)
        elif self._closing:
            await self.session.wait_closed()
            self.end()
        self._confirming = False

    def _count(self) -> None:
        news = bisect_right(self._positions, self.session.machine.outbox.messages_acked)
        if news:
            del self._positions[:news]
            self._delivered += news
            self.deliveries.confirm(self.number, self._delivered)

    def drop(self) -> None:
        """Deliver nothing more of what waits."""
        self._stop_draining()
        self._clear()

    def _clear(self) -> None:
        while self._queue:
            data, outcome = self._queue.popleft()
            if outcome is None:
                self.deliveries.grow(-len(data) - _COST)
            elif not outcome.done():
                outcome.set_result(False)

    def move(self) -> None:
        """Take nothing more, because another session has the endpoint's route."""
        if self.moved:
            return
        self.moved = self._closing = True
        self.drop()
        self.deliveries.tell_moved(self.number, self._taken)
        if not self._positions:
            self.deliveries.remove(self)

    def end(self) -> None:
        """End, because the session has: tell the other hub exactly what became of the messages."""
        if self.deliveries.owner.session_with(self.session.peer_node_id) is not None:
            self.move()
        if not self.deliveries.remove(self):
            return
        self._count()
        ever_sent = self.session.machine.outbox.messages_ever_sent
        sent = self._delivered + sum(position <= ever_sent for position in self._positions)
        self.drop()
        self.deliveries.gone(self.number, self._delivered, sent)


class Deliveries:
    """The deliveries for one other hub.

    Args:
        owner: See `DeliveriesOwner`.
        link: The link to the hub.

    """

    def __init__(self, owner: DeliveriesOwner, link: Link) -> None:
        self.owner: DeliveriesOwner = owner
        self.link: Link = link
        self._by_head: dict[bytes, _Delivery] = {}  # by how the messages of its lane begin
        self._by_endpoint: dict[bytes, dict[int, _Delivery]] = {}
        self._confirmed: dict[int, int] = {}
        self.held: int = 0  # bytes of lanes that wait for room
        self.broadcast_bytes: int = 0  # of broadcasts that do
        self._room: asyncio.Future[None] | None = None  # while the other hub has to wait

    def __len__(self) -> int:
        return len(self._by_head)

    def open(self, number: int, endpoint_id: bytes) -> None:
        """Begin a lane to an endpoint.

        Raises:
            BadMessageError: There is such a lane, or another one to the endpoint. So a hub has no
                more lanes than there are endpoints, and what their sessions have not delivered yet.

        """
        session = self.owner.session_with(endpoint_id)
        head = _head(number)
        if head in self._by_head or number == _BROADCASTS:
            raise BadMessageError(f"a second lane {number}")
        of_endpoint = self._by_endpoint.get(endpoint_id, {})
        if any(each.number != _BROADCASTS and not each.moved for each in of_endpoint.values()):
            raise BadMessageError("a second lane to an endpoint")
        if session is None:
            self.link.post(pack_numbers(Kind.GONE, number, 0, 0))
            return
        delivery = of_endpoint.get(_BROADCASTS)
        if delivery is not None and delivery.is_open:  # the lane's messages follow behind them
            delivery.number = number
            of_endpoint[number] = of_endpoint.pop(_BROADCASTS)
        else:
            delivery = self._add(number, session)
        self._by_head[head] = delivery

    def _add(self, number: int, session: LiveSession) -> _Delivery:
        delivery = _Delivery(self, number, session)
        self._by_endpoint.setdefault(session.peer_node_id, {})[number] = delivery
        return delivery

    def forward(self, message: bytes) -> bool:
        """Deliver the message of a lane; return False if there is no lane that it belongs to."""
        delivery = self._by_head.get(message[:_HEAD_BYTES])
        if delivery is None:
            return False
        delivery.put(message[_HEAD_BYTES:])
        return True

    def close(self, number: int) -> None:
        """End a lane that the other hub does not use any more."""
        delivery = self._by_head.get(_head(number))
        if delivery is not None:
            self.remove(delivery)

    def broadcast(self, session: LiveSession, data: bytes) -> bool | asyncio.Future[bool]:
        """Deliver a broadcast behind what lanes have brought; return whether it was accepted.

        If there is no room, return what says so later.
        """
        of_endpoint = self._by_endpoint.get(session.peer_node_id, {}).values()
        here = [each for each in of_endpoint if each.is_open]
        here.sort(key=lambda each: each.draining is None)  # those with waiting messages first
        if not here or here[0].draining is None:
            try:
                if session.try_send(data):
                    return True
            except (STTMessageSizeError, STTSessionClosedError):
                return False
        delivery = here[0] if here else self._add(_BROADCASTS, session)
        return delivery.put_broadcast(data)

    def grow(self, size: int) -> None:
        """Count what waits for room."""
        self.held += size
        if self._room is not None and not self.is_full:
            self._room.set_result(None)
            self._room = None

    @property
    def is_full(self) -> bool:
        """Whether so much waits that the other hub should send nothing more for now."""
        return self.held > self.owner.most_held_bytes

    async def room(self) -> None:
        """Wait until there is room, or the link has ended."""
        if self._room is None:
            self._room = self.owner.loop.create_future()
        closed = self.owner.own(self.link.session.wait_closed())
        try:
            await asyncio.wait((closed, self._room), return_when=asyncio.FIRST_COMPLETED)
        finally:
            closed.cancel()

    async def drained(self, endpoint_id: bytes) -> None:
        """Wait until nothing waits for room in this endpoint's session."""
        for delivery in list(self._by_endpoint.get(endpoint_id, {}).values()):
            if delivery.draining is not None:
                await asyncio.wait((delivery.draining,))

    def route_changed(self, endpoint_id: bytes) -> None:
        """End deliveries over sessions that have ended, or have lost the endpoint's route."""
        if endpoint_id not in self._by_endpoint:
            return
        route = self.owner.session_with(endpoint_id)
        for delivery in list(self._by_endpoint[endpoint_id].values()):
            if delivery.session.state is SessionState.CLOSED:
                delivery.end()
            elif route is not None and route is not delivery.session:
                delivery.move()

    def remove(self, delivery: _Delivery) -> bool:
        """Forget a delivery; return whether it was there."""
        endpoint_id = delivery.session.peer_node_id
        of_endpoint = self._by_endpoint.get(endpoint_id, {})
        if of_endpoint.get(delivery.number) is not delivery:
            return False
        del of_endpoint[delivery.number]
        self._by_head.pop(_head(delivery.number), None)
        if not of_endpoint:
            del self._by_endpoint[endpoint_id]
        return True

    def confirm(self, number: int, delivered: int) -> None:
        """Tell the other hub how many messages of a lane were delivered, once a turn."""
        if not self._confirmed:
            self.owner.loop.call_soon(self._tell)
        self._confirmed[number] = delivered

    def _tell(self) -> None:
        if self._confirmed:
            for message in pack_done(self._confirmed):
                self.link.post(message)
            self._confirmed.clear()

    def gone(self, number: int, delivered: int, sent: int) -> None:
        """Tell the other hub that a lane has ended, and what became of its messages."""
        self._tell()
        if number != _BROADCASTS:
            self.link.post(pack_numbers(Kind.GONE, number, delivered, sent))

    def tell_moved(self, number: int, taken: int) -> None:
        """Tell the other hub how many messages one session has taken; another gets the rest."""
        self._tell()
        if number != _BROADCASTS:
            self.link.post(pack_numbers(Kind.MOVED, number, taken))

    def drop(self) -> None:
        """Forget everything: the other hub is lost. What sessions have accepted, they deliver.

        What still waits is dropped, because the other hub reports it; and if it comes back, what
        it sends then must not be overtaken.
        """
        for of_endpoint in self._by_endpoint.values():
            for delivery in of_endpoint.values():
                delivery.drop()
        self._by_head.clear()
        self._by_endpoint.clear()
        self._confirmed.clear()
