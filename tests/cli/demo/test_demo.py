"""`stt demo`: a whole run as a new user sees it, and every way in which it can end."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from cli.processes import PATIENCE, Stt, descendants
from seigr_toolset_transmissions.cli.demo import cast, show, single
from seigr_toolset_transmissions.cli.running import run_until_done

pytestmark = pytest.mark.once

PEERS = ("ada", "ben", "cleo", "dana")
_LOCAL_FLAGS = 3


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def read_until(stt: Stt, text: bytes) -> None:
    while text not in stt.stdout.readline():
        assert stt.process.poll() is None


def echoes(terminal: int) -> bool:
    return bool(termios.tcgetattr(terminal)[_LOCAL_FLAGS] & termios.ECHO)


def test_a_whole_run_on_a_terminal_of_80_columns_shows_what_it_promises() -> None:
    with Stt("demo", "--fast", columns=80) as stt:
        stt.until("Four peers join")
        assert not echoes(stt.terminal)
        assert stt.end() == 0, stt.stderr.rpartition("checks failed")[2]
        assert echoes(stt.terminal)
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stt.stderr).replace("\r", "\n")
    lines = text.split("\n")
    assert max(cell_len(line) for line in lines) <= 80
    final = "\n".join(line.strip("│ ") for line in lines)
    for expected in (
        # Who is there, with metadata and round-trip times
        r"ada    sensor    north    [0-9a-f]{8}   connected      \d+\.\d\d ms",
        r"ben    sensor    south    [0-9a-f]{8}   connected      \d+\.\d\d ms",
        r"cleo   storage   north    [0-9a-f]{8}   connected      \d+\.\d\d ms",
        r"dana   display   south    [0-9a-f]{8}   connected      \d+\.\d\d ms",
        r"eve    display   north    00010203   disconnected",
        # Sending to one, to many, to all
        "✓ to one: ben has it",
        "✓ to type=sensor: ada and ben have it",
        "✓ to all: four have it",
        "eve   unreachable",
        # Receiving from one and from any
        r"✓ receive_from\(dana\): \"dana here\"",
        r"✓ receive_any\(\): \"cleo here\"",
        # The stranger
        "✓ mallory gets no session",
        r"error handshake_failed",
        # The cable
        r"session_suspended cleo",
        r"session_resumed cleo",
        r"✓ \d+ bytes went into the cut cable",
        "✓ cleo to hub: 400 of 400, once, in order",
        "✓ hub to cleo: 400 of 400, once, in order",
        "✓ it is the same session, resumed",
        # The summary
        r"hub with   sent   bytes   received   bytes   resumed",
        r"cleo +401 +1,502 +402 +1,553 +[1-9]",
        r"4 sessions, [1-9] resumed, 0 lost; [4-9] attempts",
        r"All 23 checks passed in \d+\.\d s\. ",
        "stt connect HOST:9000 --shared shared.seed",
    ):
        assert re.search(expected, final), expected
    assert "✗" not in final


def test_ctrl_c_while_peers_are_connected_leaves_no_process_behind() -> None:
    with Stt("demo") as stt:
        read_until(stt, b"event peer_connected")
        children = descendants(stt.process.pid)
        assert len(children) == len(PEERS)
        stt.signal(signal.SIGINT)
        assert stt.end() == 130
        assert not any(alive(child) for child in children)
        assert stt.stderr == "stt: interrupted: the demo was not finished\n"
        assert b"checks" not in stt.stdout.read()


def test_sigterm_while_peers_are_starting_leaves_no_process_behind() -> None:
    with Stt("demo") as stt:
        read_until(stt, b"the hub listens on")
        stt.signal(signal.SIGTERM)
        children = descendants(stt.process.pid)
        assert stt.end() == 143
        assert not any(alive(child) for child in children)
        assert stt.stderr == "stt: interrupted: the demo was not finished\n"


def test_peers_of_a_demo_that_is_killed_end_by_themselves() -> None:
    with Stt("demo") as stt:
        deadline = time.monotonic() + PATIENCE
        while len(children := descendants(stt.process.pid)) < len(PEERS):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        stt.process.kill()
        stt.process.wait()
        while any(alive(child) for child in children):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_peer_without_a_part_to_play_exits_at_once() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "seigr_toolset_transmissions.cli.demo.peer"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


def test_when_nobody_reads_the_output_it_ends_in_silence() -> None:
    with Stt("demo") as stt:
        assert b"Seigr" in stt.stdout.readline()
        stt.stdout.close()
        assert stt.end() == 1
        assert stt.stderr == ""


def play(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Play the demo in this process; return its exit code and what it has shown."""
    output = io.StringIO()
    code = run_until_done(single.run_demo(Console(file=output, width=100), fast=True))
    assert capsys.readouterr() == ("", "")
    return code, output.getvalue()


def test_a_peer_that_dies_fails_the_demo_with_its_last_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = [sys.executable, "-c", "import sys; input(); sys.exit('out of order')"]
    monkeypatch.setattr(cast, "_command", lambda: dying)
    code, shown = play(capsys)
    assert code == 1
    assert "== 2 of 7" not in shown
    assert "1 of 1 checks failed:" in shown
    why = "step 1 of 7 ends: the process of ada ended too early: out of order"
    assert shown.endswith(f"\n  {why}\n")


def test_a_peer_that_cannot_be_started_fails_the_demo(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cast, "_command", lambda: ["/nowhere/python"])
    code, shown = play(capsys)
    assert code == 1
    assert "cannot start a process for ada: [Errno 2] No such file or directory" in shown


def test_a_peer_that_hangs_fails_the_demo_and_is_killed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(show, "STEP_SECONDS", 0.2)
    monkeypatch.setattr(cast, "_END_SECONDS", 0.1)
    hanging = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr(cast, "_command", lambda: hanging)
    code, shown = play(capsys)
    assert code == 1
    assert "step 1 of 7 ends: not within " in shown
    assert descendants(os.getpid()) == []


@pytest.mark.parametrize("found", [True, False])
def test_the_commands_at_the_end_begin_with_the_environment_if_the_shell_does_not_find_stt(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    found: bool,
) -> None:
    programs = tmp_path / "my env" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").touch()
    (programs / "stt").touch(0o700)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "prefix", str(programs.parent))
    monkeypatch.setenv("PATH", str(programs) if found else "")
    monkeypatch.setattr(single._Show, "steps", ())
    code, shown = play(capsys)
    assert code == 0
    commands = [line.strip() for line in shown.rpartition("your own:\n")[2].splitlines()]
    assert commands[0].startswith("stt keygen" if found else ". 'my env/bin/activate' ")
