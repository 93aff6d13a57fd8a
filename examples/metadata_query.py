"""Describe peers with metadata, select some of them by it, and send to those."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from seigr_toolset_transmissions import STTNode, generate_seed

DESCRIPTIONS: list[dict[str, Any]] = [
    {"name": "attic", "node_type": "storage", "capacity_gb": 1000},
    {"name": "cellar", "node_type": "storage", "capacity_gb": 250},
    {"name": "gate", "node_type": "relay"},
]


async def main() -> None:
    shared_seed = generate_seed()
    hub = STTNode(generate_seed(), shared_seed)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(hub)
        nodes = []
        for metadata in DESCRIPTIONS:
            node = STTNode(generate_seed(), shared_seed)
            nodes.append(await stack.enter_async_context(node.listening()))
            await hub.endpoints.add_endpoint(node.node_id, node.address, metadata)

        def names(ids: list[bytes]) -> list[str]:
            infos = [hub.endpoints.get_endpoint(endpoint_id) for endpoint_id in ids]
            return [info["metadata"]["name"] for info in infos if info is not None]

        storage = hub.endpoints.find(node_type="storage")
        large = hub.endpoints.find(lambda metadata: metadata["capacity_gb"] > 500)
        print("storage:", ", ".join(names(storage)))
        print("large:", ", ".join(names(large)))

        outcomes = await hub.endpoints.send_to_many(storage, b"make room")
        print("accepted for all:", all(outcomes.values()))
        for node in nodes[:2]:
            data, _ = await node.endpoints.receive_any()
            print(f"received {data!r}")

        gone = asyncio.create_task(hub.events.wait_for("peer_disconnected"))
        await nodes[1].stop()  # from here on, nobody answers for the cellar
        await gone
        outcomes = await hub.endpoints.broadcast(b"and more", where={"node_type": "storage"})
        for name, outcome in zip(names(storage), outcomes.values(), strict=True):
            print(f"{name}: {outcome.name}")


asyncio.run(main())
