"""python-socketio: asyncio server under aiohttp over TLS, asyncio client, WebSocket only."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from .base import (
    HOST,
    REPLY_SECONDS,
    Arrived,
    Caller,
    Crowd,
    Hub,
    Job,
    Peer,
    Server,
    Sink,
    Source,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SocketIO"]

_EVENT = "message"
_MOST_BYTES = 16 * 1024 * 1024


def _server() -> Any:
    import socketio

    return socketio.AsyncServer(async_mode="aiohttp", max_http_buffer_size=_MOST_BYTES)


async def _serve(job: Job, server: Any) -> tuple[int, Callable[[], Any]]:
    from aiohttp import web

    application = web.Application()
    server.attach(application)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, HOST, 0, ssl_context=job.material.server_tls(), backlog=1024)
    await site.start()
    return runner.addresses[0][1], runner.cleanup


class _Clients:
    """Clients that share one HTTP session, which holds the TLS settings."""

    def __init__(self, job: Job, address: Any) -> None:
        import aiohttp

        self._address = address
        connector = aiohttp.TCPConnector(ssl=job.material.client_tls(), limit=0)
        self._http = aiohttp.ClientSession(connector=connector)
        self._clients: list[Any] = []

    async def connect(self, arrived: Callable[[bytes], None] | None = None) -> Any:
        import socketio

        client = socketio.AsyncClient(
            http_session=self._http,
            reconnection=False,
            websocket_extra_options={"max_msg_size": _MOST_BYTES},
        )
        if arrived is not None:

            async def handle(data: bytes) -> None:
                arrived(data)

            client.on(_EVENT, handle)
        await client.connect(f"https://{HOST}:{self._address}", transports=["websocket"])
        self._clients.append(client)
        return client

    async def close(self) -> None:
        await asyncio.gather(
            *(client.disconnect() for client in self._clients), return_exceptions=True
        )
        await self._http.close()


class SocketIO(Peer):
    """Events with one binary argument."""

    name = "python-socketio TLS"
    needs = ("socketio", "aiohttp")
    can = frozenset({"oneway", "roundtrip", "requests", "crowd"})
    pace = 0.03
    sends_later = True
    most_sessions = 1_000

    async def open_sink(self, job: Job, arrived: Callable[[bytes], None]) -> Sink:
        server = _server()

        async def handle(_session: str, data: bytes) -> None:
            arrived(data)

        server.on(_EVENT, handle)
        address, close = await _serve(job, server)
        return Sink(address, close=close)

    async def open_source(self, job: Job, address: Any) -> Source:
        clients = _Clients(job, address)
        client = await clients.connect()

        async def send(data: bytes) -> None:
            await client.emit(_EVENT, data)

        return Source(send, close=clients.close)

    async def open_echo(self, job: Job) -> Server:
        server = _server()

        async def handle(session: str, data: bytes) -> None:
            await server.emit(_EVENT, data, to=session)

        server.on(_EVENT, handle)
        address, close = await _serve(job, server)
        return Server(address, close=close)

    async def open_caller(self, job: Job, address: Any) -> Caller:
        clients = _Clients(job, address)
        answers: asyncio.Queue[bytes] = asyncio.Queue()
        client = await clients.connect(answers.put_nowait)

        async def ask(data: bytes) -> bytes:
            await client.emit(_EVENT, data)
            return await answers.get()

        return Caller(ask, clients.close)

    async def open_responder(self, job: Job) -> Server:
        server = _server()

        async def answer(_session: str, data: bytes) -> bytes:
            return data

        server.on(_EVENT, answer)
        address, close = await _serve(job, server)
        return Server(address, close=close)

    async def open_requester(self, job: Job, address: Any) -> Caller:
        clients = _Clients(job, address)
        client = await clients.connect()
        return Caller(partial(client.call, _EVENT, timeout=REPLY_SECONDS), clients.close)

    async def open_hub(self, job: Job) -> Hub:
        server = _server()
        sessions: set[str] = set()

        async def joined(session: str, _environ: Any) -> None:
            sessions.add(session)

        server.on("connect", joined)
        address, close = await _serve(job, server)

        async def broadcast(data: bytes) -> None:
            await server.emit(_EVENT, data)

        return Hub(address, connected=lambda: len(sessions), broadcast=broadcast, close=close)

    async def open_crowd(self, job: Job, address: Any, arrived: Arrived) -> Crowd:
        clients = _Clients(job, address)

        members = iter(range(job.sessions))

        async def connect() -> None:
            member = next(members)
            await clients.connect(lambda data: arrived(data, member))

        return Crowd(connect, clients.close)
