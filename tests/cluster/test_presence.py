"""Watching which endpoints join and leave a cluster, and move from hub to hub."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from helpers.cluster import cluster, hub_of
from helpers.nodes import EventLog, address_of, in_virtual_time, live, until
from seigr_toolset_transmissions.stats import Presence

if TYPE_CHECKING:
    from seigr_toolset_transmissions.node.cluster_base import PresenceStream


async def read(changes: PresenceStream, count: int) -> list[Presence]:
    """Return the next changes."""
    async with asyncio.timeout(30):
        return [await anext(changes) for _ in range(count)]


async def nothing(changes: PresenceStream, seconds: float = 1.0) -> None:
    """Check that nothing changes for a while."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            raise AssertionError(await anext(changes))


@in_virtual_time
async def test_who_is_there_comes_first_and_then_who_joins_and_leaves() -> None:
    async with cluster(3) as it:
        alice, carol = await it.peer("alice", it.hubs[1]), await it.peer("carol", it.hubs[0])
        async with it.hubs[0].cluster.watch() as changes:
            assert {change.endpoint_id: change for change in await read(changes, 2)} == {
                alice.node_id: Presence(alice.node_id, "hub-1", None),
                carol.node_id: Presence(carol.node_id, "hub-0", None),
            }
            await alice.stop()
            await carol.stop()
            assert set(await read(changes, 2)) == {
                Presence(alice.node_id, None, "hub-1"),
                Presence(carol.node_id, None, "hub-0"),
            }
            await it.peer("dave", it.hubs[2])
            [joined] = await read(changes, 1)
            assert (joined.hub, joined.former_hub) == ("hub-2", None)
            await nothing(changes)


@in_virtual_time
async def test_an_endpoint_with_a_session_at_two_hubs_moves_and_never_leaves() -> None:
    async with cluster(3) as it:
        alice = await it.peer("alice", it.hubs[1])
        async with it.hubs[0].cluster.watch() as far, it.hubs[1].cluster.watch() as near:
            await read(far, 1)
            await read(near, 1)
            broken = live(it.hubs[1].get_session_for_endpoint(alice.node_id))
            live(alice.get_session_for_endpoint(it.hubs[1].node_id)).dial_address = ("nowhere", 1)
            broken.cut("test")
            await alice.connect(*address_of(it.hubs[2]))
            moved = Presence(alice.node_id, "hub-2", "hub-1")
            assert await read(far, 1) == [moved]
            assert await read(near, 1) == [moved]
            await nothing(far)
            await nothing(near)


@in_virtual_time
async def test_a_new_session_with_the_same_hub_is_no_change() -> None:
    async with cluster() as it:
        alice = await it.peer("alice", it.hubs[1])
        async with it.hubs[0].cluster.watch() as changes:
            await read(changes, 1)
            await alice.connect(*address_of(it.hubs[1]))
            await nothing(changes)


@in_virtual_time
async def test_endpoints_leave_with_a_lost_hub_but_not_with_a_suspended_one() -> None:
    async with cluster(grace=5) as it:
        alice = await it.peer("alice", it.hubs[1])
        log = EventLog(it.hubs[0], "hub_suspended", "hub_lost")
        async with it.hubs[0].cluster.watch() as changes:
            await read(changes, 1)
            it.bus.take_down()
            await log.until("hub_suspended")
            await nothing(changes, 2)
            assert await read(changes, 1) == [Presence(alice.node_id, None, "hub-1")]
            await log.until("hub_lost")
            it.bus.bring_up()
            assert await read(changes, 1) == [Presence(alice.node_id, "hub-1", None)]


@in_virtual_time
async def test_a_hub_that_joins_later_is_watched_too() -> None:
    async with cluster() as it, it.hubs[0].cluster.watch() as changes:
        late = await it.nodes.listen("bob", cluster=it.another("late"))
        it.hubs.append(late)
        alice = await it.peer("alice", late)
        assert await read(changes, 1) == [Presence(alice.node_id, "late", None)]


@in_virtual_time
async def test_a_slow_reader_gets_what_is_so_in_the_end_and_how_much_it_has_missed() -> None:
    async with cluster() as it:
        alice, carol = await it.peer("alice", it.hubs[0]), await it.peer("carol", it.hubs[1])
        hub = it.hubs[0]
        async with hub.cluster.watch() as changes:
            await read(changes, 2)
            for _ in range(3):  # it joins and leaves while nobody reads
                await carol.stop()
                await until(lambda: hub.cluster.locate(carol.node_id) is None)
                await carol.start()
                await carol.connect(*address_of(it.hubs[1]))
                await until(lambda: hub.cluster.locate(carol.node_id))
            await alice.stop()
            await until(lambda: hub.cluster.locate(alice.node_id) is None)
            await carol.stop()
            await until(lambda: hub.cluster.locate(carol.node_id) is None)
            assert set(await read(changes, 2)) == {
                Presence(alice.node_id, None, "hub-0"),
                Presence(carol.node_id, None, "hub-1"),
            }
            assert changes.skipped == 6
            await nothing(changes)


@in_virtual_time
async def test_the_iteration_ends_with_the_node_after_what_has_happened() -> None:
    async with cluster() as it:
        alice = await it.peer("alice", it.hubs[1])
        hub = it.hubs[0]
        async with hub.cluster.watch() as changes, hub.cluster.watch() as others:

            async def read_all() -> list[Presence]:
                return [change async for change in others]

            waiting = asyncio.create_task(read_all())
            await until(lambda: hub_of(hub).watching._places)
            await hub.stop(drain=0)
            joined = Presence(alice.node_id, "hub-1", None)
            assert [change async for change in changes] == [joined]
            assert await waiting == [joined]
        with pytest.raises(RuntimeError, match="not running"):
            async with hub.cluster.watch():
                pass


@in_virtual_time
async def test_leaving_the_block_ends_every_reader_and_a_cancelled_read_loses_nothing() -> None:
    async with cluster() as it:
        async with it.hubs[0].cluster.watch() as changes:
            await nothing(changes)
            alice = await it.peer("alice", it.hubs[1])
            assert await read(changes, 1) == [Presence(alice.node_id, "hub-1", None)]
            reading = asyncio.create_task(anext(aiter(changes), None))
            await asyncio.sleep(0)
        assert await reading is None


@in_virtual_time
async def test_ids_travel_only_while_a_hub_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster() as it:
        told: list[bytes] = []
        watching = hub_of(it.hubs[0]).watching
        monkeypatch.setattr(watching, "told", told.extend)
        await it.peer("alice", it.hubs[1])
        assert told == []
        monkeypatch.undo()
        async with it.hubs[0].cluster.watch() as changes, it.hubs[0].cluster.watch():
            await read(changes, 1)
            (other,) = hub_of(it.hubs[1]).others.values()
            assert other.link.wants_ids
        await until(lambda: not other.link.wants_ids)
        assert not watching._places
        assert not watching._ids
        monkeypatch.setattr(watching, "told", told.extend)
        await it.peer("carol", it.hubs[1])
        assert told == []


@in_virtual_time
async def test_two_ids_with_one_fingerprint_leave_nothing_behind() -> None:
    async with cluster() as it:
        alice = await it.peer("alice", it.hubs[1])
        watching = hub_of(it.hubs[0]).watching
        twin = alice.node_id[:8] + bytes(24)
        async with it.hubs[0].cluster.watch() as changes:
            await read(changes, 1)
            watching.told([twin])
            await alice.stop()
            assert await read(changes, 1) == [Presence(alice.node_id, None, "hub-1")]
            watching.told([twin])
            assert not watching._places
            assert not watching._ids
