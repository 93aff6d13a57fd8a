"""How a node ends: what it still does for its handlers, and what it reports."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Self

from .errors import STTSessionLostError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Mapping

    from .runtime import Runtime

__all__ = ["StopReport", "end_tasks"]

logger = logging.getLogger(__name__)

_CANCEL_SECONDS = 1.0
"""How long a cancelled handler may take to end."""

_CANCELS = 6
"""How many handlers of one session, one after the other, are cancelled: of the message at hand,
``error`` (twice at most), ``session_closed`` and ``peer_disconnected``, and one to spare."""


class StopReport(tuple[STTSessionLostError, ...]):
    """What a node could not do in the time it had to stop.

    A tuple with one error for each session that could not deliver all of its messages to its peer.

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
        return f"StopReport({tuple(self)!r}, {self.undelivered!r})"


async def end_tasks(runtime: Runtime) -> None:
    """Cancel what still runs. Events that are still due are emitted in other tasks."""
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
        logger.error("a handler goes on although it was cancelled: %r", task)
