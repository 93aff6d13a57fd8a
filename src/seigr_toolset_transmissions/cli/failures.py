"""How a command ends: its exit codes, and the errors that carry one."""

from __future__ import annotations

import sys

__all__ = [
    "FAILED",
    "HANDLER_FAILED",
    "INTERRUPTED",
    "OK",
    "TERMINATED",
    "UNCERTAIN",
    "USAGE",
    "Failure",
    "Interrupted",
    "Misuse",
    "need_python",
]

OK = 0
FAILED = 1
"""It could not be done: not reached, refused, lost, not written."""
USAGE = 2
"""The request makes no sense: a wrong option, address or seed."""
HANDLER_FAILED = 3
"""A request reached its handler, which failed."""
UNCERTAIN = 4
"""Nobody knows whether a request was handled."""
INTERRUPTED = 130
"""Ctrl-C: 128 and the number of SIGINT, as shells have it."""
TERMINATED = 143
"""SIGTERM, likewise."""


class Failure(Exception):  # noqa: N818 - its text is what the user reads
    """The command failed. The text is one line that says what to do; empty: say nothing."""

    exit_code = FAILED


class Misuse(Failure):
    """The user asked for something that makes no sense."""

    exit_code = USAGE


class Interrupted(BaseException):
    """A signal told the command to end, and it has cleaned up."""

    def __init__(self, exit_code: int) -> None:
        super().__init__()
        self.exit_code = exit_code


def need_python(command: str) -> None:
    """Check that more Python processes can be started.

    Raises:
        Failure: This is a frozen program, which would start itself instead.

    """
    if getattr(sys, "frozen", False):
        raise Failure(
            f"`stt {command}` starts processes of Python, which a frozen program cannot: install "
            "the package and run it from there"
        )
