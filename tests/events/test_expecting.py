"""`expect`, `wait_for` several events, `registered`, and streams that drop instead of waiting."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from helpers.events import Hanging, Recorder, at_rest, only_this_task, returning, turns
from seigr_toolset_transmissions.errors import STTEventError
from seigr_toolset_transmissions.events import EventEmitter, Occurrence

# expect


async def test_an_expected_event_that_comes_during_the_block_is_not_missed() -> None:
    events = EventEmitter()
    async with events.expect("x") as expected:
        await events.emit("x", 1, a=2)
        await events.emit("x", 3)
        assert expected.occurrence == Occurrence("x", (1,), {"a": 2})
    assert expected.occurrence == Occurrence("x", (1,), {"a": 2})
    assert at_rest(events)


async def test_the_end_of_the_block_waits_for_the_event() -> None:
    events = EventEmitter()
    seen: list[Any] = []

    async def expect() -> None:
        async with events.expect("x", lambda o: o.kwargs["n"] > 1, 60) as expected:
            seen.append("body")
        seen.append(expected.occurrence.kwargs)

    expecting = asyncio.create_task(expect())
    await turns()
    await events.emit("x", n=1)
    await turns()
    assert seen == ["body"]
    await events.emit("x", n=2)
    await expecting
    assert seen == ["body", {"n": 2}]
    assert at_rest(events)


async def test_an_occurrence_that_has_not_come_says_so() -> None:
    events = EventEmitter()
    async with events.expect("x") as expected:
        with pytest.raises(STTEventError, match=r"event 'x' has not come yet: the end of the"):
            _ = expected.occurrence
        await events.emit("x")
    assert expected.occurrence.name == "x"


async def test_an_event_that_never_comes_is_a_timeout_at_the_end_of_the_block() -> None:
    events = EventEmitter()
    done: list[float] = []

    async def expect(timeout: float) -> None:
        async with events.expect("x", timeout=timeout):
            await turns()
            done.append(timeout)

    for timeout in (0, 0.001):
        with pytest.raises(TimeoutError, match=f"'x'.* {timeout} s"):
            await expect(timeout)
        assert at_rest(events)
    assert done == [0, 0.001]
    assert only_this_task()


async def test_an_event_that_came_in_time_is_no_timeout() -> None:
    events = EventEmitter()
    async with events.expect("x", timeout=0) as expected:
        await events.emit("x", 1)
    assert expected.occurrence.args == (1,)


async def test_a_block_that_raises_does_not_wait() -> None:
    events = EventEmitter()
    with pytest.raises(LookupError, match="body"):
        async with events.expect("x"):
            raise LookupError("of the body")
    assert at_rest(events)


@pytest.mark.parametrize("where", ["body", "end"])
async def test_a_block_that_is_cancelled_leaves_nothing(where: str) -> None:
    events = EventEmitter()

    async def expect() -> None:
        async with events.expect("x"):
            if where == "body":
                await asyncio.Event().wait()

    expecting = asyncio.create_task(expect())
    await turns()
    assert events.observed("x")
    expecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await expecting
    assert at_rest(events)


async def test_what_a_predicate_raises_comes_at_the_end_of_the_block(no_log: None) -> None:
    events = EventEmitter()
    done: list[str] = []

    async def expect() -> None:
        async with events.expect("x", lambda o: o.kwargs["missing"]):
            assert await events.emit("x") == []
            done.append("body")

    with pytest.raises(KeyError, match="missing"):
        await expect()
    assert done == ["body"]
    assert at_rest(events)


async def test_expecting_ends_when_nothing_emits_the_event_any_more() -> None:
    events = EventEmitter()
    with pytest.raises(STTEventError, match="it is over"):
        async with events.expect("x"):
            events.give_up(["x"], "it is over")


async def test_an_event_that_came_counts_even_if_its_emitter_has_ended_since() -> None:
    events = EventEmitter()
    async with events.expect("x") as expected:
        await events.emit("x", 1)
        events.give_up(["x"], "it is over")
    assert expected.occurrence.args == (1,)


# several events


@pytest.mark.parametrize("name", ["x", "y"])
async def test_waiting_for_several_events_tells_which_one_came(name: str) -> None:
    events = EventEmitter()
    waiting = asyncio.create_task(events.wait_for(("x", "y"), lambda o: o.args, 60))
    await turns()
    await events.emit("x")
    await events.emit("z", 1)
    await events.emit(name, 1)
    await events.emit("x", 2)
    assert await waiting == Occurrence(name, (1,), {})
    assert at_rest(events)


async def test_several_events_may_be_expected() -> None:
    events = EventEmitter()
    async with events.expect(("x", "y")) as expected:
        await events.emit("y")
    assert expected.occurrence.name == "y"
    assert at_rest(events)


async def test_a_timeout_names_each_of_several_events() -> None:
    events = EventEmitter()
    with pytest.raises(TimeoutError, match=r"no matching event 'x' or 'y' within 0 s"):
        await events.wait_for(("x", "y"), timeout=0)
    assert at_rest(events)


async def test_a_name_may_be_given_twice() -> None:
    events = EventEmitter()
    async with events.expect(("x", "x")) as expected:
        await events.emit("x")
    assert expected.occurrence.name == "x"
    assert at_rest(events)


async def test_a_wait_ends_when_none_of_its_events_can_come_any_more() -> None:
    events = EventEmitter()
    waiting = asyncio.create_task(events.wait_for(("x", "y")))
    await turns()
    events.give_up(["x", "z"], "not x")
    await turns()
    assert not waiting.done()
    events.give_up(["z", "y", "x"], "not y either")
    with pytest.raises(STTEventError, match="not y either"):
        await waiting
    assert at_rest(events)


async def test_a_wait_of_which_one_event_can_still_come_gets_it() -> None:
    events = EventEmitter()
    async with events.expect(("x", "y")) as expected:
        events.give_up(["x"], "not x")
        await events.emit("y")
    assert expected.occurrence.name == "y"


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ((), ValueError, "name at least one event"),
        (("x", 1), TypeError, "must be a str, not int"),
        (["x", "y"], TypeError, "must be a str, not list"),
    ],
)
async def test_what_names_no_events_is_refused(
    name: Any, error: type[Exception], text: str
) -> None:
    events = EventEmitter()
    with pytest.raises(error, match=text):
        await events.wait_for(name)
    with pytest.raises(error, match=text):
        async with events.expect(name):
            raise AssertionError("not entered")
    assert at_rest(events)


# registered


async def test_a_handler_is_registered_while_the_block_runs() -> None:
    events, recorder = EventEmitter(), Recorder()
    await events.emit("x", 0)
    with events.registered("x", recorder):
        await events.emit("x", 1)
        assert events.handlers("x") == [recorder]
    await events.emit("x", 2)
    assert recorder.calls == [((1,), {})]
    assert events.events() == []


async def test_a_block_that_raises_removes_the_handler() -> None:
    events = EventEmitter()
    with pytest.raises(LookupError), events.registered("x", returning(1)):
        raise LookupError
    assert events.events() == []


async def test_the_block_ends_its_own_registration_and_no_other_of_the_handler() -> None:
    events, one, other = EventEmitter(), returning(1), returning(2)
    events.register("x", one)
    with events.registered("x", one):
        events.register("x", other)
        assert await events.emit("x") == [1, 1, 2]
    assert await events.emit("x") == [1, 2]


async def test_a_handler_that_was_removed_during_the_block_is_no_error() -> None:
    events = EventEmitter()
    with events.registered("x", returning(1)):
        events.clear_event("x")
        events.register("x", returning(2))
    assert await events.emit("x") == [2]


async def test_a_call_that_runs_at_the_end_of_the_block_goes_on() -> None:
    events, hanging = EventEmitter(), Hanging()
    with events.registered("x", hanging):
        emit = asyncio.create_task(events.emit("x"))
        await hanging.started.wait()
    await turns()
    assert not emit.done()
    emit.cancel()
    await asyncio.wait([emit])
    assert hanging.ended


def test_what_is_no_handler_is_not_registered() -> None:
    events: Any = EventEmitter()
    with pytest.raises(STTEventError, match="async"), events.registered("x", print):
        raise AssertionError("not entered")
    assert events.events() == []


# Streams that drop


async def test_a_stream_that_drops_keeps_the_newest_and_counts_the_others() -> None:
    events = EventEmitter()
    async with events.stream("x", maxsize=2, overflow="drop_oldest") as stream:
        for n in range(5):
            await events.emit("x", n)
        assert stream.dropped == 3
        assert [(await anext(stream)).args[0] for _ in range(2)] == [3, 4]
        await events.emit("x", 5)
        assert (await anext(stream)).args == (5,)
        assert stream.dropped == 3
    assert at_rest(events)


async def test_a_stream_that_drops_never_makes_an_emit_wait() -> None:
    events = EventEmitter()
    async with events.stream("x", maxsize=1, overflow="drop_oldest") as stream:
        emits = [asyncio.create_task(events.emit("x", n)) for n in range(3)]
        await turns()
        assert all(emit.done() for emit in emits)
        assert (await anext(stream)).args == (2,)


async def test_a_stream_that_waits_drops_nothing() -> None:
    events = EventEmitter()
    async with events.stream("x", maxsize=1) as stream:
        emits = [asyncio.create_task(events.emit("x", n)) for n in range(3)]
        assert [(await anext(stream)).args[0] for _ in range(3)] == [0, 1, 2]
        await asyncio.gather(*emits)
        assert stream.dropped == 0


async def test_a_reader_that_waits_gets_what_comes_next_from_a_stream_that_drops() -> None:
    events = EventEmitter()
    async with events.stream("x", maxsize=1, overflow="drop_oldest") as stream:
        reading = asyncio.ensure_future(anext(stream))
        await turns()
        await events.emit("x", 1)
        await events.emit("x", 2)
        assert (await reading).args == (2,)
        assert stream.dropped == 1


async def test_an_unknown_overflow_is_refused() -> None:
    events: Any = EventEmitter()
    with pytest.raises(ValueError, match="'wait' or 'drop_oldest', not 'drop_newest'"):
        async with events.stream("x", overflow="drop_newest"):
            raise AssertionError("not entered")
    assert at_rest(events)
