"""The entry point of the `stt` command.

It needs nothing but the library itself, so that it can say what to install.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .failures import FAILED, INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["run"]

_EXTRA = ("click", "prompt_toolkit", "rich", "textual")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code.

    Args:
        arguments: What follows the program's name; None: the arguments of the process.

    """
    _open_standard_streams()
    try:
        with _interruptible():
            from .app import main  # noqa: PLC0415 - needs the extra
        return main(sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt:
        return INTERRUPTED
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        sys.stderr.write(
            f"stt: {missing} is missing: run `pip install 'seigr-toolset-transmissions[cli]'`\n"
        )
        return FAILED


@contextmanager
def _interruptible() -> Iterator[None]:
    """Make Ctrl-C end the process at once and silently: there is nothing to clean up yet.

    An exception would not do: in parts of its import system, Python only prints exceptions.
    """
    try:
        before = signal.getsignal(signal.SIGINT)
        if before is not signal.default_int_handler:  # in the background of a shell, it is ignored
            yield
            return
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    except ValueError:  # not in the main thread, which alone gets signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _open_standard_streams() -> None:
    """Open standard descriptors that the caller has closed, so that no socket gets their numbers.

    Reading standard input then finds its end, writing to standard output fails, and what goes to
    standard error is dropped.
    """
    for descriptor, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # gets the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # whatever the terminal cannot show
