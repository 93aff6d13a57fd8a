"""The library itself, through its public interface."""

from __future__ import annotations

import asyncio
import secrets
from functools import partial
from typing import TYPE_CHECKING, Any

from seigr_toolset_transmissions import NodeConfig, STTNode

from .base import HOST, Caller, Crowd, Hub, Job, Peer, Server, Sink, Source

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Stt"]

_SESSIONS_PER_NODE = 250
"""One dialing process stands for many nodes, each of which holds some sessions."""


def _node(job: Job) -> STTNode:
    config = NodeConfig(max_sessions=20_000, max_sessions_per_peer=_SESSIONS_PER_NODE)
    return STTNode(secrets.token_bytes(32), job.material.shared_seed, HOST, config=config)


class Stt(Peer):
    """`STTNode`: ``send_to_endpoint`` and ``receive_any``, or a ``data_received`` handler."""

    name = "stt"
    can = frozenset({"oneway", "push", "roundtrip", "crowd"})

    async def open_sink(self, job: Job, arrived: Callable[[bytes], None]) -> Sink:
        node = _node(job)
        address = await node.start(server_mode=True)
        if not job.push:
            receive = node.endpoints.receive_any
            return Sink(address, receive=receive, unwrap=_data, close=node.stop)

        @node.events.on("data_received")
        async def handle(session_id: bytes, data: bytes) -> None:
            arrived(data)

        return Sink(address, close=node.stop)

    async def open_source(self, job: Job, address: Any) -> Source:
        node = _node(job)
        await node.start()
        session = await node.connect(*address)
        send = partial(node.endpoints.send_to_endpoint, session.peer_node_id)
        return Source(send, session.flush, node.stop)

    async def open_echo(self, job: Job) -> Server:
        node = _node(job)
        address = await node.start(server_mode=True)
        receive, send = node.endpoints.receive_any, node.endpoints.send_to_endpoint

        async def echo() -> None:
            while True:
                data, endpoint_id = await receive()
                await send(endpoint_id, data)

        task = asyncio.create_task(echo())

        async def close() -> None:
            task.cancel()
            await node.stop()

        return Server(address, close=close)

    async def open_caller(self, job: Job, address: Any) -> Caller:
        node = _node(job)
        await node.start()
        session = await node.connect(*address)
        receive, send = node.endpoints.receive_any, node.endpoints.send_to_endpoint
        endpoint_id = session.peer_node_id

        async def ask(data: bytes) -> bytes:
            await send(endpoint_id, data)
            return (await receive())[0]

        return Caller(ask, node.stop)

    async def open_hub(self, job: Job) -> Hub:
        node = _node(job)
        address = await node.start(server_mode=True)

        async def broadcast(data: bytes) -> None:
            outcomes = await node.send_to_sessions(
                [session.session_id for session in node.sessions], data
            )
            if not all(outcomes.values()):
                raise ValueError("a session did not take the message")

        return Hub(
            address,
            connected=lambda: len(node.sessions),
            broadcast=broadcast,
            close=node.stop,
        )

    async def open_crowd(self, job: Job, address: Any, arrived: Callable[[bytes], None]) -> Crowd:
        nodes = [_node(job) for _ in range(-(-job.sessions // _SESSIONS_PER_NODE))]
        for node in nodes:
            await node.start()
        places = iter(nodes * _SESSIONS_PER_NODE)

        async def take(node: STTNode) -> None:
            while True:
                data, _ = await node.endpoints.receive_any()
                arrived(data)

        tasks = [asyncio.create_task(take(node)) for node in nodes]

        async def connect() -> None:
            await next(places).connect(*address)

        async def close() -> None:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*(node.stop() for node in nodes))

        return Crowd(connect, close)


def _data(received: tuple[bytes, bytes]) -> bytes:
    return received[0]
