"""The bound on what a peer sends that brings nothing: control frames, and empty records."""

from __future__ import annotations

from .errors import STTLimitError

__all__ = ["Controls"]

MAX_CONTROLS = 100_000
"""Control frames, and records without a whole frame, that a peer may send within a second over all
of its sessions, beyond one for each message, of either side. An honest one sends some dozens, and
if its application waits for each message's acknowledgement or measures one round trip after the
other, as many as there are round trips: 25,000 were measured. A flood of them costs work and brings
nothing."""

CONTROL_SECONDS = 1.0


class Controls:
    """What a peer has sent lately, over all of its sessions, that brings nothing."""

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
