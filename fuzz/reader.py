"""Turns a fuzzer input into choices."""

from __future__ import annotations

__all__ = ["Reader"]


class Reader:
    """Reads an input from front to back. Past its end, every byte is zero."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        """Return the next byte."""
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def take(self, count: int) -> bytes:
        """Return up to ``count`` of the next bytes."""
        self._at += count
        return self._data[self._at - count : self._at]

    def rest(self) -> bytes:
        """Return everything that is left."""
        return self.take(len(self._data))
