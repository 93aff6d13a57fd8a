"""The demo's screen: on terminals of several widths, and where there is none."""

from __future__ import annotations

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from seigr_toolset_transmissions.cli.demo.stage import Stage


class AsciiOutput(io.StringIO):
    encoding = "ascii"


def play(console: Console) -> Stage:
    with Stage(console, fast=True) as stage:
        stage.step("1 of 1  A title", "An explanation that goes on for longer than most lines " * 3)
        stage.gauge(lambda: Text("a gauge"))
        stage.line("a line")
        stage.check("well", ok=True)
        stage.check("badly", ok=False, why="for a reason")
        for number in range(12):
            stage.event("data_received", f"peer {number}")
        stage.ungauge()
        stage.close()
        stage.event("peer_disconnected", "too late")
    return stage


@pytest.mark.parametrize("width", [40, 60, 80, 104, 120, 300])
def test_a_step_is_a_panel_that_fits_and_is_never_too_wide_to_read(width: int) -> None:
    file = io.StringIO()
    stage = play(Console(file=file, width=width, height=40, force_terminal=True))
    assert (stage.passed, stage.failed) == (1, ["badly: for a reason"])
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", file.getvalue())
    panel = "╭─ 1 of 1" + drawn.rpartition("╭─ 1 of 1")[2].rstrip("\n")  # drawn over the others
    assert {cell_len(line) for line in panel.split("\n")} == {min(width, 104)}
    assert "✓ well" in panel
    assert "✗ badly: for a reason" in panel
    assert "data_received peer 11 " in panel
    assert "a gauge" in panel
    assert "4 events before" in panel
    assert "too late" not in panel


def test_without_a_terminal_everything_is_a_plain_line_as_it_happens() -> None:
    file = AsciiOutput()
    play(Console(file=file, width=80))
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    assert lines[1] == "== 1 of 1  A title"
    assert "  ok well" in lines
    assert "  FAILED badly: for a reason" in lines
    assert sum("event data_received peer" in line for line in lines) == 12
    assert "a gauge" in lines
    assert not any("\x1b" in line or "╭" in line for line in lines)
