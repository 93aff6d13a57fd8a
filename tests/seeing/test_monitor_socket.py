"""A node that is shown at a Unix socket: who may read it, what there is to read, and its end."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import tempfile
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from helpers.nodes import in_virtual_time, memory_nodes, until
from helpers.recorder import Recorder
from seigr_toolset_transmissions.errors import STTListenError
from seigr_toolset_transmissions.seeing import RemoteMonitor, monitor, monitor_socket, serve_monitor
from seigr_toolset_transmissions.stats import NodeSnapshot
from seigr_toolset_transmissions.transports.memory import MemoryNetwork
from seigr_toolset_transmissions.transports.sockets import UNIX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from seigr_toolset_transmissions import STTNode

pytestmark = pytest.mark.skipif(UNIX is None, reason="this system has no Unix sockets")


@pytest.fixture(autouse=True)
def samples_come_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "_INTERVAL", 0.01)
    monkeypatch.setattr(monitor_socket, "_PAUSE", 0.001)
    for module in (monitor, monitor_socket):
        monkeypatch.setattr(module, "_SHARE", 0)


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own paths may be too long for a socket
        yield Path(folder, "monitor")


class Lines:
    """Reads what a monitor socket says."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def next(self, kind: str) -> dict[str, Any]:
        """Return the next line of this type; skip others."""
        async with asyncio.timeout(20):
            while True:
                found: dict[str, Any] = json.loads(await self._reader.readline())
                if found.pop("type") == kind:
                    return found

    async def rest(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (await self._reader.read()).splitlines()]


@asynccontextmanager
async def reading(path: Path) -> AsyncIterator[Lines]:
    reader, writer = await asyncio.open_unix_connection(path, limit=2**26)
    try:
        yield Lines(reader)
    finally:
        writer.transport.abort()


def mode_of(path: Path) -> int:
    return path.stat().st_mode


def watched(node: STTNode) -> bool:
    """Whether anything watches the node at present."""
    return bool(node.events._watchers)


async def test_a_reader_gets_snapshots_with_rates_and_events_as_lines_of_json(path: Path) -> None:
    async with memory_nodes() as nodes:
        listener, dialer = await nodes.listen(), await nodes.start()
        async with serve_monitor(listener, path), reading(path) as lines:
            assert await lines.next("monitor") == {"version": 1}
            first = await lines.next("snapshot")
            assert first["node_id"] == listener.node_id.hex()
            assert first["rates"] is None
            pair = await nodes.connect(dialer, listener)
            connected = await lines.next("event")
            while connected["name"] != "peer_connected":
                connected = await lines.next("event")
            assert connected["facts"] == {"peer_node_id": dialer.node_id.hex()}
            await pair.near.send(bytes(1000))
            while not (shot := await lines.next("snapshot"))["rates"]["bytes_received"]:
                pass
            assert shot["endpoints"][0]["bytes_received"] == 1000


async def test_a_line_of_a_monitor_is_a_snapshot(path: Path) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        async with serve_monitor(pair.listener, path):
            reader, writer = await asyncio.open_unix_connection(path)
            await reader.readline()
            shot = NodeSnapshot.from_json(await reader.readline())
            assert shot.node_id == pair.listener.node_id
            assert [each.endpoint_id for each in shot.endpoints] == [pair.dialer.node_id]
            writer.transport.abort()


async def test_nobody_else_may_connect_and_the_end_removes_the_socket(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    listen = socket.socket.listen

    def note(self: socket.socket, *backlog: int) -> None:
        modes.append(mode_of(path))
        listen(self, *backlog)

    monkeypatch.setattr(socket.socket, "listen", note)  # uvloop calls no method of Python
    before = os.umask(0)
    try:
        async with memory_nodes() as nodes, serve_monitor(await nodes.start(), path):
            modes.append(mode_of(path))
            assert {stat.S_IMODE(mode) for mode in modes} == {0o600}
    finally:
        os.umask(before)
    assert not await asyncio.to_thread(path.exists)


async def test_nothing_runs_while_nobody_is_connected(path: Path) -> None:
    async with memory_nodes() as nodes:
        node = await nodes.start()
        tasks = asyncio.all_tasks()
        async with serve_monitor(node, path):
            assert not watched(node)
            async with reading(path) as lines:
                await lines.next("snapshot")
                assert watched(node)
            await until(lambda: asyncio.all_tasks() <= tasks)
            assert not watched(node)


async def test_a_socket_that_a_killed_program_left_behind_is_replaced(path: Path) -> None:
    with socket.socket(UNIX) as killed:
        killed.bind(str(path))
    async with (
        memory_nodes() as nodes,
        serve_monitor(await nodes.start(), path),
        reading(path) as lines,
    ):
        await lines.next("snapshot")


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("live", "a program shows a node there already: choose another path, or stop it first"),
        ("file", "another file is in its place: choose another path, or remove the file"),
        ("x" * 120, "the path is too long for a Unix socket: use at most 103 bytes"),
        ("no/folder", "its folder does not exist: make it first"),
    ],
)
async def test_a_path_that_cannot_be_used_is_refused_with_the_remedy(
    path: Path, place: str, expected: str
) -> None:
    path.with_name("file").write_text("precious")
    async with memory_nodes() as nodes:
        node = await nodes.start()
        async with serve_monitor(node, path.with_name("live")):
            with pytest.raises(STTListenError, match=expected):
                async with serve_monitor(node, path.parent / place):
                    pass
            async with reading(path.with_name("live")) as lines:
                await lines.next("snapshot")
    assert path.with_name("file").read_text() == "precious"


async def test_of_a_burst_of_events_the_last_hundred_are_shown(path: Path) -> None:
    async with memory_nodes() as nodes:
        node = await nodes.start()
        async with serve_monitor(node, path), reading(path) as lines:
            await lines.next("snapshot")
            for number in range(300):
                await node.events.emit("hub_lost", hub=str(number))
            first = await lines.next("event")
            assert (first["number"], first["facts"]) == (201, {"hub": "200"})


async def test_a_reader_that_does_not_keep_up_misses_lines_and_holds_up_nobody(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor_socket, "_MOST_EVENTS", 1000)
    loop = asyncio.get_running_loop()
    async with memory_nodes() as nodes:
        node = await nodes.start()
        for number in range(1, 701):  # so that a snapshot is more than the system keeps
            await node.endpoints.add_endpoint(number.to_bytes(32, "big"), ("host", 1))
        async with serve_monitor(node, path), RemoteMonitor(path) as fast:
            with socket.socket(UNIX) as slow:
                slow.connect(str(path))
                slow.setblocking(False)
                await until(lambda: len(fast.history) > 10)
                news = fast.news()
                for batch in range(12):
                    for _ in range(900):
                        await node.events.emit("hub_lost", hub=str(batch))
                    while fast.events[-1:] == [] or fast.events[-1].number < 900 * (batch + 1):
                        await anext(news)
                heard = b""
                while heard.count(b"\n") < 1000 or heard.count(b'"snapshot"') < 2:
                    heard += await loop.sock_recv(slow, 2**20)
                await node.events.emit("hub_lost", hub="the last")
                while b"the last" not in heard.rpartition(b"\n")[0]:
                    heard += await loop.sock_recv(slow, 2**20)
            lines = [json.loads(line) for line in heard.rpartition(b"\n")[0].splitlines()]
            kinds = Counter(line["type"] for line in lines)
            assert kinds["snapshot"] < len(fast.history) / 2
            assert kinds["event"] < lines[-1]["number"] == 12 * 900 + 1


@in_virtual_time
async def test_a_reader_that_comes_between_snapshots_gets_none_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(monitor, "_INTERVAL", 1.0)
    monkeypatch.setattr(monitor_socket, "_PAUSE", 0.25)

    network = MemoryNetwork()
    async with memory_nodes() as nodes:
        node = await nodes.start()
        server = monitor_socket._Server(node)
        listener = await network.listen(server.accept, "here", 1)
        await network.dial(Recorder(), "here", 1)
        await asyncio.sleep(0.9)
        await node.events.emit("hub_lost", hub="x")  # it is written, and a pause begins
        await asyncio.sleep(0.15)  # and a snapshot is taken in that pause
        await network.dial(late := Recorder(), "here", 1)
        await asyncio.sleep(1)
        lines = map(json.loads, late.data.splitlines())
        uptimes = [line["uptime"] for line in lines if line["type"] == "snapshot"]
        assert len(uptimes) > 1
        assert uptimes == sorted(set(uptimes))
        await listener.close()
        await server.end()


async def test_there_are_eight_readers_at_most(path: Path) -> None:
    async with memory_nodes() as nodes:
        node = await nodes.start()
        async with serve_monitor(node, path):
            monitors = [RemoteMonitor(path) for _ in range(8)]
            for each in monitors:
                await each.__aenter__()
            with pytest.raises(ConnectionError, match="8 programs watch this node already"):
                await RemoteMonitor(path).__aenter__()
            await monitors.pop().__aexit__(None, None, None)
            async with asyncio.timeout(20):
                while True:
                    try:
                        async with RemoteMonitor(path):
                            break
                    except ConnectionError:
                        await asyncio.sleep(0)
            for each in monitors:
                await each.__aexit__(None, None, None)


async def test_readers_learn_that_the_node_has_stopped(path: Path) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        async with serve_monitor(pair.listener, path):
            async with reading(path) as lines:
                await lines.next("snapshot")
                await pair.listener.stop()
                *events, last = [each for each in await lines.rest() if each["type"] != "snapshot"]
                assert last == {"type": "end", "reason": "the node has stopped"}
                assert "peer_disconnected" in [event["name"] for event in events]
            with pytest.raises(ConnectionError, match="the node is not running"):
                await RemoteMonitor(path).__aenter__()


async def test_a_program_that_cancels_all_its_tasks_shows_the_node_to_the_next_reader(
    path: Path,
) -> None:
    async with memory_nodes() as nodes, serve_monitor(await nodes.start(), path):
        before = asyncio.all_tasks()
        async with reading(path) as lines:
            await lines.next("snapshot")
            for task in asyncio.all_tasks() - before:
                task.cancel()
            reason = (await lines.rest())[-1]["reason"]
            assert reason == "its program has cancelled what shows it"
        async with reading(path) as lines:
            await lines.next("snapshot")


async def test_readers_learn_that_the_node_has_stopped_even_if_the_block_ends_with_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor_socket, "_PAUSE", 0.1)
    monkeypatch.setattr(monitor_socket, "_GOODBYE_SECONDS", 0.3)
    async with memory_nodes() as nodes:
        node = nodes.make()
        async with serve_monitor(node, path), node:
            reader, writer = await asyncio.open_unix_connection(path)
            await Lines(reader).next("snapshot")
        last = (await Lines(reader).rest())[-1]
        assert last == {"type": "end", "reason": "the node has stopped"}
        writer.transport.abort()


async def test_the_end_of_the_block_is_not_held_up_by_a_reader(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor_socket, "_GOODBYE_SECONDS", 0.01)
    async with memory_nodes() as nodes:
        node = await nodes.start()
        with socket.socket(UNIX) as sleeper:
            async with asyncio.timeout(10), serve_monitor(node, path):
                sleeper.connect(str(path))
                await until(lambda: watched(node))
            assert not watched(node)
