"""Room in an inbox: its bounds hold, and waits for room end in order."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seigr_toolset_transmissions.endpoints import EndpointManager
from seigr_toolset_transmissions.endpoints.transport_side import TransportEndpoints as Side
from seigr_toolset_transmissions.errors import STTTimeoutError

if TYPE_CHECKING:
    from collections.abc import Coroutine

X = b"x"


def manager_with(**bounds: Any) -> EndpointManager:
    manager = EndpointManager(**bounds)
    Side(manager).add_endpoint_nowait(X, None)
    return manager


async def start(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Run the coroutine in a task until it waits."""
    task = asyncio.create_task(coroutine)
    for _ in range(3):
        await asyncio.sleep(0)
    return task


async def drain(manager: EndpointManager) -> list[bytes]:
    received = []
    while True:
        try:
            received.append((await manager.receive_any(timeout=0))[0])
        except STTTimeoutError:
            return received


# -- beyond the bounds -----------------------------------------------------------------------


@pytest.mark.parametrize("surplus", [1, 2, 5, 9, 100])
@pytest.mark.parametrize("bound", ["messages", "bytes"])
async def test_an_overfull_inbox_accepts_nothing_until_it_is_back_within_bounds(
    surplus: int, bound: str
) -> None:
    if bound == "messages":
        manager = manager_with(inbox_messages=10)
    else:
        manager = manager_with(inbox_bytes=100)
    assert Side(manager).offer(X, [b"x" * 10] * (10 + surplus), beyond_bounds=True) == 10 + surplus
    for _ in range(surplus):
        assert Side(manager).offer(X, [b"y" * 10] * 1000) == 0
        await manager.receive_any()
    assert Side(manager).offer(X, [b"y" * 10] * 1000) == 0  # full, and no more than that
    delivering = await start(manager.deliver(X, b"z" * 10))
    assert not delivering.done()
    await manager.receive_any()
    await delivering
    await manager.receive_any()
    assert Side(manager).offer(X, [b"y" * 10] * 1000) == 1


# -- the turn after a wait ----------------------------------------------------------------------


@pytest.mark.parametrize("waited", [False, True])
async def test_a_turn_that_was_not_used_is_over_in_the_next_turn_of_the_loop(waited: bool) -> None:
    manager = manager_with(inbox_bytes=12)
    if waited:
        await manager.deliver(X, b"1" * 12)
        waiting = await start(Side(manager).wait_for_room(X))
        await manager.receive_any()
        await waiting
    else:
        await Side(manager).wait_for_room(X)
        await asyncio.sleep(0)
    await manager.deliver(X, b"12345")
    large = await start(manager.deliver(X, b"x" * 10))
    assert Side(manager).offer(X, [b"small"]) == 0
    assert await drain(manager) == [b"12345"]
    await large
    assert await drain(manager) == [b"x" * 10]


async def test_a_turn_belongs_to_one_task() -> None:
    manager = manager_with(inbox_bytes=12)
    await manager.deliver(X, b"1" * 12)
    in_turn = await start(Side(manager).wait_for_room(X))
    large = await start(manager.deliver(X, b"x" * 10))
    await manager.receive_any()

    async def offer() -> int:
        return Side(manager).offer(X, [b"small"])

    # It runs right behind the one that has the turn; an eager task would run before it.
    other = asyncio.Task(offer(), loop=asyncio.get_running_loop())
    assert await other == 0
    assert in_turn.done()
    await large
    assert await drain(manager) == [b"x" * 10]


async def test_a_wait_for_room_behind_many_deliveries_succeeds() -> None:
    manager = manager_with(inbox_messages=2)
    Side(manager).offer(X, [b"first", b"second"])

    async def deliver_all_the_time() -> None:
        while True:
            await manager.deliver(X, b"delivered")

    busy = [await start(deliver_all_the_time()) for _ in range(3)]

    async def offer() -> int:
        await Side(manager).wait_for_room(X, 7)
        return Side(manager).offer(X, [b"offered"])

    offering = await start(offer())
    received = [(await manager.receive_any())[0] for _ in range(20)]
    assert await offering == 1
    assert received.index(b"offered") == 2 + len(busy)
    for task in busy:
        task.cancel()
    await asyncio.wait(busy)


# -- against a model -------------------------------------------------------------------------


@dataclass(eq=False)
class Asker:
    """A delivery, or a wait for room with or without an offer, that is stepped by hand."""

    kind: str
    messages: list[bytes]
    coroutine: Coroutine[Any, None, Any]
    future: asyncio.Future[None] | None = None

    @property
    def size(self) -> int:
        return sum(map(len, self.messages))

    def step(self) -> bool:
        """Return whether it has ended."""
        try:
            self.future = self.coroutine.send(None)
        except StopIteration:
            return True
        return False


class Model:
    """The bounds and the line, written plainly."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.held: list[bytes] = []
        self.line: list[Asker] = []
        self.turn = False  # of the test's own task

    def fits(self, messages: list[bytes]) -> bool:
        both = [*self.held, *messages]
        return not self.held or (
            len(both) <= self.max_messages and sum(map(len, both)) <= self.max_bytes
        )

    def fitting(self, messages: list[bytes]) -> int:
        count = 0
        while count < len(messages):
            fits = (
                len(self.held) + count + 1 <= self.max_messages
                and sum(map(len, [*self.held, *messages[: count + 1]])) <= self.max_bytes
            )
            if not fits and (self.held or count):
                break
            count += 1
        return count

    def offer(self, messages: list[bytes]) -> int:
        if self.line and not self.turn:
            return 0
        self.turn = False
        count = self.fitting(messages)
        self.held += messages[:count]
        return count

    def ask(self, asker: Asker) -> bool:
        """Return whether it has what it wants at once."""
        may = not self.line or (asker.kind == "deliver" and self.turn)
        if not may or not self.fits(asker.messages):
            self.line.append(asker)
            return False
        self.finish(asker)
        return True

    def finish(self, asker: Asker) -> None:
        if asker.kind == "deliver":
            self.held += asker.messages
            self.turn = False
        else:
            self.turn = True
            if asker.kind == "offer":
                self.offer(asker.messages)


sizes = st.lists(st.integers(0, 7), min_size=1, max_size=4)
operations = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["deliver", "wait", "wait and offer"]), sizes),
        st.tuples(st.sampled_from(["offer", "beyond"]), sizes),
        st.tuples(st.sampled_from(["take", "take", "take", "yield"]), st.just([0])),
        st.tuples(st.sampled_from(["step", "step", "step", "cancel"]), sizes),
    ),
    max_size=40,
)


async def check(script: list[tuple[str, list[int]]]) -> None:
    manager, model = manager_with(inbox_messages=4, inbox_bytes=12), Model(4, 12)

    async def wait(messages: list[bytes], *, offer: bool) -> None:
        await Side(manager).wait_for_room(X, sum(map(len, messages)), len(messages))
        if offer:
            Side(manager).offer(X, messages)

    for count, (operation, numbers) in enumerate(script):
        messages = [bytes([count]) * size for size in numbers]
        if operation == "deliver":
            asker = Asker("deliver", messages[:1], manager.deliver(X, messages[0]))
            assert model.ask(asker) == asker.step()
        elif operation.startswith("wait"):
            offer = operation == "wait and offer"
            kind = "offer" if offer else "wait"
            asker = Asker(kind, messages, wait(messages, offer=offer))
            assert model.ask(asker) == asker.step()
        elif operation == "offer":
            assert Side(manager).offer(X, messages) == model.offer(messages)
        elif operation == "beyond":
            Side(manager).offer(X, messages, beyond_bounds=True)
            model.held += messages
            model.turn = False
        elif operation == "take" and model.held:
            assert await manager.receive_any() == (model.held.pop(0), X)
        elif operation == "yield":
            await asyncio.sleep(0)
            model.turn = False
        elif operation in ("step", "cancel") and model.line:
            asker = model.line[sum(numbers) % len(model.line)]
            if operation == "cancel":
                model.line.remove(asker)
                with pytest.raises(asyncio.CancelledError):
                    asker.coroutine.throw(asyncio.CancelledError())
            elif asker.future is not None and asker.future.done():
                gets_in = model.line[0] is asker and model.fits(asker.messages)
                if gets_in:
                    model.line.remove(asker)
                    model.finish(asker)
                assert asker.step() == gets_in
        assert Side(manager).held_bytes(1) == sum(len(data) + 1 for data in model.held)
        if model.line and model.fits(model.line[0].messages):
            assert model.line[0].future is not None
            assert model.line[0].future.done()  # it will run
    assert await drain(manager) == model.held
    for asker in model.line:
        asker.coroutine.close()


@given(operations)
@example(
    [
        ("offer", [0, 0, 0]),
        ("wait", [0, 0]),
        ("deliver", [0]),
        ("take", [0]),
        ("deliver", [0]),
        ("step", [0]),
        ("step", [0]),
        ("offer", [0]),
    ]
)
@settings(max_examples=500, deadline=None)
def test_any_order_of_offers_deliveries_and_waits_keeps_the_bounds_and_the_line(
    script: list[tuple[str, list[int]]],
) -> None:
    asyncio.run(check(script))
