"""Keeping what is typed, and the ``^C`` that a terminal shows, apart from what a command says."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from .streams import STDERR, STDIN

try:
    import termios
except ImportError:  # as on Windows
    _HAS_TERMIOS = False
else:
    _HAS_TERMIOS = True

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["start_line", "unechoed"]

_LOCAL_FLAGS = 3
"""Where `termios.tcgetattr` has them."""


@contextmanager
def unechoed() -> Iterator[None]:
    """Keep the terminal from showing what is typed, until the end of the block.

    Does nothing if standard input is no terminal, or another program's at present, or where the
    system has no such terminals.
    """
    if not _HAS_TERMIOS:
        yield
        return
    try:
        ours = os.isatty(STDIN) and os.tcgetpgrp(STDIN) == os.getpgrp()
        before = termios.tcgetattr(STDIN) if ours else None
    except (OSError, termios.error):
        before = None
    if before is None:
        yield
        return
    quiet = before.copy()
    quiet[_LOCAL_FLAGS] &= ~termios.ECHO
    termios.tcsetattr(STDIN, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(STDIN, termios.TCSANOW, before)


def start_line() -> None:
    """Start a new line on standard error if it is a terminal that has just shown a ``^C``."""
    if not _HAS_TERMIOS:
        return
    try:
        flags = termios.tcgetattr(STDERR)[_LOCAL_FLAGS]
    except termios.error:  # it is no terminal
        return
    if flags & termios.ECHO and flags & termios.ECHOCTL:
        with suppress(OSError):
            os.write(STDERR, b"\n")
