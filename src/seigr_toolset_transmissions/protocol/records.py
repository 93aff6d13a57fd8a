"""Records: how the plaintext of frames travels encrypted (``docs/wire-format.md``).

A record is the length of a Noise transport message (two bytes, big-endian) and the message. Frames
are packed into as few records as possible.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .noise import MAX_PLAINTEXT_BYTES, TAG_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .noise import CipherState

__all__ = ["RECORD_HEADER_BYTES", "seal", "unseal"]

RECORD_HEADER_BYTES = 2
_OVERHEAD = RECORD_HEADER_BYTES + TAG_BYTES

_DIRECT_BYTES = 16 * 1024
"""Buffers of about this size or more are encrypted from where they lie in memory: joining them with
others would cost a copy, and another record costs less than that."""


def seal(cipher: CipherState, buffers: Sequence[bytes | memoryview]) -> bytes | bytearray:
    """Return the records that carry the buffers' bytes in order; these must not be empty."""
    size = sum(map(len, buffers))
    if size <= _DIRECT_BYTES:
        return (size + TAG_BYTES).to_bytes(RECORD_HEADER_BYTES) + cipher.encrypt(b"".join(buffers))
    if size < len(buffers) * _DIRECT_BYTES:
        plaintexts = list(_slices(b"".join(buffers)))
    else:
        plaintexts = list(_direct(buffers))
    sealed = bytearray(size + len(plaintexts) * _OVERHEAD)
    start = 0
    with memoryview(sealed) as view:
        for plaintext in plaintexts:
            stop = start + _OVERHEAD + len(plaintext)
            length = len(plaintext) + TAG_BYTES
            view[start : start + RECORD_HEADER_BYTES] = length.to_bytes(RECORD_HEADER_BYTES)
            cipher.encrypt_into(plaintext, view[start + RECORD_HEADER_BYTES : stop])
            start = stop
    return sealed


def _slices(buffer: bytes | memoryview) -> Iterator[bytes | memoryview]:
    view = memoryview(buffer)
    for start in range(0, len(view), MAX_PLAINTEXT_BYTES):
        yield view[start : start + MAX_PLAINTEXT_BYTES]


def _direct(buffers: Sequence[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """Yield plaintexts: each large buffer in slices of its own, and the others joined."""
    small: list[bytes | memoryview] = []
    for buffer in buffers:
        if len(buffer) < _DIRECT_BYTES:
            small.append(buffer)
            continue
        if small:
            yield from _slices(b"".join(small))
            small.clear()
        *full, rest = _slices(buffer)
        yield from full
        small.append(rest)
    yield from _slices(b"".join(small))


def unseal(cipher: CipherState, data: memoryview, start: int) -> tuple[bytes, int] | None:
    """Return the plaintext of the record at ``start`` and where the next record begins.

    None if the record is not complete yet.

    Raises:
        STTAuthenticationError: The record is not the next one that the peer wrote.

    """
    end = len(data)
    begin = start + RECORD_HEADER_BYTES
    if begin > end:
        return None
    stop = begin + (data[start] << 8 | data[start + 1])
    if stop > end:
        return None
    return cipher.decrypt(data[begin:stop]), stop
