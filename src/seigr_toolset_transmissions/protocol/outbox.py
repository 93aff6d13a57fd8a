"""The outbox: what a session has accepted for sending and its peer has not acknowledged.

Messages wait here as frames, first to be sent and then to be acknowledged. If the connection is cut
in between, they are sent again. The send window limits how much may wait here; the peer's credit
limits how much of it goes out. `docs/wire-format.md` states the rules for positions and credit.

If the connection breaks within a frame, the whole frame must be sent again. Therefore a new
connection begins with small frames, each no longer than all before it together. So about half of
what the connection can carry gets across, and a session makes progress on any link that lasts for a
few hundred bytes.
"""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..errors import STTMessageSizeError, STTProtocolError, STTSessionClosedError
from .frames import MAX_DATA_BYTES, FrameType, encode_data, encode_header, short_headers

if TYPE_CHECKING:
    from ..config import NodeConfig

__all__ = [
    "FIRST_PART_BYTES",
    "FRAME_COST",
    "Lender",
    "Outbox",
    "Undelivered",
    "longest_cost",
]

FRAME_COST = 64
"""Bytes that windows and credit count for each sequenced frame in addition to its payload: about
what an empty message takes in memory, so that a flood of empty messages is bounded too."""


FIRST_PART_BYTES = 256
"""Longest payload of the first frame on a connection that resumes a session, and shortest part of a
message. With `FRAME_COST`, a message in such parts takes up a quarter more of a window than its
bytes; every window holds twice the longest message."""


def longest_cost(size: int) -> int:
    """Return the most that windows and credit count for a message of that size, in any parts."""
    return size + FRAME_COST * (size // FIRST_PART_BYTES + 1)


class Undelivered(NamedTuple):
    """The messages that were accepted but not acknowledged, oldest first."""

    unsent: tuple[bytes, ...]
    """The peer has certainly not received these."""
    unknown: tuple[bytes, ...]
    """Sent, but not acknowledged: the peer may or may not have received these."""
    unsent_requests: tuple[bytes, ...] = ()
    """Requests, id included, that the peer has certainly not received."""

    @property
    def counts(self) -> str:
        """How many there are of each, for an error's text; empty if there are none."""
        if not self.unsent and not self.unknown:
            return ""
        return (
            f" (messages not sent: {len(self.unsent)}; "
            f"sent, but not acknowledged: {len(self.unknown)})"
        )


class _Slice:
    """One frame's share of a message in parts, or of one whose last frame is not a DATA frame."""

    __slots__ = ("kind", "last", "message", "start", "stop")

    def __init__(
        self, message: bytes, start: int, stop: int, *, last: bool, kind: FrameType
    ) -> None:
        self.message = message
        self.start = start
        self.stop = stop
        self.last = last
        self.kind = kind  # of the message's last frame: DATA, REQUEST or REPLY

    def __len__(self) -> int:
        return self.stop - self.start

    def encode(self, buffers: list[bytes | memoryview]) -> None:
        """Add the frame's bytes to ``buffers``."""
        size = self.stop - self.start
        buffers.append(encode_header(self.kind if self.last else FrameType.DATA_PART, size))
        whole = size == len(self.message)
        buffers.append(self.message if whole else memoryview(self.message)[self.start : self.stop])


class _Request(bytes):
    """A message that goes in one REQUEST frame."""

    __slots__ = ()


class _Reply(bytes):
    """A message that goes in one REPLY frame."""

    __slots__ = ()


_DATA, _REQUEST, _REPLY = FrameType.DATA, FrameType.REQUEST, FrameType.REPLY
_KINDS: dict[type, FrameType] = {_Request: _REQUEST, _Reply: _REPLY}
_OF_A_KIND = {_Request, _Reply, _Slice}
_HEADERS = {kind: short_headers(frame_type) for kind, frame_type in _KINDS.items()}


class Lender(Protocol):
    """Bounds how much the sessions of a node hold together; `ledger.Share` implements it."""

    @property
    def first_send(self) -> int:
        """What may always be held, in bytes."""

    def lend(self, over: int, wanted: int, *, alone: bool) -> bool:
        """Make room for this many more bytes; return whether there was enough."""

    def give_back(self, size: int) -> None:
        """Note that this much of what was lent is no longer needed."""


class Outbox:
    """The sending half of a session.

    Positions count sequenced frames, costs count bytes (payload plus `FRAME_COST` for each such
    frame); both are totals since the session began. What the peer has acknowledged never changes.
    The rest changes when a resumption cuts messages into other frames, so anything that outlives a
    connection counts messages, not frames.

    Attributes:
        accepted: Position after the last frame accepted for sending: that of the next frame.
        acked: Position after the last frame that the peer has acknowledged.
        credit: What the peer lets us send in all, in bytes.
        closed: Whether no more messages are accepted.
        short: Whether `send` declined the last message because the node had no room, and not just
            because the send window was full.
        pending: What was accepted and not yet handed to the present connection. Only read it.

    """

    __slots__ = (
        "_abandoned",
        "_accepted_cost",
        "_acked_cost",
        "_extra",
        "_extra_acked",
        "_first_bytes",
        "_lender",
        "_max_frame",
        "_max_message",
        "_most_bytes",
        "_sent_cost",
        "_slices",
        "_unacked",
        "_window_bytes",
        "_window_frames",
        "accepted",
        "acked",
        "closed",
        "credit",
        "ever_sent",
        "pending",
        "short",
    )

    def __init__(
        self, config: NodeConfig, *, peer_max_message: int, credit: int, lender: Lender
    ) -> None:
        self._max_message = min(config.max_message_bytes, peer_max_message)
        self._max_frame = min(self._max_message, MAX_DATA_BYTES)
        self._lender = lender
        self._most_bytes = config.send_window_bytes
        # What the node lets it hold now. It asks for more when that is used up, not for each
        # message.
        self._window_bytes = self._first_bytes = min(lender.first_send, self._most_bytes)
        self.short: bool = False
        self._window_frames = config.send_window_messages
        # accepted >= sent >= acked. A frame waits in `pending`, then in `_unacked`.
        self.accepted: int = 0
        self._accepted_cost = 0
        self._sent_cost = 0
        self.acked: int = 0
        self._acked_cost = 0
        self.credit: int = credit
        self.closed: bool = False
        self.ever_sent: int = 0  # frames below this position have been sent at least once
        self.pending: list[bytes | _Slice] = []
        self._unacked: list[bytes | _Slice] = []
        self._slices = 0  # how many in `pending` are not just the payload of a DATA frame
        self._extra = 0  # frames beyond one for each message
        self._extra_acked = 0  # those of them that are acknowledged
        self._abandoned: int | None = None  # `messages_ever_sent` at the end

    def send(self, message: bytes) -> int:
        """Accept a message for delivery; return how many bytes may be sent now, at least 1.

        0 means that the send window is full, or that the node has no room (see `short`), and that
        nothing was accepted. Messages without credit do not count: trying to send them takes time
        and achieves nothing.

        Raises:
            STTSessionClosedError: The session is closing or closed.
            STTMessageSizeError: The message is longer than this side or the peer allows.

        """
        if self.closed:
            raise STTSessionClosedError("the session is closed and accepts no more messages")
        size = len(message)
        if size > self._max_frame:
            return self.send_as(FrameType.DATA, message)
        cost = self._accepted_cost + size + FRAME_COST
        accepted = self.accepted
        if (
            cost - self._acked_cost > self._window_bytes
            or accepted - self.acked >= self._window_frames
        ) and not self._widen(cost - self._acked_cost):
            return 0
        self._accepted_cost = cost
        self.accepted = accepted + 1
        self.pending.append(message)
        if cost > self.credit:  # min() would cost more than the rest of this method
            cost = self.credit
        return cost - self._sent_cost or 1

    def bears(self, size: int) -> bool:
        """Whether a message of that size may be sent at all."""
        return size <= self._max_message

    def send_as(self, kind: FrameType, message: bytes) -> int:
        """Do the same as `send` for a message whose last frame is of this kind."""
        if self.closed:
            raise STTSessionClosedError("the session is closed and accepts no more messages")
        size = len(message)
        if size > self._max_message:
            raise STTMessageSizeError(
                f"a message of {size} bytes; the limit of this session is {self._max_message} "
                f"(max_message_bytes of both sides): send it in several messages"
            )
        # The last slice is what the full parts leave over, and may be empty: see FrameDecoder.
        frames = 1 if size <= self._max_frame else size // MAX_DATA_BYTES + 1
        cost = self._accepted_cost + size + frames * FRAME_COST
        used = self.accepted - self.acked
        if (
            cost - self._acked_cost > self._window_bytes or used >= self._window_frames
        ) and not self._widen(cost - self._acked_cost):
            return 0
        self._accepted_cost = cost
        self.accepted += frames
        self._slices += frames
        if frames > 1:
            self._slice(message, frames, kind)
        else:
            self.pending.append(_Request(message) if kind is _REQUEST else _Reply(message))
        if cost > self.credit:
            cost = self.credit
        return cost - self._sent_cost or 1

    def _slice(self, message: bytes, frames: int, kind: FrameType) -> None:
        self._extra += frames - 1
        last = (frames - 1) * MAX_DATA_BYTES
        for start in range(0, last, MAX_DATA_BYTES):
            part = _Slice(message, start, start + MAX_DATA_BYTES, last=False, kind=kind)
            self.pending.append(part)
        self.pending.append(_Slice(message, last, len(message), last=True, kind=kind))

    def _widen(self, needed: int) -> bool:
        """Ask the node for room to hold this many bytes; return whether there was enough."""
        self.short = False
        if needed > self._most_bytes or self.accepted - self.acked >= self._window_frames:
            return False
        window, lender = self._window_bytes, self._lender
        over = window - self._first_bytes
        ample = min(max(needed, 2 * window), self._most_bytes)
        if lender.lend(over, ample - window, alone=False):
            self._window_bytes = ample
        elif lender.lend(over, needed - window, alone=self.empty):
            self._window_bytes = needed
        else:
            self.short = True
        return not self.short

    def _narrow(self) -> None:
        """Give back what is no longer needed."""
        used = self.unacked_cost
        if 2 * used <= self._window_bytes:
            keep = max(used, self._first_bytes)
            self._lender.give_back(self._window_bytes - keep)
            self._window_bytes = keep

    @property
    def sent(self) -> int:
        """Position after the last frame handed to the present connection, or acknowledged."""
        return self.acked + len(self._unacked)

    @property
    def empty(self) -> bool:
        """Whether all that was accepted is acknowledged."""
        return not self.pending and not self._unacked

    @property
    def unacked_cost(self) -> int:
        """Bytes accepted and not yet acknowledged: what the send window holds."""
        return self._accepted_cost - self._acked_cost

    def can_send(self) -> bool:
        """Whether there is a frame to send, and credit for it."""
        if not self.pending:
            return False
        return self._sent_cost + len(self.pending[0]) + FRAME_COST <= self.credit

    def take(self, buffers: list[bytes | memoryview], budget: int) -> None:
        """Hand frames to the present connection: add their bytes to ``buffers``.

        Takes as many as there is credit for, until they exceed ``budget`` bytes.
        """
        pending = self.pending
        cost = self._accepted_cost
        if cost <= self.credit and cost - self._sent_cost <= budget:
            taken = pending
            self.pending = []
        else:
            cost = self._sent_cost
            count = 0
            budget += cost
            for item in pending:
                after = cost + len(item) + FRAME_COST
                if after > self.credit or cost >= budget:
                    break
                cost = after
                count += 1
            taken = pending[:count]
            del pending[:count]
        self._sent_cost = cost
        if self._unacked:
            self._unacked += taken
        else:
            self._unacked = taken
        if not self._slices:
            buffers += encode_data(taken)  # type: ignore[arg-type]  # no slice is among them
        else:
            self._encode_slices(taken, buffers)
        sent = self.acked + len(self._unacked)
        if sent > self.ever_sent:
            self.ever_sent = sent

    def _encode_slices(
        self, taken: list[bytes | _Slice], buffers: list[bytes | memoryview]
    ) -> None:
        for item, size in zip(taken, map(len, taken), strict=True):
            kind = type(item)
            if kind in _KINDS:
                self._slices -= 1
                short = size < 1025
                header = _HEADERS[kind][size] if short else encode_header(_KINDS[kind], size)
                buffers += header, item  # type: ignore[arg-type]
            elif isinstance(item, _Slice):
                self._slices -= 1
                item.encode(buffers)
            else:
                buffers += encode_data([item])

    def acknowledge(self, recv_next: int, credit: int) -> int:
        """Drop the frames below ``recv_next``, which have arrived; return how many.

        Raises:
            STTProtocolError: Some of them were never sent, or the peer has acknowledged more, or
                given more credit, before. Nothing has changed.

        """
        unacked = self._unacked
        count = recv_next - self.acked
        if not 0 <= count <= len(unacked):
            raise STTProtocolError(
                f"an acknowledgement at frame {recv_next}, not from {self.acked} to {self.sent}"
            )
        if credit < self.credit:
            raise STTProtocolError("an acknowledgement that takes credit back")
        self.credit = credit
        if count:
            done = unacked[:count]
            del unacked[:count]
            freed = sum(map(len, done))
            if self._extra != self._extra_acked:
                self._extra_acked += sum(map(_continues, done))
            self.acked += count
            self._acked_cost += freed + count * FRAME_COST
            if self._window_bytes > self._first_bytes:
                self._narrow()
        return count

    def send_again(self) -> None:
        """Put what the last connection did not deliver back in front of what is pending.

        The peer accepts nothing more from that connection, so the frames may be cut differently.
        """
        if self._unacked:
            self.pending[:0] = self._unacked
            self._unacked = []
        self._sent_cost = self._acked_cost
        self.presume_lost()  # the peer reads nothing more from the last connection
        self._cut_head()
        self._slices = sum(type(item) in _OF_A_KIND for item in self.pending)

    def _cut_head(self) -> None:
        """Cut what is sent first into frames, each no longer than all before it together."""
        pending = self.pending
        head: list[bytes | _Slice] = []
        ahead = done = 0
        while done < len(pending) and ahead < self._max_frame:
            item = pending[done]
            done += 1
            if isinstance(item, bytes):
                message, start, kind = item, 0, _KINDS.get(type(item), _DATA)
            else:
                message, start, kind = item.message, item.start, item.kind
                while not item.last:  # the rest of the message, in whatever parts it was before
                    item = pending[done]
                    done += 1
                    assert isinstance(item, _Slice)  # noqa: S101  nothing comes between the parts
            ahead += self._cut(message, start, kind, ahead, head)
        self.accepted += len(head) - done
        self._extra += len(head) - done
        self._accepted_cost += (len(head) - done) * FRAME_COST
        pending[:done] = head

    def _cut(
        self, message: bytes, start: int, kind: FrameType, ahead: int, head: list[bytes | _Slice]
    ) -> int:
        """Add the rest of a message to ``head``, after ``ahead`` bytes; return its size."""
        size = len(message)
        begin = start
        while size - start > (length := min(max(FIRST_PART_BYTES, ahead), self._max_frame)):
            head.append(_Slice(message, start, start + length, last=False, kind=kind))
            start += length
            ahead += length
        # A message that now goes in one frame was accepted as one: its type says what it is.
        head.append(message if start == 0 else _Slice(message, start, size, last=True, kind=kind))
        return size - begin

    def presume_lost(self) -> None:
        """Note that what is not acknowledged has certainly not arrived."""
        self.ever_sent = self.acked

    def abandon(self) -> Undelivered:
        """Accept no more messages; drop and return those accepted and not acknowledged."""
        undelivered = Undelivered((), ())
        if self._unacked or self.pending:
            self._abandoned = self.messages_ever_sent
            undelivered = self.undelivered()
        else:
            self._abandoned = self.accepted - self._extra
        self.closed = True
        self.pending, self._unacked = [], []
        self._lender.give_back(self._window_bytes - self._first_bytes)
        self._window_bytes = self._first_bytes
        return undelivered

    def undelivered(self) -> Undelivered:
        """Return the messages accepted and not acknowledged; none after `abandon`."""
        unsent: list[bytes] = []
        unknown: list[bytes] = []
        unsent_requests: list[bytes] = []
        position = self.acked
        for item in (*self._unacked, *self.pending):
            if isinstance(item, _Slice):
                message, kind = item.message, item.kind
            else:
                message, kind = item, _KINDS.get(type(item), _DATA)
            if _continues(item):
                pass  # without its last frame a message has certainly not been received
            elif kind is _DATA:
                (unknown if position < self.ever_sent else unsent).append(message)
            elif kind is _REQUEST and position >= self.ever_sent:
                unsent_requests.append(message)
            position += 1
        return Undelivered(tuple(unsent), tuple(unknown), tuple(unsent_requests))

    @property
    def messages_sent(self) -> int:
        """Messages accepted since the session began."""
        return self.accepted - self._extra

    @property
    def messages_acked(self) -> int:
        """How many of these messages the peer has acknowledged."""
        return self.acked - self._extra_acked

    @property
    def messages_ever_sent(self) -> int:
        """How many of these messages the peer may have received, the acknowledged ones included."""
        if self._abandoned is not None:
            return self._abandoned
        frames = islice(chain(self._unacked, self.pending), self.ever_sent - self.acked)
        return self.messages_acked + sum(not _continues(frame) for frame in frames)

    @property
    def bytes_sent(self) -> int:
        """The total size of the messages accepted since the session began."""
        return self._accepted_cost - self.accepted * FRAME_COST


def _continues(item: bytes | _Slice) -> bool:
    """Whether the next frame belongs to the same message."""
    return not isinstance(item, bytes) and not item.last
