"""Send one message to everyone and report it: the specification's broadcaster, on real nodes."""

import asyncio
from contextlib import AsyncExitStack

from seigr_toolset_transmissions import EndpointManager, EventEmitter, STTNode, generate_seed


class EndpointBroadcaster:
    def __init__(self, endpoint_manager: EndpointManager, event_emitter: EventEmitter) -> None:
        self.endpoints = endpoint_manager
        self.events = event_emitter
        self.events.on("broadcast_complete")(self.handle_broadcast_done)

    async def send_to_all(self, message: bytes) -> None:
        endpoint_ids = self.endpoints.list_endpoints()
        for endpoint_id in endpoint_ids:
            await self.endpoints.send_to_endpoint(endpoint_id, message)
        await self.events.emit("broadcast_complete", len(endpoint_ids))

    async def handle_broadcast_done(self, count: int) -> None:
        print(f"Message sent to {count} endpoints")


async def main() -> None:
    shared_seed = generate_seed()
    hub = STTNode(generate_seed(), shared_seed)
    peers = [STTNode(generate_seed(), shared_seed) for _ in range(3)]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(hub.listening())
        for peer in peers:
            await stack.enter_async_context(peer)
            await peer.endpoints.add_endpoint(hub.node_id, hub.address)
            await peer.endpoints.send_to_endpoint(hub.node_id, b"I am here")
            await hub.endpoints.receive_any()

        await EndpointBroadcaster(hub.endpoints, hub.events).send_to_all(b"to each in turn")
        for number, peer in enumerate(peers, start=1):
            data, _ = await peer.endpoints.receive_any()
            print(f"peer {number} received {data!r}")

        # What the library offers: all at once, with an outcome for each.
        outcomes = await hub.endpoints.broadcast(b"to all at once")
        print("accepted for", sum(map(bool, outcomes.values())), "of", len(outcomes))
        for number, peer in enumerate(peers, start=1):
            data, _ = await peer.endpoints.receive_any()
            print(f"peer {number} received {data!r}")


asyncio.run(main())
