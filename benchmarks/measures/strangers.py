"""Strangers: what anyone who does not know the shared seed costs a listening node.

A stranger connects, sends as many bytes as a first handshake message has, and is refused. The node
is compared with a bare asyncio listener that reads as much and resets the connection, whose cost is
the machine's and the event loop's. Both listen at the same time and get their strangers in turn,
several at once, as in a flood: what a lone stranger costs depends on how often it wakes the
listener, which is a matter of chance.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import struct
import time
from functools import partial
from statistics import median
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
ABOVE_BARE = Metric("a refused stranger, beyond accept and reset", unit="us CPU", digits=0)
BARE = "asyncio accept and reset"
_TURNS = 7
_STRANGERS = 500
_QUICK_STRANGERS = 150
"""Strangers in each turn."""
_AT_ONCE = 50
_BYTES = 64
"""A first message has 64 bytes (``docs/wire-format.md``)."""


class _Reset(asyncio.BufferedProtocol):
    # An `asyncio.Protocol` would make the loop allocate 256 KiB for each read, which costs nothing
    # or more than everything else, depending on the state of the heap.
    _buffer = memoryview(bytearray(_BYTES))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's does not inherit from it.
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        connection = self._transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


async def _listen_bare() -> tuple[int, Callable[[], Awaitable[object]], Callable[[], int]]:
    accepted = 0

    def make() -> _Reset:
        nonlocal accepted
        accepted += 1
        return _Reset()

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
    """Refusing strangers."""

    name = "strangers"

    def cases(self, setting: Setting) -> list[Case]:
        """Return one case for each loop. It runs both listeners, because the difference counts."""
        count = _QUICK_STRANGERS if setting.quick else _STRANGERS
        return [Case(OWN, "strangers", partial(_measure, loop, count)) for loop in setting.loops]


def _measure(loop: str, count: int) -> list[Sample]:
    with (
        Child(listen, OWN, loop, count, limit=120.0) as own,
        Child(listen, BARE, loop, count, limit=120.0) as bare,
    ):
        ports = {child: child.link.hear("port") for child in (own, bare)}
        for child, port in ports.items():
            _refuse(child, port, count)  # not counted: the first ones cost more
        costs = [
            {child: _refuse(child, port, count) for child, port in ports.items()}
            for _ in range(_TURNS)
        ]
        for child in ports:
            child.link.tell("end")
    return [
        Sample(Key(TOTAL, loop, OWN), median(cost[own] for cost in costs)),
        Sample(Key(TOTAL, loop, BARE), median(cost[bare] for cost in costs)),
        Sample(Key(ABOVE_BARE, loop, OWN), median(cost[own] - cost[bare] for cost in costs)),
    ]


def _refuse(child: Child, port: int, count: int) -> float:
    """Return the listener's processor time for each of ``count`` strangers, in microseconds."""
    child.link.tell("begin")
    child.link.hear("ready")
    for _ in range(0, count, _AT_ONCE):
        _knock(port)
    child.link.tell("done")
    spent: float = child.link.hear("spent")
    return spent / count * 1e6


def _knock(port: int) -> None:
    with contextlib.ExitStack() as stack:
        strangers = [
            stack.enter_context(socket.create_connection((HOST, port), timeout=10.0))
            for _ in range(_AT_ONCE)
        ]
        for stranger in strangers:
            stranger.sendall(secrets.token_bytes(_BYTES))
        for stranger in strangers:
            with contextlib.suppress(ConnectionResetError):
                if stranger.recv(1):
                    raise ValueError("a stranger was answered")


def listen(link: Link, name: str, loop: str, count: int) -> None:
    """Listen; report the processor time of each turn, and check that all were refused."""

    async def main() -> None:
        port, close, refused = await _LISTENERS[name]()
        link.tell("port", port)
        for turn in range(1, _TURNS + 2):
            await link.listen("begin")
            cpu = time.process_time()
            link.tell("ready")
            await link.listen("done")
            spent = time.process_time() - cpu
            if refused() != turn * count:
                raise ValueError(f"{refused()} strangers refused, not {turn * count}")
            link.tell("spent", spent)
        await link.listen("end")
        await close()

    roles.run(main(), loop)
