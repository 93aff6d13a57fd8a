"""Numbered messages, and the tally that shows whether any was lost, doubled or reordered."""

from __future__ import annotations

import re

__all__ = ["Tally", "number_of", "numbered"]

_NUMBERED = re.compile(rb"#([0-9]{1,9})")


def numbered(number: int) -> bytes:
    """Return the message with this number."""
    return b"#%d" % number


def number_of(message: bytes) -> int | None:
    """Return the number of a message; None if it is not a numbered one."""
    match = _NUMBERED.fullmatch(message)
    return None if match is None else int(match[1])


class Tally:
    """Keeps count of messages that are numbered from 0 on and should come in that order."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._highest = -1
        self.doubled: int = 0
        self.reordered: int = 0

    def add(self, number: int) -> None:
        """Note that the message with this number has arrived."""
        if number in self._seen:
            self.doubled += 1
            return
        self._seen.add(number)
        if number < self._highest:
            self.reordered += 1
        self._highest = max(self._highest, number)

    @property
    def received(self) -> int:
        """How many different messages have arrived."""
        return len(self._seen)

    def missing(self, total: int) -> set[int]:
        """Return the numbers that have not arrived if ``total`` messages were sent."""
        return set(range(total)) - self._seen

    def flaws(self, total: int) -> str:
        """Return what is wrong if ``total`` messages were sent; empty if nothing is."""
        counts = {
            "lost": total - self.received,
            "doubled": self.doubled,
            "out of order": self.reordered,
        }
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)
