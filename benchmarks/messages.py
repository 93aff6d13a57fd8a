"""Numbered messages, and the proof that all of them arrived, whole and in order.

Message ``i`` is its number in eight bytes, followed by a body that all of them share. Making the
messages is not timed. Comparing them is: it costs all libraries the same, about 20 ns for a small
message and a few per cent of what a large one takes. Keeping all messages and comparing them
afterwards would cost more, because a growing process pays for memory and for garbage collection.
"""

from __future__ import annotations

from itertools import cycle, islice
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Pool"]

_NUMBER_BYTES = 8
_POOL_BYTES = 1024 * 1024
_FEWEST = 8
_BATCH_BYTES = 64 * 1024
_BATCH_MESSAGES = 1024


class Pool:
    """The messages of one size; their numbers start over when the pool is used up."""

    def __init__(self, size: int) -> None:
        body = Random(size).randbytes(size - _NUMBER_BYTES)  # noqa: S311 - no secret
        numbers = range(max(_FEWEST, _POOL_BYTES // size))
        self._messages = [number.to_bytes(_NUMBER_BYTES) + body for number in numbers]
        self._batch = max(1, min(_BATCH_MESSAGES, _BATCH_BYTES // size))

    def messages(self, count: int) -> Iterator[bytes]:
        """Return ``count`` messages, from message 0 on."""
        return islice(cycle(self._messages), count)

    def batches(self, count: int) -> list[list[bytes]]:
        """Return ``count`` messages, from message 0 on, in lists best compared as a whole."""
        messages = self.messages(count)
        batches = []
        while batch := list(islice(messages, self._batch)):
            batches.append(batch)
        return batches
