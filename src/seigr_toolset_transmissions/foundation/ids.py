"""Ids as the log shows them."""

from __future__ import annotations

__all__ = ["short"]


def short(identity: bytes) -> str:
    """Return the first 8 bytes in hexadecimal: enough to find a peer or a session by."""
    return identity[:8].hex()
