"""Limits how much a peer sends that carries no message: control frames and empty records."""

from __future__ import annotations

from .errors import STTLimitError

__all__ = ["Controls"]

MAX_CONTROLS = 100_000
"""Control frames, and records without a whole frame, that a peer may send in a second over all of
its sessions, beyond one for each message in either direction. An honest peer sends some dozens. If
its application waits for each acknowledgement, or measures one round trip after another, it sends
one for each round trip: 25,000 were measured. A flood of them costs work and carries nothing."""

CONTROL_SECONDS = 1.0


class Controls:
    """What a peer has recently sent, over all of its sessions, that carries no message."""

    __slots__ = ("count", "since")

    def __init__(self, now: float) -> None:
        self.count = 0  # since then, less one for each message
        self.since = now

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
