"""The places where every transport is tested."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

import pytest

from helpers.machine import has_ipv6
from helpers.nats_server import NatsServer, needs_nats
from helpers.place import Place
from seigr_toolset_transmissions.transports.memory import MemoryNetwork
from seigr_toolset_transmissions.transports.memory_bus import MemoryBus
from seigr_toolset_transmissions.transports.nats import NatsNetwork
from seigr_toolset_transmissions.transports.pipes import PipeNetwork
from seigr_toolset_transmissions.transports.sockets import UNIX
from seigr_toolset_transmissions.transports.tcp import TcpNetwork
from seigr_toolset_transmissions.transports.unix import UnixNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(
    params=[
        pytest.param((MemoryNetwork, "somewhere"), id="memory"),
        pytest.param((TcpNetwork, "127.0.0.1"), id="tcp"),
        pytest.param(
            (TcpNetwork, "::1"),
            id="tcp6",
            marks=pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6"),
        ),
        pytest.param(
            (UnixNetwork, None),
            id="unix",
            marks=pytest.mark.skipif(UNIX is None, reason="this system has no Unix sockets"),
        ),
        pytest.param((lambda: PipeNetwork(MemoryBus()), "some.where"), id="pipes"),
        pytest.param((None, "some.where"), id="nats", marks=needs_nats),
    ]
)
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    network, host = request.param
    if network is None:
        server: NatsServer = request.getfixturevalue("nats_server")
        async with NatsNetwork(server.url) as over_nats:
            yield Place(over_nats, host)
        return
    with tempfile.TemporaryDirectory() as folder:  # pytest's own paths may be too long for a socket
        yield Place(network(), host or folder)


@pytest.fixture(scope="module")
def nats_server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server
