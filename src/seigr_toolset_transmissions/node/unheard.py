"""Errors in the log: warnings if nobody handles them, and never with the contents of messages."""

from __future__ import annotations

import logging
from typing import Any

from ..foundation.ids import short
from ..foundation.repeats import Repeats

__all__ = ["ErrorLog"]

logger: logging.Logger = logging.getLogger(__name__)

_DETAILS = frozenset({"handshake_failed", "identity_conflict"})
"""Logged at DEBUG only. A stranger must not be able to fill the log, and an identity conflict has a
warning of its own."""

_TOLD = ("session_id", "peer_node_id", "address", "attempts", "count")
"""What a line says about an error besides its reason. Messages are counted, never shown."""


class ErrorLog:
    """Writes one node's errors to the log."""

    def __init__(self) -> None:
        self._repeats = Repeats(logger, self._undelivered_of)
        self._undelivered: dict[str, int] = {}  # by type, since its last line

    def note(self, error_type: str, details: dict[str, Any], *, handled: bool) -> None:
        """Write a line about an error. If nothing handles it, that is a warning, now or in a sum.

        The registry logs the end of every session. A lost session gets another line only if
        messages were lost with it and nothing handles the error.
        """
        undelivered = sum(len(details.get(key, ())) for key in ("unsent", "unknown", "messages"))
        if error_type == "session_lost" and (handled or not undelivered):
            return
        if handled or error_type in _DETAILS:
            level = logging.DEBUG if error_type in _DETAILS else logging.INFO
            if logger.isEnabledFor(level):
                logger.log(level, "%s: %s (%s)", error_type, details.get("reason"), _facts(details))
            return
        if not self._repeats.is_first(error_type, logging.WARNING):
            if undelivered:
                self._undelivered[error_type] = self._undelivered.get(error_type, 0) + undelivered
            return
        logger.warning(
            "%s: %s (%s); register a handler for the event 'error' to act on it",
            error_type,
            details.get("reason"),
            _facts(details),
        )

    def cannot_resume(self, details: dict[str, Any], *, handled: bool) -> None:
        """Write a line about a session for which the node goes on dialing.

        No ``error`` is emitted for that: a program hears of it as ``session_suspended``.
        """
        if not handled and not self._repeats.is_first("cannot resume session", logging.WARNING):
            return
        logger.log(
            logging.INFO if handled else logging.WARNING,
            "cannot resume session %s with peer %s (attempt %d; the node keeps trying): %s%s",
            short(details["session_id"]),
            short(details["peer_node_id"]),
            details["attempts"],
            details["reason"],
            "" if handled else "; register a handler for 'session_suspended' to act on it",
        )

    def flush(self) -> None:
        """Write what is still due; the next error of each type gets a line of its own again."""
        self._repeats.flush()

    def _undelivered_of(self, error_type: str) -> str:
        undelivered = self._undelivered.pop(error_type, 0)
        return f"; undelivered messages: {undelivered}" if undelivered else ""


def _facts(details: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_shown(details[key])}" for key in _TOLD if key in details)


def _shown(fact: object) -> object:
    return short(fact) if isinstance(fact, bytes) else fact
