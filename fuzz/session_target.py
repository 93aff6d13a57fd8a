"""The session target: a careless application, and a peer that writes whatever it likes.

The input is a list of steps. The owner of the machine uses the documented verbs in any order that
they allow. The peer's frames are nearly right, so that they get as far as the session's rules, or
are bytes taken from the input. A model runs alongside the machine and knows what must hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from seigr_toolset_transmissions.config import NodeConfig
from seigr_toolset_transmissions.errors import (
    STTMessageSizeError,
    STTProtocolError,
    STTSessionClosedError,
)
from seigr_toolset_transmissions.protocol.exchanges import REQUEST_BYTES, ReplyStatus
from seigr_toolset_transmissions.protocol.frames import (
    Abort,
    Ack,
    Cancel,
    Close,
    CloseAck,
    Frame,
    FrameDecoder,
    FrameType,
    Pad,
    Part,
    Ping,
    Pong,
    ReplyEnd,
    RequestEnd,
    Welcome,
    WelcomeStatus,
    encode_data,
    encode_header,
)
from seigr_toolset_transmissions.protocol.machine import SessionMachine
from seigr_toolset_transmissions.protocol.outbox import FRAME_COST
from seigr_toolset_transmissions.protocol.phase import Link, Phase

from .reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from seigr_toolset_transmissions.protocol.budget import Waiter

__all__ = ["session"]

_SHORT = NodeConfig(
    max_message_bytes=300, send_window_bytes=900, send_window_messages=6, receive_window_bytes=700
)
_LONG = NodeConfig(  # its messages may be split into parts
    max_message_bytes=150_000, send_window_bytes=400_000, receive_window_bytes=300_000
)
_MOST_STEPS = 200
_MOST_CUTS = 12
"""How many more frames the waiting messages may take after a cut than before it."""

_PHASES = list(Phase)


def session(data: bytes) -> None:
    """Take the steps in the input, and compare the machine with the model after each."""
    source = Reader(data)
    run = _Run(source)
    for _ in range(_MOST_STEPS):
        if not source or run.over:
            break
        run.step()
    run.end()


class _Budget:
    """The node's budget as a session sees it, with a variable amount of spare room."""

    def __init__(self, first: int) -> None:
        self.owner: Waiter | None = None
        self.first_window = self.first_send = first
        self.in_inbox = 0
        self.room = 1 << 20
        self.granted = 0  # beyond the first window, and not released
        self.lent = 0

    def grant(self, promised: int, wanted: int, needed: int) -> int:
        assert wanted > 0
        assert 0 <= needed <= wanted
        granted = max(min(wanted, self.first_window - promised), min(wanted, self.room))
        before, after = promised - self.first_window, promised + granted - self.first_window
        assert self.granted == max(0, before)
        self.granted = max(0, after)
        return granted

    def finished(self) -> None:
        """Nobody else waits."""

    def release(self, cost: int) -> None:
        assert 0 <= cost <= self.granted
        self.granted -= cost

    def lend(self, over: int, wanted: int, *, alone: bool) -> bool:
        assert over == self.lent
        assert wanted > 0
        if wanted > self.room and not alone:
            return False
        self.lent += wanted
        return True

    def give_back(self, size: int) -> None:
        assert 0 <= size <= self.lent
        self.lent -= size

    def wait(self) -> None:
        """Wait for the step `budget_changes`."""

    def leave(self) -> None:
        """Never called by a machine."""


class _Run:
    """A machine, its owner, its peer, and the model."""

    def __init__(self, source: Reader) -> None:
        choices = source.byte()
        self.source = source
        self.dials = bool(choices & 1)
        self.config = _LONG if choices & 2 else _SHORT
        self.unit = 257 if choices & 2 else 2
        self.now = 1.0
        self.over = False
        self.budget = _Budget(1 << 30 if choices & 8 else 100 * self.unit)
        self.credit = 0 if self.dials else source.byte() * self.unit
        """The total credit that the peer has granted."""
        self.machine = SessionMachine(
            bytes(16),
            self.config,
            link=Link.OPENING if self.dials else Link.UP,
            peer_max_message=self.config.max_message_bytes // (2 if choices & 4 else 1),
            peer_credit=self.credit,
            budget=self.budget,
            now=self.now,
        )
        if not self.dials:
            self.machine.welcome()
        self.decoder = FrameDecoder()
        self.tokens = 0  # of the last PING that came out
        self.accepted: list[tuple[FrameType, bytes]] = []  # messages, and what their last frame is
        self.out: list[tuple[FrameType, bytes]] = []  # by position
        self.tickets: set[int] = set()  # requests whose outcome is to come; each is its id
        self.given_up: set[int] = set()  # those that were cancelled
        self.received: list[int] = []  # by id, the lengths of the peer's requests
        self.requests: list[int] = []  # of the peer: those without a reply
        self.waiting: list[int] = []  # sizes of messages that the application has not consumed
        self.begun: list[bytes] | None = None  # parts of the message that is arriving
        self.counts = self.read_counts()

    # ------------------------------------------------------------------ the steps

    def step(self) -> None:
        """Take one step, and check what must hold after each."""
        steps = (
            self.frames_arrive,
            self.bytes_arrive,
            self.application_sends,
            self.connection_writes,
            self.application_consumes,
            self.ping,
            self.machine.close,
            self.time_passes,
            self.connection_breaks,
            self.connection_is_back,
            self.budget_changes,
            self.application_asks,
            self.application_answers,
            self.application_cancels,
        )
        steps[self.source.byte() % len(steps)]()
        self.check()

    def frames_arrive(self) -> None:
        """Let one record arrive, with some of the peer's frames."""
        count = self.source.byte() % 4
        self.arrive(b"".join(self.frame() for _ in range(count)))

    def bytes_arrive(self) -> None:
        """Let bytes of the input arrive, whether they form a frame or not."""
        self.arrive(self.source.take(self.source.byte()))

    def application_sends(self) -> None:
        """Send a message."""
        message = self.data()
        self.accepts(FrameType.DATA, message, lambda: self.machine.outbox.send(message))

    def application_asks(self) -> None:
        """Send a request."""
        books, data = self.machine.exchange(), self.data()
        request_id = books.asked
        message = request_id.to_bytes(8) + data
        if self.accepts(FrameType.REQUEST, message, lambda: books.ask(data, request_id)):
            self.tickets.add(request_id)

    def application_answers(self) -> None:
        """Send a reply."""
        if self.requests:
            books, data = self.machine.exchange(), self.data()
            request_id = self.requests[self.source.byte() % len(self.requests)]
            message = request_id.to_bytes(8) + b"\0" + data
            if self.accepts(
                FrameType.REPLY, message, lambda: books.answer(request_id, ReplyStatus.OK, data)
            ):
                self.requests.remove(request_id)

    def application_cancels(self) -> None:
        """Give a request up."""
        if self.tickets:
            request_id = min(self.tickets)
            assert self.machine.exchange().cancel(request_id) == request_id
            self.tickets.remove(request_id)
            self.given_up.add(request_id)
            self.machine.tell_cancels()

    def data(self) -> bytes:
        size = self.source.byte() * (2 * self.unit + 100)
        return (b"%d " % len(self.accepted) * size)[:size]

    def accepts(self, kind: FrameType, message: bytes, send: Callable[[], int]) -> bool:
        """Return whether the machine accepts a message; it may only decline it for a reason."""
        try:
            if not send():
                return False
        except STTMessageSizeError:
            assert len(message) > self.config.max_message_bytes // 2
            return False
        except STTSessionClosedError:
            assert self.machine.phase is not Phase.OPEN
            return False
        self.accepted.append((kind, message))
        return True

    def connection_writes(self) -> None:
        """Take the pending output; the peer reads it."""
        machine = self.machine
        due = machine.output_due
        output = b"".join(machine.data_to_send(1 + self.source.byte() * self.unit))
        assert output or not due, "output is due, and there is none"
        decoder = FrameDecoder()
        for frame in decoder.feed(output):
            if isinstance(frame, list):
                for payload in frame:
                    self.comes_out(FrameType.DATA, payload)
            elif isinstance(frame, Part):
                self.comes_out(FrameType.DATA_PART, b"".join(frame.pieces))
            elif isinstance(frame, RequestEnd):
                self.comes_out(FrameType.REQUEST, b"".join(frame.pieces))
            elif isinstance(frame, ReplyEnd):
                self.comes_out(FrameType.REPLY, b"".join(frame.pieces))
            elif isinstance(frame, Cancel):
                assert frame.request_id in self.given_up
            elif isinstance(frame, Ping):
                self.tokens = frame.token
            elif isinstance(frame, Close | CloseAck):
                assert frame.final == len(self.out)
        assert not decoder.midway

    def comes_out(self, kind: FrameType, payload: bytes) -> None:
        """Note a sequenced frame: repeats must carry the same bytes, and stay within the credit."""
        begun, number = b"", 0
        for before_kind, before in self.out:
            is_part = before_kind is FrameType.DATA_PART
            begun = begun + before if is_part else b""
            number += not is_part
        begun += payload
        last, message = self.accepted[number]
        if kind is FrameType.DATA_PART:
            assert message.startswith(begun), "not what was accepted"
        else:
            assert (last, message) == (kind, begun), "not what was accepted"
        self.out.append((kind, payload))
        cost = sum(len(payload) + FRAME_COST for _, payload in self.out)
        assert cost <= self.credit, "sent beyond the credit"

    def application_consumes(self) -> None:
        """Take some of the waiting messages."""
        count = min(self.source.byte(), len(self.waiting))
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        self.machine.consumed(sum(taken), count)

    def ping(self) -> None:
        """Ask for a sign of life."""
        self.machine.ping(self.now)

    def time_passes(self) -> None:
        """Let up to two seconds pass."""
        self.now += self.source.byte() / 128

    def connection_breaks(self) -> None:
        """Tell the machine, if there is a connection."""
        if self.machine.link is not Link.DOWN:
            self.lose_connection()

    def lose_connection(self) -> None:
        self.machine.detach()
        self.over = self.machine.phase is Phase.CLOSED

    def connection_is_back(self) -> None:
        """Resume after a loss; a listener may be resumed before it notices the loss."""
        machine = self.machine
        if self.dials:
            if machine.link is Link.DOWN:
                epoch = machine.epoch
                assert machine.reopening()[:2] == (epoch + 1, machine.position)
                self.begin_connection()
            return
        before = (machine.epoch, machine.link, machine.phase, self.read_counts())
        recv_next, credit = self.acknowledgement()
        try:
            machine.resume(machine.epoch + self.source.byte() % 3, recv_next, credit)
        except STTProtocolError:
            assert before == (machine.epoch, machine.link, machine.phase, self.read_counts())
        else:
            self.credit = credit
            self.begin_connection()

    def begin_connection(self) -> None:
        self.decoder = FrameDecoder()
        if self.machine.link is Link.UP:
            self.send_again()

    def send_again(self) -> None:
        """Forget frames that were sent and not accepted; they come again, perhaps in others."""
        del self.out[self.machine.outbox.acked :]

    def budget_changes(self) -> None:
        """Let the node's other sessions fill its budget, or empty it."""
        self.budget.room = self.source.byte() << 12
        self.machine.retry(0.0)

    # ------------------------------------------------------------ the peer's frames

    def frame(self) -> bytes:
        """Return a frame that is right, or slightly wrong."""
        source = self.source
        kind = source.byte() % 13
        if kind == 0:
            return b"".join(encode_data([bytes(source.byte() * self.unit)]))
        if kind == 1:
            size = source.byte() * self.unit
            return encode_header(FrameType.DATA_PART, size) + bytes(size)
        if kind == 2:
            return Ack(*self.acknowledgement()).encode()
        if kind == 3:
            return Ping(source.byte()).encode()
        if kind == 4:
            return Pong(max(self.tokens - source.byte() % 2, 0)).encode()
        final = max(self.machine.position + (source.byte() + 2) % 5 - 2, 0)
        if kind == 5:
            return Close(final).encode()
        if kind == 6:
            return CloseAck(final).encode()
        if kind == 9:
            return Abort(self.acknowledgement()[0]).encode()
        if kind == 7:
            status = WelcomeStatus(source.byte() % len(WelcomeStatus))
            return Welcome(status, *self.acknowledgement()).encode()
        if kind == 10:  # as a rule the next one, unless parts precede it
            head = (len(self.received) + (source.byte() % 8 == 7)).to_bytes(8)
        elif kind == 11:
            head = (source.byte() % 4).to_bytes(8) + bytes((source.byte() % 5,))
        elif kind == 12:
            return Cancel(source.byte() % 4).encode()
        else:
            return (8 << 28 | 3).to_bytes(4) + bytes(3)  # PAD
        if self.begun is not None:
            head = b""
        payload = head + bytes(source.byte() * self.unit)
        return encode_header(FrameType(kind), len(payload)) + payload

    def acknowledgement(self) -> tuple[int, int]:
        """Return a position and a credit, usually beyond the last ones."""
        further = self.source.byte()
        recv_next = self.machine.outbox.acked + (further & 15) - (further >> 4 == 1)
        more = self.source.byte()
        credit = self.credit + more * self.unit - (more == 1) * 3 * self.unit
        return max(recv_next, 0), max(credit, 0)

    def arrive(self, plaintext: bytes) -> None:
        """Hand a record to the machine as a connection does; the model reads it too."""
        machine = self.machine
        if machine.link is Link.DOWN:
            return
        was_opening = machine.link is Link.OPENING
        before = machine.position
        try:
            frames = self.decoder.feed(plaintext)
            expected = self.model(frames)
            messages = machine.receive(frames, self.now)
            self.exchanged()
        except STTProtocolError:
            assert machine.position == before
            self.over = True
            return
        if machine.phase is not Phase.CLOSED:  # otherwise it ignores the rest
            assert messages == expected
        self.waiting += map(len, messages)
        if was_opening and machine.link is Link.UP:
            self.send_again()
        if machine.refusal is not None:
            self.lose_connection()
            self.over = machine.refusal is not WelcomeStatus.REFUSED
        elif machine.phase is Phase.CLOSED:
            while machine.output_due:
                self.connection_writes()
            self.over = True

    def exchanged(self) -> None:
        """Take what the peer has asked, answered and cancelled."""
        books = self.machine.exchanges
        if books is None:
            return
        for request_id, data in books.arrived:
            assert request_id == len(self.received), "not the next request"
            self.received.append(len(data))
            self.requests.append(request_id)
            self.waiting.append(len(data) + REQUEST_BYTES)
        assert set(books.cancelled) <= set(self.requests)
        for ticket, _, _ in books.outcomes:
            self.tickets.remove(ticket)
        for taken in (books.arrived, books.cancelled, books.outcomes):
            taken.clear()

    def model(self, frames: list[Frame]) -> list[bytes]:
        """Return the messages that the frames complete, if the machine accepts them all."""
        messages: list[bytes] = []
        for frame in frames:
            if isinstance(frame, list):
                first, *others = frame
                messages += [b"".join((*(self.begun or ()), first)), *others]
                self.begun = None
            elif isinstance(frame, Part):
                self.begun = [*(self.begun or ()), *frame.pieces]
            elif isinstance(frame, RequestEnd | ReplyEnd):
                self.begun = None
            elif isinstance(frame, Ack) or (
                isinstance(frame, Welcome) and frame.status is WelcomeStatus.ACCEPTED
            ):
                self.credit = max(self.credit, frame.credit)
            else:
                assert isinstance(
                    frame, Ping | Pong | Close | CloseAck | Abort | Cancel | Welcome | Pad
                )
        return messages

    # ------------------------------------------------------------------ what must hold

    def read_counts(self) -> tuple[int | float, ...]:
        """Return everything that only ever grows."""
        machine = self.machine
        return (
            _PHASES.index(machine.phase),
            machine.epoch,
            machine.last_received,
            machine.outbox.acked,
            machine.outbox.messages_acked,
            machine.position,
            machine.outbox.messages_sent,
            machine.outbox.bytes_sent,
            machine.messages_received,
            machine.bytes_received,
        )

    def check(self) -> None:
        """Compare the machine with the model."""
        machine = self.machine
        before, self.counts = self.counts, self.read_counts()
        pairs = zip(before, self.counts, strict=True)
        assert all(old <= new for old, new in pairs), "a count has decreased"
        assert machine.outbox.acked <= machine.outbox.accepted
        most = self.config.send_window_bytes + _MOST_CUTS * FRAME_COST
        assert 0 <= machine.outbox.unacked_cost <= most
        assert machine.outbox.messages_sent == len(self.accepted)
        assert machine.outbox.bytes_sent == sum(len(message) for _, message in self.accepted)
        assert machine.rtt is None or machine.rtt >= 0
        assert machine.held_cost >= 0
        if not self.over:
            held = sum(self.waiting) + len(self.waiting) * FRAME_COST
            if self.begun is None:
                assert machine.held_cost == held
            else:
                assert machine.held_cost > held
            assert machine.held_cost + machine.promised_cost == machine.committed
            assert self.budget.granted == max(0, machine.committed - self.budget.first_window)
            assert self.begun is not None or machine.stuck_since is None
            most = self.budget.first_send + self.budget.lent + 20 * FRAME_COST
            assert machine.outbox.unacked_cost <= most  # a cut adds some frames

    def end(self) -> None:
        """End the session: messages that were not acknowledged are reported, in order."""
        acked = self.machine.outbox.messages_acked
        undelivered = self.machine.abandon()
        self.over = True
        reported = [*undelivered.unknown, *undelivered.unsent]
        assert reported == [m for kind, m in self.accepted[acked:] if kind is FrameType.DATA]
        books = self.machine.exchanges
        lost = [] if books is None else books.lose(undelivered)
        assert len(lost) == len(self.tickets)
        assert {ticket for ticket, _ in lost} == self.tickets, "not one outcome each"
        assert self.machine.promised_cost == self.budget.lent == 0
        self.check()
