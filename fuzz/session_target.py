"""The session target: a careless application, and a peer that writes what it likes.

The input is a list of steps. The owner of the machine keeps to the verbs that `session` documents,
in any order that they allow; the peer's frames are nearly right, so that they come through to the
session's rules, or bytes taken from the input. A model beside the machine knows what must hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from seigr_toolset_transmissions.config import NodeConfig
from seigr_toolset_transmissions.errors import (
    STTMessageSizeError,
    STTProtocolError,
    STTSessionClosedError,
)
from seigr_toolset_transmissions.frames import (
    Abort,
    Ack,
    Close,
    CloseAck,
    Frame,
    FrameDecoder,
    Pad,
    Part,
    Ping,
    Pong,
    Welcome,
    WelcomeStatus,
    encode_data,
    encode_part,
)
from seigr_toolset_transmissions.outbox import FRAME_COST
from seigr_toolset_transmissions.phase import Link, Phase
from seigr_toolset_transmissions.session import SessionMachine

from .reader import Reader

if TYPE_CHECKING:
    from seigr_toolset_transmissions.budget import Waiter

__all__ = ["session"]

_SHORT = NodeConfig(
    max_message_bytes=300, send_window_bytes=900, send_window_messages=6, receive_window_bytes=700
)
_LONG = NodeConfig(  # its messages may go in parts
    max_message_bytes=150_000, send_window_bytes=400_000, receive_window_bytes=300_000
)
_MOST_STEPS = 200
_MOST_CUTS = 12
"""How many more frames what waits can take after a cut than before."""

_PHASES = list(Phase)


def session(data: bytes) -> None:
    """Take the steps that the input holds, and compare the machine with the model after each."""
    source = Reader(data)
    run = _Run(source)
    for _ in range(_MOST_STEPS):
        if not source or run.over:
            break
        run.step()
    run.end()


class _Budget:
    """The node's budget as a session sees it, with so much room beyond what each session has."""

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
        """What the peer has granted in all."""
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
        self.accepted: list[bytes] = []  # messages
        self.out: list[tuple[bool, bytes]] = []  # by position: whether it is a part, and its bytes
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
        )
        steps[self.source.byte() % len(steps)]()
        self.check()

    def frames_arrive(self) -> None:
        """Let one record arrive, with some frames of the peer's."""
        count = self.source.byte() % 4
        self.arrive(b"".join(self.frame() for _ in range(count)))

    def bytes_arrive(self) -> None:
        """Let bytes of the input arrive, be they a frame or not."""
        self.arrive(self.source.take(self.source.byte()))

    def application_sends(self) -> None:
        """Send a message."""
        size = self.source.byte() * (2 * self.unit + 100)
        message = (b"%d " % len(self.accepted) * size)[:size]
        try:
            if self.machine.outbox.send(message):
                self.accepted.append(message)
        except STTMessageSizeError:
            assert size > self.config.max_message_bytes // 2
        except STTSessionClosedError:
            assert self.machine.phase is not Phase.OPEN

    def connection_writes(self) -> None:
        """Take what is to be sent; the peer reads it."""
        machine = self.machine
        due = machine.output_due
        output = b"".join(machine.data_to_send(1 + self.source.byte() * self.unit))
        assert output or not due, "output is due, and there is none"
        decoder = FrameDecoder()
        for frame in decoder.feed(output):
            if isinstance(frame, list):
                for payload in frame:
                    self.comes_out(False, payload)
            elif isinstance(frame, Part):
                self.comes_out(True, b"".join(frame.pieces))
            elif isinstance(frame, Ping):
                self.tokens = frame.token
            elif isinstance(frame, Close | CloseAck):
                assert frame.final == len(self.out)
        assert not decoder.midway

    def comes_out(self, is_part: bool, payload: bytes) -> None:
        """Note a sequenced frame: sent again, in this or others, it is the same; with credit."""
        begun, number = b"", 0
        for before_is_part, before in self.out:
            begun = begun + before if before_is_part else b""
            number += not before_is_part
        begun += payload
        message = self.accepted[number]
        assert message.startswith(begun) if is_part else message == begun, "not what was accepted"
        self.out.append((is_part, payload))
        cost = sum(len(payload) + FRAME_COST for _, payload in self.out)
        assert cost <= self.credit, "sent beyond the credit"

    def application_consumes(self) -> None:
        """Take some of the messages that wait."""
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
        """Reopen what the dialer has lost; a listener may be resumed before it notices the loss."""
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
        """Forget what was sent and not accepted: it comes again, perhaps in other frames."""
        del self.out[self.machine.outbox.acked :]

    def budget_changes(self) -> None:
        """Let the node's other sessions fill its budget, or empty it."""
        self.budget.room = self.source.byte() << 12
        self.machine.retry()

    # ------------------------------------------------------------ the peer's frames

    def frame(self) -> bytes:
        """Return a frame that is right, or wrong by little."""
        source = self.source
        kind = source.byte() % 10
        if kind == 0:
            return b"".join(encode_data([bytes(source.byte() * self.unit)]))
        if kind == 1:
            size = source.byte() * self.unit
            return encode_part(size) + bytes(size)
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
        return (8 << 28 | 3).to_bytes(4) + bytes(3)  # PAD

    def acknowledgement(self) -> tuple[int, int]:
        """Return a position and a credit: mostly further than the last ones."""
        further = self.source.byte()
        recv_next = self.machine.outbox.acked + (further & 15) - (further >> 4 == 1)
        more = self.source.byte()
        credit = self.credit + more * self.unit - (more == 1) * 3 * self.unit
        return max(recv_next, 0), max(credit, 0)

    def arrive(self, plaintext: bytes) -> None:
        """Hand a record to the machine as a connection does; the model reads it, too."""
        machine = self.machine
        if machine.link is Link.DOWN:
            return
        was_opening = machine.link is Link.OPENING
        before = machine.position
        try:
            frames = self.decoder.feed(plaintext)
            expected = self.model(frames)
            messages = machine.receive(frames, self.now)
        except STTProtocolError:
            assert machine.position == before
            self.over = True
            return
        if machine.phase is not Phase.CLOSED:  # else it ignores the rest
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
            elif isinstance(frame, Ack) or (
                isinstance(frame, Welcome) and frame.status is WelcomeStatus.ACCEPTED
            ):
                self.credit = max(self.credit, frame.credit)
            else:
                assert isinstance(frame, Ping | Pong | Close | CloseAck | Abort | Welcome | Pad)
        return messages

    # ------------------------------------------------------------------ what must hold

    def read_counts(self) -> tuple[int | float, ...]:
        """Return all that only grows."""
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
        assert all(old <= new for old, new in pairs), "a count has gone back"
        assert machine.outbox.acked <= machine.outbox.accepted
        most = self.config.send_window_bytes + _MOST_CUTS * FRAME_COST
        assert 0 <= machine.outbox.unacked_cost <= most
        assert machine.outbox.messages_sent == len(self.accepted)
        assert machine.outbox.bytes_sent == sum(map(len, self.accepted))
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
        """End the session: what was not acknowledged is reported, in order."""
        all_acked = self.machine.outbox.acked == self.machine.outbox.accepted
        unsent, unknown = self.machine.abandon()
        self.over = True
        reported = [*unknown, *unsent]
        assert reported == self.accepted[len(self.accepted) - len(reported) :]
        assert bool(reported) != all_acked or not self.accepted
        assert self.machine.promised_cost == self.budget.lent == 0
        self.check()
