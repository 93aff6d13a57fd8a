"""Handlers and context variables: each call finds the same, and keeps what it does to itself."""

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
async def test_each_call_finds_the_emitters_context(value: str, waits: int, crowd: int) -> None:
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


async def test_watchers_of_everything_find_the_emitters_context_too() -> None:
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


async def test_what_a_handler_begins_has_the_handlers_context() -> None:
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
