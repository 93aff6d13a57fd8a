"""What open pages are told: the beginning, a sample a second, new events, and the end."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest

from helpers.nodes import in_virtual_time, memory_nodes, until
from seigr_toolset_transmissions.seeing import monitor
from seigr_toolset_transmissions.seeing.feed import Feed
from seigr_toolset_transmissions.seeing.rows import Query

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(autouse=True)
def snapshots_take_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "thread_time", lambda: 0.0)


async def heard(messages: AsyncIterator[bytes]) -> tuple[str, Any]:
    """Return the name and the data of the next message."""
    name, data, *rest = (await anext(messages)).decode().split("\n")
    assert rest == ["", ""]
    return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


@in_virtual_time
async def test_a_page_is_told_what_was_and_then_what_is_new() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        feed = Feed(pair.listener, control=False)
        async with aclosing(feed.messages()) as first, aclosing(feed.messages()) as second:
            kind, told = await heard(first)
            assert kind == "begin"
            assert (told["node"], told["control"]) == (pair.listener.node_id.hex(), False)
            assert (told["points"], told["events"], told["endpoints"]) == ([], [], 1)
            await pair.near.send(bytes(100))
            await pair.listener.events.emit("hub_lost", hub="<b>")
            kind, told = await heard(first)
            assert kind == "sample"
            assert told["point"][1] == pytest.approx(100)
            [[number, _, name, facts]] = told["events"]
            assert (number, name, facts) == (1, "hub_lost", {"hub": "<b>"})
            assert "events" not in (await heard(first))[1]

            _, told = await heard(second)
            assert (len(told["points"]), len(told["events"])) == (2, 1)
            one, other = await asyncio.gather(heard(first), heard(second))
            assert one == other
        await feed.close()


@in_virtual_time
async def test_a_flood_of_events_is_told_in_part() -> None:
    async with memory_nodes() as nodes:
        node = await nodes.start()
        feed = Feed(node, control=False)
        async with aclosing(feed.messages()) as messages:
            await heard(messages)
            for _ in range(5000):
                await node.events.emit("hub_lost", hub="x")
            _, told = await heard(messages)
            numbers = [number for number, *_ in told["events"]]
            assert numbers == list(range(4901, 5001))
        await feed.close()


@in_virtual_time
async def test_a_slow_page_misses_samples() -> None:
    async with memory_nodes() as nodes:
        feed = Feed(await nodes.start(), control=False)
        async with aclosing(feed.messages()) as messages:
            await heard(messages)
            first = (await heard(messages))[1]["uptime"]
            await asyncio.sleep(5)
            assert (await heard(messages))[1]["uptime"] - first >= 5
        await feed.close()


@in_virtual_time
async def test_nothing_is_done_before_the_first_page_and_a_minute_after_the_last() -> None:
    async with memory_nodes() as nodes:
        node = await nodes.start()
        feed = Feed(node, control=False)
        assert not node.events.observed("hub_lost")
        for pause, history, watch in ((30, 30, 1), (120, 0, 2)):
            async with aclosing(feed.messages()) as messages:
                await heard(messages)
                await heard(messages)
            await asyncio.sleep(pause)
            async with aclosing(feed.messages()) as messages:
                _, told = await heard(messages)
            assert len(told["points"]) == pytest.approx(history, abs=1)
            assert told["watch"] == watch
        await asyncio.sleep(120)
        assert not node.events.observed("hub_lost")
        await feed.close()


@in_virtual_time
async def test_pages_are_told_of_the_end_of_the_node_and_of_the_console() -> None:
    async with memory_nodes() as nodes:
        node = nodes.make()
        feed = Feed(node, control=False)
        async with aclosing(feed.messages()) as messages:
            assert await heard(messages) == ("end", "node")
        await node.start()
        async with aclosing(feed.messages()) as messages:
            assert (await heard(messages))[0] == "begin"
            ending = asyncio.create_task(heard(messages))
            await asyncio.sleep(0.5)
            await node.stop()
            assert await ending == ("end", "node")
        await node.start()
        async with aclosing(feed.messages()) as messages:
            assert (await heard(messages))[0] == "begin"
            ending = asyncio.create_task(heard(messages))
            await asyncio.sleep(0.5)
            await feed.close()
            assert await ending == ("end", "console")
        async with aclosing(feed.messages()) as messages:
            assert await heard(messages) == ("end", "console")
        assert feed.pages == 0
        await feed.close()


@in_virtual_time
async def test_a_page_that_is_stuck_while_the_node_starts_again_is_told_of_the_end() -> None:
    async with memory_nodes() as nodes:
        node = await nodes.start()
        feed = Feed(node, control=False)
        async with aclosing(feed.messages()) as stuck, aclosing(feed.messages()) as other:
            assert (await heard(stuck))[0] == "begin"
            assert (await heard(stuck))[0] == "sample"
            await node.stop()
            await asyncio.sleep(0)
            await node.start()
            assert (await heard(other))[0] == "begin"
            assert (await heard(other))[0] == "sample"
            assert await heard(stuck) == ("end", "node")
        await feed.close()


@in_virtual_time
async def test_the_rows_are_those_of_the_latest_sample() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        feed, query = Feed(pair.listener, control=False), Query.read({})
        peer = pair.dialer.node_id
        found = feed.rows(query, peer)
        assert found["selected"] == found["rows"][0]
        assert found["selected"]["sent"] is None  # nothing is watched yet
        assert feed.rows(query, b"?")["selected"] is None
        async with aclosing(feed.messages()) as messages:
            await heard(messages)
            await pair.far.send(bytes(100))
            await heard(messages)
            found = feed.rows(query, None)
            assert found["rows"][0]["sent"] == pytest.approx(100)
            assert found["rows"][0]["active"] <= found["time"]  # one clock, whatever the page's is
            await pair.listener.ban(peer)
            await until(lambda: peer not in pair.listener.endpoints)
            _, told = await heard(messages)
            assert told["banned"] == [peer.hex()]
        await feed.close()
