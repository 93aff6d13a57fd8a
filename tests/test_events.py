"""What `EventEmitter` promises, by behaviour."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import tracemalloc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any
from unittest.mock import AsyncMock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.clock import run_virtual
from seigr_toolset_transmissions.errors import STTEventError
from seigr_toolset_transmissions.events import EventEmitter, Occurrence

LOGGER = "seigr_toolset_transmissions.events"
Handler = Callable[..., Awaitable[Any]]


async def turns(count: int = 5) -> None:
    """Let every task that can run, run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def read(stream: AsyncIterator[Occurrence]) -> Occurrence:
    return await anext(stream)


def only_this_task() -> bool:
    """Tell whether no other task is left, but for those of anyio that run the tests."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    return all("TestRunner" in repr(task.get_coro()) for task in others)


def at_rest(events: EventEmitter) -> bool:
    """Tell whether nothing of an emit, a wait or a stream is left in the emitter."""
    return not events._watchers and not events._running


def returning(value: Any) -> Handler:
    async def handler(*args: Any, **kwargs: Any) -> Any:
        return value

    return handler


class Recorder:
    """A handler that keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    async def __call__(self, /, *args: Any, **kwargs: Any) -> None:
        self.calls.append((args, kwargs))


class Hanging:
    """A handler that runs until it is cancelled."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.ended = False

    async def __call__(self, /, *args: Any, **kwargs: Any) -> None:
        self.started.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)
            self.ended = True


@pytest.fixture(params=[0, 1, 2], ids=["alone", "with_one_more", "with_two_more"])
def crowd(request: pytest.FixtureRequest) -> int:
    """How many more handlers there are: a single handler is run in another way than several."""
    count: int = request.param
    return count


def add_crowd(events: EventEmitter, name: str, count: int) -> list[Recorder]:
    recorders = [Recorder() for _ in range(count)]
    for recorder in recorders:
        events.register(name, recorder)
    return recorders


@pytest.fixture
def no_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert not caplog.get_records("call")


# Registering


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
        (not_async, r"test_events\.not_async", "`async def`"),
        (lambda: None, r"test_events\.<lambda>", "`async def`"),
        (NotAHandler().method, r"test_events\.NotAHandler\.method", "`async def`"),
        (NotAHandler(), r"object of .*test_events\.NotAHandler", "`async def`"),
        (functools.partial(not_async), r"test_events\.not_async", "`async def`"),
        (NotAHandler, r"test_events\.NotAHandler", "class; give an instance"),
        (AsyncCallable, r"test_events\.AsyncCallable", "class; give an instance"),
        (None, "NoneType", "cannot be called"),
        ("handler", "str", "cannot be called"),
        (generates, r"test_events\.generates", "without `yield`"),
        (print, r"builtins\.print", "`async def`"),
        (str.upper, r"str\.upper", "`async def`"),
    ],
)
@pytest.mark.parametrize("how", ["on", "register", "once", "on_any"])
def test_what_is_not_async_is_refused_by_name_and_with_a_remedy(
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
    with pytest.raises(TypeError, match="name is a str"):
        events.register(name, Recorder())
    with pytest.raises(TypeError, match="name is a str"):
        events.on(name)
    with pytest.raises(TypeError, match="name is a str"):
        events.once(name)
    with pytest.raises(TypeError, match="name is a str"):
        await events.emit(name)
    with pytest.raises(TypeError, match="name is a str"):
        await events.wait_for(name)
    with pytest.raises(TypeError, match="name is a str"):
        async with events.stream(name):
            pass
    events.on_any(Recorder())
    with pytest.raises(TypeError, match="name is a str"):
        await events.emit(name)
    assert events._handlers == {}


def test_the_decorator_without_its_name_tells_how_to_write_it() -> None:
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


def test_removing_what_is_not_there_is_no_error() -> None:
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
def test_a_registration_takes_less_than_100_bytes(how: str) -> None:
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


async def test_a_handler_that_nobody_else_holds_is_kept() -> None:
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


# Emitting


async def test_no_handler_means_no_result_and_no_entry(no_log: None) -> None:
    events = EventEmitter()
    assert await events.emit("x", 1, a=2) == []
    assert events._handlers == {}
    assert at_rest(events)


async def test_arguments_reach_every_handler(crowd: int) -> None:
    events = EventEmitter()
    recorders = add_crowd(events, "x", 1 + crowd)
    await events.emit("x", 1, name=2, self=3, args=4, kwargs=5)
    assert [r.calls for r in recorders] == [
        [((1,), {"name": 2, "self": 3, "args": 4, "kwargs": 5})]
    ] * (1 + crowd)


async def test_handlers_run_concurrently_and_results_are_in_order_of_registration() -> None:
    events, gates = EventEmitter(), [asyncio.Event() for _ in range(150)]
    ended: list[int] = []

    async def wait(index: int) -> int:
        if index + 1 < len(gates):
            await gates[index + 1].wait()  # until the later one has ended
        gates[index].set()
        ended.append(index)
        return index

    for index in range(150):
        events.register("x", functools.partial(wait, index))
    assert await events.emit("x") == list(range(150))
    assert ended == list(reversed(range(150)))
    assert only_this_task()


async def test_a_single_handler_runs_in_the_task_that_emits() -> None:
    events = EventEmitter()

    async def handler() -> Any:
        return asyncio.current_task()

    events.register("x", handler)
    assert await events.emit("x") == [asyncio.current_task()]


async def test_handlers_that_do_not_wait_end_without_a_task_or_a_turn_of_the_loop() -> None:
    events = EventEmitter()
    turned: list[bool] = []
    recorders = add_crowd(events, "x", 3)
    asyncio.get_running_loop().call_soon(turned.append, True)
    await events.emit("x")
    assert all(r.calls for r in recorders)
    assert not turned
    assert only_this_task()


async def test_the_first_that_waits_keeps_the_callers_task_and_others_get_their_own() -> None:
    events = EventEmitter()
    tasks: list[Any] = []

    async def quick() -> None:
        tasks.append(asyncio.current_task())

    async def waits() -> None:
        tasks.append(asyncio.current_task())
        await turns(3)
        tasks.append(asyncio.current_task())

    for handler in (quick, waits, waits, quick):
        events.register("x", handler)
    await events.emit("x")
    caller = asyncio.current_task()
    assert tasks[:2] == [caller, caller]
    second, last = tasks[2:4]
    assert len({caller, second, last}) == 3
    assert sorted(map(id, tasks[4:])) == sorted(map(id, (caller, second)))


async def test_what_one_handler_sets_in_its_context_is_not_for_those_in_tasks() -> None:
    events, seen = EventEmitter(), []
    variable: ContextVar[str] = ContextVar("variable", default="unset")

    async def sets() -> None:
        token = variable.set("by the first")
        await turns(3)
        variable.reset(token)

    async def reads() -> None:
        seen.append(variable.get())
        variable.set("by another")

    for handler in (sets, reads, reads):
        events.register("x", handler)
    variable.set("by the caller")
    await events.emit("x")
    assert seen == ["by the caller"] * 2
    assert variable.get() == "by the caller"


async def test_exceptions_that_are_returned_are_results(no_log: None, crowd: int) -> None:
    events, result = EventEmitter(), ValueError("returned")
    events.register("x", returning(result))
    add_crowd(events, "x", crowd)
    assert (await events.emit("x"))[0] is result


async def test_results_of_any_type_are_passed_on(crowd: int) -> None:
    class Incomparable:
        def __eq__(self, other: object) -> bool:
            raise AssertionError("results are not compared")

        __hash__ = None  # type: ignore[assignment]

    events, result = EventEmitter(), Incomparable()
    for _ in range(1 + crowd):
        events.register("x", returning(result))
    assert all(r is result for r in await events.emit("x"))


async def test_a_handler_may_emit(crowd: int) -> None:
    events = EventEmitter()

    async def countdown(number: int) -> list[Any]:
        return [number, *(await events.emit("x", number - 1) if number else [])]

    for _ in range(1 + crowd):
        events.register("x", countdown)

    def expected(number: int) -> list[Any]:
        return [[number, *(expected(number - 1) if number else [])]] * (1 + crowd)

    assert await events.emit("x", 3) == expected(3)
    assert only_this_task()


async def test_a_hanging_handler_does_not_hold_up_another_emit(crowd: int) -> None:
    events, hanging = EventEmitter(), Hanging()
    events.register("x", hanging)
    add_crowd(events, "x", crowd)
    stuck = asyncio.create_task(events.emit("x"))
    await hanging.started.wait()
    events.clear_event("x")
    events.register("x", returning("through"))
    assert await events.emit("x") == ["through"]
    stuck.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stuck
    assert only_this_task()


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
    """Compare with a model: registrations have numbers, handlers are few and repeat."""
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


# Failures


async def test_a_failure_is_logged_returned_and_emitted(
    crowd: int, caplog: pytest.LogCaptureFixture
) -> None:
    events, errors = EventEmitter(), Recorder()
    failure = ValueError("broken")

    async def failing(data: bytes) -> None:
        await asyncio.sleep(0)
        raise failure

    events.register("error", errors)
    events.register("x", failing)
    others = add_crowd(events, "x", crowd)
    results = await events.emit("x", data=b"1")
    assert results == [failure, *[None] * crowd]
    assert all(len(other.calls) == 1 for other in others)
    assert errors.calls == [
        (
            (),
            {
                "error_type": "handler_failed",
                "details": {"event": "x", "handler": failing, "exception": failure},
            },
        )
    ]
    [record] = caplog.records
    assert record.name == LOGGER
    assert record.levelno == logging.ERROR
    assert "failing" in record.getMessage()
    assert "'x'" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is failure
    assert failure.__traceback__ is not None
    assert only_this_task()


async def test_a_wrong_signature_is_the_handlers_failure(crowd: int) -> None:
    events, errors = EventEmitter(), Recorder()

    async def handler(other_name: bytes) -> None: ...

    events.register("x", handler)
    others = add_crowd(events, "x", crowd)
    events.register("error", errors)
    results = await events.emit("x", data=b"1")
    assert isinstance(results[0], TypeError)
    assert all(other.calls for other in others)
    [(_, kwargs)] = errors.calls
    assert kwargs["details"]["exception"] is results[0]


async def test_a_failing_once_handler_is_named_itself(crowd: int) -> None:
    events, errors = EventEmitter(), Recorder()

    async def handler() -> None:
        raise ValueError

    events.once("x")(handler)
    add_crowd(events, "x", crowd)
    events.register("error", errors)
    await events.emit("x")
    [(_, kwargs)] = errors.calls
    assert kwargs["details"]["handler"] is handler


async def test_a_failure_is_reported_while_other_handlers_still_run() -> None:
    events, gate = EventEmitter(), asyncio.Event()

    async def failing() -> None:
        raise ValueError

    async def on_error(error_type: str, details: dict[str, Any]) -> None:
        gate.set()

    events.register("x", gate.wait)
    events.register("x", failing)
    events.register("error", on_error)
    results = await events.emit("x")
    assert results[0] is True


async def test_an_error_handler_that_waits_for_another_handler_does_not_hold_it_up() -> None:
    events, gate = EventEmitter(), asyncio.Event()

    async def failing() -> None:
        raise ValueError

    async def opens() -> None:
        gate.set()

    async def on_error(**kwargs: Any) -> None:
        await gate.wait()

    for handler in (failing, opens):
        events.register("x", handler)
    events.register("error", on_error)
    async with asyncio.timeout(10):
        assert isinstance((await events.emit("x"))[0], ValueError)


async def test_a_failing_error_handler_is_logged_only(
    crowd: int, caplog: pytest.LogCaptureFixture
) -> None:
    events = EventEmitter()
    calls = 0

    async def failing(**kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        raise ValueError

    events.register("x", failing)
    events.register("error", failing)
    others = add_crowd(events, "error", crowd)
    assert [type(result) for result in await events.emit("x")] == [ValueError]
    assert calls == 2
    assert all(len(other.calls) == 1 for other in others)
    assert len(caplog.records) == 2


async def test_the_error_event_has_ended_when_the_emit_has(crowd: int) -> None:
    events, ended = EventEmitter(), []

    async def failing() -> None:
        raise ValueError

    async def on_error(**kwargs: Any) -> None:
        await turns()
        ended.append(True)

    events.register("x", failing)
    add_crowd(events, "x", crowd)
    events.register("error", on_error)
    await events.emit("x")
    assert ended
    assert only_this_task()


async def test_a_failure_leaves_no_cycle_of_references(crowd: int) -> None:
    class FailureError(Exception):
        pass

    events = EventEmitter()

    async def failing() -> None:
        raise FailureError

    events.register("x", failing)
    add_crowd(events, "x", crowd)
    gc.collect()
    gc.disable()
    try:
        logging.disable()
        results = await events.emit("x")
        failure = weakref.ref(results[0])
        del results
        await turns()
        assert failure() is None
    finally:
        logging.disable(logging.NOTSET)
        gc.enable()


# Cancellation


async def test_cancelling_the_emit_cancels_and_awaits_its_handlers(
    crowd: int, no_log: None
) -> None:
    events = EventEmitter()
    hanging = [Hanging() for _ in range(1 + crowd)]
    for handler in hanging:
        events.register("x", handler)
    emit = asyncio.create_task(events.emit("x"))
    for handler in hanging:
        await handler.started.wait()
    emit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await emit
    assert all(handler.ended for handler in hanging)
    assert only_this_task()
    assert at_rest(events)


@pytest.mark.parametrize("passed", [0, 1])
async def test_an_emit_cancelled_while_it_starts_its_handlers_leaves_nothing(passed: int) -> None:
    events = EventEmitter()
    recorders = add_crowd(events, "x", 3)
    emit = asyncio.create_task(events.emit("x"))
    await turns(passed)
    if not emit.done():  # eager handlers have ended by now
        emit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await emit
        assert passed or not any(r.calls for r in recorders)
    assert only_this_task()
    assert at_rest(events)


async def test_cancelling_again_still_awaits_the_handlers() -> None:
    events, gate, ended = EventEmitter(), asyncio.Event(), []
    started = asyncio.Event()

    async def stubborn() -> None:
        started.set()
        for _ in range(3):
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue
        ended.append(True)

    hanging = Hanging()
    events.register("x", stubborn)
    events.register("x", hanging)
    emit = asyncio.create_task(events.emit("x"))
    await hanging.started.wait()
    for _ in range(3):
        assert not emit.done()
        emit.cancel()
        await turns()
    with pytest.raises(asyncio.CancelledError):
        await emit
    assert ended
    assert hanging.ended
    assert only_this_task()


@pytest.mark.parametrize("behind", [0, 1], ids=["first", "behind another that waits"])
async def test_a_handler_that_answers_cancellation_with_a_failure_does_not_stop_it(
    behind: int, crowd: int, caplog: pytest.LogCaptureFixture
) -> None:
    events, started, errors = EventEmitter(), asyncio.Event(), Recorder()

    async def handler() -> None:
        started.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            raise ValueError("while cleaning up")

    for _ in range(behind):
        events.register("x", Hanging())
    events.register("x", handler)
    add_crowd(events, "x", crowd)
    events.register("error", errors)
    emit = asyncio.create_task(events.emit("x"))
    await started.wait()
    emit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await emit
    assert not errors.calls
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_an_emit_that_is_cancelled_ends_in_that_whatever_its_first_handler_does() -> None:
    events, started, hanging = EventEmitter(), asyncio.Event(), Hanging()

    async def swallows() -> None:
        started.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.get_running_loop().create_future()

    events.register("x", swallows)
    events.register("x", hanging)
    emit = asyncio.create_task(events.emit("x"))
    await started.wait()
    await hanging.started.wait()
    emit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await emit
    assert hanging.ended


async def test_a_failure_after_a_swallowed_cancellation_is_logged_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events, started, errors = EventEmitter(), asyncio.Event(), Recorder()

    async def swallows_and_fails() -> None:
        started.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.get_running_loop().create_future()
        raise ValueError("afterwards")

    events.register("x", swallows_and_fails)
    events.register("x", Recorder())
    events.register("error", errors)
    emit = asyncio.create_task(events.emit("x"))
    await started.wait()
    emit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await emit
    assert not errors.calls
    assert len(caplog.records) == 1


async def test_a_task_that_is_about_to_be_cancelled_is_when_a_handler_waits(
    crowd: int, no_log: None
) -> None:
    events, hanging = EventEmitter(), [Hanging() for _ in range(1 + crowd)]
    for handler in hanging:
        events.register("x", handler)

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()  # it becomes so where it waits next
        await events.emit("x")

    task = asyncio.create_task(work())
    await asyncio.wait([task])
    assert task.cancelled()
    assert all(handler.ended is handler.started.is_set() for handler in hanging)
    assert only_this_task()


def test_a_failure_is_reported_though_another_handlers_own_timeout_is_under_way() -> None:
    """That time-out cancels the caller's task, for a turn of the loop."""
    events, errors, gate = EventEmitter(), Recorder(), asyncio.Event()
    failure = ValueError("at the same moment")

    async def late() -> None:
        async with asyncio.timeout(1):
            await asyncio.get_running_loop().create_future()

    async def failing() -> None:
        await gate.wait()
        raise failure

    async def main() -> None:
        events.register("x", late)
        events.register("x", failing)
        events.register("error", errors)
        asyncio.get_running_loop().call_at(1, gate.set)  # both are due at once, this one first
        results = await events.emit("x")
        assert isinstance(results[0], TimeoutError)
        assert results[1] is failure
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    run_virtual(main())
    reported = [kwargs["details"]["exception"] for _, kwargs in errors.calls]
    assert failure in reported
    assert len(reported) == 2


async def test_a_timeout_around_an_emit_works(crowd: int) -> None:
    events, hanging = EventEmitter(), Hanging()
    events.register("x", hanging)
    add_crowd(events, "x", crowd)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await events.emit("x")
    assert hanging.ended
    assert asyncio.current_task() is not None
    assert only_this_task()


async def test_a_timeout_within_a_handler_is_its_failure(crowd: int) -> None:
    events = EventEmitter()

    async def handler() -> None:
        async with asyncio.timeout(0.001):
            await asyncio.get_running_loop().create_future()

    events.register("x", handler)
    add_crowd(events, "x", crowd)
    assert isinstance((await events.emit("x"))[0], TimeoutError)


async def test_a_cancelled_error_of_a_handlers_own_is_its_failure(crowd: int) -> None:
    events, errors = EventEmitter(), Recorder()

    async def handler() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    events.register("x", handler)
    others = add_crowd(events, "x", crowd)
    events.register("error", errors)
    results = await events.emit("x")
    assert isinstance(results[0], asyncio.CancelledError)
    assert all(other.calls for other in others)
    assert len(errors.calls) == 1


async def test_a_task_that_was_cancelled_before_may_still_emit(crowd: int) -> None:
    """As clean-up does; failures of handlers stay theirs."""
    events = EventEmitter()
    outcome: list[Any] = []

    async def failing() -> None:
        raise ValueError

    async def cancelled() -> None:
        raise asyncio.CancelledError

    async def late() -> None:
        async with asyncio.timeout(0):
            await asyncio.get_running_loop().create_future()

    events.register("x", failing)
    events.register("y", late)
    add_crowd(events, "x", crowd)
    if crowd:
        events.register("x", cancelled)

    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            outcome.extend(await events.emit("x"))
            outcome.extend(await events.emit("y"))

    task = asyncio.create_task(work())
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert isinstance(outcome[0], ValueError)
    assert isinstance(outcome.pop(), TimeoutError)
    assert len(outcome) == (crowd + 2 if crowd else 1)
    assert not crowd or isinstance(outcome[-1], asyncio.CancelledError)


async def test_a_handler_task_that_others_cancel_is_that_handlers_failure() -> None:
    events, errors, started, gate = EventEmitter(), Recorder(), asyncio.Event(), asyncio.Event()
    own: list[asyncio.Task[Any] | None] = []

    async def handler() -> None:
        own.append(asyncio.current_task())
        started.set()
        await asyncio.get_running_loop().create_future()

    events.register("x", gate.wait)  # it keeps the caller's task
    events.register("x", handler)
    events.register("x", returning(2))
    events.register("error", errors)
    emit = asyncio.create_task(events.emit("x"))
    await started.wait()
    assert own[0] is not None
    own[0].cancel()
    await turns()
    gate.set()
    results = await emit
    assert results[0] is True
    assert isinstance(results[1], asyncio.CancelledError)
    assert results[2] == 2
    assert len(errors.calls) == 1


async def test_handler_tasks_that_others_cancel_at_once_do_not_hang_the_emit() -> None:
    events, errors, gate = EventEmitter(), Recorder(), asyncio.Event()
    running = asyncio.all_tasks()

    async def hang() -> None:
        await asyncio.get_running_loop().create_future()

    events.register("x", gate.wait)
    events.register("x", hang)
    events.register("x", hang)
    events.register("error", errors)
    emit = asyncio.create_task(events.emit("x"))
    while not (others := asyncio.all_tasks() - running - {emit}):
        await turns(1)  # they have not started now
    assert len(others) == 2
    for task in others:
        task.cancel()
    gate.set()
    results = await emit
    assert [type(result) for result in results[1:]] == [asyncio.CancelledError] * 2
    assert len(errors.calls) == 2
    assert only_this_task()


@pytest.mark.parametrize("fatal", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("suspends", [False, True])
async def test_an_exit_passes_through_after_the_siblings_were_cleaned_up(
    fatal: type[BaseException], suspends: bool, crowd: int, no_log: None
) -> None:
    events = EventEmitter()
    before, after = Hanging(), Hanging()

    async def exits() -> None:
        if suspends:
            await turns(2)
        raise fatal

    if crowd:
        events.register("x", before)
    events.register("x", exits)
    if crowd:
        events.register("x", after)
    with pytest.raises(fatal):
        await events.emit("x")
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert before.ended is (crowd > 0)
    assert after.ended is after.started.is_set()
    assert only_this_task()
    assert at_rest(events)


async def test_an_exit_of_an_error_handler_passes_through_the_emit_that_failed(crowd: int) -> None:
    events = EventEmitter()

    async def failing() -> None:
        raise ValueError

    async def exits(**kwargs: Any) -> None:
        raise SystemExit

    events.register("x", failing)
    add_crowd(events, "x", crowd)
    events.register("error", exits)
    with pytest.raises(SystemExit):
        await events.emit("x")
    assert at_rest(events)
    assert only_this_task()


async def test_after_an_exit_no_handler_is_called(no_log: None) -> None:
    events = EventEmitter()

    async def exits() -> None:
        raise SystemExit

    before = add_crowd(events, "x", 1)
    events.register("x", exits)
    after = add_crowd(events, "x", 2)
    with pytest.raises(SystemExit):
        await events.emit("x")
    assert all(handler.calls for handler in before)
    assert not any(handler.calls for handler in after)
    assert at_rest(events)


async def test_an_emit_that_is_closed_closes_the_handler_that_waits(crowd: int) -> None:
    events, closed = EventEmitter(), []

    async def handler() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except GeneratorExit:
            closed.append(True)
            raise

    add_crowd(events, "x", crowd)
    events.register("x", handler)
    emit = events.emit("x")
    emit.send(None)
    emit.close()
    assert closed == [True]
    assert at_rest(events)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_an_exit_passes_through_though_the_first_handler_has_ended(no_log: None) -> None:
    events, before, after = EventEmitter(), Hanging(), Hanging()

    async def exits() -> None:
        await turns(5)
        raise KeyboardInterrupt

    for handler in (functools.partial(turns, 1), before, exits, after):
        events.register("x", handler)
    with pytest.raises(KeyboardInterrupt):
        await events.emit("x")
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert before.ended
    assert after.ended
    assert only_this_task()


async def test_a_cancellation_does_not_take_the_place_of_an_exit() -> None:
    events, ending, gate, ended = EventEmitter(), asyncio.Event(), asyncio.Event(), []

    async def exits() -> None:
        await turns(3)
        raise SystemExit

    async def ends_late() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ending.set()
            while not gate.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await gate.wait()
            ended.append(True)

    async def emit() -> type[BaseException] | None:
        try:
            await events.emit("x")
        except BaseException as exc:  # noqa: BLE001 - an exit would end the loop
            return type(exc)
        return None

    events.register("x", exits)
    events.register("x", ends_late)
    emitting = asyncio.create_task(emit())
    await ending.wait()
    emitting.cancel()
    await turns()
    assert not emitting.done()
    gate.set()
    assert await emitting is SystemExit
    assert ended


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([None, ValueError, asyncio.CancelledError])),
        min_size=1,
        max_size=5,
    ),
    st.one_of(st.none(), st.integers(0, 6)),
)
def test_what_was_started_has_ended_whatever_handlers_do_and_whenever_it_is_cancelled(
    plan: list[tuple[int, type[BaseException] | None]], cancel_at: int | None
) -> None:
    async def main() -> None:
        events, errors = EventEmitter(), Recorder()
        started: list[int] = []
        ended: list[int] = []

        async def handler(index: int, waits: int, error: type[BaseException] | None) -> int:
            started.append(index)
            try:
                await turns(waits)
                if error is not None:
                    raise error
            finally:
                ended.append(index)
            return index

        for index, (waits, error) in enumerate(plan):
            events.register("x", functools.partial(handler, index, waits, error))
        events.register("error", errors)
        emit = asyncio.create_task(events.emit("x"))
        cancelled = False
        if cancel_at is not None:
            await turns(cancel_at)
            cancelled = emit.cancel()
        await asyncio.wait([emit])
        assert emit.cancelled() is cancelled
        assert started == list(range(len(started)))
        assert sorted(ended) == started
        assert at_rest(events)
        assert only_this_task()
        if not cancelled:
            expected = [error or index for index, (_, error) in enumerate(plan)]
            assert [r if isinstance(r, int) else type(r) for r in emit.result()] == expected
            assert len(errors.calls) == sum(error is not None for _, error in plan)

    logging.disable()
    try:
        asyncio.run(main())
    finally:
        logging.disable(logging.NOTSET)


def test_a_loop_that_ends_in_the_middle_of_an_emit_is_told_nothing(no_log: None) -> None:
    events, started = EventEmitter(), asyncio.Event()
    ended = 0

    async def hang() -> None:
        nonlocal ended
        started.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended += 1

    for _ in range(3):
        events.register("x", hang)

    async def main() -> None:
        emit = asyncio.create_task(events.emit("x"))
        await started.wait()
        assert not emit.done()

    asyncio.run(main())  # cancels all tasks, in no known order
    assert ended == 3
    assert at_rest(events)


# Seeing everything


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


async def test_the_only_handler_is_told_unless_an_emit_would_do_more_than_call_it() -> None:
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


async def test_whatever_changes_whom_an_emit_calls_is_counted() -> None:
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


async def test_a_subclass_may_replace_emit_before_all_else() -> None:
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


async def test_handled_tells_whether_there_is_a_handler() -> None:
    events = EventEmitter()

    async def handler() -> None: ...

    events.on_any(handler)
    assert not events.handled("e")
    events.register("e", handler)
    assert events.handled("e")
    assert not events.handled("other")
    events.remove_handler("e", handler)
    assert not events.handled("e")


async def test_observed_tells_whether_an_emit_would_be_seen() -> None:
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


# wait_for


async def test_wait_for_returns_the_next_occurrence(no_log: None) -> None:
    events = EventEmitter()
    waiting = asyncio.create_task(events.wait_for("x"))
    await turns()
    assert events._handlers == {}
    assert events.handlers("x") == []
    assert events.observed("x")
    await events.emit("y", 0)
    assert await events.emit("x", 1, a=2) == []
    await events.emit("x", 3)
    occurrence = await waiting
    assert occurrence == Occurrence("x", (1,), {"a": 2})
    assert (occurrence.name, occurrence.args, occurrence.kwargs) == ("x", (1,), {"a": 2})
    assert at_rest(events)


async def test_wait_for_takes_the_first_that_the_predicate_accepts() -> None:
    events = EventEmitter()
    waiting = asyncio.create_task(events.wait_for("x", lambda o: o.kwargs["n"] > 1, 60))
    await turns()
    for n in range(4):
        await events.emit("x", n=n)
    assert (await waiting).kwargs == {"n": 2}


async def test_wait_for_leaves_the_results_and_handlers_alone() -> None:
    events, recorder = EventEmitter(), Recorder()
    events.register("x", recorder)
    waiting = asyncio.create_task(events.wait_for("x"))
    await turns()
    events.clear_event("x")
    events.register("x", returning(5))
    assert await events.emit("x") == [5]
    assert (await waiting).name == "x"


async def test_wait_for_times_out_and_leaves_nothing() -> None:
    events = EventEmitter()
    for timeout in (0, 0.001):
        with pytest.raises(TimeoutError, match=f"'x'.* {timeout} s"):
            await events.wait_for("x", timeout=timeout)
    assert events._handlers == {}
    assert at_rest(events)
    assert only_this_task()


async def test_wait_for_that_is_cancelled_leaves_nothing() -> None:
    events = EventEmitter()
    waiting = asyncio.create_task(events.wait_for("x"))
    await turns()
    assert events.observed("x")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not events.observed("x")
    assert at_rest(events)


async def test_a_failing_predicate_fails_the_wait_and_not_the_emit(no_log: None) -> None:
    events, errors = EventEmitter(), Recorder()
    events.register("error", errors)
    events.register("x", returning(1))

    def predicate(occurrence: Occurrence) -> bool:
        return bool(occurrence.kwargs["missing"])

    waiting = asyncio.create_task(events.wait_for("x", predicate))
    await turns()
    assert await events.emit("x") == [1]
    with pytest.raises(KeyError, match="missing"):
        await waiting
    assert not errors.calls
    assert at_rest(events)


async def test_an_async_predicate_is_refused() -> None:
    async def predicate(occurrence: Occurrence) -> bool:
        return True

    events = EventEmitter()
    with pytest.raises(TypeError, match=r"predicate.* is async"):
        await events.wait_for("x", predicate)
    assert at_rest(events)


# stream


async def test_a_stream_gives_every_occurrence_in_order() -> None:
    events = EventEmitter()
    async with events.stream("x") as stream:
        assert events._handlers == {}
        for n in range(10):
            assert await events.emit("x", n) == []
        await events.emit("y", 99)
        got = [(await anext(stream)).args[0] for _ in range(10)]
    assert got == list(range(10))
    assert at_rest(events)


async def test_a_full_stream_makes_the_emit_wait_for_room() -> None:
    events = EventEmitter()
    async with events.stream("x", maxsize=2) as stream:
        emits = []
        for n in range(5):
            emits.append(asyncio.create_task(events.emit("x", n)))
            await turns()
        assert [e.done() for e in emits] == [True, True, False, False, False]
        assert (await anext(stream)).args == (0,)
        await turns()
        assert [e.done() for e in emits] == [True, True, True, False, False]
        assert [(await anext(stream)).args[0] for _ in range(4)] == [1, 2, 3, 4]
        await asyncio.gather(*emits)
    assert only_this_task()


async def test_leaving_a_stream_releases_the_emits_and_ends_other_readers() -> None:
    events = EventEmitter()
    async with events.stream("x", maxsize=1) as stream:
        emits = [asyncio.create_task(events.emit("x", n)) for n in range(4)]
        await turns()
        assert not all(e.done() for e in emits)
    assert await asyncio.gather(*emits) == [[]] * 4
    assert [o async for o in stream] == []
    async with events.stream("x") as stream:
        reader = asyncio.create_task(read(stream))
        await turns()
    with pytest.raises(StopAsyncIteration):
        await reader
    assert at_rest(events)
    assert only_this_task()


async def test_an_emit_cancelled_while_a_stream_is_full_adds_nothing() -> None:
    events = EventEmitter()
    async with events.stream("x", maxsize=1) as stream:
        await events.emit("x", 0)
        for n in range(1, 5):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await events.emit("x", n)
        internals: Any = stream
        assert not internals._blocked
        last = asyncio.create_task(events.emit("x", 5))
        doomed = asyncio.create_task(events.emit("x", 6))
        await turns()
        doomed.cancel()
        await turns()
        got = [(await anext(stream)).args[0] for _ in range(2)]
        await last
        assert got == [0, 5]
        assert (await asyncio.gather(doomed, return_exceptions=True))[0].__class__ is (
            asyncio.CancelledError
        )
        await events.emit("x", 7)
        assert (await anext(stream)).args == (7,)


@pytest.mark.parametrize("passed", range(5))
async def test_a_read_at_any_moment_of_an_emits_cancellation_is_sound(passed: int) -> None:
    events = EventEmitter()
    async with events.stream("x", maxsize=1) as stream:
        await events.emit("x", 0)
        doomed = asyncio.create_task(events.emit("x", 1))
        await turns()
        doomed.cancel()
        await turns(passed)
        assert (await anext(stream)).args == (0,)
        await asyncio.wait([doomed])
        assert doomed.cancelled()
        after = asyncio.create_task(events.emit("x", 2))
        occurrence = await anext(stream)
        if occurrence.args == (1,):  # it was admitted before the cancellation came through
            occurrence = await anext(stream)
        assert occurrence.args == (2,)
        await after
        internals: Any = stream
        assert not internals._blocked
        assert not internals._queue


async def test_cancelling_a_read_loses_nothing_and_readers_may_be_several() -> None:
    events = EventEmitter()
    async with events.stream("x", maxsize=1) as stream:
        readers = [asyncio.create_task(read(stream)) for _ in range(3)]
        await turns()
        await events.emit("x", 1)
        readers[0].cancel()
        await turns()
        await events.emit("x", 2)
        await events.emit("x", 3)
        results = await asyncio.gather(*readers, return_exceptions=True)
        taken = [r.args[0] for r in results if isinstance(r, Occurrence)]
        if len(taken) < 3:
            taken.append((await anext(stream)).args[0])
    assert sorted(taken) == [1, 2, 3]


async def test_a_stream_that_ends_in_an_exception_leaves_nothing() -> None:
    events = EventEmitter()
    with pytest.raises(LookupError):
        async with events.stream("x"):
            raise LookupError
    assert not events.observed("x")
    assert at_rest(events)


async def test_clearing_does_not_end_waits_and_streams() -> None:
    events = EventEmitter()
    waiting = asyncio.create_task(events.wait_for("x"))
    async with events.stream("x") as stream:
        await turns()
        events.clear_event("x")
        events.clear_all()
        await events.emit("x", 1)
        assert (await anext(stream)).args == (await waiting).args == (1,)


@pytest.mark.parametrize("maxsize", [0, -1])
async def test_a_stream_without_room_is_refused(maxsize: int) -> None:
    events = EventEmitter()
    with pytest.raises(ValueError, match="at least 1"):
        async with events.stream("x", maxsize=maxsize):
            pass
    assert at_rest(events)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 4), st.lists(st.sampled_from(["emit", "read", "turn"]), max_size=40))
def test_a_stream_is_a_bounded_queue_under_any_schedule(maxsize: int, plan: list[str]) -> None:
    async def main() -> None:
        events = EventEmitter()
        emits: list[asyncio.Task[list[Any]]] = []
        reads: list[asyncio.Task[Occurrence]] = []
        async with events.stream("x", maxsize=maxsize) as stream:
            for step in plan:
                if step == "emit":
                    emits.append(asyncio.create_task(events.emit("x", len(emits))))
                elif step == "read":
                    reads.append(asyncio.create_task(read(stream)))
                else:
                    await turns(1)
            await turns(20)
            got = [r.result().args[0] for r in reads if r.done()]
            assert sorted(got) == list(range(min(len(emits), len(reads))))
            assert sum(e.done() for e in emits) == min(len(emits), len(got) + maxsize)
        await asyncio.gather(*emits)
        await asyncio.gather(*reads, return_exceptions=True)
        assert only_this_task()

    asyncio.run(main())
