"""How far a peer may be ahead of the application: the receive window, and credit.

A session's peer may send as much as it has credit for, in bytes. It gets credit for what the
application has consumed plus one window. The window grows when the application consumes quickly,
and shrinks when the node has no room for it. Credit, once given, is never taken back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import STTLimitError
from .outbox import FRAME_COST, longest_cost

if TYPE_CHECKING:
    from ..config import NodeConfig
    from .budget import Budget
    from .controls import Controls

__all__ = ["ReceiveWindow"]

GROWTH_SECONDS = 1.0
"""The receive window doubles when the application has consumed a whole one within this time, or
within two round trips if that is longer. So it becomes as large as what the peer sends in a second
or two, up to ``receive_window_bytes``, and slows down no path with a shorter round trip."""

CREDIT_SHARE = 16
"""The peer gets new credit once the application has consumed this share of a grown receive window:
accounting for each short message would cost as much as decrypting it."""


class ReceiveWindow:
    """What a `machine.SessionMachine` has received, and what its peer may still send.

    It is a base class of the machine rather than one of its attributes, because an extra call for
    each message would cost too much.

    Costs count bytes: payload plus `outbox.FRAME_COST` for each sequenced frame. They are totals
    since the session began and never go back.
    """

    __slots__ = (
        "_consumed_cost",
        "_credit_given",
        "_credit_told",
        "_first_window",
        "_grain",
        "_mark_cost",
        "_mark_time",
        "_max_receive",
        "_most_window",
        "_parts",
        "_parts_bytes",
        "_parts_frames",
        "_parts_since",
        "_recv_cost",
        "_recv_next",
        "_starved",
        "budget",
        "controls",
        "last_received",
        "min_rtt",
        "rtt",
        "window",
    )

    def __init__(
        self, config: NodeConfig, *, budget: Budget, controls: Controls, now: float
    ) -> None:
        self.budget: Budget = budget
        """Its part of the node's memory. The owner sets `Budget.owner` and calls `Budget.leave`."""
        self.controls: Controls = controls
        """Counts what the peer sends that carries no message; shared by all of its sessions."""
        self.last_received: float = now
        """When bytes last arrived, by the owner's clock: a part of a record is a sign of life."""
        self.rtt: float | None = None
        """Smoothed round-trip time in seconds (RFC 6298, alpha 1/8); None before the first PONG."""
        self.min_rtt: float | None = None
        self._max_receive = config.max_message_bytes

        # recv_cost >= consumed_cost, and recv_cost <= credit_given.
        self._most_window = config.receive_window_bytes
        self._first_window = budget.first_window
        self.window: int = min(self._first_window, self._most_window)
        """How far the peer may be ahead of the application, in bytes: small at first; it grows
        with what the application consumes, and shrinks when the node has no room for it."""
        self._grain = 0  # credit is given when there is more to give than this
        self._mark_cost = 0  # what the application had received when the window was last considered
        self._mark_time = now
        self._starved = False  # whether the node had no room for credit; until `retry`
        self._recv_next = 0
        self._recv_cost = 0
        self._consumed_cost = 0
        self._credit_given = self._credit_told = self.window
        self._parts: list[bytes] | None = None  # those of a message that has begun and not ended
        self._parts_bytes = 0
        self._parts_frames = 0
        self._parts_since = now

    # ------------------------------------------------------------------ credit

    def _credit_gained(self) -> int:
        """Return how much more the peer may send than it has been told, if the node has room."""
        if self._starved:
            return self._credit_given - self._credit_told
        goal = self._consumed_cost + self.window
        if self._parts is not None:
            return max(goal, self._credit_needed()) - self._credit_told
        gained = goal - self._credit_told
        return gained if gained > self._grain else 0

    def _credit_needed(self) -> int:
        """Return the total credit that the peer needs to go on with the message that has begun.

        That is a first window beyond the parts that have arrived, which the application cannot
        consume yet, but no more than the rest of the message can cost, and in all no more than the
        longest message can cost: that much is reserved for a message that has begun. A peer that
        cuts the message into smaller parts must make do with the window. Otherwise it could hold
        forever what others need to finish their messages.
        """
        missing = longest_cost(self._max_receive - self._parts_bytes)
        left = longest_cost(self._max_receive) - self._parts_bytes - self._parts_frames * FRAME_COST
        goal = self._recv_cost + min(self._first_window, missing, left)
        return min(goal, self._consumed_cost + self._most_window)

    def _give_credit(self) -> None:
        """Let the peer send more, as far as the node has room."""
        needed = 0
        wanted = self._consumed_cost + self.window - self._credit_given
        if self._parts is not None:
            needed = max(0, self._credit_needed() - self._credit_given)
            wanted = max(wanted, needed)
        if wanted <= 0:
            return
        promised = self.committed
        granted = self.budget.grant(promised, wanted, needed)
        self._credit_given += granted
        if granted == wanted:
            return
        promised += granted
        if granted < needed or promised < self._first_window:
            self._starved = True
            self.budget.wait()
        else:
            self._set_window(promised)

    def _set_window(self, window: int) -> None:
        self.window = window
        # The peer may need every byte of a small window to send a frame.
        self._grain = window // CREDIT_SHARE if window >= 2 * self._first_window else 0

    def _consider_window(self) -> None:
        """Let the window grow if the application has received a whole one quickly."""
        received = self._consumed_cost - self.budget.in_inbox
        if received - self._mark_cost < self.window:
            return
        if self.last_received - self._mark_time <= max(GROWTH_SECONDS, 2 * (self.rtt or 0)):
            self._set_window(min(2 * self.window, self._most_window))
        self._mark_cost = received
        self._mark_time = self.last_received

    def _note_round_trip(self, seconds: float) -> None:
        self.rtt = seconds if self.rtt is None else self.rtt + (seconds - self.rtt) / 8
        self.min_rtt = seconds if self.min_rtt is None else min(self.min_rtt, seconds)

    def retry(self, now: float) -> None:
        """Ask for credit again: there may be room now."""
        if self._starved:
            self._starved = False
            self._give_credit()
            if not self._starved:
                self._parts_since = now  # until now the peer could not go on

    # --------------------------------------------------------- what has arrived

    def _check_message_size(self, size: int) -> None:
        if size > self._max_receive:
            raise STTLimitError(f"a message longer than max_message_bytes ({self._max_receive})")

    def _count_received(self, size: int, count: int) -> None:
        cost = self._recv_cost + size + count * FRAME_COST
        if cost > self._credit_given:
            raise STTLimitError(f"{cost - self._credit_given} bytes beyond the credit")
        self._recv_cost = cost
        self._recv_next += count
        self.controls.count -= count

    def moves(self, now: float) -> None:
        """Note that the peer makes progress: bytes have arrived, though no record is complete."""
        self.last_received = self._parts_since = now

    @property
    def stuck_since(self) -> float | None:
        """Since when an incomplete message has made no progress although the peer had credit.

        None if there is no such message.
        """
        return None if self._parts is None or self._starved else self._parts_since

    @property
    def committed(self) -> int:
        """What the node keeps for the peer: `promised_cost` and `held_cost`."""
        return self._credit_given - self._consumed_cost

    @property
    def promised_cost(self) -> int:
        """Bytes that the peer may still send with the credit that it has."""
        return self._credit_given - self._recv_cost

    @property
    def held_cost(self) -> int:
        """Bytes received and not yet consumed, unfinished messages included."""
        return self._recv_cost - self._consumed_cost

    def consumed(self, size: int, count: int) -> None:
        """Note that the application has taken ``count`` messages of ``size`` bytes in all."""
        cost = size + count * FRAME_COST
        before = self._consumed_cost
        self._consumed_cost = before + cost
        beyond = self._credit_given - before - self._first_window
        if beyond > 0:
            if cost > beyond:  # min() would cost as much as the call
                cost = beyond
            self.budget.release(cost)
