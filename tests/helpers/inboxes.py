"""Managers whose inboxes are looked at: delivering to them, and receiving from them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from seigr_toolset_transmissions.endpoints import EndpointManager
from seigr_toolset_transmissions.endpoints.transport_side import TransportEndpoints as Side
from seigr_toolset_transmissions.errors import STTTimeoutError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

__all__ = ["X", "Y", "Z", "drain", "manager_with", "nothing_for", "start", "turns"]

T = TypeVar("T")

X, Y, Z = b"x", b"y", b"z"


def manager_with(*ids: bytes, **options: Any) -> EndpointManager:
    manager = EndpointManager(**options)
    for endpoint_id in ids:
        Side(manager).add_endpoint_nowait(endpoint_id, None)
    return manager


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def start(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Run the coroutine in a task until it waits."""
    task = asyncio.create_task(coroutine)
    await turns(2)
    return task


async def drain(manager: EndpointManager) -> list[tuple[bytes, bytes]]:
    """Receive whatever is there."""
    received = []
    while True:
        try:
            received.append(await manager.receive_any(timeout=0))
        except STTTimeoutError:
            return received


async def nothing_for(receiving: Awaitable[object]) -> bool:
    with pytest.raises(STTTimeoutError):
        await receiving
    return True
