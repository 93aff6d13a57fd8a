"""Exchanges: the requests of one session, in both directions, that have no reply yet.

A request and a reply are messages like any other: sequenced, and sent again after a cut. Only two
things set them apart: the type of their last frame, and the first bytes of the message, which name
the request. Each side numbers its own requests from 0. Every request, even a cancelled one, gets
exactly one reply. So both sides know at any time which requests are open, and no more than
`MAX_OPEN` of them ever are. ``docs/wire-format.md`` states the rules.

A CANCEL is a control frame, because it must get through even if waiting requests use up this side's
credit. It goes out once the peer has acknowledged the request, and again on each new connection
until the reply has arrived.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from struct import error as StructError  # noqa: N812  the name of a class
from typing import TYPE_CHECKING, Any

from ..errors import STTLimitError, STTProtocolError
from .frames import Cancel, FrameType

if TYPE_CHECKING:
    from .outbox import Outbox, Undelivered

__all__ = [
    "MAX_OPEN",
    "REPLY_BYTES",
    "REQUEST_BYTES",
    "Arrived",
    "Exchanges",
    "Outcome",
    "ReplyStatus",
]

MAX_OPEN = 1024
"""How many requests of one side may be without a reply. Further ones wait on that side."""

_REQUEST, _REPLY = FrameType.REQUEST, FrameType.REPLY
_request_head = Struct(">Q")
_reply_head = Struct(">QB")

REQUEST_BYTES = _request_head.size
"""How much shorter than the longest message the data of a request must be."""

REPLY_BYTES = _reply_head.size
"""The same for the data of a reply."""


class ReplyStatus(IntEnum):
    """What became of a request."""

    OK = 0
    """It was handled; the reply is what its handler returned."""
    FAILED = 1
    """Its handler failed; the reply is what it chose to say, or empty."""
    REFUSED = 2
    """No handler was or will be called for it. The reply is empty."""
    CANCELLED = 3
    """It was cancelled, and its handler may have been called. The reply is empty."""


Arrived = tuple[int, bytes]
"""A request of the peer: its id, and the data."""

Outcome = tuple[Any, int, bytes]
"""The reply to a request of this side: the ticket that `Exchanges.ask` was given, the status, which
is one of `ReplyStatus`, and the data."""


class Exchanges:
    """The open requests of one session.

    Attributes:
        asked: How many requests this side has sent; the next one has this id.
        arrived: Requests of the peer that wait for `answer`, oldest first; the owner takes them.
        cancelled: Ids of open requests that the peer has cancelled; the owner takes them.
        outcomes: Replies to requests of this side; the owner takes them.
        late: How many replies came to requests that this side had cancelled; they are dropped.

    """

    __slots__ = (
        "_given_up",
        "_open",
        "_outbox",
        "_received",
        "_unanswered",
        "_untold",
        "_withdrawn",
        "arrived",
        "asked",
        "cancelled",
        "late",
        "outcomes",
    )

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self.asked: int = 0
        # By id: the ticket, and how many messages this side had accepted, this request included.
        self._open: dict[int, tuple[Any, int]] = {}
        self._given_up: dict[int, int] = {}  # the same for cancelled requests, without tickets
        self._untold: list[int] = []  # those among them that the peer has not been told of
        self.outcomes: list[Outcome] = []
        self.late: int = 0
        self._received = 0
        self._unanswered: set[int] = set()
        self._withdrawn: set[int] = set()  # those among them that the peer has cancelled
        self.arrived: list[Arrived] = []
        self.cancelled: list[int] = []

    # -------------------------------------------------------------------- asking

    @property
    def full(self) -> bool:
        """Whether another request must wait, because no more of this side may be open at once.

        Never once the session accepts no more messages: there is nothing left to wait for.
        """
        return len(self._open) + len(self._given_up) >= MAX_OPEN and not self._outbox.closed

    def ask(self, data: bytes, ticket: Any) -> int:
        """Accept a request. Returns and raises as `Outbox.send` does; also returns 0 when `full`.

        Its id is the value that `asked` had before. The ticket comes back in its `Outcome`, or from
        `lose`.
        """
        if (len(self._open) >= MAX_OPEN or self._given_up) and self.full:
            return 0
        pending = self._outbox.send_as(_REQUEST, _request_head.pack(self.asked) + data)
        if pending:
            self._open[self.asked] = (ticket, self._outbox.messages_sent)
            self.asked += 1
        return pending

    def open(self) -> list[tuple[int, Any]]:
        """Return the ids and tickets of all requests of this side that wait for a reply."""
        return [(request_id, ticket) for request_id, (ticket, _) in self._open.items()]

    def cancel(self, request_id: int) -> Any:
        """Stop waiting for a reply; return the ticket, or None if the reply has come."""
        asked = self._open.pop(request_id, None)
        if asked is None:
            return None
        ticket, self._given_up[request_id] = asked
        self._untold.append(request_id)
        return ticket

    def cancel_all(self) -> list[Any]:
        """Stop waiting for all replies; return the tickets."""
        return [self.cancel(request_id) for request_id in list(self._open)]

    def cancels_due(self) -> list[bytes]:
        """Return the CANCEL frames that can be sent now, each once per connection."""
        acked = self._outbox.messages_acked
        due: list[bytes] = []
        untold, self._untold = self._untold, []
        for request_id in untold:
            if self._given_up.get(request_id, acked + 1) <= acked:
                due.append(Cancel(request_id).encode())
            elif request_id in self._given_up:
                self._untold.append(request_id)
        return due

    def reconnect(self) -> None:
        """Note a new connection. The last one may have lost CANCELs, so all go out again."""
        self._untold = list(self._given_up)

    def on_reply(self, message: bytes) -> None:
        """Take a reply.

        Raises:
            STTProtocolError: It is not a reply, or answers no open request.

        """
        try:
            request_id, status = _reply_head.unpack_from(message)
        except StructError:
            raise STTProtocolError("a reply too short to name its request") from None
        if status > ReplyStatus.CANCELLED:  # first: the request stays open, for `lose` to return
            raise STTProtocolError(f"a reply with the unknown status {status}")
        asked = self._open.pop(request_id, None)
        if asked is None and self._given_up.pop(request_id, None) is None:
            raise STTProtocolError("a reply to a request that is not open")
        if asked is None:
            self.late += 1
            return
        self.outcomes.append((asked[0], status, message[REPLY_BYTES:]))
        if not self._open:
            self._open.clear()  # this frees the memory that it took when it was large

    def lose(self, undelivered: Undelivered) -> list[tuple[Any, bool]]:
        """Return the tickets of requests that get no reply any more: the session has ended.

        Each comes with whether the peer has certainly not received the request.
        """
        heads = {message[:REQUEST_BYTES] for message in undelivered.unsent_requests}
        lost = [
            (ticket, _request_head.pack(request_id) in heads)
            for request_id, (ticket, _) in self._open.items()
        ]
        lost += [(ticket, False) for ticket, _, _ in self.outcomes]
        self._open.clear()
        self._given_up.clear()
        self._untold.clear()
        self._unanswered.clear()
        self._withdrawn.clear()
        self.outcomes.clear()
        self.arrived.clear()
        self.cancelled.clear()
        return lost

    # ----------------------------------------------------------------- answering

    def on_request(self, message: bytes) -> None:
        """Take a request.

        Raises:
            STTProtocolError: It is not a request, or not the next one.
            STTLimitError: The peer has too many open requests.

        """
        try:
            (request_id,) = _request_head.unpack_from(message)
        except StructError:
            raise STTProtocolError("a request too short to have an id") from None
        if not self._received and not self._outbox.bears(REPLY_BYTES):
            raise STTProtocolError("a request of a peer whose longest message is below any reply")
        if request_id != self._received:
            raise STTProtocolError(f"a request {request_id} when {self._received} was due")
        if len(self._unanswered) >= MAX_OPEN:
            raise STTLimitError(f"more than {MAX_OPEN} open requests")
        self._received += 1
        self._unanswered.add(request_id)
        self.arrived.append((request_id, message[REQUEST_BYTES:]))

    def on_cancel(self, request_id: int) -> None:
        """Note that the peer no longer waits for a reply. Does nothing if it has been sent.

        Raises:
            STTProtocolError: There was no such request.

        """
        if request_id >= self._received:
            raise STTProtocolError(f"a CANCEL of request {request_id}, which has not arrived")
        if request_id in self._unanswered and request_id not in self._withdrawn:
            self._withdrawn.add(request_id)  # a flood of CANCELs gives the owner nothing to do
            self.cancelled.append(request_id)

    def answer(self, request_id: int, status: ReplyStatus, data: bytes) -> int:
        """Accept the reply to an open request. Returns and raises as `Outbox.send` does."""
        pending = self._outbox.send_as(_REPLY, _reply_head.pack(request_id, status) + data)
        if pending:
            self._unanswered.discard(request_id)
            if not self._unanswered:
                self._unanswered.clear()  # this frees the memory that it took when it was large
            if self._withdrawn:
                self._withdrawn.discard(request_id)
        return pending
