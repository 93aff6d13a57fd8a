"""A node that is watched from another process: what is seen of it, and why there may be nothing."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from helpers.nodes import memory_nodes, until
from seigr_toolset_transmissions.seeing import (
    Monitor,
    RemoteMonitor,
    SeenEvent,
    monitor,
    monitor_socket,
    remote,
    serve_monitor,
)
from seigr_toolset_transmissions.seeing.lines import HELLO, Remark, parse
from seigr_toolset_transmissions.transports.sockets import UNIX

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(UNIX is None, reason="this system has no Unix sockets")


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(monitor, "_INTERVAL", 0.02)
    monkeypatch.setattr(monitor_socket, "_PAUSE", 0.001)
    with tempfile.TemporaryDirectory() as folder:  # pytest's own paths may be too long for a socket
        yield Path(folder, "monitor")


async def test_what_is_seen_from_afar_is_what_a_monitor_sees(path: Path) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        async with (
            serve_monitor(pair.listener, path),
            Monitor(pair.listener) as near,
            RemoteMonitor(path) as far,
        ):
            await pair.near.send(bytes(1000))
            await pair.listener.events.emit("hub_lost", hub="one")
            await until(lambda: far.snapshot.stats.bytes_received == 1000 and far.events)
            assert far.snapshot.node_id == near.snapshot.node_id
            assert [event.facts for event in far.events] == [{"hub": "one"}]
            async for news in far.news():
                if news.sample is not None and news.sample.rates.bytes_received == 0:
                    break
            assert sum(far.endpoint_rates()[pair.dialer.node_id]) == 0
            assert any(sample.rates.bytes_received > 1000 for sample in far.history)
        assert not far.watching
        assert far.history[-1].stats.bytes_received == 1000


async def test_it_ends_when_the_node_stops_and_says_so(path: Path) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        async with serve_monitor(pair.listener, path), RemoteMonitor(path) as watched:
            news = watched.news()
            await pair.listener.stop()
            assert [event.name async for each in news for event in each.events][-1:] == [
                "peer_disconnected"
            ]
            assert watched.ended == "the node has stopped"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"", "it has ended without a word"),
        (b"nonsense\n", "this is no line of a monitor"),
        (b'["a list"]\n', "this is no line of a monitor"),
        (b'{"type":"event","name":"x"}\n', "this is no line of a monitor"),
        (b'{"type":"snapshot","rates":null}\n', "this is no snapshot of a node"),
    ],
)
async def test_a_broken_connection_is_an_error_that_says_why(
    path: Path, said: bytes, expected: str
) -> None:
    async with memory_nodes() as nodes:
        shot = (await nodes.start()).snapshot()

    async def show(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HELLO + b'{"type":"snapshot",' + shot.to_json()[1:].encode() + b"\n" + said)
        writer.close()

    async with await asyncio.start_unix_server(show, path), RemoteMonitor(path) as watched:
        assert watched.snapshot == shot
        with pytest.raises(ConnectionError, match=expected):
            async for _ in watched.news():
                pass


def test_what_a_later_version_adds_is_ignored() -> None:
    line = b'{"type":"event","more":1,"number":7,"time":1.5,"name":"hub_lost","facts":{"hub":"a"}}'
    assert parse(line) == SeenEvent(7, 1.5, "hub_lost", {"hub": "a"})
    assert parse(b'{"type":"weather","more":1}') == Remark(
        "weather", {"type": "weather", "more": 1}
    )


async def test_a_program_that_cancels_all_its_tasks_learns_that_it_watches_no_longer(
    path: Path,
) -> None:
    async with memory_nodes() as nodes:
        node = await nodes.start()
        async with serve_monitor(node, path):
            before = asyncio.all_tasks()
            async with RemoteMonitor(path) as watched:
                for task in asyncio.all_tasks() - before:
                    task.cancel()
                with pytest.raises(ConnectionError, match="this program has cancelled the task"):
                    async for _ in watched.news():
                        pass


async def test_a_path_without_a_node_is_refused_with_the_reason(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_PATIENCE", 0.05)

    async def why() -> str:
        with pytest.raises(ConnectionError) as refused:
            async with RemoteMonitor(path):
                pass
        return str(refused.value)

    async def chat(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n")
        writer.close()

    assert await why() == f"there is no {path}: start the program that is to show its node there"
    with socket.socket(UNIX) as killed:
        killed.bind(str(path))
    assert "the one that made it has ended" in await why()
    with socket.socket(UNIX) as silent:
        unlink(path)
        silent.bind(str(path))
        silent.listen()
        assert "has not answered for 0.05 s" in await why()
    unlink(path)
    async with await asyncio.start_unix_server(chat, path):
        assert "is no monitor socket, or one of another version" in await why()
    unlink(path)
    await asyncio.to_thread(path.write_text, "a file")
    assert "is no monitor socket" in await why()


def unlink(path: Path) -> None:
    path.unlink(missing_ok=True)
