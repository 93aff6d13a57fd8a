"""`stt send`: files between processes."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from cli.processes import CTRL_C, SHARED_SEED, Stt, cable_to
from helpers.relay import Direction, Fault, Kind
from seigr_toolset_transmissions.cli.main import run

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024 * 1024
ANY_PORT = "127.0.0.1:0"


@pytest.fixture(autouse=True)
def shared_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT_SHARED_SEED", SHARED_SEED)


def random_file(path: Path, size: int) -> str:
    """Write a file of random bytes; return its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, size, MIB):
            chunk = os.urandom(min(MIB, size - start))
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_a_large_file_arrives_whole_and_takes_little_memory_on_either_side(tmp_path: Path) -> None:
    size = 256 * MIB
    digest = random_file(tmp_path / "large.bin", size)
    with (
        (tmp_path / "received.bin").open("wb") as target,
        Stt("listen", ANY_PORT, "--raw", stdout=target) as listener,
        Stt("send", listener.address(), str(tmp_path / "large.bin")) as sender,
    ):
        assert (sender.end(), listener.end()) == (0, 0)
        said = rf"{size:,} bytes in \d+\.\d s \(.* MB/s\), sha256 {digest}\n"
        assert re.fullmatch("sent " + said, sender.stdout.read().decode())
        assert re.search("stt: received " + said, listener.stderr)
    assert digest_of(tmp_path / "received.bin") == digest
    for side in (sender, listener):
        assert 20 * MIB < side.peak_bytes < 150 * MIB


def test_a_broken_cable_costs_no_byte_and_shows_beside_the_progress(tmp_path: Path) -> None:
    name = "a file with a name that is longer than half of the terminal's width"
    size = 20 * MIB  # more than is under way while nobody reads the listener's output
    digest = random_file(tmp_path / name, size)
    later = Fault(Direction.OUT, 2 * MIB, Kind.RST)
    with (
        Stt("listen", ANY_PORT, "--raw") as listener,
        cable_to(listener.address(), None, later) as cable,
        Stt("send", cable.address, str(tmp_path / name), columns=80) as sender,
    ):
        sender.until("connected to")
        cable.relay.down = True
        cable.cut()
        sender.until(r"\(no connection\)")
        cable.relay.down = False
        assert hashlib.sha256(listener.stdout.read()).hexdigest() == digest
        assert (sender.end(), listener.end()) == (0, 0)
        assert len(cable.relay.links) == 3
        for side in (sender, listener):
            assert "is broken; it has 120 s to come back" in side.stderr
            assert "is back" in side.stderr
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sender.stderr)
        last_line = r"\ra file with a name that… ━+ 21\.0/21\.0 MB [^(\r]+\r\nsent "
        assert re.search(last_line, shown)
        assert f"sha256 {digest}" in shown


def test_an_empty_file_and_a_pipe_can_be_sent_and_what_cannot_be_read_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    with Stt("listen", ANY_PORT, "--raw", "--keep", "--wait", "0.2") as listener:
        address = listener.address()
        assert run(["send", address, str(tmp_path / "empty")]) == 0
        assert capfd.readouterr().out.startswith("sent 0 bytes in ")
        listener.until("stt: received 0 bytes in ")

        writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(b"piped",))
        writer.start()
        assert run(["send", address, str(tmp_path / "pipe")]) == 0
        writer.join()
        assert capfd.readouterr().out.startswith("sent 5 bytes in ")
        assert listener.stdout.read(5) == b"piped"
        listener.until("stt: received 5 bytes in ")

        # Opens well, and has nothing at its first address.
        assert run(["send", address, "/proc/self/mem"]) == 1
        assert capfd.readouterr().err.endswith("stt: cannot read mem: Input/output error\n")
        listener.until("stt: received 0 bytes, and not the end\n")


def test_an_interrupted_file_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (
        Stt("listen", ANY_PORT, "--raw") as listener,  # it would wait two minutes if not told
        Stt("send", listener.address(), str(tmp_path / "pipe"), columns=80) as sender,
        (tmp_path / "pipe").open("wb", buffering=0) as pipe,
    ):
        pipe.write(b"half")
        assert listener.stdout.read(4) == b"half"
        sender.type(CTRL_C)
        assert sender.end() == 130
        assert "^C" not in sender.stderr  # it would stand in the middle of the drawing
        assert "Traceback" not in sender.stderr
        assert listener.end() == 1
        assert "stt: received 4 bytes, and not the end\n" in listener.stderr
        assert "stt: the session was lost: the peer aborted the session" in listener.stderr


@pytest.mark.parametrize("how", ["interrupted", "killed"])
def test_the_sender_is_told_when_the_receiver_ends_too_early(tmp_path: Path, how: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (
        Stt("listen", ANY_PORT, "--raw") as listener,
        Stt("send", listener.address(), "--wait", "0.2", str(tmp_path / "pipe")) as sender,
        (tmp_path / "pipe").open("wb", buffering=0) as pipe,
    ):
        pipe.write(b"half")
        assert listener.stdout.read(4) == b"half"
        if how == "interrupted":
            listener.signal(signal.SIGINT)
            assert listener.end() == 130
            pipe.write(b"more")
            why = "the peer has closed the session"
        else:
            listener.process.kill()
            pipe.write(b"more")
            sender.until("is broken")
            pipe.close()
            why = "no connection for 0.2 s"
        assert sender.end() == 1
        assert f"stt: {tmp_path}/pipe has not arrived as a whole: {why}" in sender.stderr
        assert sender.stdout.read() == b""
