"""The library itself, through its public interface."""

from __future__ import annotations

import asyncio
import secrets
from functools import partial
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from seigr_toolset_transmissions import NodeConfig, STTNode
from seigr_toolset_transmissions.identity import Identity

from .base import (
    BATCHES,
    HANDLER,
    HOST,
    ITERATOR,
    RECEIVE,
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

__all__ = ["Stt"]

_SPARE_SESSIONS = 100


def _node(job: Job) -> STTNode:
    config = NodeConfig(max_sessions=job.sessions + _SPARE_SESSIONS)
    return STTNode(secrets.token_bytes(32), job.material.shared_seed, HOST, config=config)


def _member(job: Job) -> STTNode:
    """Return a node with a random identity, not derived from a seed.

    A program derives its keys once, in about 100 ms. One process that plays thousands of nodes
    would have to do it thousands of times.
    """
    node = _node(job)
    node._keys._identity = Identity(X25519PrivateKey.generate())  # noqa: SLF001
    return node


class Stt(Peer):
    """`STTNode`: ``send_to_endpoint``, and every way to receive."""

    name = "stt"
    can = frozenset({"oneway", "roundtrip", "requests", "crowd"})
    consumers = (RECEIVE, HANDLER, BATCHES, ITERATOR)

    async def open_sink(self, job: Job, arrived: Callable[[bytes], None]) -> Sink:
        node = _node(job)
        address = await node.start(server_mode=True)
        endpoints = node.endpoints
        if job.consumer == RECEIVE:
            return Sink(address, receive=endpoints.receive_any, pairs=True, close=node.stop)
        if job.consumer == BATCHES:
            receive_many = endpoints.receive_many

            async def gather(count: int) -> list[bytes]:
                gathered: list[bytes] = []
                while (lacking := count - len(gathered)) > 0:
                    gathered += [data for data, _ in await receive_many(max_messages=lacking)]
                return gathered

            return Sink(address, gather=gather, close=node.stop)
        if job.consumer == ITERATOR:
            messages = endpoints.messages()

            async def iterate(count: int) -> list[bytes]:
                iterated: list[bytes] = []
                async for data, _ in messages:
                    iterated.append(data)
                    if len(iterated) == count:
                        break
                return iterated

            return Sink(address, gather=iterate, close=node.stop)

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

    async def open_responder(self, job: Job) -> Server:
        node = _node(job)

        @node.on_request
        async def answer(peer_node_id: bytes, data: bytes) -> bytes:
            return data

        return Server(await node.start(server_mode=True), close=node.stop)

    async def open_requester(self, job: Job, address: Any) -> Caller:
        node = _node(job)
        await node.start()
        session = await node.connect(*address)
        return Caller(partial(session.request, timeout=REPLY_SECONDS), node.stop)

    async def open_hub(self, job: Job) -> Hub:
        node = _node(job)
        address = await node.start(server_mode=True)

        async def broadcast(data: bytes) -> None:
            outcomes = await node.endpoints.broadcast(data)
            if not all(outcomes.values()):
                raise ValueError("an endpoint did not accept the message")

        return Hub(
            address,
            connected=lambda: len(node.sessions),
            broadcast=broadcast,
            close=node.stop,
        )

    async def open_crowd(self, job: Job, address: Any, arrived: Arrived) -> Crowd:
        nodes = [_member(job) for _ in range(job.sessions)]
        for node in nodes:
            await node.start()
        waiting = iter(nodes)
        tasks = []

        async def take(node: STTNode) -> None:
            receive = node.endpoints.receive_any
            while True:
                data, _ = await receive()
                arrived(data, node)

        async def connect() -> None:
            node = next(waiting)
            await node.connect(*address)
            tasks.append(asyncio.create_task(take(node)))

        async def close() -> None:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*(node.stop() for node in nodes))

        return Crowd(connect, close)
