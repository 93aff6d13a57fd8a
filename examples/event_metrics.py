"""Count events on a real node: with the specification's wrapper of `emit`, and with `on_any`."""

import asyncio
from typing import Any

from seigr_toolset_transmissions import EventEmitter, STTNode, generate_seed


class EventMetrics:
    def __init__(self, event_emitter: EventEmitter) -> None:
        self.events = event_emitter
        self.counters: dict[str, int] = {}
        original_emit = self.events.emit

        async def emit_with_metrics(event_name: str, **kwargs: Any) -> list[Any]:
            self.counters[event_name] = self.counters.get(event_name, 0) + 1
            return await original_emit(event_name, **kwargs)

        self.events.emit = emit_with_metrics  # type: ignore[method-assign]

    def get_stats(self) -> dict[str, int]:
        return self.counters


async def main() -> None:
    shared_seed = generate_seed()
    hub = STTNode(generate_seed(), shared_seed)
    peer = STTNode(generate_seed(), shared_seed)
    metrics = EventMetrics(hub.events)
    seen: list[str] = []

    @hub.events.on_any
    async def note(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(name)

    async with hub.listening(), peer:
        await peer.endpoints.add_endpoint(hub.node_id, hub.address)
        for number in range(3):
            await peer.endpoints.send_to_endpoint(hub.node_id, f"message {number}".encode())
            await hub.endpoints.receive_any()

    for name, count in metrics.get_stats().items():
        print(f"{name}: {count}")
    print("on_any saw the same:", all(seen.count(n) == c for n, c in metrics.get_stats().items()))


asyncio.run(main())
