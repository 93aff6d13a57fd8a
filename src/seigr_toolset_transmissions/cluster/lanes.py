"""Lanes: sending to endpoints of other hubs, seen from the hub that sends.

A lane leads to one endpoint over the link to the hub that the endpoint is connected to. Like a
session, it is a route: what it accepts is delivered once and in order, or reported. It keeps each
message until the *endpoint* has acknowledged it. So when the other hub is lost, this one knows
which messages have certainly not arrived and which may have.

What has certainly not arrived goes out again if the endpoint turns up at another hub, or here,
within the time that the cluster gives it (``grace``); then new messages follow behind it.

An endpoint can open another session at the same hub. Then its hub gives new messages to that one,
and the lane begins anew. What the older session was given stays in a *former* lane, until it has
arrived or that session ends.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import STTEndpointError, STTMessageSizeError, STTSessionClosedError
from ..foundation.ids import short
from .messages import FORWARD_HEAD, Kind, fingerprint, pack_numbers, too_long

if TYPE_CHECKING:
    from asyncio import TimerHandle
    from collections.abc import Callable, Container, Coroutine, Iterator, Sequence

    from ..sessions.holding import Hold
    from ..sessions.session import LiveSession
    from .link import Link
    from .routes import Routes

__all__ = ["Lane", "Lanes", "LanesOwner"]

_WINDOW_BYTES = 1024 * 1024
_WINDOW_MESSAGES = 16_384
"""What one lane may have under way. The endpoint's hub holds no more than this for it."""

_NOTICE_SECONDS = 5.0
"""A link without an answer is suspended after this long. The ``grace`` that it has then comes on
top: by that time it is known what became of a lane's messages, if it ever is."""

_COST = 64
"""Bytes that each message counts for, on top of its length."""

_IDLE_SECONDS = 30.0
"""A lane without messages is closed after one to two times this."""


class LanesOwner(Protocol):
    """What lanes need of their cluster."""

    @property
    def most_bytes(self) -> int:
        """The longest message that a node of the cluster takes."""

    @property
    def most_held_bytes(self) -> int:
        """How much all lanes together may hold."""

    @property
    def grace(self) -> float:
        """How many seconds an endpoint may take to turn up again."""

    def keep(self, work: Callable[[], Coroutine[Any, Any, None]]) -> object:
        """Do some work in a task of the node, whoever cancels that."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that the node runs on."""

    def is_here(self, endpoint_id: bytes) -> bool:
        """Whether an endpoint has a session with this hub."""

    def session_with(self, endpoint_id: bytes) -> LiveSession | None:
        """Return the session of this hub with an endpoint; None if there is none."""

    async def ask(
        self, link: Link, endpoint_id: bytes, data: bytes, timeout: float | None
    ) -> bytes:
        """Send a request to an endpoint of that hub, and return its reply."""

    def report_lost(
        self, endpoint_id: bytes, reason: str, unsent: Sequence[bytes], unknown: Sequence[bytes]
    ) -> None:
        """Report messages that were accepted and are lost."""


def _cost(messages: Sequence[bytes | None]) -> int:
    """Return how much of the lane's window messages take."""
    return sum(map(len, filter(None, messages))) + len(messages) * _COST


def _not_sent(link: Link | None) -> Counter[bytes]:
    """Return how many messages with each head have certainly not reached a hub."""
    size = FORWARD_HEAD.size
    return Counter(message[:size] for message in (link.not_sent() if link else ()))


class Lane:
    """The way to one endpoint of another hub."""

    __slots__ = (
        "_changed",
        "_confirmed",
        "_head",
        "_holds",
        "_lanes",
        "_patience",
        "_sent",
        "_size",
        "_timer",
        "_turn",
        "_unsent",
        "_waiting",
        "endpoint_id",
        "idle",
        "is_former",
        "link",
        "number",
    )

    def __init__(self, lanes: Lanes, endpoint_id: bytes) -> None:
        self.endpoint_id: bytes = endpoint_id
        self.link: Link | None = None  # None while no hub has the endpoint
        self.number: int = 0
        self.idle: bool = False
        self.is_former: bool = False
        self._lanes = lanes
        self._head = b""  # of each message to the hub
        self._timer: TimerHandle | None = None  # until what is unsent is reported
        # Of the endpoint's sessions here, until it is settled what became of the messages.
        self._holds: dict[LiveSession, Hold] = {}
        self._patience: TimerHandle | None = None  # until they end in any case
        # What is under way; None for what was too long for the endpoint, and is reported already.
        self._sent: list[bytes | None] = []
        self._unsent: deque[bytes] = deque()  # to be sent again, before anything new
        self._size = 0
        self._confirmed = 0
        self._waiting = 0
        self._turn: asyncio.Lock | None = None  # made for the first that waits
        self._changed: asyncio.Event | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is under way or waits."""
        return not (self.holds_messages or self._waiting)

    @property
    def holds_messages(self) -> bool:
        """Whether it has accepted messages that the endpoint has not acknowledged."""
        return bool(self._sent or self._unsent)

    # -- sending -----------------------------------------------------------------------------

    def try_send(self, data: bytes) -> bool:
        """Accept a message if there is room for it. See `endpoints.fanout.Route`.

        Raises:
            STTEndpointError: The endpoint is connected to no hub.
            STTMessageSizeError: The message is longer than a node of the cluster takes.

        """
        if self._waiting or self._unsent:
            return False
        link = self._checked_link(data)
        if not self._has_room(data):
            return False
        try:
            accepted = link.try_send(self._head + data)
        except STTSessionClosedError:
            return False  # `send` waits for what becomes of the endpoint
        if accepted:
            self._note(data)
        return accepted

    async def send(self, data: bytes) -> None:
        """Accept a message; wait for room. If cancelled, it was not accepted.

        Raises what `try_send` does.
        """
        if self.try_send(data):
            return
        if self._turn is None:
            self._turn = asyncio.Lock()
        self._waiting += 1
        try:
            async with self._turn:
                while not await self._send_in_turn(data):
                    pass
        finally:
            self._waiting -= 1
            if self.is_empty:
                self.let_go()

    async def _send_in_turn(self, data: bytes) -> bool:
        link = self._checked_link(data)
        if self._unsent or not self._has_room(data):
            await self._change()
            return False
        number = self.number
        try:
            await link.send(self._head + data)
        except STTSessionClosedError:
            if self.link is link:
                await self._change()  # the hub hears in a moment that the link is lost
            return False
        if self.number != number:
            return False  # the hub had said that it has the endpoint no longer: it dropped this
        self._note(data)
        return True

    def _checked_link(self, data: bytes) -> Link:
        if len(data) > self._lanes.owner.most_bytes:
            raise too_long(data, self._lanes.owner.most_bytes)
        if self.link is None:
            raise STTEndpointError(
                f"endpoint {short(self.endpoint_id)} is connected to no hub of the cluster now"
            )
        return self.link

    def _has_room(self, data: bytes) -> bool:
        if not self._sent:
            return True
        cost = len(data) + _COST
        return (
            self._size + cost <= _WINDOW_BYTES
            and len(self._sent) < _WINDOW_MESSAGES
            and self._lanes.held + cost <= self._lanes.owner.most_held_bytes
        )

    def _note(self, data: bytes) -> None:
        self._sent.append(data)
        cost = len(data) + _COST
        self._size += cost  # not `_grow`: this is done for each message
        self._lanes.held += cost
        self.idle = False

    def _grow(self, size: int) -> None:
        self._size += size
        self._lanes.held += size

    async def request(self, data: bytes, *, timeout: float | None = None) -> bytes:
        """Send a request and return the reply. See `endpoints.requests.Askable`."""
        link = self._checked_link(data)
        return await self._lanes.owner.ask(link, self.endpoint_id, data, timeout)

    def begin_request(self, data: bytes, timeout: float | None) -> None:
        """Return None: a request to another hub's endpoint takes a task."""

    # -- what becomes of the messages --------------------------------------------------------

    def open(self, link: Link, number: int) -> None:
        """Lead to this hub from now on, and send again what is unsent."""
        self.link = link
        self.number = number
        self._head = FORWARD_HEAD.pack(Kind.FORWARD, number)
        self._confirmed = 0
        self._stop_timer()
        link.post(pack_numbers(Kind.LANE, number, self.endpoint_id))
        if self._unsent:
            self._lanes.owner.keep(partial(self._send_again, link, number))
        self.note_change()

    async def _send_again(self, link: Link, number: int) -> None:
        while self._unsent and self.number == number:
            data = self._unsent[0]
            try:
                await link.send(self._head + data)
            except STTSessionClosedError:
                return
            except STTMessageSizeError as error:  # this hub's node takes only shorter ones
                if self.number == number:
                    self._grow(-len(self._unsent.popleft()) - _COST)
                    self._lanes.owner.report_lost(self.endpoint_id, str(error), (data,), ())
                continue
            if self.number == number:
                self._sent.append(self._unsent.popleft())
        self.note_change()

    def delivered(self, count: int) -> None:
        """Drop what the endpoint has acknowledged: this many messages since the lane was opened."""
        news = max(0, min(count - self._confirmed, len(self._sent)))
        self._confirmed += news
        self._grow(-_cost(self._sent[:news]))
        del self._sent[:news]
        if self.is_empty:
            self.let_go()
        self.note_change()

    def refused(self, index: int) -> bytes | None:
        """Give up the message with this number, which the endpoint refuses, and return it."""
        at = index - self._confirmed
        if not 0 <= at < len(self._sent):
            return None
        data, self._sent[at] = self._sent[at], None
        self._grow(-len(data or b""))
        return data

    def leave_behind(self, taken: int) -> Lane:
        """Return a former lane with the first messages, this many since the lane was opened."""
        former = Lane(self._lanes, self.endpoint_id)
        former.is_former = True
        former.link, former.number, former._confirmed = self.link, self.number, self._confirmed
        count = max(0, taken - self._confirmed)
        former._sent, self._sent = self._sent[:count], self._sent[count:]
        cost = _cost(former._sent)
        self._grow(-cost)
        former._grow(cost)
        return former

    def may_have_arrived(self, not_sent: Counter[bytes]) -> int:
        """Return how many of the messages under way may have reached the hub.

        Args:
            not_sent: How many messages with each head have certainly not. The hub has taken all
                messages of a former lane; those are of others, with the number that it had before.

        """
        return len(self._sent) - (0 if self.is_former else not_sent[self._head])

    def lose(self, reason: str, sent: int) -> None:
        """Lead nowhere for now: the first ``sent`` messages may have arrived, the others have not.

        What may have arrived is reported; the others wait until the endpoint turns up. A former
        lane reports those too: what was sent later has arrived meanwhile.
        """
        unknown, unsent = self._split(sent)
        lost: list[bytes] = []
        if self.is_former:
            lost = unsent
        else:
            self._unsent.extendleft(reversed(unsent))
        self._sent.clear()
        self._grow(sum(len(data) + _COST for data in self._unsent) - self._size)
        self.link = None
        self.number = 0
        if unknown or lost:
            self._lanes.owner.report_lost(self.endpoint_id, reason, lost, unknown)
        if self._unsent and self._timer is None:
            owner = self._lanes.owner
            self._timer = owner.loop.call_later(owner.grace, self._expire, reason)
        self.note_change()

    def _split(self, sent: int) -> tuple[list[bytes], list[bytes]]:
        """Return what is under way: the first ``sent`` messages, and the others."""
        return (
            [each for each in self._sent[:sent] if each is not None],
            [each for each in self._sent[sent:] if each is not None],
        )

    def send_here(self) -> None:
        """Send what is unsent over a session of this hub, which the endpoint has connected to.

        What the session does not take at once is reported: what is sent next would overtake it.
        """
        hold = self._hold()
        while self._unsent and hold is not None:
            data = self._unsent[0]
            try:
                if not hold.try_send(data):
                    break
            except STTMessageSizeError as error:
                self._lanes.owner.report_lost(self.endpoint_id, str(error), (data,), ())
            self._grow(-len(self._unsent.popleft()) - _COST)
        self.let_go()
        if self._unsent:
            self._expire("the endpoint's new session did not take it at once")
        self._stop_timer()
        self.note_change()

    def hold_back(self) -> None:
        """Let what is sent over the session that the endpoint has here now wait for this lane."""
        if not self.is_empty:
            self._hold()

    def _hold(self) -> Hold | None:
        owner = self._lanes.owner
        session = owner.session_with(self.endpoint_id)
        if session is None:
            return None
        hold = self._holds.get(session)
        if hold is None:
            hold = self._holds[session] = session.hold_back()
        if self._patience is None:
            self._patience = owner.loop.call_later(owner.grace + _NOTICE_SECONDS, self.let_go)
        return hold

    def let_go(self) -> None:
        """Let go on what `hold_back` has made wait."""
        for hold in self._holds.values():
            hold.end()
        self._holds.clear()
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _expire(self, reason: str) -> None:
        self._stop_timer()
        unsent = [*self._unsent]
        self._unsent.clear()
        self._grow(-self._size)
        self._lanes.owner.report_lost(self.endpoint_id, reason, unsent, ())
        self.note_change()
        self._lanes.drop_if_done(self)

    def end(self, not_sent: Counter[bytes]) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """Accept nothing more; return what has certainly not arrived, and what may have."""
        self._stop_timer()
        self.let_go()
        unknown, rest = self._split(self.may_have_arrived(not_sent))
        unsent = (*rest, *self._unsent)
        self._sent.clear()
        self._unsent.clear()
        self._grow(-self._size)
        self.link = None
        self.number = 0
        self.note_change()
        return unsent, tuple(unknown)

    async def drained(self) -> None:
        """Wait until the endpoint has acknowledged everything, or nothing more can be sent."""
        while self.holds_messages:
            await self._change()

    async def _change(self) -> None:
        if self._changed is None:
            self._changed = asyncio.Event()
        self._changed.clear()
        await self._changed.wait()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def note_change(self) -> None:
        """Wake everything that waits, to look again."""
        if self._changed is not None:
            self._changed.set()


class Lanes:
    """All lanes of a hub.

    Args:
        owner: See `LanesOwner`.
        routes: Which hub has which endpoints.

    Attributes:
        held: How much all lanes hold, in bytes.

    """

    def __init__(self, owner: LanesOwner, routes: Routes[Link]) -> None:
        self.owner: LanesOwner = owner
        self.held: int = 0
        self._routes = routes
        self._by_id: dict[bytes, Lane] = {}
        self._open: dict[int, Lane] = {}
        self._former: set[Lane] = set()
        self._last_number = 0
        self._sweeping: TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Lane]:
        return iter([*self._by_id.values(), *self._former])

    def to(self, endpoint_id: bytes) -> Lane | None:
        """Return the lane to an endpoint of another hub; None if no other hub has it."""
        lane = self._by_id.get(endpoint_id)
        if lane is not None and lane.link is not None:
            return lane
        link = self._routes.hub_of(endpoint_id)
        if link is None:
            return None
        if lane is None:
            lane = self._by_id[endpoint_id] = Lane(self, endpoint_id)
            if self._sweeping is None:
                self._sweeping = self.owner.loop.call_later(_IDLE_SECONDS, self._sweep)
        self._lead(lane, link)
        return lane

    def _lead(self, lane: Lane, link: Link) -> None:
        while True:
            self._last_number = self._last_number % 0xFFFFFFFF + 1
            if self._last_number not in self._open:
                break
        self._open[self._last_number] = lane
        lane.open(link, self._last_number)

    def _lose(self, lane: Lane, reason: str, sent: int) -> None:
        self._open.pop(lane.number, None)
        lane.lose(reason, sent)
        if lane.is_former:
            self._former.discard(lane)
        else:
            self._settle(lane)

    def _settle(self, lane: Lane) -> None:
        """Point a lane that leads nowhere at the endpoint's present hub, if that is known."""
        if self.owner.is_here(lane.endpoint_id):
            lane.send_here()
        else:
            lane.let_go()
            if (link := self._routes.hub_of(lane.endpoint_id)) is not None:
                self._lead(lane, link)
        self.drop_if_done(lane)

    def drop_if_done(self, lane: Lane) -> None:
        """Forget a lane that leads nowhere, or is a former one, and has nothing left."""
        if lane.is_former:
            if lane.is_empty:
                self._open.pop(lane.number, None)
                self._former.discard(lane)
        elif lane.link is None and lane.is_empty:
            self._by_id.pop(lane.endpoint_id, None)

    def turned_up(self, marks: Container[bytes]) -> None:
        """Note that another hub has endpoints with these fingerprints now."""
        for lane in self:
            if lane.link is None and fingerprint(lane.endpoint_id) in marks:
                self._settle(lane)

    def turned_up_here(self, endpoint_id: bytes) -> None:
        """Note that an endpoint has a session with this hub now."""
        lane = self._by_id.get(endpoint_id)
        if lane is not None and lane.link is None:
            self._settle(lane)
        elif lane is not None:
            lane.hold_back()  # until the other hub has said what became of the messages there

    # -- what another hub says ---------------------------------------------------------------

    def _of(self, link: Link, number: int) -> Lane | None:
        lane = self._open.get(number)
        return lane if lane is not None and lane.link is link else None

    def done(self, link: Link, number: int, delivered: int) -> None:
        """Note how many messages of a lane were delivered in all."""
        lane = self._of(link, number)
        if lane is not None:
            lane.delivered(delivered)
            if lane.is_former:
                self.drop_if_done(lane)

    def unfit(self, link: Link, number: int, index: int) -> None:
        """Note that an endpoint refuses a message because it is too long."""
        lane = self._of(link, number)
        data = None if lane is None else lane.refused(index)
        if lane is not None and data is not None:
            text = f"a message of {len(data)} bytes is longer than the peer allows"
            self.owner.report_lost(lane.endpoint_id, text, (data,), ())

    def gone(self, link: Link, number: int, delivered: int, sent: int) -> None:
        """Note that an endpoint has left a hub, which has handed it the first ``sent`` messages."""
        lane = self._of(link, number)
        if lane is None:
            return
        lane.delivered(delivered)
        if lane.is_former:
            reason = f"a session of the endpoint at hub {link.name!r} has ended"
        else:
            reason = f"the endpoint has left hub {link.name!r}"
            self._routes.leave(link, (fingerprint(lane.endpoint_id),))  # so that none leads there
        self._lose(lane, reason, sent - delivered)

    def moved(self, link: Link, number: int, taken: int) -> None:
        """Note that a newer session of an endpoint gets all but the first messages of a lane."""
        lane = self._of(link, number)
        if lane is None or lane.is_former:
            return
        former = lane.leave_behind(taken)
        self._lose(lane, f"the endpoint has a newer session at hub {link.name!r}", 0)
        if not former.is_empty:
            self._open[number] = former
            self._former.add(former)

    def link_lost(self, link: Link) -> None:
        """Note that a hub is lost, whose routes are forgotten already."""
        not_sent = _not_sent(link)
        for lane in [lane for lane in self._open.values() if lane.link is link]:
            self._lose(lane, f"hub {link.name!r} is lost", lane.may_have_arrived(not_sent))

    def _sweep(self) -> None:
        """Close the lanes that nobody has used for a while."""
        self._sweeping = None
        for lane in list(self._by_id.values()):
            if lane.is_empty and lane.idle:
                if lane.link is not None:
                    lane.link.post(pack_numbers(Kind.CLOSE, lane.number))
                    self._open.pop(lane.number, None)
                del self._by_id[lane.endpoint_id]
                lane.end(Counter())
            lane.idle = True
        if self._by_id:
            self._sweeping = self.owner.loop.call_later(_IDLE_SECONDS, self._sweep)

    def end(self) -> Iterator[tuple[bytes, tuple[bytes, ...], tuple[bytes, ...]]]:
        """End all lanes; return for each what was lost: its endpoint, the unsent, the unknown."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        lanes = list(self)
        self._by_id.clear()
        self._former.clear()
        self._open.clear()
        not_sent = {link: _not_sent(link) for link in {lane.link for lane in lanes}}
        return ((lane.endpoint_id, *lane.end(not_sent[lane.link])) for lane in lanes)
