"""Registrations that begin and end while emits are under way."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any
from weakref import ref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.events import (
    Handler,
    Recorder,
    add_crowd,
    at_rest,
    returning,
    turns,
)
from seigr_toolset_transmissions.events import EventEmitter

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import FrameType

# Registering and removing during an emit


async def test_a_handler_added_during_an_emit_waits_for_the_next(crowd: int) -> None:
    events, late = EventEmitter(), Recorder()

    async def adds() -> None:
        events.register("x", late)

    events.register("x", adds)
    add_crowd(events, "x", crowd)
    assert len(await events.emit("x")) == 1 + crowd
    assert not late.calls
    await events.emit("x")
    assert len(late.calls) == 1


async def test_a_handler_removed_before_it_started_is_not_called() -> None:
    events, victim = EventEmitter(), Recorder()

    async def removes() -> str:
        events.remove_handler("x", victim)
        return "removed it"

    events.register("x", removes)
    events.register("x", victim)
    events.register("x", returning("last"))
    assert await events.emit("x") == ["removed it", "last"]
    assert not victim.calls
    assert at_rest(events)


async def test_a_handler_removed_and_registered_again_waits_for_the_next_emit() -> None:
    events, victim = EventEmitter(), Recorder()

    async def replaces() -> None:
        events.remove_handler("x", victim)
        events.register("x", victim)

    events.register("x", replaces)
    events.register("x", victim)
    assert len(await events.emit("x")) == 1
    assert not victim.calls


async def test_clearing_during_an_emit_stops_those_not_started() -> None:
    events = EventEmitter()

    async def clears() -> None:
        events.clear_all()
        events.register("x", later)

    later = Recorder()
    events.register("x", clears)
    recorders = add_crowd(events, "x", 3)
    assert await events.emit("x") == [None]
    assert not any(r.calls for r in [*recorders, later])


async def test_a_handler_that_started_runs_on_when_it_is_removed(crowd: int) -> None:
    events, gate = EventEmitter(), asyncio.Event()

    async def handler() -> str:
        events.remove_handler("x", handler)
        await gate.wait()
        return "ended"

    events.register("x", handler)
    add_crowd(events, "x", crowd)
    emit = asyncio.create_task(events.emit("x"))
    await turns()
    assert handler not in events.handlers("x")
    gate.set()
    assert (await emit)[0] == "ended"


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.integers(0, 3), min_size=2, max_size=8),
    st.lists(
        st.tuples(st.integers(0, 7), st.sampled_from(["add", "remove"]), st.integers(0, 3)),
        max_size=8,
    ),
)
def test_a_snapshot_less_removals_is_called_whatever_handlers_do(
    registered: list[int], plan: list[tuple[int, str, int]]
) -> None:
    """Compare with a model in which registrations have numbers, and handlers are few and repeat."""
    events = EventEmitter()
    called: list[int] = []
    model = list(enumerate(registered))
    due = model.copy()
    expected: list[int] = []
    handlers: list[Handler] = []

    def make(kind: int) -> Handler:
        async def handler() -> int:
            position = len(called)
            called.append(kind)
            for when, what, target in plan:
                if when != position:
                    continue
                if what == "add":
                    events.register("x", handlers[target])
                else:
                    events.remove_handler("x", handlers[target])
            return kind

        return handler

    handlers.extend(make(kind) for kind in range(4))
    for kind in registered:
        events.register("x", handlers[kind])

    serial = len(registered)
    for number, kind in due:
        if (number, kind) not in model and number < len(registered):
            continue
        position = len(expected)
        expected.append(kind)
        for when, what, target in plan:
            if when != position:
                continue
            if what == "add":
                model.append((serial, target))
                serial += 1
            elif found := [entry for entry in model if entry[1] == target]:
                model.remove(found[0])

    assert asyncio.run(events.emit("x")) == expected
    assert called == expected
    assert events.handlers("x") == [handlers[kind] for _, kind in model]
    assert at_rest(events)


# once


async def test_once_is_called_once_and_leaves_nothing(crowd: int) -> None:
    events, recorder = EventEmitter(), Recorder()
    assert events.once("x")(recorder) is recorder
    add_crowd(events, "x", crowd)
    assert len(await events.emit("x", 1)) == 1 + crowd
    assert len(await events.emit("x", 2)) == crowd
    assert recorder.calls == [((1,), {})]
    events.clear_event("x")
    assert events._handlers == {}


async def test_once_is_removed_before_it_is_called(crowd: int) -> None:
    events = EventEmitter()
    calls = 0

    async def handler() -> None:
        nonlocal calls
        calls += 1
        assert handler not in events.handlers("x")
        await events.emit("x")

    events.once("x")(handler)
    add_crowd(events, "x", crowd)
    await events.emit("x")
    assert calls == 1


async def test_once_is_called_once_by_concurrent_emits(crowd: int) -> None:
    events = EventEmitter()
    calls = 0

    async def handler() -> None:
        nonlocal calls
        calls += 1
        await turns()

    events.once("x")(handler)
    add_crowd(events, "x", crowd)
    results = await asyncio.gather(*(events.emit("x") for _ in range(5)))
    assert sorted(map(len, results)) == [crowd] * 4 + [crowd + 1]
    assert calls == 1


async def test_once_is_removed_by_the_handler_itself() -> None:
    events, recorder = EventEmitter(), Recorder()
    events.once("x")(recorder)
    events.remove_handler("x", recorder)
    assert events._handlers == {}
    assert await events.emit("x") == []


# Removing


class Unhashable:
    """A handler that equals others of its number."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unhashable) and other.number == self.number

    async def __call__(self) -> int:
        return self.number


async def test_unhashable_handlers_are_removed_too() -> None:
    events = EventEmitter()
    plain = returning(3)
    for handler in (Unhashable(1), plain, Unhashable(2), Unhashable(1)):
        events.register("x", handler)
    events.remove_handler("x", plain)
    events.remove_handler("x", Unhashable(1))
    assert await events.emit("x") == [2, 1]
    events.register("x", plain)
    events.remove_handler("x", Unhashable(3))
    events.remove_handler("x", plain)
    assert await events.emit("x") == [2, 1]


async def test_a_handler_that_was_removed_is_not_kept() -> None:
    events = EventEmitter()
    add_crowd(events, "x", 10)
    handler = Recorder()
    for _ in range(2):
        events.register("x", handler)
        events.remove_handler("x", handler)
    kept = ref(handler)
    del handler
    assert kept() is None


# Many


def calls_of(coroutine: Coroutine[Any, Any, object]) -> int:
    """Return how many lines of the package run for a coroutine."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if "seigr_toolset_transmissions" not in frame.f_code.co_filename:
            return None
        count += 1
        return trace

    sys.settrace(trace)
    try:
        asyncio.run(coroutine)
    finally:
        sys.settrace(None)
    return count


async def emit_to_once(number: int) -> None:
    events = EventEmitter()
    for _ in range(number):
        events.once("x")(returning(1))
    assert len(await events.emit("x")) == number
    assert events._handlers == {}


async def cancel_waits(number: int) -> None:
    events = EventEmitter()
    waits = [asyncio.create_task(events.wait_for("x")) for _ in range(number)]
    await turns()
    for wait in waits:
        wait.cancel()
    await asyncio.wait(waits)
    assert at_rest(events)


async def clear(number: int) -> None:
    events = EventEmitter()
    for _ in range(number):
        events.register("x", returning(1))
    events.clear_event("x")
    assert events._handlers == {}


async def remove_newest_first(number: int) -> None:
    events = EventEmitter()
    handlers = [returning(1) for _ in range(number)]
    for handler in handlers:
        events.register("x", handler)
    for handler in reversed(handlers):
        events.remove_handler("x", handler)
    assert events._handlers == {}


async def remove_between_once(number: int) -> None:
    events = EventEmitter()
    handlers = [returning(1) for _ in range(number)]
    for handler in handlers:
        events.register("x", handler)
        events.once("x")(returning(1))
    await events.emit("x")
    for handler in reversed(handlers):
        events.remove_handler("x", handler)
    assert events._handlers == {}


@pytest.mark.parametrize(
    "work", [emit_to_once, cancel_waits, clear, remove_newest_first, remove_between_once]
)
def test_many_registrations_cost_in_proportion_to_their_number(
    work: Callable[[int], Coroutine[Any, Any, None]],
) -> None:
    few, many = calls_of(work(50)), calls_of(work(1000))
    assert many < 25 * few
