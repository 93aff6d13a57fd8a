"""Print what peers say, and answer their requests. Part of the tutorial."""

import asyncio
from contextlib import suppress

from seigr_toolset_transmissions import STTNode, load_seed


async def main() -> None:
    node = STTNode(load_seed("hub.seed"), load_seed("shared.seed"), "", 9400)

    @node.events.on("data_received")
    async def show(session_id: bytes, data: bytes) -> None:
        print(data.decode(), flush=True)

    @node.on_request
    async def answer(peer_node_id: bytes, data: bytes) -> bytes:
        return data.upper()

    async with node.listening():
        print("the hub's node id:", node.node_id.hex(), flush=True)
        await asyncio.Event().wait()  # until Ctrl-C


with suppress(KeyboardInterrupt):
    asyncio.run(main())
