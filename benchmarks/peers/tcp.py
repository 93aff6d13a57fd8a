"""Without a library: sockets, asyncio's protocols and streams, and mutual TLS.

The ones that do not encrypt are the physical reference: they show what the machine can do.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from .base import HOST, Arrived, Caller, Crowd, Hub, Job, Peer, Server, Sink, Source

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

__all__ = ["AsyncioProtocol", "AsyncioStreams", "MutualTls", "RawSockets"]

_BACKLOG = 1024
_HELLO = b"!"
_READ_BYTES = 256 * 1024


def _contexts(job: Job, *, tls: bool) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    """Return the server's TLS settings and the client's."""
    if not tls:
        return None, None
    return job.material.server_tls(mutual=True), job.material.client_tls(mutual=True)


def _port(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


class _Streams(Peer):
    """`asyncio.StreamReader` and `asyncio.StreamWriter`; both sides know the message length."""

    tls = False

    async def _serve(self, job: Job, handler: Callable[..., Any]) -> tuple[int, Callable[[], Any]]:
        writers: list[asyncio.StreamWriter] = []

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await handler(reader, writer)

        server = await asyncio.start_server(
            handle, HOST, 0, ssl=_contexts(job, tls=self.tls)[0], backlog=_BACKLOG
        )

        async def close() -> None:
            server.close()
            for writer in writers:
                writer.transport.abort()
            await asyncio.sleep(0)

        return _port(server), close

    async def _dial(
        self, job: Job, address: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(HOST, address, ssl=_contexts(job, tls=self.tls)[1])

    async def open_sink(self, job: Job, arrived: Callable[[bytes], None]) -> Sink:
        client: asyncio.Future[asyncio.StreamReader] = asyncio.get_running_loop().create_future()

        async def handler(reader: asyncio.StreamReader, _writer: Any) -> None:
            client.set_result(reader)

        address, close = await self._serve(job, handler)

        async def first() -> bytes:
            reader = await client
            sink.receive = partial(reader.readexactly, job.size)
            return await sink.receive()

        sink = Sink(address, receive=first, close=close)
        return sink

    async def open_source(self, job: Job, address: Any) -> Source:
        _, writer = await self._dial(job, address)

        async def send(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        async def close() -> None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

        return Source(send, close=close)

    async def open_echo(self, job: Job) -> Server:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                writer.write(await reader.readexactly(job.size))
                await writer.drain()

        address, close = await self._serve(job, handler)
        return Server(address, close=close)

    async def open_caller(self, job: Job, address: Any) -> Caller:
        reader, writer = await self._dial(job, address)

        async def ask(data: bytes) -> bytes:
            writer.write(data)
            await writer.drain()
            return await reader.readexactly(job.size)

        async def close() -> None:
            writer.transport.abort()
            await asyncio.sleep(0)

        return Caller(ask, close)


class _HubProtocol(asyncio.Protocol):
    """The hub's end: says hello when the connection, TLS included, is established."""

    def __init__(self, members: list[asyncio.Transport]) -> None:
        self._members = members

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it
        self._members.append(stream)
        stream.write(_HELLO)


class _MemberProtocol(asyncio.Protocol):
    """A member's end: waits for the hello, then splits the stream into messages of one size."""

    def __init__(self, size: int, arrived: Arrived) -> None:
        self._size = size
        self._arrived = arrived
        self._rest = b""
        self.established = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        if not self.established.done():
            self.established.set_result(None)
            data = data[len(_HELLO) :]
        self._rest += data
        while len(self._rest) >= self._size:
            self._arrived(self._rest[: self._size], self)
            self._rest = self._rest[self._size :]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.established.done():
            self.established.set_exception(exc or ConnectionResetError())


async def _hub(context: ssl.SSLContext | None) -> Hub:
    members: list[asyncio.Transport] = []
    server = await asyncio.get_running_loop().create_server(
        lambda: _HubProtocol(members), HOST, 0, ssl=context, backlog=_BACKLOG
    )

    async def broadcast(data: bytes) -> None:
        for member in members:
            member.write(data)

    async def close() -> None:
        server.close()
        for member in members:
            member.abort()
        await asyncio.sleep(0)

    return Hub(_port(server), connected=lambda: len(members), broadcast=broadcast, close=close)


async def _crowd(job: Job, address: Any, context: ssl.SSLContext | None, arrived: Arrived) -> Crowd:
    loop = asyncio.get_running_loop()
    transports = []

    async def connect() -> None:
        transport, protocol = await loop.create_connection(
            lambda: _MemberProtocol(job.size, arrived), HOST, address, ssl=context
        )
        transports.append(transport)
        await protocol.established

    async def close() -> None:
        for transport in transports:
            transport.abort()
        await asyncio.sleep(0)

    return Crowd(connect, close)


class AsyncioStreams(_Streams):
    """Streams without encryption: the way an asyncio program talks TCP."""

    name = "asyncio streams (plain)"
    can = frozenset({"oneway", "roundtrip"})
    encrypted = False
    pace = 0.3


class MutualTls(_Streams):
    """TLS 1.3 with certificates on both sides, under asyncio; a crowd uses protocols."""

    name = "asyncio mutual TLS"
    can = frozenset({"oneway", "roundtrip", "crowd"})
    tls = True
    pace = 0.1
    most_sessions = 1_000

    async def open_hub(self, job: Job) -> Hub:
        return await _hub(_contexts(job, tls=True)[0])

    async def open_crowd(self, job: Job, address: Any, arrived: Arrived) -> Crowd:
        return await _crowd(job, address, _contexts(job, tls=True)[1], arrived)


class _EchoProtocol(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it
        self._write = stream.write

    def data_received(self, data: bytes) -> None:
        self._write(data)


class _CallProtocol(asyncio.Protocol):
    answer: asyncio.Future[bytes]

    def data_received(self, data: bytes) -> None:
        self.answer.set_result(data)


class AsyncioProtocol(Peer):
    """Protocols without encryption or messages: the minimum cost of asyncio."""

    name = "asyncio protocol (plain)"
    can = frozenset({"roundtrip", "crowd"})
    encrypted = False

    async def open_echo(self, job: Job) -> Server:
        server = await asyncio.get_running_loop().create_server(_EchoProtocol, HOST, 0)

        async def close() -> None:
            server.close()

        return Server(_port(server), close=close)

    async def open_caller(self, job: Job, address: Any) -> Caller:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_connection(_CallProtocol, HOST, address)

        async def ask(data: bytes) -> bytes:
            answer: asyncio.Future[bytes] = loop.create_future()
            protocol.answer = answer
            transport.write(data)
            return await answer

        async def close() -> None:
            transport.abort()
            await asyncio.sleep(0)

        return Caller(ask, close)

    async def open_hub(self, job: Job) -> Hub:
        return await _hub(None)

    async def open_crowd(self, job: Job, address: Any, arrived: Arrived) -> Crowd:
        return await _crowd(job, address, None, arrived)


class RawSockets(Peer):
    """Blocking sockets without encryption or messages: the most the machine can do."""

    name = "raw sockets (plain)"
    can = frozenset({"oneway", "roundtrip", "crowd"})
    blocking = True
    encrypted = False
    pace = 0.3

    def open_sink(self, job: Job, arrived: Callable[[bytes], None]) -> Sink:
        server = socket.create_server((HOST, 0))
        size = job.size
        at_once = max(1, _READ_BYTES // size) * size
        client: socket.socket | None = None
        read, start = b"", 0

        def receive() -> bytes:
            nonlocal client, read, start
            if start == len(read):
                if client is None:
                    client, _ = server.accept()
                read, start = client.recv(at_once), 0
                if len(read) % size:  # whole messages are the fastest to split
                    read += client.recv(size - len(read) % size, socket.MSG_WAITALL)
                if not read:
                    raise ConnectionResetError
            start += size
            return read[start - size : start]

        return Sink(server.getsockname()[1], receive=receive, close=server.close)

    def open_source(self, job: Job, address: Any) -> Source:
        client = _dial(address)
        return Source(client.sendall, lambda: None, client.close)

    def open_echo(self, job: Job) -> Server:
        server = socket.create_server((HOST, 0))

        def echo() -> None:
            client, _ = server.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(OSError):
                while data := client.recv(job.size):
                    client.sendall(data)

        threading.Thread(target=echo, daemon=True).start()
        return Server(server.getsockname()[1], close=server.close)

    def open_caller(self, job: Job, address: Any) -> Caller:
        client = _dial(address)

        def ask(data: bytes) -> bytes:
            client.sendall(data)
            return client.recv(job.size, socket.MSG_WAITALL)

        return Caller(ask, client.close)

    def open_hub(self, job: Job) -> Hub:
        server = socket.create_server((HOST, 0), backlog=_BACKLOG)
        members: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    member, _ = server.accept()
                    member.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    members.append(member)
                    member.send(_HELLO)

        threading.Thread(target=accept, daemon=True).start()

        def broadcast(data: bytes) -> None:
            for member in members:
                member.send(data)

        return Hub(
            server.getsockname()[1],
            connected=lambda: len(members),
            broadcast=broadcast,
            close=server.close,
        )

    async def open_crowd(self, job: Job, address: Any, arrived: Arrived) -> Crowd:
        return await _crowd(job, address, None, arrived)


def _dial(port: int) -> socket.socket:
    client = socket.create_connection((HOST, port))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client
