"""Joining the other hubs, and staying there, whatever other code does to tasks."""

from __future__ import annotations

import asyncio

import pytest

from helpers.cluster import cluster, receive
from helpers.nodes import EventLog, cancel_all_others, in_virtual_time, until


@in_virtual_time
async def test_a_hub_stays_in_its_cluster_though_all_tasks_are_cancelled() -> None:
    async with cluster() as it:
        alice, hub = await it.peer("alice", it.hubs[1]), it.hubs[0]
        logs = [EventLog(each) for each in it.hubs]
        for number in range(100):
            await hub.endpoints.send_to_endpoint(alice.node_id, b"%d" % number)
        cancel_all_others()
        await asyncio.sleep(30)
        received = await receive(alice, hub.node_id, 100)
        assert received == [b"%d" % number for number in range(100)]
        assert [log.entries for log in logs] == [[], []]


@pytest.mark.parametrize("turns", range(0, 60, 6))
@in_virtual_time
async def test_a_hub_joins_though_all_tasks_are_cancelled_at_any_time(turns: int) -> None:
    async with cluster(1) as it:
        late = await it.nodes.listen("bob", cluster=it.another("late"))
        for _ in range(turns):
            await asyncio.sleep(0)
        cancel_all_others()
        await until(lambda: late.cluster.hubs and it.hubs[0].cluster.hubs)


@in_virtual_time
async def test_news_of_hubs_that_waits_behind_a_cancelled_handler_is_told() -> None:
    async with cluster() as it:
        hub, begun = it.hubs[0], asyncio.Event()

        async def hang(**_: object) -> None:
            begun.set()
            await asyncio.Event().wait()

        hub.events.register("hub_suspended", hang)
        log = EventLog(hub, "hub_resumed")
        it.bus.take_down()
        await begun.wait()
        it.bus.bring_up()
        await until(lambda: hub.cluster.hubs[0].connected)
        cancel_all_others()
        await log.until("hub_resumed")
