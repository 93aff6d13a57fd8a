"""One side of the lossless, ordered session: every change of its state is made or begun here.

`window` counts what it may receive, and `outbox` keeps what it sends. A session outlives its
connections. Each side gives every sequenced frame (DATA, DATA_PART) a position, keeps it until
the peer has acknowledged it, and sends it again on the next connection if the last one was cut
before that (see `outbox`); the receiving side counts what it has accepted, so that each frame is
accepted once and in order. Credit, in bytes, keeps a sender from running ahead of an application
that does not consume. ``docs/wire-format.md`` states the rules for both sides.

There is no I/O, clock or task here. The owner calls these verbs:

* `Outbox.send` of `SessionMachine.outbox` accepts a message; `SessionMachine.close` asks for the
  end;
* `SessionMachine.receive` takes frames and returns messages, which the owner must report as
  `SessionMachine.consumed` once the application has them;
* after any of these, if `SessionMachine.output_due`, take `SessionMachine.data_to_send` and write
  it to the connection;
* `SessionMachine.detach` when a connection ends; then `SessionMachine.reopening` (dialer) or
  `SessionMachine.resume` (listener) to go on over a new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ..errors import STTLimitError, STTProtocolError
from .controls import Controls
from .exchanges import Exchanges
from .frames import (
    MAX_DATA_BYTES,
    Abort,
    Ack,
    Cancel,
    Close,
    CloseAck,
    Frame,
    Pad,
    Part,
    Ping,
    Pong,
    ReplyEnd,
    RequestEnd,
    Welcome,
    WelcomeStatus,
)
from .outbox import FRAME_COST, Outbox
from .phase import Link, Phase
from .window import ReceiveWindow

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..config import NodeConfig
    from .budget import Budget
    from .outbox import Undelivered

__all__ = ["SessionMachine"]

ACK_SHARE = 4
"""An acknowledgement goes out on its own once this share of the receive window is unacknowledged:
often enough that the sender's credit never runs out, rarely enough to cost little."""

MAX_PONGS = 64
"""How many PONGs may wait for a connection that accepts no bytes; one more, and the peer floods."""

# Python 3.11 takes as long to find a member in its class as to call a function.
_OPEN, _CLOSED, _UP = Phase.OPEN, Phase.CLOSED, Link.UP

_SEQUENCED = frozenset({list, Part, RequestEnd, ReplyEnd})

_LIVE = frozenset({Phase.OPEN, Phase.CLOSING})
_UNTIL_CLOSED = _LIVE | {Phase.PEER_CLOSED}


class SessionMachine(ReceiveWindow):
    """One side of a session.

    Positions count sequenced frames, costs count bytes (payload plus `FRAME_COST` for each such
    frame); both are totals since the session began and never go back.
    """

    __slots__ = (
        "_ack_sent",
        "_ack_sent_cost",
        "_askers",
        "_close_ack_due",
        "_close_ack_sent",
        "_close_sent",
        "_control",
        "_dialer",
        "_extra_received",
        "_ping_due",
        "_ping_time",
        "_ping_token",
        "_pongs",
        "aborted",
        "asked_at",
        "closed_here",
        "epoch",
        "exchanges",
        "last_ack",
        "last_message",
        "link",
        "outbox",
        "phase",
        "refusal",
        "session_id",
    )

    def __init__(
        self,
        session_id: bytes,
        config: NodeConfig,
        *,
        link: Link,
        peer_max_message: int,
        peer_credit: int = 0,
        budget: Budget,
        controls: Controls | None = None,
        now: float,
    ) -> None:
        super().__init__(config, budget=budget, controls=controls or Controls(now), now=now)
        self.session_id: bytes = session_id
        self.phase: Phase = Phase.OPEN
        self.link: Link = link
        self._dialer = link is Link.OPENING
        self.epoch: int = 0
        self.refusal: WelcomeStatus | None = None
        """Why the listener would not open or resume the session; None while it has not refused."""
        self.aborted: bool = False
        """Whether the peer has aborted the session."""
        self.closed_here: bool = False
        """Whether this side has closed the session; if both did so, it may have been the first."""
        self.last_ack: float = now
        """When the peer last acknowledged anything: then our bytes certainly moved."""
        self.last_message: float | None = None
        """When a message last arrived, or was last handed to a connection; None before the first.
        The owner sets it when it sends."""
        self.asked_at: float = now
        """When the last PING was sent, or the session began."""
        self.outbox: Outbox = Outbox(
            config, peer_max_message=peer_max_message, credit=peer_credit, lender=budget
        )
        """What was accepted for sending. The owner calls its `Outbox.send`, and may read it."""
        self.exchanges: Exchanges | None = None
        """Requests in both directions; None before the first."""
        self._close_sent = False  # these three concern the present connection
        self._close_ack_due = False
        self._close_ack_sent = False

        self._ack_sent = 0
        self._ack_sent_cost = 0
        self._extra_received = 0
        self._control: list[bytes] = []  # encoded frames that go out first
        self._pongs = 0
        self._ping_token = 0
        self._ping_due = False
        self._ping_time: float | None = None  # when the unanswered PING was sent
        self._askers: tuple[Callable[[float], None], ...] = ()  # called when its PONG comes

    # ------------------------------------------------------------------ sending

    @property
    def output_due(self) -> bool:
        """Whether `data_to_send` should be taken at once, and not after a delay."""
        if self.link is not _UP:
            return False
        return (
            bool(self._control)
            or self._ping_due
            or self._close_ack_due
            or (not self._close_ack_sent and self.outbox.can_send())
            or (self.phase is not _OPEN and self._close_due())
            or self._ack_due()
        )

    @property
    def ack_owed(self) -> bool:
        """Whether the peer has not been told yet what was received or consumed."""
        if self._close_sent:
            return False  # the next ACK is the one that answers CLOSE_ACK
        return self._recv_next != self._ack_sent or self._credit_gained() > 0

    def _close_due(self) -> bool:
        return self.phase is Phase.CLOSING and not self._close_sent and not self.outbox.pending

    def _ack_due(self) -> bool:
        if self._close_sent:
            return False
        if (self._recv_cost - self._ack_sent_cost) * ACK_SHARE >= self.window:
            return True
        # A sender that has used most of its credit must learn of new credit without delay.
        running_out = (self._credit_told - self._recv_cost) * 2 < self.window
        return running_out and self._credit_gained() > 0

    def data_to_send(self, budget: int) -> list[bytes | memoryview]:
        """Return the buffers to send, in order, as the plaintext of the next records.

        Takes no more messages once they exceed ``budget`` bytes: call it again for the rest. Empty
        if there is nothing to send, or no connection.
        """
        if self.link is not _UP:
            return []
        buffers: list[bytes | memoryview] = []
        if self._control:
            buffers += self._control
            self._control.clear()
            self._pongs = 0
        if self.ack_owed:
            self._note_ack()
            buffers.append(Ack(self._ack_sent, self._credit_given).encode())
        outbox = self.outbox
        if outbox.pending and not self._close_ack_sent:
            outbox.take(buffers, budget)
        if self._ping_due:  # after the messages: the PONG then comes with their acknowledgement
            self._ping_due = False
            buffers.append(Ping(self._ping_token).encode())
        if self._close_ack_due and not outbox.can_send():
            self._close_ack_due = False
            self._close_ack_sent = True
            buffers.append(CloseAck(outbox.sent).encode())
        if self.phase is not _OPEN and self._close_due():
            self._close_sent = True
            buffers.append(Close(outbox.accepted).encode())
        return buffers

    def _note_ack(self) -> None:
        self._ack_sent = self._recv_next
        self._ack_sent_cost = self._recv_cost
        window, consumed = self.window, self._consumed_cost
        if window < self._most_window and consumed - self._mark_cost >= window:
            self._consider_window()
        if not self._starved and (
            self._parts is not None or consumed + self.window - self._credit_given > self._grain
        ):
            self._give_credit()
        self._credit_told = self._credit_given

    # ---------------------------------------------------------------- receiving

    def receive(self, frames: Sequence[Frame], now: float) -> list[bytes]:
        """Take the frames that a record completes, if any; return the messages that they complete.

        Raises:
            STTProtocolError: The peer sent what it may not send in this phase, or contradicts
                itself. The session must be ended.
            STTLimitError: It sent more than it may.

        """
        self.last_received = now
        messages: list[bytes] = []
        before = (
            self._recv_next,
            self._recv_cost,
            self._consumed_cost,
            self._extra_received,
            self._parts_frames,
            self._parts_bytes,
        )
        try:
            self._receive(frames, messages, now)
        except STTProtocolError:
            # The messages of this record are lost with the session, and never count.
            (
                self._recv_next,
                self._recv_cost,
                self._consumed_cost,
                self._extra_received,
                self._parts_frames,
                self._parts_bytes,
            ) = before
            raise
        if messages:
            self.last_message = now
        freed = self._consumed_cost - before[2]
        if freed:  # only now: a record that is refused gives nothing back
            self._consumed_cost = before[2]
            self.consumed(freed, 0)
        return messages

    def _receive(self, frames: Sequence[Frame], messages: list[bytes], now: float) -> None:
        if not frames:
            self.controls.add(now)
        for frame in frames:
            if self.phase is _CLOSED:
                break  # a PONG, say, that was under way while the session ended
            kind = type(frame)
            handler, phases, link = self._RULES[kind]
            if self.phase not in phases or (self.link is not link and link is not None):
                name = kind.__name__ if kind is not list else "DATA"
                raise STTProtocolError(
                    f"a {name} frame while the session is {self.phase.value} and its connection "
                    f"{self.link.value}"
                )
            handler(self, frame, messages, now)
            if kind not in _SEQUENCED:
                self.controls.add(now)

    def _on_data(self, run: list[bytes], messages: list[bytes], _now: float) -> None:
        if self._max_receive < MAX_DATA_BYTES:
            self._check_message_size(max(map(len, run)))
        if self._parts is not None:
            self._check_message_size(self._parts_bytes + len(run[0]))
        self._count_received(sum(map(len, run)), len(run))
        if self._parts is not None:
            run = [self._join_parts(self._parts, run[:1]), *run[1:]]
        messages += run

    def _on_part(self, part: Part, _messages: list[bytes], now: float) -> None:
        size = sum(map(len, part.pieces))
        self._check_message_size(self._parts_bytes + size)
        self._count_received(size, 1)
        if self._parts is None:
            self._parts = []
        self._parts_since = now
        self._parts += part.pieces
        self._parts_bytes += size
        self._parts_frames += 1

    def _join_parts(self, parts: list[bytes], pieces: list[bytes]) -> bytes:
        """Return the message that has begun with ``parts`` and ends with ``pieces``."""
        # The application consumes one message. What the other frames cost is given back here.
        self._consumed_cost += self._parts_frames * FRAME_COST
        self._extra_received += self._parts_frames
        self._parts = None
        self.budget.finished()
        self._parts_bytes = self._parts_frames = 0
        return b"".join((*parts, *pieces))

    def _complete(self, pieces: list[bytes]) -> bytes:
        """Return the message that a frame with this payload completes."""
        message, *more = pieces
        if self._parts is None and not more:  # usually
            size = len(message)
            if size > self._max_receive:
                self._check_message_size(size)
            self._count_received(size, 1)
            return message
        if self._parts is not None:
            size = sum(map(len, pieces))
            self._check_message_size(self._parts_bytes + size)
            self._count_received(size, 1)
            return self._join_parts(self._parts, pieces)
        message = b"".join(pieces)
        self._check_message_size(len(message))
        self._count_received(len(message), 1)
        return message

    # ------------------------------------------------------ requests and replies

    def exchange(self) -> Exchanges:
        """Return `exchanges`, and create it first if necessary."""
        if self.exchanges is None:
            self.exchanges = Exchanges(self.outbox)
        return self.exchanges

    def _on_request(self, request: RequestEnd, _messages: list[bytes], now: float) -> None:
        (self.exchanges or self.exchange()).on_request(self._complete(request.pieces))
        self.last_message = now

    def _on_reply(self, reply: ReplyEnd, _messages: list[bytes], now: float) -> None:
        message = self._complete(reply.pieces)
        (self.exchanges or self.exchange()).on_reply(message)
        self._consumed_cost += (
            len(message) + FRAME_COST
        )  # the task that asked has been waiting for it
        self.last_message = now

    def _on_cancel(self, cancel: Cancel, _messages: list[bytes], _now: float) -> None:
        self.exchange().on_cancel(cancel.request_id)

    def tell_cancels(self) -> None:
        """Tell the peer which replies this side no longer waits for, as soon as possible."""
        if self.exchanges is not None and self.link is Link.UP:
            self._control += self.exchanges.cancels_due()

    def _on_ack(self, ack: Ack, _messages: list[bytes], now: float) -> None:
        self._acknowledge(ack.recv_next, ack.credit)
        self.last_ack = now
        if (
            self._close_ack_sent
            and self.phase is Phase.PEER_CLOSED
            and self.outbox.sent == self.outbox.acked
        ):
            self._enter(Phase.CLOSED)

    def _acknowledge(self, recv_next: int, credit: int) -> None:
        """Drop the frames below ``recv_next``: they have arrived."""
        self.controls.count -= self.outbox.acknowledge(recv_next, credit)
        if self.exchanges is not None:
            self.tell_cancels()

    # ---------------------------------------------------------------- liveness

    def ping(self, now: float, answered: Callable[[float], None] | None = None) -> None:
        """Ask the peer for a PONG, to measure the round trip or to see whether it lives.

        Sends nothing while an earlier PING is unanswered: its PONG answers this call too. Does
        nothing without a connection.

        Args:
            now: The time, by the owner's clock.
            answered: Called with the duration of the round trip in seconds when the PONG comes;
                only once, even if it is passed again in the meantime. Forgotten if the connection
                ends first.

        """
        if self.link is not Link.UP:
            return
        if answered is not None and answered not in self._askers:
            self._askers += (answered,)
        if self._ping_time is None:
            self._ping_token += 1
            self._ping_time = self.asked_at = now
            self._ping_due = True

    def reassure(self) -> None:
        """Tell the peer that its bytes arrive, although they complete nothing yet.

        Nothing else would tell it: there is nothing to acknowledge, and its PING waits behind those
        bytes.
        """
        if self.link is Link.UP and not self._control:
            # No ACK may follow our CLOSE.
            ack = Ack(self._ack_sent, self._credit_told)
            self._control.append(Pad(0).encode() if self._close_sent else ack.encode())

    @property
    def ping_time(self) -> float | None:
        """When the PING that is still unanswered was sent; None if none is."""
        return self._ping_time

    def _on_ping(self, ping: Ping, _messages: list[bytes], _now: float) -> None:
        if self._pongs >= MAX_PONGS:
            raise STTLimitError("a flood of PING frames")
        self._pongs += 1
        self._control.append(Pong(ping.token).encode())

    def _on_pong(self, pong: Pong, _messages: list[bytes], now: float) -> None:
        if self._ping_time is None or pong.token != self._ping_token:
            raise STTProtocolError("a PONG that answers no PING")
        sample = now - self._ping_time
        self._ping_time = None
        self._note_round_trip(sample)
        askers, self._askers = self._askers, ()
        for answered in askers:
            answered(sample)

    def _on_pad(self, _pad: Pad, _messages: list[bytes], _now: float) -> None:
        """Do nothing."""

    # ------------------------------------------------------- connections and close

    def detach(self) -> None:
        """Note that the connection has ended. Half-received frames are forgotten.

        On the listener, a session is over if the peer has closed it and has all of our messages: if
        our CLOSE_ACK was lost, the dialer comes back and is told that the session has ended. A
        dialer must come back, because its listener cannot.
        """
        self._drop_link()
        if self.phase is Phase.PEER_CLOSED and self.outbox.empty and not self._dialer:
            self._enter(Phase.CLOSED)

    def _drop_link(self) -> None:
        self.link = Link.DOWN
        self._control.clear()
        self._pongs = 0
        self._ping_time = None
        self._ping_due = False
        self._askers = ()
        self._close_sent = self._close_ack_due = self._close_ack_sent = False
        if self.exchanges is not None:
            self.exchanges.reconnect()

    def reopening(self) -> tuple[int, int, int]:
        """Begin to resume over a new connection (dialer).

        Return the epoch, position and credit that the opening must carry. From here on the old
        connection must no longer be read.
        """
        self.link = Link.OPENING
        self.refusal = None
        self.epoch += 1
        self._note_ack()
        return self.epoch, self._recv_next, self._credit_given

    def resume(self, epoch: int, recv_next: int, credit: int) -> None:
        """Go on over a new connection, whose dialer sent this opening (listener).

        From here on the old connection must no longer be read.

        Raises:
            STTProtocolError: The opening is stale or contradicts what was acknowledged before.
                The session is as it was.

        """
        if epoch <= self.epoch:
            raise STTProtocolError(f"an opening of epoch {epoch} after one of epoch {self.epoch}")
        self._acknowledge(recv_next, credit)
        self._drop_link()
        self.epoch = epoch
        self.link = Link.UP
        self.outbox.send_again()
        self.welcome()
        self.tell_cancels()

    def welcome(self) -> None:
        """Answer the opening (listener). It is the first frame on the connection."""
        self._note_ack()
        answer = Welcome(WelcomeStatus.ACCEPTED, self._ack_sent, self._credit_given)
        self._control.insert(0, answer.encode())

    def _on_welcome(self, welcome: Welcome, _messages: list[bytes], _now: float) -> None:
        if welcome.status is WelcomeStatus.ACCEPTED:
            self._acknowledge(welcome.recv_next, welcome.credit)
            self.link = Link.UP
            self.outbox.send_again()
            # The listener considers the session established when it hears from us.
            self._note_ack()
            self._control.append(Ack(self._ack_sent, self._credit_given).encode())
            self.tell_cancels()
            return
        self.refusal = welcome.status
        if welcome.status is WelcomeStatus.ENDED:
            self._acknowledge(welcome.recv_next, self.outbox.credit)
            self.outbox.presume_lost()
        if welcome.status is WelcomeStatus.REFUSED:
            return  # for now; the session may still be there
        if self.outbox.empty:
            self._enter(Phase.CLOSED)  # everything arrived: as good as an acknowledged close

    def _enter(self, phase: Phase) -> None:
        """Go on to a later phase, in which no more messages are accepted."""
        self.phase = phase
        self.outbox.closed = True

    def close(self) -> None:
        """Accept no more messages; deliver those accepted, then end. Does nothing when closing."""
        if self.phase is Phase.OPEN:
            self.closed_here = True
            self._enter(Phase.CLOSING)
            # The peer gets no credit after CLOSE, but must be able to deliver what it has accepted.
            self._set_window(self._most_window)
            self._grain = 0

    def _on_close(self, close: Close, _messages: list[bytes], _now: float) -> None:
        if close.final != self._recv_next or self._parts is not None:
            raise STTProtocolError(
                f"a CLOSE at frame {close.final}, when {self._recv_next} had arrived"
            )
        if self._close_ack_due or self._close_ack_sent:
            raise STTProtocolError("a second CLOSE on one connection")
        if not self._close_sent:  # else both sides close at once, and each waits for its CLOSE_ACK
            self._enter(Phase.PEER_CLOSED)
        self._close_ack_due = True  # goes out after the messages for which there is credit

    def _on_close_ack(self, answer: CloseAck, _messages: list[bytes], _now: float) -> None:
        if not self._close_sent:
            raise STTProtocolError("a CLOSE_ACK that answers no CLOSE")
        # It may break off a message in parts, if the peer had no credit for the next part.
        if answer.final != self._recv_next:
            raise STTProtocolError(
                f"a CLOSE_ACK at frame {answer.final}, when {self._recv_next} had arrived"
            )
        self._acknowledge(self.outbox.accepted, self.outbox.credit)
        self._enter(Phase.CLOSED)
        self._note_ack()
        self._control.append(Ack(self._ack_sent, self._credit_given).encode())

    def abort(self) -> list[bytes]:
        """Return the frames that tell the peer of the abort; call `abandon` next."""
        return [Abort(self._recv_next).encode()] if self.link is Link.UP else []

    def _on_abort(self, abort: Abort, _messages: list[bytes], _now: float) -> None:
        self._acknowledge(abort.recv_next, self.outbox.credit)
        self.outbox.presume_lost()
        self.aborted = True
        self._enter(Phase.CLOSED)

    def abandon(self) -> Undelivered:
        """End the session at once; return the messages that were accepted and not acknowledged."""
        self._enter(Phase.CLOSED)
        self._drop_link()
        self._parts = None
        self.budget.finished()
        unused, self._credit_given = self.promised_cost, self._recv_cost
        beyond = self.committed + unused - self._first_window
        if beyond > 0:
            self.budget.release(min(unused, beyond))
        return self.outbox.abandon()

    @property
    def progress(self) -> int:
        """How many sequenced frames have certainly arrived, in both directions together."""
        return self.outbox.acked + self._recv_next

    @property
    def position(self) -> int:
        """How many sequenced frames were received in all. A tombstone must remember it."""
        return self._recv_next

    # -------------------------------------------------------------------- counts

    @property
    def messages_received(self) -> int:
        """Messages received in full since the session began."""
        return self._recv_next - self._extra_received - self._parts_frames

    @property
    def bytes_received(self) -> int:
        """The total size of these messages."""
        return self._recv_cost - self._recv_next * FRAME_COST - self._parts_bytes

    _RULES: ClassVar[dict[type, tuple[Callable[..., None], frozenset[Phase], Link | None]]] = {
        list: (_on_data, _LIVE, Link.UP),
        Part: (_on_part, _LIVE, Link.UP),
        RequestEnd: (_on_request, _LIVE, Link.UP),
        ReplyEnd: (_on_reply, _LIVE, Link.UP),
        Cancel: (_on_cancel, _UNTIL_CLOSED, Link.UP),
        Ack: (_on_ack, _UNTIL_CLOSED, Link.UP),
        Ping: (_on_ping, _UNTIL_CLOSED, Link.UP),
        Pong: (_on_pong, _UNTIL_CLOSED, Link.UP),
        Close: (_on_close, _UNTIL_CLOSED, Link.UP),
        Abort: (_on_abort, _UNTIL_CLOSED, Link.UP),
        CloseAck: (_on_close_ack, frozenset({Phase.CLOSING}), Link.UP),
        Welcome: (_on_welcome, _UNTIL_CLOSED, Link.OPENING),
        Pad: (_on_pad, _UNTIL_CLOSED, None),
    }
    """Each frame's handler, the phases in which the peer may send it, and the link (None: any)."""
