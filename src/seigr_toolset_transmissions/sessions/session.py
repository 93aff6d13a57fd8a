"""A live session: sending, flushing, closing, and handing over what arrives.

`LiveSession` joins three things that know nothing of each other: the sans-I/O `SessionMachine`, the
present `connection.Connection` (if there is one), and the application's events and inboxes, which
it reaches through its owner, the node.

Everything that the application is told about one session comes in order: that it was created, its
messages, that it was suspended or resumed, that it is closed. A `pump.Pump` hands all this over. It
exists only while there is something to hand over; messages for an inbox with room need none.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from copy import copy
from time import time
from typing import TYPE_CHECKING, Never, TypeVarTuple

from ..errors import (
    STTAuthenticationError,
    STTEndpointError,
    STTProtocolError,
    STTSessionClosedError,
    STTSessionLostError,
    STTWindowFullError,
)
from ..foundation.payload import as_bytes
from ..foundation.timeouts import check_timeout
from ..protocol.frames import WelcomeStatus
from ..protocol.phase import Link, Phase
from ..stats import SessionStats, Traffic
from .answering import Answering
from .flushers import Flushers
from .holding import Hold, HoldTurn, line_up
from .liveness import look_for_life
from .public import Session, SessionState
from .pump import Pump
from .requesting import OpenRequest, Requesting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..protocol.exchanges import Exchanges
    from ..protocol.machine import SessionMachine
    from ..protocol.outbox import Undelivered
    from ..transports.base import Address
    from .connection import Connection
    from .owner import SessionOwner
    from .pump import Step

__all__ = ["LiveSession"]

_PEER_CLOSED, _CLOSED = Phase.PEER_CLOSED, Phase.CLOSED  # see `machine`

_FLUSH_BYTES = 64 * 1024
"""With so much to send, the session writes at once, and not at the end of the loop's turn: the peer
can work meanwhile, and memory stays small."""


Ts = TypeVarTuple("Ts")


class LiveSession(Session):
    """A session as its node, its connections and its pump know it.

    Attributes:
        address: Where the peer is, or was last: host and port.
        live_since: When the peer began to use the present or last connection, by the loop's clock.
        attempts: How often this side has dialed since the last connection that brought anything.
        progress: `SessionMachine.progress` at the time when the last connection was lost.
        resumption: The step that reports the last resumption; the owner uses it.
        taker: Takes messages as they arrive, unless the application is still to be told something
            that came before them. It returns how many it has taken, from the first on; the others
            go where all messages go. None: they all do.

    """

    __slots__ = (
        "__weakref__",
        "_answering",
        "_closed",
        "_connection",
        "_ended",
        "_flushers",
        "_live",
        "_opened",
        "_owner",
        "_pump",
        "_requesting",
        "_resumes",
        "_senders",
        "address",
        "attempts",
        "dial_address",
        "error",
        "live_since",
        "machine",
        "peer_incarnation",
        "peer_is_hub",
        "peer_node_id",
        "progress",
        "resumption",
        "taker",
    )

    def __init__(
        self,
        owner: SessionOwner[LiveSession],
        machine: SessionMachine,
        *,
        peer_node_id: bytes,
        peer_incarnation: bytes,
        peer_is_hub: bool,
        dial_address: Address | None,
    ) -> None:
        self.machine: SessionMachine = machine
        machine.budget.owner = self
        self.peer_node_id: bytes = peer_node_id
        self.peer_incarnation: bytes = peer_incarnation
        self.peer_is_hub: bool = peer_is_hub  # one of several processes with that node id
        self.dial_address: Address | None = dial_address
        self.address: Address = dial_address or ("", 0)
        self.live_since: float = owner.loop.time()
        self.attempts: int = 0
        self.progress: int = 0
        self.error = None
        self._owner = owner
        self._connection: Connection | None = None
        self._live = False  # whether the peer has used the present connection
        self._opened = False  # whether the session was ever live
        self._closed = False
        self._resumes = 0
        self.resumption: Step | None = None
        self.taker: Callable[[list[bytes]], int] | None = None
        self._senders: deque[asyncio.Future[None]] | None = None
        self._flushers: Flushers | None = None
        self._ended: asyncio.Event | None = None  # made when a task first waits for the end
        self._requesting: Requesting | None = None  # from the first request of this side
        self._answering: Answering | None = None  # from the first request of the peer
        self._pump: Pump | None = None  # while there is something to hand over

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
        """See `Session`."""
        return self.machine.session_id

    @property
    def state(self) -> SessionState:
        """See `Session`."""
        if self._closed:
            return SessionState.CLOSED
        if self.machine.phase is not Phase.OPEN:
            return SessionState.CLOSING
        return SessionState.OPEN if self._live else SessionState.SUSPENDED

    @property
    def accepts(self) -> bool:
        """Whether the session accepts messages, which may have to wait for a connection."""
        return self.machine.phase is Phase.OPEN

    @property
    def connected(self) -> bool:
        """Whether there is a connection at present."""
        return self._connection is not None

    @property
    def rtt(self) -> float | None:
        """See `Session`."""
        return self.machine.rtt

    @property
    def min_rtt(self) -> float | None:
        """See `Session`."""
        return self.machine.min_rtt

    @property
    def stats(self) -> SessionStats:
        """See `Session`."""
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
        """What an endpoint shows of this session's traffic."""
        machine, sent = self.machine, self.machine.outbox
        last = machine.last_message
        when = None if last is None else time() - (self._owner.loop.time() - last)
        size = sent.bytes_sent, machine.bytes_received
        count = sent.messages_sent, machine.messages_received
        return Traffic(*size, when, *count, self._resumes)

    # ------------------------------------------------------------------ sending

    def try_send(self, data: bytes) -> bool:
        """Accept a message if there is room for it, else return False: `send` waits for room.

        Raises what `send_nowait` does, except STTWindowFullError.
        """
        # Tasks that already wait come first.
        if self._senders:
            return False
        try:
            pending = self.machine.outbox.send(data)
        except STTSessionClosedError:
            self._refuse()
        connection = self._connection
        if connection is not None:
            if pending >= _FLUSH_BYTES:
                connection.flush()
            elif not connection.flushing:
                connection.flush_soon()
        return pending > 0

    def accept(self, accept: Callable[[*Ts], int], /, *args: *Ts) -> bool:
        """Do the same as `try_send`, with ``accept`` to put something into the outbox."""
        if self._senders:
            return False
        try:
            pending = accept(*args)
        except STTSessionClosedError:
            self._refuse()
        connection = self._connection
        if connection is not None and not connection.flushing:
            connection.flush_soon()
        return pending > 0

    def send_nowait(self, data: bytes | bytearray | memoryview) -> None:
        """See `Session`."""
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
        """See `Session`."""
        message = as_bytes(data)
        if not self.try_send(message):
            await self.accept_in_turn(self.machine.outbox.send, message)

    async def accept_in_turn(
        self, accept: Callable[[*Ts], int], /, *args: *Ts, past_holds: bool = False
    ) -> None:
        """Wait for a turn and for room, as `send` does, or before all holds; then ``accept``."""
        self._owner.check_caller()
        senders = self._senders = self._senders or deque()
        loop = self._owner.loop
        turn = loop.create_future()
        line_up(senders, turn, past_holds=past_holds)
        self._wait_for_room()
        self.ping()  # the PONG brings an acknowledgement, which makes room
        if self._pump is not None:
            self._pump.answers()
        try:
            await turn
            while not accept(*args):
                self._wait_for_room()
                senders[0] = turn = loop.create_future()
                await turn
        except STTSessionClosedError:
            self._refuse()
        finally:
            senders.remove(turn)
            self._wake_sender()
        self.flush_soon()

    async def request(
        self, data: bytes | bytearray | memoryview, *, timeout: float | None = None
    ) -> bytes:
        """See `Session`."""
        self._owner.check_caller()
        if timeout is not None:
            check_timeout(timeout)
        if type(data) is not bytes:
            data = as_bytes(data)
        return await (self._requesting or self._asking()).request(data, timeout)

    def begin_request(self, data: bytes, timeout: float | None) -> OpenRequest | None:
        """Send a request if its turn has come and there is room for it, else return None.

        Raises:
            STTMessageSizeError: It is too long.
            STTRequestTimeoutError: The time was over before the call.

        """
        self._owner.check_caller()
        return (self._requesting or self._asking()).begin(data, timeout)

    def _asking(self) -> Requesting:
        books = self.machine.exchange()
        self._requesting = Requesting(self, books, asyncio.get_running_loop())
        return self._requesting

    def tell_cancels(self) -> None:
        """Tell the peer of cancelled requests."""
        self.machine.tell_cancels()
        if self._connection is not None:
            # The PONG brings the acknowledgement that a CANCEL may be waiting for.
            self.machine.ping(self._owner.loop.time())
            self._connection.flush_soon()

    def broken_for(self) -> float | None:
        """Return for how many seconds the session has had no connection; None if it has one."""
        return self._owner.broken_for(self)

    def _exchange(self, exchanges: Exchanges) -> None:
        """Act on the requests and replies that have arrived."""
        if self._requesting is not None:
            self._requesting.settle()
        if exchanges.arrived or exchanges.cancelled:
            if self._answering is None:
                self._answering = Answering(self, exchanges, self._owner)
            self._answering.take()

    def _wait_for_room(self) -> None:
        if self.machine.outbox.short:
            self.machine.budget.wait()

    def room_came(self) -> None:
        """Try again what failed because the node had no room for it."""
        self.machine.retry(self._owner.loop.time())
        self.acknowledge()
        self._wake_sender()

    def hold_back(self) -> Hold:
        """Let what is sent from now on wait, behind what waits already, until the hold ends."""
        senders = self._senders = self._senders or deque()
        turn = HoldTurn(loop=self._owner.loop)
        return Hold(self.machine.outbox, self.flush_soon, senders, turn)

    def flush_soon(self) -> None:
        """Send what is due in a later turn of the loop, if there is a connection."""
        if self._connection is not None:
            self._connection.flush_soon()

    def _wake_sender(self) -> None:
        if self._senders and not self._senders[0].done():
            self._senders[0].set_result(None)

    async def flush(self) -> None:
        """See `Session`."""
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
        self.ping()  # the PONG brings the acknowledgement
        try:
            await waiter
        finally:
            self._settle_flushers()  # this forgets a cancelled one

    async def close(self) -> None:
        """See `Session`."""
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
        """See `Session`."""
        self._owner.check_caller()
        if not self._closed:
            if self._ended is None:
                self._ended = asyncio.Event()
            await self._ended.wait()

    def abort(self, reason: str = "aborted by this side") -> None:
        """See `Session`."""
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
        """Accept no more messages, and tell the peer so once it has all of them."""
        if self._closed or self.machine.phase is not Phase.OPEN:
            return
        if self._answering is not None:
            self._answering.refuse_waiting()
        self.machine.close()
        if self._requesting is not None:
            self._requesting.close(self._end_error())
        self._leave_open()
        self.flush_soon()

    def give_up(self) -> None:
        """End a session that nobody waits for any more; silently, unless it is established."""
        if self._opened:
            self.start_closing()
        else:
            self.lose("this side gave up before the session was established")

    def lose(self, reason: str, cause: Exception | None = None) -> None:
        """End the session without an acknowledged close. Does nothing if it has ended."""
        if self._closed:
            return
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.drop()
        self._finish(cause or STTSessionClosedError(reason), reason)

    def _finish(
        self, cause: Exception | None = None, reason: str = "the peer closed the session"
    ) -> None:
        """Record the end, and end every wait; without a cause, the session was closed."""
        undelivered = self._settle(cause, reason)
        self._leave_open()
        if self.machine.exchanges is not None:
            lost = self.machine.exchanges.lose(undelivered)
            if self._requesting is not None:
                self._requesting.end(lost, self._end_error())
        if self._flushers is not None:
            self._flushers.fail(self._end_error)
            self._flushers = None
        if self._ended is not None:
            self._ended.set()
        if self._pump is not None:
            self._pump.wait_no_more()  # what waits for room in the inbox goes there anyway
        if self._opened:
            self._owner.session_ended(self, cause)
        else:
            self._owner.session_refused(self, cause)

    def _settle(self, cause: Exception | None, reason: str) -> Undelivered:
        """Mark the session as ended; set `error` unless it was closed with everything delivered."""
        self._closed = True
        self._live = False
        undelivered = self.machine.abandon()
        if cause is not None or undelivered.unsent or undelivered.unknown:
            self.error = STTSessionLostError(
                reason + undelivered.counts,
                session_id=self.session_id,
                peer_node_id=self.peer_node_id,
                unsent=undelivered.unsent,
                unknown=undelivered.unknown,
            )
            self.error.__cause__ = cause
        return undelivered

    def orphan(self, reason: str) -> None:
        """End without telling the peer and without the loop, which is closed or a parent process's.

        Tasks that wait for something from this session belong to that loop, too.
        """
        if self._closed:
            return
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, or another thread's
                connection.drop()
        self._senders = self._flushers = self._ended = None
        if self._pump is not None:
            self._pump.clear()
        self._settle(STTSessionClosedError(reason), reason)

    def _leave_open(self) -> None:
        """Tell waiting senders, and the node, that no more messages are accepted."""
        for sender in self._senders or ():
            if not sender.done():
                sender.set_result(None)  # each tries again, and gets the error
        if self._answering is not None:
            self._answering.end()
        if self._opened:
            self._owner.session_closing(self)

    def _end_error(self) -> STTSessionClosedError:
        """Return a new error for each call that fails: raising one again adds to its traceback."""
        self._owner.check_thread()
        if self.error is None:
            closer = "this side" if self.machine.closed_here else "the peer"
            return STTSessionClosedError(f"{closer} closed the session: it takes no more messages")
        error = copy(self.error)
        error.__cause__ = self.error.__cause__
        return error

    def _refuse(self) -> Never:
        """Raise the error for a message that is no longer accepted."""
        error = self._end_error()
        raise error from error.__cause__

    # ------------------------------------------------------------ the connection

    def attach(self, connection: Connection) -> None:
        """Go on over a new connection; the rest of what came over the last one is void."""
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
        """Hand over messages in order: to the taker or the inbox at once, or through the queue."""
        if not self._live:
            self.go_live()
        if self._pump is None:
            taken = 0
            if self.taker is not None:
                taken = self.taker(messages)
                self._took(messages, taken)
            elif not self._owner.events.observed("data_received"):
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
        if machine.exchanges is not None:
            self._exchange(machine.exchanges)
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
                self.lose("the peer aborted the session")
            else:
                self._finish()
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
            self._finish()
        elif machine.refusal is WelcomeStatus.FORBIDDEN:
            self.lose("the peer no longer allows sessions with this node")
        else:
            self.lose("the peer no longer knows the session")

    def _settle_flushers(self) -> None:
        if self._flushers is not None and self._flushers.settle(self.machine.outbox.messages_acked):
            self._flushers = None

    def acknowledge(self) -> None:
        """Acknowledge what was received and consumed, soon enough for the peer to go on."""
        if (connection := self._connection) is None:
            return
        if self.machine.output_due:
            connection.flush_soon()
        elif self.machine.ack_owed:
            connection.acknowledge_later(self._owner.config.ack_delay)

    def acknowledge_later(self) -> None:
        """Acknowledge what was received and consumed, within ``ack_delay``."""
        if self._connection is not None:
            self._connection.acknowledge_later(self._owner.config.ack_delay)

    def connection_ended(self, connection: Connection, cause: Exception | None) -> None:
        """Suspend the session, or end it if the end of the connection means that."""
        if connection is not self._connection:
            return
        self._connection = None
        self._live = False
        self.machine.detach()
        if isinstance(cause, STTAuthenticationError):
            self._owner.offended(self, cause)  # not necessarily the peer's doing: it may resume
        elif isinstance(cause, STTProtocolError):
            self.lose(f"the peer broke the protocol ({cause})", cause)
            return
        if self.machine.phase is Phase.CLOSED:
            self._finish()
        elif self._opened:
            self._owner.session_suspended(self, cause)
        elif self.dial_address is not None:
            self._closed = True
            self._owner.session_refused(self, cause)
        else:  # the dialer may consider it established, and resume it
            self._owner.session_unused(self)

    def cut(self, reason: str) -> None:
        """Give up the present connection; the session goes on over another one."""
        connection = self._connection
        if connection is not None:
            connection.drop()
            self.connection_ended(connection, TimeoutError(reason))

    def check(self, now: float) -> None:
        """Check whether the peer lives, and whether a handler holds up what follows it."""
        connection = self._connection
        if connection is None:
            return
        if self._pump is not None:
            self._pump.check(now, sending=bool(self._senders))
        silence = look_for_life(connection, self.machine, self._owner.config, now)
        if silence is not None:
            self.cut(silence)

    def ping(self, answered: Callable[[float], None] | None = None) -> None:
        """See `Session`; the answer is passed to ``answered``, as `SessionMachine.ping` says."""
        if self._connection is not None:
            self.machine.ping(self._owner.loop.time(), answered)
            self._connection.flush()

    # ------------------------------------------------------- what the application is told

    def offer(self, messages: Sequence[bytes]) -> int:
        """Put as many messages into the peer's inbox as it has room for; return how many."""
        endpoints, peer = self._owner.endpoints, self.peer_node_id
        try:
            taken = endpoints.offer(peer, messages, beyond_bounds=self._closed)
        except STTEndpointError:  # the application has removed the endpoint
            self._owner.ensure_endpoint(self)
            taken = endpoints.offer(peer, messages, beyond_bounds=self._closed)
        self._took(messages, taken)
        return taken

    def _took(self, messages: Sequence[bytes], taken: int) -> None:
        size = sum(map(len, messages if taken == len(messages) else messages[:taken]))
        self.machine.consumed(size, taken)

    def tell(self, event: str, step: Step) -> None:
        """Run ``step``, which emits ``event``, once all that came before has been handed over."""
        self._pumping().add_step(event, step)

    @property
    def telling(self) -> bool:
        """Whether there is something left to tell the application."""
        return self._pump is not None

    def take_back(self, step: Step | None) -> bool:
        """Drop ``step`` if it is the last one and its turn has not come; return whether it was."""
        return self._pump is not None and self._pump.take_back(step)

    def _pumping(self) -> Pump:
        if self._pump is None:
            self._pump = Pump(self, self._owner)
            self._pump.start()
        return self._pump

    def pumped(self) -> None:
        """Note that everything has been handed over."""
        self._pump = None
