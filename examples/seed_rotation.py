"""Change a group's shared seed while it works: no session ends, and no message is lost."""

import asyncio

from seigr_toolset_transmissions import STTNode, generate_seed
from seigr_toolset_transmissions.errors import STTConnectError


async def main() -> None:
    old, new = generate_seed(), generate_seed()
    hub, peer = STTNode(generate_seed(), old), STTNode(generate_seed(), old)
    late = STTNode(generate_seed(), old)  # nobody told it about the change
    async with hub.listening(), peer, late:
        host, port = hub.address or ("", 0)
        session = await peer.connect(host, port)
        # Complete each step on all nodes first. Nodes dial with the first seed and accept them all.
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
            print("with the old seed: no reply")


asyncio.run(main())
