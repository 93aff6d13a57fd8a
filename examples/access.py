"""Control who may come in: allow a list of node ids, and ban one of them."""

import asyncio
from typing import Any

from seigr_toolset_transmissions import STTNode, generate_seed
from seigr_toolset_transmissions.errors import STTConnectError


async def main() -> None:
    shared_seed = generate_seed()
    guest, stranger = (STTNode(generate_seed(), shared_seed) for _ in range(2))
    hub = STTNode(generate_seed(), shared_seed, allow={guest.node_id})

    @hub.events.on("error")
    async def on_error(error_type: str, details: dict[str, Any]) -> None:
        if error_type == "peer_denied" and details["peer_node_id"] == stranger.node_id:
            print("the hub refused the stranger:", details["reason"])

    async with hub.listening(), guest, stranger:
        host, port = hub.address or ("", 0)
        session = await guest.connect(host, port)
        print("the guest is in:", session.state)
        try:
            await stranger.connect(host, port)
        except STTConnectError as error:
            print("the stranger is not:", error)

        session.send_nowait(b"something rude")
        await hub.endpoints.receive_any()
        await hub.ban(guest.node_id)
        await session.wait_closed()
        try:
            await guest.connect(host, port)
        except STTConnectError as error:
            print("the guest, banned:", error)

        await hub.unban(guest.node_id)
        session = await guest.connect(host, port)
        print("and forgiven:", session.state)


asyncio.run(main())
