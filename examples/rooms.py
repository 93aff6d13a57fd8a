"""Chat rooms: a peer joins one with ``/join NAME``; the others in there get what it says."""

import asyncio
from contextlib import AsyncExitStack

from seigr_toolset_transmissions import STTNode, generate_seed
from seigr_toolset_transmissions.errors import STTEndpointError


async def serve_rooms(node: STTNode) -> None:
    while True:
        try:
            data, sender = await node.endpoints.receive_any()
        except STTEndpointError:
            return  # the node has been stopped
        if sender not in node.endpoints:
            continue  # it has left
        if data.startswith(b"/join "):
            node.endpoints.join(data[6:].decode(), sender)
        else:
            for room in node.endpoints.groups(sender):
                await node.endpoints.send_to_group(room, data, exclude={sender}, timeout=1)


async def main() -> None:
    shared_seed = generate_seed()
    hub = STTNode(generate_seed(), shared_seed)
    people = {name: STTNode(generate_seed(), shared_seed) for name in ("ada", "ben", "cleo")}
    rooms = {"ada": "kitchen", "ben": "kitchen", "cleo": "cellar"}
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(hub.listening())
        for node in people.values():
            await stack.enter_async_context(node)
        serving = asyncio.create_task(serve_rooms(hub))
        for name, node in people.items():
            await node.endpoints.add_endpoint(hub.node_id, hub.address)
            await node.endpoints.send_to_endpoint(hub.node_id, f"/join {rooms[name]}".encode())
            for _ in range(1000):
                if hub.endpoints.groups(node.node_id):
                    break
                await asyncio.sleep(0.01)  # the hub has yet to let it in
        for name, node in people.items():
            await node.endpoints.send_to_endpoint(hub.node_id, f"{name} is here".encode())
        for name in ("ada", "ben"):  # cleo is alone in her room
            data, _ = await people[name].endpoints.receive_from(hub.node_id)
            print(f"{name} hears {data.decode()!r}")
    await serving  # it ends with the hub, and raises what went wrong in it


asyncio.run(main())
