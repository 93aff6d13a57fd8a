"""What a node holds, and has promised to take, for all its sessions together.

Credit is a promise: a peer that was given some may use it at any time, and it cannot be taken back.
So what counts against ``max_buffered_bytes`` is the sum of

* the credit that peers have and have not used, and what they have sent that the application has not
  taken, in sessions and in inboxes;
* what was accepted for sending and is not acknowledged yet.

A `Ledger` keeps that sum. It gives no credit, and lets no message be accepted, that would take it
beyond the limit. So no session ever has to be ended because memory is short.

The limit is divided like this:

* Each session has a first window of its own, and may always hold a little for sending. The same
  amount is reserved for future sessions, for as many as fit into three quarters of the limit.
* One part is kept for completing messages that have begun to arrive, as many at a time as fit in it
  whole: an application cannot take half a message, so without it many half messages could block
  each other forever. A second part is kept for a message from the peer that the application is
  waiting to receive from, because the messages of other peers may stay unread until it arrives. A
  third is kept for a message that a session with nothing else under way wants to send.
* The rest goes to the sessions that use it. Each may take more until it holds half as much as
  remains free (a dynamic threshold, as in shared switch memory). So each session gets much when few
  share it and little when many do, and something is always left for the next one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..protocol.frames import MAX_DATA_BYTES
from ..protocol.outbox import FRAME_COST, longest_cost

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from ..config import NodeConfig
    from ..protocol.budget import Waiter

__all__ = ["Ledger", "Share"]

FIRST_WINDOW_BYTES = 256 * 1024
"""The most that a first window is: enough for all but bulk transfers."""

_RETRY_SECONDS = 0.01
"""How often sessions that wait for room try again. Each time a good part of the limit can be handed
out, so none is slowed down noticeably."""

_RETRIES = 128
"""How many may try each time, so that thousands of waiting sessions do not use up the processor."""

_AWAITED_TURNS = 5
"""How many turns apart to look for a message that the application is waiting for."""

_RELIEF_TURNS = 100
"""How many turns apart to look for messages that make no progress."""


class Ledger:
    """The account of one node.

    Args:
        config: The node's settings.
        inboxes: Returns what waits in all inboxes, in bytes, with `FRAME_COST` for each message.
        inbox_of: Returns the same for one peer, given its node id.
        awaits: Returns whether the application waits for a message of the peer with this node id.
        call_later: The event loop's.
        relieve: Called now and then while messages that have begun wait for room to be completed:
            it ends sessions that hold such room and do not use it.

    Attributes:
        limit: ``max_buffered_bytes``.
        used: What sessions hold, or may claim at any time. Only `Share` changes it.
        lane: How much is lent of the part kept for lone messages. Only `Share` changes it.
        lane_size: The size of that part.
        first_window: What each peer may always send.
        first_send: What each session may always hold for sending.

    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        inboxes: Callable[[], int],
        inbox_of: Callable[[bytes], int],
        awaits: Callable[[bytes], bool],
        call_later: Callable[[float, Callable[[], None]], asyncio.TimerHandle],
        relieve: Callable[[], None],
    ) -> None:
        self.limit: int = config.max_buffered_bytes
        limit = self.limit
        largest = config.max_message_bytes
        # A whole frame must fit in it, or its sender would wait forever and we would not know.
        first = max(
            min(largest, MAX_DATA_BYTES) + FRAME_COST,
            min(FIRST_WINDOW_BYTES, limit // (4 * config.max_sessions)),
        )
        self.first_window: int = min(first, config.receive_window_bytes)
        self.first_send: int = min(first // 4, config.send_window_bytes)
        whole = longest_cost(largest)
        self.lane_size: int = min(max(whole, limit // 16), limit // 3)
        self._finishing_size = self.lane_size
        self._most_finishers = max(1, self._finishing_size // whole)
        self._awaited_size = max(whole, limit // 32) if limit >= 8 * whole else 0
        self._each = self.first_window + self.first_send
        divisible = limit - self.lane_size - self._finishing_size - self._awaited_size
        self._expected = min(config.max_sessions, divisible * 3 // 4 // self._each)
        self._inboxes = inboxes
        self.inbox_of = inbox_of
        self.awaits = awaits
        self._call_later = call_later
        self._relieve = relieve
        self.used: int = 0
        self.lane = 0
        self._shares = 0
        self._waiting: dict[Share, None] = {}
        self._finishers: set[Share] = set()  # those that use the part for completing messages
        self._finishing: dict[Share, None] = {}  # those that wait for it
        self._trying: Share | None = None  # the one of `_finishing` that tries just now
        self._refused = False  # whether that one was refused
        self._awaited: Share | None = None  # the one that uses the part for an awaited message
        self._turns = 0
        self._timer: asyncio.TimerHandle | None = None  # while any session waits

    # ------------------------------------------------------------------ the account

    @property
    def committed(self) -> int:
        """What is promised and held, in bytes; never more than the limit."""
        return self.used + self.lane + self._inboxes()

    @property
    def room(self) -> int:
        """What is left for all that want more than is reserved for them; may be negative."""
        return self._left() - self._finishing_size

    def _left(self) -> int:
        to_come = max(0, self._expected - self._shares) * self._each
        kept = self.lane_size + self._awaited_size
        return self.limit - kept - to_come - self.used - self._inboxes()

    @property
    def admits(self) -> bool:
        """Whether there is room for one more session."""
        left = self.limit - self.lane_size - self.used - self._inboxes() - self._each
        # Expected sessions have reserved room. Others must not take what completes messages.
        kept = self._finishing_size + self._awaited_size
        return left >= (0 if self._shares < self._expected else kept)

    def enter(self) -> None:
        """Note that there is one more share."""
        self._shares += 1
        self.used += self._each

    def leave(self, share: Share) -> None:
        """Note that there is one share less."""
        self._shares -= 1
        self.used -= self._each
        self._waiting.pop(share, None)
        self.finished(share)

    # -------------------------------------------------------------- waiting for room

    def wait(self, share: Share) -> None:
        """Let a session try again before long."""
        self._waiting[share] = None
        self._watch()

    def may_finish(self, share: Share, wanted: int) -> bool:
        """Return whether a message that has begun may have so much to go on; if not, it waits.

        A few messages at a time get room, in the order in which they ask, and each of these is
        completed before another one gets its place.
        """
        line, left = self._finishing, self._left()
        if share is self._awaited:
            left += self._awaited_size
        enough = wanted <= left
        if share is self._awaited or share in self._finishers:
            return enough
        first = next(iter(line), share) is share or self._trying is share
        if first and enough and len(self._finishers) < self._most_finishers:
            line.pop(share, None)
            self._finishers.add(share)
            return True
        line.setdefault(share)
        self._refused = self._refused or self._trying is share
        self._watch()
        return False

    def finished(self, share: Share) -> None:
        """Note that a session has no unfinished message any more."""
        self._finishing.pop(share, None)
        self._finishers.discard(share)
        if share is self._awaited:
            self._awaited = None

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = self._call_later(_RETRY_SECONDS, self._retry)

    def _retry(self) -> None:
        self._timer = None
        for share in list(self._finishing)[:_RETRIES]:
            self._trying, self._refused = share, False
            share.retry()
            self._trying = None
            if self._refused:
                break
            self._finishing.pop(share, None)  # one that did not ask has no connection at present
        for share in list(self._waiting)[:_RETRIES]:
            self._waiting.pop(share, None)  # if it fails again, it goes to the end of the line
            share.retry()
        self._turns += 1
        if self._awaited is None and self._turns % _AWAITED_TURNS == 0:
            self._prefer_awaited()
        if self._finishing and self._turns % _RELIEF_TURNS == 0:
            self._relieve()
        if self._finishing or self._waiting:
            self._watch()

    def _prefer_awaited(self) -> None:
        """Let a message that the application waits for be completed before all others."""
        for share in (*self._finishers, *self._finishing):
            if share.awaited:
                self._awaited = share
                self._finishing.pop(share, None)
                self._finishers.discard(share)
                share.retry()
                return

    def stop(self) -> None:
        """Let no session try again: the node has stopped."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Share:
    """One session's part of the ledger: the `Budget` of its machine.

    Attributes:
        owner: The session; None before it is made and after it has ended.

    """

    __slots__ = (
        "_charged",
        "_lane",
        "_ledger",
        "_left",
        "_lent",
        "_peer_node_id",
        "owner",
    )

    def __init__(self, ledger: Ledger, peer_node_id: bytes) -> None:
        self._ledger = ledger
        self._peer_node_id = peer_node_id
        self._charged = 0  # credit promised or used beyond the first window
        self._lent = 0  # held for sending beyond what each session may hold
        self._lane = 0  # as a lone message
        self._left = False
        self.owner: Waiter | None = None
        ledger.enter()

    @property
    def first_window(self) -> int:
        """See `Ledger`."""
        return self._ledger.first_window

    @property
    def first_send(self) -> int:
        """See `Ledger`."""
        return self._ledger.first_send

    def leave(self) -> None:
        """Give everything back: the session has ended, and what it received was handed over."""
        if self._left:
            return
        self._left = True
        self.owner = None
        self.release(self._charged)
        self.give_back(self._lent + self._lane)
        self._ledger.leave(self)

    # -------------------------------------------------------------------- receiving

    @property
    def in_inbox(self) -> int:
        """What the peer has sent that waits in its inbox, in bytes."""
        return self._ledger.inbox_of(self._peer_node_id)

    @property
    def awaited(self) -> bool:
        """Whether the application waits for a message of this very peer."""
        return self._ledger.awaits(self._peer_node_id)

    def grant(self, promised: int, wanted: int, needed: int) -> int:
        """Return how much more credit the peer gets.

        Args:
            promised: What it may still send, plus what was received and not consumed, in bytes.
            wanted: How much more it gets if there is room.
            needed: How much of that it needs to go on with a message that has begun.

        """
        ledger = self._ledger
        first = ledger.first_window
        over = promised + self.in_inbox - first
        granted = own = max(0, -over)
        if wanted <= own:
            granted = wanted
        else:
            room = ledger.room
            if room > 0:
                # Afterwards, what it has beyond its own is at most half of what is left.
                granted = max(own, min(wanted, (room - 2 * over) // 3))
                if granted < wanted and granted - own < first // 4:
                    granted = own  # crumbs would cost an acknowledgement each
            if granted < needed and ledger.may_finish(self, needed):
                granted = needed
        charged = max(0, promised + granted - first)
        ledger.used += charged - self._charged
        self._charged = charged
        return granted

    def finished(self) -> None:
        """Note that the message that had begun is complete."""
        self._ledger.finished(self)

    def release(self, cost: int) -> None:
        """Note that so much of the grant beyond the first window was consumed, or is void."""
        charged = self._charged
        if cost > charged:  # min() would cost as much as the rest of this method
            cost = charged
        self._charged = charged - cost
        self._ledger.used -= cost

    # ---------------------------------------------------------------------- sending

    def lend(self, over: int, wanted: int, *, alone: bool) -> bool:
        """Make room to hold more bytes for sending; return whether there was enough.

        Args:
            over: How many bytes the session holds beyond what each session may always hold.
            wanted: How many more it asks for.
            alone: Whether they are for one message of a session with nothing else under way.

        """
        ledger = self._ledger
        room = ledger.room
        if (wanted if alone else 3 * wanted + 2 * over) <= room:
            ledger.used += wanted
            self._lent += wanted
            return True
        if alone and ledger.lane + wanted <= ledger.lane_size:
            ledger.lane += wanted
            self._lane += wanted
            return True
        return False

    def give_back(self, size: int) -> None:
        """Note that so much of what was lent is no longer needed."""
        lane = min(size, self._lane)
        self._lane -= lane
        self._ledger.lane -= lane
        lent = min(size - lane, self._lent)
        self._lent -= lent
        self._ledger.used -= lent

    # ---------------------------------------------------------------------- waiting

    def wait(self) -> None:
        """Let the session try again before long."""
        if not self._left:
            self._ledger.wait(self)

    def retry(self) -> None:
        """Let it try now."""
        if self.owner is not None:
            self.owner.room_came()
