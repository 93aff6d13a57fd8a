"""What only Unix sockets do: sockets in folders, and the ends of their processes."""

from __future__ import annotations

import errno
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from helpers.forked import in_fork, needs_fork
from helpers.nodes import SHARED_SEED, Nodes
from helpers.recorder import Recorder
from seigr_toolset_transmissions import STTNode
from seigr_toolset_transmissions.transports import unix
from seigr_toolset_transmissions.transports.base import FREE_PORTS
from seigr_toolset_transmissions.transports.sockets import UNIX
from seigr_toolset_transmissions.transports.unix import UnixNetwork

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(UNIX is None, reason="this system has no Unix sockets")


@pytest.fixture
def folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as path:  # pytest's own paths may be too long for a socket
        yield path


@pytest.fixture
def precious(folder: str) -> Iterator[None]:
    """Another file where a socket is to be; it must survive the test."""
    file = Path(folder, "7.sock")
    file.write_text("precious")
    yield
    assert file.read_text() == "precious"


def sockets_in(folder: str) -> list[str]:
    return [path.name for path in Path(folder).iterdir() if path.is_socket()]


def abandoned(path: Path) -> None:
    """Leave a socket as a killed process leaves it."""
    with socket.socket(UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))


async def test_a_listener_is_a_socket_in_its_folder_for_as_long_as_it_listens(folder: str) -> None:
    listener = await UnixNetwork().listen(Recorder, folder, 7)
    assert listener.address == (folder, 7)
    assert sockets_in(folder) == ["7.sock"]
    await listener.close()
    await listener.close()
    assert sockets_in(folder) == []


async def test_an_abandoned_socket_is_replaced(folder: str) -> None:
    abandoned(Path(folder, "7.sock"))
    with pytest.raises(ConnectionRefusedError):
        await UnixNetwork().dial(Recorder(), folder, 7)
    listener = await UnixNetwork().listen(Recorder, folder, 7)
    client = Recorder()
    await UnixNetwork().dial(client, folder, 7)
    client.transport.abort()
    await client.until_lost()
    await listener.close()


async def test_any_free_port_is_none_that_has_a_socket(folder: str) -> None:
    first = FREE_PORTS[0]
    abandoned(Path(folder, f"{first}.sock"))
    listener = await UnixNetwork().listen(Recorder, folder, 0)
    assert listener.address == (folder, first + 1)
    await listener.close()


async def test_a_folder_without_a_free_port_says_so(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unix, "FREE_PORTS", range(1, 2))
    listener = await UnixNetwork().listen(Recorder, folder, 0)
    with pytest.raises(OSError, match="in use") as raised:
        await UnixNetwork().listen(Recorder, folder, 0)
    assert raised.value.errno == errno.EADDRINUSE
    await listener.close()


@pytest.mark.usefixtures("precious")
async def test_a_file_in_the_place_of_the_socket_is_left_alone(folder: str) -> None:
    with pytest.raises(OSError, match="in use"):
        await UnixNetwork().listen(Recorder, folder, 7)


async def test_a_missing_folder_and_a_path_that_is_too_long_are_reported(folder: str) -> None:
    with pytest.raises(FileNotFoundError):
        await UnixNetwork().listen(Recorder, f"{folder}/none", 7)
    with pytest.raises(OSError, match="too long"):
        await UnixNetwork().listen(Recorder, f"{folder}/{'x' * 200}", 7)
    with pytest.raises(OSError, match="too long"):
        await UnixNetwork().dial(Recorder(), f"{folder}/{'x' * 200}", 7)


async def test_closing_leaves_the_socket_of_another_listener_that_has_taken_its_place(
    folder: str,
) -> None:
    first = await UnixNetwork().listen(Recorder, folder, 7)
    unix._remove(Path(folder, "7.sock"))
    second = await UnixNetwork().listen(Recorder, folder, 7)
    await first.close()
    assert sockets_in(folder) == ["7.sock"]
    await second.close()


async def test_a_dial_is_refused_when_too_many_wait_to_be_accepted(folder: str) -> None:
    with socket.socket(UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(Path(folder, "7.sock")))
        sock.listen(0)
        waiting = Recorder()
        await UnixNetwork().dial(waiting, folder, 7)
        late = Recorder()
        with pytest.raises(OSError):  # noqa: PT011 - which one depends on the loop
            await UnixNetwork().dial(late, folder, 7)
        assert not late.calls
        waiting.transport.abort()
        await waiting.until_lost()


@needs_fork
async def test_a_forked_child_leaves_the_socket_to_its_parent(folder: str) -> None:
    listener = await UnixNetwork().listen(Recorder, folder, 7)
    in_fork(lambda: None)
    assert sockets_in(folder) == ["7.sock"]
    client = Recorder()
    await UnixNetwork().dial(client, folder, 7)
    client.transport.abort()
    await client.until_lost()
    await listener.close()


async def test_nodes_of_one_machine_talk_over_unix_sockets(folder: str) -> None:
    async with Nodes(UnixNetwork()) as nodes:
        hub = STTNode(b"h" * 32, SHARED_SEED, folder, 9400, network=UnixNetwork())
        async with hub.listening():
            peer = await nodes.start()
            await peer.endpoints.add_endpoint(hub.node_id, f"{folder}:9400", connect=True)
            await peer.endpoints.send_to_endpoint(hub.node_id, b"hello")
            assert await hub.endpoints.receive_any(timeout=9) == (b"hello", peer.node_id)


async def test_a_system_without_unix_sockets_says_so(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unix, "UNIX", None)
    with pytest.raises(OSError, match="no Unix sockets"):
        await UnixNetwork().listen(Recorder, folder, 0)
    with pytest.raises(OSError, match="no Unix sockets"):
        await UnixNetwork().dial(Recorder(), folder, 7)
