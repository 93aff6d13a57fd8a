"""`stt listen` and `stt connect` for people, as processes that talk with each other."""

from __future__ import annotations

import re
import signal
from subprocess import PIPE

from cli.processes import CTRL_D, Stt, cable_to

ANY_PORT = "127.0.0.1:0"


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


def test_lines_from_a_file_wait_for_the_first_peer_and_their_end_ends_nothing() -> None:
    with Stt("listen", ANY_PORT, stdin=PIPE) as listener:
        listener.type(b"".join(b"line %d\n" % number for number in range(1000)))
        listener.stdin.close()
        with Stt("connect", listener.address(), stdin=PIPE) as peer:
            for number in range(1000):
                assert peer.stdout.readline() == b"line %d\n" % number
            peer.type(b"thank you\n")
            assert listener.stdout.readline().endswith(b": thank you\n")
            # Nobody reads the listener's output any more: there is no use in going on.
            listener.stdout.close()
            peer.type(b"anybody?\n")
            assert listener.end() == 1
            assert "Traceback" not in listener.stderr
            assert peer.end() == 0


def test_a_person_is_told_how_to_talk_and_ends_with_ctrl_d() -> None:
    with Stt("listen", ANY_PORT, columns=80) as listener:
        listener.until("each line that you type goes to all peers; Ctrl-D ends")
        listener.type(b"hello?\n")
        listener.until("nobody is connected: not sent")
        with Stt("connect", listener.address(), columns=80) as peer:
            peer.until("each line that you type is a message; Ctrl-D ends")
            listener.until("has connected")
            listener.type(b"welcome\n")
            peer.until("\nwelcome\r\n")
            peer.type(b"thanks\n")
            listener.until("[0-9a-f]{8}: thanks\r\n")
            listener.type(b"goodbye\n" + CTRL_D)
            assert listener.end() == 0
            peer.until("goodbye")
            assert peer.end() == 0


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
