"""`emit_threadsafe`: emitting in the emitter's event loop from any thread."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

import pytest

from helpers.events import Hanging, Recorder, returning, turns
from helpers.forked import in_fork, needs_fork
from seigr_toolset_transmissions import EventEmitter, STTNode
from seigr_toolset_transmissions.transports.memory import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 20


async def in_thread(call: Callable[[], Any]) -> Any:
    return await asyncio.to_thread(call)


async def test_another_thread_gets_what_the_emit_returns(no_log: None) -> None:
    events, recorder = EventEmitter(), Recorder()
    threads = []

    @events.on("x")
    async def handler(*args: Any, **kwargs: Any) -> int:
        threads.append(threading.current_thread())
        return 5

    events.register("x", recorder)
    results = await in_thread(lambda: events.emit_threadsafe("x", 1, a=2).result(SECONDS))
    assert results == [5, None]
    assert recorder.calls == [((1,), {"a": 2})]
    assert threads == [threading.current_thread()]


async def test_a_handlers_failure_is_among_the_results() -> None:
    events = EventEmitter()

    @events.on("x")
    async def handler() -> None:
        raise LookupError("on purpose")

    [failure] = await in_thread(lambda: events.emit_threadsafe("x").result(SECONDS))
    assert isinstance(failure, LookupError)


async def test_emits_of_a_thread_begin_in_the_order_of_the_calls() -> None:
    events = EventEmitter()
    async with events.stream("x", maxsize=100) as stream:

        def emit() -> None:
            for n in range(100):
                last = events.emit_threadsafe("x", n)
            last.result(SECONDS)

        await in_thread(emit)
        assert [(await anext(stream)).args[0] for _ in range(100)] == list(range(100))


async def test_a_replaced_emit_is_what_emits() -> None:
    events, names = EventEmitter(), list[str]()
    original = events.emit

    async def emit(name: str, *args: Any, **kwargs: Any) -> list[Any]:
        names.append(name)
        return await original(name, *args, **kwargs)

    events.emit = emit  # type: ignore[method-assign]
    events.register("x", returning(1))
    assert await in_thread(lambda: events.emit_threadsafe("x").result(SECONDS)) == [1]
    assert names == ["x"]


async def test_cancelling_the_future_cancels_the_emit() -> None:
    events, hanging = EventEmitter(), Hanging()
    events.register("x", hanging)
    future = events.emit_threadsafe("x")  # which does not wait, not even in the loop's own thread
    await hanging.started.wait()
    await in_thread(future.cancel)
    await turns(10)
    assert hanging.ended
    with pytest.raises(CancelledError):
        future.result(0)


async def test_what_names_no_event_is_refused_at_once() -> None:
    events: Any = EventEmitter()
    with pytest.raises(TypeError, match="must be a str, not int"):
        events.emit_threadsafe(1)


async def test_handlers_see_the_context_of_the_caller() -> None:
    variable = contextvars.ContextVar("variable", default="")
    events = EventEmitter()

    @events.on("x")
    async def handler() -> str:
        return variable.get()

    def emit() -> Any:
        variable.set("of the thread")
        return events.emit_threadsafe("x").result(SECONDS)

    assert await in_thread(emit) == ["of the thread"]
    assert variable.get() == ""


# Which loop


def test_without_a_loop_it_says_what_to_do() -> None:
    events = EventEmitter()
    with pytest.raises(RuntimeError, match=r"knows no event loop: start its node.*events\.loop ="):
        events.emit_threadsafe("x")

    async def use() -> Any:
        events.register("x", returning(1))
        events.loop = asyncio.get_running_loop()
        return await in_thread(lambda: events.emit_threadsafe("x").result(SECONDS))

    assert asyncio.run(use()) == [1]


def test_once_the_loop_is_closed_it_fails_at_once() -> None:
    async def make() -> EventEmitter:
        return EventEmitter()

    events = asyncio.run(make())
    with pytest.raises(RuntimeError, match="event loop was closed: 'x' can be emitted once its"):
        events.emit_threadsafe("x")


def test_the_start_of_its_node_names_the_loop() -> None:
    node = STTNode(b"a node's own seed", b"the group's shared seed", network=MemoryNetwork())
    node.events.register("x", returning(1))

    async def use() -> Any:
        async with node:
            return await in_thread(lambda: node.events.emit_threadsafe("x").result(SECONDS))

    with pytest.raises(RuntimeError, match="knows no event loop"):
        node.events.emit_threadsafe("x")
    for _ in range(2):
        assert asyncio.run(use()) == [1]
        with pytest.raises(RuntimeError, match="was closed"):
            node.events.emit_threadsafe("x")


@needs_fork
async def test_a_forked_child_is_told_that_the_loop_is_not_its_own() -> None:
    node = STTNode(b"a node's own seed", b"the group's shared seed", network=MemoryNetwork())
    async with node:
        told = in_fork(lambda: node.events.emit_threadsafe("x"))
    assert told.startswith("RuntimeError: the emitter knows no event loop")
