"""Which dial comes first, and how many run at once."""

from __future__ import annotations

import asyncio

import pytest

from helpers.nodes import in_virtual_time
from seigr_toolset_transmissions.node import dial_slots
from seigr_toolset_transmissions.node.dial_slots import DialSlots, Rank, Turn

ASKED, WANTED, AGAIN = Rank


class Queue:
    """Dials that run until they are told to end."""

    def __init__(self) -> None:
        self.slots = DialSlots()
        self.begun: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.turns: dict[str, Turn] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def add(self, *names: str, rank: Rank) -> None:
        for name in names:
            self.turns[name] = Turn(rank)
            self.ends[name] = asyncio.Event()
            self.tasks[name] = asyncio.ensure_future(self._dial(name))
        await asyncio.sleep(0)

    async def _dial(self, name: str) -> None:
        await self.slots.begin(self.turns[name])
        self.begun.append(name)
        await self.ends[name].wait()
        self.slots.end(self.turns[name])

    async def end(self, *names: str) -> None:
        for name in names:
            self.ends[name].set()
            await self.tasks[name]
        await asyncio.sleep(0)

    async def end_all(self) -> None:
        while self.ends:
            name = next(name for name in self.begun if name in self.ends)
            self.ends.pop(name).set()
            await self.tasks[name]
            await asyncio.sleep(0)
        assert self.slots._running == [0, 0, 0]
        assert not any(self.slots._waiting)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial_slots, "_MOST", 3)
    monkeypatch.setattr(dial_slots, "_MOST_WANTED", 2)


@in_virtual_time
async def test_a_limited_number_run_at_once_and_fewer_of_those_nobody_waits_for() -> None:
    queue = Queue()
    await queue.add("w1", "w2", "w3", rank=WANTED)
    assert queue.begun == ["w1", "w2"]
    await queue.add("a1", "a2", rank=ASKED)
    assert queue.begun == ["w1", "w2", "a1"]
    await queue.end("w1")
    assert queue.begun[3:] == ["a2"]
    await queue.end("a1")
    assert queue.begun[4:] == ["w3"]
    await queue.end_all()


@in_virtual_time
async def test_dials_that_failed_come_last_and_the_oldest_of_a_rank_first() -> None:
    queue = Queue()
    await queue.add("x", "y", "z", rank=ASKED)
    await queue.add("again 1", "again 2", rank=AGAIN)
    await queue.add("wanted 1", "wanted 2", rank=WANTED)
    await queue.add("asked 1", "asked 2", rank=ASKED)
    await queue.end_all()
    assert queue.begun[3:] == ["asked 1", "asked 2", "wanted 1", "wanted 2", "again 1", "again 2"]


@in_virtual_time
async def test_a_dial_that_a_caller_starts_waiting_for_comes_first() -> None:
    queue = Queue()
    await queue.add("x", "y", rank=WANTED)
    await queue.add("again 1", "again 2", rank=AGAIN)
    queue.slots.hurry(queue.turns["again 2"])
    await asyncio.sleep(0)
    assert queue.begun[2:] == ["again 2"]
    queue.slots.hurry(queue.turns["again 2"])
    queue.slots.hurry(queue.turns["x"])
    await queue.end_all()


@pytest.mark.parametrize("granted", [False, True])
@in_virtual_time
async def test_the_place_of_a_cancelled_dial_goes_to_the_next(granted: bool) -> None:
    queue = Queue()
    first = Turn()
    await queue.slots.begin(first)
    await queue.add("y", "z", "cancelled", "last", rank=ASKED)
    if granted:  # and it does not know it yet
        queue.slots.end(first)
    queue.tasks["cancelled"].cancel()
    await asyncio.wait([queue.tasks["cancelled"]])
    if not granted:
        queue.slots.end(first)
    await asyncio.sleep(0)
    assert queue.begun == ["y", "z", "last"]
    del queue.ends["cancelled"]
    await queue.end_all()
