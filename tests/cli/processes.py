"""The `stt` command as a process of its own, for tests that look at it from outside."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from threading import Condition, Thread
from typing import IO, TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import signal
    from types import TracebackType

__all__ = ["MODULE", "Stt", "descendants", "environment", "run_stt"]

MODULE = [sys.executable, "-m", "seigr_toolset_transmissions.cli"]
PATIENCE = 30.0
"""Seconds; far more than anything takes, and less than the test's own time limit."""

SHARED_SEED = "the tests' own shared seed"


def environment(**variables: str) -> dict[str, str]:
    """The tests' environment, without seeds of the user's and with a shared one."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STT_")}
    return inherited | {"STT_SHARED_SEED": SHARED_SEED, "COLUMNS": "100"} | variables


def run_stt(
    *arguments: str, stdin: bytes = b"", env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run the command to its end."""
    return subprocess.run(
        [*MODULE, *arguments],
        input=stdin,
        capture_output=True,
        timeout=PATIENCE,
        env=environment() if env is None else env,
        cwd=cwd,
        check=False,
    )


class Stt:
    """A running command. Leaving the context kills it, if it has not ended."""

    def __init__(
        self,
        *arguments: str,
        stdin: int | IO[Any] = subprocess.DEVNULL,
        stdout: int | IO[Any] = subprocess.PIPE,
        env: dict[str, str] | None = None,
    ) -> None:
        self.process = subprocess.Popen(
            [*MODULE, *arguments],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=environment() if env is None else env,
            start_new_session=True,
        )
        self.peak_bytes = 0
        """The most memory that it had at any time; known when it has ended."""
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
        """Write to its standard input."""
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
        while True:
            pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                break
            assert time.monotonic() < deadline, f"does not end; it said {self.stderr!r}"
            time.sleep(0.01)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        # In KiB, but on macOS in bytes.
        self.peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        self._reader.join()
        return self.process.returncode

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        while chunk := os.read(self.process.stderr.fileno(), 65_536):
            with self._news:
                self._stderr += chunk.decode()
                self._news.notify_all()


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, as far as they live."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    found = [int(child) for child in children.read_text().split()]
    return [*found, *(further for child in found for further in descendants(child))]
