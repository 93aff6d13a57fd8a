"""The steps of stopping: end sessions, let handlers finish, and make the `StopReport`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Self

from ..errors import STTSessionLostError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Mapping

    from ..sessions.session import LiveSession
    from .accepting import Acceptor
    from .registry import Registry
    from .runtime import Runtime

__all__ = ["StopReport", "end_sessions", "end_work"]

logger: logging.Logger = logging.getLogger(__name__)

_CANCEL_SECONDS = 1.0
"""How long a cancelled handler may take to end."""

_CANCELS = 6
"""How many handlers of one session are cancelled, one after the other: those of the present
message, ``error`` (at most twice), ``session_closed`` and ``peer_disconnected``; one to spare."""


class StopReport(tuple[STTSessionLostError, ...]):
    """What a node could not do in the time it had to stop.

    A tuple with one error for each session that could not deliver all of its messages to its peer.
    Its repr shows counts only: messages are confidential, and can be large.

    Attributes:
        undelivered: For each peer, by node id: the messages that this node acknowledged to it but
            could not hand to a handler in time; oldest first, session by session.

    """

    undelivered: dict[bytes, tuple[bytes, ...]]

    def __new__(
        cls,
        lost: Iterable[STTSessionLostError] = (),
        undelivered: Mapping[bytes, Iterable[bytes]] | None = None,
    ) -> Self:
        """Combine what was lost on the way to peers with what was lost on the way to handlers."""
        report = super().__new__(cls, lost)
        report.undelivered = {
            peer_node_id: tuple(messages) for peer_node_id, messages in (undelivered or {}).items()
        }
        return report

    def __reduce__(self) -> tuple[Any, ...]:
        return StopReport, (tuple(self), self.undelivered)

    def __repr__(self) -> str:
        count = sum(map(len, self.undelivered.values()))
        return f"<StopReport lost={len(self)} undelivered={count} peers={len(self.undelivered)}>"


async def end_sessions(registry: Registry, drain: float) -> None:
    """Close all sessions; those that cannot deliver everything in ``drain`` seconds are lost.

    A session without a connection gets the same time to find one: what its peer has accepted is
    worth as much as what this side has.
    """
    for session in [each for each in registry.opening if each.session_id not in registry.sessions]:
        session.lose("the node was stopped")

    def open_ones() -> list[LiveSession]:
        return [*registry.unconfirmed.values(), *registry.sessions.values()]

    for session in open_ones():
        session.start_closing()
    absent = sum(not session.connected for session in open_ones())
    if absent and drain > 0:
        logger.info("the node waits up to %g s for peers without a connection: %d", drain, absent)
    await registry.runtime.until_none(lambda: registry.unconfirmed or registry.sessions, drain)
    for session in open_ones():
        if session.connected:
            session.lose("the node was stopped before its peer had acknowledged everything")
        else:
            session.lose("the node was stopped while the session had no connection")


async def end_work(registry: Registry, acceptor: Acceptor, patience: float) -> StopReport:
    """Wait ``patience`` seconds for handlers; then end them, and the connections that are left."""
    runtime = registry.runtime
    seconds = runtime.config.close_timeout
    await runtime.until_none(runtime.tasks, patience)
    await _end_tasks(runtime)
    await runtime.until_none(lambda: registry.connections, seconds)
    for connection in list(registry.connections):
        connection.drop()
    await runtime.until_none(lambda: registry.connections or acceptor.answering, seconds)
    report = StopReport(registry.lost, registry.left_over)
    registry.lost.clear()
    registry.left_over.clear()
    registry.end()
    return report


async def _end_tasks(runtime: Runtime) -> None:
    """Cancel what still runs. Events that are due after that are emitted in other tasks."""
    runtime.time_is_over = True
    resisting: set[asyncio.Task[Any]] = set()

    def running() -> set[asyncio.Task[Any]]:
        return runtime.tasks() - resisting

    for _ in range(_CANCELS):
        cancelled = running()
        for task in cancelled:
            task.cancel()
        await runtime.until_none(running, _CANCEL_SECONDS)
        resisting.update(cancelled & runtime.tasks())
        runtime.go_on_without(resisting)
    for task in runtime.tasks():
        logger.error("a handler is still running although it was cancelled: %r", task)
