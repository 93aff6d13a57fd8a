"""`stt demo --cluster`: whole runs over both ways to meet, and runs that end early."""

from __future__ import annotations

import io
import re
import signal
import time
from typing import TYPE_CHECKING

import pytest
from rich.cells import cell_len
from rich.console import Console

from cli.demo.test_demo import alive, read_until
from cli.processes import PATIENCE, Stt, descendants
from helpers.nats_server import needs_nats
from seigr_toolset_transmissions.cli.demo import cluster, show
from seigr_toolset_transmissions.cli.running import run_until_done

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.once

SHOWN = (
    r"hub-2 +\d+ +hub-1, hub-3",
    "✓ each has a link with both others",
    "✓ all see one node",
    "✓ two at each hub",
    r"✓ to \w+, who is at hub-3",
    r"✓ find\(type=sensor\): ada and dana",
    "✓ broadcast: six have it",
    "hub-2 is back",
    "✓ 200 of 200 to each, once, in order",
    "hub-3 is killed",
    r"\d+ of 1200 arrived; \d+ reported",
    "✓ nothing is lost without a word",
    "✓ nothing came twice",
    "hub-3 +killed",
    "✓ its peers are at other hubs",
    "All 11 checks passed in",
)


def check(text: str) -> None:
    assert "✗" not in text
    for expected in SHOWN:
        assert re.search(expected, text), expected


@needs_nats
def test_a_whole_run_at_a_nats_server_on_a_terminal_of_80_columns() -> None:
    with Stt("demo", "--cluster", "--fast", columns=80) as stt:
        assert stt.end() == 0, stt.stderr.rpartition("checks failed")[2]
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stt.stderr).replace("\r", "\n")
    assert max(cell_len(line) for line in text.split("\n")) <= 80
    assert "they meet at NATS" in text
    check(text)


def play(monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Play the demo in this process, without a NATS server; return its exit code and output."""
    monkeypatch.setattr(cluster, "find_server", lambda: None)
    output = io.StringIO()
    console = Console(file=output, width=100)
    return run_until_done(cluster.run_cluster_demo(console, fast=True)), output.getvalue()


def test_a_whole_run_over_unix_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    code, text = play(monkeypatch)
    assert code == 0, text
    assert "they meet at Unix sockets" in text
    check(text)


def test_a_server_that_does_not_start_fails_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "STEP_SECONDS", 0.2)
    monkeypatch.setattr(cluster, "find_server", lambda: "false")
    output = io.StringIO()
    console = Console(file=output, width=100)
    assert run_until_done(cluster.run_cluster_demo(console, fast=True)) == 1
    assert "step 1 of 6 ends: " in output.getvalue()


def test_ctrl_c_leaves_no_process_behind() -> None:
    with Stt("demo", "--cluster") as stt:
        read_until(stt, b"all see one node")
        children = descendants(stt.process.pid)
        assert len(children) >= 3
        stt.signal(signal.SIGINT)
        assert stt.end() == 130
        assert not any(alive(child) for child in children)
        assert stt.stderr == "stt: interrupted: the demo was not finished\n"


def test_hubs_and_broker_of_a_demo_that_is_killed_end_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # what it cannot remove goes with it
    with Stt("demo", "--cluster") as stt:
        read_until(stt, b"each has a link with both others")
        children = descendants(stt.process.pid)
        stt.process.kill()
        stt.process.wait()
        deadline = time.monotonic() + PATIENCE
        while any(alive(child) for child in children):
            assert time.monotonic() < deadline
            time.sleep(0.01)
