"""`on_any`, `wait_for` and `stream`: what each sees, and in which order."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.events import (
    Recorder,
    at_rest,
    only_this_task,
    read,
    returning,
    turns,
)
from seigr_toolset_transmissions.events import EventEmitter, Occurrence

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


# What watchers see, and when


async def test_watchers_see_concurrent_emits_in_one_order_even_if_some_wait() -> None:
    events = EventEmitter()
    first: list[int] = []
    second: list[int] = []
    handled: list[int] = []

    async def at_times_slow(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first.append(args[0])
        if args[0] % 2 == 0:
            await turns(3)

    async def quick(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        second.append(args[0])

    async def handler(number: int) -> None:
        handled.append(number)
        assert number in second

    events.on_any(at_times_slow)
    events.on_any(quick)
    events.register("x", handler)
    async with events.stream("x", maxsize=1) as full, events.stream("x", maxsize=64) as stream:
        emits = [asyncio.create_task(events.emit("x", number)) for number in range(9)]
        await turns()
        streamed = [(await anext(stream)).args[0] for _ in range(9)]
        slowly = [(await anext(full)).args[0] for _ in range(9)]
        await asyncio.gather(*emits)
    assert first == second == streamed == slowly == list(range(9))
    assert sorted(handled) == list(range(9))


async def test_a_wait_does_not_miss_the_next_emit_even_if_other_watchers_wait() -> None:
    events, gate = EventEmitter(), asyncio.Event()

    @events.on_any
    async def waits(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        await gate.wait()

    async with events.stream("x", maxsize=1):
        for number in range(3):
            waiting = asyncio.create_task(events.wait_for("x"))
            await turns()
            emit = asyncio.create_task(events.emit("x", number))
            assert (await waiting).args == (number,)
            emit.cancel()
        await turns()
    assert only_this_task()


async def test_handlers_do_not_wait_for_a_full_stream() -> None:
    events, recorder = EventEmitter(), Recorder()
    events.register("x", recorder)
    async with events.stream("x", maxsize=1):
        await events.emit("x", 1)
        emit = asyncio.create_task(events.emit("x", 2))
        await turns()
        assert len(recorder.calls) == 2
        assert not emit.done()
    await emit


async def test_each_watcher_has_keyword_arguments_of_its_own() -> None:
    events, seen = EventEmitter(), []

    async def spoils(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(dict(kwargs))
        kwargs.clear()

    def fits(occurrence: Occurrence) -> bool:
        occurrence.kwargs["spoilt"] = True
        return False

    async def handler(**kwargs: Any) -> dict[str, Any]:
        return kwargs

    events.register("x", handler)
    events.on_any(spoils)
    events.on_any(spoils)
    spoiling = asyncio.create_task(events.wait_for("x", fits))
    waiting = asyncio.create_task(events.wait_for("x"))
    async with events.stream("x") as stream:
        await turns()
        assert await events.emit("x", a=1) == [{"a": 1}]
        (await anext(stream)).kwargs.clear()
    assert seen == [{"a": 1}] * 2
    assert (await waiting).kwargs == {"a": 1}
    spoiling.cancel()


async def test_a_failing_predicate_leaves_no_cycle_of_references() -> None:
    events = EventEmitter()

    def predicate(occurrence: Occurrence) -> bool:
        raise ValueError

    async def fail() -> None:
        waiting = asyncio.create_task(events.wait_for("x", predicate))
        await turns()
        await asyncio.Task(events.emit("x"))  # not an eager one: its frames lead here
        await asyncio.wait([waiting])
        assert isinstance(waiting.exception(), ValueError)

    await fail()
    gc.collect()
    gc.disable()
    try:
        await fail()
        assert gc.collect() == 0
    finally:
        gc.enable()


# Watchers that a closed event loop has left behind


def test_what_a_closed_loop_left_behind_neither_fails_nor_delays_an_emit(no_log: None) -> None:
    events = EventEmitter()

    async def read_stream() -> None:
        async with events.stream("x", maxsize=1) as stream:
            await anext(stream)

    async def leave() -> list[asyncio.Task[Any]]:
        left = [
            asyncio.create_task(read_stream()),
            asyncio.create_task(events.wait_for("x")),
        ]
        await turns()
        return left

    loop = asyncio.new_event_loop()
    left = loop.run_until_complete(leave())
    loop.close()

    async def use() -> None:
        events.register("x", returning(1))
        for _ in range(5):
            async with asyncio.timeout(10):
                assert await events.emit("x") == [1]
        events.give_up(["x"], "it is over")
        events.clear_event("x")
        assert events.subscribed("x")
        events.forget_abandoned()
        assert at_rest(events)

    asyncio.run(use())
    for task in left:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
