"""ZeroMQ with CURVE, through pyzmq: as blocking sockets and under asyncio.

One-way is PUSH to PULL, everything else DEALER to ROUTER, as the ZeroMQ guide advises. Requests and
replies are measured in two ways: with REQ and REP, which take one at a time, and with DEALER and
ROUTER, where the replies come in the order of the requests, and nothing else tells whose they are.
Queues have their default bounds (1,000 messages at each end). The server has a key pair that
clients know; clients have key pairs of their own, which nobody checks.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from .base import HOST, Arrived, Caller, Crowd, Hub, Job, Line, Peer, Server, Sink, Source

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ZmqAsyncio", "ZmqBlocking", "ZmqReqAsyncio", "ZmqReqBlocking"]

_LINGER = 10_000
_MOST_SOCKETS = 12_000


def _listen(context: Any, kind: int, **options: int) -> tuple[Any, tuple[str, bytes]]:
    import zmq

    public, secret = zmq.curve_keypair()
    socket = context.socket(kind)
    socket.linger = _LINGER
    socket.curve_server = True
    socket.curve_publickey, socket.curve_secretkey = public, secret
    port = socket.bind_to_random_port(f"tcp://{HOST}")
    return socket, (f"tcp://{HOST}:{port}", public)


def _connect(context: Any, kind: int, address: tuple[str, bytes]) -> Any:
    import zmq

    socket = context.socket(kind)
    socket.linger = _LINGER
    socket.curve_serverkey = address[1]
    socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
    socket.connect(address[0])
    return socket


class ZmqBlocking(Peer):
    """Blocking sockets: the fastest that pyzmq offers."""

    name = "pyzmq CURVE, blocking"
    needs = ("zmq",)
    can = frozenset({"oneway", "roundtrip", "requests"})
    blocking = True

    def open_sink(self, job: Job, arrived: Callable[[bytes], None]) -> Sink:
        import zmq

        socket, address = _listen(zmq.Context(), zmq.PULL)
        return Sink(address, receive=socket.recv, close=socket.context.destroy)

    def open_source(self, job: Job, address: Any) -> Source:
        import zmq

        socket = _connect(zmq.Context(), zmq.PUSH, address)
        return Source(socket.send, _pass, socket.context.destroy)

    def open_echo(self, job: Job) -> Server:
        import threading

        import zmq

        socket, address = _listen(zmq.Context(), zmq.ROUTER)

        def echo() -> None:
            while True:
                socket.send_multipart(socket.recv_multipart())

        threading.Thread(target=echo, daemon=True).start()
        return Server(address, close=_pass)  # the process ends it

    def open_caller(self, job: Job, address: Any) -> Caller:
        import zmq

        socket = _connect(zmq.Context(), zmq.DEALER, address)

        def ask(data: bytes) -> bytes:
            socket.send(data)
            return socket.recv()  # type: ignore[no-any-return]

        return Caller(ask, socket.context.destroy)

    open_responder = open_echo

    def open_requester(self, job: Job, address: Any) -> Line:
        import zmq

        socket = _connect(zmq.Context(), zmq.DEALER, address)
        return Line(socket.send, socket.recv, socket.context.destroy)


class ZmqReqBlocking(Peer):
    """Blocking REQ and REP sockets."""

    name = "pyzmq CURVE REQ, blocking"
    needs = ("zmq",)
    can = frozenset({"requests"})
    blocking = True
    one_at_a_time = True

    def open_responder(self, job: Job) -> Server:
        import threading

        import zmq

        socket, address = _listen(zmq.Context(), zmq.REP)

        def answer() -> None:
            while True:
                socket.send(socket.recv())

        threading.Thread(target=answer, daemon=True).start()
        return Server(address, close=_pass)  # the process ends it

    def open_requester(self, job: Job, address: Any) -> Line:
        import zmq

        socket = _connect(zmq.Context(), zmq.REQ, address)
        return Line(socket.send, socket.recv, socket.context.destroy)


class ZmqAsyncio(Peer):
    """``zmq.asyncio``."""

    name = "pyzmq CURVE, asyncio"
    needs = ("zmq",)
    can = frozenset({"oneway", "roundtrip", "requests", "crowd"})
    pace = 0.2
    sends_later = True

    async def open_sink(self, job: Job, arrived: Callable[[bytes], None]) -> Sink:
        import zmq.asyncio

        socket, address = _listen(zmq.asyncio.Context(), zmq.PULL)
        return Sink(address, receive=socket.recv, close=_destroyer(socket))

    async def open_source(self, job: Job, address: Any) -> Source:
        import zmq.asyncio

        socket = _connect(zmq.asyncio.Context(), zmq.PUSH, address)
        return Source(socket.send, close=_destroyer(socket))

    async def open_echo(self, job: Job) -> Server:
        import zmq.asyncio

        socket, address = _listen(zmq.asyncio.Context(), zmq.ROUTER)

        async def echo() -> None:
            while True:
                await socket.send_multipart(await socket.recv_multipart())

        return Server(address, close=_destroyer(socket, asyncio.create_task(echo())))

    async def open_caller(self, job: Job, address: Any) -> Caller:
        import zmq.asyncio

        socket = _connect(zmq.asyncio.Context(), zmq.DEALER, address)

        async def ask(data: bytes) -> bytes:
            await socket.send(data)
            return await socket.recv()  # type: ignore[no-any-return]

        return Caller(ask, _destroyer(socket))

    open_responder = open_echo

    async def open_requester(self, job: Job, address: Any) -> Caller:
        import zmq.asyncio

        socket = _connect(zmq.asyncio.Context(), zmq.DEALER, address)
        loop = asyncio.get_running_loop()
        waiting: deque[asyncio.Future[bytes]] = deque()

        async def take() -> None:
            while True:
                data = await socket.recv()
                waiting.popleft().set_result(data)

        async def ask(data: bytes) -> bytes:
            reply: asyncio.Future[bytes] = loop.create_future()
            waiting.append(reply)
            await socket.send(data)
            return await reply

        return Caller(ask, _destroyer(socket, asyncio.create_task(take())))

    async def open_hub(self, job: Job) -> Hub:
        import zmq.asyncio

        socket, address = _listen(zmq.asyncio.Context(), zmq.ROUTER)
        members: list[bytes] = []

        async def welcome() -> None:
            while True:
                identity, hello = await socket.recv_multipart()
                members.append(identity)
                await socket.send_multipart((identity, hello))

        async def broadcast(data: bytes) -> None:
            send = socket.send_multipart
            for identity in members:
                await send((identity, data))

        close = _destroyer(socket, asyncio.create_task(welcome()))
        return Hub(address, connected=lambda: len(members), broadcast=broadcast, close=close)

    async def open_crowd(self, job: Job, address: Any, arrived: Arrived) -> Crowd:
        import zmq.asyncio

        context = zmq.asyncio.Context()
        context.set(zmq.MAX_SOCKETS, _MOST_SOCKETS)
        tasks = []

        async def take(socket: Any) -> None:
            while True:
                arrived(await socket.recv(), socket)

        async def connect() -> None:
            socket = _connect(context, zmq.DEALER, address)
            await socket.send(b"hello")
            await socket.recv()
            tasks.append(asyncio.create_task(take(socket)))

        async def close() -> None:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            context.destroy(linger=0)

        return Crowd(connect, close)


class ZmqReqAsyncio(Peer):
    """REQ and REP sockets of ``zmq.asyncio``."""

    name = "pyzmq CURVE REQ, asyncio"
    needs = ("zmq",)
    can = frozenset({"requests"})
    one_at_a_time = True

    async def open_responder(self, job: Job) -> Server:
        import zmq.asyncio

        socket, address = _listen(zmq.asyncio.Context(), zmq.REP)

        async def answer() -> None:
            while True:
                await socket.send(await socket.recv())

        return Server(address, close=_destroyer(socket, asyncio.create_task(answer())))

    async def open_requester(self, job: Job, address: Any) -> Caller:
        import zmq.asyncio

        socket = _connect(zmq.asyncio.Context(), zmq.REQ, address)

        async def ask(data: bytes) -> bytes:
            await socket.send(data)
            return await socket.recv()  # type: ignore[no-any-return]

        return Caller(ask, _destroyer(socket))


def _pass() -> None:
    pass


def _destroyer(socket: Any, task: asyncio.Task[None] | None = None) -> Callable[[], Any]:
    async def close() -> None:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        socket.close()
        await asyncio.to_thread(socket.context.term)

    return close
