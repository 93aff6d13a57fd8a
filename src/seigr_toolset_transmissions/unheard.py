"""Errors without a handler: they are summarised in the log, without any message contents."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

__all__ = ["UnheardErrors"]

logger = logging.getLogger(__name__)

_LOG_SECONDS = 10.0
"""Each type of error gets at most one line in this period; the next line counts those left out."""

_NO_LINE = frozenset({"handshake_failed", "identity_conflict"})
"""A stranger must not be able to fill the log; an identity conflict is logged in any case."""

_TOLD = ("session_id", "peer_node_id", "address", "attempts", "count")
"""What a line says of an error besides its reason. Messages are counted, never shown."""


class _Quiet:
    """What has happened since the last line about one type of error."""

    __slots__ = ("count", "timer", "undelivered")

    def __init__(self, timer: asyncio.TimerHandle) -> None:
        self.timer = timer
        self.count = 0
        self.undelivered = 0


class UnheardErrors:
    """Writes warnings about errors that nobody handles."""

    def __init__(self) -> None:
        self._quiet: dict[str, _Quiet] = {}  # the types that have had their line for now

    def note(self, error_type: str, details: dict[str, Any]) -> None:
        """Write a line about an error, now or together with others of its type.

        A session that was lost with nothing undelivered is not worth a line.
        """
        undelivered = sum(len(details.get(key, ())) for key in ("unsent", "unknown", "messages"))
        if error_type in _NO_LINE or (error_type == "session_lost" and not undelivered):
            return
        quiet = self._quiet.get(error_type)
        if quiet is not None:
            quiet.count += 1
            quiet.undelivered += undelivered
            return
        self._be_quiet(error_type)
        facts = ", ".join(f"{key} {_shown(details[key])}" for key in _TOLD if key in details)
        logger.warning(
            "%s: %s (%s); register a handler for the event 'error' to act on it",
            error_type,
            details.get("reason"),
            facts,
        )

    def flush(self) -> None:
        """Write now what is still to be written; the next error of each type gets a line again."""
        for error_type, quiet in self._quiet.items():
            quiet.timer.cancel()
            _sum_up(error_type, quiet)
        self._quiet.clear()

    def _be_quiet(self, error_type: str) -> None:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(_LOG_SECONDS, self._time_over, error_type)
        self._quiet[error_type] = _Quiet(timer)

    def _time_over(self, error_type: str) -> None:
        quiet = self._quiet.pop(error_type)
        if quiet.count:
            self._be_quiet(error_type)
        _sum_up(error_type, quiet)


def _sum_up(error_type: str, quiet: _Quiet) -> None:
    if quiet.count:
        lost = f"; undelivered messages: {quiet.undelivered}" if quiet.undelivered else ""
        logger.warning("%s: %d more since the last log line%s", error_type, quiet.count, lost)


def _shown(fact: object) -> object:
    return fact.hex() if isinstance(fact, bytes) else fact
