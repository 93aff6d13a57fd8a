"""One hub of the demo of a cluster, a process of its own; see `puppet`.

It listens, meets the other hubs, and sends to endpoints wherever they are. It says who is connected
to it, what happens, and which of the messages that it has accepted may be lost.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from ... import STTError, STTNode
from ...cluster import Cluster
from .numbers import number_of, numbered
from .puppet import report, take_part

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_GRACE_SECONDS = 2.0
"""A killed hub counts as lost soon: people are watching."""

_STOP_SECONDS = 5.0
_RETRY_SECONDS = 0.02


class _Hub:
    """What a hub does with its orders."""

    def __init__(self, node: STTNode) -> None:
        self._node = node
        self._lost: dict[str, list[int]] = defaultdict(list)  # by id, as text
        self._known: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        node.events.register("data_received", self._on_message)
        for name in ("hub_joined", "hub_suspended", "hub_resumed", "hub_lost"):
            node.events.register(name, self._hub_event(name))
        node.events.register("peer_connected", self._on_peers)
        node.events.register("peer_disconnected", self._on_peers)
        node.events.register("error", self._on_error)

    async def play(self, orders: AsyncIterator[bytes]) -> None:
        """Obey until told to leave, or until the orders end."""
        node = self._node
        async for line in orders:
            order = json.loads(line)
            match order["do"]:
                case "send":
                    ids = [bytes.fromhex(text) for text in order["to"]]
                    self._own(self._send(ids, order["total"], order["gap"]))
                case "say":
                    await self._deliver(bytes.fromhex(order["to"]), order["text"].encode())
                case "broadcast":
                    tally = await node.cluster.broadcast(order["text"].encode())
                    report(kind="tally", accepted=tally.accepted, refused=tally.refused)
                case "find":
                    found = await node.cluster.find(**order["metadata"])
                    report(kind="found", ids=sorted(each.hex() for each in found))
                case "leave":
                    return

    def _own(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, ids: list[bytes], total: int, gap: float) -> None:
        await asyncio.gather(*(self._send_numbers(each, total, gap) for each in ids))
        report(kind="sent")

    async def _send_numbers(self, endpoint_id: bytes, total: int, gap: float) -> None:
        for number in range(total):
            await self._deliver(endpoint_id, numbered(number))
            await asyncio.sleep(gap)

    async def _deliver(self, endpoint_id: bytes, data: bytes) -> None:
        while True:
            try:
                return await self._node.endpoints.send_to_endpoint(endpoint_id, data)
            except STTError:  # it is between two hubs: nothing was accepted
                await asyncio.sleep(_RETRY_SECONDS)

    async def _on_message(self, session_id: bytes, data: bytes) -> None:
        session = self._node.get_session(session_id)
        if session is not None:
            self._node.endpoints.update_endpoint(session.peer_node_id, metadata=json.loads(data))
            self._known.add(session.peer_node_id.hex())
            report(kind="known", ids=sorted(self._known))

    def _hub_event(self, name: str) -> Any:
        async def on_event(hub: str) -> None:
            report(kind="heard", text=f"{name} {hub}")
            report(kind="hubs", names=sorted(each.name for each in self._node.cluster.hubs))

        return on_event

    async def _on_peers(self, peer_node_id: bytes) -> None:
        ids = {session.peer_node_id.hex() for session in self._node.sessions}
        report(kind="peers", ids=sorted(ids))

    async def _on_error(self, error_type: str, details: dict[str, Any]) -> None:
        report(kind="heard", text=f"error {error_type}")
        messages = (*details.get("unsent", ()), *details.get("unknown", ()))
        if messages:
            lost = self._lost[details["peer_node_id"].hex()]
            lost += [number for number in map(number_of, messages) if number is not None]
            report(kind="lost", numbers=self._lost)


async def _play(part: dict[str, Any], orders: AsyncIterator[bytes]) -> None:
    node = STTNode(
        bytes.fromhex(part["seed"]),
        bytes.fromhex(part["shared"]),
        cluster=Cluster(part["where"], name=part["name"], grace=_GRACE_SECONDS),
    )
    hub = _Hub(node)
    address = await node.start(server_mode=True)
    assert address is not None  # noqa: S101  it listens
    report(kind="listens", port=address[1])
    try:
        await hub.play(orders)
    finally:
        await node.stop(drain=_STOP_SECONDS)


if __name__ == "__main__":
    asyncio.run(take_part(_play))
