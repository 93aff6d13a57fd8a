"""Whatever a program does, each message has one fate and keeps its order."""

from __future__ import annotations

import asyncio
import gc
import logging
from contextvars import ContextVar
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from helpers.nodes import in_virtual_time, until
from helpers.pumping import PEER, Node, OutcomeError, User, take_all, told
from seigr_toolset_transmissions.protocol.outbox import FRAME_COST

if TYPE_CHECKING:
    from collections.abc import Callable


variable: ContextVar[str] = ContextVar("variable", default="unset")


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
