"""A pump alone, with a session and a node that do as they are told."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from helpers.nodes import until
from seigr_toolset_transmissions import (
    EventEmitter,
    NodeConfig,
)
from seigr_toolset_transmissions.endpoints import EndpointManager
from seigr_toolset_transmissions.endpoints.transport_side import TransportEndpoints
from seigr_toolset_transmissions.errors import STTTimeoutError
from seigr_toolset_transmissions.node.runtime import Counters, Runtime
from seigr_toolset_transmissions.protocol.outbox import FRAME_COST
from seigr_toolset_transmissions.sessions.loop_time import LoopTime
from seigr_toolset_transmissions.sessions.pump import Pump

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seigr_toolset_transmissions.sessions.pump import Step

__all__ = ["PEER", "Machine", "Node", "OutcomeError", "User", "take_all", "told"]


PEER = b"the peer"


class Node:
    """What a pump needs from the node."""

    def __init__(self, inbox_messages: int = 100, **settings: Any) -> None:
        self.config = NodeConfig(**settings)
        self.events = EventEmitter()
        self.endpoints = TransportEndpoints(EndpointManager(inbox_messages=inbox_messages))
        self.endpoints.add_endpoint_nowait(PEER, None)
        self.runtime = Runtime(self.config, self.events, self.endpoints, Counters())
        self.runtime.begin(asyncio.get_running_loop(), b"an incarnation")
        self.loop = self.runtime.loop
        self.loop_time = LoopTime(self.loop)
        self.own = self.runtime.own
        self.emit = self.runtime.emit
        self.left_over: list[bytes] = []

    @property
    def time_is_over(self) -> bool:
        return self.runtime.time_is_over

    def stands_still(self, session: object) -> None:
        raise AssertionError("nobody sends here")

    def handler_lasts(self, session: object, event: str) -> None:
        raise AssertionError("nobody checks here")

    def undelivered(self, session: object, messages: tuple[bytes, ...]) -> Step:
        self.left_over += messages
        return partial(self.emit, "undelivered", messages=messages)

    def end(self) -> None:
        """End the time of handlers, as a stopping node does."""
        self.runtime.time_is_over = True
        for task in self.runtime.tasks():
            task.cancel()


class Machine:
    """Counts what was consumed."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.cost = 0

    def consumed(self, size: int, count: int) -> None:
        self.cost += size + count * FRAME_COST

    def messages(self, size: int = 1) -> int:
        """How many messages were consumed, if all had this size."""
        assert self.cost % (size + FRAME_COST) == 0
        return self.cost // (size + FRAME_COST)


class User:
    """The session."""

    machine: Any
    peer_node_id = PEER
    session_id = b"the session"

    def __init__(self, node: Node) -> None:
        self.machine = Machine(node.config.receive_window_bytes)
        self.node = node
        self.acknowledged: list[int] = []
        """How many messages were consumed each time that the peer was to hear of it."""
        self.closed = False
        self.ended = False
        self.pump = Pump(self, node)

    def add(self, items: Sequence[bytes | Step]) -> None:
        for item in items:
            if isinstance(item, bytes):
                self.pump.add_messages([item])
            else:
                self.pump.add_step("an event", item)

    async def run(self) -> None:
        """Run the pump until it has handed over everything."""
        self.ended = False
        self.pump.start()
        await until(lambda: self.ended)

    def offer(self, messages: Sequence[bytes]) -> int:
        taken = self.node.endpoints.offer(PEER, messages, beyond_bounds=self.closed)
        self.machine.consumed(sum(map(len, messages[:taken])), taken)
        return taken

    def acknowledge(self) -> None:
        self.acknowledged.append(self.machine.cost)

    def pumped(self) -> None:
        self.ended = True


async def told(log: list[Any], what: Any) -> None:
    log.append(what)


async def take_all(node: Node) -> list[bytes]:
    """Return what the inboxes hold."""
    taken = []
    with suppress(STTTimeoutError):
        while True:
            taken.append((await node.endpoints.manager.receive_any(timeout=0))[0])
    return taken


class OutcomeError(BaseException):
    """Like those of test runners, not an Exception."""
