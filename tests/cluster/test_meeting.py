"""Where hubs meet: what is opened is closed, even if something goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from typing import TYPE_CHECKING, Self

import pytest

from helpers.nodes import in_virtual_time, memory_nodes
from seigr_toolset_transmissions.cluster import Cluster
from seigr_toolset_transmissions.cluster.meeting import BusMeeting, FolderMeeting
from seigr_toolset_transmissions.transports.memory_bus import MemoryBus
from seigr_toolset_transmissions.transports.pipes import PipeNetwork
from seigr_toolset_transmissions.transports.sockets import UNIX

if TYPE_CHECKING:
    from pathlib import Path

    from seigr_toolset_transmissions.transports.bus import Arrived, Unsubscribe


class FailingBus(MemoryBus, contextlib.AbstractAsyncContextManager["FailingBus"]):
    """A bus that is opened and closed, and fails when it is told to."""

    def __init__(self, *, subscribing: bool = False, unsubscribing: bool = False) -> None:
        super().__init__()
        self.is_open = False
        self.fails = {"subscribe": subscribing, "unsubscribe": unsubscribing}

    async def subscribe(self, prefix: str, arrived: Arrived) -> Unsubscribe:
        if self.fails["subscribe"]:
            raise ConnectionResetError("subscribing failed")
        unsubscribe = await super().subscribe(prefix, arrived)

        async def fail() -> None:
            await unsubscribe()
            if self.fails["unsubscribe"]:
                raise ConnectionResetError("unsubscribing failed")

        return fail

    async def __aenter__(self) -> Self:
        self.is_open = True
        return self

    async def __aexit__(self, *error: object) -> None:
        self.is_open = False
        self._subscriptions.clear()


@pytest.mark.parametrize("fails", ["subscribing", "unsubscribing"])
@in_virtual_time
async def test_the_bus_is_closed_even_if_it_fails(fails: str) -> None:
    bus = FailingBus(**{fails: True})
    with pytest.raises(ConnectionResetError, match=f"{fails} failed"):
        async with BusMeeting(bus, PipeNetwork(bus), bytes(32)):
            assert bus.is_open
    assert not bus.is_open


@pytest.mark.parametrize("bus", [MemoryBus, FailingBus])
@in_virtual_time
async def test_a_node_that_starts_again_leaves_nothing_more_at_its_bus(
    bus: type[MemoryBus],
) -> None:
    here = bus()
    async with memory_nodes() as nodes:
        node = nodes.make("bob", cluster=Cluster(here, name="hub"))
        counts = set()
        for _ in range(3):
            async with node.listening():
                await asyncio.sleep(1)
            gc.collect()
            here.take_down()  # forgets those who watch it no more
            counts.add((len(here._watchers), len(here._subscriptions)))
            here.bring_up()
        assert len(counts) == 1


@pytest.mark.parametrize("name", ["", "x" * 256, "\N{SNOWMAN}" * 86])
def test_a_name_that_is_empty_or_too_long_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name must have 1 to 255 bytes"):
        Cluster("unix:///run/app/hubs", name=name)


def test_a_place_where_no_hub_can_ever_meet_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"^hubs cannot meet in /x+: the path of a Unix socket is"):
        Cluster(f"unix:///{'x' * 84}")
    Cluster(f"unix:///{'x' * 83}")
    for url in ("unix:///run/app?mode=700", "nats://ada:secret@broker?tls=1", "nats://broker#1"):
        with pytest.raises(ValueError, match=r"hubs cannot meet at .* a NATS server") as refusal:
            Cluster(url)
        assert "secret" not in str(refusal.value)


@pytest.mark.skipif(UNIX is None, reason="hubs meet in a folder")
async def test_what_a_killed_hub_has_left_in_the_folder_is_removed_after_a_while(
    tmp_path: Path,
) -> None:
    meeting = FolderMeeting(str(tmp_path))
    async with meeting:
        left = [tmp_path / "7.sock", tmp_path / "landing/7.sock"]
        for path in left:
            path.touch()
        meeting.refused((str(tmp_path), 7))
        assert [path for path in left if path.exists()] == left  # it may just be about to listen
        os.utime(left[0], (0, 0))
        meeting.refused((str(tmp_path), 7))
        assert not [path for path in left if path.exists()]
