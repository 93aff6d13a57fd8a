"""What is specific to the memory network; the rest is in test_contract.py."""

from __future__ import annotations

import asyncio
import errno
import threading

import pytest

from helpers.clock import DeadlockError, run_virtual
from helpers.recorder import Recorder, on, pattern, turns
from seigr_toolset_transmissions.transports.base import (
    READ_BYTES,
    WRITE_HIGH_BYTES,
    WRITE_LOW_BYTES,
)
from seigr_toolset_transmissions.transports.memory import MemoryNetwork, _End, memory_pair


async def test_a_pair_is_connected_without_a_listener() -> None:
    order: list[str] = []
    a = Recorder(react=on("made", lambda: order.append("a")))
    b = Recorder(react=on("made", lambda: order.append("b")))
    transport_a, transport_b = memory_pair(a, b)
    assert not order, "connection_made comes in a later turn"
    transport_a.write(b"from a")  # may be written before
    await b.until_received(6)
    assert order == ["a", "b"]
    assert a.transport.inner is transport_a
    assert b.transport.inner is transport_b
    assert b.data == b"from a"
    assert transport_a.peer_address != transport_b.peer_address
    transport_b.close()
    await a.until_lost()
    await b.until_lost()
    a.check()
    b.check()


async def test_a_pair_ended_at_once_still_begins_first() -> None:
    a, b = Recorder(), Recorder()
    memory_pair(a, b)[0].abort()
    await a.until_lost()
    await b.until_lost()
    assert a.calls == b.calls == ["made", "lost"]
    assert isinstance(b.cause, ConnectionResetError)


async def test_nothing_is_kept_for_a_connection_that_is_broken() -> None:
    a, b = Recorder(), Recorder()
    memory_pair(a, b)
    await turns(1)
    b.transport.abort()
    a.transport.write(b"into the void")  # before its connection_lost
    end = a.transport.inner
    assert isinstance(end, _End)
    assert not end.chunks
    await a.until_lost()
    await b.until_lost()


async def test_networks_know_nothing_of_each_other() -> None:
    one, other = MemoryNetwork(), MemoryNetwork()
    listener = await one.listen(Recorder, "here", 7)
    same = await other.listen(Recorder, "here", 7)
    await same.close()
    with pytest.raises(ConnectionRefusedError, match="'here' port 7") as raised:
        await other.dial(Recorder(), "here", 7)
    assert raised.value.errno == errno.ECONNREFUSED
    await listener.close()


@pytest.mark.parametrize("everywhere", ["", "0.0.0.0", "::"])  # noqa: S104
async def test_a_host_that_stands_for_all_is_reached_by_any_name(everywhere: str) -> None:
    network = MemoryNetwork()
    client, server = Recorder(), Recorder()
    listener = await network.listen(lambda: server, everywhere, 7)
    with pytest.raises(OSError, match="taken"):
        await network.listen(Recorder, "here", 7)
    await network.dial(client, "some name", 7)
    client.transport.write(b"hello")
    await server.until_received(5)
    client.transport.abort()
    await client.until_lost()
    await listener.close()
    specific = await network.listen(Recorder, "here", 7)
    with pytest.raises(OSError, match="taken"):
        await network.listen(Recorder, everywhere, 7)
    other = await network.listen(Recorder, "there", 7)
    await other.close()
    await specific.close()


async def test_a_closed_listener_does_not_close_its_successor() -> None:
    network = MemoryNetwork()
    first = await network.listen(Recorder, "here", 7)
    await first.close()
    second = await network.listen(Recorder, "here", 7)
    await first.close()
    client = Recorder()
    await network.dial(client, "here", 7)
    client.transport.abort()
    await client.until_lost()
    await second.close()


async def test_a_listener_of_another_loop_is_out_of_reach() -> None:
    network = MemoryNetwork()
    refused: list[Exception] = []

    async def elsewhere() -> None:
        try:
            await network.dial(Recorder(), "here", 7)
        except OSError as error:
            refused.append(error)

    listener = await network.listen(Recorder, "here", 7)
    thread = threading.Thread(target=asyncio.run, args=(elsewhere(),))
    thread.start()
    thread.join()
    assert isinstance(refused[0], ConnectionRefusedError)
    await listener.close()


async def test_the_marks_of_back_pressure_are_those_of_tcp() -> None:
    a, b = Recorder(), Recorder()
    waiting: list[int] = []
    a.react = on("resume", lambda: waiting.append(written - len(b.data)))
    memory_pair(a, b)
    await turns(1)
    written = WRITE_HIGH_BYTES + READ_BYTES
    a.transport.write(bytes(written))
    assert a.paused, "told within the write"
    await a.until(lambda: not a.paused)
    assert waiting[0] <= WRITE_LOW_BYTES
    await b.until_received(written)
    assert max(map(len, b.presented)) == READ_BYTES
    a.transport.abort()
    await a.until_lost()
    await b.until_lost()


async def test_a_pause_that_is_over_is_not_reported() -> None:
    a, b = Recorder(), Recorder()
    memory_pair(a, b)
    await turns(1)
    for _ in range(10):
        b.data.clear()
        a.transport.write(bytes(1000))
        a.transport.write(bytes(WRITE_HIGH_BYTES - 1000))
        await b.until_received(WRITE_HIGH_BYTES)
    assert a.calls == ["made"]
    a.transport.abort()
    await a.until_lost()
    await b.until_lost()


def test_each_run_is_the_same_and_takes_no_time() -> None:
    async def talk() -> tuple[list[list[str]], list[bytes]]:
        network = MemoryNetwork()
        servers: list[Recorder] = []

        def accept() -> Recorder:
            servers.append(Recorder(take=lambda view: len(view) // 3 * 3))
            return servers[-1]

        listener = await network.listen(accept, "here", 0)
        clients = [Recorder() for _ in range(5)]
        await asyncio.gather(*(network.dial(client, *listener.address) for client in clients))
        for number, client in enumerate(clients):
            client.transport.write(pattern(200_000 * number, number))
            servers[number].transport.write(pattern(100_000 * number, number))
        await turns(2)
        for client in clients:
            client.transport.close()
        for side in (*clients, *servers):
            await side.until_lost()
        await listener.close()
        assert asyncio.get_running_loop().time() == 0.0
        return (
            [side.calls for side in (*clients, *servers)],
            [data for side in (*clients, *servers) for data in side.presented],
        )

    assert run_virtual(talk()) == run_virtual(talk())


def test_an_idle_connection_waits_for_nothing() -> None:
    async def talk_and_fall_silent() -> None:
        a, b = Recorder(), Recorder()
        memory_pair(a, b)
        await turns(1)
        a.transport.write(b"hello")
        await b.until_received(5)
        for side in (a, b):
            assert not hasattr(side.transport.inner, "__dict__")
        await asyncio.get_running_loop().create_future()

    with pytest.raises(DeadlockError):  # no timer and no callback is left
        run_virtual(talk_and_fall_silent())
