"""Ask the hub once, and then send it a number every second. Part of the tutorial."""

import asyncio
import sys
from contextlib import suppress
from itertools import count

from seigr_toolset_transmissions import STTNode, load_seed


async def main(host: str, hub: bytes) -> None:
    async with STTNode(load_seed("peer.seed"), load_seed("shared.seed")) as node:
        await node.endpoints.add_endpoint(hub, (host, 9400), connect=True)
        reply = await node.endpoints.request(hub, b"are you there?", timeout=30)
        print(reply.decode(), flush=True)
        for number in count(1):
            await node.endpoints.send_to_endpoint(hub, f"message {number}".encode())
            await asyncio.sleep(1)


with suppress(KeyboardInterrupt):
    asyncio.run(main(sys.argv[1], bytes.fromhex(sys.argv[2])))
