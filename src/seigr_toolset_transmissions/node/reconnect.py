"""Sessions without a connection: which side waits, which side dials again, and for how long.

Only the side that dialed a session dials it again, with full-jitter back-off, so that the peers of
a hub that restarts do not storm it. The other side waits. Both give the session up after
``resume_window`` seconds, or at once when the peer turns out to have been restarted.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Protocol

from ..errors import STTConnectError, STTHandshakeError, STTIdentityError, STTProtocolError
from ..protocol.hello import Opening, OpeningKind
from .backoff import STABLE_SECONDS, pause
from .dialing import dial_address
from .duty import Duty

if TYPE_CHECKING:
    from ..config import NodeConfig
    from ..protocol.noise import Channel
    from ..sessions.session import LiveSession
    from ..transports.base import Address, Transport
    from .clones import Clones
    from .dialing import Dialer
    from .runtime import Runtime

__all__ = ["Reconnects"]

_NO_ANSWER = "the peer did not answer in time"

_LEAST_SECONDS = 0.02
"""A dial with less time than this is not begun. Timers fire up to a tick of the clock early, which
is 16 ms on Windows: dials would follow each other without a pause until the time is over."""


class _Owner(Protocol):
    """What `Reconnects` needs of the registry, which owns the sessions."""

    runtime: Runtime
    clones: Clones

    def tell(self, session: LiveSession, event: str) -> None: ...
    def connect_session(
        self, session: LiveSession, transport: Transport, channel: Channel
    ) -> None: ...
    def limit_suspended(self) -> None: ...


class _Suspension:
    """One session without a connection."""

    __slots__ = (
        "cause",
        "dialing",
        "dials",
        "duty",
        "limit",
        "outcome",
        "retry",
        "since",
        "timer",
        "until",
    )

    def __init__(self, since: float, until: float, cause: Exception | None) -> None:
        self.since = since  # when the session lost its connection, by the loop's clock
        self.until = until  # when it is given up
        self.cause = cause  # why there is no connection, or why the last dial failed
        self.dials = 0  # since it began, or was last hurried
        self.dialing: Address | None = None  # where a dial is under way
        self.limit: asyncio.Timeout | None = None  # that of the present attempt
        self.timer: asyncio.TimerHandle | None = None  # on the listener: gives the session up
        self.duty: Duty | None = None  # on the dialer: dials
        self.retry = asyncio.Event()  # set to dial without further delay
        self.outcome: asyncio.Future[bool] | None = None  # whether the attempt has succeeded

    def settle(self, succeeded: bool) -> None:
        if self.outcome is not None and not self.outcome.done():
            self.outcome.set_result(succeeded)

    def end(self) -> None:
        self.settle(succeeded=True)
        if self.timer is not None:
            self.timer.cancel()
        if self.duty is not None:
            self.duty.end()


class Reconnects:
    """The suspended sessions of a node, oldest first."""

    def __init__(self, owner: _Owner, dialer: Dialer) -> None:
        self._owner = owner
        self._runtime = owner.runtime
        self._dialer = dialer
        self._suspensions: dict[LiveSession, _Suspension] = {}

    def __len__(self) -> int:
        """Return how many sessions are suspended."""
        return len(self._suspensions)

    def oldest(self) -> LiveSession:
        """Return the session that has been without a connection longest; there must be one."""
        return next(iter(self._suspensions))

    def broken_for(self, session: LiveSession) -> float | None:
        """Return for how many seconds a session has been suspended; None if it is not."""
        suspension = self._suspensions.get(session)
        return None if suspension is None else self._runtime.loop.time() - suspension.since

    def suspended(self, session: LiveSession, cause: Exception | None) -> None:
        """Take care of a session that has lost its connection, or has failed to resume."""
        runtime = self._runtime
        suspension = self._suspensions.get(session)
        if suspension is not None:
            suspension.settle(succeeded=False)
            return
        now = runtime.loop.time()
        until = now + runtime.config.resume_window
        suspension = self._suspensions[session] = _Suspension(now, until, cause)
        self._owner.tell(session, "session_suspended")
        if session.dial_address is None:
            suspension.timer = runtime.loop.call_at(
                until, session.lose, _given_up(runtime.config), cause
            )
        else:
            progress = session.machine.progress
            lasted = now - session.live_since
            if progress > session.progress or lasted >= STABLE_SECONDS:
                session.attempts = 0
            session.progress = progress
            suspension.duty = Duty(runtime, partial(self._reconnect, session, suspension))
        self._owner.limit_suspended()

    def resumed(self, session: LiveSession) -> None:
        """Note that a session has a connection again."""
        suspension = self._suspensions.pop(session, None)
        if suspension is None:
            # The peer noticed before us that the old connection was gone.
            self._owner.tell(session, "session_suspended")
        else:
            suspension.settle(succeeded=True)
            if suspension.timer is not None:
                suspension.timer.cancel()
        self._owner.tell(session, "session_resumed")

    def forget(self, session: LiveSession) -> None:
        """Note that a session has ended."""
        suspension = self._suspensions.pop(session, None)
        if suspension is not None:
            suspension.end()

    def retry_now(self, peer_node_id: bytes) -> None:
        """Dial the peer's suspended sessions without waiting for the back-off to pass."""
        for session in self._suspensions:
            if session.peer_node_id == peer_node_id:
                self.hurry(session)

    def hurry(self, session: LiveSession) -> None:
        """Dial the session without waiting for the back-off to pass, if this side dials it."""
        suspension = self._suspensions.get(session)
        if suspension is not None:
            session.attempts = suspension.dials = 0
            suspension.retry.set()
            present = dial_address(self._runtime.endpoints, session.peer_node_id)
            moved = present not in (None, suspension.dialing)
            if suspension.limit and suspension.dialing and moved:
                suspension.limit.reschedule(self._runtime.loop.time())

    async def _reconnect(self, session: LiveSession, suspension: _Suspension) -> None:
        config, loop = self._runtime.config, self._runtime.loop
        deadline = suspension.until
        stranger_reported = False
        while self._suspensions.get(session) is suspension:
            attempts = session.attempts
            session.attempts += 1
            await pause(config, attempts, suspension.retry, deadline - loop.time())
            if deadline - loop.time() < _LEAST_SECONDS:
                session.lose(_given_up(config), suspension.cause)
                return
            try:
                until = min(deadline, loop.time() + config.connect_timeout)
                async with asyncio.timeout_at(until) as suspension.limit:
                    if await self._resume(session, suspension):
                        return
            except (STTConnectError, STTProtocolError, TimeoutError) as error:
                if self._suspensions.get(session) is not suspension:
                    return  # it was resumed in the same turn in which the time ran out
                suspension.cause = error
                session.cut(_NO_ANSWER)
                details = {
                    "session_id": session.session_id,
                    "peer_node_id": session.peer_node_id,
                    "reason": str(error) or _NO_ANSWER,
                    "attempts": session.attempts,
                }
                stranger = isinstance(error, STTHandshakeError | STTIdentityError)
                if stranger and not stranger_reported:
                    # Another program has taken the peer's address, which is worth knowing before
                    # the window is over. Once is enough: a slow handler has no pile to work off.
                    stranger_reported = True
                    session.tell(
                        "error", partial(self._runtime.emit_error, "connect_failed", details)
                    )
                else:
                    self._runtime.log_suspended(details)
                if not session.accepts and session.machine.outbox.empty:
                    session.lose("the peer could not be reached to close the session", error)
                    return  # it would keep whoever closes waiting, for nothing of this side's

    async def _resume(self, session: LiveSession, suspension: _Suspension) -> bool:
        """Dial and ask the peer to resume; return whether no further dial is needed."""
        runtime = self._runtime
        address = self._address_of(session, suspension)
        suspension.dialing = address
        hub = session.peer_incarnation if session.peer_is_hub else b""
        try:
            dialed = await self._dialer.dial(*address, session.peer_node_id, hub=hub)
        finally:
            suspension.dialing = None
        seen, now = dialed.reply.incarnation, runtime.loop.time()
        if not dialed.reply.hub:
            self._owner.clones.seen(session.peer_node_id, seen, dialed.transport.peer_address, now)
        if seen != session.peer_incarnation:
            dialed.transport.abort()
            session.lose("the peer was restarted")
            return True
        suspension.outcome = runtime.loop.create_future()
        epoch, recv_next, credit = session.machine.reopening()
        channel = dialed.open(
            Opening(
                OpeningKind.RESUME,
                runtime.config.max_message_bytes,
                runtime.incarnation,
                session.session_id,
                epoch,
                recv_next,
                credit,
                runtime.is_hub,
            )
        )
        self._owner.connect_session(session, dialed.transport, channel)
        succeeded = await suspension.outcome
        if succeeded:
            session.dial_address = address
        return succeeded

    def _address_of(self, session: LiveSession, suspension: _Suspension) -> Address:
        """Return where to dial next: the endpoint's address, or the last one that worked.

        If these differ, they take turns: the user may mean the endpoint's for something else.
        """
        present = dial_address(self._runtime.endpoints, session.peer_node_id)
        former = session.dial_address
        assert former is not None  # noqa: S101  only dialers come here
        if present is None or suspension.dials % 2:
            present = former
        suspension.dials += 1
        return present


def _given_up(config: NodeConfig) -> str:
    return f"no connection for {config.resume_window} s"
