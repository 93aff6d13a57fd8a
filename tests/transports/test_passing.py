"""Connections that one process gives to another, with the bytes that they have brought."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
import time
from array import array
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from helpers.forked import in_fork, needs_fork
from helpers.nodes import until
from helpers.recorder import Recorder
from seigr_toolset_transmissions.transports.memory import memory_pair
from seigr_toolset_transmissions.transports.passing import Passing, adopt
from seigr_toolset_transmissions.transports.sockets import UNIX
from seigr_toolset_transmissions.transports.tcp import TcpNetwork
from seigr_toolset_transmissions.transports.unix import UnixNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from seigr_toolset_transmissions.transports.base import Network, Transport

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="connections are passed on Linux only"
)


class Taker:
    """Another process, as it were: goes on with each connection that it is given."""

    def __init__(self, folder: str) -> None:
        self.recorder = Recorder()
        self.came: list[bytes] = []
        self._adopting: set[asyncio.Task[None]] = set()
        self.place = Passing(folder, self.take)
        self.path = self.place.path

    def take(self, sock: socket.socket, data: bytes) -> None:
        self.came.append(data)
        self._adopting.add(asyncio.create_task(adopt(self.recorder, sock, data)))


class World:
    """A dialer, and who has accepted its connection and may give it to a taker."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.giver = Passing(folder, lambda sock, _: sock.close())
        self.taker = Taker(folder)
        self.dialer, self.accepted = Recorder(), Recorder(react=self._heard)
        self.transport: Transport | None = None

    def _heard(self, word: str) -> None:
        if word == "bytes":
            self.accepted.transport.pause_reading()

    async def connect(self, network: Network, host: str) -> Transport:
        """Return the accepted connection, whose first bytes have been taken."""
        listener = await network.listen(lambda: self.accepted, host, 0)
        await network.dial(self.dialer, *listener.address)
        self.dialer.transport.write(b"first")
        await until(lambda: self.accepted.data == b"first")
        await listener.close()
        return self.accepted.transport.inner


@pytest.fixture
async def world() -> AsyncIterator[World]:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own paths may be too long for a socket
        world = World(folder)
        yield world
        world.giver.close()
        world.taker.place.close()
        for end in (world.dialer, world.accepted, world.taker.recorder):
            if end.calls:
                end.transport.abort()
                await end.until_lost()
        assert not list(Path(folder).iterdir())  # noqa: ASYNC240  takes no time


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_the_taker_goes_on_from_the_first_byte_and_the_giver_is_out(
    world: World, kind: str
) -> None:
    network, host = (TcpNetwork(), "127.0.0.1") if kind == "tcp" else (UnixNetwork(), world.folder)
    given = await world.connect(network, host)
    address = given.peer_address
    assert world.giver.give(given, bytes(world.accepted.data), world.taker.path)
    world.dialer.transport.write(b" and more")
    await until(lambda: world.taker.recorder.data == b"first and more")
    assert world.taker.recorder.transport.peer_address == address
    await world.accepted.until_lost()
    assert world.accepted.cause is None
    assert world.accepted.data == b"first"
    given.abort()  # as whoever has had it may do: it is another's connection now
    given.close()
    given.write(b"nothing")
    world.taker.recorder.transport.write(b"an answer")
    await until(lambda: world.dialer.data == b"an answer")
    before = time.process_time()
    world.taker.recorder.transport.pause_reading()
    world.dialer.transport.write(bytes(100_000))
    await asyncio.sleep(0.2)  # what waits there does not concern the loop of the giver
    assert time.process_time() - before < 0.1
    world.taker.recorder.transport.resume_reading()
    world.taker.recorder.transport.close()
    await world.dialer.until_lost()
    assert world.dialer.cause is None


async def test_a_connection_that_nobody_takes_stays_with_the_giver(world: World) -> None:
    given = await world.connect(TcpNetwork(), "127.0.0.1")
    killed = Path(world.folder, "killed.place")
    with pytest.raises(FileNotFoundError):  # as on another machine
        world.giver.give(given, b"", os.fsencode(killed))
    with socket.socket(UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(killed))
    with pytest.raises(ConnectionRefusedError):
        world.giver.give(given, b"", os.fsencode(killed))
    for seconds, remains in ((0, True), (20, False)):
        os.utime(killed, (0, time.time() - seconds))
        Passing(world.folder, lambda sock, _: sock.close()).close()
        assert (killed in Path(world.folder).iterdir()) == remains  # noqa: ASYNC240  takes no time
    given.resume_reading()
    world.dialer.transport.write(b" and more")
    await until(lambda: world.accepted.data == b"first and more")


async def test_a_process_that_is_too_busy_can_be_given_a_connection_later(world: World) -> None:
    given = await world.connect(TcpNetwork(), "127.0.0.1")
    with socket.socket(UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                sender.sendto(b"no connection", world.taker.path)
    assert not world.giver.give(given, b"first", world.taker.path)
    assert not world.accepted.lost
    await asyncio.sleep(0.01)
    assert world.giver.give(given, b"first", world.taker.path)
    await until(lambda: world.taker.recorder.data == b"first")
    assert world.taker.came == [b"first"]


@pytest.mark.parametrize("lack", ["descriptor", "connection", "quiet"])
async def test_what_cannot_be_given_away_is_not(world: World, lack: str) -> None:
    given = await world.connect(TcpNetwork(), "127.0.0.1")
    if lack == "descriptor":
        given, _ = memory_pair(Recorder(), Recorder())
    elif lack == "connection":
        given.abort()
    else:
        while not given.waiting:
            given.write(bytes(1_000_000))
    with pytest.raises(OSError, match=r"not supported|reset|wait in this process"):
        world.giver.give(given, b"", world.taker.path)
    await asyncio.sleep(0.01)
    assert world.taker.came == []


async def test_a_connection_on_its_way_to_a_process_that_ends_is_ended(world: World) -> None:
    given = await world.connect(TcpNetwork(), "127.0.0.1")
    asyncio.get_running_loop().remove_reader(world.taker.place.descriptors()[0])
    assert world.giver.give(given, b"", world.taker.path)
    await world.accepted.until_lost()
    assert not world.dialer.lost
    world.taker.place.close()
    await world.dialer.until_lost()


async def test_descriptors_that_do_not_belong_are_closed(world: World) -> None:
    reader, writer = os.pipe()
    with socket.socket(UNIX, socket.SOCK_DGRAM) as sender:
        for numbers in ([], [writer], [writer] * 3, [sender.fileno()]):
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", numbers))
            sender.sendmsg([b"x"], [rights], 0, world.taker.path)
    os.close(writer)
    assert await asyncio.to_thread(os.read, reader, 1) == b""  # nobody has the other end any more
    os.close(reader)
    assert world.taker.came == []


@pytest.mark.parametrize("turns", range(4))
async def test_an_adoption_that_is_cancelled_leaves_nothing_open(turns: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        far = socket.create_connection(server.getsockname())
        near, _ = server.accept()
    receiver = Recorder()
    task = asyncio.create_task(adopt(receiver, near, b"first"))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    if not task.cancelled():  # it was done before
        receiver.transport.abort()
    elif not receiver.calls and near.fileno() >= 0:  # it had not begun
        near.close()
    far.setblocking(False)
    with suppress(ConnectionResetError):
        assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(far, 1), 5) == b""
    far.close()
    assert receiver.lost == bool(receiver.calls)


@needs_fork
async def test_a_forked_child_takes_no_connection_of_its_parent(world: World) -> None:
    given = await world.connect(TcpNetwork(), "127.0.0.1")
    assert world.giver.give(given, b"first", world.taker.path)

    def take() -> Any:
        return world.taker.place._sock.recvmsg(100)

    assert "OSError" in in_fork(take)
    await until(lambda: world.taker.recorder.data == b"first")
