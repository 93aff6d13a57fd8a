"""`stt listen` and `stt connect` for people, as processes that talk with each other."""

from __future__ import annotations

import re
import signal
import termios
from subprocess import PIPE
from typing import TYPE_CHECKING

import pytest

from cli.processes import CTRL_C, CTRL_D, Stt, cable_to
from seigr_toolset_transmissions.cli.chat import show_lost_lines

if TYPE_CHECKING:
    from pathlib import Path

ANY_PORT = "127.0.0.1:0"

ABOVE_PROMPT = r"\x1b\[J(\x1b\[[?\d]*[a-z])*"
"""Erases what is below the cursor, and sets modes."""
PASTED = b"\x1b[200~%b\x1b[201~"
FLOOD = 20_000
"""Lines."""
UP = b"\x1b[A"
LOCAL_FLAGS = 3
"""Where `termios.tcgetattr` has them."""


def test_two_peers_and_a_listener_talk_in_lines() -> None:
    with (
        Stt("listen", ANY_PORT, stdin=PIPE) as listener,
        Stt("connect", listener.address(), stdin=PIPE) as ada,
        Stt("connect", listener.address(), stdin=PIPE) as ben,
    ):
        listener.until(r"(?s)(has connected from 127\.0\.0\.1:.*){2}")
        ada.type(b"from ada\n")
        said = listener.stdout.readline()
        assert re.fullmatch(rb"[0-9a-f]{8}: from ada\n", said)
        ben.type("grüße, \x1b[2J\n".encode())
        said_by_ben = listener.stdout.readline()
        assert said_by_ben[8:] == ": grüße, \\x1b[2J\n".encode()
        assert said_by_ben[:8] != said[:8]
        listener.type(b"for all\n")
        for peer in (ada, ben):
            assert peer.stdout.readline() == b"for all\n"

        ada.type(b"the last words, without a line end")
        ada.stdin.close()
        assert ada.end() == 0
        assert "the session is closed" in ada.stderr
        assert listener.stdout.readline()[8:] == b": the last words, without a line end\n"
        listener.until(f"{said[:8].decode()} has left")
        listener.signal(signal.SIGTERM)
        assert listener.end() == 143
        assert ben.end() == 0  # its session was closed, as it should be


def test_lines_from_a_file_wait_for_the_first_peer_and_end_of_file_ends_nothing() -> None:
    with Stt("listen", ANY_PORT, stdin=PIPE) as listener:
        listener.type(b"".join(b"line %d\n" % number for number in range(1000)))
        listener.stdin.close()
        with Stt("connect", listener.address(), stdin=PIPE) as peer:
            for number in range(1000):
                assert peer.stdout.readline() == b"line %d\n" % number
            peer.type(b"thank you\n")
            assert listener.stdout.readline().endswith(b": thank you\n")
            # Nothing reads the listener's output any more, so it stops.
            listener.stdout.close()
            peer.type(b"anybody?\n")
            assert listener.end() == 1
            assert "Traceback" not in listener.stderr
            assert peer.end() == 0


def test_the_chat_explains_itself_and_ends_with_ctrl_d() -> None:
    with Stt("listen", ANY_PORT, columns=80) as listener:
        listener.until("each line that you type goes to all peers; Ctrl-D ends")
        listener.type(b"hello?\r")
        listener.until("nobody is connected: not sent")
        with Stt("connect", listener.address(), columns=80) as peer:
            peer.until("each line that you type is a message; Ctrl-D ends")
            listener.until("has connected")
            listener.type(b"welcome\r")
            peer.until(ABOVE_PROMPT + "welcome\r\n")
            peer.type(b"thanks\r")
            listener.until("[0-9a-f]{8}: thanks\r\n")
            listener.type(b"goodbye\r" + CTRL_D)
            assert listener.end() == 0
            peer.until("goodbye")
            assert peer.end() == 0


def test_an_interrupted_chat_says_so_and_has_sent_what_was_typed() -> None:
    with (
        Stt("listen", ANY_PORT) as listener,
        Stt("connect", listener.address(), columns=80) as peer,
    ):
        peer.until("Ctrl-D ends")
        peer.type(b"whole\rhalf" + CTRL_C)
        peer.until("interrupted: closing the session; nothing more is sent")
        assert peer.end() == 130
        assert listener.stdout.readline().endswith(b": whole\n")


def test_a_listener_interrupted_before_its_input_was_sent_says_so() -> None:
    with Stt("listen", ANY_PORT, stdin=PIPE) as listener:
        listener.type(b"for the first peer\n")
        listener.until("this machine only")
        listener.signal(signal.SIGINT)
        assert listener.end() == 130
        said = "interrupted: closing every session; nothing more is sent\n"
        assert said in listener.stderr


def test_what_arrives_leaves_the_line_being_typed_as_it_is() -> None:
    with (
        Stt("listen", ANY_PORT, columns=80) as listener,
        Stt("connect", listener.address(), stdin=PIPE) as peer,
    ):
        listener.until("has connected")
        listener.type(b"half a")
        listener.until("half a")
        peer.type(b"an interruption\n")
        listener.until(f"(?s){ABOVE_PROMPT}[0-9a-f]{{8}}: an interruption\r\n.*half a")
        listener.type(b" line\r")
        assert peer.stdout.readline() == b"half a line\n"
        listener.type(UP + b", again\r")
        assert peer.stdout.readline() == b"half a line, again\n"
        listener.type(PASTED % b"one\rtwo\r" + b"\r")
        assert peer.stdout.readline() == b"one\n"
        assert peer.stdout.readline() == b"two\n"
        listener.type(b"never sent" + CTRL_C)
        assert listener.end() == 130
        assert termios.tcgetattr(listener.terminal)[LOCAL_FLAGS] & termios.ECHO
        assert "Traceback" not in listener.stderr
        assert peer.end() == 0
        assert peer.stdout.read() == b""
        assert " closed its session; run the command again to reconnect" in peer.stderr


def test_a_terminal_that_cannot_be_redrawn_is_read_line_by_line() -> None:
    with Stt("listen", ANY_PORT, columns=80, terminal_type="dumb") as listener:
        listener.until("Ctrl-D ends")
        listener.type(b"hello?\n")
        listener.until("nobody is connected: not sent")
        assert "\x1b[?2004h" not in listener.stderr
        listener.type(CTRL_D)
        assert listener.end() == 0


@pytest.mark.parametrize("typist", ["listen", "connect"])
def test_a_flood_of_lines_is_printed_whole_and_leaves_the_line_being_typed(typist: str) -> None:
    flood = b"".join(b"line %d of a flood\n" % number for number in range(FLOOD))
    width = {"listen": 0, "connect": 0, typist: 80}
    with (
        Stt("listen", ANY_PORT, stdin=PIPE, columns=width["listen"]) as listener,
        Stt("connect", listener.address(), stdin=PIPE, columns=width["connect"]) as peer,
    ):
        person, other = (listener, peer) if typist == "listen" else (peer, listener)
        listener.until("has connected")
        person.until("Ctrl-D ends")
        person.type(b"half a")
        person.until("half a")
        other.type(flood)
        person.until(f"line {FLOOD - 1} of a flood")
        shown = re.findall(r"line (\d+) of a flood", person.stderr)
        assert shown == [str(number) for number in range(FLOOD)]
        # Each time it is drawn, the line being typed is seen again: many lines are printed at once.
        assert person.stderr.count("half a") < FLOOD / 10
        person.type(b" line\r")
        assert other.stdout.readline().endswith(b"half a line\n")


def test_the_log_is_printed_above_the_line_being_typed() -> None:
    with Stt("listen", ANY_PORT, "-v", columns=120) as listener:
        listener.type(b"half a")
        listener.until("half a")
        with Stt("connect", listener.address(), stdin=PIPE) as peer:
            listener.until(f"(?s){ABOVE_PROMPT}[^\n]*INFO [^\n]*session[^\n]*\n.*half a")
            listener.type(b" line\r")
            assert peer.stdout.readline() == b"half a line\n"


@pytest.mark.parametrize("columns", [0, 80])
def test_a_peer_that_takes_files_is_recognised(columns: int, tmp_path: Path) -> None:
    with (
        Stt("receive", ANY_PORT, str(tmp_path)) as receiver,
        Stt("connect", receiver.address(), stdin=PIPE, columns=columns) as peer,
    ):
        assert peer.end() == 1
        assert re.search(r"at 127\.0\.0\.1:\d+ is `stt receive`, which takes files", peer.stderr)
        assert "greeting" not in peer.stderr
        if not columns:
            assert peer.stdout.read() == b""


async def test_lost_lines_are_shown_each_with_what_is_known_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    details = {"unknown": (b"sent \x1b[2J",), "unsent": (b"typed", *(b"more" for _ in range(100)))}
    await show_lost_lines("session_lost", details)
    await show_lost_lines("handshake_failed", {})
    first, second, *_, last = capsys.readouterr().err.splitlines()
    assert first == "stt: may not have arrived: sent \\x1b[2J"
    assert second == "stt: not delivered: typed"
    assert last == "stt: not delivered, or perhaps not: 2 more lines"


def test_a_conversation_survives_a_broken_cable() -> None:
    with (
        Stt("listen", ANY_PORT, stdin=PIPE) as listener,
        cable_to(listener.address()) as cable,
        Stt("connect", cable.address, stdin=PIPE) as peer,
    ):
        peer.until("connected to")
        for number in range(3):
            cable.cut()
            peer.type(b"out %d\n" % number)
            listener.type(b"in %d\n" % number)
            assert listener.stdout.readline()[8:] == b": out %d\n" % number
            assert peer.stdout.readline() == b"in %d\n" % number
        for side in (listener, peer):
            side.until("the connection to [0-9a-f]{8} is broken; it has 120 s to come back")
            side.until("the connection to [0-9a-f]{8} is back")
        peer.signal(signal.SIGINT)
        assert peer.end() == 130
        listener.until("has left")


def test_a_peer_that_does_not_come_back_is_given_up() -> None:
    with (
        Stt("listen", ANY_PORT, "--recv-only", "--wait", "0.2", stdin=PIPE) as listener,
        Stt("connect", listener.address(), stdin=PIPE) as peer,
    ):
        listener.stdin.close()  # does not end what reads no input
        peer.type(b"hello\n")
        assert listener.stdout.readline()[8:] == b": hello\n"
        peer.process.kill()
        listener.until("[0-9a-f]{8} was lost: no connection for 0.2 s")
        listener.until("has left")
        assert listener.process.poll() is None
