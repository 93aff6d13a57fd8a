"""`stt listen --raw` and `stt connect --raw`: exact bytes between processes."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import time
from pathlib import Path
from subprocess import DEVNULL, PIPE

import pytest

from cli.processes import CTRL_C, CTRL_D, SHARED_SEED, Stt, cable_to
from helpers.relay import Direction, Fault, Kind
from seigr_toolset_transmissions import NodeConfig
from seigr_toolset_transmissions.cli.main import run

ANY_PORT = "127.0.0.1:0"
BYTES = os.urandom(3_000_000)


@pytest.fixture(autouse=True)
def shared_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT_SHARED_SEED", SHARED_SEED)


def received(data: bytes) -> str:
    """What a receiver says when it has everything."""
    digest = hashlib.sha256(data).hexdigest()
    return rf"stt: received {len(data):,} bytes in \d+\.\d s.*, sha256 {digest}\n"


def test_bytes_go_both_ways_as_they_come_until_an_input_ends(
    capfd: pytest.CaptureFixture[str],
) -> None:
    strange = b"no line end, \xff, \x00, \r\n"
    with (
        Stt("listen", ANY_PORT, "--raw", stdin=PIPE) as listener,
        Stt("connect", listener.address(), "--raw", stdin=PIPE) as peer,
    ):
        for source, target in ((peer, listener), (listener, peer)):
            source.type(strange)
            assert target.stdout.read(len(strange)) == strange

        assert run(["connect", listener.address(), "--raw"]) == 1  # there is one peer
        assert capfd.readouterr().err == "stt: the peer accepts no more sessions at present\n"

        listener.stdin.close()
        assert (listener.end(), peer.end()) == (0, 0)
        assert re.search(received(strange), listener.stderr)


def test_a_broken_cable_costs_no_byte_in_either_direction() -> None:
    faults = [
        Fault(Direction.IN, 500_000, Kind.RST),
        Fault(Direction.OUT, 1_000_000, Kind.FIN),
    ]
    to_peer = BYTES[:1_000_000]
    with (
        Stt("listen", ANY_PORT, "--raw", stdin=PIPE) as listener,
        cable_to(listener.address(), *faults) as cable,
        Stt("connect", cable.address, "--raw", stdin=PIPE) as peer,
    ):
        listener.type(to_peer)
        assert peer.stdout.read(len(to_peer)) == to_peer
        peer.type(BYTES)
        peer.stdin.close()
        assert listener.stdout.read() == BYTES
        assert (listener.end(), peer.end()) == (0, 0)
        assert len(cable.relay.links) == 1 + len(faults)
        assert "is broken" in peer.stderr
        assert re.search(received(BYTES), listener.stderr)


def test_a_ping_does_not_end_a_waiting_listener_and_an_empty_file_does(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with Stt("listen", ANY_PORT, "--raw", stdin=DEVNULL) as listener:
        address = listener.address()
        assert run(["ping", address, "-c", "1"]) == 0
        listener.until("[0-9a-f]{8} has left without sending anything; waiting for the next one\n")
        with Stt("connect", address, "--raw", stdin=DEVNULL) as peer:
            assert (peer.end(), listener.end()) == (0, 0)
            assert re.search("stt: sent 0 bytes in ", peer.stderr)
        assert re.search(received(b""), listener.stderr)
    capfd.readouterr()


def test_senders_may_come_one_after_the_other_even_after_one_was_lost() -> None:
    with Stt("listen", ANY_PORT, "--raw", "--keep") as listener:
        address = listener.address()
        with Stt("connect", address, "--raw", stdin=PIPE) as interrupted:
            interrupted.type(b"half")
            assert listener.stdout.read(4) == b"half"
            interrupted.signal(signal.SIGINT)
            assert interrupted.end() == 130
            assert re.search("interrupted: .* [0-9a-f]{8} is incomplete\n", interrupted.stderr)
        listener.until("stt: received 4 bytes; the transfer is incomplete\n")
        listener.until("stt: the session was lost: the peer aborted the session")

        with Stt("connect", address, "--raw", columns=80) as typed:
            typed.until("connected to")
            typed.type(b"whole\n")
            assert listener.stdout.read(6) == b"whole\n"
            typed.type(CTRL_D)
            assert typed.end() == 0
            listener.until(received(b"whole\n"))

        with Stt("connect", address, "--raw", columns=80) as broken_off:
            broken_off.until("connected to")
            broken_off.type(CTRL_C)  # typed input has no end that could be missing
            assert broken_off.end() == 130
            listener.until("[0-9a-f]{8} has left without sending anything; waiting for the next")

        listener.signal(signal.SIGINT)
        assert listener.end() == 130
        assert listener.stdout.read() == b""


def test_senders_wait_while_the_one_before_them_is_written_for_a_slow_reader(
    tmp_path: Path,
) -> None:
    (tmp_path / "first").write_bytes(BYTES)  # more than the listener takes before it is read
    (tmp_path / "second").write_bytes(b"and more")
    with (
        Stt("listen", ANY_PORT, "--raw", "--keep") as listener,
        (tmp_path / "first").open("rb") as source,
        Stt("connect", listener.address(), "--raw", stdin=source) as first,
        (tmp_path / "second").open("rb") as second_source,
    ):
        first.until("connected to")
        with Stt("connect", listener.address(), "--raw", stdin=second_source) as second:
            assert second.end() == 0
        assert listener.stdout.read(len(BYTES)) == BYTES
        assert first.end() == 0
        assert listener.stdout.read(8) == b"and more"
        listener.until(f"{received(BYTES)}{received(b'and more')}")


def test_interrupted_while_its_reader_is_stuck_it_informs_all_senders_at_once(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_bytes(bytes(20_000_000))  # more than is under way for one sender
    with (
        Stt("listen", ANY_PORT, "--raw", "--keep") as listener,
        (tmp_path / "file").open("rb") as one,
        (tmp_path / "file").open("rb") as other,
        Stt("connect", listener.address(), "--raw", stdin=one) as first,
        Stt("connect", listener.address(), "--raw", stdin=other) as waiting,
    ):
        for sender in (first, waiting):
            sender.until("connected to")
        assert listener.stdout.read(1) == b"\0"
        began = time.monotonic()
        listener.signal(signal.SIGINT)
        assert listener.end() == 130
        assert time.monotonic() - began < NodeConfig().close_timeout
        for sender in (first, waiting):
            assert sender.end() == 1
            failures = (
                "the session was lost: |the peer closed the session before the input had ended"
            )
            assert re.search(failures, sender.stderr)
            assert sender.stdout.read() == b""


def test_when_the_output_cannot_be_written_both_sides_fail(tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(bytes(50_000_000))  # more than all buffers hold
    with (
        (tmp_path / "input").open("rb") as source,
        Path("/dev/full").open("wb") as full,
        Stt("listen", ANY_PORT, "--raw", stdout=full) as listener,
        Stt("connect", listener.address(), "--raw", stdin=source) as peer,
    ):
        assert (listener.end(), peer.end()) == (1, 1)
        complaint = "stt: cannot write to standard output: No space left on device\n"
        assert listener.stderr.endswith(complaint)
        assert "the transfer is incomplete" in listener.stderr
        # What was accepted is lost, or all of that has arrived but the input was not over.
        failures = "the session was lost: |the peer closed the session before the input had ended"
        assert re.search(failures, peer.stderr)
        for side in (listener, peer):
            assert "Traceback" not in side.stderr
