"""The demo's cable: what it relays, and what it swallows."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from seigr_toolset_transmissions.cli.demo.cable import Cable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the event loop of the demo


@asynccontextmanager
async def plugged() -> AsyncIterator[tuple[Cable, int, asyncio.Queue[Ends]]]:
    """A cable, the port where it begins, and the connections that come out of it."""
    arrivals: asyncio.Queue[Ends] = asyncio.Queue()
    server = await asyncio.start_server(lambda *ends: arrivals.put_nowait(ends), "127.0.0.1", 0)
    async with server:
        cable = Cable()
        port = await cable.start("127.0.0.1", server.sockets[0].getsockname()[1])
        yield cable, port, arrivals
        await cable.close()


async def hung_up(reader: asyncio.StreamReader) -> bool:
    """Wait until the connection ends; return whether nothing came before that."""
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


async def test_it_relays_both_ways_until_an_end_or_the_cable_closes() -> None:
    async with plugged() as (cable, port, arrivals):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        far_reader, far_writer = await arrivals.get()
        writer.write(b"out")
        far_writer.write(b"in")
        assert await far_reader.readexactly(3) == b"out"
        assert await reader.readexactly(2) == b"in"
        far_writer.close()
        assert await hung_up(reader)
        writer.close()

        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        far_reader, far_writer = await arrivals.get()
        await cable.close()
        for end in (reader, far_reader):
            assert await hung_up(end)
        writer.close()
        far_writer.close()
        assert cable.swallowed == 0


async def test_a_cut_cable_swallows_bytes_and_refuses_connections_until_it_is_mended() -> None:
    async with plugged() as (cable, port, arrivals):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        far_reader, far_writer = await arrivals.get()
        cable.cut()
        assert not cable.whole
        writer.write(b"into the void")
        writer.close()  # the far end notices only when all before it was swallowed
        assert await hung_up(far_reader)
        assert cable.swallowed == len(b"into the void")
        far_writer.close()

        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await hung_up(reader)
        assert arrivals.empty()
        writer.close()

        cable.mend()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"back")
        far_reader, far_writer = await arrivals.get()
        assert await far_reader.readexactly(4) == b"back"
        cable.drop()
        for end in (reader, far_reader):
            assert await hung_up(end)
        writer.close()
        far_writer.close()


async def test_it_hangs_up_if_nothing_listens_at_the_other_end() -> None:
    cable = Cable()
    port = await cable.start("127.0.0.1", 1)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert await hung_up(reader)
    writer.close()
    await cable.close()
