"""Strangers: what somebody who does not know the shared seed costs a listening node.

A stranger connects, sends as much as a first handshake message and is refused. It is compared with
a bare asyncio listener that reads as much and aborts: the rest of the cost is the machine's and
the event loop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from benchmarks import roles
from benchmarks.peers import OWN
from benchmarks.peers.base import HOST
from benchmarks.processes import Child
from seigr_toolset_transmissions import STTNode

from .base import Case, Key, Metric, Sample, Setting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from benchmarks.processes import Link

__all__ = ["ABOVE_BARE", "TOTAL", "Strangers"]

TOTAL = Metric("a refused stranger", unit="us CPU", digits=0)
ABOVE_BARE = Metric("a refused stranger, beyond accept and abort", unit="us CPU", digits=0)
BARE = "asyncio accept and abort"
_STRANGERS = 2_000
_QUICK_STRANGERS = 500
_BYTES = 64
"""A first message has 64 bytes (``docs/wire-format.md``)."""


class _Abort(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._transport = stream

    def data_received(self, data: bytes) -> None:
        self._transport.abort()


async def _listen_bare() -> tuple[int, Callable[[], Awaitable[object]], Callable[[], int]]:
    accepted = 0

    def make() -> _Abort:
        nonlocal accepted
        accepted += 1
        return _Abort()

    server = await asyncio.get_running_loop().create_server(make, HOST, 0, backlog=256)

    async def close() -> None:
        server.close()

    return server.sockets[0].getsockname()[1], close, lambda: accepted


async def _listen_own() -> tuple[int, Callable[[], Awaitable[object]], Callable[[], int]]:
    node = STTNode(secrets.token_bytes(32), secrets.token_bytes(32), HOST)
    address = await node.start(server_mode=True)
    assert address is not None
    return address[1], node.stop, lambda: node.stats().handshakes_failed


_LISTENERS: dict[str, Any] = {OWN: _listen_own, BARE: _listen_bare}


class Strangers:
    """Refusing those who do not belong."""

    name = "strangers"

    def cases(self, setting: Setting) -> list[Case]:
        """One case for each loop; it runs both listeners, whose difference counts."""
        count = _QUICK_STRANGERS if setting.quick else _STRANGERS
        return [Case(OWN, "strangers", partial(_measure, loop, count)) for loop in setting.loops]


def _measure(loop: str, count: int) -> list[Sample]:
    costs = {name: _refuse(name, loop, count) * 1e6 for name in _LISTENERS}
    return [
        *(Sample(Key(TOTAL, loop, name), cost) for name, cost in costs.items()),
        Sample(Key(ABOVE_BARE, loop, OWN), costs[OWN] - costs[BARE]),
    ]


def _refuse(name: str, loop: str, count: int) -> float:
    with Child(listen, name, loop, count, limit=120.0) as child:
        port = child.link.hear("port")
        for _ in range(20):
            _knock(port)
        child.link.tell("go")
        child.link.hear("ready")
        for _ in range(count):
            _knock(port)
        child.link.tell("done")
        spent: float = child.link.hear("spent")
    return spent / count


def _knock(port: int) -> None:
    with socket.create_connection((HOST, port)) as stranger:
        stranger.sendall(secrets.token_bytes(_BYTES))
        stranger.settimeout(10.0)
        with contextlib.suppress(ConnectionResetError):
            if stranger.recv(1):
                raise ValueError("a stranger was answered")


def listen(link: Link, name: str, loop: str, count: int) -> None:
    """Listen; report the processor time from ``go`` to ``done``."""

    async def main() -> None:
        port, close, refused = await _LISTENERS[name]()
        link.tell("port", port)
        await link.listen("go")
        before, cpu = refused(), time.process_time()
        link.tell("ready")
        await link.listen("done")
        spent = time.process_time() - cpu
        if refused() - before != count:
            raise ValueError(f"{refused() - before} strangers refused, not {count}")
        link.tell("spent", spent)
        await close()

    roles.run(main(), loop)
