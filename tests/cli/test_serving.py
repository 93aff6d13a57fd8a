"""Answering requests with the output of a command."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from seigr_toolset_transmissions import NodeConfig
from seigr_toolset_transmissions.cli import serving
from seigr_toolset_transmissions.cli.serving import CommandAnswer, echo, parse_command
from seigr_toolset_transmissions.errors import STTRequestFailedError

PEER = bytes(range(32))
BELOW = """
import os, signal, subprocess, sys, time
from pathlib import Path
if {stubborn}:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "600"])
Path({file!r}).write_text(f"{{os.getpid()}} {{child.pid}}\\n")
time.sleep(600)
"""
"""A command that starts another one and says the ids of both."""


def shell(script: str, config: NodeConfig | None = None) -> CommandAnswer:
    return CommandAnswer(["sh", "-c", script], config or NodeConfig())


async def test_an_echo_is_what_was_asked() -> None:
    assert await echo(PEER, b"hello") == b"hello"


async def test_the_output_of_the_command_is_the_reply() -> None:
    assert await CommandAnswer(["tr", "a-z", "A-Z"], NodeConfig())(PEER, b"hello") == b"HELLO"
    big = bytes(3_000_000)
    assert await CommandAnswer(["cat"], NodeConfig())(PEER, big) == big
    assert await CommandAnswer(parse_command("printf %s '$HOME; a  b'"), NodeConfig())(
        PEER, b""
    ) == (
        b"$HOME; a  b"  # no shell reads it
    )


async def test_a_command_need_not_read_its_input() -> None:
    assert (
        await CommandAnswer(["echo", "hello"], NodeConfig())(PEER, bytes(3_000_000)) == b"hello\n"
    )


async def test_a_command_knows_who_asks() -> None:
    assert await shell("printf $STT_PEER_NODE_ID")(PEER, b"") == PEER.hex().encode()


async def test_a_status_other_than_0_fails_with_the_output(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(STTRequestFailedError) as caught:
        await shell("echo no paper; printf 'at line\\033[2J 7' >&2; exit 3")(PEER, b"")
    assert caught.value.data == b"no paper\n"
    with pytest.raises(STTRequestFailedError):
        await shell("kill -9 $$")(PEER, b"")
    assert capsys.readouterr().err == (
        "stt: sh for 00010203: at line\\x1b[2J 7\n"
        "stt: sh for 00010203: exit status 3\n"
        "stt: sh for 00010203: killed by SIGKILL\n"
    )


async def test_output_longer_than_a_message_fails_and_ends_the_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = NodeConfig(max_message_bytes=1009)
    assert await shell("head -c 1000 /dev/zero", config)(PEER, b"") == bytes(1000)
    with pytest.raises(STTRequestFailedError) as caught:
        await shell("while :; do echo and so on; done", config)(PEER, b"")
    assert caught.value.data == b"the reply would be too long"
    assert "longer than a reply can be, 1,000 bytes" in capsys.readouterr().err


async def test_a_program_that_is_gone_fails_the_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o700)
    answer = CommandAnswer([str(program)], NodeConfig())
    assert await answer(PEER, b"") == b"hello\n"
    program.unlink()
    with pytest.raises(STTRequestFailedError) as caught:
        await answer(PEER, b"")
    assert caught.value.data == b"the command cannot be run"
    assert "it cannot be run: No such file" in capsys.readouterr().err


async def test_only_so_many_commands_run_at_once(tmp_path: Path) -> None:
    alone = f"cd {tmp_path} && mkdir lock && sleep 0.05 && rmdir lock"
    answer = shell(alone, NodeConfig(max_requests=1))
    assert await asyncio.gather(*(answer(PEER, b"") for _ in range(4))) == [b""] * 4


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_cancel_ends_the_command_and_what_it_has_started(
    stubborn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_GRACE_SECONDS", 0.1)
    os.mkfifo(said := tmp_path / "said")
    script = BELOW.format(stubborn=stubborn, file=str(said))
    answer = CommandAnswer([sys.executable, "-c", script], NodeConfig())
    running = asyncio.ensure_future(answer(PEER, b""))
    command, child = (await asyncio.to_thread(said.read_text)).split()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert state_of(command) == ""  # not even a zombie
    await asyncio.to_thread(wait_for_end, child)


def wait_for_end(pid: str) -> None:
    """Wait until a process has ended; it is for another one to reap it."""
    while state_of(pid) not in ("", "Z"):
        time.sleep(0.01)


def state_of(pid: str) -> str:
    """The letter that Linux has for a process's state; empty: there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return ""
