"""Restart the hubs of a cluster in turn, under load: ``python -m tests.soak.rolling_restart``.

One hub, the origin, sends numbered messages without a pause to many peers of other hubs, which are
processes of their own. Those are told to stop, one after the other, and started again; their peers
reconnect elsewhere, through a balancer that picks a hub at random. Everything that the origin has
accepted must arrive once and in order: nothing may be reported as lost. Prints a summary, and exits
with code 1 if that fails. (``landing_elsewhere`` does the same to what peers and their own hubs
send each other.) The hubs meet in a folder, at a nats-server on loopback, or by a list of their
addresses.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from soak.kill_hub import Load, meeting_place, start_hub
from soak.landing_elsewhere import Hubs, Side

PAUSE = 0.05
"""Each peer is sent a message at most every so many seconds."""


async def serve(where: str, name: str) -> None:
    """Run as a hub until SIGTERM; print the port once the origin is there, at the end a report."""
    end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end.set)
    node = await start_hub(where, name)
    await end.wait()
    lost = await node.stop()
    print(Side(failures=[f"{name}, at the stop: {error}" for error in lost]).report(), flush=True)


async def soak(hub_count: int, peer_count: int, rounds: int, seed: int, at: str) -> int:
    """Run it; return the exit code."""
    began = time.monotonic()
    with ExitStack() as around:
        where = meeting_place(at, around, hub_count)
        hubs = Hubs(__file__, hub_count, where)
        load = Load(where, hubs, peer_count, random.Random(seed), batch=1, pause=PAUSE)  # noqa: S311
        accounts = load.accounts.values()
        async with load.under_way(hubs):
            for name in hubs.names * rounds:
                await asyncio.sleep(0.5)
                await hubs.stop(name)
                await hubs.start(name)
                await load.heard_from(load.peers)
    problems = [*hubs.seen.failures, *(text for each in accounts for text in each.problems())]
    reported = sum(len(each.unsent) + len(each.unknown) for each in accounts)
    if reported:
        problems.append(f"{reported} messages reported as lost")
    print(*problems[:20], sep="\n", end="\n" if problems else "")
    accepted = sum(each.accepted for each in accounts)
    print(
        f"{rounds * hub_count} hubs restarted, {peer_count} peers, {accepted} messages; "
        f"{time.monotonic() - began:.0f} s; "
        + ("FAILED" if problems else "every message once and in order: all ok")
    )
    return 1 if problems else 0


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hubs", type=int, default=3, help="besides the origin (%(default)s)")
    parser.add_argument("--peers", type=int, default=300, help="how many (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="of restarts (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of all random choices")
    parser.add_argument("--at", choices=["folder", "nats", "list"], default="folder")
    parser.add_argument("--hub", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable()  # else it warns of each connection that could not be made at once
    if options.hub is not None:
        asyncio.run(serve(*options.hub))
        return 0
    return asyncio.run(soak(options.hubs, options.peers, options.rounds, options.seed, options.at))


if __name__ == "__main__":
    sys.exit(main())
