"""Room in an inbox: its bounds, and the line of senders that wait for room.

They go in order, and a newcomer queues behind them even if its message would fit.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import STTEndpointError
from .waiting import Sender, printable_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .waiting import Inbox

__all__ = ["Room"]


class Room:
    """The most that one inbox holds, and the senders that wait for room in each.

    Args:
        max_messages: How many messages.
        max_bytes: How many bytes; a larger message fits an empty inbox.

    """

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes

    def fits(self, inbox: Inbox, size: int, count: int) -> bool:
        """Return whether there is room for this many bytes and messages."""
        held = inbox.messages
        return held is None or (
            len(held) + count <= self.max_messages and inbox.size + size <= self.max_bytes
        )

    def fitting(self, inbox: Inbox, messages: Sequence[bytes]) -> tuple[int, int]:
        """Return how many of the messages, from the first on, there is room for, and their size."""
        held = inbox.messages
        # An inbox filled beyond its bounds has no room: the difference is negative.
        slots = max(0, self.max_messages - (0 if held is None else len(held)))
        room = self.max_bytes - inbox.size
        count = size = 0
        for data in messages[:slots]:
            # An empty inbox accepts one message, however large.
            if size + len(data) > room and (held is not None or count):
                break
            count += 1
            size += len(data)
        return count, size

    def is_overfull(self, inbox: Inbox) -> bool:
        """Whether the inbox holds more than twice its bounds."""
        return inbox.messages is not None and (
            inbox.size > 2 * self.max_bytes or len(inbox.messages) > 2 * self.max_messages
        )

    def is_barred(self, inbox: Inbox) -> bool:
        """Whether the current task must queue, even if there is room, because others wait."""
        if self._line(inbox) is None:
            return False
        turn = inbox.turn
        return turn is None or turn is not asyncio.current_task(turn.get_loop())

    # -- the line ----------------------------------------------------------------------------

    async def wait(self, inbox: Inbox, size: int, count: int) -> None:
        """Wait, after those that already wait, until this many bytes and messages fit.

        The current task may then put them, if it does so before it next yields to the loop. After
        that, or when anything is put, its turn is over. Raises what `enter` does.
        """
        if self._line(inbox) is not None or not self.fits(inbox, size, count):
            self.leave(inbox, await self.enter(inbox, size, count))
        turn = asyncio.current_task()
        inbox.turn = turn
        asyncio.get_running_loop().call_soon(_end_turn, inbox, turn)

    async def enter(self, inbox: Inbox, size: int, count: int) -> Sender:
        """Join the line; return our place in it once it is the first and there is room.

        The caller uses the room in the same step, and then calls `leave`.

        Raises:
            STTEndpointError: See `refuse`.

        """
        loop = asyncio.get_running_loop()
        sender = Sender(loop.create_future(), size, count)
        self._line(inbox)
        if inbox.senders is None:
            inbox.senders = OrderedDict()
        inbox.senders[sender] = None
        try:
            await sender.future
            while sender.failure is None and not self.fits(inbox, size, count):
                # The sender before it in the line has used more of the room.
                sender.future = loop.create_future()
                await sender.future
        except BaseException:
            self.leave(inbox, sender)
            raise
        if sender.failure is not None:
            raise sender.failure()
        return sender

    def leave(self, inbox: Inbox, sender: Sender) -> None:
        """Leave the line, and let the next one use the room that is left."""
        senders = inbox.senders
        if senders is None:  # the inbox was removed
            return
        senders.pop(sender, None)
        if senders:
            self.made(inbox)
        else:
            inbox.senders = None

    def made(self, inbox: Inbox) -> None:
        """Wake the first in the line, which is not empty, if there is room for it now."""
        senders = inbox.senders
        assert senders  # noqa: S101  callers know that a sender waits
        oldest = next(iter(senders))
        if self.fits(inbox, oldest.size, oldest.count):
            oldest.wake()

    def _line(self, inbox: Inbox) -> OrderedDict[Sender, None] | None:
        """Return the senders that wait, without those whose loop was closed; None if none does."""
        senders = inbox.senders
        while senders and next(iter(senders)).stranded:
            senders.popitem(last=False)
        inbox.senders = senders or None
        return inbox.senders

    def refuse(self, inbox: Inbox) -> None:
        """Fail all in the line: the inbox accepts no more messages."""
        senders, inbox.senders = inbox.senders, None
        inbox.turn = None
        for sender in senders or ():
            sender.fail(partial(_refused, inbox.endpoint_id))


def _end_turn(inbox: Inbox, turn: asyncio.Task[Any] | None) -> None:
    if inbox.turn is turn:
        inbox.turn = None


def _refused(endpoint_id: bytes) -> STTEndpointError:
    return STTEndpointError(
        f"endpoint {printable_id(endpoint_id)} takes no more messages; this one was not delivered"
    )
