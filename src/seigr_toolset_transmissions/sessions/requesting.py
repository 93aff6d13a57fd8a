"""Requests that this side sends over one session, and their waits for replies.

Any number of tasks may ask at once. The protocol limits how many requests are open at a time; the
others wait here in the order of their calls, and can be given up without a trace. Once a request is
in the session, whatever comes first decides its outcome: the reply, its timeout, or the end of the
session. One timer serves all requests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Protocol, TypeVarTuple

from ..errors import (
    STTRequestError,
    STTRequestFailedError,
    STTRequestLostError,
    STTRequestRefusedError,
    STTRequestTimeoutError,
    STTSessionClosedError,
    STTSessionLostError,
)
from ..protocol.exchanges import ReplyStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..protocol.exchanges import Exchanges

__all__ = ["OpenRequest", "Requesting"]


Ts = TypeVarTuple("Ts")

Ticket = tuple["asyncio.Future[bytes]", float | None, float]
"""What the books keep for a request: its reply; its deadline by the loop's clock, or None; and its
timeout in seconds."""


class Asker(Protocol):
    """What requests need of their session."""

    def accept(self, accept: Callable[[*Ts], int], /, *args: *Ts) -> bool:
        """Accept something for sending, if its turn has come and there is room."""

    async def accept_in_turn(self, accept: Callable[[*Ts], int], /, *args: *Ts) -> None:
        """Accept something for sending, in its turn."""

    def tell_cancels(self) -> None:
        """Tell the peer of cancelled requests."""

    def broken_for(self) -> float | None:
        """Return how many seconds the session has been without a connection; None if it has one."""


class OpenRequest:
    """A request that was sent.

    Attributes:
        reply: The reply, or the `STTRequestError` that takes its place.

    """

    __slots__ = ("_id", "_requesting", "reply")

    def __init__(
        self, requesting: Requesting, request_id: int, reply: asyncio.Future[bytes]
    ) -> None:
        self._requesting = requesting
        self._id = request_id
        self.reply: asyncio.Future[bytes] = reply

    def give_up(self) -> None:
        """Stop waiting, and tell the peer. Does nothing after the reply."""
        self._requesting.give_up(self._id, self.reply)


class Requesting:
    """The requests of this side over one session."""

    __slots__ = ("_asker", "_books", "_expires_at", "_loop", "_timer", "_waiting")

    def __init__(self, asker: Asker, books: Exchanges, loop: asyncio.AbstractEventLoop) -> None:
        self._asker = asker
        self._books = books
        self._loop = loop
        self._waiting: deque[asyncio.Future[None]] = deque()  # tasks whose turn has not come
        self._timer: asyncio.TimerHandle | None = None
        self._expires_at = inf  # when the timer rings; not its `when`, which uvloop's may lack

    async def request(self, data: bytes, timeout: float | None) -> bytes:
        """Send a request and return the reply; see `session.Session.request`."""
        deadline = None if timeout is None else self._deadline(timeout)
        reply: asyncio.Future[bytes] = self._loop.create_future()
        ticket = reply, deadline, timeout or 0.0
        books = self._books
        try:
            if self._waiting or not self._asker.accept(books.ask, data, ticket):
                await self._ask_in_turn(data, ticket)
        except STTSessionClosedError as error:
            raise _lost(str(error), error, handled=False) from error
        request_id = books.asked - 1
        if deadline is not None and deadline < self._expires_at:
            self._set_timer(deadline)
        try:
            return await reply
        except asyncio.CancelledError:
            self.give_up(request_id, reply)
            raise
        finally:
            del reply, ticket  # the reply's exception leads here: no cycle of references

    def begin(self, data: bytes, timeout: float | None) -> OpenRequest | None:
        """Send a request if its turn has come and there is room for it, else return None."""
        deadline = None if timeout is None else self._deadline(timeout)
        reply: asyncio.Future[bytes] = self._loop.create_future()
        ticket = reply, deadline, timeout or 0.0
        books = self._books
        try:
            if self._waiting or not self._asker.accept(books.ask, data, ticket):
                return None
        except STTSessionClosedError:
            return None
        if deadline is not None and deadline < self._expires_at:
            self._set_timer(deadline)
        return OpenRequest(self, books.asked - 1, reply)

    def _deadline(self, timeout: float) -> float:
        if timeout < 0:  # the caller's deadline has passed
            raise _timed_out("the time was over before the request was sent", handled=False)
        return self._loop.time() + timeout

    def give_up(self, request_id: int, reply: asyncio.Future[bytes]) -> None:
        """Stop waiting for a reply, and tell the peer. Does nothing after the reply."""
        if self._books.cancel(request_id) is not None:
            self._asker.tell_cancels()
        elif reply.done() and not reply.cancelled():
            reply.exception()  # it came at the same moment, and nothing else retrieves it

    async def _ask_in_turn(self, data: bytes, ticket: Ticket) -> None:
        """Put a request into the session when its turn comes and there is room."""
        turn = self._loop.create_future()
        self._waiting.append(turn)
        self._wake()
        try:
            async with asyncio.timeout_at(ticket[1]):
                await turn
                while self._books.full:
                    self._waiting[0] = turn = self._loop.create_future()
                    await turn
                if not self._asker.accept(self._books.ask, data, ticket):
                    await self._asker.accept_in_turn(self._books.ask, data, ticket)
        except TimeoutError:
            raise self._late(ticket[2], handled=False) from None
        finally:
            self._waiting.remove(turn)
            self._wake()

    def _wake(self) -> None:
        if self._waiting and not self._waiting[0].done() and not self._books.full:
            self._waiting[0].set_result(None)

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._expires_at = when
        self._timer = self._loop.call_at(when, self._expire, when)

    def _expire(self, now: float) -> None:
        """End the wait for every reply whose deadline has passed."""
        self._timer, self._expires_at = None, inf
        due: list[int] = []
        following = inf
        for request_id, (_, deadline, _) in self._books.open():
            if deadline is None:
                continue
            if deadline <= now:
                due.append(request_id)
            elif deadline < following:
                following = deadline
        for request_id in due:
            reply, _, timeout = self._books.cancel(request_id)
            _fail(reply, self._late(timeout, handled=None))
        if due:
            self._asker.tell_cancels()
        if following < inf:
            self._set_timer(following)

    def _late(self, timeout: float, *, handled: bool | None) -> STTRequestTimeoutError:
        text = f"no reply within {_rounded(timeout)} s"
        broken = self._asker.broken_for()
        if broken is not None:
            text += f"; the connection has been broken for {_rounded(broken)} s"
        return _timed_out(text, handled=handled)

    def settle(self) -> None:
        """Hand the replies that have arrived to the tasks waiting for them."""
        books = self._books
        outcomes, books.outcomes = books.outcomes, []
        for (reply, _, _), status, data in outcomes:
            if status == ReplyStatus.OK:
                if not reply.done():
                    reply.set_result(data)
            else:
                _fail(reply, _error_of(status, data))
        self._wake()

    def close(self, cause: STTSessionClosedError) -> None:
        """End every wait, and cancel the open requests: this side closes the session.

        Otherwise, requests waiting at the peer would use up credit that undelivered messages need.
        """
        for reply, _, _ in self._books.cancel_all():
            text = "this side closed the session before the reply came"
            _fail(reply, _lost(text, cause, handled=None))
        self._asker.tell_cancels()
        self._wake()  # each waiting task gets the error, and wakes the next one

    def end(self, lost: list[tuple[Ticket, bool]], cause: STTSessionClosedError) -> None:
        """End every wait: the session is over. Each ticket comes with whether it was never sent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._expires_at = None, inf
        text = "the peer closed the session before the reply came"  # this side: see `close`
        if isinstance(cause, STTSessionLostError):
            text = str(cause)
        for (reply, _, _), unsent in lost:
            _fail(reply, _lost(text, cause, handled=False if unsent else None))
        self._wake()  # each waiting task gets the error, and wakes the next one


def _error_of(status: int, data: bytes) -> STTRequestError:
    if status == ReplyStatus.REFUSED:
        return STTRequestRefusedError("the peer serves no requests, or is closing the session")
    error = STTRequestFailedError(data)
    error.is_outcome = True
    if status == ReplyStatus.CANCELLED:  # by the peer, for a reason of its own
        error.handled = None
    return error


def _rounded(seconds: float) -> str:
    return f"{round(seconds, 3):g}"


def _timed_out(text: str, *, handled: bool | None) -> STTRequestTimeoutError:
    error = STTRequestTimeoutError(text)
    error.handled = handled
    return error


def _lost(text: str, cause: STTSessionClosedError, *, handled: bool | None) -> STTRequestLostError:
    error = STTRequestLostError(text)
    error.handled = handled
    error.__cause__ = cause
    return error


def _fail(reply: asyncio.Future[bytes], error: STTRequestError) -> None:
    if not reply.done():
        reply.set_exception(error)
