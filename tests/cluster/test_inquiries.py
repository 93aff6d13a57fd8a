"""Searches whose answers take several messages."""

from __future__ import annotations

from unittest.mock import patch

from helpers.cluster import cluster, hub_of
from helpers.nodes import in_virtual_time


@in_virtual_time
async def test_a_search_finds_more_endpoints_than_fit_in_one_message() -> None:
    async with cluster() as it:
        there = [number.to_bytes(32) for number in range(1, 200_001)]
        with patch.object(hub_of(it.hubs[1]).inquiries, "_found_here", lambda _: there[::-1]):
            found = await it.hubs[0].cluster.find(room="7")
        assert sorted(found) == there
