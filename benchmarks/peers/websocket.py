"""The websockets library, asyncio implementation, over TLS.

Compression is off; the documentation advises against it for messages that do not shrink.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from .base import HOST, Arrived, Caller, Crowd, Hub, Job, Peer, Server, Sink, Source

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Websockets"]


async def _serve(job: Job, handler: Callable[[Any], Any]) -> Any:
    from websockets.asyncio.server import serve

    return await serve(
        handler,
        HOST,
        0,
        ssl=job.material.server_tls(),
        compression=None,
        max_size=None,
        backlog=1024,
    )


async def _dial(job: Job, address: Any) -> Any:
    from websockets.asyncio.client import connect

    return await connect(
        f"wss://{HOST}:{address}",
        ssl=job.material.client_tls(),
        compression=None,
        max_size=None,
        proxy=None,
    )


def _port(server: Any) -> int:
    return server.sockets[0].getsockname()[1]  # type: ignore[no-any-return]


def _closer(server: Any) -> Callable[[], Any]:
    async def close() -> None:
        server.close()
        await server.wait_closed()

    return close


class Websockets(Peer):
    """``recv`` and ``send``, and ``broadcast``."""

    name = "websockets TLS"
    needs = ("websockets",)
    can = frozenset({"oneway", "roundtrip", "crowd"})
    pace = 0.1
    most_sessions = 5_000

    async def open_sink(self, job: Job, arrived: Callable[[bytes], None]) -> Sink:
        loop = asyncio.get_running_loop()
        client: asyncio.Future[Any] = loop.create_future()

        async def handler(socket: Any) -> None:
            client.set_result(socket)
            await socket.wait_closed()

        server = await _serve(job, handler)
        receive: Any = None

        async def first() -> Any:
            nonlocal receive
            if receive is None:
                receive = (await client).recv
                sink.receive = receive  # from now on, the library's own method
            return await receive()

        sink = Sink(_port(server), receive=first, close=_closer(server))
        return sink

    async def open_source(self, job: Job, address: Any) -> Source:
        socket = await _dial(job, address)
        return Source(socket.send, close=socket.close)

    async def open_echo(self, job: Job) -> Server:
        async def handler(socket: Any) -> None:
            async for message in socket:
                await socket.send(message)

        server = await _serve(job, handler)
        return Server(_port(server), close=_closer(server))

    async def open_caller(self, job: Job, address: Any) -> Caller:
        socket = await _dial(job, address)

        async def ask(data: bytes) -> bytes:
            await socket.send(data)
            return await socket.recv()  # type: ignore[no-any-return]

        return Caller(ask, socket.close)

    async def open_hub(self, job: Job) -> Hub:
        from websockets.asyncio.server import broadcast

        async def handler(socket: Any) -> None:
            await socket.wait_closed()

        server = await _serve(job, handler)

        async def send(data: bytes) -> None:
            broadcast(server.connections, data)

        return Hub(
            _port(server),
            connected=lambda: len(server.connections),
            broadcast=send,
            close=_closer(server),
        )

    async def open_crowd(self, job: Job, address: Any, arrived: Arrived) -> Crowd:
        sockets: list[Any] = []
        tasks = []

        async def take(socket: Any) -> None:
            async for message in socket:
                arrived(message, socket)

        async def connect() -> None:
            socket = await _dial(job, address)
            sockets.append(socket)
            tasks.append(asyncio.create_task(take(socket)))

        async def close() -> None:
            for task in tasks:
                task.cancel()
            for socket in sockets:
                socket.transport.abort()
            await asyncio.gather(*tasks, return_exceptions=True)

        return Crowd(connect, close)
