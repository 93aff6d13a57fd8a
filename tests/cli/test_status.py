"""`stt status`: the page and the JSON about a node that runs meanwhile, and why there is none."""

from __future__ import annotations

import json
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from anyio.from_thread import start_blocking_portal

from cli.documented import documented_keys
from cli.processes import Stt
from helpers.nodes import SHARED_SEED, address_of, seed_of, until
from seigr_toolset_transmissions import STTNode
from seigr_toolset_transmissions.cli.amounts import bytes_text, count_text, rtt_text, span_text
from seigr_toolset_transmissions.cli.main import run
from seigr_toolset_transmissions.seeing import monitor, serve_monitor
from seigr_toolset_transmissions.transports.memory import MemoryNetwork
from seigr_toolset_transmissions.transports.sockets import UNIX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(UNIX is None, reason="this system has no Unix sockets"),
]


@asynccontextmanager
async def shown_node(path: Path) -> AsyncIterator[STTNode]:
    """Run a node with a peer that has sent 1,000 bytes, and a dozen others that are away."""
    network = MemoryNetwork()
    node = STTNode(seed_of("bob"), SHARED_SEED, network=network)
    peer = STTNode(seed_of("alice"), SHARED_SEED, network=network)
    async with serve_monitor(node, path), node.listening(), peer:
        session = await peer.connect(*address_of(node))
        await session.send(bytes(1000))
        await until(lambda: peer.node_id in node.endpoints)
        await session.flush()
        node.endpoints.update_endpoint(peer.node_id, metadata={"name": "kit\x1b[31mchen"})
        for number in range(1, 13):
            await node.endpoints.add_endpoint(number.to_bytes(32, "big"), ("192.0.2.1", 9000))
        yield node


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(monitor, "_INTERVAL", 0.05)
    with tempfile.TemporaryDirectory() as name:  # pytest's own paths may be too long for a socket
        yield Path(name)


@pytest.fixture
def node(folder: Path) -> Iterator[STTNode]:
    """A node that is shown at ``folder / "monitor"``."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(shown_node(folder / "monitor")) as shown,
    ):
        yield shown


def test_the_page_shows_the_node_and_its_busiest_endpoints(
    folder: Path, node: STTNode, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["status", str(folder / "monitor")]) == 0
    page = capsys.readouterr().out
    assert page.startswith(f"node        {node.node_id.hex()}\n")
    assert "sessions    1, suspended 0" in page
    assert "so far 1.00 kB in 1 messages" in page
    assert "kit\\x1b[31mchen" in page
    assert "and 3 more, less busy" in page
    assert max(map(len, page.splitlines())) < 80
    assert run(["top", str(folder / "monitor"), "--once"]) == 0
    assert capsys.readouterr().out.count("disconnected") == 12


def test_the_json_has_all_endpoints_and_rates(
    folder: Path, node: STTNode, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["status", str(folder / "monitor"), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert run(["top", str(folder / "monitor"), "--once", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert figures.keys() == again.keys() == documented_keys("status") == documented_keys("top")
    assert figures["node_id"] == node.node_id.hex()
    assert len(figures["endpoints"]) == 13
    assert figures["endpoints"][0]["bytes_received"] == 1000
    assert figures["endpoints"][0]["rates"] == figures["rates"]


def test_a_path_without_a_node_is_a_failure_that_says_why(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "monitor"
    assert run(["status", str(path)]) == 1
    assert capsys.readouterr() == (
        "",
        f"stt: there is no {path}: start the program that is to show its node there\n",
    )


def test_listen_shows_its_node_and_refuses_a_path_that_is_in_use(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(folder / "monitor")
    with Stt("listen", "0", "--monitor", path) as listening:
        listening.address()
        assert run(["status", path]) == 0
        assert "round trip  not measured yet\n" in capsys.readouterr().out
        with Stt("listen", "0", "--monitor", path) as second:
            assert second.end() == 1
            assert f"the node cannot be shown at {path}: a program shows a node" in second.stderr
        assert run(["status", path]) == 0
    assert run(["status", path]) == 1  # it was killed


def test_amounts_are_short_and_keep_three_digits() -> None:
    assert [bytes_text(size) for size in (0, 12.3, 999, 999.6, 12_345, 123_456_789, 5e12)] == [
        *("0 B", "12 B", "999 B", "1.00 kB", "12.3 kB", "123 MB", "5.00 TB")
    ]
    assert [count_text(count) for count in (0, 0.04, 3.21, 1_000_000)] == [
        "0",
        "0.0",
        "3.2",
        "1.00 M",
    ]
    assert [rtt_text(rtt) for rtt in (None, 0.00042, 0.0123, 0.5, 12)] == [
        *("-", "0.42 ms", "12.3 ms", "500 ms", "12.0 s")
    ]
    assert [span_text(seconds) for seconds in (0.9, 61, 3600, 90_000)] == [
        *("0 s", "1 min 1 s", "1 h 0 min", "1 d 1 h")
    ]
