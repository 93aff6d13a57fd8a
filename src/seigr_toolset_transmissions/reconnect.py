"""Sessions without a connection: who waits for which peer, how long, and who dials again.

Only the side that dialled a session dials it again, with full-jitter back-off, so that the peers of
a hub that restarts do not storm it. The other side waits. Both give the session up after
``resume_window`` seconds, or at once when the peer turns out to have been restarted.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from .backoff import STABLE_SECONDS, pause
from .dialing import dial_address
from .errors import STTConnectError, STTProtocolError
from .hello import Opening, OpeningKind

if TYPE_CHECKING:
    from .clones import Clones
    from .config import NodeConfig
    from .dialing import Dialer
    from .live_session import Session
    from .noise import Channel
    from .runtime import Runtime
    from .transports.base import Address, Transport

__all__ = ["Reconnects"]

_NO_ANSWER = "the peer did not answer in time"


class _Owner(Protocol):
    """What is needed of who owns the sessions."""

    runtime: Runtime
    clones: Clones

    def tell(self, session: Session, event: str) -> None: ...
    def connect_session(self, session: Session, transport: Transport, channel: Channel) -> None: ...
    def limit_suspended(self) -> None: ...


class _Suspension:
    """One session without a connection."""

    __slots__ = ("dialing", "dials", "limit", "outcome", "retry", "task", "timer")

    def __init__(self) -> None:
        self.dials = 0  # since it began, or was hurried
        self.dialing: Address | None = None  # where a dial is under way
        self.limit: asyncio.Timeout | None = None  # of that attempt
        self.timer: asyncio.TimerHandle | None = None  # the listener's: gives the session up
        self.task: asyncio.Task[None] | None = None  # the dialer's: dials
        self.retry = asyncio.Event()  # set to dial without further delay
        self.outcome: asyncio.Future[bool] | None = None  # of the attempt to resume: succeeded?

    def settle(self, succeeded: bool) -> None:
        if self.outcome is not None and not self.outcome.done():
            self.outcome.set_result(succeeded)

    def end(self) -> None:
        self.settle(succeeded=True)
        if self.timer is not None:
            self.timer.cancel()
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()


class Reconnects:
    """The suspended sessions of a node, oldest first."""

    def __init__(self, owner: _Owner, dialer: Dialer) -> None:
        self._owner = owner
        self._runtime = owner.runtime
        self._dialer = dialer
        self._suspensions: dict[Session, _Suspension] = {}

    def __len__(self) -> int:
        """Return how many sessions are suspended."""
        return len(self._suspensions)

    def oldest(self) -> Session:
        """Return the session that has been without a connection for longest; there must be one."""
        return next(iter(self._suspensions))

    def suspended(self, session: Session, cause: Exception | None) -> None:
        """Take care of a session that has lost its connection, or could not be resumed just now."""
        runtime = self._runtime
        suspension = self._suspensions.get(session)
        if suspension is not None:
            suspension.settle(succeeded=False)
            return
        suspension = self._suspensions[session] = _Suspension()
        self._owner.tell(session, "session_suspended")
        if session.dial_address is None:
            window = runtime.config.resume_window
            suspension.timer = runtime.loop.call_later(
                window, session.lose, _given_up(runtime.config), cause
            )
        else:
            suspension.task = runtime.own(self._reconnect(session, suspension, cause))
        self._owner.limit_suspended()

    def resumed(self, session: Session) -> None:
        """Note that a session has a connection again."""
        suspension = self._suspensions.pop(session, None)
        if suspension is None:
            # The peer has noticed before us that the old connection was gone.
            self._owner.tell(session, "session_suspended")
        else:
            suspension.settle(succeeded=True)
            if suspension.timer is not None:
                suspension.timer.cancel()
        self._owner.tell(session, "session_resumed")

    def forget(self, session: Session) -> None:
        """Note that a session has ended."""
        suspension = self._suspensions.pop(session, None)
        if suspension is not None:
            suspension.end()

    def retry_now(self, peer_node_id: bytes) -> None:
        """Dial the peer's suspended sessions without waiting for the back-off to pass."""
        for session in self._suspensions:
            if session.peer_node_id == peer_node_id:
                self.hurry(session)

    def hurry(self, session: Session) -> None:
        """Dial the session without waiting for the back-off to pass, if it is to be dialled."""
        suspension = self._suspensions.get(session)
        if suspension is not None:
            session.attempts = suspension.dials = 0
            suspension.retry.set()
            present = dial_address(self._runtime.endpoints, session.peer_node_id)
            if (
                suspension.limit
                and suspension.dialing
                and present
                not in (
                    None,
                    suspension.dialing,
                )
            ):
                suspension.limit.reschedule(self._runtime.loop.time())  # the peer has moved

    async def _reconnect(
        self, session: Session, suspension: _Suspension, cause: Exception | None
    ) -> None:
        config, loop = self._runtime.config, self._runtime.loop
        deadline = loop.time() + config.resume_window
        progress = session.machine.progress
        if progress > session.progress or loop.time() - session.live_since >= STABLE_SECONDS:
            session.attempts = 0
        session.progress = progress
        while True:
            attempts = session.attempts
            session.attempts += 1
            await pause(config, attempts, suspension.retry, deadline - loop.time())
            if loop.time() >= deadline:
                session.lose(_given_up(config), cause)
                return
            try:
                until = min(deadline, loop.time() + config.connect_timeout)
                async with asyncio.timeout_at(until) as suspension.limit:
                    if await self._resume(session, suspension):
                        return
            except (STTConnectError, STTProtocolError, TimeoutError) as error:
                if self._suspensions.get(session) is not suspension:
                    return  # it was resumed in the very turn in which the time ran out
                cause = error
                session.cut(_NO_ANSWER)
                details = {
                    "session_id": session.session_id,
                    "peer_node_id": session.peer_node_id,
                    "reason": str(error) or _NO_ANSWER,
                    "attempts": session.attempts,
                }
                self._runtime.warn_if_unheard("connect_failed", details)

    async def _resume(self, session: Session, suspension: _Suspension) -> bool:
        """Dial, and ask the peer to resume; return whether that settles the matter."""
        runtime = self._runtime
        address = self._address_of(session, suspension)
        suspension.dialing = address
        try:
            dialed = await self._dialer.dial(*address, session.peer_node_id)
        finally:
            suspension.dialing = None
        seen, now = dialed.reply.incarnation, runtime.loop.time()
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
            )
        )
        self._owner.connect_session(session, dialed.transport, channel)
        succeeded = await suspension.outcome
        if succeeded:
            session.dial_address = address
        return succeeded

    def _address_of(self, session: Session, suspension: _Suspension) -> Address:
        """Return where to dial next: where the peer is now, as the user says, or where it was.

        If these are two, they take turns: the user may mean the address for something else.
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
