"""How much a node holds of what its peers have sent and its application has not taken.

Each session and each inbox has a bound of its own, but there may be thousands of them. This is the
bound on all together. From half of it on, no session gives its peer new credit, and no new session
is accepted: most senders stop there, and messages left unfinished are not waited for any longer.
Should what could still be sent fill the other half too, the session that brings more is ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import STTLimitError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["ByteBudget"]

_STEPS = 16
"""What is held is added up after each so many-th of the limit received, and not for each message:
adding up takes a millisecond if there are thousands of sessions."""

_RECHECK_SECONDS = 0.05
"""How often it is added up while it is shut, until the application has taken enough."""


class ByteBudget:
    """The `session.Budget` of all sessions of a node.

    Args:
        limit: ``max_buffered_bytes``.
        call_later: As that of an event loop.
        held: Adds up what is held now, in bytes.
        relieve: Called every now and then while it is shut: to give up what only takes room.
        reopened: Called when it is open again.

    """

    def __init__(
        self,
        limit: int,
        *,
        call_later: Callable[[float, Callable[[], None]], asyncio.TimerHandle],
        held: Callable[[], int],
        relieve: Callable[[], None],
        reopened: Callable[[], None],
    ) -> None:
        self.limit = limit
        self.shut = False
        """Whether no new credit is to be given, and no new session accepted."""
        self._call_later = call_later
        self._held = held
        self._relieve = relieve
        self._reopened = reopened
        self._step = limit // _STEPS
        self._unchecked = 0
        self._exhausted = False
        self._timer: asyncio.TimerHandle | None = None  # while it is shut

    def take(self, cost: int) -> None:
        """Make room for so many bytes that have arrived.

        Raises:
            STTLimitError: There is none.

        """
        self._unchecked += cost
        if self._unchecked >= self._step or self._exhausted:
            self._check()
            if self._exhausted:
                raise STTLimitError("the node holds all that it may (max_buffered_bytes)")

    def _check(self) -> None:
        self._unchecked = 0
        held = self._held()
        self._exhausted = held > self.limit
        was_shut, self.shut = self.shut, held > self.limit // 2
        if self.shut and self._timer is None:
            self._timer = self._call_later(_RECHECK_SECONDS, self._recheck)
        if was_shut and not self.shut:
            self._reopened()

    def _recheck(self) -> None:
        self._timer = None
        self._relieve()
        self._check()

    def stop(self) -> None:
        """Watch no more: the node has stopped. It begins anew with the next `take`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.shut = self._exhausted = False
