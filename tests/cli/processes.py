"""The `stt` command as a process of its own, for tests that look at it from outside."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Thread
from typing import IO, TYPE_CHECKING, Any, Self

from anyio.from_thread import BlockingPortal, start_blocking_portal

from helpers.relay import Fault, Kind, Plan, Relay

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator
    from types import TracebackType

__all__ = [
    "CTRL_C",
    "CTRL_D",
    "MODULE",
    "PATIENCE",
    "SHARED_SEED",
    "Cable",
    "Stt",
    "cable_to",
    "descendants",
    "environment",
    "run_stt",
]

CTRL_C, CTRL_D = b"\x03", b"\x04"
"""What a terminal makes of these keys."""

MODULE = [sys.executable, "-m", "seigr_toolset_transmissions.cli"]
_ON_TERMINAL = """
import os, sys
os.login_tty(os.dup(0))
from seigr_toolset_transmissions.cli.main import run
sys.exit(run())
"""
_SAMPLE_SECONDS = 0.02
PATIENCE = 30.0
"""Seconds; far more than anything takes, and less than the test's own time limit."""

SHARED_SEED = "the tests' own shared seed"


def environment(**variables: str) -> dict[str, str]:
    """The tests' environment, without seeds of the user's and with a shared one."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STT_")}
    return inherited | {"STT_SHARED_SEED": SHARED_SEED, "COLUMNS": "100"} | variables


def run_stt(
    *arguments: str,
    stdin: bytes = b"",
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    patience: float = PATIENCE,
) -> subprocess.CompletedProcess[bytes]:
    """Run the command to its end."""
    return subprocess.run(
        [*MODULE, *arguments],
        input=stdin,
        capture_output=True,
        timeout=patience,
        env=environment() if env is None else env,
        cwd=cwd,
        check=False,
    )


class Stt:
    """A running command. Leaving the context kills it, if it has not ended.

    Args:
        arguments: The command's.
        stdin: As for `subprocess`.
        stdout: As for `subprocess`.
        columns: Run it at a terminal so wide, which is its standard input, output and error then:
            `type` types there, and `stderr` has all that the terminal was sent.
        terminal_type: What ``TERM`` says of the terminal.
        cwd: Its working directory, unless it runs at a terminal; the tests' if None.

    """

    def __init__(
        self,
        *arguments: str,
        stdin: int | IO[Any] = subprocess.DEVNULL,
        stdout: int | IO[Any] = subprocess.PIPE,
        columns: int = 0,
        terminal_type: str = "xterm",
        cwd: Path | None = None,
    ) -> None:
        self.terminal = -1
        """The descriptor of its terminal; -1: it has none."""
        if columns:
            self.terminal, its_end = os.openpty()
            fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
            self.process = subprocess.Popen(
                [sys.executable, "-c", _ON_TERMINAL, *arguments],
                stdin=its_end,
                stdout=its_end,
                stderr=its_end,
                env=environment(TERM=terminal_type, COLUMNS=str(columns), LINES="24"),
            )
            os.close(its_end)
        else:
            self.process = subprocess.Popen(
                [*MODULE, *arguments],
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.PIPE,
                env=environment(),
                cwd=cwd,
                start_new_session=True,
            )
        self.peak_bytes = 0
        """The most memory that it has had so far.

        Not what `os.wait4` tells: that counts what the tests had when they started the process.
        """
        self._stderr = ""
        self._news = Condition()
        self._reader = Thread(target=self._read_stderr, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self.process.returncode is None:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        if self.terminal >= 0:
            os.close(self.terminal)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    @property
    def stdin(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    @property
    def stderr(self) -> str:
        """What it has said on standard error so far."""
        with self._news:
            return self._stderr

    def type(self, text: bytes) -> None:
        """Write to its standard input, or type at its terminal."""
        if self.terminal >= 0:
            os.write(self.terminal, text)
        else:
            self.stdin.write(text)
            self.stdin.flush()

    def until(self, pattern: str) -> re.Match[str]:
        """Wait until its standard error matches."""
        end = time.monotonic() + PATIENCE
        with self._news:
            while (match := re.search(pattern, self._stderr)) is None:
                left = end - time.monotonic()
                assert left > 0, f"no {pattern!r} in {self._stderr!r}"
                assert self._reader.is_alive(), f"ended without {pattern!r}: {self._stderr!r}"
                self._news.wait(min(left, 0.2))
            return match

    def address(self) -> str:
        """Wait until it listens; return where."""
        port = self.until(r"listening on \S*:(\d+) as ")[1]
        return f"127.0.0.1:{port}"

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait for its end; return its exit code (of a signal: its number, negative)."""
        deadline = time.monotonic() + PATIENCE
        while (code := self.process.poll()) is None:
            assert time.monotonic() < deadline, f"does not end; it said {self.stderr!r}"
            time.sleep(0.01)
        self._reader.join()
        return code

    def _read_stderr(self) -> None:
        stderr = self.process.stderr
        descriptor = self.terminal if stderr is None else stderr.fileno()
        decoder = codecs.getincrementaldecoder("utf-8")()
        with contextlib.suppress(OSError):  # as Linux has it when a terminal's other end is closed
            while True:
                self._look_at_memory()
                if not select.select([descriptor], [], [], _SAMPLE_SECONDS)[0]:
                    continue
                chunk = os.read(descriptor, 65_536)
                if not chunk:
                    return
                with self._news:
                    self._stderr += decoder.decode(chunk)
                    self._news.notify_all()

    def _look_at_memory(self) -> None:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            if peak := re.search(r"VmHWM:\s+(\d+) kB", status):
                self.peak_bytes = int(peak[1]) * 1024


@dataclass(frozen=True)
class Cable:
    """A relay on the way to a command that listens. It works in a thread of its own."""

    relay: Relay
    portal: BlockingPortal

    @property
    def address(self) -> str:
        """Where the cable begins."""
        host, port = self.relay.address
        return f"{host}:{port}"

    def cut(self) -> None:
        """Reset the connection that was made last."""
        self.portal.call(self.relay.links[-1].cut, Kind.RST)


@contextlib.contextmanager
def cable_to(address: str, *faults: Fault | None) -> Iterator[Cable]:
    """Lay a cable to there; ``faults`` befall its first connections, one each, None for none."""
    host, _, port = address.partition(":")
    relay = Relay((host, int(port)))
    relay.plan(*(Plan(fault) for fault in faults))
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(relay):
        yield Cable(relay, portal)


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, as far as they live."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    found = [int(child) for child in children.read_text().split()]
    return [*found, *(further for child in found for further in descendants(child))]
