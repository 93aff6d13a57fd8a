"""gRPC: unary calls over TLS, asyncio on both sides, bytes as they are and no generated code."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from .base import HOST, REPLY_SECONDS, Caller, Job, Peer, Server

__all__ = ["Grpc"]

_SERVICE, _METHOD = "benchmark", "echo"


def _read(file: str) -> bytes:
    return Path(file).read_bytes()


class Grpc(Peer):
    """``grpc.aio``."""

    name = "gRPC TLS"
    needs = ("grpc",)
    can = frozenset({"requests"})
    pace = 0.05

    async def open_responder(self, job: Job) -> Server:
        import grpc.aio

        async def answer(data: bytes, _context: Any) -> bytes:
            return data

        server = grpc.aio.server()
        handlers = {_METHOD: grpc.unary_unary_rpc_method_handler(answer)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
        material = job.material
        chain = (_read(material.key("server")), _read(material.certificate("server")))
        credentials = grpc.ssl_server_credentials([chain])
        port = server.add_secure_port(f"{HOST}:0", credentials)
        await server.start()
        return Server(port, close=partial(server.stop, None))

    async def open_requester(self, job: Job, address: Any) -> Caller:
        import grpc.aio

        authority = _read(job.material.certificate("authority"))
        credentials = grpc.ssl_channel_credentials(authority)
        channel = grpc.aio.secure_channel(f"{HOST}:{address}", credentials)
        call = channel.unary_unary(f"/{_SERVICE}/{_METHOD}")
        return Caller(partial(call, timeout=REPLY_SECONDS), channel.close)
