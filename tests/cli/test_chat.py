"""`stt listen` and `stt connect` for people, as processes that talk with each other."""

from __future__ import annotations

import re
import signal
from subprocess import PIPE

from cli.processes import CTRL_C, CTRL_D, Stt, cable_to

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


def test_a_person_is_told_how_to_talk_and_ends_with_ctrl_d_or_ctrl_c() -> None:
    with Stt("listen", ANY_PORT, columns=80) as listener:
        listener.until("each line that you type goes to all peers; Ctrl-D ends")
        listener.type(b"hello?\n")
        listener.until("nobody is connected: not sent")
        with Stt("connect", listener.address(), columns=80) as first:
            first.until("each line that you type is a message; Ctrl-D ends")
            listener.until("has connected")
            listener.type(b"welcome\n")
            first.until("\nwelcome\r\n")
            first.type(b"thanks\n")
            listener.until("[0-9a-f]{8}: thanks\r\n")
            first.type(CTRL_C)
            assert first.end() == 130
            assert "Traceback" not in first.stderr
            listener.until("has left")
        with Stt("connect", listener.address(), columns=80) as second:
            listener.until("(?s)has left.*has connected")
            listener.type(b"goodbye\n" + CTRL_D)
            assert listener.end() == 0
            second.until("goodbye")
            assert second.end() == 0


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
        peer.stdin.close()
        assert peer.end() == 0


def test_what_a_peer_did_not_get_is_told() -> None:
    with (
        Stt("listen", ANY_PORT, "--wait", "0.3", stdin=PIPE) as listener,
        Stt("connect", listener.address(), "--recv-only", stdin=PIPE) as awake,
        Stt("connect", listener.address(), stdin=PIPE) as killed,
        Stt("connect", listener.address(), stdin=PIPE) as stopped,
    ):
        awake.stdin.close()  # does not end what reads no input
        listener.until("(?s)(has connected.*){3}")
        for peer in (killed, stopped):
            peer.signal(signal.SIGSTOP)
        listener.type(b"are you there?\n")
        assert awake.stdout.readline() == b"are you there?\n"  # so it was sent to all of them
        killed.process.kill()
        listener.until("the connection to [0-9a-f]{8} is broken; it has 0.3 s to come back")
        lost = listener.until("[0-9a-f]{8} was lost: no connection for 0.3 s.*\n")[0]
        assert "1 not acknowledged" in lost
        listener.until("has left")
        listener.signal(signal.SIGINT)
        assert listener.end() == 130
        told = re.findall("stt: not everything was delivered to .*\n", listener.stderr)
        assert len(told) == 1


def test_a_listener_that_does_not_come_back_ends_the_conversation() -> None:
    with (
        Stt("listen", ANY_PORT, "--recv-only", stdin=PIPE) as listener,
        Stt("connect", listener.address(), "--wait", "0.3", stdin=PIPE) as peer,
    ):
        peer.type(b"hello\n")
        assert listener.stdout.readline()[8:] == b": hello\n"
        listener.process.kill()
        assert peer.end() == 1
        assert "stt: the session was lost: no connection for 0.3 s" in peer.stderr
