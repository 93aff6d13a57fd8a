"""Which handlers an emit calls, and what happens to results and failures."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import weakref
from contextvars import ContextVar
from typing import Any

import pytest

from helpers.events import (
    Handler,
    Hanging,
    Recorder,
    add_crowd,
    at_rest,
    only_this_task,
    returning,
    turns,
)
from helpers.nodes import in_virtual_time
from seigr_toolset_transmissions.events import EventEmitter

LOGGER = "seigr_toolset_transmissions.events"


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


async def test_handlers_in_tasks_do_not_see_the_context_variables_of_another() -> None:
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


async def test_an_error_handler_that_waits_for_another_handler_does_not_delay_it() -> None:
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


async def test_whatever_leaves_a_handler_is_its_failure(crowd: int) -> None:
    class OutcomeError(BaseException):
        """As `pytest.fail` raises."""

    async def fails_early() -> None:
        raise OutcomeError

    async def fails_late() -> None:
        await turns(2)
        raise BaseExceptionGroup("several", [OutcomeError()])

    for failing, kind in ((fails_early, OutcomeError), (fails_late, BaseExceptionGroup)):
        events, errors = EventEmitter(), Recorder()
        before = add_crowd(events, "x", crowd)
        events.register("x", failing)
        after = add_crowd(events, "x", crowd)
        events.register("error", errors)
        results = await events.emit("x")
        assert [type(result) for result in results] == [
            *[type(None)] * crowd,
            kind,
            *[type(None)] * crowd,
        ]
        assert all(other.calls for other in before + after)
        [(_, kwargs)] = errors.calls
        assert kwargs["details"]["exception"] is results[crowd]
        assert only_this_task()


# Errors about errors


@in_virtual_time
async def test_a_handler_that_keeps_failing_neither_fills_the_log_nor_hides_others(
    crowd: int, caplog: pytest.LogCaptureFixture
) -> None:
    events, errors = EventEmitter(), Recorder()

    async def failing(number: int) -> None:
        raise KeyError(number) if number == 700 else ValueError(number)

    async def failing_too(number: int) -> None:
        raise ValueError(number)

    events.register("x", failing)
    add_crowd(events, "x", crowd)
    events.register("error", errors)
    for number in range(1000):
        await events.emit("x", number)
    assert len(errors.calls) == 1000
    events.register("x", failing_too)
    await events.emit("x", 1000)
    assert [bool(record.exc_info) for record in caplog.records] == [True] * 3
    await asyncio.sleep(60)
    [counted] = caplog.records[3:]
    assert counted.levelno == logging.ERROR
    assert "of event 'x' failed (ValueError): 999 more" in counted.getMessage()


async def test_failures_below_an_error_event_are_logged_only(
    crowd: int, caplog: pytest.LogCaptureFixture
) -> None:
    events = EventEmitter()
    calls: list[str] = []

    async def failing(**kwargs: Any) -> None:
        raise ValueError

    async def emits(**kwargs: Any) -> None:
        calls.append("error")
        await turns(1)
        await events.emit("audit")

    events.register("x", failing)
    events.register("audit", failing)
    events.register("error", emits)
    add_crowd(events, "error", crowd)
    add_crowd(events, "audit", crowd)
    await events.emit("x")
    assert calls == ["error"]
    assert len(caplog.records) == 2
    await events.emit("error", error_type="of_the_users_own", details={})
    assert calls == ["error"] * 2
    assert len(caplog.records) == 2  # the third is one more of a kind
    await events.emit("audit")
    assert calls == ["error"] * 3
    assert only_this_task()


async def test_two_emitters_do_not_report_each_others_errors_forever() -> None:
    one, other = EventEmitter(), EventEmitter()
    calls = 0

    async def failing(**kwargs: Any) -> None:
        raise ValueError

    def crosswise(emitter: EventEmitter) -> Handler:
        async def handler(**kwargs: Any) -> None:
            nonlocal calls
            calls += 1
            await emitter.emit("x")

        return handler

    for emitter, opposite in ((one, other), (other, one)):
        emitter.register("x", failing)
        emitter.register("error", crosswise(opposite))
        emitter.register("error", crosswise(opposite))
    await one.emit("x")
    assert calls == 2


async def test_a_wrapper_that_emits_failing_events_does_not_loop_forever() -> None:
    events, names = EventEmitter(), []
    original = events.emit

    async def wrapper(name: str, /, *args: Any, **kwargs: Any) -> list[Any]:
        names.append(name)
        await original("metrics", name)
        return await original(name, *args, **kwargs)

    async def failing(*args: Any) -> None:
        raise ValueError

    events.register("metrics", failing)
    events.emit = wrapper  # type: ignore[method-assign]
    await events.emit("x")
    assert names == ["x", "error"]


async def test_a_task_left_by_an_error_handler_reports_failures_like_any_other() -> None:
    events, errors, gate = EventEmitter(), Recorder(), asyncio.Event()
    tasks: list[asyncio.Task[Any]] = []

    async def failing() -> None:
        raise ValueError

    async def later() -> None:
        await gate.wait()
        await events.emit("x")

    @events.once("error")
    async def leaves_a_task(**kwargs: Any) -> None:
        tasks.append(asyncio.create_task(later()))

    events.register("x", failing)
    events.register("error", errors)
    await events.emit("x")
    gate.set()
    await tasks[0]
    assert len(errors.calls) == 2


async def test_an_emit_whose_error_handlers_hang_can_be_cancelled(crowd: int) -> None:
    events, hanging = EventEmitter(), Hanging()

    async def failing() -> None:
        raise ValueError

    events.register("x", failing)
    add_crowd(events, "x", crowd)
    events.register("error", hanging)
    emit = asyncio.create_task(events.emit("x"))
    await hanging.started.wait()
    emit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await emit
    assert hanging.ended
    assert only_this_task()
