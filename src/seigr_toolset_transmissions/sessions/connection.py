"""An established connection: joins one session to one transport through one secure channel.

It holds what a session loses with each connection: the ciphers, the half-received frame, and
whether the transport takes bytes. It always reads, even while the application consumes nothing.
Credit bounds what a peer may send, so acknowledgements and PONGs never wait behind messages.

After `Connection.drop`, nothing that still arrives reaches the session. Resuming relies on this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ..errors import STTProtocolError
from ..protocol.frames import FrameDecoder
from ..protocol.outbox import FIRST_PART_BYTES
from ..protocol.records import seal, unseal

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from ..protocol.machine import SessionMachine
    from ..protocol.noise import Channel
    from ..transports.base import Address, Transport
    from .loop_time import LoopTime

__all__ = ["CLOSE_SECONDS", "Connection", "ConnectionUser", "FlushTurn"]

FIRST_WRITE_BYTES = 4 * 1024
WRITE_BYTES = 256 * 1024
"""The most that is taken from a session for one write: a few records, so that there are few system
calls and little ciphertext in memory. The first writes of a connection are smaller, each twice as
large as the one before, because a record that is cut off is lost as a whole. If the session has
lost a connection before, they begin at `outbox.FIRST_PART_BYTES`, as its frames do, so that it
makes progress over any link."""

TURN_SECONDS = 0.001
"""A message that comes longer than this after the last write goes out at once: it is on its own."""

MANY_FRAMES = 64
FRAME_BYTES = 2048
"""A connection reads this many frames, however small, before it asks whether it has time for more.
`FRAME_BYTES` of them count as one more frame, so the limit is two records of the largest size. A
peer that sends little is read from in every turn of the loop."""

CLOSE_SECONDS = 5.0
"""How long an ended connection may take to send its last bytes before it is aborted."""


class ConnectionUser(Protocol):
    """What a connection reports to: the live session."""

    @property
    def machine(self) -> SessionMachine:
        """The session's state."""

    def messages_arrived(self, messages: list[bytes]) -> None:
        """Take messages, in order. `progressed` follows, and acts on all else."""

    def progressed(self) -> None:
        """Look at the machine again: bytes from the peer have changed it."""

    def connection_ended(self, connection: Connection, cause: Exception | None) -> None:
        """Note that the connection has ended, or that its peer broke the protocol (``cause``)."""


class FlushTurn:
    """Batches what the connections of one event loop write in one turn of it.

    The first message goes out at once, so that a lone one does not wait; what follows in the same
    turn goes out together at its end. Reading begins a turn too, so that answering a message needs
    no callback at the end of the turn, which would cost as much as sending does. For the same
    reason nothing notices the end of a turn with one message: it counts as over after
    `TURN_SECONDS`.

    Attributes:
        number: The number of the present turn.
        reassure_after: After this many seconds, a peer whose record or frame arrives bit by bit,
            and that has heard nothing in the meantime, gets a sign of life.

    """

    __slots__ = ("_loop", "_waiting", "number", "reassure_after")

    def __init__(self, loop: asyncio.AbstractEventLoop, reassure_after: float = 5.0) -> None:
        self._loop = loop
        self.reassure_after: float = reassure_after
        self._waiting: list[Connection] = []  # if there are any, the turn's end is asked for
        self.number: int = 0

    def add(self, connection: Connection) -> None:
        """Flush the connection at the end of the turn."""
        if not self._waiting:
            self._loop.call_soon(self._end)
        self._waiting.append(connection)

    def _end(self) -> None:
        self.number += 1
        waiting, self._waiting = self._waiting, []
        for connection in waiting:
            connection.flush()


class Connection:
    """A `Receiver` for the time after the handshake; ``gone`` is called when its transport ends."""

    __slots__ = (
        "_ack_timer",
        "_budget",
        "_close_timer",
        "_decoder",
        "_flushed_at",
        "_flushed_in",
        "_gone",
        "_loop",
        "_receive_cipher",
        "_send_cipher",
        "_time",
        "_transport",
        "_turn",
        "_user",
        "_waiting",
        "flushing",
        "stalled_since",
    )

    def __init__(
        self,
        transport: Transport,
        channel: Channel,
        user: ConnectionUser,
        loop: asyncio.AbstractEventLoop,
        turn: FlushTurn,
        time: LoopTime,
        gone: Callable[[Connection], None],
    ) -> None:
        self._transport = transport
        self._send_cipher = channel.send_cipher
        self._receive_cipher = channel.receive_cipher
        self._user: ConnectionUser | None = user
        self._loop = loop
        self._decoder = FrameDecoder()
        self._budget = FIRST_PART_BYTES if user.machine.epoch else FIRST_WRITE_BYTES
        self._turn = turn
        self._time = time
        self._flushed_in = -1  # the number of the turn of the last write by `flush_soon`
        self._flushed_at = 0.0  # when `flush` last wrote, by the loop's clock
        self.flushing: bool = False
        """Whether the end of this turn of the loop will bring a `flush`."""
        self._ack_timer = False
        self._close_timer: asyncio.TimerHandle | None = None
        self._gone = gone
        self.stalled_since: float | None = None
        """Since when the transport has taken no bytes, by the loop's clock; None while it does."""
        self._waiting = 0  # what waited in the transport then

    @property
    def peer_address(self) -> Address:
        """Where the peer is: host and port."""
        return self._transport.peer_address

    # ------------------------------------------------------------------ sending

    def flush_soon(self) -> None:
        """Write what is due: at once, or at the end of this turn of the loop if it has written."""
        turn = self._turn
        if self._flushed_in != turn.number or (
            not self.flushing and self._loop.time() - self._flushed_at > TURN_SECONDS
        ):
            self._flushed_in = turn.number
            self.flush()
        elif not self.flushing:
            self.flushing = True
            turn.add(self)

    def flush(self) -> None:
        """Write what is due, as long as the transport takes it."""
        self.flushing = False
        user = self._user
        if user is None:
            return
        machine = user.machine
        outbox = machine.outbox
        while self.stalled_since is None:
            first = outbox.pending[0] if outbox.pending else None
            buffers = machine.data_to_send(self._budget)
            if not buffers:
                return
            self._transport.write(seal(self._send_cipher, buffers))
            self._flushed_at = self._loop.time()
            if first is not None and not (outbox.pending and outbox.pending[0] is first):
                machine.last_message = self._flushed_at
            if self._budget < WRITE_BYTES:
                self._budget *= 2
            if not outbox.pending:
                return

    def acknowledge_later(self, delay: float) -> None:
        """Send an acknowledgement after ``delay`` seconds, unless it goes out with others before.

        One timer serves all messages that arrive before it fires.
        """
        if not self._ack_timer:
            self._ack_timer = True
            self._loop.call_later(delay, self._acknowledge)

    def _acknowledge(self) -> None:
        self._ack_timer = False
        if self._user is not None and self._user.machine.ack_owed:
            self.flush()

    # ------------------------------------------------- what the transport calls

    def connection_made(self, transport: Transport) -> None:
        """Never called: the handshake's receiver has had this call."""

    def bytes_received(self, data: memoryview) -> int:
        """Take as many whole records as there is time for; the rest is presented again."""
        user = self._user
        if user is None:
            return len(data)
        self._turn.number += 1
        machine = user.machine
        now = self._loop.time()
        end = len(data)
        done = count = 0
        try:
            while record := unseal(self._receive_cipher, data, done):
                plaintext, done = record
                # A record is a sign of life even if it completes no frame.
                frames = self._decoder.feed(plaintext)
                messages = machine.receive(frames, now)
                if messages:
                    user.messages_arrived(messages)
                if done == end:  # usually
                    break
                count += (len(frames) or 1) + len(plaintext) // FRAME_BYTES
                del record, plaintext, frames, messages  # the next record uses their memory
                if count >= MANY_FRAMES:
                    count = 0
                    if self._time.until() is None:
                        self._transport.pause_reading()
                        self._time.queue(self._transport.resume_reading)
                        break
        except STTProtocolError as error:
            self.drop()
            user.connection_ended(self, error)
            return len(data)
        if done == 0:
            machine.moves(now)
        user.progressed()
        if now - self._flushed_at >= self._turn.reassure_after and (
            done < end or self._decoder.midway
        ):
            machine.reassure()
            self.flush()
        return done

    def pause_writing(self) -> None:
        """Keep what is due in the session until the transport takes bytes again."""
        self.stalled_since = self._loop.time()
        self._waiting = self._transport.waiting

    def stalled(self, now: float) -> float | None:
        """Return since when the transport has accepted no bytes and sent none of those that wait.

        Progress since the last call counts as made now. None while it accepts bytes.
        """
        if self.stalled_since is not None:
            waiting = self._transport.waiting
            if waiting < self._waiting:
                self._waiting = waiting
                self.stalled_since = now
        return self.stalled_since

    def resume_writing(self) -> None:
        """Go on."""
        self.stalled_since = None
        self.flush()

    def connection_lost(self, cause: Exception | None) -> None:
        """Tell the session, unless it has let go of this connection."""
        user, self._user = self._user, None
        if self._close_timer is not None:
            self._close_timer.cancel()
        self._gone(self)
        if user is not None:
            user.connection_ended(self, cause)

    # ------------------------------------------------------------------- ending

    def drop(self) -> None:
        """Let go of the session and of the transport, at once. May be called twice."""
        self._user = None
        self._transport.abort()

    def finish(self, last: Sequence[bytes] = ()) -> None:
        """Let go of the session; send what was written, and end within `CLOSE_SECONDS`.

        Args:
            last: Frames to send behind all others.

        """
        self._user = None
        if last:
            self._transport.write(seal(self._send_cipher, last))
        self._transport.close()
        self._close_timer = self._loop.call_later(CLOSE_SECONDS, self._transport.abort)
