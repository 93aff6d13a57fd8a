"""A command's node: its identity, its peers, and what it says when it gets no session."""

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
from helpers.nodes import Nodes, address_of, in_virtual_time, live
from helpers.relay import Kind, Relay
from seigr_toolset_transmissions import NodeConfig, STTNode, generate_seed
from seigr_toolset_transmissions.cli.failures import Failure
from seigr_toolset_transmissions.cli.main import run
from seigr_toolset_transmissions.cli.nodes import connect_to, leave, running
from seigr_toolset_transmissions.cli.seeds import Seeds, find_seeds
from seigr_toolset_transmissions.errors import STTSilenceError
from seigr_toolset_transmissions.transports.memory import MemoryNetwork

if TYPE_CHECKING:
    from pathlib import Path

ANY_PORT = "127.0.0.1:0"
SOMEBODY = "ab" * 32


@pytest.fixture(autouse=True)
def shared_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT_SHARED_SEED", SHARED_SEED)


def test_a_session_needs_the_groups_seed_and_the_expected_peer(
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
            "stt: .* closed the connection during the handshake: it has another shared seed, .*\n",
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


def test_a_port_alone_means_this_machine_and_a_colon_before_it_all_addresses() -> None:
    with Stt("listen", "0") as listener:
        port = listener.until(r"listening on 127\.0\.0\.1:(\d+) as ")[1]
        listener.until(f"this machine only; for peers on others, listen on :{port}\n")
    with Stt("listen", ":0") as listener:
        port = listener.until(r"listening on \*:(\d+) as ")[1]
        assert run(["connect", f"127.0.0.1:{port}"]) == 0
        listener.until(r"has connected from 127\.0\.0\.1:\d+\n")
        if has_ipv6():
            assert run(["connect", f"[::1]:{port}"]) == 0
            listener.until(r"has connected from \[::1\]:\d+\n")


@in_virtual_time
async def test_with_retry_it_waits_for_a_listener_and_fails_at_once_at_a_wrong_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with Nodes(MemoryNetwork()) as nodes:
        node = nodes.make("alice")
        await node.start()
        seeds = Seeds(b"", b"", ephemeral=False)
        address = ("hub", 9000)
        connecting = asyncio.ensure_future(
            connect_to(node, address, expect=None, seeds=seeds, retry=True)
        )
        await asyncio.sleep(3600)
        said = capsys.readouterr().err
        assert said.startswith("stt: cannot reach hub port 9000: ")
        assert said.endswith("\nstt: trying again until it answers; Ctrl-C ends\n")
        assert said.count("\n") == 2

        listener = nodes.make("bob", host=address[0], port=address[1])
        await listener.start(server_mode=True)
        session = await connecting
        assert session.peer_node_id == listener.node_id
        with pytest.raises(STTSilenceError):
            await connect_to(node, address, expect=node.node_id, seeds=seeds, retry=True)


def test_another_node_at_the_address_is_named_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seeds = find_seeds(None, None, {"STT_SHARED_SEED": SHARED_SEED})

    async def meet_another() -> None:
        first = STTNode(generate_seed(), seeds.shared)
        await first.start(server_mode=True)
        assert first.address is not None
        where = first.address
        second = STTNode(generate_seed(), seeds.shared, *where)
        async with running(seeds, NodeConfig(reconnect_delay=0.01)) as node:
            session = await connect_to(node, where, expect=None, seeds=seeds)
            suspended = asyncio.ensure_future(node.events.wait_for("session_suspended", timeout=30))
            reported = asyncio.ensure_future(node.events.wait_for("error", timeout=30))
            await asyncio.sleep(0)
            for far in first.sessions:
                live(far).cut("the test cuts it")
            await first.stop(drain=0)
            await second.start(server_mode=True)
            await asyncio.gather(suspended, reported)
            session.abort()
        await second.stop()
        host, port = where
        assert (
            f"{host}:{port} answers, but not as {first.node_id.hex()[:8]}: another node listens"
            in capsys.readouterr().err
        )

    asyncio.run(meet_another())


def test_a_message_that_did_not_arrive_in_time_is_a_failure(
    capsys: pytest.CaptureFixture[str],
) -> None:
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


def test_an_interrupted_command_says_what_did_not_arrive() -> None:
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


async def test_leaving_a_session_that_was_lost_does_not_report_the_loss_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with Nodes() as nodes:
        hub, peer = await nodes.listen(), await nodes.start()
        session = await peer.connect(*address_of(hub))
        session.send_nowait(b"never sent")
        session.abort("lost")
        await leave(session)
    assert capsys.readouterr().err == ""
