"""What the parts of a node share: reporting errors, and tasks."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest

from helpers.nodes import Nodes, address_of, in_virtual_time, memory_nodes, until
from seigr_toolset_transmissions.errors import STTConnectError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from seigr_toolset_transmissions import STTNode

user: ContextVar[str] = ContextVar("user", default="nobody")


@pytest.mark.parametrize("listener", ["a handler that hangs", "a stream that nobody reads"])
@in_virtual_time
async def test_reports_wait_for_the_last_one_and_count_those_left_out(listener: str) -> None:
    async with memory_nodes() as nodes:
        node = await nodes.listen(allow=[])
        assert node.address is not None
        dialer = await nodes.start()
        may_go_on = asyncio.Event()
        heard: list[dict[str, Any]] = []

        async def hang(error_type: str, details: dict[str, Any]) -> None:
            assert error_type == "peer_denied"
            heard.append(details)
            await may_go_on.wait()

        async def be_refused(times: int) -> None:
            for _ in range(times):
                with pytest.raises(STTConnectError):
                    await dialer.connect(*node.address)  # type: ignore[misc]
                await asyncio.sleep(2)

        if listener == "a handler that hangs":
            node.events.register("error", hang)
            await be_refused(1)
            count = len(asyncio.all_tasks())
            await be_refused(50)
            assert len(asyncio.all_tasks()) == count
            assert len(heard) == 1
            may_go_on.set()
            await be_refused(1)
            await until(lambda: len(heard) == 2)
            assert heard[1]["count"] == 51
        else:
            async with node.events.stream("error", maxsize=1) as stream:
                await be_refused(2)
                count = len(asyncio.all_tasks())
                await be_refused(50)
                assert len(asyncio.all_tasks()) == count
                counts = [(await anext(stream)).kwargs["details"]["count"] for _ in range(2)]
                assert counts == [1, 1]
                await be_refused(1)
                assert (await anext(stream)).kwargs["details"]["count"] == 51


async def dial(node: STTNode, peer: STTNode) -> None:
    await node.connect(*address_of(peer))


async def send(node: STTNode, peer: STTNode) -> None:
    await node.endpoints.add_endpoint(peer.node_id, address_of(peer))
    await node.endpoints.send_to_endpoint(peer.node_id, b"one")


async def broadcast(node: STTNode, peer: STTNode) -> None:
    await node.endpoints.add_endpoint(peer.node_id, address_of(peer))
    await node.endpoints.broadcast(b"one")


async def keep(node: STTNode, peer: STTNode) -> None:
    await node.endpoints.add_endpoint(peer.node_id, address_of(peer), connect=True)
    await until(lambda: node.sessions)


async def be_dialed(node: STTNode, peer: STTNode) -> None:
    await peer.endpoints.add_endpoint(node.node_id, address_of(node))
    await peer.endpoints.send_to_endpoint(node.node_id, b"one")


WAYS = [dial, send, broadcast, keep, be_dialed]


async def see_who_handlers_run_as(
    nodes: Nodes, way: Callable[[STTNode, STTNode], Coroutine[Any, Any, None]]
) -> None:
    """Let one user start two nodes and others use them; no handler may run as one of those."""
    user.set("starter")
    node, peer = await nodes.listen("alice"), await nodes.listen("bob")
    seen: list[tuple[str, str]] = []

    async def note(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((name, user.get()))

    async def handle(session_id: bytes, data: bytes) -> None:
        seen.append(("handler", user.get()))
        await asyncio.sleep(0)
        seen.append(("handler that has waited", user.get()))

    node.events.on_any(note)
    node.events.register("data_received", handle)

    async def as_user(name: str, do: Coroutine[Any, Any, None]) -> None:
        user.set(name)
        await do

    async def answer(times: int) -> None:
        for k in range(times):
            await peer.sessions[0].send(b"%d" % k)

    async def fail() -> None:
        await node.endpoints.add_endpoint(bytes(32), ("nowhere", 1), connect=True)
        await asyncio.sleep(0.5)

    async def cut() -> None:
        for connection in [*node._registry.connections]:
            connection.drop()

    async def end() -> None:
        await node.kick(peer.node_id)

    async with asyncio.timeout(60):
        await asyncio.create_task(as_user("alice", way(node, peer)))
        await until(lambda: peer.sessions)
        await asyncio.create_task(as_user("bob", answer(3)))
        await until(lambda: ("handler that has waited", "starter") in seen)
        node.events.remove_any(note)  # then the pump calls the handler without an emit
        await asyncio.create_task(as_user("carol", answer(3)))
        await asyncio.sleep(0.1)
        node.events.on_any(note)
        await asyncio.create_task(as_user("dave", cut()))
        await asyncio.create_task(as_user("erin", fail()))
        await asyncio.create_task(as_user("frank", end()))
        await asyncio.create_task(as_user("grace", node.stop()))  # type: ignore[arg-type]
    assert {name for _, name in seen} == {"starter"}
    assert {"session_created", "data_received", "error", "session_closed", "handler"} <= {
        event for event, _ in seen
    }


@pytest.mark.parametrize("way", WAYS)
@in_virtual_time
async def test_handlers_run_in_the_context_of_start(
    way: Callable[[STTNode, STTNode], Coroutine[Any, Any, None]],
) -> None:
    async with memory_nodes() as nodes:
        await see_who_handlers_run_as(nodes, way)


@pytest.mark.parametrize("way", WAYS)
async def test_handlers_run_in_the_context_of_start_over_tcp(
    way: Callable[[STTNode, STTNode], Coroutine[Any, Any, None]],
) -> None:
    async with Nodes() as nodes:
        await see_who_handlers_run_as(nodes, way)


@in_virtual_time
async def test_a_node_that_is_started_again_has_the_context_of_its_last_start() -> None:
    async with memory_nodes() as nodes:
        node = nodes.make()
        seen: list[str] = []

        @node.events.on("session_created")
        async def note(session_id: bytes) -> None:
            seen.append(user.get())

        peer = await nodes.listen()
        for name in ("alice", "bob"):
            user.set(name)
            await node.start()
            user.set("somebody else")
            await node.connect(*address_of(peer))
            await node.stop()
        assert seen == ["alice", "bob"]
