"""One peer of the demo, a process of its own; see `puppet`."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from ... import NodeConfig, Session, STTError, STTNode
from .numbers import Tally, number_of, numbered
from .puppet import report, take_part

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_GOODBYE_SECONDS = 1.0
"""How long an orphan tries to say goodbye to a hub that is most likely gone too."""


class _Peer:
    """What a peer does with its orders."""

    def __init__(self, name: str, node: STTNode) -> None:
        self._name = name
        self._node = node
        self._tally = Tally()
        self._tasks: set[asyncio.Task[None]] = set()
        node.events.register("data_received", self._on_message)
        node.events.register("session_suspended", self._on_suspended)
        node.events.register("session_resumed", self._on_resumed)

    async def play(self, session: Session, orders: AsyncIterator[bytes]) -> None:
        """Obey until told to leave, or until the orders end."""
        async for line in orders:
            order = json.loads(line)
            match order["do"]:
                case "say":
                    await session.send(order["text"].encode())
                case "count":
                    task = asyncio.create_task(self._count(session, order["total"], order["gap"]))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                case "leave":
                    await session.flush()
                    await session.close()
                    report(kind="left", resumes=session.stats.resumes)
                    return

    async def _count(self, session: Session, total: int, gap: float) -> None:
        for number in range(total):
            await session.send(numbered(number))
            await asyncio.sleep(gap)
        await session.flush()
        report(kind="counted", total=total)

    async def _on_message(self, session_id: bytes, data: bytes) -> None:
        number = number_of(data)
        if number is None:
            report(kind="heard", text=data.decode())
        else:
            self._tally.add(number)
            tally = self._tally
            report(
                kind="tally",
                received=tally.received,
                doubled=tally.doubled,
                reordered=tally.reordered,
            )

    async def _on_suspended(self, session_id: bytes) -> None:
        report(kind="suspended")

    async def _on_resumed(self, session_id: bytes) -> None:
        report(kind="resumed")


async def _play(part: dict[str, Any], orders: AsyncIterator[bytes]) -> None:
    node = STTNode(
        bytes.fromhex(part["seed"]),
        bytes.fromhex(part["shared"]),
        config=NodeConfig(reconnect_delay_max=0.5),
    )
    peer = _Peer(part["name"], node)
    await node.start()
    try:
        session = await node.connect(
            part["host"], part["port"], expect=bytes.fromhex(part["expect"])
        )
        report(kind="connected", node_id=node.node_id.hex())
        await peer.play(session, orders)
    except STTError as error:
        report(kind="failed", error=type(error).__name__, reason=str(error))
    finally:
        await node.stop(drain=_GOODBYE_SECONDS)


if __name__ == "__main__":
    asyncio.run(take_part(_play))
