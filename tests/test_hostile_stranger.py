"""Strangers to a listening node: they get nothing, leave nothing, and keep no member out.

The same with far larger numbers is ``python -m tests.soak.hostile``.
"""

from __future__ import annotations

import asyncio
import socket
from random import Random

import pytest

from helpers.independent import Keys
from helpers.nodes import (
    SHARED_SEED,
    EventLog,
    Nodes,
    address_of,
    assert_no_task_left,
    in_virtual_time,
    memory_nodes,
    until,
)
from helpers.strangers import PROBES, Forger, opening_of, probe

OTHER_GROUP = b"the seed of quite another group"


async def test_probes_get_no_byte_and_leave_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0, "seigr_toolset_transmissions")
    async with Nodes() as nodes:
        listener = await nodes.listen()
        address = address_of(listener)
        log = EventLog(listener)
        before = asyncio.all_tasks()
        for data in (*PROBES.values(), opening_of(OTHER_GROUP)):
            assert await probe(address, data) == b""
        opening = opening_of(SHARED_SEED)
        reader, writer = await asyncio.open_connection(*address)
        writer.write(opening)
        assert len(await reader.readexactly(160)) == 160
        for _ in range(3):
            assert await probe(address, opening) == b""  # it was for one use
        writer.transport.abort()
        await until(lambda: not listener._life.acceptor.answering)
        await until(lambda: log.names)
        await assert_no_task_left(before)
        assert set(log.names) == {"error"}
        assert listener.stats().sessions_opened == 0
        assert [r for r in caplog.records if r.name.startswith("seigr")] == []


async def test_a_member_comes_in_while_many_connections_say_nothing() -> None:
    async with Nodes(max_half_open=64) as nodes:
        listener = await nodes.listen()
        dialer = await nodes.start()
        loop = asyncio.get_running_loop()
        silent = []
        try:
            for _ in range(10):
                for _ in range(40):
                    stranger = socket.create_connection(address_of(listener))
                    silent.append(stranger)
                    await asyncio.sleep(0)
                began = loop.time()
                session = await dialer.connect(*address_of(listener))
                assert loop.time() - began < 1
                await session.close()
            assert listener.stats().half_open <= 64
            assert listener.stats().handshakes_dropped > 250
        finally:
            for stranger in silent:
                stranger.close()
        await until(lambda: not listener._life.acceptor.answering)


@pytest.mark.parametrize("kind", ["first", "second", "third", "record"])
@in_virtual_time
async def test_no_forgery_is_accepted(kind: str) -> None:
    async with memory_nodes() as nodes:
        listener = await nodes.listen()
        assert nodes.network is not None
        forger = Forger(nodes.network, listener, Keys(SHARED_SEED), Random(kind))  # noqa: S311
        await forger.begin()
        for _ in range(200):
            await forger.forge(kind)
        await forger.end()
        assert forger.undocumented() == []
        assert listener._life.acceptor.answering == set()
