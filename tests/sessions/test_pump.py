"""Handing over: one queue for handlers, inboxes and events."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.clock import run_virtual
from helpers.nodes import in_virtual_time, until
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
    from collections.abc import Callable, Sequence

    from seigr_toolset_transmissions.sessions.pump import Step

PEER = b"the peer"

variable: ContextVar[str] = ContextVar("variable", default="unset")


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

    user.add([partial(told, log, "begun"), b"1", b"2", b"3"])
    user.add([partial(told, log, "ended")])
    await user.run()
    assert log == ["begun", b"1", b"2", "ended"]
    assert await node.endpoints.manager.receive_any(timeout=0) == (b"3", PEER)
    assert user.machine.messages() == 3
    assert user.ended


@in_virtual_time
async def test_a_step_can_be_taken_back_while_it_is_the_last_and_has_not_run() -> None:
    log = list[Any]()
    user = User(Node())
    first, second = partial(told, log, 1), partial(told, log, 2)
    user.add([first, second])
    assert not user.pump.take_back(first)
    assert user.pump.take_back(second)
    assert not user.pump.take_back(second)
    await user.run()
    assert log == [1]
    assert not user.pump.take_back(first)


@in_virtual_time
async def test_slow_handlers_do_not_keep_the_peer_waiting_for_acknowledgements() -> None:
    node = Node()
    user = User(node)

    @node.events.on("data_received")
    async def handle(session_id: bytes, data: bytes) -> None:
        await asyncio.sleep(node.config.ack_delay * 0.4)

    user.add([b"x"] * 7)
    await user.run()
    told = [0, *(cost // (1 + FRAME_COST) for cost in user.acknowledged)]
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
    user.add([bytes(size)] * count + [b"wait"])
    running = asyncio.create_task(user.run())
    await asyncio.sleep(1)
    cost = count * (size + FRAME_COST)
    assert cost - user.machine.cost <= window / 8
    go_on.set()
    await running
    assert user.machine.cost == cost + 4 + FRAME_COST


@in_virtual_time
async def test_many_messages_let_others_have_their_turns() -> None:
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

    user.add([b"x"] * 5000)
    await asyncio.gather(user.run(), other())
    assert user.machine.messages() == 5000
    assert turns >= 4


@in_virtual_time
async def test_a_handlers_exception_is_reported_and_the_next_message_is_handed_over() -> None:
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
    user.add([b"1", b"2"])
    await user.run()
    assert log == [b"1", b"2"]
    assert failures == [("handler_failed", failure)]
    assert user.machine.messages() == 2


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
        user.add([b"1"])
        await user.run()
        assert not [thing for thing in gc.get_objects() if isinstance(thing, FailureError)]
    finally:
        logging.disable(logging.NOTSET)
        gc.enable()


@in_virtual_time
async def test_a_full_inbox_is_tried_again_once_it_has_room() -> None:
    node, log = Node(inbox_messages=2), list[Any]()
    user = User(node)
    user.add([b"1", b"2", b"3", partial(told, log, "ended")])
    running = asyncio.create_task(user.run())
    await asyncio.sleep(1)
    assert user.machine.messages() == 2
    user.pump.wait_no_more()  # there is still no room: it waits again
    await asyncio.sleep(1)
    assert (user.machine.messages(), log) == (2, [])
    assert (await node.endpoints.manager.receive_any())[0] == b"1"
    assert (await node.endpoints.manager.receive_any())[0] == b"2"
    await running
    assert (await node.endpoints.manager.receive_any())[0] == b"3"
    assert log == ["ended"]


@in_virtual_time
async def test_messages_that_cannot_be_handed_over_are_returned_and_the_remaining_steps_taken() -> (
    None
):
    node, log = Node(), list[Any]()
    user = User(node)

    @node.events.on("data_received")
    async def hang(session_id: bytes, data: bytes) -> None:
        await asyncio.get_running_loop().create_future()

    @node.events.on("undelivered")
    async def note(messages: tuple[bytes, ...]) -> None:
        log.append(messages)

    user.add([b"1", b"2", partial(told, log, "between"), b"3", partial(told, log, "ended")])
    running = asyncio.create_task(user.run())
    await asyncio.sleep(1)
    node.end()
    await running
    assert log == [(b"2", b"3"), "between", "ended"]
    assert node.left_over == [b"2", b"3"]
    assert user.machine.messages() == 1  # the one that the handler had


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


class OutcomeError(BaseException):
    """Like those of test runners, not an Exception."""


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


@pytest.mark.parametrize("how", ["stranger", "itself", "itself, and goes on", "twice"])
@pytest.mark.parametrize("watched", [False, True])
@in_virtual_time
async def test_cancelling_a_handlers_task_ends_only_that_handler(how: str, watched: bool) -> None:
    node, log, failures = Node(), list[bytes](), list[Any]()
    user = User(node)

    @node.events.on("error")
    async def note(error_type: str, details: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        failures.append((error_type, type(details["exception"]), details["handler"]))

    @node.events.on("data_received")
    async def handle(session_id: bytes, data: bytes) -> None:
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        if data == b"1":
            if how == "stranger":
                asyncio.get_running_loop().call_later(0.1, task.cancel)
            else:
                task.cancel()
            if how == "twice":
                asyncio.get_running_loop().call_soon(task.cancel)
            if how != "itself, and goes on":
                await asyncio.sleep(1)
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0.1))
        log.append(data)

    if watched:
        node.events.on_any(_watch)
    user.add([b"0", b"1", b"2", b"3"])
    await user.run()
    assert log == [b"0", b"2", b"3"]
    assert failures == [("handler_failed", asyncio.CancelledError, handle)]
    assert user.machine.messages() == 4


async def _watch(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """See it."""


@pytest.mark.parametrize("how", ["at once", "waits", "fails", "is cancelled"])
@in_virtual_time
async def test_changes_to_context_variables_end_with_their_message(
    how: str,
) -> None:
    node, log, steps = Node(), list[tuple[bytes, str]](), list[str]()
    user = User(node)

    @node.events.on("data_received")
    async def handle(session_id: bytes, data: bytes) -> None:
        log.append((data, variable.get()))
        variable.set(data.decode())
        if how == "waits":
            await asyncio.sleep(1)
        elif how == "fails":
            raise OutcomeError
        elif how == "is cancelled":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(1)
        assert variable.get() == data.decode()

    user.add([b"0", b"1", partial(told, steps, "a step"), b"2"])
    await user.run()
    user.add([b"3"])
    await user.run()
    assert log == [(b"%d" % number, "unset") for number in range(4)]
    assert steps == ["a step"]
    assert user.machine.messages() == 4


@in_virtual_time
async def test_handlers_that_leave_context_variables_alone_share_a_task() -> None:
    node, tasks = Node(), list[Any]()
    user = User(node)

    @node.events.on("data_received")
    async def handle(session_id: bytes, data: bytes) -> None:
        token = variable.set("by the handler")
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0)
        variable.reset(token)

    user.add([b"0", b"1", b"2"])
    await user.run()
    assert len(tasks) == 3
    assert len(set(tasks)) == 1


@pytest.mark.parametrize("failure", [OutcomeError, GeneratorExit, BaseExceptionGroup])
@in_virtual_time
async def test_whatever_leaves_a_handler_is_its_failure(failure: type[BaseException]) -> None:
    node, log, failures = Node(), list[bytes](), list[Any]()
    user = User(node)
    raised = failure("both", [OutcomeError()]) if failure is BaseExceptionGroup else failure()

    @node.events.on("error")
    async def note(error_type: str, details: dict[str, Any]) -> None:
        failures.append((error_type, details["exception"]))

    @node.events.on("data_received")
    async def handle(session_id: bytes, data: bytes) -> None:
        await asyncio.sleep(0.01)
        if data == b"1":
            raise raised
        log.append(data)

    user.add([b"0", b"1", b"2"])
    await user.run()
    assert log == [b"0", b"2"]
    assert failures == [("handler_failed", raised)]
    assert user.machine.messages() == 3


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_reaches_the_loop_and_the_rest_is_handed_over_when_it_runs_again(
    interruption: type[BaseException],
) -> None:
    log = list[Any]()

    async def begin() -> tuple[Node, User]:
        node = Node()
        user = User(node)

        @node.events.on("data_received")
        async def handle(session_id: bytes, data: bytes) -> None:
            if data == b"1":
                raise interruption
            log.append(data)

        user.add([b"0", b"1", b"2", partial(told, log, "ended")])
        return node, user

    loop = asyncio.new_event_loop()
    try:
        _, user = loop.run_until_complete(begin())
        user.pump.start()
        with pytest.raises(interruption):
            loop.run_until_complete(asyncio.sleep(1))
        loop.run_until_complete(until(lambda: user.ended))
    finally:
        loop.close()
    assert log == [b"0", b"2", "ended"]
    assert user.machine.messages() == 3


PASSED_ON = pytest.mark.parametrize("pass_on", [lambda name: name, str, "{}".format])
"""What a wrapper of ``emit`` may do to an event's name."""


@pytest.mark.parametrize(
    ("times", "pushed", "pulled"),
    [(0, [], [b"1", b"2"]), (1, [b"1", b"2"], []), (2, [b"1", b"1", b"2", b"2"], [])],
)
@PASSED_ON
@in_virtual_time
async def test_a_wrapper_of_emit_decides_how_often_handlers_are_called(
    pass_on: Callable[[str], str], times: int, pushed: list[bytes], pulled: list[bytes]
) -> None:
    node, log = Node(), list[bytes]()
    user = User(node)
    original = node.events.emit

    async def emit(name: str, /, *args: Any, **kwargs: Any) -> list[Any]:
        for _ in range(times):
            await original(pass_on(name), *args, **kwargs)
        return []

    node.events.emit = emit  # type: ignore[method-assign]

    @node.events.on("data_received")
    async def handle(session_id: bytes, data: bytes) -> None:
        log.append(data)

    user.add([b"1", b"2"])
    await user.run()
    assert log == pushed
    assert await take_all(node) == pulled
    assert user.machine.messages() == 2


@PASSED_ON
@in_virtual_time
async def test_a_wrapper_that_emits_later_hands_no_message_over_twice(
    pass_on: Callable[[str], str],
) -> None:
    node, log = Node(), list[bytes]()
    user = User(node)
    original = node.events.emit
    later = set[asyncio.Task[Any]]()

    async def emit(name: str, /, *args: Any, **kwargs: Any) -> list[Any]:
        later.add(asyncio.create_task(original(pass_on(name), *args, **kwargs)))
        return []

    node.events.emit = emit  # type: ignore[method-assign]

    @node.events.on("data_received")
    async def handle(session_id: bytes, data: bytes) -> None:
        log.append(data)

    user.add([b"1", b"2"])
    await user.run()
    await asyncio.gather(*later)
    assert log == []
    assert await take_all(node) == [b"1", b"2"]


@PASSED_ON
@in_virtual_time
async def test_a_wrapper_calls_no_handler_for_messages_in_the_inbox(
    pass_on: Callable[[str], str],
) -> None:
    node, log = Node(), list[bytes]()
    user = User(node)
    original = node.events.emit

    async def emit(name: str, /, *args: Any, **kwargs: Any) -> list[Any]:
        if not node.events.handled("data_received"):
            node.events.register("data_received", handle)
        return await original(pass_on(name), *args, **kwargs)

    node.events.emit = emit  # type: ignore[method-assign]

    async def handle(session_id: bytes, data: bytes) -> None:
        log.append(data)

    user.add([b"1", b"2"])
    await user.run()
    user.add([b"3"])
    await user.run()
    assert await take_all(node) == [b"1", b"2"]
    assert log == [b"3"]


@in_virtual_time
async def test_an_emit_by_a_handler_below_a_wrapper_is_its_own_emit() -> None:
    node, log = Node(), list[bytes]()
    user = User(node)
    original = node.events.emit

    async def emit(name: str, /, *args: Any, **kwargs: Any) -> list[Any]:
        return await original(str(name), *args, **kwargs)

    async def emit_later(data: bytes) -> None:
        await handled.wait()
        await node.events.emit("data_received", data=data)

    @node.events.on_any
    async def watch(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if kwargs["data"] == b"1":
            later.append(asyncio.create_task(emit_later(b"2")))

    handled, later = asyncio.Event(), list[asyncio.Task[None]]()
    node.events.emit = emit  # type: ignore[method-assign]
    user.add([b"1"])
    await user.run()

    @node.events.on("data_received")
    async def handle(data: bytes) -> None:
        log.append(data)

    handled.set()
    await asyncio.gather(*later)
    assert await take_all(node) == [b"1"]
    assert log == [b"2"]
