"""`stt request` against a listening process."""

from __future__ import annotations

import re
import signal
import socket
import sys
from pathlib import Path
from subprocess import PIPE

import pytest

from cli.processes import CTRL_C, CTRL_D, Stt, descendants, run_stt
from seigr_toolset_transmissions import NodeConfig

ANY_PORT = "127.0.0.1:0"
LONGEST = NodeConfig().max_message_bytes - 8
SCRIPT = """
import sys, time
match request := sys.stdin.buffer.read():
    case b"refuse":
        print("out of paper\\x1b[2J")
        print("a secret", file=sys.stderr)
        sys.exit(7)
    case b"refuse without a word":
        sys.exit(1)
    case b"wait":
        print("waiting", file=sys.stderr, flush=True)
        time.sleep(600)
    case _:
        sys.stdout.buffer.write(request[::-1])
"""
COMMAND = f"\"{sys.executable}\" -c '{SCRIPT}'"


def test_the_reply_goes_to_standard_output_byte_for_byte() -> None:
    request = bytes(range(256)) * 1000
    with Stt("listen", ANY_PORT, "--exec", COMMAND) as listener:
        for arguments in ((), ("-",)):
            result = run_stt("request", listener.address(), *arguments, "-q", stdin=request)
            assert (result.returncode, result.stderr) == (0, b"")
            assert result.stdout == request[::-1]
        assert run_stt("request", listener.address(), "grüße").stdout == "grüße".encode()[::-1]


def test_an_echo_is_the_request() -> None:
    with Stt("listen", ANY_PORT, "--echo") as listener:
        for request in ("", "hello\n"):
            assert run_stt("request", listener.address(), request).stdout == request.encode()


def test_on_a_terminal_the_reply_is_made_visible_and_its_last_line_ended() -> None:
    with Stt("listen", ANY_PORT, "--echo") as listener:
        with Stt("request", listener.address(), "-q", columns=80) as typed:
            typed.type(b"hello\n" + CTRL_D)
            assert typed.end() == 0
            assert typed.stderr.endswith("hello\r\n")
            assert typed.stderr.count("\n") == 2  # one of them is the terminal's echo
        with Stt("request", listener.address(), "\x1b[2Jhello", "-q", columns=80) as given:
            assert given.end() == 0
            assert given.stderr == "\\x1b[2Jhello\r\n"


def test_a_request_that_nobody_serves_was_not_handled() -> None:
    with Stt("listen", ANY_PORT) as listener:
        result = run_stt("request", listener.address(), "hello", "-q")
    assert (result.returncode, result.stdout) == (1, b"")
    assert b"start `stt listen` there with --exec or --echo" in result.stderr
    assert result.stderr.endswith(b"; the request was not handled\n")


@pytest.mark.parametrize(
    ("request_text", "reason"),
    [
        ("refuse", b"the request failed there: out of paper\\x1b[2J\n"),
        ("refuse without a word", b"without a reason given: look at the other side's log\n"),
    ],
)
def test_a_failure_of_the_other_side_has_an_exit_code_and_its_reason(
    request_text: str, reason: bytes
) -> None:
    with Stt("listen", ANY_PORT, "--exec", COMMAND) as listener:
        result = run_stt("request", listener.address(), request_text, "-q")
        assert (result.returncode, result.stdout) == (3, b"")
        assert result.stderr.endswith(reason)
        assert b"secret" not in result.stderr
        if request_text == "refuse":
            listener.until("for [0-9a-f]{8}: a secret\n")
            listener.until("for [0-9a-f]{8}: exit status 7\n")


def test_a_reply_that_does_not_come_in_time_leaves_open_what_happened() -> None:
    with Stt("listen", ANY_PORT, "--exec", COMMAND) as listener:
        result = run_stt("request", listener.address(), "wait", "--timeout", "2", "-q")
        assert (result.returncode, result.stdout) == (4, b"")
        assert result.stderr == (
            b"stt: no reply within 2 s (--timeout allows more); the request may or may not have "
            b"been handled\n"
        )


def test_a_session_that_is_lost_leaves_open_what_happened() -> None:
    with (
        Stt("listen", ANY_PORT, "--exec", COMMAND) as listener,
        Stt("request", listener.address(), "wait", "--wait", "0.2") as request,
    ):
        listener.until("waiting")
        listener.process.kill()
        assert request.end() == 4
        assert "no reply came: no connection for 0.2 s" in request.stderr
        assert "may or may not have been handled\n" in request.stderr


def test_interrupting_a_request_ends_its_command() -> None:
    with (
        Stt("listen", ANY_PORT, "--exec", COMMAND) as listener,
        Stt("request", listener.address(), "wait") as request,
    ):
        listener.until("waiting")
        request.signal(signal.SIGINT)
        assert request.end() == 130
        assert "interrupted: no reply came; the request may or may not have been" in request.stderr
        listener.until("has left")
        while descendants(listener.process.pid):
            pass
        assert listener.process.poll() is None


def test_a_request_interrupted_while_connecting_was_not_sent() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        Stt("request", f"127.0.0.1:{silent.getsockname()[1]}", "hello") as request,
    ):
        connection, _ = silent.accept()
        with connection:
            request.signal(signal.SIGINT)
            assert request.end() == 130
        assert re.search("interrupted: not connected to .*, so nothing was sent\n", request.stderr)


def test_a_request_interrupted_while_it_is_typed_was_not_sent() -> None:
    with Stt("request", "127.0.0.1:1", columns=80) as request:
        request.until("type the request; Ctrl-D ends it")
        request.type(b"half" + CTRL_C)
        assert request.end() == 130
        request.until(r"\^C\r\n.*stt: .*interrupted: the request was not sent")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_listener_that_ends_takes_its_commands_along(number: signal.Signals, code: int) -> None:
    with (
        Stt("listen", ANY_PORT, "--exec", COMMAND) as listener,
        Stt("request", listener.address(), "wait") as request,
    ):
        listener.until("waiting")
        [command] = descendants(listener.process.pid)
        listener.signal(number)
        assert listener.end() == code
        assert not Path(f"/proc/{command}").exists()
        assert "Traceback" not in listener.stderr
        assert request.end() == 4


def test_requests_and_lines_do_not_disturb_each_other() -> None:
    with (
        Stt("listen", ANY_PORT, "--echo", stdin=PIPE) as listener,
        Stt("connect", listener.address(), stdin=PIPE) as peer,
    ):
        listener.until("has connected")
        assert run_stt("request", listener.address(), "hello").stdout == b"hello"
        peer.type(b"a line\n")
        assert listener.stdout.readline()[8:] == b": a line\n"
        listener.type(b"an answer\n")
        assert peer.stdout.readline() == b"an answer\n"


def test_a_request_that_is_too_long_is_not_sent() -> None:
    result = run_stt("request", "localhost:1", stdin=bytes(LONGEST + 1))
    assert result.returncode == 2
    assert result.stderr == b"stt: a request has at most 4,194,296 bytes: standard input has more\n"


def test_a_node_that_cannot_be_reached_has_not_handled_anything() -> None:
    result = run_stt("request", "localhost:1", "hello")
    assert result.returncode == 1
    assert result.stderr.startswith(b"stt: cannot reach localhost port 1: ")
