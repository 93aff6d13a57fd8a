"""The contract of every transport: dialing, listening, and addresses."""

from __future__ import annotations

import asyncio
import errno
import random
from typing import Any

import pytest

from helpers.place import Place, connected
from helpers.recorder import Recorder, pattern, turns


async def test_dialing_an_address_without_a_listener_fails_and_calls_nothing(place: Place) -> None:
    listener = await place.listen(Recorder)
    await listener.close()
    client = Recorder()
    with pytest.raises(ConnectionRefusedError):
        await place.dial(client, listener)
    await turns(3)
    assert not client.calls


async def test_dial_returns_the_transport_that_the_receiver_was_given(place: Place) -> None:
    client, server = Recorder(), Recorder()
    listener = await place.listen(lambda: server)
    transport = await place.network.dial(client, *listener.address)
    assert client.calls == ["made"]
    assert client.transport.inner is transport
    transport.abort()
    await client.until_lost()
    await server.until_lost()
    await listener.close()


@pytest.mark.parametrize("after", range(8))
async def test_a_cancelled_dial_leaves_nothing_open(place: Place, after: int) -> None:
    accepted: list[Recorder] = []

    def accept() -> Recorder:
        accepted.append(Recorder())
        return accepted[-1]

    listener = await place.listen(accept)
    client = Recorder()
    dial = asyncio.create_task(place.network.dial(client, *listener.address))
    await turns(after)
    cancelled = dial.cancel()
    if cancelled:
        with pytest.raises(asyncio.CancelledError):
            await dial
    else:
        (await dial).abort()
    if client.calls:
        await client.until_lost()
    # A later connection shows that those before it were seen by the listener, if they ever are.
    last = Recorder()
    await place.dial(last, listener)
    last.transport.abort()
    await last.until_lost()
    await turns(5)
    for server in accepted:
        await server.until_lost()
        server.check()
    client.check()
    await listener.close()


async def test_closing_a_listener_spares_its_connections(place: Place) -> None:
    client, server = Recorder(), Recorder()
    async with connected(place, client, server):
        other = await place.listen(lambda: third)
        second, third = Recorder(), Recorder()
        await place.dial(second, other)
        await third.until(lambda: bool(third.calls))
        async with asyncio.timeout(5):
            await other.close()
            await other.close()
        with pytest.raises(ConnectionRefusedError):
            await place.dial(Recorder(), other)
        second.transport.write(b"still here")
        await third.until_received(10)
        third.transport.close()
        await second.until_lost()
        await third.until_lost()


async def test_a_taken_address_is_refused_and_free_after_close(place: Place) -> None:
    first = await place.listen(Recorder)
    port = first.address[1]
    with pytest.raises(OSError) as raised:  # noqa: PT011 - the number says which
        await place.listen(Recorder, port)
    assert raised.value.errno == errno.EADDRINUSE
    await first.close()
    second = await place.listen(Recorder, port)
    assert second.address[1] == port
    await second.close()


async def test_port_0_takes_a_free_port(place: Place) -> None:
    listeners = [await place.listen(Recorder) for _ in range(10)]
    ports = {listener.address[1] for listener in listeners}
    assert len(ports) == 10
    assert all(0 < port < 65536 for port in ports)
    assert all(listener.address[0] == place.host for listener in listeners)
    for listener in listeners:
        await listener.close()


async def test_addresses_are_known_even_after_the_end(place: Place) -> None:
    client, server = Recorder(), Recorder()
    listener = await place.listen(lambda: server)
    await place.dial(client, listener)
    await server.until(lambda: bool(server.calls))
    of_client = server.transport.peer_address
    assert client.transport.peer_address == listener.address
    assert len(of_client) == 2
    assert of_client[1] != listener.address[1]
    client.transport.abort()
    await client.until_lost()
    await server.until_lost()
    address = listener.address
    await listener.close()
    assert client.transport.peer_address == listener.address == address
    assert server.transport.peer_address == of_client


async def test_a_failing_accept_ends_that_connection_only(place: Place) -> None:
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
    servers = iter([None, Recorder()])

    def accept() -> Recorder:
        server = next(servers)
        if server is None:
            raise LookupError("no receiver today")
        return server

    listener = await place.listen(accept)
    first, second = Recorder(), Recorder()
    await place.dial(first, listener)
    await first.until_lost()
    assert isinstance(first.cause, ConnectionError)
    assert isinstance(reports[0]["exception"], LookupError)
    await place.dial(second, listener)
    second.transport.close()
    await second.until_lost()
    assert second.cause is None
    await listener.close()


async def test_many_connections_keep_their_bytes_apart(place: Place) -> None:
    # All connections of a loop read into the same buffer, and leave some bytes each time.
    count, length = 200, 5000
    servers: list[Recorder] = []

    def accept() -> Recorder:
        servers.append(Recorder(take=lambda view: len(view) // 7 * 7))
        return servers[-1]

    clients = [Recorder(take=lambda view: len(view) // 11 * 11) for _ in range(count)]
    listener = await place.listen(accept)
    for number, client in enumerate(clients):
        await place.dial(client, listener)
        client.transport.write(number.to_bytes(7))
    messages = [pattern(length, number) for number in range(count)]
    rng = random.Random(1)  # noqa: S311
    while len(servers) < count:
        await turns(1)
    for server in servers:
        await server.until_received(7)
    by_number = {int.from_bytes(server.data): server for server in servers}
    sent = [0] * count
    while min(sent) < length:
        for number in rng.sample(range(count), count):
            size = rng.randint(0, 600)
            data = messages[number][sent[number] : sent[number] + size]
            clients[number].transport.write(data)
            by_number[number].transport.write(data)
            sent[number] = min(sent[number] + size, length)
        await turns(1)
    for number, client in enumerate(clients):
        server = by_number[number]
        await client.until(lambda client=client: len(client.data) >= length // 11 * 11)  # type: ignore[misc]
        await server.until(lambda server=server: len(server.data) >= length // 7 * 7 + 7)  # type: ignore[misc]
        assert client.data == messages[number][: length // 11 * 11]
        assert server.data[7:] == messages[number][: length // 7 * 7]
    for side in (*clients, *servers):
        side.transport.abort()
    for side in (*clients, *servers):
        await side.until_lost()
        side.check()
    await listener.close()
