"""Terminals whose echo is turned off; `stt demo` and `stt send` show it at their own."""

from __future__ import annotations

import os
import termios
from typing import TYPE_CHECKING

from seigr_toolset_transmissions.cli import keyboard

if TYPE_CHECKING:
    import pytest


def test_a_terminal_that_is_another_programs_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()  # it controls nobody
    monkeypatch.setattr(keyboard, "STDIN", theirs)
    before = termios.tcgetattr(theirs)
    with keyboard.unechoed():
        assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def test_what_is_no_terminal_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr(keyboard, "STDIN", reading)
    with keyboard.unechoed():
        os.write(writing, b"x")
        assert os.read(reading, 1) == b"x"
    os.close(reading)
    os.close(writing)
