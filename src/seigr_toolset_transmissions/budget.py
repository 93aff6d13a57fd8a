"""How much a node holds of what its peers have sent and its application has not taken.

Each session and each inbox has a bound of its own, but there may be thousands of them. This is the
bound on all together. From half of it on, no new session is accepted, no new credit given, and
messages left unfinished are not waited for any longer: most senders stop there. Should what could
still be sent fill it up to the last eighth, who sends more loses its session.

None of this concerns a peer that holds no more than its fair share of that last eighth: whose
messages the application takes does not notice that those of others pile up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import STTLimitError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["ByteBudget", "PeerBudget"]

_STEPS = 16
"""What is held is added up after each so many-th of the limit received, and not for each message:
adding up takes a millisecond if there are thousands of sessions."""

_SPARE = 8
"""One so many-th of the limit is kept for those who hold little."""

_RECHECK_SECONDS = 0.05
"""How often it is added up while it is shut, until the application has taken enough."""


class ByteBudget:
    """What all sessions of a node may hold together.

    Args:
        limit: ``max_buffered_bytes``.
        call_later: As that of an event loop.
        held: Adds up what is held now, in bytes.
        peers: Counts those who share it.
        relieve: Called every now and then while it is shut: to give up what only takes room, and to
            give credit to whom it is not withheld any more.
        reopened: Called when it is open again.

    """

    def __init__(
        self,
        limit: int,
        *,
        call_later: Callable[[float, Callable[[], None]], asyncio.TimerHandle],
        held: Callable[[], int],
        peers: Callable[[], int],
        relieve: Callable[[], None],
        reopened: Callable[[], None],
    ) -> None:
        self._limit = limit
        self.shut = False
        """Whether no new session is to be accepted, and new credit only for small holders."""
        self.exhausted = False
        """Whether only small holders may send more."""
        self._call_later = call_later
        self._held = held
        self._peers = peers
        self._relieve = relieve
        self._reopened = reopened
        self.step = limit // _STEPS
        """After how many bytes received to `check`."""
        self.unchecked = 0
        """Bytes received since the last `check`; for `PeerBudget.take` to count."""
        self._timer: asyncio.TimerHandle | None = None  # while it is shut

    @property
    def share(self) -> int:
        """What each peer may hold in any case, in bytes."""
        return self._limit // _SPARE // max(1, self._peers())

    def check(self) -> None:
        """Add up what is held, and act on it."""
        self.unchecked = 0
        held = self._held()
        self.exhausted = held > self._limit - self._limit // _SPARE
        was_shut, self.shut = self.shut, held > self._limit // 2
        if self.shut and self._timer is None:
            self._timer = self._call_later(_RECHECK_SECONDS, self._recheck)
        if was_shut and not self.shut:
            self._reopened()

    def _recheck(self) -> None:
        self._timer = None
        self._relieve()
        self.check()

    def stop(self) -> None:
        """Watch no more: the node has stopped. It begins anew with what arrives next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.shut = self.exhausted = False


class PeerBudget:
    """The `session.Budget` of one peer's sessions.

    Args:
        budget: That of the node.
        peer_node_id: Whose it is.
        held_by: Adds up what a peer holds now, in bytes.

    """

    __slots__ = ("_budget", "_held_by", "_peer_node_id")

    def __init__(
        self, budget: ByteBudget, peer_node_id: bytes, held_by: Callable[[bytes], int]
    ) -> None:
        self._budget = budget
        self._peer_node_id = peer_node_id
        self._held_by = held_by

    @property
    def shut(self) -> bool:
        """Whether the peer gets no new credit, but to end a message that has begun."""
        return self._budget.shut and self._held_by(self._peer_node_id) > self._budget.share

    def take(self, cost: int) -> None:
        """Make room for so many bytes that have arrived.

        Raises:
            STTLimitError: There is none.

        """
        budget = self._budget
        budget.unchecked += cost
        if budget.unchecked >= budget.step or budget.exhausted:
            budget.check()
        if budget.exhausted and self._held_by(self._peer_node_id) + cost > budget.share:
            raise STTLimitError("the node holds all that it may (max_buffered_bytes)")
