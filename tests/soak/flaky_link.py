"""Links that are cut again and again, and usable at once: ``python -m tests.soak.flaky_link``.

Over TCP on loopback, with default settings, a link is cut every 1, 3, 5 and 9 seconds, busy and
idle; the program measures how much of the time both ends are connected, and checks what gets
across. Then, in virtual time, a hiccup cuts many sessions at once, and a node dials many peers that
accept and drop at once; the program counts its dials. Prints the results, and exits with code 1 if
any of them is not good enough.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections import Counter
from itertools import repeat
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.clock import run_virtual
from helpers.fault_network import Direction, Fault, FaultNetwork, Kind
from helpers.nodes import SHARED_SEED
from seigr_toolset_transmissions import NodeConfig, Session, STTNode
from seigr_toolset_transmissions.transports.memory import MemoryNetwork
from seigr_toolset_transmissions.transports.tcp import TcpNetwork

LEAST_SHARES = {1: 0.8, 3: 0.9, 5: 0.95, 9: 0.95}
"""The share of the time that must be spent connected, by the seconds between two cuts."""
WELCOMED = 160 + 39
"""Bytes that a listener has sent by the end of its WELCOME."""
_IDENTITIES = 20
"""Identities that the many peers share: each takes a tenth of a second to derive."""
MOST_DIALS = 0.1
"""Dials a second, in the long run, to each peer that accepts and drops at once."""


async def pair_of(
    network: FaultNetwork, name: bytes, config: NodeConfig | None = None
) -> tuple[STTNode, STTNode, Session]:
    """Make a listener and a dialer with a session."""
    listener = STTNode(name + b" listener's seed", SHARED_SEED, config=config, network=network)
    dialer = STTNode(name + b" dialer's own seed", SHARED_SEED, config=config, network=network)
    address = await listener.start(server_mode=True)
    assert address is not None
    await dialer.start()
    return listener, dialer, await dialer.connect(*address)


async def flaky(life: int, seconds: float, *, busy: bool) -> bool:
    """Cut a link every ``life`` seconds; return whether all went well."""
    network = FaultNetwork(TcpNetwork())
    listener, dialer, near = await pair_of(network, b"flaky %d %d" % (life, busy))
    loop = asyncio.get_running_loop()
    began = loop.time()
    cut_at = began + life
    samples = connected = sent = 0
    while (now := loop.time()) < began + seconds:
        if now >= cut_at:
            network.cables[-1].cut(Kind.RST)
            cut_at += life
        far = listener.get_session(near.session_id)
        samples += 1
        connected += near.state == "open" and far is not None and far.state == "open"
        if busy:
            near.send_nowait(b"%d" % sent)
            sent += 1
        await asyncio.sleep(0.01)
    received = [(await listener.endpoints.receive_any(timeout=40))[0] for _ in range(sent)]
    share = connected / samples
    right = received == [b"%d" % number for number in range(sent)]
    good = right and share >= LEAST_SHARES[life]
    await dialer.stop(drain=1)
    await listener.stop(drain=1)
    print(
        f"cut every {life} s, {'busy' if busy else 'idle'}: connected {share:.0%} of the time, "
        f"{near.stats.resumes} resumptions, {sent} messages "
        f"{'once and in order' if right else 'NOT RIGHT'}: {'ok' if good else 'FAILED'}",
        flush=True,
    )
    return good


async def hiccup(count: int) -> bool:
    """Cut all sessions at once; return whether none was lost."""
    network = FaultNetwork(MemoryNetwork())
    config = NodeConfig(max_sessions_per_peer=count)
    listener, dialer, near = await pair_of(network, b"hiccup", config)
    assert listener.address is not None
    for _ in range(count - 1):
        await dialer.connect(*listener.address)
    for cable in network.cables:
        cable.cut(Kind.RST)
    await asyncio.sleep(20)
    lost = dialer.stats().sessions_lost + listener.stats().sessions_lost
    good = lost == 0 and near.stats.resumes == 1
    print(f"{count} sessions cut at once: {lost} lost: {'ok' if good else 'FAILED'}", flush=True)
    await dialer.stop(drain=0)
    await listener.stop(drain=0)
    return good


async def storm(count: int) -> bool:
    """Lose the sessions with many peers that then accept and drop at once; count the dials."""
    network = FaultNetwork(MemoryNetwork())
    config = NodeConfig(max_sessions_per_peer=count, resume_window=1e6)
    nodes = [
        STTNode(b"storm listener's seed %d" % number, SHARED_SEED, config=config, network=network)
        for number in range(_IDENTITIES)
    ]
    dialer = STTNode(b"storm dialer's own seed", SHARED_SEED, config=config, network=network)
    await dialer.start()
    for node in nodes:
        address = await node.start(server_mode=True)
        assert address is not None
        for _ in range(count // _IDENTITIES):
            await dialer.connect(*address)
    loop = asyncio.get_running_loop()
    network.faults = repeat(Fault(Direction.IN, WELCOMED, Kind.RST))
    dials: Counter[int] = Counter()
    for cable in network.cables:
        cable.cut(Kind.RST)
    began = loop.time()
    network.cables.clear()
    while loop.time() < began + 180:
        await asyncio.sleep(1)
        dials[int(loop.time() - began)] += len(network.cables)
        network.cables.clear()
    first, late = sum(dials[k] for k in range(11)), sum(dials[k] for k in range(121, 181)) / 60
    good = late <= MOST_DIALS * count
    print(
        f"{count} peers that accept and drop at once: {first} dials in the first 10 s, "
        f"{late:.1f} a second after two minutes: {'ok' if good else 'FAILED'}",
        flush=True,
    )
    network.faults = iter(())
    await asyncio.gather(*(node.stop(drain=0) for node in (dialer, *nodes)))
    return good


async def links(seconds: float) -> bool:
    """Run all flaky links at the same time."""
    runs = [flaky(life, seconds, busy=busy) for life in LEAST_SHARES for busy in (True, False)]
    return all(await asyncio.gather(*runs))


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seconds",
        type=float,
        default=60,
        help="how long to keep cutting each link (default: %(default)s)",
    )
    parser.add_argument(
        "--sessions", type=int, default=1500, help="how many to cut at once (default: %(default)s)"
    )
    parser.add_argument(
        "--peers",
        type=int,
        default=1000,
        help="how many accept and drop at once (default: %(default)s)",
    )
    options = parser.parse_args()
    logging.disable()  # else it warns of each session ended with messages under way
    good = asyncio.run(links(options.seconds))
    good = run_virtual(hiccup(options.sessions)) and good
    good = run_virtual(storm(options.peers)) and good
    print("all ok" if good else "FAILED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
