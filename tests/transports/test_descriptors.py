"""A process without a free descriptor: a listener stays quiet, and resumes when there is one."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import pytest

from helpers.forked import in_fork, needs_fork
from helpers.nodes import Nodes, address_of, memory_nodes, until
from seigr_toolset_transmissions.errors import STTConnectError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from seigr_toolset_transmissions.transports.tcp import TcpTransport

resource = pytest.importorskip("resource")


@contextmanager
def descriptors(limit: int) -> Iterator[None]:
    """Limit how many descriptors this process may have."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def no_descriptor_left() -> Iterator[list[int]]:
    """Take all of them; to close one of those that this yields, take it from the list."""
    held: list[int] = []
    with descriptors(256):
        try:
            while True:
                held.append(os.dup(0))
        except OSError:
            pass
        try:
            yield held
        finally:
            for number in held:
                os.close(number)


async def test_a_connection_that_cannot_be_accepted_makes_little_noise_and_is_accepted_later(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncio.constants.ACCEPT_RETRY_DELAY", 0.1)  # seconds; usually one
    loop = asyncio.get_running_loop()
    told: list[object] = []
    loop.set_exception_handler(lambda _, context: told.append(context["message"]))
    async with Nodes() as nodes:
        hub = await nodes.listen()
        dialers = [socket.socket() for _ in range(3)]
        timers = getattr(loop, "_scheduled", [])
        with no_descriptor_left(), caplog.at_level(logging.DEBUG):
            before = len(timers)
            for dialer in dialers:
                dialer.setblocking(False)
                dialer.connect_ex(address_of(hub))
            await asyncio.sleep(0.25)  # two pauses and a half
            assert len(told) + len(caplog.records) <= 4
            assert len(timers) <= before + 4
        if told:  # uvloop turns them away instead
            await until(lambda: hub.stats().half_open == len(dialers), seconds=5)
        for dialer in dialers:
            dialer.close()
        alice = await nodes.start("alice")
        await nodes.connect(alice, hub)


async def test_a_dial_without_a_descriptor_says_what_to_do() -> None:
    async with Nodes() as nodes:
        hub = await nodes.listen()
        alice = await nodes.start()
        with (
            no_descriptor_left(),
            pytest.raises(STTConnectError, match=r"Too many open files; close some, .*ulimit -n"),
        ):
            await alice.connect(*address_of(hub))
        await nodes.connect(alice, hub)


async def test_a_node_warns_of_a_limit_below_its_sessions(caplog: pytest.LogCaptureFixture) -> None:
    async with Nodes(max_sessions=256) as nodes:
        with descriptors(256):
            await nodes.listen()
    (record,) = caplog.records
    assert "only 256 file descriptors" in record.message
    assert "up to 256 sessions (max_sessions)" in record.message


async def test_a_node_does_not_warn_without_need(caplog: pytest.LogCaptureFixture) -> None:
    with descriptors(256):
        async with Nodes(max_sessions=200) as nodes:
            await nodes.listen()
        async with memory_nodes() as nodes:
            await nodes.listen()
        async with Nodes() as nodes:
            await nodes.start()  # as many connections as the program dials
    assert not caplog.records


def is_connected(number: int) -> bool:
    """Tell whether a descriptor stands for a socket with a peer."""
    sock = socket.socket(fileno=number)  # takes no other descriptor
    try:
        sock.getpeername()
    except OSError:
        return False
    finally:
        sock.detach()
    return True


@needs_fork
async def test_a_child_without_a_free_descriptor_closes_what_it_has_inherited() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        numbers = [
            number
            for node in (pair.dialer, pair.listener)
            for connection in node._registry.connections
            for number in cast("TcpTransport", connection._transport).descriptors()
        ]
        assert len(numbers) == 2

        def connected() -> list[bool]:
            return [is_connected(number) for number in numbers]

        with no_descriptor_left() as held:
            os.close(held.pop())
            os.close(held.pop())  # for the pipe that tells what the child sees
            assert in_fork(connected) == "[False, False]"
        assert connected() == [True, True]
        await pair.near.send(b"of the parent")
        assert (await pair.listener.endpoints.receive_any(timeout=10))[0] == b"of the parent"
        assert pair.near.stats.resumes == 0
