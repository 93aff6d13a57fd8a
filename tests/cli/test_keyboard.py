"""What terminals show of the keyboard; `stt demo` and `stt send` keep it quiet at their own."""

from __future__ import annotations

import os
import termios
from typing import TYPE_CHECKING

from seigr_toolset_transmissions.cli import keyboard

if TYPE_CHECKING:
    import pytest


def test_a_terminal_of_another_program_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()  # it is not a controlling terminal
    monkeypatch.setattr(keyboard, "STDIN", theirs)
    before = termios.tcgetattr(theirs)
    with keyboard.unechoed():
        assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def test_a_stream_that_is_not_a_terminal_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr(keyboard, "STDIN", reading)
    with keyboard.unechoed():
        os.write(writing, b"x")
        assert os.read(reading, 1) == b"x"
    os.close(reading)
    os.close(writing)


def test_a_line_begins_where_a_terminal_shows_what_is_typed_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = os.openpty()
    monkeypatch.setattr(keyboard, "STDERR", theirs)
    keyboard.start_line()
    assert os.read(ours, 10) == b"\r\n"
    settings = termios.tcgetattr(theirs)
    settings[3] &= ~termios.ECHO
    termios.tcsetattr(theirs, termios.TCSANOW, settings)
    keyboard.start_line()
    os.write(theirs, b"x")
    assert os.read(ours, 10) == b"x"
    os.close(ours)
    os.close(theirs)
    reading, writing = os.pipe()
    monkeypatch.setattr(keyboard, "STDERR", writing)
    keyboard.start_line()
    os.write(writing, b"x")
    assert os.read(reading, 10) == b"x"
    os.close(reading)
    os.close(writing)
