"""A file through the command line: ``stt send`` to ``stt receive``, compared on arrival.

The clock runs from the start of the command to its end. It includes starting Python, deriving keys
and the handshake, because a user waits for those too.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.peers import OWN
from benchmarks.peers.base import HOST
from benchmarks.processes import Failure

from .base import Case, Key, Metric, Sample, Setting
from .pairs import BLOCKING

if TYPE_CHECKING:
    from typing import IO

__all__ = ["Files", "rate"]

_MEGABYTES = 512
_QUICK_MEGABYTES = 64
_SECONDS = 60.0
_COMMAND = [sys.executable, "-m", "seigr_toolset_transmissions.cli"]


def rate(megabytes: int) -> Metric:
    """Return the metric of a file's megabytes divided by the seconds the command takes."""
    return Metric("a file through `stt send`", megabytes, "MB/s", 0, more_is_better=True, of="MB")


class Files:
    """The user's command."""

    name = "files"

    def cases(self, setting: Setting) -> list[Case]:
        """Return one case, on the loop that the command uses."""
        if self.missing() is not None:
            return []
        megabytes = _QUICK_MEGABYTES if setting.quick else _MEGABYTES
        return [Case(OWN, "a file", partial(_measure, megabytes))]

    def missing(self) -> str | None:
        """Return why it cannot be measured, or None."""
        absent = [name for name in ("click", "rich") if importlib.util.find_spec(name) is None]
        return f"no module {', '.join(absent)}" if absent else None


def _measure(megabytes: int) -> list[Sample]:
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        sent, inbox = Path(directory) / "sent", Path(directory) / "inbox"
        inbox.mkdir()
        digest = _write_random(sent, megabytes)
        environment = os.environ | {"STT_SHARED_SEED": secrets.token_hex(32)}
        receiving = [*_COMMAND, "receive", f"{HOST}:0", str(inbox), "--once"]
        with subprocess.Popen(receiving, env=environment, stderr=subprocess.PIPE) as receiver:
            try:
                assert receiver.stderr is not None
                sending = [*_COMMAND, "send", f"{HOST}:{_port(receiver.stderr)}", str(sent)]
                begun = time.perf_counter()
                _complete(sending, environment)
                seconds = time.perf_counter() - begun
                receiver.wait(_SECONDS)
            except subprocess.TimeoutExpired as error:
                raise Failure(str(error)) from None
            finally:
                receiver.kill()
        with (inbox / sent.name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").digest() != digest:
                raise Failure("the file that arrived is not the one that was sent")
    return [Sample(Key(rate(megabytes), BLOCKING, OWN), megabytes / seconds)]


def _write_random(path: Path, megabytes: int) -> bytes:
    """Write a file that cannot be compressed; return its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(megabytes):
            block = secrets.token_bytes(1_000_000)
            digest.update(block)
            file.write(block)
    return digest.digest()


def _port(said: IO[bytes]) -> str:
    """Read the output of a listening command until it names its port; return the port."""
    for line in said:
        if match := re.search(rb"listening on \S*:(\d+) as ", line):
            return match[1].decode()
    raise Failure("`stt receive` ended without saying where it listens")


def _complete(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(
        command, env=environment, capture_output=True, timeout=_SECONDS, check=False
    )
    if done.returncode != 0:
        raise Failure(done.stderr.decode(errors="replace"))
