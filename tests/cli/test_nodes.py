"""Who a command's node is, whom it talks to, and what it says of those it does not talk to."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
from subprocess import PIPE
from typing import TYPE_CHECKING

import pytest

from cli.processes import SHARED_SEED, Stt
from helpers.machine import has_ipv6
from helpers.relay import Kind, Relay
from seigr_toolset_transmissions import NodeConfig, STTNode, generate_seed
from seigr_toolset_transmissions.cli.failures import Failure
from seigr_toolset_transmissions.cli.main import run
from seigr_toolset_transmissions.cli.nodes import running
from seigr_toolset_transmissions.cli.seeds import find_seeds

if TYPE_CHECKING:
    from pathlib import Path

ANY_PORT = "127.0.0.1:0"
SOMEBODY = "ab" * 32


@pytest.fixture(autouse=True)
def shared_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT_SHARED_SEED", SHARED_SEED)


def test_only_who_has_the_groups_seed_and_finds_whom_it_expects_gets_a_session(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = str(tmp_path / "node.seed")
    assert run(["keygen", seed]) == 0
    capfd.readouterr()
    assert run(["id", "--seed", seed]) == 0
    node_id = capfd.readouterr().out.strip()
    with Stt("listen", ANY_PORT, "--seed", seed) as listener:
        address = listener.address()
        assert f" as {node_id}\n" in listener.stderr
        assert "an identity for this run" not in listener.stderr

        monkeypatch.setenv("STT_SHARED_SEED", "not the shared seed")
        assert run(["connect", address]) == 1
        assert re.fullmatch(
            "stt: .* closed the connection during the handshake: it has another shared_seed, .*\n",
            capfd.readouterr().err,
        )
        listener.until(r"stt: a handshake with 127\.0\.0\.1 failed: ")
        monkeypatch.setenv("STT_SHARED_SEED", SHARED_SEED)

        assert run(["connect", address, "--expect", SOMEBODY]) == 1
        assert re.fullmatch(
            f"stt: 127.0.0.1 port [0-9]+ does not answer as node {SOMEBODY}: it is another .*\n",
            capfd.readouterr().err,
        )

        assert run(["connect", address, "--seed", seed]) == 1
        assert re.fullmatch("stt: .* own .*\n", capfd.readouterr().err)

        assert run(["connect", address, "--expect", node_id]) == 0
        assert re.match(
            rf"stt: connected to {node_id} as [0-9a-f]{{8}} \(an identity for this run: "
            r"no node seed was given\)\n",
            capfd.readouterr().err,
        )
        listener.until("has left")
        assert len(re.findall("has connected", listener.stderr)) == 1


def test_a_busy_port_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert run(["listen", f"127.0.0.1:{port}"]) == 1
        assert re.fullmatch(
            f"stt: cannot listen on 127.0.0.1 port {port}: .*Address already in use; "
            "choose another host or port, or port 0 for a free one\n",
            capfd.readouterr().err,
        )


def test_a_port_alone_means_all_addresses() -> None:
    with Stt("listen", "0") as listener:
        port = listener.until(r"listening on \*:(\d+) as ")[1]
        assert run(["connect", f"127.0.0.1:{port}"]) == 0
        listener.until(r"has connected from 127\.0\.0\.1:\d+\n")
        if has_ipv6():
            assert run(["connect", f"[::1]:{port}"]) == 0
            listener.until(r"has connected from \[::1\]:\d+\n")


def test_what_a_peer_did_not_get_in_time_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    seeds = find_seeds(None, None, {"STT_SHARED_SEED": SHARED_SEED})
    config = NodeConfig(close_timeout=0.1)

    async def talk_to_nobody() -> None:
        async with (
            STTNode(generate_seed(), seeds.shared) as peer,
            running(seeds, config, ("127.0.0.1", 0)) as node,
        ):
            assert node.address is not None
            async with Relay(node.address) as relay:
                arrived = asyncio.ensure_future(node.events.wait_for("session_created", timeout=30))
                await asyncio.gather(arrived, peer.connect(*relay.address))
                relay.links[0].cut(Kind.BLACK_HOLE)
                await node.sessions[0].send(b"in vain")

    with pytest.raises(Failure) as caught:
        asyncio.run(talk_to_nobody())
    assert str(caught.value) == ""  # it has been told
    told = re.findall("stt: not everything was delivered to .*\n", capsys.readouterr().err)
    assert len(told) == 1


def test_what_a_peer_did_not_get_is_told_when_the_command_is_interrupted() -> None:
    with (
        Stt("listen", ANY_PORT, stdin=PIPE) as listener,
        Stt("connect", listener.address(), "--recv-only", stdin=PIPE) as awake,
        Stt("connect", listener.address(), stdin=PIPE) as stopped,
    ):
        awake.stdin.close()  # does not end what reads no input
        listener.until("(?s)(has connected.*){2}")
        stopped.signal(signal.SIGSTOP)
        listener.type(b"are you there?\n")
        assert awake.stdout.readline() == b"are you there?\n"  # so it was sent to both
        listener.signal(signal.SIGINT)
        assert listener.end() == 130
        assert len(re.findall("stt: not everything was delivered to .*\n", listener.stderr)) == 1
        assert awake.end() == 0
