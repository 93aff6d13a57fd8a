"""The inboxes against a model: any interleaving of steps, and tasks that do as they like."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.inboxes import X, Y, Z, drain, manager_with, turns
from seigr_toolset_transmissions.endpoints.transport_side import TransportEndpoints as Side
from seigr_toolset_transmissions.errors import STTEndpointError

if TYPE_CHECKING:
    from collections.abc import Coroutine


@dataclass(eq=False)
class Ask:
    """A receive under way. It is stepped by hand: between any two steps anything may happen."""

    source: bytes | None
    coroutine: Coroutine[Any, None, tuple[bytes, bytes]]
    future: asyncio.Future[None] | None = None  # what it waits for; None: merely the next turn
    failed: bool = False

    def step(self) -> tuple[bytes, bytes] | None:
        try:
            self.future = self.coroutine.send(None)
        except StopIteration as done:
            result: tuple[bytes, bytes] = done.value
            return result
        return None

    def cancel(self) -> None:
        with pytest.raises(asyncio.CancelledError):
            self.coroutine.throw(asyncio.CancelledError())


@dataclass(eq=False)
class Message:
    endpoint_id: bytes
    data: bytes
    holder: Ask | None = None


class Model:
    """The rule, written plainly: which receiver holds which message, in lists."""

    def __init__(self, *ids: bytes) -> None:
        self.ids = dict.fromkeys(ids, True)  # False: retiring
        self.closed = False
        self.messages: list[Message] = []  # in order of arrival
        self.asks: list[Ask] = []  # those without an answer yet, oldest first

    def check(self) -> None:
        """No receiver waits for a message that is there, or holds one that is not its oldest."""
        older: set[bytes] = set()  # endpoints of the free messages before this one
        for message in self.messages:
            if not message.holder:
                older.add(message.endpoint_id)
            elif message.holder.source is None:
                assert not older
            else:
                assert message.endpoint_id not in older
        for ask in self.waiting():
            assert not (older if ask.source is None else older & {ask.source})

    def held_by(self, ask: Ask) -> Message | None:
        return next((message for message in self.messages if message.holder is ask), None)

    def waiting(self) -> list[Ask]:
        return [ask for ask in self.asks if not ask.failed and not self.held_by(ask)]

    def heir(self, endpoint_id: bytes) -> Ask | None:
        for source in (endpoint_id, None):
            for ask in self.waiting():
                if ask.source == source:
                    return ask
        return None

    def arrive(self, endpoint_id: bytes, data: bytes) -> None:
        self.messages.append(Message(endpoint_id, data, self.heir(endpoint_id)))

    def ask(self, ask: Ask) -> tuple[bytes, bytes] | None:
        """Answer at once, unless others are before; with None it waits, maybe for what it holds."""
        before = any(
            message.holder and ask.source in (None, message.endpoint_id)
            for message in self.messages
        )
        for message in self.messages:
            if not message.holder and ask.source in (None, message.endpoint_id):
                if not before:
                    return self.take(message)
                message.holder = ask
                break
        ask.failed = self.closed and not self.held_by(ask)
        if not ask.failed:
            self.asks.append(ask)
        return None

    def batch(self, source: bytes | None, most: int) -> list[tuple[bytes, bytes]]:
        taken: list[tuple[bytes, bytes]] = []
        while len(taken) < most:
            mine = [m for m in self.messages if source in (None, m.endpoint_id)]
            if not mine or any(message.holder for message in mine):
                break
            taken.append(self.take(mine[0]))
        return taken

    def close(self) -> None:
        self.closed = True
        for ask in self.waiting():
            ask.failed = True

    def may_take(self, message: Message) -> bool:
        """Return whether its holder gets it when it runs, all older ones being settled."""
        older = self.messages[: self.messages.index(message)]
        assert message.holder
        any_source = message.holder.source is None
        return not any(
            other.holder and (any_source or other.endpoint_id == message.endpoint_id)
            for other in older
        )

    def take(self, message: Message) -> tuple[bytes, bytes]:
        self.messages.remove(message)
        left = any(other.endpoint_id == message.endpoint_id for other in self.messages)
        if not self.ids[message.endpoint_id] and not left:
            self.remove(message.endpoint_id)
        return message.data, message.endpoint_id

    def cancel(self, ask: Ask) -> None:
        hole = self.held_by(ask)
        self.asks.remove(ask)
        if hole is None:
            return
        hole.holder = None
        for message in self.messages[self.messages.index(hole) + 1 :]:
            other = message.holder
            awaited = any(ask.source == hole.endpoint_id for ask in self.waiting())
            if other and (
                other.source == hole.endpoint_id or (other.source is None and not awaited)
            ):
                hole.holder, message.holder = other, None
                hole = message
        hole.holder = self.heir(hole.endpoint_id)

    def remove(self, endpoint_id: bytes) -> None:
        del self.ids[endpoint_id]
        self.messages = [m for m in self.messages if m.endpoint_id != endpoint_id]
        for ask in self.asks:
            if ask.source == endpoint_id:
                ask.failed = True
        for message in self.messages:
            if not message.holder:
                message.holder = self.heir(message.endpoint_id)
        if self.closed:
            self.close()  # for those whose message is gone

    def retire(self, endpoint_id: bytes) -> None:
        self.ids[endpoint_id] = False
        if not any(message.endpoint_id == endpoint_id for message in self.messages):
            self.remove(endpoint_id)


ids = st.sampled_from([X, Y, Z])


any_of_them = st.integers(0, 11)


one_or_any = st.one_of(st.none(), ids)


receive = st.tuples(st.just("receive"), one_or_any, any_of_them)


batch = st.tuples(st.just("batch"), one_or_any, st.integers(1, 5))


asked = st.one_of(receive, batch)


deliver = st.tuples(st.just("deliver"), ids, st.integers(1, 2))


step = st.tuples(st.sampled_from(["resume", "cancel", "cancel"]), st.none(), any_of_them)


change = st.tuples(st.sampled_from(["remove", "retire", "add"]), ids, any_of_them)


end = st.tuples(st.sampled_from(["close", "reopen", "reopen"]), st.none(), any_of_them)


# Rounds of these orders make many a receiver promised something before any of them runs.
rounds = st.lists(
    st.tuples(
        st.lists(receive, max_size=6),
        st.lists(st.one_of(deliver, deliver, deliver, receive), max_size=8),
        st.lists(
            st.one_of(step, step, step, step, receive, batch, deliver, change, end), max_size=8
        ),
    ),
    max_size=4,
)


operations = rounds.map(lambda rounds: [op for parts in rounds for part in parts for op in part])


def check_against_model(script: list[tuple[str, bytes | None, int]]) -> None:
    manager, model = manager_with(X, Y, Z), Model(X, Y, Z)
    count = 0

    def finish(ask: Ask, cancel: bool) -> None:
        held = model.held_by(ask)
        if cancel:
            ask.cancel()
            model.cancel(ask)
        elif ask.failed:
            model.asks.remove(ask)
            with pytest.raises(STTEndpointError):
                ask.step()
        elif held and model.may_take(held):
            model.asks.remove(ask)
            expected = model.take(held)
            assert ask.step() == expected
        elif ask.future is None or ask.future.done():
            # Others are before; or it held a message of an endpoint that was removed since.
            assert ask.step() is None

    for operation, endpoint_id, number in script:
        if operation == "receive" and (endpoint_id is None or endpoint_id in model.ids):
            coroutine = manager.receive_from(endpoint_id) if endpoint_id else manager.receive_any()
            ask = Ask(endpoint_id, coroutine)
            expected = model.ask(ask)
            if ask.failed:
                with pytest.raises(STTEndpointError, match="over"):
                    ask.step()
            else:
                assert ask.step() == expected
        elif operation == "batch" and (endpoint_id is None or endpoint_id in model.ids):
            source = None if endpoint_id is None else manager._endpoints[endpoint_id]
            assert manager._inboxes.take_many(source, number) == model.batch(endpoint_id, number)
        elif operation in ("resume", "cancel") and model.asks:
            finish(model.asks[number % len(model.asks)], operation == "cancel")
        elif operation == "deliver" and endpoint_id and model.ids.get(endpoint_id):
            messages = [b"%d" % (count + index) for index in range(number)]
            count += number
            assert Side(manager).offer(endpoint_id, messages) == number
            for data in messages:
                model.arrive(endpoint_id, data)
        elif operation == "remove" and endpoint_id in model.ids:
            model.remove(endpoint_id)
            with pytest.raises(StopIteration):
                manager.remove_endpoint(endpoint_id).send(None)
        elif operation == "retire" and endpoint_id in model.ids:
            model.retire(endpoint_id)
            Side(manager).retire_endpoint(endpoint_id)
        elif operation == "add" and endpoint_id and not model.ids.get(endpoint_id):
            model.ids[endpoint_id] = True
            Side(manager).add_endpoint_nowait(endpoint_id, None)
        elif operation == "close":
            model.close()
            Side(manager).close_inboxes("it is over")
        elif operation == "reopen":
            model.closed = False
            Side(manager).open_inboxes()
        model.check()
        assert sorted(manager) == sorted(model.ids)
        assert Side(manager).held_bytes(64) == sum(
            64 + len(message.data) for message in model.messages
        )
        for ask in model.asks:
            if ask.failed or model.held_by(ask):
                assert ask.future is None or ask.future.done()  # it will run

    for ask in [message.holder for message in model.messages if message.holder]:
        finish(ask, cancel=False)
    while model.asks:
        finish(model.asks[0], cancel=True)
    while model.messages:
        ask = Ask(None, manager.receive_any())
        expected = model.ask(ask)
        assert ask.step() == expected
        assert expected is not None
    inboxes = manager._inboxes
    assert len(inboxes._arrivals) == inboxes._stale
    assert (inboxes._promised, inboxes._promised_to_any) == (0, 0)
    assert not inboxes._any_receivers


@given(operations)
@settings(max_examples=500, deadline=None)
def test_any_interleaving_of_steps_follows_the_rule(
    script: list[tuple[str, bytes | None, int]],
) -> None:
    async def main() -> None:
        check_against_model(script)

    asyncio.run(main())


# How to deliver; and how to receive, under `wait_for` or not, and what comes after it.
plans = st.tuples(
    st.lists(st.tuples(ids, st.sampled_from(["deliver", "offer"])), min_size=1, max_size=5),
    st.lists(st.tuples(st.one_of(ids, st.none()), st.booleans(), st.integers(0, 6)), max_size=30),
)


async def check_with_tasks(
    producers: list[tuple[bytes, str]], consumers: list[tuple[bytes | None, bool, int]]
) -> None:
    manager = manager_with(X, Y, Z, inbox_messages=3, inbox_bytes=12)
    got: list[tuple[bytes, bytes]] = []

    async def produce(endpoint_id: bytes, producer: int, how: str) -> None:
        waiting = [b"%d:%03d" % (producer, number) for number in range(10)]
        while how == "deliver" and waiting:
            await manager.deliver(endpoint_id, waiting.pop(0))
        while waiting:
            del waiting[: Side(manager).offer(endpoint_id, waiting)]
            if waiting:
                await Side(manager).wait_for_room(endpoint_id, len(waiting[0]))
                count = Side(manager).offer(endpoint_id, waiting)
                assert count >= 1
                del waiting[:count]

    async def consume(source: bytes | None, bounded: bool) -> None:
        async def receive() -> None:
            got.append(await (manager.receive_from(source) if source else manager.receive_any()))

        await (asyncio.wait_for(receive(), 30) if bounded else receive())

    producing = [
        asyncio.create_task(produce(endpoint_id, producer, how))
        for producer, (endpoint_id, how) in enumerate(producers)
    ]
    consuming: list[asyncio.Task[None]] = []
    for source, bounded, pause in consumers:
        consuming.append(asyncio.create_task(consume(source, bounded)))
        await turns(pause % 3)
        if pause > 3:
            consuming[pause % len(consuming)].cancel()
    for task in consuming:
        task.cancel()
    await asyncio.gather(*consuming, return_exceptions=True)
    while not all(task.done() for task in producing):
        got += await drain(manager)
        await turns(1)
    await asyncio.gather(*producing)
    got += await drain(manager)
    for producer, (endpoint_id, _) in enumerate(producers):
        numbers = [
            data for data, source in got if source == endpoint_id and data[:1] == b"%d" % producer
        ]
        assert numbers == [b"%d:%03d" % (producer, number) for number in range(10)]
    assert len(got) == 10 * len(producers)


@given(plans)
@settings(max_examples=150, deadline=None)
async def test_tasks_that_fill_empty_and_cancel_lose_and_reorder_nothing(
    plan: tuple[list[tuple[bytes, str]], list[tuple[bytes | None, bool, int]]],
) -> None:
    await check_with_tasks(*plan)
