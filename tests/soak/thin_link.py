"""Messages over links that are thin, or thin and short-lived: ``python -m tests.soak.thin_link``.

Over TCP on loopback, with default settings, it sends 60 kB to each of 40 peers that share a link of
64 kB/s, a message of 60 kB over 1 kB/s, and messages of many sizes over links of 1 kB/s that live
for three seconds each. Prints what arrived, and exits with code 1 if a message was lost, duplicated
or reordered, or if too many bytes went over the wire.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.nodes import SHARED_SEED, until
from helpers.thin_network import ThinNetwork
from seigr_toolset_transmissions import NodeConfig, STTNode
from seigr_toolset_transmissions.transports.tcp import TcpNetwork

MOST_WIRE = 1.5
"""Bytes on the wire for each byte of the messages, including handshakes and repeats."""
LATEST = 300.0
"""Seconds after which a scene counts as failed."""


async def scene(
    name: str, network: ThinNetwork, peers: int, messages: list[bytes], most_wire: float = MOST_WIRE
) -> bool:
    """Let a hub send the messages to each of its peers; return whether all went well."""
    config = NodeConfig(close_timeout=LATEST)
    hub = STTNode(b"thin hub's own seed", SHARED_SEED, config=config, network=network)
    address = await hub.start(server_mode=True)
    assert address is not None
    nodes = [
        STTNode(b"thin peer's seed %d" % number, SHARED_SEED, config=config, network=network)
        for number in range(peers)
    ]
    for node in nodes:
        await node.start()
    sessions = [await node.connect(*address) for node in nodes]
    await until(lambda: len(hub.sessions) == peers)
    began = time.monotonic()
    network.carried = dict.fromkeys(network.carried, 0)

    async def send_all() -> None:
        for message in messages:
            for session in hub.sessions:
                await session.send(message)

    async def receive_all(node: STTNode) -> bool:
        return [(await node.endpoints.receive_any())[0] for _ in messages] == messages

    sending = asyncio.create_task(send_all())
    try:
        async with asyncio.timeout(LATEST):
            right = sum(await asyncio.gather(*map(receive_all, nodes)))
    except TimeoutError:
        right = 0
    await sending
    seconds = time.monotonic() - began
    wire = sum(network.carried.values()) / (sum(map(len, messages)) * peers)
    resumes = sum(session.stats.resumes for session in sessions)
    network.life = None
    await asyncio.gather(*(node.stop(drain=0.1) for node in nodes))
    await hub.stop(drain=0.1)
    good = right == peers and wire <= most_wire
    print(
        f"{name}: {right} of {peers} peers have every message, once and in order, after "
        f"{seconds:.0f} s; {resumes} resumptions, {wire:.2f} bytes on the wire for each byte: "
        f"{'ok' if good else 'FAILED'}",
        flush=True,
    )
    return good


async def soak() -> int:
    """Run the scenes at the same time; return the exit code."""
    sizes = [5000, 0, 12, 900, 20_000, 1, 64, 3000]
    results = await asyncio.gather(
        scene(
            "60 kB to each over a shared 64 kB/s",
            ThinNetwork(TcpNetwork(), 64_000, shared=True),
            40,
            [bytes(60_000)],
        ),
        scene("60 kB over 1 kB/s", ThinNetwork(TcpNetwork(), 1000), 1, [bytes(60_000)]),
        scene(
            "29 kB over links of 1 kB/s that live 3 s",
            ThinNetwork(TcpNetwork(), 1000, life=3),
            1,
            [bytes([number]) * size for number, size in enumerate(sizes)],
            most_wire=3,
        ),
    )
    print("all ok" if all(results) else "FAILED")
    return 0 if all(results) else 1


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()  # there are no options except --help
    sys.exit(asyncio.run(soak()))
