"""100,000 random requests between two nodes in virtual time: ``python -m tests.soak.requests``.

Handlers fail in every way, callers give up at any moment, cables are cut, sessions are closed and
aborted, nodes are restarted (see ``tests/helpers/asking.py``). Prints what became of the requests,
and exits with code 1 if one had no outcome, was handled twice or out of order, or was told a
falsehood about that, or if tasks, timers, futures or memory are left behind.
"""

from __future__ import annotations

import argparse
import gc
import logging
import random
import sys
import time
from collections import Counter
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.asking import World, nodes_that_ask
from helpers.clock import run_virtual
from helpers.fault_network import FaultNetwork
from seigr_toolset_transmissions.protocol import exchanges
from seigr_toolset_transmissions.transports.memory import MemoryNetwork

ROUND = 2500
"""Requests of one life of the two nodes' world; then everything is compared."""


async def ask(seed: int, count: int, calm: bool, ended: Counter[str]) -> list[str]:
    """Ask ``count`` times, in several rounds; return what was wrong."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    exchanges.MAX_OPEN = chance.choice([4, 40, 1024])
    network = FaultNetwork(MemoryNetwork())
    async with nodes_that_ask(chance, network) as nodes:
        world = World(nodes, chance, network, calm=calm)
        await world.begin()
        blocks = 0
        while count > 0 and not world.wrong:
            await world.run(min(count, ROUND), at_once=chance.choice([5, 100]))
            count -= ROUND
            network.cables.clear()
            gc.collect()
            before, blocks = blocks, sys.getallocatedblocks()
            print(f"  seed {seed}: {blocks} blocks of memory", flush=True)
            if before and blocks - before > ROUND:
                world.wrong.append(f"{blocks - before} blocks of memory more than before")
        ended += world.ended
        return world.wrong


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000, help="in all")
    parser.add_argument("--seed", type=int, default=1, help="the first, one for each 10,000")
    parser.add_argument("--calm", action="store_true", help="let nothing but requests happen")
    parser.add_argument("--each", type=int, default=10_000, help="requests of each seed")
    options = parser.parse_args()
    logging.disable()
    began = time.monotonic()
    ended: Counter[str] = Counter()
    wrong: list[str] = []
    for seed in range(options.seed, options.seed + options.requests // options.each):
        found = run_virtual(ask(seed, options.each, options.calm, ended))
        wrong += [f"seed {seed}: {one}" for one in found]
        gc.collect()  # whatever is reported then is reported to the loop
    print("\n".join(wrong[:20]))
    print(", ".join(f"{name} {number}" for name, number in ended.most_common()))
    print(f"{time.monotonic() - began:.0f} s; {'FAILED' if wrong else 'all ok'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
