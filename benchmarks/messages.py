"""Numbered messages, and the proof that all of them arrived, whole and in order.

Message ``i`` is its number in eight bytes and a body that all share. Making them is kept out of
what is timed, and so is comparing small ones, which are kept until the end. Large ones, which
memory would not hold, are compared as they come; that costs all libraries the same, a few per cent.
"""

from __future__ import annotations

from itertools import cycle, islice
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Pool"]

_NUMBER_BYTES = 8
_POOL_BYTES = 32 * 1024 * 1024
_KEPT_BYTES = 1024


class Pool:
    """The messages of one size; their numbers begin again when the pool is used up."""

    def __init__(self, size: int, count: int) -> None:
        self._body = Random(size).randbytes(size - _NUMBER_BYTES)  # noqa: S311 - no secret
        self._period = min(count, max(1, _POOL_BYTES // size))
        self.size = size
        self.kept = size <= _KEPT_BYTES
        """Whether received messages are few enough bytes to be kept and compared afterwards."""

    def _message(self, index: int) -> bytes:
        return (index % self._period).to_bytes(_NUMBER_BYTES) + self._body

    def messages(self, count: int) -> Iterator[bytes]:
        """Return ``count`` messages; those to come have been made already."""
        pool = [self._message(index) for index in range(min(count, self._period))]
        return islice(cycle(pool), count)

    def check(self, data: bytes, index: int) -> None:
        """Raise ValueError unless this is message ``index``, whole."""
        if len(data) != self.size:
            raise ValueError(f"message {index} has {len(data)} bytes, not {self.size}")
        number = int.from_bytes(data[:_NUMBER_BYTES])
        if number != index % self._period:
            raise ValueError(f"message {number} where {index % self._period} was due")
        if not data.endswith(self._body):  # with the length and the number, that is all of it
            raise ValueError(f"message {index} was changed on its way")

    def check_all(self, received: Sequence[bytes]) -> None:
        """Raise ValueError unless these are the messages from 0 on, each whole."""
        for index, data in enumerate(received):
            self.check(data, index)
