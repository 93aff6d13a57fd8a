"""What is a handler, and how it is registered, removed and listed."""

from __future__ import annotations

import functools
import gc
import tracemalloc
import weakref
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock, MagicMock, create_autospec

import pytest

from helpers.events import (
    Recorder,
    at_rest,
    returning,
)
from seigr_toolset_transmissions.errors import STTEventError
from seigr_toolset_transmissions.events import EventEmitter

if TYPE_CHECKING:
    from collections.abc import Callable


async def test_the_decorator_returns_the_handler_and_registers_it() -> None:
    events = EventEmitter()

    async def handler() -> int:
        return 7

    assert events.on("x")(handler) is handler
    assert events._handlers == {"x": [handler]}
    assert await events.emit("x") == [7]


async def test_every_kind_of_async_callable_is_a_handler() -> None:
    class Thing:
        async def method(self, *args: int) -> tuple[int, ...]:
            return args

        async def __call__(self, *args: int) -> tuple[int, ...]:
            return args

        @classmethod
        async def of_class(cls, *args: int) -> tuple[int, ...]:
            return args

        @staticmethod
        async def static(*args: int) -> tuple[int, ...]:
            return args

    async def function(*args: int) -> tuple[int, ...]:
        return args

    events = EventEmitter()
    for handler in (
        function,
        Thing().method,
        Thing(),
        Thing.of_class,
        Thing.static,
        functools.partial(function, 0),
        functools.partial(functools.partial(Thing().method, 0), 0),
        functools.partial(Thing(), 0),
    ):
        events.register("x", handler)
    events.register("x", AsyncMock(return_value="mocked"))
    assert await events.emit("x", 1) == [
        *[(1,)] * 5,
        (0, 1),
        (0, 0, 1),
        (0, 1),
        "mocked",
    ]


class NotAHandler:
    def method(self) -> None: ...

    def __call__(self) -> None: ...


class AsyncCallable:
    async def __call__(self) -> None: ...


def not_async() -> None: ...


async def generates() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("wrong", "named", "remedy"),
    [
        (not_async, r"test_handlers\.not_async", "`async def`"),
        (lambda: None, r"test_handlers\.<lambda>", "`async def`"),
        (NotAHandler().method, r"test_handlers\.NotAHandler\.method", "`async def`"),
        (NotAHandler(), r"object of .*test_handlers\.NotAHandler", "`async def`"),
        (functools.partial(not_async), r"test_handlers\.not_async", "`async def`"),
        (NotAHandler, r"test_handlers\.NotAHandler", "class; give an instance"),
        (AsyncCallable, r"test_handlers\.AsyncCallable", "class; give an instance"),
        (None, "NoneType", "cannot be called"),
        ("handler", "str", "cannot be called"),
        (generates, r"test_handlers\.generates", "without `yield`"),
        (print, r"builtins\.print", "`async def`"),
        (str.upper, r"str\.upper", "`async def`"),
    ],
)
@pytest.mark.parametrize("how", ["on", "register", "once", "on_any"])
def test_a_handler_that_is_not_async_is_refused_by_name_with_the_remedy(
    wrong: Any, named: str, remedy: str, how: str
) -> None:
    events = EventEmitter()
    ways: dict[str, Callable[[Any], object]] = {
        "on": events.on("x"),
        "register": functools.partial(events.register, "x"),
        "once": events.once("x"),
        "on_any": events.on_any,
    }
    with pytest.raises(STTEventError, match=f"{named}.*{remedy}"):
        ways[how](wrong)
    assert events._handlers == {}
    assert not events.observed("x")


def test_the_coroutine_of_a_call_is_refused() -> None:
    async def handler() -> None: ...

    coroutine = handler()
    with pytest.raises(STTEventError, match="without calling it"):
        EventEmitter().register("x", coroutine)  # type: ignore[arg-type]
    coroutine.close()


@pytest.mark.parametrize("name", [None, 3, b"x"])
async def test_an_event_name_is_a_str(name: Any) -> None:
    events = EventEmitter()
    with pytest.raises(TypeError, match="name must be a str"):
        events.register(name, Recorder())
    with pytest.raises(TypeError, match="name must be a str"):
        events.on(name)
    with pytest.raises(TypeError, match="name must be a str"):
        events.once(name)
    with pytest.raises(TypeError, match="name must be a str"):
        await events.emit(name)
    with pytest.raises(TypeError, match="name must be a str"):
        await events.wait_for(name)
    with pytest.raises(TypeError, match="name must be a str"):
        async with events.stream(name):
            pass
    events.on_any(Recorder())
    with pytest.raises(TypeError, match="name must be a str"):
        await events.emit(name)
    assert events._handlers == {}


def test_the_decorator_without_a_name_says_how_to_write_it() -> None:
    with pytest.raises(TypeError, match=r"@events\.on\('name'\)"):
        EventEmitter().on(returning(1))  # type: ignore[arg-type]


async def test_a_handler_registered_twice_is_called_twice_and_removed_once() -> None:
    events, recorder = EventEmitter(), Recorder()
    events.register("x", recorder)
    events.register("x", recorder)
    await events.emit("x")
    assert len(recorder.calls) == 2
    events.remove_handler("x", recorder)
    await events.emit("x")
    assert len(recorder.calls) == 3


async def test_a_bound_method_is_removed_by_an_equal_one() -> None:
    class Thing:
        async def method(self) -> None: ...

    events, thing = EventEmitter(), Thing()
    events.register("x", thing.method)
    events.remove_handler("x", Thing().method)
    assert len(events.handlers("x")) == 1
    events.remove_handler("x", thing.method)
    assert events._handlers == {}


def test_removing_an_unknown_handler_is_not_an_error() -> None:
    events = EventEmitter()
    events.remove_handler("x", Recorder())
    events.remove_any(Recorder())
    events.clear_event("x")
    events.clear_all()
    assert events.handlers("x") == []
    assert events.events() == []
    assert events._handlers == {}


async def test_clearing_removes_one_event_or_everything() -> None:
    events, seen = EventEmitter(), Recorder()
    for name in ("a", "b", "c"):
        events.register(name, Recorder())
        events.once(name)(Recorder())
    events.on_any(seen)
    events.clear_event("b")
    assert events.events() == ["a", "c"]
    events.clear_all()
    assert events._handlers == {}
    await events.emit("a")
    assert not seen.calls
    assert at_rest(events)


def test_introspection_gives_copies_of_what_the_user_registered() -> None:
    events, first, second = EventEmitter(), Recorder(), Recorder()
    events.register("x", first)
    events.once("x")(second)
    events.handlers("x").clear()
    events.events().clear()
    assert events.handlers("x") == [first, second]
    assert events.events() == ["x"]
    assert repr(second) in repr(events._handlers)


@pytest.mark.parametrize("how", ["register", "once"])
def test_a_registration_takes_about_100_bytes(how: str) -> None:
    events = EventEmitter()
    handlers = [Recorder() for _ in range(10_000)]
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for handler in handlers:
            if how == "once":
                events.once("x")(handler)
            else:
                events.register("x", handler)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / len(handlers) < 100


async def test_a_handler_that_nothing_else_references_is_kept() -> None:
    events, called = EventEmitter(), []

    class Thing:
        async def method(self) -> None:
            called.append(self)

    events.register("x", Thing().method)
    events.once("x")(Thing().method)
    gc.collect()
    await events.emit("x")
    assert len(called) == 2


async def test_a_dropped_emitter_does_not_keep_its_handlers() -> None:
    events, recorder = EventEmitter(), Recorder()
    events.register("x", recorder)
    dropped = weakref.ref(recorder)
    del events, recorder
    gc.collect()
    assert dropped() is None


@pytest.mark.parametrize("count", [1, 2])
async def test_mocks_that_imitate_async_functions_are_handlers(count: int) -> None:
    class Thing:
        async def method(self, value: int) -> int:
            return value

    async def function(value: int) -> int:
        return value

    for imitation in (
        create_autospec(function, return_value=3),
        create_autospec(Thing)().method,
        AsyncMock(function),
        MagicMock(function),
    ):
        imitation.return_value = 3
        events = EventEmitter()
        for _ in range(count):
            events.register("x", imitation)
        assert await events.emit("x", value=1) == [3] * count
        imitation.assert_awaited_with(value=1)


def test_a_mock_that_imitates_a_plain_function_is_refused() -> None:
    with pytest.raises(STTEventError):
        EventEmitter().register("x", create_autospec(not_async))
