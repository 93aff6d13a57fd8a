"""Peers to which the application wants to stay connected: who is dialled again, and when."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Protocol

from .backoff import pause
from .errors import STTConnectError, STTEndpointError

if TYPE_CHECKING:
    from collections.abc import Collection, Coroutine

    from .config import NodeConfig
    from .endpoints import EndpointManager
    from .live_session import Session

__all__ = ["Keeper"]


class _Node(Protocol):
    """What is needed of the node."""

    config: NodeConfig
    endpoints: EndpointManager

    @property
    def stopping(self) -> bool: ...
    def own(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]: ...
    def get_session_for_endpoint(self, endpoint_id: bytes) -> Session | None: ...
    async def dial_peer(self, endpoint_id: bytes) -> Session: ...
    async def emit_error(self, error_type: str, details: dict[str, Any]) -> None: ...


class _Kept:
    """One endpoint that is kept connected."""

    __slots__ = ("retry", "task")

    def __init__(self) -> None:
        self.retry = asyncio.Event()
        self.task: asyncio.Task[None]


class Keeper:
    """Keeps a session with each endpoint that was added with ``connect=True``."""

    def __init__(self, node: _Node) -> None:
        self._node = node
        self._kept: dict[bytes, _Kept] = {}

    def want(self, endpoint_id: bytes) -> None:
        """Connect to the endpoint, and again whenever the session has ended, as long as wanted."""
        kept = self._kept.get(endpoint_id)
        if kept is not None:
            kept.retry.set()
            return
        kept = self._kept[endpoint_id] = _Kept()
        kept.task = self._node.own(self._keep(endpoint_id, kept))

    def waits(self, endpoint_id: bytes) -> bool:
        """Whether the endpoint is wanted; without a session, it is dialled in a while."""
        return endpoint_id in self._kept

    def retry_now(self, endpoint_id: bytes) -> None:
        """Dial without waiting for the back-off to pass."""
        kept = self._kept.get(endpoint_id)
        if kept is not None:
            kept.retry.set()

    def stop(self, spare: Collection[asyncio.Task[Any]]) -> None:
        """Dial nobody any more. The tasks to spare run a handler that waits for the node's stop."""
        for kept in self._kept.values():
            if kept.task not in spare:
                kept.task.cancel()

    async def _keep(self, endpoint_id: bytes, kept: _Kept) -> None:
        node = self._node
        attempts = 0
        try:
            while node.endpoints.wanted(endpoint_id):
                session = node.get_session_for_endpoint(endpoint_id)
                try:
                    session = session or await node.dial_peer(endpoint_id)
                except (STTConnectError, STTEndpointError) as error:
                    attempts += 1
                    details = {
                        "peer_node_id": endpoint_id,
                        "reason": str(error),
                        "attempts": attempts,
                    }
                    await node.emit_error("connect_failed", details)
                else:
                    attempts = 0
                    await session.wait_closed()
                await pause(node.config, attempts, kept.retry, math.inf)
        finally:
            del self._kept[endpoint_id]
