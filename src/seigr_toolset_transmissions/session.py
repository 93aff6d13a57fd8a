"""The lossless ordered message session: everything that affects its state lives here.

A session outlives its connections. Each side gives every sequenced frame (DATA, DATA_PART) a
position, keeps it until the peer has acknowledged it, and sends it again on the next connection if
the last one was cut before that (see `outbox`); the receiving side counts what it has accepted, so
that each frame is accepted once and in order. Credit, in bytes, keeps a sender from running ahead
of an application that does not consume. ``docs/wire-format.md`` states the rules for both sides.

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

from .controls import Controls
from .errors import STTLimitError, STTProtocolError
from .frames import (
    MAX_DATA_BYTES,
    Abort,
    Ack,
    Close,
    CloseAck,
    Frame,
    Pad,
    Part,
    Ping,
    Pong,
    Welcome,
    WelcomeStatus,
)
from .outbox import FRAME_COST, Outbox, longest_cost
from .phase import Link, Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .budget import Budget
    from .config import NodeConfig
    from .outbox import Undelivered

__all__ = ["SessionMachine"]

GROWTH_SECONDS = 1.0
"""The receive window doubles when the application has consumed one within so long, or within two
round trips if that is longer: it becomes what the peer sends in a second or two, up to
``receive_window_bytes``, so that no path with a shorter round trip is slowed down by it."""

ACK_SHARE = 4
"""An acknowledgement goes out alone once this share of the receive window is unacknowledged: often
enough that the sender's credit never runs dry, seldom enough to cost little."""

CREDIT_SHARE = 16
"""Once the application has consumed this share of a grown receive window the peer gets new credit:
to account for it at each short message would cost as much as to decrypt one."""

MAX_PONGS = 64
"""PONGs that may wait for a connection that takes no bytes, before its peer counts as flooding."""

# Python 3.11 takes as long to find a member in its class as to call a function.
_OPEN, _CLOSED, _UP = Phase.OPEN, Phase.CLOSED, Link.UP

_LIVE = frozenset({Phase.OPEN, Phase.CLOSING})
_UNTIL_CLOSED = _LIVE | {Phase.PEER_CLOSED}


class SessionMachine:
    """One side of a session.

    Positions count sequenced frames, costs count bytes (payload plus `FRAME_COST` for each such
    frame); both are totals since the session began and never go back.
    """

    __slots__ = (
        "_ack_sent",
        "_ack_sent_cost",
        "_close_ack_due",
        "_close_ack_sent",
        "_close_sent",
        "_consumed_cost",
        "_control",
        "_credit_given",
        "_credit_told",
        "_dialer",
        "_extra_received",
        "_first_window",
        "_grain",
        "_mark_cost",
        "_mark_time",
        "_max_receive",
        "_most_window",
        "_parts",
        "_parts_bytes",
        "_parts_frames",
        "_parts_since",
        "_ping_due",
        "_ping_time",
        "_ping_token",
        "_pongs",
        "_recv_cost",
        "_recv_next",
        "_starved",
        "aborted",
        "asked_at",
        "budget",
        "controls",
        "epoch",
        "last_ack",
        "last_message",
        "last_received",
        "link",
        "min_rtt",
        "outbox",
        "phase",
        "refusal",
        "rtt",
        "session_id",
        "window",
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
        self.session_id = session_id
        self.phase = Phase.OPEN
        self.link = link
        self._dialer = link is Link.OPENING
        self.epoch = 0
        self.refusal: WelcomeStatus | None = None
        """Why the listener would not open or resume the session; None while it has not refused."""
        self.aborted = False
        """Whether the peer has given the session up."""
        self.rtt: float | None = None
        """Smoothed round-trip time in seconds (RFC 6298, alpha 1/8); None before the first PONG."""
        self.min_rtt: float | None = None
        self.last_received = now
        """When bytes last arrived, by the owner's clock: a part of a record is a sign of life."""
        self.last_ack = now
        """When the peer last told what it has received: so long ago our bytes certainly moved."""
        self.last_message: float | None = None
        """When a message last arrived, or was last handed to a connection; None before the first.
        For its owner to set when it sends."""
        self.asked_at = now
        """When the last PING was sent, or the session began."""
        self._max_receive = config.max_message_bytes
        self.budget = budget
        """What it has of its node's; for the owner to tie to itself and to give back."""
        self.outbox = Outbox(
            config, peer_max_message=peer_max_message, credit=peer_credit, lender=budget
        )
        """What was accepted for sending. Its owner calls its `Outbox.send`, and may look."""
        self._close_sent = False  # these three: on the present connection
        self._close_ack_due = False
        self._close_ack_sent = False

        # Receiving: recv_cost >= consumed_cost, and recv_cost <= credit_given.
        self._most_window = config.receive_window_bytes
        self._first_window = budget.first_window
        self.window = min(self._first_window, self._most_window)
        """How far the peer may be ahead of the application, in bytes: small at first; it grows
        with what the application consumes, and shrinks when the node has no room for it."""
        self._grain = 0  # credit is given when there is more to give than this
        self._mark_cost = 0  # what was received when the window was last considered, and when
        self._mark_time = now
        self._starved = False  # whether there was no room for credit; until `retry`
        self._recv_next = 0
        self._recv_cost = 0
        self._consumed_cost = 0
        self._ack_sent = 0
        self._ack_sent_cost = 0
        self._credit_given = self._credit_told = self.window
        self._parts: list[bytes] | None = None  # of a message that has begun and not ended
        self._parts_bytes = 0
        self._parts_frames = 0
        self._parts_since = now
        self._extra_received = 0

        self._control: list[bytes] = []  # encoded frames to go out first
        self._pongs = 0
        self.controls = controls or Controls(now)
        """What the peer has sent that brings nothing; shared by all of its sessions."""
        self._ping_token = 0
        self._ping_due = False
        self._ping_time: float | None = None  # when the unanswered PING was sent

    # ------------------------------------------------------------------ sending

    @property
    def output_due(self) -> bool:
        """Whether `data_to_send` should be taken now rather than in a while."""
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

    def _credit_gained(self) -> int:
        """Return how much more than it knows the peer may send, if the node has room for it."""
        if self._starved:
            return self._credit_given - self._credit_told
        goal = self._consumed_cost + self.window
        if self._parts is not None:
            return max(goal, self._credit_needed()) - self._credit_told
        gained = goal - self._credit_told
        return gained if gained > self._grain else 0

    def _credit_needed(self) -> int:
        """Return what the peer needs in all to go on with the message that has begun.

        That is a first window ahead of its parts, which the application cannot consume yet, but no
        more than what is missing can cost, and all of it no more than the longest message: that
        much is kept for a message that has begun. A peer that cuts it into smaller parts has to
        live with the window, lest it holds for ever what others need to end theirs.
        """
        missing = longest_cost(self._max_receive - self._parts_bytes)
        left = longest_cost(self._max_receive) - self._parts_bytes - self._parts_frames * FRAME_COST
        goal = self._recv_cost + min(self._first_window, missing, left)
        return min(goal, self._consumed_cost + self._most_window)

    def _give_credit(self) -> None:
        """Let the peer send more, as far as the node has room."""
        needed = 0
        wanted = self._consumed_cost + self.window - self._credit_given
        if self._parts is not None:
            needed = max(0, self._credit_needed() - self._credit_given)
            wanted = max(wanted, needed)
        if wanted <= 0:
            return
        promised = self.committed
        granted = self.budget.grant(promised, wanted, needed)
        self._credit_given += granted
        if granted == wanted:
            return
        promised += granted
        if granted < needed or promised < self._first_window:
            self._starved = True
            self.budget.wait()
        else:
            self._set_window(promised)

    def _set_window(self, window: int) -> None:
        self.window = window
        # Of a small one the peer may need every byte to send a frame.
        self._grain = window // CREDIT_SHARE if window >= 2 * self._first_window else 0

    def _consider_window(self) -> None:
        """Let the window grow if the application has received one quickly."""
        received = self._consumed_cost - self.budget.in_inbox
        if received - self._mark_cost < self.window:
            return
        if self.last_received - self._mark_time <= max(GROWTH_SECONDS, 2 * (self.rtt or 0)):
            self._set_window(min(2 * self.window, self._most_window))
        self._mark_cost = received
        self._mark_time = self.last_received

    def retry(self) -> None:
        """Ask for credit again: there may be room now."""
        if self._starved:
            self._starved = False
            self._give_credit()

    def _close_due(self) -> bool:
        return self.phase is Phase.CLOSING and not self._close_sent and not self.outbox.pending

    def _ack_due(self) -> bool:
        if self._close_sent:
            return False
        if (self._recv_cost - self._ack_sent_cost) * ACK_SHARE >= self.window:
            return True
        # A sender that has used most of its credit must hear of new credit without delay.
        running_dry = (self._credit_told - self._recv_cost) * 2 < self.window
        return running_dry and self._credit_gained() > 0

    def data_to_send(self, budget: int) -> list[bytes | memoryview]:
        """Return buffers to be sent, in order, as the plaintext of the next records.

        Stops taking messages once they exceed ``budget`` bytes, so that a connection that is
        written to in turns is asked again. Empty if there is nothing to send or no connection.
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
        if self._ping_due:  # behind the messages: the PONG brings their acknowledgement along
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
        """Take a record's frames, if it completes any; return the messages that they complete.

        Raises:
            STTProtocolError: The peer sent what it may not send in this phase, or contradicts
                what it said before. The session must be ended.
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
        freed = self._consumed_cost - before[2]
        if freed:  # only now: a record that is refused later on gives nothing back
            self._consumed_cost = before[2]
            self._consume(freed)
        if messages:
            self.last_message = now
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
            if kind is not list and kind is not Part:
                self.controls.add(now)

    def _on_data(self, run: list[bytes], messages: list[bytes], _now: float) -> None:
        if self._max_receive < MAX_DATA_BYTES:
            self._check_message_size(max(map(len, run)))
        if self._parts is not None:
            self._check_message_size(self._parts_bytes + len(run[0]))
        self._count_received(sum(map(len, run)), len(run))
        if self._parts is not None:
            self._parts.append(run[0])
            run = [b"".join(self._parts), *run[1:]]
            # The application consumes one message: what its other frames cost is given back.
            self._consumed_cost += self._parts_frames * FRAME_COST
            self._extra_received += self._parts_frames
            self._parts = None
            self.budget.finished()
            self._parts_bytes = self._parts_frames = 0
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

    def _check_message_size(self, size: int) -> None:
        if size > self._max_receive:
            raise STTLimitError(f"a message longer than max_message_bytes ({self._max_receive})")

    def _count_received(self, size: int, count: int) -> None:
        cost = self._recv_cost + size + count * FRAME_COST
        if cost > self._credit_given:
            raise STTLimitError(f"{cost - self._credit_given} bytes beyond the credit")
        self._recv_cost = cost
        self._recv_next += count
        self.controls.count -= count

    @property
    def stuck_since(self) -> float | None:
        """Since when a message that is not complete has not got on, though the peer had credit.

        None without one.
        """
        return None if self._parts is None or self._starved else self._parts_since

    @property
    def committed(self) -> int:
        """What the node keeps for the peer: `promised_cost` and `held_cost`."""
        return self._credit_given - self._consumed_cost

    @property
    def promised_cost(self) -> int:
        """Bytes that the peer may still send with the credit that it has."""
        return self._credit_given - self._recv_cost

    @property
    def held_cost(self) -> int:
        """Bytes received and not yet consumed, unfinished messages included."""
        return self._recv_cost - self._consumed_cost

    def consumed(self, size: int, count: int) -> None:
        """Report that the application has taken ``count`` messages of ``size`` bytes in all."""
        self._consume(size + count * FRAME_COST)

    def _consume(self, cost: int) -> None:
        beyond = self._credit_given - self._consumed_cost - self._first_window
        self._consumed_cost += cost
        if beyond > 0:
            self.budget.release(min(cost, beyond))

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
        """Let go of the frames below ``recv_next``."""
        self.controls.count -= self.outbox.acknowledge(recv_next, credit)

    # ---------------------------------------------------------------- liveness

    def ping(self, now: float) -> None:
        """Ask the peer for a PONG, to measure the round trip or to see whether it lives.

        Does nothing while an earlier PING is unanswered or there is no connection.
        """
        if self.link is Link.UP and self._ping_time is None:
            self._ping_token += 1
            self._ping_time = self.asked_at = now
            self._ping_due = True

    def reassure(self) -> None:
        """Tell the peer that its bytes arrive, although they complete nothing yet.

        It hears nothing else meanwhile: it waits for the acknowledgement, and its PING waits behind
        those bytes.
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
        self.rtt = sample if self.rtt is None else self.rtt + (sample - self.rtt) / 8
        self.min_rtt = sample if self.min_rtt is None else min(self.min_rtt, sample)

    def _on_pad(self, _pad: Pad, _messages: list[bytes], _now: float) -> None:
        """Do nothing."""

    # ------------------------------------------------------- connections and close

    def detach(self) -> None:
        """Note that the connection has ended. Frames that were half received are forgotten.

        For a listener, a session that the peer has closed, and all of whose messages it has, is
        over: should our CLOSE_ACK be lost, the dialer comes back and hears that it has ended. A
        dialer must come back, for its listener cannot.
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
        self._close_sent = self._close_ack_due = self._close_ack_sent = False

    def reopening(self) -> tuple[int, int, int]:
        """Begin to resume over a new connection (dialer).

        Return the epoch, position and credit that the opening must carry. From here on the old
        connection must not be read any more.
        """
        self.link = Link.OPENING
        self.refusal = None
        self.epoch += 1
        self._note_ack()
        return self.epoch, self._recv_next, self._credit_given

    def resume(self, epoch: int, recv_next: int, credit: int) -> None:
        """Go on over a new connection, whose dialer sent this opening (listener).

        From here on the old connection must not be read any more.

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
            # The listener holds the session for established when it hears from us.
            self._note_ack()
            self._control.append(Ack(self._ack_sent, self._credit_given).encode())
            return
        self.refusal = welcome.status
        if welcome.status is WelcomeStatus.ENDED:
            self._acknowledge(welcome.recv_next, self.outbox.credit)
            self.outbox.presume_lost()
        if welcome.status is WelcomeStatus.REFUSED:
            return  # for now; the session may still be there
        if self.outbox.empty:
            self._enter(Phase.CLOSED)  # all arrived: as good as an acknowledged close

    def _enter(self, phase: Phase) -> None:
        """Go on to a later phase, in which no more messages are accepted."""
        self.phase = phase
        self.outbox.closed = True

    def close(self) -> None:
        """Accept no more messages; deliver those accepted, then end. Does nothing when closing."""
        if self.phase is Phase.OPEN:
            self._enter(Phase.CLOSING)
            # The peer gets no more credit after CLOSE, and is to deliver what it has accepted.
            self.window = self._most_window
            self._grain = 0

    def _on_close(self, close: Close, _messages: list[bytes], _now: float) -> None:
        if close.final != self._recv_next or self._parts is not None:
            raise STTProtocolError(
                f"a CLOSE at frame {close.final}, when {self._recv_next} had arrived"
            )
        if self._close_ack_due or self._close_ack_sent:
            raise STTProtocolError("a second CLOSE on one connection")
        if not self._close_sent:  # else both sides close at once: each waits for its own CLOSE_ACK
            self._enter(Phase.PEER_CLOSED)
        self._close_ack_due = True  # goes out behind the messages for which there is credit

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
        """Return the frames that tell the peer that the session is given up, which is to follow."""
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
        """How many sequenced frames have certainly got across, in both directions together."""
        return self.outbox.acked + self._recv_next

    @property
    def position(self) -> int:
        """How many sequenced frames were received in all: what a tombstone must remember."""
        return self._recv_next

    # -------------------------------------------------------------------- counts

    @property
    def messages_received(self) -> int:
        """Messages received since the session began, one that has only begun not counted."""
        return self._recv_next - self._extra_received - self._parts_frames

    @property
    def bytes_received(self) -> int:
        """Their bytes."""
        return self._recv_cost - self._recv_next * FRAME_COST - self._parts_bytes

    _RULES: ClassVar[dict[type, tuple[Callable[..., None], frozenset[Phase], Link | None]]] = {
        list: (_on_data, _LIVE, Link.UP),
        Part: (_on_part, _LIVE, Link.UP),
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
