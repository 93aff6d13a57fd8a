"""One hub among others, from the start of its node to its stop: its links and what arrives there.

`membership` makes the links, and this file hands what they bring to the parts that deal with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from ..errors import STTRequestFailedError, STTSessionLostError
from ..foundation.ids import short
from ..node.duty import Duty
from ..sessions.handshaking import Landing
from ..sessions.public import SessionState
from ..sessions.session import LiveSession
from ..transports.base import NOBODY
from .deliveries import Deliveries
from .inquiries import Inquiries
from .lanes import Lanes
from .link import Link
from .membership import Membership
from .messages import (
    FORWARD_HEAD,
    BadMessageError,
    Joined,
    Kind,
    fingerprint,
    incarnation_mark,
    pack_ids,
    pack_name,
    pack_numbers,
    pack_routes,
    unpack_done,
    unpack_gone,
    unpack_ids,
    unpack_name,
    unpack_numbers,
    unpack_routes,
)
from .other import Other
from .presence import Watching
from .routes import Routes

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from ..endpoints.manager import EndpointManager
    from ..node.cluster_base import HubLife
    from ..node.keys import Keys
    from ..node.node import STTNode
    from ..node.registry import Registry
    from ..node.runtime import Runtime
    from ..protocol.hello import Hello
    from ..transports.base import Address, Receiver, Transport
    from .meeting import Meeting

__all__ = ["Hub"]

logger: logging.Logger = logging.getLogger(__name__)

_ROUTES_SECONDS = 0.05
"""How long changes of routes wait, so that several travel in one message."""

_MOST_ENDPOINTS = 1024 * 1024
"""Of each other hub: a hundred times as many as one process can serve, in about 130 MB."""

_CHECK_SECONDS = 0.2
"""How often a hub looks whether another one without a connection still lives, at most."""


class _Present(NamedTuple):
    """An endpoint that this hub has announced to the others."""

    session: LiveSession
    since: float


class Hub:
    """See the module.

    Args:
        life: The parts of the node, which is running.
        keys: Its seeds.
        name: What other hubs call this one.
        grace: How many seconds a link, or an endpoint, has to come back.
        meet: Makes the meeting, from a key.

    """

    def __init__(
        self,
        life: HubLife,
        keys: Keys,
        name: str,
        grace: float,
        meet: Callable[[bytes], Meeting],
    ) -> None:
        self.life: HubLife = life
        self.registry: Registry = life.registry
        self.runtime: Runtime = life.runtime
        self.name: str = name
        self.grace: float = grace
        self.loop: asyncio.AbstractEventLoop = life.runtime.loop
        self.most_bytes: int = life.runtime.config.max_message_bytes
        self.most_held_bytes: int = life.runtime.config.max_buffered_bytes
        self.others: dict[bytes, Other] = {}  # by session id of the link
        self.routes: Routes[Link] = Routes()
        self.lanes: Lanes = Lanes(self, self.routes)
        self.inquiries: Inquiries = Inquiries(self)
        self.watching: Watching = Watching(self)
        self._present: dict[bytes, _Present] = {}
        # Sessions whose peers have connected to another hub since, in this incarnation.
        self._left_behind: WeakKeyDictionary[LiveSession, bytes] = WeakKeyDictionary()
        self._marks: dict[bytes, bytes] = {}  # the ids of those
        self._snapshot: list[bytes] | None = None  # what links that begin now are told of routes
        self._changed: set[bytes] = set()
        self._routes_timer: asyncio.TimerHandle | None = None
        self._checked: set[Link] = set()  # those without a connection, on this machine
        self._news: deque[Callable[[], Coroutine[Any, Any, None]]] = deque()
        self._telling = False
        self.registry.followers.add(self._route_changed)
        for endpoint_id in self.registry.routes:
            self._route_changed(endpoint_id)
        self._membership = Membership(self, keys, meet)

    # -- meeting the others ------------------------------------------------------------------

    def bus_changed(self, is_up: bool) -> None:
        """Skip every back-off once the bus is back."""
        membership = self._membership
        membership.look_again()
        if is_up and membership.meeting is not None and membership.node is not None:
            for other in self.others.values():
                if not other.link.is_up:
                    membership.node.retry_now(other.link.session.peer_node_id)

    # -- links -------------------------------------------------------------------------------

    def follow(self, node: STTNode) -> None:
        """Register for what happens on the links, which are the sessions of this node."""
        node.events.register("session_created", self._link_began)
        node.events.register("session_suspended", self._link_suspended)
        node.events.register("session_resumed", self._link_resumed)
        node.events.register("session_closed", self._link_lost)
        node.events.register("data_received", self._message_arrived)
        node.events.register("error", _log_error)
        node.on_request(self._answer)

    async def _link_began(self, *, session_id: bytes) -> None:
        node = self._membership.node
        session = None if node is None else node.get_session(session_id)
        if not isinstance(session, LiveSession):
            return  # it has ended already
        for former in list(self.others.values()):
            if former.link.session.peer_node_id == session.peer_node_id:
                # Its dialer has given it up, and what waits here must not mix with what comes now.
                former.link.session.lose("the hub has given the link up")
                await self._link_lost(session_id=former.link.session.session_id)
        session.ping()  # so that its round-trip time is known at once
        link = Link(session, self.keep)
        other = self.others[session_id] = Other(link, Deliveries(self, link))
        session.taker = partial(self._take, other)
        self.routes.add(link)
        membership = self._membership
        place = b"" if membership.landings is None else membership.landings.place
        link.post(pack_name(self.name, self.runtime.incarnation, membership.address, place))
        for message in self._all_routes():
            link.post(message)
        for banned in self.life.access.banned:
            link.post(pack_numbers(Kind.BAN, banned))
        self.watching.link_began(link)

    async def _link_suspended(self, *, session_id: bytes) -> None:
        other = self.others.get(session_id)
        if other is None or not other.link.name:
            return
        self._tell(partial(self.runtime.emit, "hub_suspended", hub=other.link.name))
        meeting = self._membership.meeting
        if meeting is not None and meeting.refusal_is_final and other.link not in self._checked:
            self._checked.add(other.link)
            self.keep(partial(self._check_lives, meeting, other.link))

    async def _check_lives(self, meeting: Meeting, link: Link) -> None:
        """Give a link up once its hub has ended: nothing that waits for it will ever arrive."""
        while link.session.state is SessionState.SUSPENDED and not self._membership.leaving:
            try:
                transport = await meeting.network.dial(NOBODY, *meeting.landing_of(link.address))
            except ConnectionRefusedError:
                if link.session.state is SessionState.SUSPENDED:  # not resumed meanwhile
                    link.session.lose("the hub has ended")
            except OSError:
                pass  # it may still live
            else:
                transport.abort()  # it lives, or is about to end: its sockets close one by one
            await asyncio.sleep(_CHECK_SECONDS)
        self._checked.discard(link)

    async def _link_resumed(self, *, session_id: bytes) -> None:
        other = self.others.get(session_id)
        if other is not None and other.link.name:
            self._tell(partial(self.runtime.emit, "hub_resumed", hub=other.link.name))

    async def _link_lost(self, *, session_id: bytes) -> None:
        other = self.others.pop(session_id, None)
        if other is None:
            return
        self._membership.link_lost(other.link.address)
        marks = self.routes.forget(other.link)
        self.watching.routes_changed(marks)
        other.deliveries.drop()
        self.inquiries.link_lost(other.link)
        self.lanes.link_lost(other.link)
        if other.link.name:
            logger.info("hub %r is lost", other.link.name)
            self._tell(partial(self.runtime.emit, "hub_lost", hub=other.link.name))

    def _tell(self, news: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Emit an event, in order."""
        self._news.append(news)
        if not self._telling:
            self._telling = True
            self.keep(self._tell_all)

    async def _tell_all(self) -> None:
        while self._news:
            await self._news.popleft()()
        self._telling = False

    def _take(self, other: Other, messages: list[bytes]) -> int:
        """Take what another hub says, as it arrives; return how many messages.

        The others come one by one: while too much waits here, and one that no hub sends.
        """
        deliveries = other.deliveries
        taken = 0
        try:
            for data in messages:
                if deliveries.held and deliveries.is_full:
                    break
                if not deliveries.forward(data):
                    self._heard(other, data)
                taken += 1
        except BadMessageError:
            pass
        return taken

    async def _message_arrived(self, *, session_id: bytes, data: bytes) -> None:
        other = self.others.get(session_id)
        if other is None:
            return
        if other.deliveries.is_full:
            await other.deliveries.room()
        try:
            if not other.deliveries.forward(data):
                self._heard(other, data)
        except BadMessageError as error:
            self._cut_off(other, error)

    def _cut_off(self, other: Other, error: BadMessageError) -> None:
        logger.warning("hub %r sent nonsense: %s", other.link.name, error)
        other.link.session.abort(str(error))

    def _heard(self, other: Other, data: bytes) -> None:
        link, deliveries = other
        match data[0] if data else None:
            case Kind.FORWARD if len(data) < FORWARD_HEAD.size:
                raise BadMessageError("a message without a lane")
            case Kind.DONE:
                for number, delivered in unpack_done(data):
                    self.lanes.done(link, number, delivered)
            case Kind.ROUTES:
                self._routes_arrived(link, *unpack_routes(data))
            case Kind.LANE:
                deliveries.open(*unpack_numbers(Kind.LANE, data))
            case Kind.CLOSE:
                deliveries.close(*unpack_numbers(Kind.CLOSE, data))
            case Kind.GONE:
                self.lanes.gone(link, *unpack_gone(data))
            case Kind.MOVED:
                self.lanes.moved(link, *unpack_numbers(Kind.MOVED, data))
            case Kind.UNFIT:
                self.lanes.unfit(link, *unpack_numbers(Kind.UNFIT, data))
            case Kind.NAME if not link.name:
                link.name, link.incarnation, link.address, link.place = unpack_name(data)
                logger.info("hub %r has joined", link.name)
                self._tell(partial(self.runtime.emit, "hub_joined", hub=link.name))
            case Kind.BROADCAST:
                self.inquiries.pass_on(other, data)
            case Kind.TALLY:
                self.inquiries.tallied(link, *unpack_numbers(Kind.TALLY, data))
            case Kind.WATCH:
                (link.wants_ids,) = unpack_numbers(Kind.WATCH, data)
                if link.wants_ids:
                    self._tell_ids(link, self._present)
            case Kind.IDS:
                self.watching.told(unpack_ids(data[1:]))
            case Kind.KICK | Kind.BAN | Kind.UNBAN as kind:
                self._obey(Kind(kind), *unpack_numbers(Kind(kind), data))

    def _obey(self, kind: Kind, endpoint_id: bytes) -> None:
        if kind is Kind.UNBAN:
            self.life.access.unban(endpoint_id)
            return
        if kind is Kind.BAN:
            self.life.access.ban(endpoint_id)
        self.life.kick(endpoint_id)

    def order(self, kind: Kind, endpoint_id: bytes) -> None:
        """Have all other hubs kick, ban or unban a peer."""
        for other in self.others.values():
            other.link.post(pack_numbers(kind, endpoint_id))

    async def _answer(self, peer_node_id: bytes, data: bytes) -> bytes:
        for other in self.others.values():
            if other.link.session.peer_node_id == peer_node_id:
                try:
                    return await self.inquiries.answer(other, data)
                except BadMessageError as error:
                    self._cut_off(other, error)
        raise STTRequestFailedError  # the link has ended

    # -- routes ------------------------------------------------------------------------------

    def _route_changed(self, endpoint_id: bytes) -> None:
        """Note that an endpoint has, or lost, a session with this hub."""
        for other in self.others.values():
            other.deliveries.route_changed(endpoint_id)
        if endpoint_id in self.registry.routes:
            self.lanes.turned_up_here(endpoint_id)
        self.watching.told((endpoint_id,))
        session = self.registry.routes.get(endpoint_id)
        if session is not None and session in self._left_behind:
            self.loop.call_soon(self._give_up_left_behind, session)
        self._changed.add(endpoint_id)
        if self._routes_timer is None:
            self._routes_timer = self.loop.call_later(_ROUTES_SECONDS, self._tell_routes)

    def _all_routes(self) -> list[bytes]:
        """Return what says which endpoints are here. Links that begin together share it."""
        if self._snapshot is None:
            now = self.loop.time()
            here = (_joined(session, now - at) for session, at in self._present.values())
            self._snapshot = list(pack_routes(here, ()))
            self.loop.call_later(_ROUTES_SECONDS, self._drop_snapshot)
        return self._snapshot

    def _drop_snapshot(self) -> None:
        self._snapshot = None

    def _tell_routes(self) -> None:
        self._routes_timer = None
        self._drop_snapshot()
        joined, left, ids = [], [], []
        now = self.loop.time()
        for endpoint_id in self._changed:
            session = self.registry.routes.get(endpoint_id)
            before = self._present.get(endpoint_id)
            mark = fingerprint(endpoint_id)
            if session is None:
                if before is not None:
                    del self._present[endpoint_id]
                    self._marks.pop(mark, None)
                    left.append(mark)
            elif before is None or before.session is not session:
                self._present[endpoint_id] = _Present(session, now)
                self._marks[mark] = endpoint_id
                joined.append(_joined(session, 0.0))
                ids.append(endpoint_id)
        self._changed.clear()
        messages = list(pack_routes(joined, left))
        for other in self.others.values():
            for message in messages:
                other.link.post(message)
            if other.link.wants_ids:
                self._tell_ids(other.link, ids)

    def _tell_ids(self, link: Link, ids: Iterable[bytes]) -> None:
        for message in pack_ids(ids):
            link.post(message)

    def _routes_arrived(self, link: Link, joined: list[Joined], left: list[bytes]) -> None:
        if self.routes.count(link) + len(joined) > _MOST_ENDPOINTS:
            raise BadMessageError(f"it says that it has more than {_MOST_ENDPOINTS} endpoints")
        self.routes.leave(link, left)
        marks = {mark for mark, _, _ in joined}
        self.routes.join(link, marks)
        for mark, incarnation, age in joined:
            if mark in self._marks:
                self._turned_up_elsewhere(self._marks[mark], incarnation, age)
        self.lanes.turned_up(marks)
        self.watching.routes_changed(marks.union(left))

    def _turned_up_elsewhere(self, endpoint_id: bytes, incarnation: bytes, age: int) -> None:
        session, since = self._present[endpoint_id]
        if self.loop.time() - since > age / 1000:
            self._left_behind[session] = incarnation
            self._give_up_left_behind(session)

    def _give_up_left_behind(self, session: LiveSession) -> None:
        """Give up a session without a connection if its peer is at another hub now.

        The peer may have sessions with both. So unless it was restarted, it gets time to resume.
        """
        broken_for = self.registry.broken_for(session)
        if broken_for is None or self.routes.hub_of(session.peer_node_id) is None:
            return
        another = self._left_behind[session] != incarnation_mark(session.peer_incarnation)
        restarted = another and not session.peer_is_hub
        if restarted or broken_for >= self.grace:
            session.lose("the peer has connected to another hub")
        else:
            seconds = max(self.grace - broken_for, _CHECK_SECONDS)
            self.loop.call_later(seconds, self._give_up_left_behind, session)

    # -- connections of sessions that other hubs have ----------------------------------------

    def pass_on(self, transport: Transport, hello: Hello, message: bytes) -> Landing:
        """Pass a connection on to the hub that it names. See `ClusterBase.pass_on`."""
        landings, meeting = self._membership.landings, self._membership.meeting
        for link, _ in self.others.values():
            if link.name and hello.is_for_hub(link.incarnation):
                if not link.is_up or landings is None or meeting is None:
                    return Landing.LATER
                to = meeting.landing_of(link.address)
                passed_on = landings.pass_on(transport, message, to, link.place)
                return Landing.PASSED_ON if passed_on else Landing.LATER
        if self._membership.expects_links():
            return Landing.LATER
        return Landing.HERE  # nobody has the session any more, as the answer tells the dialer

    def accept_landed(self) -> Receiver:
        """Return what answers a connection that was passed on to this hub."""
        return self.life.acceptor.accept(passed_on=True)

    @property
    def handshake_seconds(self) -> float:
        """How long the parts of a handshake may take, and the last bytes of a connection."""
        return self.runtime.config.handshake_timeout

    @property
    def most_relays(self) -> int:
        """How many connections may be passed on at a time."""
        return self.runtime.config.max_sessions

    def locate(self, endpoint_id: bytes) -> str | None:
        """Return the name of the hub that an endpoint is connected to; None if there is none."""
        if endpoint_id in self.registry.routes:
            return self.name
        link = self.routes.hub_of(endpoint_id)
        return None if link is None else link.name

    # -- what the parts need -----------------------------------------------------------------

    @property
    def endpoints(self) -> EndpointManager:
        """The endpoints of the node."""
        return self.runtime.endpoints.manager

    @property
    def send_timeout(self) -> float:
        """The timeout for endpoints and hubs when a call gives none."""
        return self.runtime.config.send_timeout

    def met(self) -> set[Address]:
        """Return where the hubs listen that this one has a link with."""
        return {link.address for link, _ in self.others.values() if link.name}

    def own(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine as a task of the node."""
        return self.runtime.own(coroutine, calls_handlers=False)

    def keep(self, work: Callable[[], Coroutine[Any, Any, None]]) -> Duty:
        """Do some work in a task of the node, whoever cancels that."""
        return Duty(self.runtime, work)

    def is_here(self, endpoint_id: bytes) -> bool:
        """Whether an endpoint has a session with this hub."""
        return endpoint_id in self.registry.routes

    def session_with(self, endpoint_id: bytes) -> LiveSession | None:
        """Return the session of this hub with an endpoint; None if there is none."""
        return self.registry.routes.get(endpoint_id)

    async def ask(
        self, link: Link, endpoint_id: bytes, data: bytes, timeout: float | None
    ) -> bytes:
        """Send a request to an endpoint of another hub, and return its reply."""
        return await self.inquiries.ask(link, endpoint_id, data, timeout)

    def report_lost(
        self, endpoint_id: bytes, reason: str, unsent: Sequence[bytes], unknown: Sequence[bytes]
    ) -> None:
        """Report messages that were accepted and are now lost."""
        details = {
            "peer_node_id": endpoint_id,
            "reason": reason,
            "unsent": tuple(unsent),
            "unknown": tuple(unknown),
        }
        if self.runtime.stopping:
            error = STTSessionLostError(
                f"{reason}: endpoint {short(endpoint_id)}",
                session_id=b"",
                peer_node_id=endpoint_id,
                unsent=tuple(unsent),
                unknown=tuple(unknown),
            )
            self.registry.lost.append(error)
        self.runtime.own(self.runtime.emit_error("endpoint_lost", details))

    def report_unreached(self, address: Address, reason: str) -> None:
        """Report that there is no link with a hub, so that its endpoints are out of reach."""
        host, port = address
        details = {
            "address": address,
            "reason": f"no link with the hub at {host} port {port}, and each must have one with "
            f"every other: {reason}",
        }
        self.runtime.own(self.runtime.emit_error("hub_unreachable", details))

    # -- the end -----------------------------------------------------------------------------

    async def drain(self, seconds: float) -> None:
        """Wait until endpoints of other hubs have acknowledged everything, or the time is over."""
        try:
            async with asyncio.timeout(seconds):
                # Again and again: a lane that moves leaves a former one behind.
                while holding := [lane for lane in self.lanes if lane.holds_messages]:
                    for lane in holding:
                        await lane.drained()
        except TimeoutError:
            pass

    async def end(self) -> None:
        """Leave, and report what endpoints of other hubs have not acknowledged.

        If cancelled, another call goes on with it.
        """
        self.watching.end()
        self.registry.followers.discard(self._route_changed)
        if self._routes_timer is not None:
            self._tell_routes()
        for endpoint_id, unsent, unknown in self.lanes.end():
            if unsent or unknown:
                reason = "the node was stopped before the endpoint had acknowledged everything"
                self.report_lost(endpoint_id, reason, unsent, unknown)
        await self._membership.end()


def _joined(session: LiveSession, age: float) -> Joined:
    incarnation = incarnation_mark(session.peer_incarnation)
    return fingerprint(session.peer_node_id), incarnation, int(age * 1000)


async def _log_error(*, error_type: str, details: dict[str, Any]) -> None:
    logger.info("on a link between hubs: %s: %s", error_type, details.get("reason", ""))
