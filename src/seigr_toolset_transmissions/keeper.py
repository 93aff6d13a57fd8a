"""Peers to which the application wants to stay connected: who is dialled again, and when."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from .backoff import STABLE_SECONDS, pause
from .dial_slots import Rank
from .errors import STTConnectError, STTEndpointError

if TYPE_CHECKING:
    from .connecting import Connector
    from .registry import Registry

__all__ = ["Keeper"]


class _Kept:
    """One endpoint that is kept connected."""

    __slots__ = ("retry", "task")

    def __init__(self) -> None:
        self.retry = asyncio.Event()
        self.task: asyncio.Task[None]


class Keeper:
    """Keeps a session with each endpoint that was added with ``connect=True``."""

    def __init__(self, registry: Registry, connector: Connector) -> None:
        self._registry = registry
        self._connector = connector
        self._runtime = registry.runtime
        self._kept: dict[bytes, _Kept] = {}

    def want(self, endpoint_id: bytes) -> None:
        """Connect to the endpoint, and again whenever the session has ended, as long as wanted."""
        kept = self._kept.get(endpoint_id)
        if kept is not None:
            kept.retry.set()
            return
        kept = self._kept[endpoint_id] = _Kept()
        kept.task = self._runtime.own(self._keep(endpoint_id, kept))

    def waits(self, endpoint_id: bytes) -> bool:
        """Whether the endpoint is wanted; without a session, it is dialled in a while."""
        return endpoint_id in self._kept

    def retry_now(self, endpoint_id: bytes) -> None:
        """Dial without waiting for the back-off to pass."""
        kept = self._kept.get(endpoint_id)
        if kept is not None:
            kept.retry.set()

    def stop(self) -> None:
        """Dial nobody any more."""
        for kept in self._kept.values():
            kept.task.cancel()

    async def _keep(self, endpoint_id: bytes, kept: _Kept) -> None:
        runtime = self._runtime
        attempts = 0
        try:
            # A handler of what it tells may have stopped the node.
            while runtime.running and runtime.endpoints.wanted(endpoint_id):
                session = self._registry.routes.get(endpoint_id)
                try:
                    if session is None:
                        rank = Rank.AGAIN if attempts else Rank.WANTED
                        session = await self._connector.connect_to(endpoint_id, rank)
                except (STTConnectError, STTEndpointError) as error:
                    attempts += 1
                    details = {
                        "peer_node_id": endpoint_id,
                        "reason": str(error),
                        "attempts": attempts,
                    }
                    # In a task of their own: what handlers do to it does not end this one.
                    telling = runtime.own(runtime.emit_error("connect_failed", details))
                    await asyncio.wait((telling,))
                else:
                    began = runtime.loop.time()
                    await session.wait_closed()
                    # A peer that ends each session at once is not to be dialled again and again.
                    lasted = runtime.loop.time() - began >= STABLE_SECONDS
                    attempts = 0 if lasted or session.machine.progress else attempts + 1
                    kept.retry.clear()  # it was meant for dials before this session
                await pause(runtime.config, attempts, kept.retry, math.inf)
        finally:
            del self._kept[endpoint_id]
