"""The outbox: what a session has accepted for sending and its peer has not acknowledged.

Messages wait here as frames, first to be sent and then to be acknowledged, and are sent again when
a connection was cut in between. The send window bounds them; the peer's credit bounds how many of
them go out. `docs/wire-format.md` states the rules for positions and credit.

A frame that was cut is lost whole. So what a connection carries first goes in small frames, each no
longer than all before it: whatever a connection can carry, about half of it gets across, and a
session gets on over any link that lasts for a few hundred bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from .errors import STTMessageSizeError, STTProtocolError, STTSessionClosedError
from .frames import MAX_DATA_BYTES, encode_data, encode_part

if TYPE_CHECKING:
    from .config import NodeConfig

__all__ = [
    "FIRST_PART_BYTES",
    "FRAME_COST",
    "Lender",
    "Outbox",
    "Undelivered",
    "longest_cost",
]

FRAME_COST = 64
"""Bytes that each sequenced frame counts in windows and credit beyond its payload: about what an
empty message takes in memory, so that a flood of them is bounded too."""


FIRST_PART_BYTES = 256
"""Longest payload of the first frame on a connection that resumes a session, and shortest part of a
message. With `FRAME_COST` a message in such parts takes a quarter more of a window than its bytes,
and every window holds twice the longest message."""


def longest_cost(size: int) -> int:
    """Return what a message of that size costs at most in windows and credit, in all its parts."""
    return size + FRAME_COST * (size // FIRST_PART_BYTES + 1)


class Undelivered(NamedTuple):
    """What became of the messages that were accepted but not acknowledged, oldest first."""

    unsent: tuple[bytes, ...]
    """The peer has certainly not received these."""
    unknown: tuple[bytes, ...]
    """Sent, but not acknowledged: the peer may or may not have received these."""


class _Slice:
    """One frame's share of a message in parts."""

    __slots__ = ("last", "message", "start", "stop")

    def __init__(self, message: bytes, start: int, stop: int, *, last: bool) -> None:
        self.message = message
        self.start = start
        self.stop = stop
        self.last = last

    def __len__(self) -> int:
        return self.stop - self.start


class Lender(Protocol):
    """What bounds that which the sessions of a node together hold; see `budget.Share`."""

    @property
    def first_send(self) -> int:
        """What may be held in any case, in bytes."""

    def lend(self, over: int, wanted: int, *, alone: bool) -> bool:
        """Make room for so many bytes more; return whether there is some."""

    def give_back(self, size: int) -> None:
        """Note that so much of what was lent is not needed any more."""


class Outbox:
    """The sending half of a session.

    Positions count sequenced frames, costs count bytes (payload plus `FRAME_COST` for each such
    frame); both are totals since the session began. What the peer has acknowledged never changes;
    the rest changes when a resumption cuts messages into other frames, so what outlives a
    connection counts messages.

    Attributes:
        accepted: Position behind the last frame accepted for sending; the next one will have it.
        acked: Position behind the last frame that the peer has acknowledged.
        credit: What the peer lets us send in all, in bytes.
        closed: Whether no more messages are accepted.
        short: Whether the last message that `send` declined found no room in the node, and not
            only none in the send window.
        pending: What was accepted and not yet handed to the present connection. Only read it.

    """

    __slots__ = (
        "_accepted_cost",
        "_acked_cost",
        "_ever_sent",
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
        # What the node lets it hold now. It asks for more when that is used up, not each time.
        self._window_bytes = self._first_bytes = min(lender.first_send, self._most_bytes)
        self.short = False
        self._window_frames = config.send_window_messages
        # accepted >= sent >= acked. A frame waits in `pending`, then in `_unacked`.
        self.accepted = 0
        self._accepted_cost = 0
        self._sent_cost = 0
        self.acked = 0
        self._acked_cost = 0
        self.credit = credit
        self.closed = False
        self._ever_sent = 0  # frames below this position have been sent at least once
        self.pending: list[bytes | _Slice] = []
        self._unacked: list[bytes | _Slice] = []
        self._slices = 0  # how many _Slice objects wait in `pending`
        self._extra = 0  # frames beyond one for each message
        self._extra_acked = 0  # those of them that are acknowledged

    def send(self, message: bytes) -> int:
        """Accept a message for delivery; return how many bytes may be sent now, at least 1.

        0 says that the send window is full, or the node holds what it may (`short` tells), and
        nothing was accepted. Messages for which the peer
        has given no credit yet do not count: to try to send them costs time and brings nothing.

        Raises:
            STTSessionClosedError: The session is closing or closed.
            STTMessageSizeError: The message is longer than this side or the peer allows.

        """
        if self.closed:
            raise STTSessionClosedError("the session is closed and takes no more messages")
        size = len(message)
        if size > self._max_frame:
            return self._send_in_parts(message, size)
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
        if cost > self.credit:  # min() would cost more than all the rest
            cost = self.credit
        return cost - self._sent_cost or 1

    def _send_in_parts(self, message: bytes, size: int) -> int:
        if size > self._max_message:
            raise STTMessageSizeError(
                f"a message of {size} bytes; the limit of this session is {self._max_message} "
                f"(max_message_bytes of both sides): send it in several messages"
            )
        # The last slice is what is left over full parts, and may be empty: see FrameDecoder.
        frames = size // MAX_DATA_BYTES + 1
        cost = self._accepted_cost + size + frames * FRAME_COST
        used = self.accepted - self.acked
        if (
            cost - self._acked_cost > self._window_bytes or used >= self._window_frames
        ) and not self._widen(cost - self._acked_cost):
            return 0
        self._accepted_cost = cost
        self.accepted += frames
        self._extra += frames - 1
        self._slices += frames
        for start in range(0, frames * MAX_DATA_BYTES, MAX_DATA_BYTES):
            stop = min(start + MAX_DATA_BYTES, size)
            last = start + MAX_DATA_BYTES > size
            self.pending.append(_Slice(message, start, stop, last=last))
        return min(cost, self.credit) - self._sent_cost or 1

    def _widen(self, needed: int) -> bool:
        """Ask the node for room to hold so many bytes; return whether there is some."""
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
        """Give back what is not needed any more."""
        used = self.unacked_cost
        if 2 * used <= self._window_bytes:
            keep = max(used, self._first_bytes)
            self._lender.give_back(self._window_bytes - keep)
            self._window_bytes = keep

    @property
    def sent(self) -> int:
        """Position behind the last frame handed to the present connection, or acknowledged."""
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
        """Whether there is a frame to be sent, and credit for it."""
        if not self.pending:
            return False
        return self._sent_cost + len(self.pending[0]) + FRAME_COST <= self.credit

    def take(self, buffers: list[bytes | memoryview], budget: int) -> None:
        """Hand frames to the present connection: add their bytes to ``buffers``.

        As many as there is credit for, until they exceed ``budget`` bytes.
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
        if sent > self._ever_sent:
            self._ever_sent = sent

    def _encode_slices(
        self, taken: list[bytes | _Slice], buffers: list[bytes | memoryview]
    ) -> None:
        for item in taken:
            if isinstance(item, bytes):
                buffers += encode_data([item])
            else:
                self._slices -= 1
                view = memoryview(item.message)[item.start : item.stop]
                buffers += encode_data([view]) if item.last else (encode_part(len(item)), view)

    def acknowledge(self, recv_next: int, credit: int) -> int:
        """Let go of the frames below ``recv_next``; return how many.

        Raises:
            STTProtocolError: That was never sent, or this or the credit was said to be more before.
                Nothing has changed.

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
            freed = sum(map(len, unacked[:count]))
            if self._extra != self._extra_acked:
                self._extra_acked += sum(map(_continues, unacked[:count]))
            del unacked[:count]
            self.acked += count
            self._acked_cost += freed + count * FRAME_COST
            if self._window_bytes > self._first_bytes:
                self._narrow()
        return count

    def send_again(self) -> None:
        """Put what the last connection did not deliver back in front of what is pending.

        None of it will be accepted as it was sent: it may go in other frames than before.
        """
        if self._unacked:
            self.pending[:0] = self._unacked
            self._unacked = []
        self._sent_cost = self._acked_cost
        self.presume_lost()  # the peer reads nothing more of the last connection
        self._cut_head()
        self._slices = sum(not isinstance(item, bytes) for item in self.pending)

    def _cut_head(self) -> None:
        """Cut what is sent first into frames of which none is longer than all before it."""
        pending = self.pending
        head: list[bytes | _Slice] = []
        ahead = done = 0
        while done < len(pending) and ahead < self._max_frame:
            item = pending[done]
            done += 1
            if isinstance(item, bytes):
                message, start = item, 0
            else:
                message, start = item.message, item.start
                while not item.last:  # the rest of the message, in whatever parts it was before
                    item = pending[done]
                    done += 1
                    assert isinstance(item, _Slice)  # noqa: S101  nothing comes between the parts
            ahead += self._cut(message, start, ahead, head)
        self.accepted += len(head) - done
        self._extra += len(head) - done
        self._accepted_cost += (len(head) - done) * FRAME_COST
        pending[:done] = head

    def _cut(self, message: bytes, start: int, ahead: int, head: list[bytes | _Slice]) -> int:
        """Add what is left of a message to ``head``, behind so many bytes; return how many."""
        size = len(message)
        begin = start
        while size - start > (length := min(max(FIRST_PART_BYTES, ahead), self._max_frame)):
            head.append(_Slice(message, start, start + length, last=False))
            start += length
            ahead += length
        head.append(message if start == 0 else _Slice(message, start, size, last=True))
        return size - begin

    def presume_lost(self) -> None:
        """Note that what is not acknowledged has certainly not arrived."""
        self._ever_sent = self.acked

    def abandon(self) -> Undelivered:
        """Accept no more; drop, and return, what was accepted and not acknowledged."""
        unsent: list[bytes] = []
        unknown: list[bytes] = []
        position = self.acked
        for item in (*self._unacked, *self.pending):
            whole = item if isinstance(item, bytes) else item.message
            if isinstance(item, bytes) or item.last:
                # Without its last frame a message has certainly not been received.
                (unknown if position < self._ever_sent else unsent).append(whole)
            position += 1
        self.closed = True
        self.pending, self._unacked = [], []
        self._lender.give_back(self._window_bytes - self._first_bytes)
        self._window_bytes = self._first_bytes
        return Undelivered(tuple(unsent), tuple(unknown))

    @property
    def messages_sent(self) -> int:
        """Messages accepted since the session began."""
        return self.accepted - self._extra

    @property
    def messages_acked(self) -> int:
        """How many of them the peer has acknowledged."""
        return self.acked - self._extra_acked

    @property
    def bytes_sent(self) -> int:
        """Their bytes."""
        return self._accepted_cost - self.accepted * FRAME_COST


def _continues(item: bytes | _Slice) -> bool:
    """Whether the next frame belongs to the same message."""
    return not isinstance(item, bytes) and not item.last
