"""Whatever a program does, each message has one fate and keeps its order."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.clock import run_virtual
from helpers.nodes import in_virtual_time
from helpers.pumping import Node, OutcomeError, User
from seigr_toolset_transmissions import (
    EventEmitter,
)
from seigr_toolset_transmissions.sessions.pump import Pump

if TYPE_CHECKING:
    from seigr_toolset_transmissions.sessions.pump import Step


class Arrivals(User):
    """A session whose messages are numbered, and which makes pumps as it needs them."""

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self.count = 0
        self.working = False

    def pumped(self) -> None:
        self.working = False

    def arrive(self, count: int) -> None:
        numbers = range(self.count, self.count + count)
        self.count += count
        self._pumping().add_messages([number.to_bytes(4) for number in numbers])

    def tell(self, step: Step) -> None:
        self._pumping().add_step("an event", step)

    def _pumping(self) -> Pump:
        if not self.working:
            self.working = True
            self.pump = Pump(self, self.node)
            self.pump.start()
        return self.pump


class Program:
    """What an application may do to its messages at any time, and what it has seen of them."""

    def __init__(self) -> None:
        self.node = Node(inbox_messages=3)
        self.session = Arrivals(self.node)
        self.handled: list[list[int]] = []  # by registration
        self.pulled: list[int] = []
        self.seen: list[list[int]] = []  # by registration
        self.handlers: list[Any] = []
        self.watchers: list[Any] = []
        self.receivers: list[asyncio.Task[None]] = []

    def do(self, action: str) -> None:
        name, _, how = action.partition(" ")
        getattr(self, name)(how)

    def arrive(self, how: str) -> None:
        self.session.arrive(int(how))

    def register(self, how: str) -> None:
        log = list[int]()
        self.handled.append(log)

        async def handle(session_id: bytes, data: bytes) -> None:
            log.append(int.from_bytes(data))
            await self.behave(how)

        self.handlers.append(handle)
        if how.startswith("once"):
            self.node.events.once("data_received")(handle)
        else:
            self.node.events.register("data_received", handle)

    def remove(self, how: str) -> None:
        if self.handlers:
            handler = self.handlers.pop(0 if how == "oldest" else -1)
            self.node.events.remove_handler("data_received", handler)

    def replace(self, how: str) -> None:
        """In one step, so that nothing gets into the inbox in between."""
        self.remove("oldest")
        self.register(how)

    def watch(self, how: str) -> None:
        log = list[int]()
        self.seen.append(log)

        async def see(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if name == "data_received":
                log.append(int.from_bytes(kwargs["data"]))
                await self.behave(how)

        self.watchers.append(self.node.events.on_any(see))

    def unwatch(self, _: str) -> None:
        if self.watchers:
            self.node.events.remove_any(self.watchers.pop())

    def wrap(self, how: str) -> None:
        original = EventEmitter.emit

        async def emit(name: str, *args: Any, **kwargs: Any) -> Any:
            await self.behave(how)
            return await original(self.node.events, name, *args, **kwargs)

        self.node.events.emit = emit  # type: ignore[method-assign]

    def receive(self, how: str) -> None:
        async def take() -> None:
            with suppress(TimeoutError):
                timeout = 0 if how == "at once" else 0.3
                data, _ = await self.node.endpoints.manager.receive_any(timeout=timeout)
                self.pulled.append(int.from_bytes(data))

        self.receivers.append(asyncio.create_task(take()))

    def step(self, how: str) -> None:
        self.session.tell(partial(self.behave, how))

    def cancel(self, _: str) -> None:
        """A program may keep the task of a handler."""
        for task in self.node.runtime.tasks():
            task.cancel()

    async def behave(self, how: str) -> None:
        if how.endswith("yields"):
            await asyncio.sleep(0)
        elif how.endswith("waits"):
            await asyncio.sleep(0.1)
        elif how.endswith("fails"):
            raise OutcomeError
        elif how.endswith("leaves"):
            await asyncio.sleep(0)
            self.remove("newest")
            await asyncio.sleep(0.05)
        elif how.endswith("cancels"):
            task = asyncio.current_task()
            assert task is not None
            task.cancel()

    async def end(self) -> None:
        """Take whatever is left."""
        self.node.events.clear_event("data_received")
        async with asyncio.timeout(600):
            while self.session.working or self.node.endpoints.held_bytes():
                self.receive("at once")
                await asyncio.sleep(0.2)
        await asyncio.gather(*self.receivers)


ACTIONS = [
    *("arrive 1", "arrive 2", "arrive 5"),
    *(f"register {how}" for how in ("returns", "yields", "waits", "fails", "leaves", "cancels")),
    *("register once returns", "register once waits"),
    *("replace returns", "replace waits", "remove oldest", "remove newest"),
    *("watch returns", "watch yields", "watch waits", "unwatch", "wrap yields", "wrap returns"),
    *("receive at once", "receive later", "step returns", "step waits", "cancel"),
]


@settings(deadline=None, max_examples=int(os.environ.get("STT_PUMP_EXAMPLES", "200")))
@given(
    st.lists(st.tuples(st.sampled_from(ACTIONS), st.sampled_from([None, 0, 0, 0.04, 0.3]))),
    st.booleans(),
)
def test_each_message_has_one_fate_and_keeps_its_order_whatever_a_program_does(
    actions: list[tuple[str, float | None]], watched: bool
) -> None:
    async def run() -> None:
        program = Program()
        if watched:
            program.watch("yields")
        for action, pause in actions:
            program.do(action)
            if pause is not None:
                await asyncio.sleep(pause)
        await program.end()
        handled = [set(log) for log in program.handled]
        for log in program.handled:
            assert log == sorted(set(log))
        assert program.pulled == sorted(set(program.pulled))
        taken = set[int]().union(*handled)
        assert not taken & set(program.pulled)
        assert taken | set(program.pulled) == set(range(program.session.count))
        machine = program.session.machine
        assert machine.messages(size=4) == program.session.count

    logging.disable()
    try:
        run_virtual(run())
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize("how", ["returns", "yields", "waits"])
@in_virtual_time
async def test_a_watcher_sees_each_message_once_and_in_order_wherever_it_goes(how: str) -> None:
    program = Program()
    program.watch(how)
    for action in ("register waits", "step waits", "remove oldest", "receive later") * 4:
        program.arrive("5")
        program.do(action)
        await asyncio.sleep(0.15)
    await program.end()
    assert program.seen == [list(range(program.session.count))]
