"""What is specific to TCP; the rest is in test_contract.py."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import socket
import sys
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from helpers.machine import has_ipv6
from helpers.recorder import Recorder, on, pattern, turns
from seigr_toolset_transmissions.transports import sockets, tcp
from seigr_toolset_transmissions.transports.base import READ_BYTES, WRITE_HIGH_BYTES
from seigr_toolset_transmissions.transports.sockets import SocketListener
from seigr_toolset_transmissions.transports.tcp import TcpNetwork, TcpTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from seigr_toolset_transmissions.transports.lookup import AddressInfo

MIB = 1024 * 1024

needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@asynccontextmanager
async def raw_peer(server: Recorder, *, receive_buffer: int = 0) -> AsyncIterator[socket.socket]:
    """Connect a bare socket, which the test reads and writes itself, to a recorder."""
    listener = await TcpNetwork().listen(lambda: server, "127.0.0.1", 0)
    with socket.socket() as peer:
        if receive_buffer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        peer.setblocking(False)
        await asyncio.get_running_loop().sock_connect(peer, listener.address)
        await server.until(lambda: bool(server.calls))
        yield peer
        server.transport.abort()
        await server.until_lost()
    await listener.close()
    server.check()


async def read_to_end(peer: socket.socket) -> bytes:
    received = bytearray()
    while data := await asyncio.get_running_loop().sock_recv(peer, MIB):
        received += data
    return bytes(received)


def stream_of(recorder: Recorder) -> asyncio.Transport:
    transport = recorder.transport.inner
    assert isinstance(transport, TcpTransport)
    assert transport._stream is not None
    return transport._stream


def option_of(recorder: Recorder, level: int, option: int) -> int:
    sock = stream_of(recorder).get_extra_info("socket")
    return int(sock.getsockopt(level, option))


# A peer that misbehaves.


async def test_a_peer_that_does_not_read_pauses_the_writer_until_it_reads() -> None:
    server = Recorder()
    async with raw_peer(server, receive_buffer=4096) as peer:
        record, written = bytes(65_537), 0
        while not server.paused:
            server.transport.write(record)
            written += len(record)
            await turns(2)
            assert written < 64 * MIB, "never paused"
        waiting = stream_of(server).get_write_buffer_size()
        assert waiting <= WRITE_HIGH_BYTES + 2 * len(record)
        read = 0
        while "resume" not in server.calls:
            read += len(await asyncio.get_running_loop().sock_recv(peer, MIB))
        assert stream_of(server).get_write_buffer_size() < waiting
        while read < written:
            read += len(await asyncio.get_running_loop().sock_recv(peer, MIB))
        assert read == written
        assert server.calls == ["made", "pause", "resume"]


async def test_close_waits_for_a_peer_that_does_not_read_until_abort() -> None:
    server = Recorder()
    async with raw_peer(server, receive_buffer=4096) as peer:
        server.transport.write(bytes(16 * MIB))
        server.transport.close()
        await turns(50)
        assert not server.lost
        server.transport.abort()
        await server.until_lost()
        assert server.cause is None
        with pytest.raises(ConnectionError):
            await read_to_end(peer)


async def test_close_waits_for_the_peers_end_and_discards_what_it_sends() -> None:
    message = pattern(2 * MIB)
    server = Recorder()
    async with raw_peer(server) as peer:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(peer, b"hello")
        await server.until_received(5)
        server.transport.write(message)
        server.transport.close()
        assert await read_to_end(peer) == message
        # Not even now would a reset tell the peer that something went wrong.
        await loop.sock_sendall(peer, bytes(MIB))
        assert not server.lost
        peer.shutdown(socket.SHUT_WR)
        await server.until_lost()
        assert server.cause is None
        assert server.data == b"hello"


async def test_abort_after_the_end_does_not_lose_bytes_on_their_way() -> None:
    message = pattern(40_000)
    server = Recorder()
    async with raw_peer(server, receive_buffer=4096) as peer:
        transport = server.transport.inner
        assert isinstance(transport, TcpTransport)
        server.transport.write(message)
        assert stream_of(server).get_write_buffer_size() == 0, "the system has it, not the peer"
        server.transport.close()
        await turns(2)
        transport.eof_received()  # as if the peer had ended, too
        server.transport.abort()
        await server.until_lost()
        assert await read_to_end(peer) == message


async def test_a_peer_that_ends_its_stream_only_ends_the_connection() -> None:
    server = Recorder()
    async with raw_peer(server) as peer:
        await asyncio.get_running_loop().sock_sendall(peer, b"last words")
        peer.shutdown(socket.SHUT_WR)
        await server.until_lost()
        assert server.cause is None
        assert server.data == b"last words"
        assert await read_to_end(peer) == b""


async def test_the_end_of_a_peers_stream_ends_waits_for_it_too() -> None:
    server = Recorder()
    async with raw_peer(server, receive_buffer=4096) as peer:
        server.transport.write(bytes(16 * MIB))
        peer.shutdown(socket.SHUT_WR)
        await server.until_lost()  # even though the peer reads nothing
        assert server.cause is None


async def test_a_reset_is_reported_with_its_error() -> None:
    server = Recorder()
    async with raw_peer(server) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, sockets._RESET_ON_CLOSE)
        peer.close()
        await server.until_lost()
        assert isinstance(server.cause, ConnectionResetError)


async def test_a_reset_while_closing_is_a_local_close() -> None:
    server = Recorder()
    async with raw_peer(server, receive_buffer=4096) as peer:
        server.transport.write(bytes(16 * MIB))
        server.transport.close()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, sockets._RESET_ON_CLOSE)
        peer.close()
        await server.until_lost()
        assert server.cause is None


# Memory.


async def test_an_idle_connection_owns_no_buffer_and_no_dict() -> None:
    server = Recorder()
    async with raw_peer(server) as peer:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(peer, bytes(100_000))
        await server.until_received(100_000)
        transport = server.transport.inner
        assert isinstance(transport, TcpTransport)
        assert not hasattr(transport, "__dict__")
        assert sys.getsizeof(transport) < 200
        assert transport._rest == b""
        assert transport._buffer.nbytes == READ_BYTES


async def test_the_connections_of_a_loop_share_one_buffer_and_loops_do_not() -> None:
    first, second = Recorder(), Recorder()
    other_loop: list[memoryview] = []

    async def elsewhere() -> None:
        other_loop.append(TcpTransport(Recorder())._buffer)

    async with raw_peer(first), raw_peer(second):
        assert isinstance(first.transport.inner, TcpTransport)
        assert isinstance(second.transport.inner, TcpTransport)
        assert first.transport.inner._buffer is second.transport.inner._buffer
        thread = threading.Thread(target=asyncio.run, args=(elsewhere(),))
        thread.start()
        thread.join()
        assert other_loop[0] is not first.transport.inner._buffer


async def test_an_ended_connection_lets_go_of_its_receiver() -> None:
    server = Recorder()
    async with raw_peer(server) as peer:
        transport = server.transport.inner
        peer.close()
        await server.until_lost()
        await turns(2)
        assert all(server is not reference for reference in gc.get_referents(transport))


# Options and addresses.


async def test_small_writes_are_sent_at_once_on_both_sides() -> None:
    client, server = Recorder(), Recorder()
    listener = await TcpNetwork().listen(lambda: server, "127.0.0.1", 0)
    await TcpNetwork().dial(client, *listener.address)
    await server.until(lambda: bool(server.calls))
    for side in (client, server):
        assert option_of(side, socket.IPPROTO_TCP, socket.TCP_NODELAY)
        side.transport.abort()
        await side.until_lost()
    await listener.close()


@pytest.mark.skipif(os.name != "posix", reason="SO_REUSEADDR means something else there")
def test_a_listening_port_is_reused_after_a_restart_but_never_shared() -> None:
    [sock] = tcp._bind(
        socket.getaddrinfo("127.0.0.1", 0, type=socket.SOCK_STREAM), reuse_port=False
    )
    with sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        if hasattr(socket, "SO_REUSEPORT"):
            assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)


async def test_a_node_can_listen_again_at_once_where_it_had_connections() -> None:
    client, server = Recorder(), Recorder()
    listener = await TcpNetwork().listen(lambda: server, "127.0.0.1", 0)
    await TcpNetwork().dial(client, *listener.address)
    await server.until(lambda: bool(server.calls))
    server.transport.close()  # the side that ends first is the one that lingers in TIME_WAIT
    await server.until_lost()
    await client.until_lost()
    await listener.close()
    again = await TcpNetwork().listen(Recorder, *listener.address)
    assert again.address == listener.address
    await again.close()


@needs_ipv6
async def test_an_ipv6_address_has_two_parts_too() -> None:
    client, server = Recorder(), Recorder()
    listener = await TcpNetwork().listen(lambda: server, "::1", 0)
    await TcpNetwork().dial(client, *listener.address)
    await server.until(lambda: bool(server.calls))
    assert client.transport.peer_address == ("::1", listener.address[1])
    assert server.transport.peer_address[0] == "::1"
    assert len(server.transport.peer_address) == 2
    for side in (client, server):
        side.transport.abort()
        await side.until_lost()
    await listener.close()


def both_families(port: int) -> list[AddressInfo]:
    return [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
    ]


@needs_ipv6
@pytest.mark.parametrize("host", ["a name of both families", ""])
async def test_all_addresses_of_a_name_are_listened_on_with_one_port(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if host:

        async def resolve(_host: object, port: int, _flags: int = 0) -> list[AddressInfo]:
            return both_families(port)

        monkeypatch.setattr(tcp, "look_up", resolve)
    servers: list[Recorder] = []

    def accept() -> Recorder:
        servers.append(Recorder())
        return servers[-1]

    listener = await TcpNetwork().listen(accept, host, 0)
    monkeypatch.undo()
    for address in ("127.0.0.1", "::1"):
        client = Recorder()
        await TcpNetwork().dial(client, address, listener.address[1])
        client.transport.close()
        await client.until_lost()
    assert {server.transport.peer_address[0] for server in servers} == {"127.0.0.1", "::1"}
    await listener.close()


async def test_localhost_can_be_listened_on_and_dialed() -> None:
    server, client = Recorder(), Recorder()
    listener = await TcpNetwork().listen(lambda: server, "localhost", 0)
    await TcpNetwork().dial(client, "localhost", listener.address[1])
    client.transport.close()
    await client.until_lost()
    await server.until_lost()
    await listener.close()


@needs_ipv6
def test_another_free_port_is_taken_if_one_is_not_free_for_each_family(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[int] = []
    bind_once = tcp._bind_once

    def bind_twice_in_vain(infos: list[AddressInfo], *, reuse_port: bool) -> list[socket.socket]:
        tried.append(1)
        if len(tried) < 3:
            raise OSError(errno.EADDRINUSE, "taken")
        return bind_once(infos, reuse_port=reuse_port)

    monkeypatch.setattr(tcp, "_bind_once", bind_twice_in_vain)
    sockets = tcp._bind(both_families(0), reuse_port=False)
    ports = {sock.getsockname()[1] for sock in sockets}
    for sock in sockets:
        sock.close()
    assert len(sockets) == 2
    assert len(ports) == 1


def test_an_address_that_is_not_of_this_machine_is_skipped_if_another_is() -> None:
    foreign = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))
    local = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))
    [sock] = tcp._bind([foreign, local], reuse_port=False)
    assert sock.getsockname()[0] == "127.0.0.1"
    sock.close()
    with pytest.raises(OSError, match=r"192\.0\.2\.1|assign") as raised:
        tcp._bind([foreign], reuse_port=False)
    assert raised.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.skipif(sys.platform != "linux", reason="processes can share a port on Linux only")
@pytest.mark.parametrize("shares", [(True, True), (True, False), (False, True)])
async def test_a_port_is_shared_if_all_that_listen_ask_for_it(shares: tuple[bool, bool]) -> None:
    first, second = (TcpNetwork(reuse_port=share) for share in shares)
    servers = [Recorder(), Recorder()]
    listener = await first.listen(lambda: servers[0], "127.0.0.1", 0)
    if not all(shares):
        with pytest.raises(OSError, match="in use") as raised:
            await second.listen(lambda: servers[1], *listener.address)
        assert raised.value.errno == errno.EADDRINUSE
        await listener.close()
        return
    other = await second.listen(lambda: servers[1], *listener.address)
    await listener.close()
    client = Recorder()
    await second.dial(client, *other.address)
    await servers[1].until(lambda: bool(servers[1].calls))
    client.transport.abort()
    await client.until_lost()
    await servers[1].until_lost()
    await other.close()


async def test_a_system_that_cannot_share_a_port_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    network = TcpNetwork(reuse_port=True)
    with pytest.raises(OSError, match="processes can share a port on Linux only") as raised:
        await network.listen(Recorder, "127.0.0.1", 0)
    assert raised.value.errno == errno.ENOTSUP


@needs_ipv6
def test_a_port_taken_in_one_family_is_taken() -> None:
    with socket.socket(socket.AF_INET) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match="Address already in use") as raised:
            tcp._bind(both_families(port), reuse_port=False)
    assert raised.value.errno == errno.EADDRINUSE
    assert raised.value.__notes__ == [f"of 127.0.0.1 port {port}"]


@pytest.mark.parametrize(
    ("host", "port"),
    [("a" * 64, 1), ("zero\0byte", 1), ("127.0.0.1", 65_536), ("127.0.0.1", -1), ("::1::", 1)],
)
async def test_an_invalid_address_is_an_os_error(
    host: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def unknown(*args: Any, **options: Any) -> Any:
        if options["flags"] & socket.AI_NUMERICHOST:
            return real(*args, **options)
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    client = Recorder()
    monkeypatch.setattr(socket, "getaddrinfo", unknown)

    async def resolve_and_dial() -> None:
        for address in await TcpNetwork().resolve(host, port):
            await TcpNetwork().dial(client, *address)

    for attempt in (TcpNetwork().dial(client, host, port), resolve_and_dial()):
        with pytest.raises(OSError):  # noqa: PT011 - the message is partly the system's
            await attempt
    with pytest.raises(OSError):  # noqa: PT011
        await TcpNetwork().listen(Recorder, host, port)
    assert not client.calls


# A listener's odd moments.


async def test_a_connection_that_comes_while_the_listener_closes_is_ended() -> None:
    accepted: list[Recorder] = []

    def accept() -> Recorder:
        accepted.append(Recorder())
        return accepted[-1]

    listener = await TcpNetwork().listen(accept, "127.0.0.1", 0)
    assert isinstance(listener, SocketListener)
    await listener.close()
    transport = listener._make_transport()  # as for a connection that the loop had accepted
    transport.connection_made(stream := Stream())
    assert stream.aborted
    assert not accepted


class Stream(asyncio.Transport):
    """The few methods of asyncio's transport that are needed."""

    aborted = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


async def test_a_peer_gone_before_it_could_be_asked_for_its_address_has_none() -> None:
    transport = TcpTransport(Recorder())
    transport.connection_made(Stream())
    assert transport.peer_address == ("", 0)


async def test_a_dial_cancelled_when_much_was_written_ends_the_connection() -> None:
    # asyncio itself would wait until the peer has read everything.
    def write_and_cancel() -> None:
        client.transport.write(bytes(16 * MIB))
        dial.cancel()

    client = Recorder(react=on("made", write_and_cancel))
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        dial = loop.create_task(TcpNetwork().dial(client, *listening.getsockname()))
        peer, _ = await loop.sock_accept(listening)
        with peer:
            with pytest.raises(asyncio.CancelledError):
                await dial
            await client.until_lost()
            read = 0
            with contextlib.suppress(ConnectionError):
                while data := await loop.sock_recv(peer, MIB):
                    read += len(data)
            assert read < 16 * MIB
    client.check()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "fe80::1%lo"])
async def test_a_numeric_address_stands_for_itself_and_is_not_looked_up(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp, "look_up", None)
    assert await TcpNetwork().resolve(host, 7) == [(host, 7)]


async def test_a_name_stands_for_its_addresses_the_families_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def look_up(_host: str, port: int, *, urgent: bool) -> list[AddressInfo]:
        assert urgent
        names = {"::1": 10, "::2": 10, "192.0.2.1": 2, "192.0.2.2": 2}
        return [
            (family, socket.SOCK_STREAM, 6, "", (name, port, 0, 0)[: 4 if family == 10 else 2])
            for name, family in names.items()
        ]

    monkeypatch.setattr(tcp, "look_up", look_up)
    addresses = await TcpNetwork().resolve("a name", 7)
    assert addresses == [("::1", 7), ("192.0.2.1", 7), ("::2", 7), ("192.0.2.2", 7)]


@pytest.mark.parametrize("kind", [asyncio.SelectorEventLoop, uvloop.Loop])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_dial_that_reaches_itself_is_refused_and_holds_no_port(
    kind: type[asyncio.AbstractEventLoop], host: str
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    class FromThatPort(kind):  # type: ignore[misc, valid-type]
        """Binds a dial to the very port that it dials, as the system may by chance."""

        async def create_connection(self, factory: Any, to: str, port: int, **options: Any) -> Any:
            if to == "127.0.0.1":
                options["local_addr"] = (to, port)
            return await super().create_connection(factory, to, port, **options)

    async def main() -> None:
        client = Recorder()
        with pytest.raises(OSError, match=os.strerror(errno.ECONNREFUSED)):
            await TcpNetwork().dial(client, host, port)
        assert not client.calls
        listener = await TcpNetwork().listen(Recorder, "127.0.0.1", port)
        await listener.close()

    loop = FromThatPort()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


def test_a_link_local_address_keeps_its_zone() -> None:
    number, name = socket.if_nameindex()[0]
    assert tcp._address(("fe80::1", 1, 0, number)) == (f"fe80::1%{name}", 1)
    assert tcp._address(("fe80::1", 1, 0, 987_654)) == ("fe80::1%987654", 1)
    assert tcp._address(("::1", 1, 0, 0)) == ("::1", 1)
    assert tcp._address(("127.0.0.1", 1)) == ("127.0.0.1", 1)


async def test_no_warning_is_logged_for_a_broken_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    server = Recorder()
    async with raw_peer(server) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, sockets._RESET_ON_CLOSE)
        peer.close()
        for _ in range(50):
            server.transport.write(b"?")
        await server.until_lost()
    assert not caplog.records
