"""An inbox's state, and those who wait at it: for a message, or for room.

Nothing here decides anything. Who gets a message stands in `inbox`, who may put one in `room`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections import OrderedDict, deque
    from collections.abc import Callable

    from .errors import STTEndpointError

__all__ = ["Inbox", "Receiver", "Sender", "printable_id"]


def printable_id(endpoint_id: bytes) -> str:
    """Return the id in hexadecimal, shortened when it is longer than a node's id."""
    return endpoint_id.hex() if len(endpoint_id) <= 32 else f"{endpoint_id[:32].hex()}..."


class Inbox:
    """The messages of one endpoint that nobody has received yet. All state, no behaviour.

    An idle inbox holds no large container: these are made on first use and let go when empty.
    """

    __slots__ = (
        "endpoint_id",
        "messages",
        "promised",
        "receivers",
        "retiring",
        "senders",
        "size",
        "stale",
        "turn",
    )

    def __init__(self, endpoint_id: bytes) -> None:
        self.endpoint_id = endpoint_id
        self.messages: deque[bytes] | None = None
        #: To whom the first messages are promised, in order: receivers that have yet to run.
        self.promised: list[Receiver] = []
        #: The first so many of this inbox's tokens in `Inboxes` stand for messages already taken.
        self.stale = 0
        #: Bytes in `messages`.
        self.size = 0
        #: True when no more is accepted and the inbox is to go once it is empty.
        self.retiring = False
        #: Whose wait for room has just ended: the next messages it puts need not queue.
        self.turn: asyncio.Task[Any] | None = None
        #: Who waits for a message without a promise, and who waits for room; oldest first.
        self.receivers: OrderedDict[Receiver, None] | None = None
        self.senders: OrderedDict[Sender, None] | None = None


class _Waiter:
    """Somebody who waits.

    ``failure`` is set, before the wake-up, when there is nothing to get: it makes the error. To
    keep the error itself would make a cycle of it, its traceback and whoever raises it.
    """

    __slots__ = ("failure", "future")

    def __init__(self, future: asyncio.Future[None]) -> None:
        self.future = future
        self.failure: Callable[[], STTEndpointError] | None = None

    @property
    def stranded(self) -> bool:
        """Whether its loop was closed: it never runs again."""
        return self.future.get_loop().is_closed()

    def wake(self) -> bool:
        """Let it go on in the next turn of its loop; return whether that will come."""
        if not self.future.done():
            try:
                self.future.set_result(None)
            except RuntimeError:  # the loop was closed
                return False
        return True

    def fail(self, failure: Callable[[], STTEndpointError]) -> None:
        """Let it go on, to raise the error that ``failure`` makes."""
        self.failure = failure
        self.wake()


class Receiver(_Waiter):
    """Waits for a message of ``source``, or of any inbox if that is None.

    ``slot`` is the inbox of which a message is promised to it, and ``rank`` its age. ``expired``
    says that its time has run out, which counts only while nothing is promised to it.
    """

    __slots__ = ("expired", "rank", "slot", "source")

    def __init__(self, future: asyncio.Future[None], source: Inbox | None, rank: int) -> None:
        self.future = future
        self.failure = None
        self.source = source
        self.rank = rank
        self.slot: Inbox | None = None
        self.expired = False


class Sender(_Waiter):
    """Waits for room for ``count`` messages of ``size`` bytes together."""

    __slots__ = ("count", "size")

    def __init__(self, future: asyncio.Future[None], size: int, count: int) -> None:
        super().__init__(future)
        self.size = size
        self.count = count
