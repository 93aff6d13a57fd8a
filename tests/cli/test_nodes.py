"""Who a command's node is, whom it talks to, and what it says of those it does not talk to."""

from __future__ import annotations

import re
import signal
import socket
from typing import TYPE_CHECKING

from cli.processes import Stt, environment, run_stt

if TYPE_CHECKING:
    from pathlib import Path

ANY_PORT = "127.0.0.1:0"
SOMEBODY = "ab" * 32


def test_only_who_has_the_groups_seed_and_finds_whom_it_expects_gets_a_session(
    tmp_path: Path,
) -> None:
    seed = str(tmp_path / "node.seed")
    assert run_stt("keygen", seed).returncode == 0
    node_id = run_stt("id", "--seed", seed).stdout.decode().strip()
    with Stt("listen", ANY_PORT, "--seed", seed) as listener:
        address = listener.address()
        assert f" as {node_id}\n" in listener.stderr
        assert "an identity for this run" not in listener.stderr

        stranger = run_stt("connect", address, env=environment(STT_SHARED_SEED="another seed, 20b"))
        assert stranger.returncode == 1
        assert re.fullmatch(
            rb"stt: the peer closed during the handshake: most likely it has another "
            rb"shared_seed, .*\n",
            stranger.stderr,
        )
        listener.until(r"stt: a handshake with 127\.0\.0\.1 failed: ")

        mistaken = run_stt("connect", address, "--expect", SOMEBODY)
        assert mistaken.returncode == 1
        assert re.fullmatch(
            f"stt: 127.0.0.1 port [0-9]+ is node {node_id}, not {SOMEBODY}\n",
            mistaken.stderr.decode(),
        )

        itself = run_stt("connect", address, "--seed", seed)
        assert itself.returncode == 1
        assert itself.stderr.count(b"\n") == 1

        friend = run_stt("connect", address, "--expect", node_id)
        assert friend.returncode == 0
        assert re.match(
            rf"stt: connected to {node_id} as ([0-9a-f]{{8}}) \(an identity for this run: "
            r"no node seed was given\)\n",
            friend.stderr.decode(),
        )
        listener.signal(signal.SIGINT)
        assert listener.end() == 130
        assert len(re.findall("has connected", listener.stderr)) == 1


def test_a_busy_port_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = run_stt("listen", f"127.0.0.1:{port}")
        assert result.returncode == 1
        assert re.fullmatch(
            f"stt: cannot listen on 127.0.0.1 port {port}: .*Address already in use; "
            "choose another host or port, or port 0 for a free one\n",
            result.stderr.decode(),
        )


def test_a_port_alone_means_all_addresses() -> None:
    with Stt("listen", "0") as listener:
        port = listener.until(r"listening on \*:(\d+) as ")[1]
        assert run_stt("connect", f"127.0.0.1:{port}").returncode == 0
        if socket.has_ipv6:
            assert run_stt("connect", f"[::1]:{port}").returncode == 0
            listener.until(r"has connected from \[::1\]:\d+\n")
