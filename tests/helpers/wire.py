"""A manager that sends into a record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seigr_toolset_transmissions.endpoints import EndpointManager
from seigr_toolset_transmissions.endpoints.transport_side import TransportEndpoints as Side

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

__all__ = ["A", "B", "C", "D", "E", "Wire", "manager_with"]


A, B, C, D, E = (bytes([letter]) * 28 for letter in b"abcde")


class Wire:
    """A transport that records what it is given."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, bytes]] = []

    async def send(self, endpoint_id: bytes, data: bytes) -> None:
        self.sent.append((endpoint_id, data))


def manager_with(
    ids: Iterable[bytes],
    callback: Callable[[bytes, bytes], Awaitable[object]] | None = None,
    **options: Any,
) -> EndpointManager:
    manager = EndpointManager(callback, **options)
    for endpoint_id in ids:
        Side(manager).add_endpoint_nowait(endpoint_id, None)
    return manager
