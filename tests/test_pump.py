"""Handing on: one queue for handlers, inboxes and events."""

from __future__ import annotations

import asyncio
import gc
import logging
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from helpers.nodes import in_virtual_time
from seigr_toolset_transmissions import EndpointManager, EventEmitter, NodeConfig
from seigr_toolset_transmissions.loop_time import LoopTime
from seigr_toolset_transmissions.outbox import FRAME_COST
from seigr_toolset_transmissions.pump import Pump

if TYPE_CHECKING:
    from collections.abc import Sequence

PEER = b"the peer"


class Node:
    """What a pump needs of the node."""

    def __init__(self, inbox_messages: int = 100, **settings: Any) -> None:
        self.config = NodeConfig(**settings)
        self.events = EventEmitter()
        self.endpoints = EndpointManager(inbox_messages=inbox_messages)
        self.endpoints.add_endpoint_nowait(PEER, None)
        self.loop = asyncio.get_running_loop()
        self.loop_time = LoopTime(self.loop)

    async def emit(self, event: str, **details: Any) -> None:
        await self.events.emit(event, **details)


class Machine:
    """Counts what was consumed."""

    def __init__(self) -> None:
        self.bytes = 0
        self.messages = 0

    def consumed(self, size: int, count: int) -> None:
        self.bytes += size
        self.messages += count


class User:
    """The session."""

    machine: Any
    peer_node_id = PEER
    session_id = b"the session"

    def __init__(self, node: Node) -> None:
        self.machine = Machine()
        self.node = node
        self.acknowledged: list[int] = []
        """How many messages were consumed each time that the peer was to hear of it."""
        self.ended = False
        self.pump = Pump(self, node)

    def offer(self, messages: Sequence[bytes]) -> int:
        taken = self.node.endpoints.offer(PEER, messages)
        self.machine.consumed(sum(map(len, messages[:taken])), taken)
        return taken

    def acknowledge(self) -> None:
        self.acknowledged.append(self.machine.messages)

    def pumped(self) -> None:
        self.ended = True


async def told(log: list[Any], what: Any) -> None:
    log.append(what)


@in_virtual_time
async def test_messages_and_steps_come_in_order_to_a_handler_and_to_an_inbox() -> None:
    node, log = Node(), list[Any]()
    user = User(node)

    @node.events.on("data_received")
    async def handle(session_id: bytes, data: bytes) -> None:
        assert session_id == user.session_id
        log.append(data)
        if data == b"2":
            node.events.remove_handler("data_received", handle)

    user.pump.add([partial(told, log, "begun"), b"1", b"2", b"3"])
    user.pump.add([partial(told, log, "ended")])
    await user.pump.run()
    assert log == ["begun", b"1", b"2", "ended"]
    assert await node.endpoints.receive_any(timeout=0) == (b"3", PEER)
    assert (user.machine.messages, user.machine.bytes) == (3, 3)
    assert user.ended


@in_virtual_time
async def test_a_step_can_be_taken_back_while_it_is_the_last_and_has_not_run() -> None:
    log = list[Any]()
    user = User(Node())
    first, second = partial(told, log, 1), partial(told, log, 2)
    user.pump.add([first, second])
    assert not user.pump.take_back(first)
    assert user.pump.take_back(second)
    assert not user.pump.take_back(second)
    await user.pump.run()
    assert log == [1]
    assert not user.pump.take_back(first)


@in_virtual_time
async def test_slow_handlers_do_not_keep_the_peer_waiting_for_acknowledgements() -> None:
    node = Node()
    user = User(node)

    @node.events.on("data_received")
    async def handle(session_id: bytes, data: bytes) -> None:
        await asyncio.sleep(node.config.ack_delay * 0.4)

    user.pump.add([b"x"] * 7)
    await user.pump.run()
    told = [0, *user.acknowledged]
    assert told[-1] == 7
    assert max(after - before for before, after in pairwise(told)) <= 3


@pytest.mark.parametrize("size", [0, 16, 64])
@pytest.mark.parametrize("window", [1024, 64 * 1024, 1024 * 1024])
@in_virtual_time
async def test_a_handler_that_waits_withholds_little_of_what_those_before_it_took(
    window: int, size: int
) -> None:
    node = Node(max_message_bytes=64, receive_window_bytes=window)
    user = User(node)
    go_on = asyncio.Event()

    @node.events.on("data_received")
    async def handle(session_id: bytes, data: bytes) -> None:
        if data == b"wait":
            await go_on.wait()

    count = window // (size + FRAME_COST) - 1
    user.pump.add([bytes(size)] * count + [b"wait"])
    running = asyncio.create_task(user.pump.run())
    await asyncio.sleep(1)
    withheld = (count - user.machine.messages) * (size + FRAME_COST)
    assert withheld <= window / 8
    go_on.set()
    await running
    assert user.machine.messages == count + 1


@in_virtual_time
async def test_many_messages_give_others_their_turns() -> None:
    node = Node()
    user = User(node)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while not user.ended:
            turns += 1
            await asyncio.sleep(0)

    @node.events.on("data_received")
    async def handle(session_id: bytes, data: bytes) -> None:
        """Take it."""

    user.pump.add([b"x"] * 5000)
    await asyncio.gather(user.pump.run(), other())
    assert user.machine.messages == 5000
    assert turns >= 4


@in_virtual_time
async def test_what_a_handler_raises_is_reported_and_the_next_message_is_handed_on() -> None:
    node, log, failures = Node(), list[bytes](), list[Any]()
    user = User(node)

    @node.events.on("error")
    async def note(error_type: str, details: dict[str, Any]) -> None:
        failures.append((error_type, details["exception"]))

    @node.events.on("data_received")
    async def handle(session_id: bytes, data: bytes) -> None:
        log.append(data)
        if data == b"1":
            raise failure

    failure = ValueError("no")
    user.pump.add([b"1", b"2"])
    await user.pump.run()
    assert log == [b"1", b"2"]
    assert failures == [("handler_failed", failure)]
    assert user.machine.messages == 2


@in_virtual_time
async def test_a_failure_leaves_no_cycle_of_references() -> None:
    node = Node()
    user = User(node)

    class FailureError(Exception):
        pass

    @node.events.on("data_received")
    async def handle(session_id: bytes, data: bytes) -> None:
        raise FailureError

    gc.collect()
    gc.disable()
    logging.disable()  # what is logged is kept by the test's own handlers
    try:
        user.pump.add([b"1"])
        await user.pump.run()
        assert not [thing for thing in gc.get_objects() if isinstance(thing, FailureError)]
    finally:
        logging.disable(logging.NOTSET)
        gc.enable()


@in_virtual_time
async def test_a_full_inbox_is_waited_for_and_tried_again_when_told() -> None:
    node, log = Node(inbox_messages=2), list[Any]()
    user = User(node)
    user.pump.add([b"1", b"2", b"3", partial(told, log, "ended")])
    running = asyncio.create_task(user.pump.run())
    await asyncio.sleep(1)
    assert user.machine.messages == 2
    user.pump.wait_no_more()  # there is still no room: it waits again
    await asyncio.sleep(1)
    assert (user.machine.messages, log) == (2, [])
    assert (await node.endpoints.receive_any())[0] == b"1"
    assert (await node.endpoints.receive_any())[0] == b"2"
    await running
    assert (await node.endpoints.receive_any())[0] == b"3"
    assert log == ["ended"]


@in_virtual_time
async def test_one_that_is_cancelled_tells_the_steps_that_are_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    node, log = Node(), list[Any]()
    user = User(node)

    @node.events.on("data_received")
    async def hang(session_id: bytes, data: bytes) -> None:
        await asyncio.get_running_loop().create_future()

    user.pump.add([b"1", b"2", partial(told, log, "ended")])
    running = asyncio.create_task(user.pump.run())
    await asyncio.sleep(1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert log == ["ended"]
    assert user.ended
    assert user.machine.messages == 1  # the one that the handler had
    [warning] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "messages not handed on: 1" in warning.getMessage()
