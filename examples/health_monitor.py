"""Check that peers are alive: the specification's health monitor, on real nodes.

One peer answers, one does not, and one is not there. The library's own `HealthMonitor` needs no
messages, but it can only tell whether the peer's node answers; here its program does.
"""

import asyncio

from seigr_toolset_transmissions import EndpointManager, STTError, STTNode, generate_seed


class HealthMonitor:
    def __init__(self, endpoint_manager: EndpointManager, *, patience: float = 5.0) -> None:
        self.endpoints = endpoint_manager
        self.patience = patience
        self.health_status: dict[bytes, str] = {}

    async def monitor(self) -> None:
        while True:
            await self.check_all()
            await asyncio.sleep(30)

    async def check_all(self) -> None:
        for endpoint_id in self.endpoints.list_endpoints():
            try:
                await self.endpoints.send_to_endpoint(endpoint_id, b"PING")
                response, _ = await asyncio.wait_for(
                    self.endpoints.receive_from(endpoint_id), timeout=self.patience
                )
                if response == b"PONG":
                    self.health_status[endpoint_id] = "healthy"
            except TimeoutError:
                self.health_status[endpoint_id] = "unhealthy"
            except STTError:
                self.health_status[endpoint_id] = "unreachable"


async def main() -> None:
    shared_seed = generate_seed()
    hub = STTNode(generate_seed(), shared_seed)
    lively = STTNode(generate_seed(), shared_seed)
    silent = STTNode(generate_seed(), shared_seed)
    absent = STTNode(generate_seed(), shared_seed)

    @lively.events.on("data_received")
    async def answer(session_id: bytes, data: bytes) -> None:
        if data == b"PING":
            await lively.send_to_sessions([session_id], b"PONG")

    async with hub, lively.listening(), silent.listening():
        await hub.endpoints.add_endpoint(lively.node_id, lively.address, {"name": "lively"})
        await hub.endpoints.add_endpoint(silent.node_id, silent.address, {"name": "silent"})
        await hub.endpoints.add_endpoint(absent.node_id, ("127.0.0.1", 1), {"name": "absent"})

        monitor = HealthMonitor(hub.endpoints, patience=0.5)
        await monitor.check_all()  # as `monitor` does every 30 seconds

        for endpoint_id, status in monitor.health_status.items():
            info = hub.endpoints.get_endpoint(endpoint_id)
            if info is not None:
                print(f"{info['metadata']['name']}: {status}, {info['state']}")


asyncio.run(main())
