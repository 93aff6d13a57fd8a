"""What a command says on standard error: notes, complaints, and logs if they are asked for."""

from __future__ import annotations

import logging

from rich.console import Console
from rich.text import Text

__all__ = ["complain", "console", "log_everything", "log_nothing", "note"]

console = Console(stderr=True, soft_wrap=True, highlight=False)
"""Standard error. What is drawn on it, such as a progress bar, stays below the notes."""


def note(text: str) -> None:
    """Tell the user what happens."""
    console.print(Text(f"stt: {text}", style="dim"))


def complain(text: str) -> None:
    """Tell the user what went wrong, and what to do."""
    console.print(Text.assemble(("stt: ", "bold red"), text))


def log_nothing() -> None:
    """Keep the library's log to itself: whatever matters to the user is a note or complaint."""
    logging.getLogger().addHandler(logging.NullHandler())


def log_everything() -> None:
    """Write the log to standard error."""
    logging.basicConfig(
        level=logging.DEBUG, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", force=True
    )
