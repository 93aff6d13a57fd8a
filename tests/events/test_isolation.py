"""Handlers and context variables: each call starts with the same, and its changes stay its own."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest

from helpers.events import (
    Recorder,
    add_crowd,
    returning,
    turns,
)
from seigr_toolset_transmissions.events import EventEmitter

if TYPE_CHECKING:
    from collections.abc import Generator

variable: ContextVar[str] = ContextVar("variable")


async def leak(waits: int) -> str:
    found = variable.get("unset")
    variable.set("by a handler")
    await turns(waits)
    assert variable.get() == "by a handler"
    return found


@pytest.mark.parametrize("waits", [0, 1, 3])
@pytest.mark.parametrize("value", ["unset", "by the emitter"])
async def test_each_call_starts_in_the_context_of_the_emit(
    value: str, waits: int, crowd: int
) -> None:
    events, errors = EventEmitter(), Recorder()
    events.register("error", errors)
    for _ in range(1 + crowd):
        events.register("x", functools.partial(leak, waits))
    if value != "unset":
        variable.set(value)
    for _ in range(3):
        assert await events.emit("x") == [value] * (1 + crowd)
        assert variable.get("unset") == value
    assert not errors.calls


async def test_on_any_handlers_start_in_the_context_of_the_emit_too() -> None:
    events, found = EventEmitter(), []

    async def seen(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(await leak(0))

    events.on_any(seen)
    events.on_any(seen)
    events.register("x", functools.partial(leak, 0))
    assert await events.emit("x") == ["unset"]
    assert found == ["unset"] * 2
    assert variable.get("unset") == "unset"


async def test_a_handler_that_fails_leaks_nothing(crowd: int) -> None:
    events = EventEmitter()

    async def fails() -> None:
        variable.set("by a handler")
        raise ValueError

    events.register("x", fails)
    add_crowd(events, "x", crowd)
    events.register("x", functools.partial(leak, 0))
    assert (await events.emit("x"))[-1] == "unset"
    assert variable.get("unset") == "unset"


async def test_tasks_of_a_handler_have_the_handlers_context() -> None:
    events, found = EventEmitter(), []

    async def handler() -> None:
        variable.set("by a handler")
        asyncio.get_running_loop().call_soon(lambda: found.append(variable.get("unset")))

    events.register("x", handler)
    await events.emit("x")
    await turns()
    assert found == ["by a handler"]


async def test_any_awaitable_that_a_handler_returns_is_awaited(crowd: int) -> None:
    class Answer:
        def __await__(self) -> Generator[Any, Any, int]:
            yield from asyncio.sleep(0).__await__()
            return 42

    def handler() -> Answer:
        return Answer()

    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(handler)
    else:
        marked: Any = handler
        marked._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
    events = EventEmitter()
    events.register("x", handler)
    add_crowd(events, "x", crowd)
    assert (await events.emit("x"))[0] == 42


async def test_handlers_may_emit_while_others_wait() -> None:
    events, gate = EventEmitter(), asyncio.Event()
    events.register("slow", gate.wait)
    events.register("x", functools.partial(events.emit, "y"))
    events.register("y", returning(2))
    slow = [asyncio.create_task(events.emit("slow")) for _ in range(3)]
    await turns()
    assert await events.emit("x") == [[2]]
    gate.set()
    assert await asyncio.gather(*slow) == [[True]] * 3


@pytest.mark.parametrize("waits", [0, 1, 3])
async def test_a_handler_may_emit_its_own_event(waits: int, crowd: int) -> None:
    events = EventEmitter()

    async def handler(depth: int) -> int:
        found = variable.get("unset")
        variable.set(f"at {depth}")
        await turns(waits)
        inner = (await events.emit("x", depth - 1))[0] if depth else 0
        assert variable.get() == f"at {depth}"
        assert found == ("unset" if depth == 3 else f"at {depth + 1}")
        return 1 + inner

    async def other(depth: int) -> None:
        pass

    events.register("x", handler)
    for _ in range(crowd):
        events.register("x", other)
    for _ in range(2):
        assert (await events.emit("x", 3))[0] == 4
    assert variable.get("unset") == "unset"


@pytest.mark.parametrize("waits", [0, 1])
@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
async def test_a_failed_call_does_not_harm_the_next(
    failure: type[BaseException], waits: int
) -> None:
    events, failures = EventEmitter(), [failure(), failure()]

    async def handler() -> str:
        await turns(waits)
        if failures:
            raise failures.pop()
        return "done"

    events.register("x", handler)
    for _ in range(2):
        try:
            results = await events.emit("x")
        except KeyboardInterrupt:
            continue
        assert type(results[0]) is failure
    assert await events.emit("x") == ["done"]
    assert await events.emit("x") == ["done"]


@pytest.mark.parametrize("waits", [0, 1])
async def test_a_failure_within_an_emit_of_the_same_event_is_the_inner_calls(waits: int) -> None:
    events = EventEmitter()

    async def handler(depth: int) -> list[Any]:
        await turns(waits)
        if not depth:
            raise ValueError("at the bottom")
        return await events.emit("x", depth - 1)

    events.register("x", handler)
    for _ in range(2):
        (((failure,),),) = await events.emit("x", 2)
        assert str(failure) == "at the bottom"
        assert failure.__context__ is None
