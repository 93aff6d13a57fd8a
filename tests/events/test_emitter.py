"""Seeing all emits, and asking what an emit would do."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest import mock

import pytest

from helpers.events import (
    Recorder,
    add_crowd,
    at_rest,
    returning,
    turns,
)
from seigr_toolset_transmissions.events import Delivery, EventEmitter


async def test_a_replaced_emit_sees_every_event_and_the_errors() -> None:
    """The specification's metrics example."""
    events = EventEmitter()
    counters: dict[str, int] = {}
    original_emit = events.emit

    async def emit_with_metrics(event_name: str, **kwargs: Any) -> list[Any]:
        counters[event_name] = counters.get(event_name, 0) + 1
        return await original_emit(event_name, **kwargs)

    assert not events.observed("my_event")
    events.emit = emit_with_metrics  # type: ignore[method-assign]
    assert events.observed("my_event")

    async def failing(data: int) -> None:
        raise ValueError

    events.register("my_event", failing)
    await events.emit("my_event", data=1)
    await events.emit("my_event", data=2)
    await events.emit("other")
    assert counters == {"my_event": 2, "error": 2, "other": 1}


async def test_the_only_handler_is_returned_unless_an_emit_would_do_more_than_call_it() -> None:
    class Loud(EventEmitter):
        async def emit(self, name: str, /, *args: Any, **kwargs: Any) -> list[Any]:
            return await super().emit(name, *args, **kwargs)

    events, handler = EventEmitter(), returning(1)
    assert events.only_handler("x") is None
    events.register("x", handler)
    assert events.only_handler("x") is handler
    assert events.only_handler("y") is None
    events.register("x", handler)
    assert events.only_handler("x") is None
    events.remove_handler("x", handler)
    assert events.only_handler("x") is handler
    async with events.stream("x"):
        assert events.only_handler("x") is None
    async with events.stream("y"):
        assert events.only_handler("x") is handler
    events.on_any(handler)
    assert events.only_handler("x") is None
    events.remove_any(handler)
    assert events.only_handler("x") is handler
    events.emit = returning([])  # type: ignore[assignment, method-assign]
    assert events.only_handler("x") is None
    loud = Loud()
    loud.register("x", handler)
    assert loud.only_handler("x") is None


async def test_every_change_of_what_an_emit_calls_is_counted() -> None:
    events, handler = EventEmitter(), Recorder()
    counts = [events.changes]

    def count() -> None:
        counts.append(events.changes)

    events.register("x", handler)
    count()
    events.on("x")(handler)
    count()
    events.once("x")(handler)
    count()
    await events.emit("x")  # which removes the last one
    count()
    events.remove_handler("x", handler)
    count()
    events.clear_event("x")
    count()
    events.on_any(handler)
    count()
    events.clear_all()
    count()
    async with events.stream("x"):
        count()
    count()
    waiting = asyncio.create_task(events.wait_for("x"))
    await turns()
    count()
    await events.emit("x")
    await waiting
    count()
    events.emit = returning([])  # type: ignore[assignment, method-assign]
    count()
    assert counts == sorted(set(counts))


async def test_a_subclass_may_replace_emit_first_of_all() -> None:
    class Eager(EventEmitter):
        def __init__(self) -> None:
            self.emit = returning(["replaced"])  # type: ignore[assignment, method-assign]
            super().__init__()

    assert await Eager().emit("x") == ["replaced"]


async def test_a_failure_may_be_reported_without_an_emit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events, errors = EventEmitter(), Recorder()
    events.register("error", errors)
    handler, failure = returning(1), ValueError("no")
    await events.failed("x", handler, failure)
    [(_, kwargs)] = errors.calls
    assert kwargs["details"] == {"event": "x", "handler": handler, "exception": failure}
    [record] = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is failure


async def test_a_wrapper_that_fails_for_errors_does_not_harm_the_emit(
    crowd: int, caplog: pytest.LogCaptureFixture
) -> None:
    events = EventEmitter()
    emit = events.emit

    async def wrapper(*args: Any, **kwargs: Any) -> list[Any]:
        raise LookupError

    async def failing() -> None:
        raise ValueError

    events.emit = wrapper  # type: ignore[method-assign]
    events.register("x", failing)
    add_crowd(events, "x", crowd)
    assert isinstance((await emit("x"))[0], ValueError)
    assert len(caplog.records) == 2


async def test_on_any_sees_every_emit_before_its_handlers_and_adds_no_result() -> None:
    events, order = EventEmitter(), []

    async def seen(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        order.append((name, args, kwargs))
        kwargs.clear()
        return "not a result"

    async def handler(value: int, *, a: int) -> int:
        order.append(("handler", (value,), {"a": a}))
        return value

    assert events.on_any(seen) is seen
    events.register("x", handler)
    assert await events.emit("x", 1, a=2) == [1]
    assert [name for name, _, _ in order] == ["x", "handler"]
    assert order[1] == ("handler", (1,), {"a": 2})
    assert await events.emit("y") == []
    assert events.events() == ["x"]
    assert events.observed("z")
    events.remove_any(seen)
    await events.emit("y")
    assert len(order) == 3
    assert not events.observed("z")
    assert at_rest(events)


async def test_a_failing_on_any_is_reported_and_does_not_recurse(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events, errors = EventEmitter(), Recorder()
    seen: list[str] = []

    @events.on_any
    async def failing(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(name)
        raise ValueError

    events.register("error", errors)
    events.register("x", returning(1))
    assert await events.emit("x") == [1]
    assert seen == ["x", "error"]
    [(_, kwargs)] = errors.calls
    assert kwargs["details"]["event"] == "x"
    assert kwargs["details"]["handler"] is failing
    assert len(caplog.records) == 2


async def test_handled_says_whether_there_is_a_handler() -> None:
    events = EventEmitter()

    async def handler() -> None: ...

    events.on_any(handler)
    assert not events.handled("e")
    events.register("e", handler)
    assert events.handled("e")
    assert not events.handled("other")
    events.remove_handler("e", handler)
    assert not events.handled("e")


async def test_observed_says_whether_an_emit_would_be_seen() -> None:
    events, recorder = EventEmitter(), Recorder()
    assert not events.observed("x")
    events.register("x", recorder)
    assert events.observed("x")
    assert not events.observed("y")
    events.clear_all()
    async with events.stream("y"):
        assert events.observed("y")
        assert not events.observed("x")
    assert not events.observed("y")

    class Counting(EventEmitter):
        async def emit(self, name: str, /, *args: Any, **kwargs: Any) -> list[Any]:
            return await super().emit(name, *args, **kwargs)

    assert Counting().observed("x")


async def test_an_emit_replaced_on_the_class_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    events, handler = EventEmitter(), returning(1)
    events.register("x", handler)
    original = EventEmitter.emit
    seen: list[str] = []

    async def wrapper(self: EventEmitter, name: str, /, *args: Any, **kwargs: Any) -> list[Any]:
        seen.append(name)
        return await original(self, name, *args, **kwargs)

    monkeypatch.setattr(EventEmitter, "emit", wrapper)
    assert events.only_handler("x") is None
    assert events.observed("y")
    assert await events.emit("x") == [1]
    assert seen == ["x"]
    monkeypatch.undo()
    assert events.only_handler("x") is handler
    assert not events.observed("y")
    with mock.patch.object(EventEmitter, "emit", autospec=True):
        assert events.only_handler("x") is None


async def test_followers_are_called_after_each_change() -> None:
    events, handler = EventEmitter(), returning(1)
    heard: list[object] = []
    events.followers.add(lambda: heard.append(events.only_handler("x")))
    events.register("x", handler)
    events.register("x", handler)
    events.clear_event("x")
    assert heard == [handler, None, None]


@pytest.mark.parametrize("watched", [False, True])
async def test_a_delivery_shows_whether_a_handler_was_called(watched: bool) -> None:
    events, watcher = EventEmitter(), Recorder()
    recorder = Recorder()
    if watched:
        events.on_any(watcher)
    nobody = Delivery("x")
    assert await events.deliver(nobody) == []
    assert nobody.handler is None
    events.register("x", recorder)
    handled, seen = Delivery("x"), Delivery("x", watch_only=True)
    assert await events.deliver(handled, value=1) == [None]
    called: object = handled.handler
    assert called is recorder
    assert await events.deliver(seen, value=2) == []
    assert seen.handler is None
    assert recorder.calls == [((), {"value": 1})]
    assert len(watcher.calls) == (3 if watched else 0)
    assert all(type(args[0]) is str for args, _ in watcher.calls)
