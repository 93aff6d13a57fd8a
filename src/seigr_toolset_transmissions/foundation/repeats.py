"""Logging what a peer can cause any number of times, without flooding the log."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Repeats"]

_LOG_SECONDS = 10.0
"""The log gets one line of each kind in this period; the next line counts those left out."""


class _Period:
    """What has happened since the last line of one kind."""

    __slots__ = ("count", "level", "loop", "timer")

    def __init__(
        self, level: int, loop: asyncio.AbstractEventLoop, timer: asyncio.TimerHandle
    ) -> None:
        self.level = level
        self.loop = loop
        self.timer = timer
        self.count = 0


class Repeats:
    """Lets the first of each kind into the log, and then counts the others, period by period.

    Use it in a running event loop, whose timers write the counts.

    Args:
        logger: The log for the counts, and for `error`.
        more: Called with a kind; returns what a line of counts says in addition.

    """

    def __init__(
        self, logger: logging.Logger, more: Callable[[str], str] = lambda kind: ""
    ) -> None:
        self._logger = logger
        self._more = more
        self._periods: dict[str, _Period] = {}  # by kind, once it has had its line

    def error(self, text: str, exc: BaseException | None = None) -> None:
        """Log an error with the exception's traceback, or count it if its kind was just logged.

        Its kind is its text and the type of the exception.
        """
        kind = text if exc is None else f"{text} ({type(exc).__qualname__})"
        if self.is_first(kind, logging.ERROR):
            self._logger.error(text, exc_info=exc)

    def is_first(self, kind: str, level: int) -> bool:
        """Return whether the caller should log this one; if not, it has been counted.

        ``level`` is the logging level of the line with the count.
        """
        loop = asyncio.get_running_loop()
        period = self._periods.get(kind)
        if period is not None and period.loop is loop:
            period.count += 1
            return False
        if period is not None:  # another loop's, which may be closed: its timer may never fire
            period.timer.cancel()
            self._write(kind, period)
        self._begin(kind, level, loop)
        return True

    def flush(self) -> None:
        """Write the counts now; the next one of each kind gets its own line again."""
        for kind, period in self._periods.items():
            period.timer.cancel()
            self._write(kind, period)
        self._periods.clear()

    def _begin(self, kind: str, level: int, loop: asyncio.AbstractEventLoop) -> None:
        timer = loop.call_later(_LOG_SECONDS, self._time_over, kind)
        self._periods[kind] = _Period(level, loop, timer)

    def _time_over(self, kind: str) -> None:
        period = self._periods.pop(kind)
        if period.count:
            self._begin(kind, period.level, period.loop)
        self._write(kind, period)

    def _write(self, kind: str, period: _Period) -> None:
        if period.count:
            text = "%s: %d more since the last log line%s"
            self._logger.log(period.level, text, kind, period.count, self._more(kind))
