"""Where the errors of a command become one line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING

import click

from .. import STTError
from .failures import FAILED, INTERRUPTED, OK, USAGE, Failure, Interrupted
from .notes import complain

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["guarded"]


def guarded(command: click.Command, arguments: Sequence[str]) -> int:
    """Run the command; return its exit code. Only a bug of ours raises anything."""
    try:
        result = command.main(list(arguments), prog_name="stt", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        complain(_usage(error))
        return USAGE
    except Failure as error:
        if str(error):
            complain(str(error))
        return error.exit_code
    except STTError as error:
        complain(str(error))
        return FAILED
    except Interrupted as error:
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            complain(f"{error.strerror}: close some, or allow more with `ulimit -n`")
        elif not isinstance(error, BrokenPipeError):  # then whoever read it has had enough
            complain(f"cannot write to standard output: {error.strerror or error}")
        # What is still buffered goes nowhere, quietly.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return result if isinstance(result, int) else OK


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    path = "stt" if context is None else context.command_path
    message = " ".join(error.format_message().split()).removesuffix(".")
    see = " See" if message.endswith("?") else "; see"
    return f"{message}{see} `{path} --help`"
