"""A full window: who waits for room, in which order, and what ends the wait."""

from __future__ import annotations

import asyncio

import pytest

from helpers.nodes import (
    Nodes,
    live,
    until,
)
from helpers.sessions import KILO, SMALL, fill, numbered, receive
from seigr_toolset_transmissions.errors import (
    STTSessionClosedError,
    STTWindowFullError,
)
from seigr_toolset_transmissions.sessions.session import LiveSession


async def test_send_nowait_reports_a_full_window_at_once() -> None:
    async with Nodes(**SMALL) as nodes:
        pair = await nodes.pair()
        count = await fill(pair.near)
        assert count == 1 + 3 + 3
        with pytest.raises(STTWindowFullError, match="send_window_bytes"):
            pair.near.send_nowait(KILO)
        assert pair.near.stats.messages_sent == count
        assert await receive(pair.listener, count) == [KILO] * count
        await pair.near.flush()
        pair.near.send_nowait(KILO)


async def test_a_window_of_messages_is_full_too() -> None:
    async with Nodes(send_window_messages=5) as nodes:
        pair = await nodes.pair()
        for data in numbered(5):
            pair.near.send_nowait(data)
        with pytest.raises(STTWindowFullError, match="send_window_messages"):
            pair.near.send_nowait(b"6")
        await pair.near.flush()
        pair.near.send_nowait(b"6")


async def test_senders_that_wait_are_served_in_order() -> None:
    async with Nodes(**SMALL) as nodes:
        pair = await nodes.pair()
        count = await fill(pair.near)
        waiting = [asyncio.create_task(pair.near.send(bytes([k]) * 1000)) for k in range(10)]
        await asyncio.sleep(0)
        # A send_nowait must not overtake them either, even if its message is small enough to fit.
        with pytest.raises(STTWindowFullError):
            pair.near.send_nowait(b"")
        assert await receive(pair.listener, count) == [KILO] * count
        assert await receive(pair.listener, 10) == [bytes([k]) * 1000 for k in range(10)]
        await asyncio.gather(*waiting)


@pytest.mark.parametrize("which", [0, 2, 4])
async def test_a_cancelled_send_was_not_accepted(which: int) -> None:
    async with Nodes(**SMALL) as nodes:
        pair = await nodes.pair()
        count = await fill(pair.near)
        waiting = [asyncio.create_task(pair.near.send(bytes([k]) * 1000)) for k in range(5)]
        await asyncio.sleep(0)
        waiting[which].cancel()
        await asyncio.wait([waiting[which]])
        assert waiting[which].cancelled()
        expected = [KILO] * count + [bytes([k]) * 1000 for k in range(5) if k != which]
        assert await receive(pair.listener, count + 4) == expected
        await pair.near.close()
        assert pair.far.stats.messages_received == count + 4


async def test_a_send_cancelled_in_the_turn_of_its_wake_up_passes_its_turn_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Nodes(**SMALL) as nodes:
        pair = await nodes.pair()
        count = await fill(pair.near)
        first = asyncio.create_task(pair.near.send(b"1" * 1000))
        second = asyncio.create_task(pair.near.send(b"2" * 1000))
        await asyncio.sleep(0)
        wake = live(pair.near)._wake_sender

        def wake_and_cancel() -> None:
            wake()
            first.cancel()

        monkeypatch.setattr(LiveSession, "_wake_sender", lambda _: wake_and_cancel())
        received = await receive(pair.listener, 1)
        await until(first.done)
        monkeypatch.undo()
        assert first.cancelled()
        received += await receive(pair.listener, count)
        assert received == [KILO] * count + [b"2" * 1000]
        await second


async def test_waiting_senders_learn_of_the_close() -> None:
    async with Nodes(**SMALL) as nodes:
        pair = await nodes.pair()
        await fill(pair.near)
        waiting = [asyncio.create_task(pair.near.send(KILO)) for _ in range(3)]
        await asyncio.sleep(0)
        live(pair.near).start_closing()
        for task in waiting:
            with pytest.raises(STTSessionClosedError):
                await task


async def test_waiting_senders_learn_of_the_peers_close() -> None:
    async with Nodes(**SMALL, close_timeout=0.3) as nodes:
        pair = await nodes.pair()
        await fill(pair.near)
        waiting = [asyncio.create_task(pair.near.send(KILO)) for _ in range(3)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(pair.far.close())
        for task in waiting:
            with pytest.raises(STTSessionClosedError):
                await task
        await asyncio.wait([closing])
