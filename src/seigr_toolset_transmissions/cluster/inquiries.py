"""What concerns endpoints of several hubs: broadcasts, searches, and requests across a link.

A broadcast is a message on the link, in order with the messages of lanes: nobody gets it before
what the same hub sent earlier. Everything else is a request on the link, and its reply.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from ..errors import (
    STTMessageSizeError,
    STTRequestError,
    STTRequestFailedError,
    STTRequestLostError,
    STTRequestRefusedError,
    STTRequestTimeoutError,
    STTRequestUnreachableError,
    STTSessionClosedError,
    STTTimeoutError,
)
from ..foundation.ids import short
from ..identity import NODE_ID_BYTES
from ..stats import Tally
from .messages import (
    Answer,
    Ask,
    BadMessageError,
    Kind,
    pack_broadcast,
    pack_json,
    pack_numbers,
    too_long,
    unpack_broadcast,
    unpack_ids,
    unpack_info,
    unpack_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping

    from ..endpoints.endpoint import EndpointInfo
    from ..endpoints.manager import EndpointManager
    from ..sessions.session import LiveSession
    from .link import Link
    from .other import Other
    from .routes import Routes

__all__ = ["Inquiries", "InquiriesOwner"]

logger: logging.Logger = logging.getLogger(__name__)

T = TypeVar("T")


_REPORT_SECONDS = 1.0
"""How much longer than the endpoints a hub may take to say what has become of a broadcast."""

_MOST_IDS = 65_536
"""How many ids a hub returns at a time: 2 MiB."""

_OUTCOME_COST = 256
"""Bytes that are counted for each endpoint without room for a broadcast."""


class InquiriesOwner(Protocol):
    """What inquiries need of their hub."""

    others: dict[bytes, Other]
    routes: Routes[Link]
    name: str
    most_bytes: int

    @property
    def endpoints(self) -> EndpointManager:
        """The endpoints of this hub's node."""

    @property
    def most_held_bytes(self) -> int:
        """How much may wait here of what another hub has sent."""

    def own(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine as a task of the node."""

    def session_with(self, endpoint_id: bytes) -> LiveSession | None:
        """Return the session of this hub with an endpoint; None if there is none."""


class Inquiries:
    """The inquiries of one hub, and its answers to those of others."""

    def __init__(self, owner: InquiriesOwner) -> None:
        self._owner = owner
        self._last_number = 0
        self._tallies: dict[tuple[Link, int], asyncio.Future[tuple[int, int]]] = {}

    # -- broadcasts --------------------------------------------------------------------------

    async def broadcast(
        self,
        data: bytes,
        where: Mapping[str, Any] | None,
        exclude: frozenset[bytes],
        timeout: float,
    ) -> Tally:
        """See `ClusterBase.broadcast`."""
        if len(data) > self._owner.most_bytes:
            raise too_long(data, self._owner.most_bytes)
        self._last_number = self._last_number % 0xFFFFFFFF + 1
        message = pack_broadcast(self._last_number, where, exclude, timeout, data)
        links = [other.link for other in self._owner.others.values()]
        accepted, waiting = self._offer(where, exclude, data)
        tallies = await asyncio.gather(
            self._wait_for(waiting, data, timeout),
            *(self._tally_of(link, self._last_number, message, timeout) for link in links),
        )
        heard = [tally for tally in tallies if tally is not None]
        return Tally(
            accepted + sum(yes for yes, _ in heard),
            sum(no for _, no in heard),
            tuple(
                link.name for link, tally in zip(links, tallies[1:], strict=True) if tally is None
            ),
        )

    async def _tally_of(
        self, link: Link, number: int, message: bytes, timeout: float
    ) -> tuple[int, int] | None:
        """Pass a broadcast to another hub; return its tally, or None without one in time."""
        tally = self._tallies[link, number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout + _REPORT_SECONDS):
                await link.send(message)
                accepted, refused = await tally
                return accepted, refused
        except (TimeoutError, STTSessionClosedError, STTMessageSizeError):
            return None  # the last: a hub whose node takes only shorter messages
        finally:
            del self._tallies[link, number]

    def tallied(self, link: Link, number: int, accepted: int, refused: int) -> None:
        """Note what another hub says has become of a broadcast."""
        tally = self._tallies.get((link, number))
        if tally is not None and not tally.done():
            tally.set_result((accepted, refused))

    def link_lost(self, link: Link) -> None:
        """Note that a hub is lost, and says nothing more."""
        for (asked, _), tally in self._tallies.items():
            if asked is link and not tally.done():
                tally.set_exception(STTSessionClosedError("the hub is lost"))

    def pass_on(self, other: Other, message: bytes) -> None:
        """Pass a broadcast of another hub to the endpoints of this one."""
        number, where, exclude, seconds, data = unpack_broadcast(message)
        accepted, refused = 0, 0
        waiting: list[asyncio.Future[bool]] = []
        for _, session in self._recipients(where, exclude):
            outcome = other.deliveries.broadcast(session, data)
            if outcome is True:
                accepted += 1
            elif outcome is False:
                refused += 1
            else:
                waiting.append(outcome)
        if waiting:
            counted = number, accepted, refused
            self._owner.own(self._pass_on_later(other, counted, waiting, data, seconds))
        else:
            other.link.post(pack_numbers(Kind.TALLY, number, accepted, refused))

    async def _pass_on_later(
        self,
        other: Other,
        counted: tuple[int, int, int],
        waiting: list[asyncio.Future[bool]],
        data: bytes,
        seconds: float,
    ) -> None:
        """Wait for endpoints without room, unless too many broadcasts wait already."""
        cost = len(data) + _OUTCOME_COST * len(waiting)
        other.deliveries.broadcast_bytes += cost
        try:
            if other.deliveries.broadcast_bytes <= self._owner.most_held_bytes:
                await asyncio.wait(waiting, timeout=seconds)
        finally:
            other.deliveries.broadcast_bytes -= cost
            for outcome in waiting:
                outcome.cancel()  # so that nobody gets it who is not counted
        yes = sum(not outcome.cancelled() and outcome.result() for outcome in waiting)
        number, accepted, refused = counted
        tally = pack_numbers(Kind.TALLY, number, accepted + yes, refused + len(waiting) - yes)
        other.link.post(tally)

    def _recipients(
        self, where: Mapping[str, Any] | None, exclude: frozenset[bytes]
    ) -> Iterator[tuple[bytes, LiveSession]]:
        for endpoint_id in self._found_here(where or {}):
            session = self._owner.session_with(endpoint_id)
            if session is not None and endpoint_id not in exclude:
                yield endpoint_id, session

    def _offer(
        self, where: Mapping[str, Any] | None, exclude: frozenset[bytes], data: bytes
    ) -> tuple[int, list[bytes]]:
        """Send to this hub's endpoints; return how many have accepted, and which have no room."""
        accepted, waiting = 0, []
        for endpoint_id, session in self._recipients(where, exclude):
            try:
                if session.try_send(data):
                    accepted += 1
                else:
                    waiting.append(endpoint_id)
            except (STTSessionClosedError, STTMessageSizeError):
                waiting.append(endpoint_id)  # `_wait_for` finds out, and counts it
        return accepted, waiting

    async def _wait_for(
        self, waiting: Iterable[bytes], data: bytes, timeout: float
    ) -> tuple[int, int]:
        outcomes = await self._owner.endpoints.send_to_many(waiting, data, timeout=timeout)
        yes = sum(map(bool, outcomes.values()))
        return yes, len(outcomes) - yes

    # -- searches ----------------------------------------------------------------------------

    def _found_here(self, where: Mapping[str, Any]) -> list[bytes]:
        found = self._owner.endpoints.find(**where)
        return [each for each in found if self._owner.session_with(each) is not None]

    async def find(self, where: Mapping[str, Any], timeout: float) -> list[bytes]:
        """See `ClusterBase.find`."""
        links = [other.link for other in self._owner.others.values()]
        replies = await asyncio.gather(*(_find(link, where, timeout) for link in links))
        found = dict.fromkeys(self._found_here(where))
        silent = []
        for link, reply in zip(links, replies, strict=True):
            if reply is None:
                silent.append(link.name)
            else:
                found |= dict.fromkeys(reply)
        if silent:
            logger.warning("find: no answer within %g s from hubs %s", timeout, ", ".join(silent))
        return list(found)

    def info_here(self, endpoint_id: bytes) -> EndpointInfo | None:
        """Return what is known of an endpoint of this hub, with the hub's name."""
        if self._owner.session_with(endpoint_id) is None:
            return None
        info = self._owner.endpoints.get_endpoint(endpoint_id)
        return info and cast("EndpointInfo", {**info, "hub": self._owner.name})

    async def get_endpoint(self, endpoint_id: bytes, timeout: float) -> EndpointInfo | None:
        """See `ClusterBase.get_endpoint`."""
        info = self.info_here(endpoint_id)
        link = self._owner.routes.hub_of(endpoint_id)
        if info is not None or link is None:
            return info
        question = bytes((Ask.INFO,)) + endpoint_id
        try:
            reply = await link.session.request(question, timeout=timeout)
        except STTRequestError as error:
            raise STTTimeoutError(f"no answer from hub {link.name!r}: {error}") from error
        return cast("EndpointInfo | None", _unpack(link, unpack_info, reply))

    # -- requests ----------------------------------------------------------------------------

    async def ask(
        self, link: Link, endpoint_id: bytes, data: bytes, timeout: float | None
    ) -> bytes:
        """Send a request to an endpoint of another hub; return its reply.

        Raises:
            STTRequestError: As for `endpoints.EndpointManager.request`.
            STTMessageSizeError: The request is too long; nothing was sent.

        """
        question = b"".join((bytes((Ask.ASK,)), endpoint_id, data))
        try:
            reply = await link.session.request(question, timeout=timeout)
        except STTRequestTimeoutError as error:
            late = STTRequestTimeoutError(f"{error}, from hub {link.name!r}")
            late.handled = error.handled and None
            raise late from None
        except STTRequestError as error:
            lost = STTRequestLostError(
                f"hub {link.name!r}, to which the peer is connected: {error}"
            )
            lost.handled = error.handled and None
            raise lost from error
        return _unpack(link, _read, reply)

    async def answer(self, other: Other, question: bytes) -> bytes:
        """Answer a request of another hub."""
        if not question:
            raise BadMessageError("an empty request")
        content = question[1:]
        match question[0]:
            case Ask.ASK:
                endpoint_id, data = content[:NODE_ID_BYTES], content[NODE_ID_BYTES:]
                return await self._answer_ask(other, endpoint_id, data)
            case Ask.FIND:
                known, where = content[:NODE_ID_BYTES], unpack_json(content[NODE_ID_BYTES:])
                if not isinstance(where, dict):
                    raise BadMessageError("a search for nothing")
                found = (each for each in self._found_here(where) if each > known)
                return b"".join(heapq.nsmallest(_MOST_IDS, found))
            case Ask.INFO:
                return pack_json(self.info_here(content))
        raise BadMessageError(f"a request of kind {question[0]}")

    async def _answer_ask(self, other: Other, endpoint_id: bytes, data: bytes) -> bytes:
        await other.deliveries.drained(endpoint_id)  # not before the messages of the same hub
        session = self._owner.session_with(endpoint_id)
        if session is None:
            return _pack(Answer.UNREACHABLE, f"endpoint {short(endpoint_id)} has left this hub")
        try:
            return bytes((Answer.REPLY,)) + await session.request(data)
        except STTRequestRefusedError as error:
            return _pack(Answer.REFUSED, str(error))
        except STTRequestFailedError as error:
            return bytes((Answer.FAILED,)) + error.data
        except STTRequestError as error:
            return _pack(
                Answer.LOST_UNHANDLED if error.handled is False else Answer.LOST, str(error)
            )
        except STTMessageSizeError as error:
            return _pack(Answer.TOO_LONG, str(error))


async def _find(link: Link, where: Mapping[str, Any], timeout: float) -> list[bytes] | None:
    """Ask another hub for its endpoints, page by page; return None if it did not answer in time."""
    found: list[bytes] = []
    try:
        async with asyncio.timeout(timeout):
            while True:
                known = found[-1] if found else bytes(NODE_ID_BYTES)
                question = b"".join((bytes((Ask.FIND,)), known, pack_json(dict(where))))
                reply = await link.session.request(question)
                page = _unpack(link, partial(_unpack_page, known), reply)
                found += page
                if len(page) < _MOST_IDS:
                    return found
    except (TimeoutError, STTRequestError):
        return None


def _unpack_page(known: bytes, reply: bytes) -> list[bytes]:
    """Return the ids in a page of an answer, which come after the last one that is known."""
    page = unpack_ids(reply)
    if any(former >= each for former, each in pairwise((known, *page))):
        raise BadMessageError("ids out of order, or once more")
    return page


def _unpack(link: Link, unpack: Callable[[bytes], T], reply: bytes) -> T:
    """Read what a hub has replied; a hub that replies nonsense is cut off."""
    try:
        return unpack(reply)
    except BadMessageError as error:
        link.session.abort(str(error))
        raise STTRequestLostError(f"hub {link.name!r} replied nonsense: {error}") from None


def _pack(answer: Answer, text: str) -> bytes:
    return bytes((answer,)) + text.encode()


def _read(reply: bytes) -> bytes:
    """Return what the endpoint has replied, or raise what stands for it."""
    if not reply:
        raise BadMessageError("an empty reply")
    said = reply[1:]
    match reply[0]:
        case Answer.REPLY:
            return said
        case Answer.FAILED:
            failed = STTRequestFailedError(said)
            failed.is_outcome = True
            raise failed
        case Answer.REFUSED:
            raise STTRequestRefusedError(said.decode(errors="replace"))
        case Answer.TOO_LONG:
            raise STTMessageSizeError(said.decode(errors="replace"))
        case Answer.UNREACHABLE:
            raise STTRequestUnreachableError(said.decode(errors="replace"))
    lost = STTRequestLostError(said.decode(errors="replace"))
    lost.handled = False if reply[0] == Answer.LOST_UNHANDLED else None
    raise lost
