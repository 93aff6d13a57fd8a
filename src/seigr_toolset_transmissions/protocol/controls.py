"""Limits how much a peer may send that carries no message: control frames, empty records."""

from __future__ import annotations

from ..errors import STTLimitError

__all__ = ["Controls"]

MAX_CONTROLS = 100_000
"""How many control frames, and records that complete no frame, a peer may send in a second over all
of its sessions, in addition to one for each message in either direction. An honest peer sends a few
dozen. If its application waits for each acknowledgement, or measures one round trip after another,
it sends one for each round trip: 25,000 were measured. A flood costs work and carries nothing."""

CONTROL_SECONDS = 1.0


class Controls:
    """Counts what a peer has recently sent without a message, over all of its sessions."""

    __slots__ = ("count", "since")

    def __init__(self, now: float) -> None:
        self.count: int = 0  # how many since then, minus one for each message
        self.since: float = now

    def add(self, now: float) -> None:
        """Count one control frame.

        Raises:
            STTLimitError: There were too many.

        """
        if now - self.since >= CONTROL_SECONDS:
            self.since = now
            self.count = 0
        self.count += 1
        if self.count > MAX_CONTROLS:
            raise STTLimitError("a flood of control frames")
