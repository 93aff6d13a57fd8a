"""Requests and replies: three questions at once, and one that the other side refuses."""

import asyncio

from seigr_toolset_transmissions import STTNode, generate_seed
from seigr_toolset_transmissions.errors import STTRequestFailedError


async def ask(node: STTNode, hub: bytes, names: list[str]) -> list[bytes]:
    questions = [node.endpoints.request(hub, name.encode(), timeout=5) for name in names]
    return await asyncio.gather(*questions)


def serve(node: STTNode) -> None:
    @node.on_request
    async def answer(peer_node_id: bytes, data: bytes) -> bytes:
        if data == b"nobody":
            raise STTRequestFailedError(b"no such name")  # what the peer gets to know
        return b"hello, " + data


async def main() -> None:
    shared_seed = generate_seed()
    hub, peer = (STTNode(generate_seed(), shared_seed) for _ in range(2))
    serve(hub)
    async with hub.listening(), peer:
        await peer.endpoints.add_endpoint(hub.node_id, hub.address)
        replies = await ask(peer, hub.node_id, ["ann", "bob", "cy"])
        print(*(reply.decode() for reply in replies), sep="; ")
        try:
            await ask(peer, hub.node_id, ["nobody"])
        except STTRequestFailedError as error:
            print("failed:", error.data.decode())


asyncio.run(main())
