"""Random requests both ways, whatever handlers, callers, cables and nodes do: one true outcome."""

from __future__ import annotations

import gc
import logging
import random

import pytest

from helpers.asking import World, nodes_that_ask
from helpers.fault_network import FaultNetwork
from helpers.nodes import in_virtual_time
from seigr_toolset_transmissions.protocol import exchanges
from seigr_toolset_transmissions.transports.memory import MemoryNetwork


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("calm", [True, False], ids=["calm", "unrest"])
def test_each_request_has_one_outcome_and_it_is_true(
    seed: int, calm: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)  # most handlers fail on purpose
    chance = random.Random(seed)  # noqa: S311 - no secret
    monkeypatch.setattr(exchanges, "MAX_OPEN", chance.choice([4, 40, 1024]))

    @in_virtual_time
    async def run() -> None:
        network = FaultNetwork(MemoryNetwork())
        async with nodes_that_ask(chance, network) as nodes:
            world = World(nodes, chance, network, calm=calm)
            await world.begin()
            await world.run(300, at_once=chance.choice([5, 100]))
            assert world.wrong == []
        gc.collect()

    run()
