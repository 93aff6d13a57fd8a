"""Give a group another shared seed while it works: no session ends, and no message is lost."""

import asyncio

from seigr_toolset_transmissions import STTNode, generate_seed
from seigr_toolset_transmissions.errors import STTConnectError


async def main() -> None:
    old, new = generate_seed(), generate_seed()
    hub, peer = STTNode(generate_seed(), old), STTNode(generate_seed(), old)
    late = STTNode(generate_seed(), old)  # who was not told of the change
    host, port = await hub.start(server_mode=True) or ("", 0)
    async with hub, peer, late:
        session = await peer.connect(host, port)
        # Each step on all nodes before the next. The first seed is used to dial, all are accepted.
        for step, seeds in enumerate(([old, new], [new, old], [new]), start=1):
            for node in (hub, peer):
                await node.set_shared_seed(seeds)
            await session.send(f"still here at step {step}".encode())
            data, _ = await hub.endpoints.receive_any()
            print(data.decode())
        again = await peer.connect(host, port)
        print("a new session with the new seed:", again.state)
        try:
            await late.connect(host, port)
        except STTConnectError:
            print("with the old seed: no answer")


asyncio.run(main())
