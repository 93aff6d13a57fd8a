"""Two nodes in one program: a hub that listens, and a peer that writes to it."""

import asyncio

from seigr_toolset_transmissions import STTNode, generate_seed


async def main() -> None:
    shared_seed = generate_seed()  # the group's secret: anyone who knows it may connect
    hub = STTNode(generate_seed(), shared_seed)
    peer = STTNode(generate_seed(), shared_seed)
    async with hub.listening(), peer:
        await peer.endpoints.add_endpoint(hub.node_id, hub.address)
        await peer.endpoints.send_to_endpoint(hub.node_id, b"hello, hub")  # connects first
        data, sender = await hub.endpoints.receive_any()
        print(f"the hub received {data!r} from {sender.hex()[:16]}")
        await hub.endpoints.send_to_endpoint(sender, b"hello, peer")
        data, sender = await peer.endpoints.receive_from(hub.node_id)
        print(f"the peer received {data!r} from {sender.hex()[:16]}")


asyncio.run(main())
