"""An inbox's state, and what waits at it: receivers for a message, senders for room.

It holds state and decides nothing: `inbox` decides which receiver gets a message, and `room` which
sender may put one into an inbox.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections import OrderedDict, deque
    from collections.abc import Callable

    from ..errors import STTError

__all__ = ["Inbox", "Receiver", "Sender", "printable_id"]


def printable_id(endpoint_id: bytes) -> str:
    """Return the id in hexadecimal, shortened when it is longer than a node's id."""
    return endpoint_id.hex() if len(endpoint_id) <= 32 else f"{endpoint_id[:32].hex()}..."


class Inbox:
    """The messages of one endpoint that were not received yet. All state, no behaviour.

    An idle inbox holds no large container: these are made on first use and dropped when empty.
    """

    __slots__ = (
        "endpoint_id",
        "messages",
        "over",
        "promised",
        "receivers",
        "retiring",
        "senders",
        "size",
        "stale",
        "turn",
    )

    def __init__(self, endpoint_id: bytes) -> None:
        self.endpoint_id: bytes = endpoint_id
        self.messages: deque[bytes] | None = None
        #: The receivers, which have yet to run, that the first messages are promised to, in order.
        self.promised: list[Receiver] = []
        #: That many of this inbox's first tokens in `Inboxes` stand for messages already taken.
        self.stale: int = 0
        #: Bytes in `messages`.
        self.size: int = 0
        #: Whether no more messages are accepted, and the inbox is removed once it is empty.
        self.retiring: bool = False
        #: Makes the error for a receive that would have to wait, if no message will come.
        self.over: Callable[[], STTError] | None = None
        #: The task whose wait for room has just ended: the next messages it puts need not queue.
        self.turn: asyncio.Task[Any] | None = None
        #: Receivers that wait without a promise, and senders that wait for room; oldest first.
        self.receivers: OrderedDict[Receiver, None] | None = None
        self.senders: OrderedDict[Sender, None] | None = None


class _Waiter:
    """A task that waits.

    ``failure`` is set, before the wake-up, when there is nothing to get: it makes the error.
    Keeping the error itself would make a reference cycle of the error, its traceback and the task.
    """

    __slots__ = ("failure", "future")

    def __init__(self, future: asyncio.Future[None]) -> None:
        self.future: asyncio.Future[None] = future
        self.failure: Callable[[], STTError] | None = None

    @property
    def stranded(self) -> bool:
        """Whether its loop was closed: it never runs again."""
        return self.future.get_loop().is_closed()

    def wake(self) -> bool:
        """Let it go on in the next turn of its loop; return whether there will be one."""
        if not self.future.done():
            try:
                self.future.set_result(None)
            except RuntimeError:  # the loop was closed
                return False
        return True

    def fail(self, failure: Callable[[], STTError]) -> None:
        """Let it go on, to raise the error that ``failure`` makes."""
        self.failure = failure
        self.wake()


class Receiver(_Waiter):
    """Waits for a message of ``source``, or of any inbox if that is None.

    ``slot`` is the inbox that has promised it a message, and ``rank`` its age. ``expired`` means
    that its time has run out, which counts only while nothing is promised to it. A ``patient`` one
    goes on waiting although no message will come.
    """

    __slots__ = ("expired", "patient", "rank", "slot", "source")

    def __init__(
        self, future: asyncio.Future[None], source: Inbox | None, rank: int, *, patient: bool
    ) -> None:
        self.future = future
        self.failure: Callable[[], STTError] | None = None
        self.source: Inbox | None = source
        self.rank: int = rank
        self.patient: bool = patient
        self.slot: Inbox | None = None
        self.expired: bool = False


class Sender(_Waiter):
    """Waits for room for ``count`` messages of ``size`` bytes together."""

    __slots__ = ("count", "size")

    def __init__(self, future: asyncio.Future[None], size: int, count: int) -> None:
        super().__init__(future)
        self.size: int = size
        self.count: int = count
