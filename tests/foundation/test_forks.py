"""In a forked child, the nodes of its parent are dead, and the parent notices nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from helpers.forked import in_fork, needs_fork
from helpers.nodes import SHARED_SEED, Nodes, address_of, live, memory_nodes, seed_of, until
from seigr_toolset_transmissions import HealthMonitor, STTNode

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from helpers.nodes import Pair

pytestmark = needs_fork

REFUSED = "RuntimeError: the node belongs to the parent of this forked process"


def on_a_loop_of_its_own(make: Callable[[], Coroutine[Any, Any, object]]) -> str:
    """What a child gets if it awaits something on an event loop of its own."""
    return in_fork(lambda: asyncio.run(make()))


async def exchange(pair: Pair) -> None:
    """Check that a pair of nodes still works."""
    for session, node in ((pair.near, pair.listener), (pair.far, pair.dialer)):
        await session.send(b"a message of the parent")
        await session.flush()
        data, _ = await node.endpoints.receive_any(timeout=10)
        assert data == b"a message of the parent"


async def test_a_child_sends_nothing_on_a_session_of_its_parent() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        for session in (pair.near, pair.far):
            assert in_fork(partial(session.send_nowait, b"")).startswith(REFUSED)
            assert in_fork(partial(live(session).try_send, b"")).startswith(REFUSED)
        peer = pair.listener.node_id
        for make in (
            lambda: pair.near.send(b"of the child"),
            pair.near.flush,
            pair.near.close,
            pair.near.wait_closed,
            lambda: pair.dialer.endpoints.send_to_endpoint(peer, b"of the child"),
            lambda: pair.dialer.endpoints.send_to_endpoint(bytes(32), b"of the child"),
            lambda: pair.dialer.endpoints.send_to_many([peer], b"of the child"),
            lambda: pair.dialer.endpoints.broadcast(b"of the child"),
            lambda: pair.dialer.endpoints.send_to_group("a group", b"of the child"),
            lambda: pair.dialer.send_to_all(b"of the child"),
            lambda: pair.dialer.send_to_sessions([pair.near.session_id], b"of the child"),
        ):
            assert on_a_loop_of_its_own(make).startswith(REFUSED)
        await exchange(pair)
        assert pair.near.stats.resumes == 0


async def test_a_child_can_neither_use_nor_start_nor_stop_a_node_of_its_parent() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        node, address = pair.dialer, address_of(pair.listener)
        for make in (
            node.start,
            node.stop,
            HealthMonitor(node).__aenter__,
            lambda: node.connect(*address),
            lambda: node.kick(bytes(32)),
            lambda: node.ban(bytes(32)),
            lambda: node.unban(bytes(32)),
            lambda: node.set_shared_seed(SHARED_SEED),
        ):
            assert on_a_loop_of_its_own(make).startswith(REFUSED)
        assert in_fork(lambda: node.retry_now(bytes(32))).startswith(REFUSED)
        assert in_fork(lambda: pair.listener.address) == "None"
        await exchange(pair)


@pytest.mark.parametrize("arrived", [False, True])
async def test_a_child_does_not_receive_what_its_parent_receives(arrived: bool) -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        endpoints, peer = pair.listener.endpoints, pair.dialer.node_id
        await until(lambda: peer in endpoints)
        if arrived:
            await pair.near.send(b"of the parent")
            await pair.near.flush()
        for make in (
            lambda: endpoints.receive_any(timeout=1),
            lambda: endpoints.receive_from(peer, timeout=1),
            lambda: endpoints.deliver(peer, b"of the child"),
        ):
            assert "belongs to the parent" in on_a_loop_of_its_own(make)
        if arrived:
            assert await endpoints.receive_any(timeout=9) == (b"of the parent", peer)


async def test_the_error_names_the_remedy() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        text = in_fork(lambda: pair.near.send_nowait(b""))
    assert "create and start a node in the child" in text
    assert '"spawn"' in text


async def test_a_fork_while_the_parent_starts_the_node() -> None:
    async with Nodes() as nodes:
        node = nodes.make()
        starting = asyncio.create_task(node.start())
        await asyncio.sleep(0)
        assert on_a_loop_of_its_own(node.start).startswith(REFUSED)
        await starting


async def test_a_child_that_leaves_the_block_of_a_node_leaves_it_running() -> None:
    async with Nodes() as nodes, nodes.make() as node:
        assert on_a_loop_of_its_own(lambda: node.__aexit__(None, None, None)) == "None"
        assert "stopped" not in repr(node)


async def test_a_child_has_nodes_of_its_own() -> None:
    async def talk() -> bytes:
        async with STTNode(seed_of("carol"), SHARED_SEED) as carol:
            session = await carol.connect(*address)
            await session.send(b"of the child")
            await session.close()
            return b"sent"

    async with Nodes() as nodes:
        pair = await nodes.pair()
        address = address_of(pair.listener)
        assert await asyncio.to_thread(on_a_loop_of_its_own, talk) == "b'sent'"
        data, _ = await pair.listener.endpoints.receive_any(timeout=10)
        assert data == b"of the child"
        await exchange(pair)


async def test_a_node_that_its_parent_has_not_started_works_in_each_child() -> None:
    async def talk() -> bytes:
        async with carol:
            session = await carol.connect(*address)
            await session.send(b"of a worker")
            await session.close()
            return carol.node_id[:4]

    async with Nodes() as nodes:
        bob = await nodes.listen("bob")
        address = address_of(bob)
        unstarted = nodes.make("carol")
        stopped = nodes.make("carol")
        await stopped.start()
        await stopped.stop()
        for carol in (unstarted, unstarted, stopped):
            outcome = await asyncio.to_thread(on_a_loop_of_its_own, talk)
            assert outcome == str(carol.node_id[:4])
            data, _ = await bob.endpoints.receive_any(timeout=10)
            assert data == b"of a worker"


async def test_the_connections_of_the_parent_end_with_it_and_not_with_a_child() -> None:
    """A child has no descriptor of them, so peers see neither its life nor its end."""

    def inherited() -> list[str]:
        mine = []
        for number in range(256):
            with contextlib.suppress(OSError):
                sock = socket.socket(fileno=os.dup(number))
                if sock.family == socket.AF_INET and sock.getsockname()[1]:
                    mine.append(str(sock.getsockname()))
        return mine

    async with Nodes() as nodes:
        pair = await nodes.pair()
        _, stranger = await asyncio.open_connection(*address_of(pair.listener))
        await until(lambda: pair.listener.stats().half_open)
        expected = [str(stranger.get_extra_info("sockname"))]  # no socket of this library
        assert in_fork(inherited) == str(expected)
        await exchange(pair)
        stranger.close()


GOES_ON = """
import asyncio, os, sys
sys.path[:0] = {path!r}
from helpers.nodes import SHARED_SEED, address_of, seed_of
from seigr_toolset_transmissions import STTNode

async def main():
    async with STTNode(seed_of("bob"), SHARED_SEED) as bob:
        await bob.stop()
        await bob.start(server_mode=True)
        async with STTNode(seed_of("alice"), SHARED_SEED) as alice:
            session = await alice.connect(*address_of(bob))
            pid = os.fork()
            if pid == 0:
                sys.exit(7)  # through everything that waits in a copy of the parent's loop
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            for _ in range(2):
                await session.send(b"of the parent")
                await session.flush()
                print((await bob.endpoints.receive_any(timeout=9))[0].decode())
                await alice.connect(*address_of(bob))
            assert session.stats.resumes == 0

{run}(main())
"""


@pytest.mark.parametrize("run", ["asyncio.run", "__import__('uvloop').run"])
def test_a_child_that_closes_its_copy_of_the_loop_does_the_parent_no_harm(run: str) -> None:
    program = GOES_ON.format(path=sys.path, run=run)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.stdout.split("\n") == ["7", "of the parent", "of the parent", ""], done.stderr
    assert done.returncode == 0


async def test_a_child_in_memory() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        assert in_fork(lambda: pair.near.send_nowait(b"")).startswith(REFUSED)
        await exchange(pair)


async def test_a_waiting_sender_and_flush_in_the_parent_continue() -> None:
    async with Nodes(send_window_messages=1) as nodes:
        pair = await nodes.pair()
        await pair.near.send(b"1")
        waiting = asyncio.gather(pair.near.send(b"2"), pair.near.send(b"3"), pair.near.flush())
        await asyncio.sleep(0)
        assert in_fork(lambda: pair.near.send_nowait(b"")).startswith(REFUSED)
        await waiting
        received = [(await pair.listener.endpoints.receive_any(timeout=10))[0] for _ in range(3)]
        assert received == [b"1", b"2", b"3"]
