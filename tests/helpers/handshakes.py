"""Handshakes with a node, message by message."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from helpers.nodes import (
    SHARED_SEED,
    seed_of,
)
from seigr_toolset_transmissions.identity import Identity, derive_psk
from seigr_toolset_transmissions.protocol.hello import Opening, OpeningKind
from seigr_toolset_transmissions.protocol.noise import Handshake

if TYPE_CHECKING:
    from seigr_toolset_transmissions.transports.base import Address

__all__ = ["FIRST", "SECOND", "THIRD", "Raw", "handshake", "opening"]


FIRST, SECOND, THIRD = 64, 160, 160
"""Sizes of the three messages (docs/wire-format.md)."""


def handshake(name: str, *, initiator: bool, shared: bytes = SHARED_SEED) -> Handshake:
    return Handshake(
        initiator=initiator,
        static=Identity.from_seed(seed_of(name)).private_key,
        ephemeral=X25519PrivateKey.generate,
        psk=derive_psk(shared),
    )


def opening(kind: OpeningKind = OpeningKind.NEW, **fields: Any) -> bytes:
    facts: dict[str, Any] = {
        "kind": kind,
        "max_message_bytes": 1 << 22,
        "incarnation": b"i" * 16,
        "session_id": bytes(16),
        "epoch": 0,
        "recv_next": 0,
        "credit": 1 << 23,
    }
    return Opening(**facts | fields).encode()


class Raw:
    """A raw connection to a listening node."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, address: Address) -> Raw:
        return cls(*await asyncio.open_connection(*address))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def receive(self, size: int) -> bytes:
        async with asyncio.timeout(9):
            return await self.reader.readexactly(size)

    async def answer(self) -> bytes:
        """Everything that the listener sends until it ends the connection."""
        data = b""
        try:
            async with asyncio.timeout(9):
                while chunk := await self.reader.read(1 << 16):
                    data += chunk
        except ConnectionResetError:
            pass
        await self.close()
        return data

    def finish(self) -> None:
        self.writer.write_eof()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()
