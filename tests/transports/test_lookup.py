"""Looking names up: numeric addresses never wait, and slow names make only each other wait."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from helpers.nodes import Nodes, address_of, live, until
from seigr_toolset_transmissions.foundation import workers
from seigr_toolset_transmissions.transports import lookup
from seigr_toolset_transmissions.transports.lookup import look_up

if TYPE_CHECKING:
    from collections.abc import Iterator


class Resolver:
    """Stands in for the system's: names that end in ``.slow`` hang until they are released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate = threading.Event()
        self.hanging = 0
        self.real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self.get)

    def get(self, host: Any, *args: Any, **options: Any) -> Any:
        if options["flags"] & socket.AI_NUMERICHOST or not str(host).endswith(".slow"):
            return self.real(host, *args, **options)
        self.hanging += 1
        self.gate.wait(60)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    monkeypatch.setattr(workers, "LATE_SECONDS", 0.05)
    resolver = Resolver(monkeypatch)
    yield resolver
    resolver.gate.set()
    lookup._slow.clear()
    groups = (lookup._urgent, lookup._others, lookup._slow_others)
    while any(group._busy_since for group in groups):
        time.sleep(0.001)


async def hang(resolver: Resolver, names: list[str], *, urgent: bool) -> set[asyncio.Task[Any]]:
    """Look these up until the maximum number hang."""
    return {asyncio.ensure_future(look_up(name, 1, urgent=urgent)) for name in names}


async def end(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_a_numeric_address_needs_no_thread(resolver: Resolver) -> None:
    tasks = await hang(resolver, [f"{k}.slow" for k in range(200)], urgent=True)
    await asyncio.sleep(0)
    for host in ("127.0.0.1", "::1"):
        assert (await look_up(host, 7))[0][4][:2] == (host, 7)
    await end(tasks)


@pytest.mark.parametrize("urgent", [False, True])
async def test_a_name_does_not_wait_long_for_slow_ones(resolver: Resolver, urgent: bool) -> None:
    tasks = await hang(resolver, [f"{k}.slow" for k in range(20)], urgent=urgent)
    await until(lambda: resolver.hanging >= 8)
    async with asyncio.timeout(5):
        assert await look_up("localhost", 7, urgent=urgent)
        assert await look_up("localhost", 7)
    await end(tasks)


async def test_names_that_were_slow_make_only_each_other_wait_the_next_time(
    resolver: Resolver,
) -> None:
    names = [f"{k}.slow" for k in range(100)]
    tasks = await hang(resolver, names, urgent=False)
    await until(lambda: resolver.hanging == 32)
    await until(lambda: len(lookup._slow) == 32)
    resolver.gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    resolver.gate.clear()
    lookup._slow.update(dict.fromkeys(names))
    tasks = await hang(resolver, names * 2, urgent=False)
    await asyncio.sleep(0.2)
    assert len(lookup._slow_others._busy_since) == 8
    async with asyncio.timeout(5):
        assert await look_up("localhost", 7, urgent=False)
    await end(tasks)


async def test_a_slow_name_that_becomes_fast_no_longer_counts_as_slow(resolver: Resolver) -> None:
    lookup._slow["localhost"] = None
    await look_up("localhost", 7, urgent=False)
    assert lookup._slow == {}


async def test_slow_names_delay_no_other_dial_no_start_and_no_stop(resolver: Resolver) -> None:
    async with Nodes(reconnect_delay=0.01) as nodes:
        listener = await nodes.listen("bob", host="localhost")
        dialer = await nodes.start("alice")
        session = await dialer.connect("localhost", address_of(listener)[1])
        for k in range(100):
            address = (f"{k}.slow", 9)
            await dialer.endpoints.add_endpoint(k.to_bytes(32), address, connect=True)
        await until(lambda: resolver.hanging == 32)
        async with asyncio.timeout(5):
            live(session).cut("a cable is pulled")
            await dialer.events.wait_for("session_resumed")
            await nodes.start("carol")
            await dialer.stop()


async def test_an_address_that_a_hosts_file_has_twice_counts_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = socket.getaddrinfo

    def get(host: Any, port: Any, **options: Any) -> Any:
        if host != "twice":
            return real(host, port, **options)
        if options["flags"] & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real("127.0.0.1", port, **options) * 2

    monkeypatch.setattr(socket, "getaddrinfo", get)
    assert len(await look_up("twice", 1)) == 1
    async with Nodes() as nodes:
        await nodes.listen("bob", host="twice")
