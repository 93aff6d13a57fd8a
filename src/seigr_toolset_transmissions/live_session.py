"""A session as its application sees it: sending, flushing, closing, and handing on what arrives.

`Session` joins three things that know nothing of each other: the sans-I/O state in `session`, the
present `connection.Connection` (if there is one), and the application's events and inboxes, which
it reaches through its owner, the node.

Everything that the application is told about one session comes in order: that it was created, its
messages, that it was suspended or resumed, that it is closed. A `pump.Pump` hands it on, and exists
only while there is something to hand on. Messages for an inbox with room need none.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from copy import copy
from enum import StrEnum
from time import time
from typing import TYPE_CHECKING, Never, Protocol

from .errors import (
    STTAuthenticationError,
    STTEndpointError,
    STTProtocolError,
    STTSessionClosedError,
    STTSessionLostError,
    STTWindowFullError,
)
from .figures import SessionStats, Traffic
from .flushers import Flushers
from .frames import WelcomeStatus
from .payload import as_bytes
from .phase import Link, Phase
from .pump import Pump, PumpOwner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .connection import Connection
    from .pump import Step
    from .session import SessionMachine
    from .transports.base import Address

__all__ = ["Session", "SessionOwner", "SessionState"]

_PEER_CLOSED, _CLOSED = Phase.PEER_CLOSED, Phase.CLOSED  # see `session`

_FLUSH_BYTES = 64 * 1024
"""With so much to send, it goes out at once and not at the end of the loop's turn: the peer can
work meanwhile, and memory stays small."""


class SessionState(StrEnum):
    """What a session can do now."""

    OPEN = "open"
    SUSPENDED = "suspended"
    """Without a connection: messages are accepted into the window and wait."""
    CLOSING = "closing"
    """Takes no more messages; those accepted are being delivered."""
    CLOSED = "closed"


class SessionOwner(PumpOwner, Protocol):
    """What a session needs of its node."""

    def session_opened(self, session: Session) -> None:
        """Note that both sides hold the session for established."""

    def session_refused(self, session: Session, cause: Exception | None) -> None:
        """Note that the session was never opened, or that the peer will not resume it."""

    def session_suspended(self, session: Session, cause: Exception | None) -> None:
        """Note that the session lost its connection."""

    def session_unused(self, session: Session) -> None:
        """Note that the session was accepted and lost its connection before its first use."""

    def session_resumed(self, session: Session) -> None:
        """Note that the session goes on over a new connection."""

    def offended(self, session: Session, cause: STTProtocolError) -> None:
        """Note that bytes came over the connection that the peer has not written."""

    def session_closing(self, session: Session) -> None:
        """Note that the session takes no more messages."""

    def session_ended(self, session: Session, cause: Exception | None) -> None:
        """Note that the session is over; ``cause`` says why unless that is its acknowledged end."""

    def ensure_endpoint(self, session: Session) -> None:
        """Make sure that the peer is an endpoint: the user may have removed it."""

    def check_caller(self) -> None:
        """Raise RuntimeError for a caller in another event loop, or in a forked child."""

    def check_thread(self) -> None:
        """Raise RuntimeError in a forked child, and in debug mode for another thread's caller."""


class Session:
    """An ordered, lossless stream of messages with one peer. Made by `STTNode`.

    Whatever sends or waits raises RuntimeError in a forked child, and whatever waits if another
    event loop runs than the node's.

    Attributes:
        peer_node_id: The peer's authenticated identity, 32 bytes.
        peer_incarnation: 16 random bytes that the peer's process drew; another value means that
            the peer was restarted.
        dial_address: Host and port if this side dialled and dials again, else None.
        error: Why the session ended if messages may have been lost with it, else None.

    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_connection",
        "_ended",
        "_flushers",
        "_live",
        "_opened",
        "_owner",
        "_pump",
        "_resumes",
        "_senders",
        "address",
        "attempts",
        "dial_address",
        "error",
        "live_since",
        "machine",
        "peer_incarnation",
        "peer_node_id",
        "progress",
        "resumption",
    )

    def __init__(
        self,
        owner: SessionOwner,
        machine: SessionMachine,
        *,
        peer_node_id: bytes,
        peer_incarnation: bytes,
        dial_address: Address | None,
    ) -> None:
        self.machine = machine
        machine.budget.owner = self
        self.peer_node_id = peer_node_id
        self.peer_incarnation = peer_incarnation
        self.dial_address = dial_address
        self.address: Address = dial_address or ("", 0)
        """Where the peer is, or was last: host and port."""
        self.live_since = owner.loop.time()
        """Since when the peer uses the present or last connection, by the loop's clock."""
        self.attempts = 0
        """How often this side has dialled since the last connection that brought anything."""
        self.progress = 0
        """What had got across when the last connection was lost (see `SessionMachine.progress`)."""
        self.error: STTSessionLostError | None = None
        self._owner = owner
        self._connection: Connection | None = None
        self._live = False  # whether the peer has used the present connection
        self._opened = False  # whether it ever was live
        self._closed = False
        self._resumes = 0
        self.resumption: Step | None = None
        """What was told of the last one; for the owner."""
        self._senders: deque[asyncio.Future[None]] | None = None
        self._flushers: Flushers | None = None
        self._ended: asyncio.Event | None = None  # made when a task first waits for the end
        self._pump: Pump | None = None  # while there is something to hand on

    def __repr__(self) -> str:
        return (
            f"<Session {self.session_id.hex()} with {self.peer_node_id.hex()[:16]} "
            f"{self.state.value}>"
        )

    def __reduce__(self) -> Never:
        raise TypeError("Session lives in one node and can neither be pickled nor copied")

    # -------------------------------------------------------------- public facts

    @property
    def session_id(self) -> bytes:
        """16 bytes, the same on both sides."""
        return self.machine.session_id

    @property
    def state(self) -> SessionState:
        """What the session can do now."""
        if self._closed:
            return SessionState.CLOSED
        if self.machine.phase is not Phase.OPEN:
            return SessionState.CLOSING
        return SessionState.OPEN if self._live else SessionState.SUSPENDED

    @property
    def accepts(self) -> bool:
        """Whether the session takes messages: they may have to wait for a connection."""
        return self.machine.phase is Phase.OPEN

    @property
    def connected(self) -> bool:
        """Whether there is a connection at present."""
        return self._connection is not None

    @property
    def rtt(self) -> float | None:
        """Smoothed round-trip time in seconds; None before it was measured."""
        return self.machine.rtt

    @property
    def min_rtt(self) -> float | None:
        """Shortest round-trip time in seconds; None before it was measured."""
        return self.machine.min_rtt

    @property
    def stats(self) -> SessionStats:
        """Totals since the session began."""
        machine = self.machine
        return SessionStats(
            messages_sent=machine.outbox.messages_sent,
            messages_received=machine.messages_received,
            bytes_sent=machine.outbox.bytes_sent,
            bytes_received=machine.bytes_received,
            unacknowledged_bytes=machine.outbox.unacked_cost,
            resumes=self._resumes,
        )

    @property
    def traffic(self) -> Traffic:
        """What an endpoint shows of it."""
        machine = self.machine
        last = machine.last_message
        return Traffic(
            machine.outbox.bytes_sent,
            machine.bytes_received,
            None if last is None else time() - (self._owner.loop.time() - last),
        )

    # ------------------------------------------------------------------ sending

    def try_send(self, data: bytes) -> bool:
        """Accept a message if there is room for it; False: wait with `send`.

        Raises as `send_nowait`, but for a full window.
        """
        # Tasks that already wait come first.
        if self._senders:
            return False
        try:
            pending = self.machine.outbox.send(data)
        except STTSessionClosedError:
            error = self._end_error()
            raise error from error.__cause__
        connection = self._connection
        if connection is not None:
            if pending >= _FLUSH_BYTES:
                connection.flush()
            elif not connection.flushing:
                connection.flush_soon()
        return pending > 0

    def send_nowait(self, data: bytes | bytearray | memoryview) -> None:
        """Accept a message for delivery, without waiting.

        An accepted message is delivered exactly once and in order as long as both processes live,
        across broken connections; else it is reported in the event ``error`` (``session_lost``).

        Raises:
            STTWindowFullError: There is no room in the send window; nothing was accepted.
            STTSessionLostError: The session was lost; a `STTSessionClosedError` that says how.
            STTSessionClosedError: The session takes no more messages.
            STTMessageSizeError: The message is too long.
            TypeError: ``data`` is not bytes-like.

        """
        if not self.try_send(as_bytes(data)):
            outbox = self.machine.outbox
            raise STTWindowFullError(
                "the node already holds, or has promised to accept, as much as it may "
                "(max_buffered_bytes): await send(), or raise max_buffered_bytes"
                if outbox.short
                else f"{outbox.unacked_cost} bytes await the peer's acknowledgement: "
                "await send(), or raise send_window_bytes or send_window_messages"
            )

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Accept a message for delivery; wait while the send window is full.

        Messages of several tasks are accepted in the order of their calls. If cancelled, the
        message was not accepted. Raises as `send_nowait`, but for a full window.
        """
        message = as_bytes(data)
        if self.try_send(message):
            return
        self._owner.check_caller()
        if self._senders is None:
            self._senders = deque()
        senders, loop = self._senders, self._owner.loop
        turn = loop.create_future()
        senders.append(turn)
        self._wait_for_room()
        self.ping()  # the PONG brings an acknowledgement along, and with it room
        if self._pump is not None:
            self._pump.answers()
        try:
            await turn
            while not self.machine.outbox.send(message):
                self._wait_for_room()
                senders[0] = turn = loop.create_future()
                await turn
        except STTSessionClosedError:
            error = self._end_error()
            raise error from error.__cause__
        finally:
            senders.remove(turn)
            self._wake_sender()
        if self._connection is not None:
            self._connection.flush_soon()

    def _wait_for_room(self) -> None:
        if self.machine.outbox.short:
            self.machine.budget.wait()

    def room_came(self) -> None:
        """Try again what failed because the node had no room for it."""
        self.machine.retry()
        self.acknowledge()
        self._wake_sender()

    def _wake_sender(self) -> None:
        if self._senders and not self._senders[0].done():
            self._senders[0].set_result(None)

    async def flush(self) -> None:
        """Wait until the peer has acknowledged every message accepted so far.

        Raises:
            STTSessionLostError: The session ended first; it tells which messages are uncertain.
            STTSessionClosedError: The session ended first.

        """
        self._owner.check_caller()
        outbox = self.machine.outbox
        target = outbox.messages_sent
        if outbox.messages_acked >= target:
            return
        if self._closed:
            raise self._end_error()
        if self._flushers is None:
            self._flushers = Flushers()
        waiter = self._owner.loop.create_future()
        self._flushers.add(target, waiter)
        self.ping()  # the PONG brings the acknowledgement along
        try:
            await waiter
        finally:
            self._settle_flushers()  # lets go of one that was cancelled

    async def close(self) -> None:
        """Accept no more, deliver what was accepted, and end the session on both sides.

        Ends within ``close_timeout``; may be called again, and from a handler. If cancelled, the
        session goes on closing.

        Raises:
            STTSessionLostError: Messages could not be delivered in that time; it tells which. The
                session has ended all the same.

        """
        self._owner.check_caller()
        self.start_closing()
        try:
            async with asyncio.timeout(self._owner.config.close_timeout):
                await self.wait_closed()
        except TimeoutError:
            self.lose("the peer did not acknowledge the close in time")
        if self.error is not None and (self.error.unsent or self.error.unknown):
            raise self._end_error()

    async def wait_closed(self) -> None:
        """Wait until the session has ended, in whatever way; `error` then tells whether well."""
        self._owner.check_caller()
        if not self._closed:
            if self._ended is None:
                self._ended = asyncio.Event()
            await self._ended.wait()

    def abort(self, reason: str = "aborted by this side") -> None:
        """End the session at once, delivering nothing more. Does nothing if it has ended.

        If there is a connection, the peer is told: its session is lost at once, and it knows that
        messages may be missing. Without one, it finds out when the two meet again, or after its
        ``resume_window``. Undelivered messages are reported as for any lost session.
        """
        if self._closed:
            return
        self._owner.check_thread()
        connection, last = self._connection, self.machine.abort()
        if connection is not None and last:
            self._connection = None
            connection.finish(last)
        self.lose(reason)

    # ------------------------------------------------------ for the node: its ends

    def start_closing(self) -> None:
        """Accept no more messages, and say so to the peer once it has all of them."""
        if self._closed or self.machine.phase is not Phase.OPEN:
            return
        self.machine.close()
        self._leave_open()
        if self._connection is not None:
            self._connection.flush_soon()

    def give_up(self) -> None:
        """End a session that nobody waits for any more: in silence, unless it is established."""
        if self._opened:
            self.start_closing()
        else:
            self.lose("this side gave up before the session was established")

    def lose(self, reason: str, cause: Exception | None = None) -> None:
        """End the session without the peer's consent. Does nothing if it has ended."""
        if self._closed:
            return
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.drop()
        self._finish(cause or STTSessionClosedError(reason), reason)

    def _finish(self, cause: Exception | None, reason: str) -> None:
        """Record the end and tell every task that waits for something of this session."""
        self._settle(cause, reason)
        self._leave_open()
        if self._flushers is not None:
            self._flushers.fail(self._end_error)
            self._flushers = None
        if self._ended is not None:
            self._ended.set()
        if self._pump is not None:
            self._pump.wait_no_more()  # what waits for room in the inbox goes there all the same
        if self._opened:
            self._owner.session_ended(self, cause)
        else:
            self._owner.session_refused(self, cause)

    def _settle(self, cause: Exception | None, reason: str) -> None:
        """Be over, and remember why if that is more than an acknowledged close."""
        self._closed = True
        self._live = False
        undelivered = self.machine.abandon()
        if cause is not None or undelivered.unsent or undelivered.unknown:
            self.error = STTSessionLostError(
                f"{reason}: messages not sent {len(undelivered.unsent)}, "
                f"sent but not acknowledged {len(undelivered.unknown)}",
                session_id=self.session_id,
                peer_node_id=self.peer_node_id,
                unsent=undelivered.unsent,
                unknown=undelivered.unknown,
            )
            self.error.__cause__ = cause

    def orphan(self, reason: str) -> None:
        """Be over without a word, and without the loop: it is closed, or that of another process.

        Tasks that wait for something of this session wait in that loop too.
        """
        if self._closed:
            return
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(RuntimeError):  # a loop that is closed, or of another thread
                connection.drop()
        self._senders = self._flushers = self._ended = None
        if self._pump is not None:
            self._pump.clear()
        self._settle(STTSessionClosedError(reason), reason)

    def _leave_open(self) -> None:
        """Tell senders that wait, and the node, that no more messages are accepted."""
        for sender in self._senders or ():
            if not sender.done():
                sender.set_result(None)  # each tries again, and gets the error
        if self._opened:
            self._owner.session_closing(self)

    def _end_error(self) -> STTSessionClosedError:
        """Return a new error for each call that fails: raising one again adds to its traceback."""
        self._owner.check_thread()
        if self.error is None:
            return STTSessionClosedError("the session is closed and takes no more messages")
        error = copy(self.error)
        error.__cause__ = self.error.__cause__
        return error

    # ------------------------------------------------------------ the connection

    def attach(self, connection: Connection) -> None:
        """Go on over a connection; whatever the last one had not delivered to us is void."""
        old, self._connection = self._connection, connection
        if old is not None:
            old.drop()
        self._live = False
        self.address = connection.peer_address
        connection.flush()

    def go_live(self) -> None:
        """Note that both sides use the present connection."""
        self._live = True
        self.live_since = self._owner.loop.time()
        if self._opened:
            self._resumes += 1
            self._owner.session_resumed(self)
        else:
            self._opened = True
            self._owner.session_opened(self)

    def messages_arrived(self, messages: list[bytes]) -> None:
        """Hand messages on, in order: to the inbox at once, or through the queue."""
        if not self._live:
            self.go_live()
        if self._pump is None and not self._owner.events.observed("data_received"):
            taken = self.offer(messages)
            if taken == len(messages):
                return
            messages = messages[taken:]
        self._pumping().add_messages(messages)

    def progressed(self) -> None:
        """Act on what the peer's bytes have changed in the session's state."""
        machine = self.machine
        if not self._live:
            if machine.refusal is not None:
                self._refused()
                return
            if machine.link is Link.UP:
                self.go_live()
        if self._senders:
            self._wake_sender()
        if self._flushers is not None:
            self._settle_flushers()
        connection = self._connection
        if connection is None:
            return
        if machine.phase is _PEER_CLOSED:
            self._leave_open()
        due = machine.output_due
        if due:
            connection.flush()
        if machine.phase is _CLOSED:
            self._connection = None
            connection.finish()
            if machine.aborted:
                reason = "the peer aborted the session"
                self._finish(STTSessionClosedError(reason), reason)
            else:
                self._finish(None, "the session was closed")
        elif not due and machine.ack_owed:
            connection.acknowledge_later(self._owner.config.ack_delay)

    def _refused(self) -> None:
        machine, connection = self.machine, self._connection
        self._connection = None
        if connection is not None:
            connection.finish()
        machine.detach()
        if not self._opened:
            self._closed = True
            self._owner.session_refused(self, None)
        elif machine.refusal is WelcomeStatus.REFUSED:
            machine.refusal = None
            self._owner.session_suspended(self, None)
        elif machine.phase is Phase.CLOSED:
            self._finish(None, "the session had ended, with all messages delivered")
        elif machine.refusal is WelcomeStatus.FORBIDDEN:
            self.lose("the peer no longer allows sessions with this node")
        else:
            self.lose("the peer no longer knows the session")

    def _settle_flushers(self) -> None:
        if self._flushers is not None and self._flushers.settle(self.machine.outbox.messages_acked):
            self._flushers = None

    def acknowledge(self) -> None:
        """See that the peer hears, soon enough, of what was received and consumed."""
        connection = self._connection
        if connection is None:
            return
        if self.machine.output_due:
            connection.flush_soon()
        elif self.machine.ack_owed:
            connection.acknowledge_later(self._owner.config.ack_delay)

    def connection_ended(self, connection: Connection, cause: Exception | None) -> None:
        """Suspend the session, or end it if that is what the connection's end means."""
        if connection is not self._connection:
            return
        self._connection = None
        self._live = False
        self.machine.detach()
        if isinstance(cause, STTAuthenticationError):
            self._owner.offended(self, cause)  # it need not be the peer's work: it may come back
        elif isinstance(cause, STTProtocolError):
            self.lose(f"the peer broke the protocol ({cause})", cause)
            return
        if self.machine.phase is Phase.CLOSED:
            self._finish(None, "the session was closed by the peer")
        elif self._opened:
            self._owner.session_suspended(self, cause)
        elif self.dial_address is not None:
            self._closed = True
            self._owner.session_refused(self, cause)
        else:  # the dialer may hold it for established, and resume it
            self._owner.session_unused(self)

    def cut(self, reason: str) -> None:
        """Give the present connection up, to go on over another one."""
        connection = self._connection
        if connection is not None:
            connection.drop()
            self.connection_ended(connection, TimeoutError(reason))

    def check(self, now: float) -> None:
        """See whether the peer lives: ask every now and then, give up after a silence."""
        connection = self._connection
        if connection is None:
            return
        if self._senders and self._pump is not None:
            self._pump.check(now)
        machine, config = self.machine, self._owner.config
        stalled, asked, heard = connection.stalled(now), machine.ping_time, machine.last_received
        if stalled is not None:
            if now - max(stalled, machine.last_ack) >= config.write_timeout:
                self.cut("the connection accepted no bytes in time")
                return
            heard = max(heard, stalled)  # a PING waits behind what goes out slowly
        if asked is None:
            # Spread over a fifth of the interval, so that many sessions do not ask at once.
            jitter = 0.9 + 0.2 * self.session_id[0] / 255
            # Also while the peer is heard, to measure the round trip; but not behind what is stuck.
            since = machine.asked_at if stalled is None else heard
            if now - since >= config.ping_interval * jitter:
                machine.ping(now)
                connection.flush()
        elif now - max(asked, heard) >= config.ping_timeout:
            self.cut("the peer gave no sign of life")

    def ping(self) -> None:
        """Ask the peer for a sign of life, to measure the round trip, if there is a connection."""
        if self._connection is not None:
            self.machine.ping(self._owner.loop.time())
            self._connection.flush()

    # ------------------------------------------------------- what the application is told

    def offer(self, messages: Sequence[bytes]) -> int:
        """Put as many messages as it holds into the peer's inbox; return how many."""
        endpoints, peer = self._owner.endpoints, self.peer_node_id
        try:
            taken = endpoints.offer(peer, messages, beyond_bounds=self._closed)
        except STTEndpointError:  # the application has removed it, or is about to
            self._owner.ensure_endpoint(self)
            taken = endpoints.offer(peer, messages, beyond_bounds=self._closed)
        size = sum(map(len, messages if taken == len(messages) else messages[:taken]))
        self.machine.consumed(size, taken)
        return taken

    def tell(self, step: Step) -> None:
        """Run ``step`` once all that came before has been handed on."""
        self._pumping().add_step(step)

    def take_back(self, step: Step | None) -> bool:
        """Do not run ``step``, if it is the last one told and its turn has not come; whether so."""
        return self._pump is not None and self._pump.take_back(step)

    def _pumping(self) -> Pump:
        if self._pump is None:
            self._pump = Pump(self, self._owner)
            self._pump.start()
        return self._pump

    def pumped(self) -> None:
        """Note that all has been handed on."""
        self._pump = None
