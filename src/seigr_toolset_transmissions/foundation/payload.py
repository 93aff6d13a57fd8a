"""The types that a message may have."""

from __future__ import annotations

__all__ = ["as_bytes"]


def as_bytes(data: bytes | bytearray | memoryview) -> bytes:
    """Return the message as ``bytes``; any other type is copied, so it may change afterwards.

    Raises:
        TypeError: It is not bytes-like; the text names its type.

    """
    if isinstance(data, bytes):
        return data
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"data must be bytes, bytearray or memoryview, not {type(data).__name__}")
