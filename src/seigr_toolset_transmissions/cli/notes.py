"""What a command says on standard error: notes, complaints, and the library's log if asked for."""

from __future__ import annotations

import logging

from rich.console import Console
from rich.text import Text

__all__ = ["complain", "console", "note", "note_warnings", "set_verbosity"]

console: Console = Console(stderr=True, soft_wrap=True, highlight=False)
"""Standard error, for all that ``-q`` silences. A progress bar on it stays below the notes."""

_for_complaints = Console(stderr=True, soft_wrap=True, highlight=False)


def note(text: str) -> None:
    """Tell the user what is happening."""
    console.print(Text(f"stt: {text}", style="dim"))


def complain(text: str) -> None:
    """Tell the user what went wrong and what to do about it. Even ``-q`` does not silence this."""
    # While a progress bar is drawn, only its own console can print above it.
    target = _for_complaints if console.quiet else console
    target.print(Text.assemble(("stt: ", "bold red"), text))


class _LogLines(logging.Handler):
    """Writes log records among the notes."""

    def emit(self, record: logging.LogRecord) -> None:
        console.print(Text(self.format(record), style="dim"))


_log_lines = _LogLines()
_log_lines.setFormatter(
    logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", datefmt="%H:%M:%S")
)
_nothing = logging.NullHandler()
"""Drops the log: whatever matters to the user is a note or a complaint."""


def set_verbosity(level: int) -> None:
    """Set how much a command says.

    Args:
        level: -1: complaints only; 0: and notes; 1: and the library's log from INFO; 2: all of it.

    """
    console.quiet = level < 0
    root = logging.getLogger()
    root.removeHandler(_log_lines)
    root.addHandler(_nothing if level < 1 else _log_lines)
    levels = (logging.WARNING, logging.INFO, logging.DEBUG)
    logging.getLogger("seigr_toolset_transmissions").setLevel(levels[max(0, min(level, 2))])


def note_warnings() -> None:
    """Let the user see the library's warnings too, where a command waits for what may go wrong."""
    logging.getLogger().addHandler(_log_lines)
