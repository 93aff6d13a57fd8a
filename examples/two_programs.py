"""A hub and a peer as programs of their own, with their seeds in files. Run each in a terminal::

    stt keygen shared.seed && stt keygen hub.seed && stt keygen peer.seed
    python two_programs.py hub
    python two_programs.py peer ...       (the hub prints the whole line)

On two machines, give the hub's node a host ("" for all addresses) and a port, and the peer's a copy
of the shared seed, but of no other.
"""

import asyncio
import sys
from contextlib import suppress
from pathlib import Path

from seigr_toolset_transmissions import STTNode


def make_node(name: str) -> STTNode:
    node_seed, shared_seed = (
        bytes.fromhex(Path(f"{owner}.seed").read_text()) for owner in (name, "shared")
    )
    return STTNode(node_seed, shared_seed)


async def hub() -> None:
    node = make_node("hub")

    @node.events.on("data_received")
    async def answer(session_id: bytes, data: bytes) -> None:
        print(f"received {data.decode()!r}", flush=True)
        await node.send_to_sessions([session_id], data.upper())

    address = await node.start(server_mode=True)
    async with node:
        print("python two_programs.py peer", *address or (), node.node_id.hex(), flush=True)
        await asyncio.Event().wait()  # until it is interrupted


async def peer(host: str, port: str, hub_id: str) -> None:
    hub = bytes.fromhex(hub_id)
    async with make_node("peer") as node:
        await node.endpoints.add_endpoint(hub, (host, int(port)))
        for text in ("hello", "how are you?", "goodbye"):
            await node.endpoints.send_to_endpoint(hub, text.encode())
            answer, _ = await node.endpoints.receive_from(hub, timeout=10)
            print(answer.decode())


with suppress(KeyboardInterrupt):
    asyncio.run(hub() if sys.argv[1] == "hub" else peer(*sys.argv[2:]))
