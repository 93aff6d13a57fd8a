"""How a command's errors end it."""

from __future__ import annotations

import errno
import sys

import click
import pytest

from seigr_toolset_transmissions import STTError
from seigr_toolset_transmissions.cli.boundary import guarded
from seigr_toolset_transmissions.cli.failures import Failure, Interrupted, Misuse

GUESS = "No 'x'. Did you mean 'y'?"


def end_of(error: BaseException | None, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run a command that ends this way; return its exit code and output."""

    @click.command()
    def command() -> None:
        if error is not None:
            raise error

    code = guarded(command, [])
    output = capsys.readouterr()
    assert output.out == ""
    return code, output.err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 0, ""),
        (Failure("it was lost"), 1, "stt: it was lost\n"),
        (Failure(), 1, ""),
        (Misuse("write HOST:PORT"), 2, "stt: write HOST:PORT\n"),
        (STTError("refused"), 1, "stt: refused\n"),
        (click.UsageError("no such option."), 2, "stt: no such option; see `stt --help`\n"),
        (click.UsageError(GUESS), 2, f"stt: {GUESS} See `stt --help`\n"),
        (Interrupted(143), 143, ""),
        (KeyboardInterrupt(), 130, "\n"),  # ends the line in which the terminal shows ^C
        (click.Abort(), 130, ""),
    ],
    ids=repr,
)
def test_an_end_is_an_exit_code_and_at_most_one_line(
    error: BaseException | None, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end_of(error, capsys) == (code, said)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "stt: cannot write to standard output: No space left on device\n",
        ),
        (
            OSError(errno.EMFILE, "Too many open files"),
            "stt: Too many open files: close some, or allow more with `ulimit -n`\n",
        ),
    ],
    ids=repr,
)
def test_an_error_of_the_system_fails_the_command(
    error: OSError, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert end_of(error, capfd) == (1, said)
    sys.stdout.write("what is still buffered")
    sys.stdout.flush()
    assert capfd.readouterr().out == ""


def test_a_bug_is_not_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        end_of(ZeroDivisionError(), capsys)
