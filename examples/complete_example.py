"""The specification's complete example, plus the two names that it leaves to the reader.

It uses an endpoint manager and an event emitter of its own next to the node, and simulates the
peer. `first.py` does the same with the node's own endpoints and events, and a real peer.
"""
# mypy: ignore-errors
# (without annotations, as in the specification)

import asyncio
import time

from seigr_toolset_transmissions import STTNode
from seigr_toolset_transmissions.endpoints import EndpointManager
from seigr_toolset_transmissions.events import EventEmitter


async def endpoint_example():
    shared_seed = b"shared_secret_32bytes_minimum!"

    # Create node
    node = STTNode(
        node_seed=b"node" * 8,
        shared_seed=shared_seed,
        port=8080,
    )
    get_session_for_endpoint = node.get_session_for_endpoint
    await node.start(server_mode=True)

    # Create endpoint manager
    async def send_via_node(endpoint_id, data):
        # Find session for endpoint
        session = get_session_for_endpoint(endpoint_id)
        if session:
            await node.send_to_sessions([session.session_id], data)

    endpoints = EndpointManager(transport_send_callback=send_via_node)

    # Create event system
    events = EventEmitter()

    # Register handlers
    @events.on("peer_connected")
    async def handle_peer_connected(endpoint_id):
        print(f"New peer: {endpoint_id.hex()[:16]}...")

        # Add to endpoint manager
        await endpoints.add_endpoint(
            endpoint_id=endpoint_id,
            address=("unknown", 0),  # Will be updated
            metadata={"connected_at": time.time()},
        )

    @events.on("peer_message")
    async def handle_message(endpoint_id, message):
        print(f"Message from {endpoint_id.hex()[:16]}: {message}")

    # Simulate peer connecting
    peer_id = b"peer_node_id_32bytes!!!!!!!!"
    await events.emit("peer_connected", endpoint_id=peer_id)

    # Send to peer
    await endpoints.send_to_endpoint(peer_id, b"Hello peer!")

    # Simulate receiving message
    await events.emit("peer_message", endpoint_id=peer_id, message=b"Hello back!")

    # List endpoints
    print(f"\nActive endpoints: {len(endpoints.list_endpoints())}")
    for ep_id in endpoints.list_endpoints():
        info = endpoints.get_endpoint(ep_id)
        print(f"  {ep_id.hex()[:16]}: {info['metadata']}")

    await node.stop()


asyncio.run(endpoint_example())
