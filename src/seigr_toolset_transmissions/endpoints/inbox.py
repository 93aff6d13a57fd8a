"""Bounded inboxes whose every message is consumed exactly once, by one of two kinds of receiver.

A receiver waits for one inbox or for any of them, and both see the same messages: what one takes
is gone for the other. The rule is: a message goes to the oldest receiver that waits for its inbox,
else to the oldest that waits for any, else to the first that asks. The rule must hold even though a
woken asyncio task runs only later, and may be cancelled before it does. So:

* A message that arrives for a waiting receiver is *promised* to it but stays in its inbox until
  the receiver runs.
* A newcomer does not overtake receivers that have yet to run: if one of them were cancelled, the
  order would be lost. It is promised the next message and waits for one turn of the loop.
* A receiver that is cancelled before it runs gives its promise back: the others move up, and the
  message that is left over is promised to the next in line or stays where it was.

So nothing is lost, doubled or reordered, whatever is cancelled when. An inbox drops nothing: a
sender waits while it is full (see `room`). If a message is there and no receiver is ahead in the
queue, receiving neither waits nor uses the event loop.

`Inboxes` knows no endpoints, names or transports; `endpoints.EndpointManager` joins it to those.
Not thread-safe: everything runs in one event loop. When that loop has been closed, another one may
take over: receivers and senders still waiting in the closed one are passed over, and the messages
stay.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING

from ..errors import STTEndpointError, STTTimeoutError
from ..foundation.timeouts import check_timeout
from .waiting import Receiver, printable_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ..errors import STTError
    from .room import Room
    from .waiting import Inbox

__all__ = ["Inboxes"]

# Stale tokens (see `Inboxes`) are swept when they outnumber the live ones by this many: a sweep
# is then paid for by the receives that made them, and small managers never need one.
_SWEEP_SLACK = 256


class Inboxes:
    """All the inboxes of one manager, and all receivers that wait for them.

    Args:
        room: The bounds of each inbox.
        on_drained: Called with a retiring inbox when its last message has been taken.

    Attributes:
        on_wait: Called whenever a receive begins to wait, because there is no message for it.

    """

    # What holds between any two calls:
    #
    # `_arrivals` has one token, the inbox, for each message, in order of arrival over all inboxes.
    # Messages are always taken from the front of their inbox. When that is out of turn over all,
    # the token stays behind; `inbox.stale` counts these, the inbox's first. `_stale` is the sum.
    #
    # The n-th receiver in `inbox.promised` is to have the inbox's n-th message. A message that is
    # not promised is free. No receiver that could have a free message waits without a promise, and
    # no free message is older than one promised to a receiver of any. `_promised` and
    # `_promised_to_any` count over all inboxes.

    def __init__(
        self,
        room: Room,
        on_drained: Callable[[Inbox], None],
    ) -> None:
        self._room = room
        self._on_drained = on_drained
        self.on_wait: Callable[[], None] = lambda: None
        self._loop: asyncio.AbstractEventLoop | None = None  # of the last receive that had to wait
        self._closed: Callable[[], STTEndpointError] | None = None  # the error of those who wait
        self.size: int = 0
        """Bytes of all messages that wait."""
        self._arrivals: deque[Inbox] = deque()
        self._stale = 0
        self._promised = 0
        self._promised_to_any = 0
        self._any_receivers: OrderedDict[Receiver, None] = OrderedDict()
        self._asked = 0

    @property
    def closed(self) -> bool:
        """Whether nobody may wait for a message: see `close`."""
        return self._closed is not None

    @property
    def count(self) -> int:
        """How many messages wait, in all inboxes."""
        return len(self._arrivals) - self._stale

    # -- receiving ---------------------------------------------------------------------------

    def take_any(self) -> tuple[bytes, bytes] | None:
        """Take the oldest message of all, ``(data, endpoint_id)``; None if the caller must wait.

        After None, the caller calls `receive` in the same step, or gives up its turn.
        """
        if self._promised:
            return None
        arrivals = self._arrivals
        while arrivals:
            inbox = arrivals.popleft()
            if inbox.stale:
                inbox.stale -= 1
                self._stale -= 1
                continue
            messages = inbox.messages
            assert messages is not None  # noqa: S101  a live token stands for a message
            data = messages.popleft()
            size = len(data)
            inbox.size -= size
            self.size -= size
            if not messages or inbox.senders:
                self._made_room(inbox)
            return data, inbox.endpoint_id
        return None

    def take_from(self, inbox: Inbox) -> tuple[bytes, bytes] | None:
        """Take the oldest message of this inbox, as `take_any` does."""
        if inbox.messages is None or inbox.promised:
            return None
        return self._take(inbox), inbox.endpoint_id

    def take_many(self, source: Inbox | None, most: int) -> list[tuple[bytes, bytes]]:
        """Take the oldest messages of ``source``, or of all; none if the caller must wait.

        Does what ``most`` calls of `take_from` or `take_any` do, up to one that returns None.
        """
        if source is None:
            first = None if self._promised else self._oldest()
            if first is None:
                return []
            assert first.messages is not None  # noqa: S101  a live token stands for a message
            if len(first.messages) < self.count:  # of several inboxes: each may be the oldest
                taken: list[tuple[bytes, bytes]] = []
                while len(taken) < most and (message := self.take_any()) is not None:
                    taken.append(message)
                return taken
            source = first
        elif source.messages is None or source.promised:
            return []
        return self._take_front(source, most)

    def _take_front(self, inbox: Inbox, most: int) -> list[tuple[bytes, bytes]]:
        """Take the oldest messages of an inbox that has some; none of them is promised."""
        messages = inbox.messages
        assert messages is not None  # noqa: S101  callers know that there are some
        if len(messages) <= most:
            taken = list(zip(messages, repeat(inbox.endpoint_id)))
            messages.clear()
            size = inbox.size
        else:
            taken = [(messages.popleft(), inbox.endpoint_id) for _ in range(most)]
            size = sum(len(data) for data, _ in taken)
        inbox.size -= size
        self.size -= size
        if len(taken) == len(self._arrivals):  # so none is stale
            self._arrivals.clear()
        else:
            self._token_stale(inbox, len(taken))
        if not messages or inbox.senders:
            self._made_room(inbox)
        return taken

    async def receive(
        self, source: Inbox | None, timeout: float | None, *, patient: bool = False
    ) -> tuple[bytes, bytes]:
        """Wait for a message of ``source``, or of any inbox if that is None, and take it.

        Call this only after `take_from` or `take_any` has returned None. A message that arrives
        just as the time runs out is received.

        Raises:
            STTTimeoutError: Nothing came within ``timeout`` seconds (None: no limit; 0: at once),
                or the inbox was removed meanwhile.
            STTEndpointError: Nothing is there, and nothing will come: see `close`.
            STTError: The same for this very inbox: see `Inbox.over`. Not if ``patient``.
            TypeError: The ``timeout`` is not a number.
            ValueError: It is NaN.

        After an error or a cancellation, nothing has been taken.

        """
        check_timeout(timeout)
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._change_loop(loop)
        self._asked += 1
        receiver = Receiver(loop.create_future(), source, self._asked, patient=patient)
        promised = self._promise_free(receiver)
        if not promised:
            if timeout is not None and timeout <= 0:
                raise _timed_out(source, timeout)
            if self._closed is not None:
                raise self._closed()
            if source is not None and source.over is not None and not patient:
                raise source.over()
            self.on_wait()
            self._join_queue(receiver)
        timer: asyncio.TimerHandle | None = None
        try:
            if timeout is not None:
                timer = loop.call_later(timeout, self._expire, receiver)
            # A message promised at once is taken after those promised earlier: in the next turn.
            await (asyncio.sleep(0) if promised else receiver.future)
            while not self._may_take(receiver):
                if receiver.slot is not None:
                    await asyncio.sleep(0)  # the receiver before it has been woken, and runs soon
                elif receiver.failure is not None or receiver.expired:
                    break
                else:
                    # It was promised a message of an inbox that has been removed since.
                    receiver.future = loop.create_future()
                    await receiver.future
        except BaseException:
            if receiver.slot is not None:
                self._give_back(receiver)
            else:
                self._leave_queue(receiver)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if receiver.failure is not None:
            raise receiver.failure()
        if receiver.slot is None:
            self._leave_queue(receiver)
            raise _timed_out(source, timeout)
        return self._redeem(receiver)

    def _change_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Forget the receivers of a loop that was closed; pass on what was promised to them."""
        if self._loop is not None and self._loop.is_closed():
            for receiver in [r for r in self._any_receivers if r.stranded]:
                del self._any_receivers[receiver]
            promised = [r for inbox in set(self._arrivals) for r in inbox.promised]
            for receiver in promised:
                if receiver.stranded:
                    self._give_back(receiver)
        self._loop = loop

    def close(self, reason: str, inboxes: Iterable[Inbox]) -> None:
        """Fail all receivers that wait, or would have to wait, for a message, until `reopen`.

        Messages that are there can still be received.

        Args:
            reason: The error's text.
            inboxes: All of them.

        """
        self._closed = partial(STTEndpointError, reason)
        for inbox in inboxes:
            self._fail_receivers(inbox, self._closed)
        self._fail_any(self._closed)

    def fail_receivers(self, inbox: Inbox, reason: str) -> None:
        """Fail all receivers that now wait for a message of this very inbox."""
        self._fail_receivers(inbox, partial(STTEndpointError, reason))

    def fail_impatient(self, inbox: Inbox, failure: Callable[[], STTError]) -> None:
        """Fail all receivers that now wait for this very inbox, except patient ones."""
        for receiver in list(inbox.receivers or ()):
            if not receiver.patient:
                self._leave_queue(receiver)
                receiver.fail(failure)

    def reopen(self) -> None:
        """Let receivers wait again."""
        self._closed = None

    def _fail_receivers(self, inbox: Inbox, failure: Callable[[], STTEndpointError]) -> None:
        receivers, inbox.receivers = inbox.receivers, None
        for receiver in receivers or ():
            receiver.fail(failure)

    def _fail_any(self, failure: Callable[[], STTEndpointError]) -> None:
        for receiver in self._any_receivers:
            receiver.fail(failure)
        self._any_receivers.clear()

    def _expire(self, receiver: Receiver) -> None:
        receiver.expired = True
        if receiver.slot is None:
            self._leave_queue(receiver)
            receiver.wake()

    def _join_queue(self, receiver: Receiver) -> None:
        source = receiver.source
        if source is None:
            self._any_receivers[receiver] = None
        elif source.receivers is None:
            source.receivers = OrderedDict.fromkeys((receiver,))
        else:
            source.receivers[receiver] = None

    def _leave_queue(self, receiver: Receiver) -> None:
        source = receiver.source
        if source is None:
            self._any_receivers.pop(receiver, None)
        elif source.receivers is not None:
            source.receivers.pop(receiver, None)
            if not source.receivers:
                source.receivers = None

    # -- putting -----------------------------------------------------------------------------

    def put(self, inbox: Inbox, data: bytes) -> bool:
        """Put one message; if it must wait for room, do nothing and return False."""
        room = self._room
        if (inbox.senders and room.is_barred(inbox)) or not room.fits(inbox, len(data), 1):
            return False
        inbox.turn = None
        self._put(inbox, data)
        return True

    async def put_when_room(self, inbox: Inbox, data: bytes) -> None:
        """Wait, after those that already wait, for room for the message, and put it.

        Raises STTEndpointError if the inbox accepts no more messages, or is removed meanwhile.
        After an error or a cancellation, nothing was put.
        """
        sender = await self._room.enter(inbox, len(data), 1)
        inbox.turn = None
        self._put(inbox, data)
        self._room.leave(inbox, sender)

    def put_many(
        self, inbox: Inbox, messages: Sequence[bytes], *, beyond_bounds: bool = False
    ) -> int:
        """Put as many messages, from the first on, as there is room for; return how many.

        That is 0 while others wait for room, except right after `Room.wait`. With
        ``beyond_bounds`` all are put, before those that wait.
        """
        count = len(messages)
        size = sum(map(len, messages))
        held = inbox.messages
        if not beyond_bounds:
            if inbox.senders and self._room.is_barred(inbox):
                return 0
            room = self._room
            if (
                count + (0 if held is None else len(held)) > room.max_messages
                or inbox.size + size > room.max_bytes
            ):
                count, size = room.fitting(inbox, messages)
                messages = messages[:count]
        inbox.turn = None
        if count == 0:
            return 0
        if held is None:
            inbox.messages = deque(messages)
        else:
            held.extend(messages)
        self._arrivals.extend(repeat(inbox, count))
        inbox.size += size
        self.size += size
        if inbox.receivers or self._any_receivers:
            self._promise_new(inbox, count)
        return count

    def _put(self, inbox: Inbox, data: bytes) -> None:
        if inbox.messages is None:
            inbox.messages = deque((data,))
        else:
            inbox.messages.append(data)
        self._arrivals.append(inbox)
        size = len(data)
        inbox.size += size
        self.size += size
        if inbox.receivers or self._any_receivers:
            self._promise_new(inbox, 1)

    # -- the end of an inbox -----------------------------------------------------------------

    def discard(self, inbox: Inbox) -> None:
        """Drop the inbox and its messages, and fail all receivers that wait for it alone.

        A receiver of any inbox that was promised one of its messages waits on at its old rank.
        """
        self._room.refuse(inbox)
        self._fail_receivers(inbox, partial(_removed, inbox.endpoint_id))
        orphans = self._revoke(inbox)
        count = 0 if inbox.messages is None else len(inbox.messages)
        inbox.messages = None
        self.size -= inbox.size
        inbox.size = 0
        self._token_stale(inbox, count)
        if orphans:
            self._requeue(orphans)

    def _revoke(self, inbox: Inbox) -> list[Receiver]:
        """Withdraw the inbox's promises; return those of its receivers that take any message."""
        promised, inbox.promised = inbox.promised, []
        orphans = []
        for receiver in promised:
            receiver.slot = None
            if receiver.source is None:
                orphans.append(receiver)
            else:
                receiver.fail(partial(_removed, inbox.endpoint_id))
        self._promised -= len(promised)
        self._promised_to_any -= len(orphans)
        return orphans

    def _requeue(self, orphans: list[Receiver]) -> None:
        """Let receivers of any inbox whose promise was withdrawn wait again at their old rank."""
        by_age = sorted([*orphans, *self._any_receivers], key=lambda receiver: receiver.rank)
        self._any_receivers = OrderedDict.fromkeys(by_age)
        while self._any_receivers and self._promise_free(next(iter(self._any_receivers))):
            receiver, _ = self._any_receivers.popitem(last=False)
            receiver.wake()
        if self._closed is not None:
            self._fail_any(self._closed)

    # -- promises ----------------------------------------------------------------------------

    def _promise_new(self, inbox: Inbox, count: int) -> None:
        """Promise the last ``count`` messages, which have just arrived, to waiting receivers."""
        for _ in range(count):
            receiver = self._next_receiver(inbox)
            if receiver is None:
                return
            inbox.promised.append(receiver)
            self._bind(receiver, inbox)

    def _promise_free(self, receiver: Receiver) -> bool:
        """Promise the receiver the oldest free message that it may have, if there is one."""
        inbox = receiver.source
        if inbox is None:
            if len(self._arrivals) == self._stale + self._promised:
                return False
            if self._stale == 0 and self._promised == self._promised_to_any:
                # All promised messages are older than the free ones: no need to look.
                inbox = self._arrivals[self._promised]
            else:
                _, inbox = self._before_free()
                assert inbox is not None  # noqa: S101  a message is free
        elif inbox.messages is None or len(inbox.messages) == len(inbox.promised):
            return False
        inbox.promised.append(receiver)
        self._bind(receiver, inbox)
        return True

    def _before_free(self) -> tuple[list[tuple[Inbox, int]], Inbox | None]:
        """Return the promised messages older than any free one, and the inbox of the free one.

        Each is given as its inbox and its place there, in order of arrival. All that is promised to
        receivers of any inbox is among them.
        """
        promised: list[tuple[Inbox, int]] = []
        places: dict[Inbox, int] = {}
        while (inbox := self._oldest()) is not None:
            place = places.get(inbox, 0)
            if place == len(inbox.promised):
                break
            places[inbox] = place + 1
            promised.append((inbox, place))
            self._arrivals.popleft()
        self._arrivals.extendleft(inbox for inbox, _ in reversed(promised))
        return promised, inbox

    def _oldest(self) -> Inbox | None:
        """Return the inbox of the oldest message, if there is one."""
        arrivals = self._arrivals
        while arrivals:
            inbox = arrivals[0]
            if not inbox.stale:
                return inbox
            arrivals.popleft()
            inbox.stale -= 1
            self._stale -= 1
        return None

    def _next_receiver(self, inbox: Inbox) -> Receiver | None:
        """Remove from its queue, and wake, the receiver that gets the inbox's next free message.

        A receiver that is cancelled but has yet to run no longer waits for anything.
        """
        receivers = inbox.receivers
        while receivers:
            receiver, _ = receivers.popitem(last=False)
            if not receivers:
                inbox.receivers = None
            if not receiver.future.cancelled() and receiver.wake():
                return receiver
        while self._any_receivers:
            receiver, _ = self._any_receivers.popitem(last=False)
            if not receiver.future.cancelled() and receiver.wake():
                return receiver
        return None

    def _bind(self, receiver: Receiver, inbox: Inbox) -> None:
        receiver.slot = inbox
        self._promised += 1
        if receiver.source is None:
            self._promised_to_any += 1

    def _unbind(self, receiver: Receiver) -> None:
        receiver.slot = None
        self._promised -= 1
        if receiver.source is None:
            self._promised_to_any -= 1

    def _may_take(self, receiver: Receiver) -> bool:
        """Return whether a message is promised to the receiver and all before it are settled.

        Each inbox hands out its messages in order, and receivers of any inbox get all messages in
        order. A receiver that was promised an older message may have been woken later, and may
        still be cancelled.
        """
        inbox = receiver.slot
        if inbox is None or inbox.promised[0] is not receiver:
            return False
        return receiver.source is not None or self._oldest() is inbox

    def _redeem(self, receiver: Receiver) -> tuple[bytes, bytes]:
        """Take the message that was promised to the receiver, which may take it."""
        inbox = receiver.slot
        assert inbox is not None  # noqa: S101  callers hold a promised receiver
        del inbox.promised[0]
        self._unbind(receiver)
        return self._take(inbox), inbox.endpoint_id

    def _give_back(self, receiver: Receiver) -> None:
        """Pass on the message that was promised to a receiver that will not take it.

        The next receiver that was promised a later message and may have this one moves up to it,
        the one after that moves up to the message this leaves, and so on, so that none overtakes
        another. The message left over at the end goes to a receiver that waits without a promise,
        or becomes free. Receivers of any inbox do not move up to a message that another receiver
        waits for in particular: their own message would be left over instead.
        """
        inbox = receiver.slot
        assert inbox is not None  # noqa: S101  callers hold a promised receiver
        place = inbox.promised.index(receiver)
        self._unbind(receiver)
        if self._promised_to_any:
            promised, _ = self._before_free()
            hole = (inbox, place)
            first = promised.index(hole) + 1 if hole in promised else len(promised)
            for later_inbox, later_place in promised[first:]:
                other = later_inbox.promised[later_place]
                if other.source is inbox or (other.source is None and not _is_awaited(inbox)):
                    inbox.promised[place] = other
                    other.slot = inbox
                    inbox, place = later_inbox, later_place
        for later_place in range(place + 1, len(inbox.promised)):
            other = inbox.promised[later_place]
            if other.source is inbox:
                inbox.promised[place] = other
                place = later_place
        heir = self._next_receiver(inbox)
        if heir is None:
            del inbox.promised[place]
        else:
            inbox.promised[place] = heir
            self._bind(heir, inbox)

    # -- messages and tokens -----------------------------------------------------------------

    def _take(self, inbox: Inbox) -> bytes:
        messages = inbox.messages
        assert messages is not None  # noqa: S101  callers know that there is one
        data = messages.popleft()
        size = len(data)
        inbox.size -= size
        self.size -= size
        if self._arrivals[0] is inbox:
            # Should this token be stale, another one becomes so in its place.
            self._arrivals.popleft()
        else:
            self._token_stale(inbox, 1)
        if not messages or inbox.senders:
            self._made_room(inbox)
        return data

    def _made_room(self, inbox: Inbox) -> None:
        if not inbox.messages:
            inbox.messages = None
            if inbox.retiring:
                self._on_drained(inbox)
                return
        if inbox.senders:
            self._room.made(inbox)

    def _token_stale(self, inbox: Inbox, count: int) -> None:
        inbox.stale += count
        self._stale += count
        if self._stale > len(self._arrivals) // 2 + _SWEEP_SLACK:
            kept: deque[Inbox] = deque()
            for token in self._arrivals:
                if token.stale:
                    token.stale -= 1
                else:
                    kept.append(token)
            self._arrivals = kept
            self._stale = 0


def _is_awaited(inbox: Inbox) -> bool:
    """Return whether a receiver waits for this very inbox, without a promise."""
    return any(
        not (receiver.future.cancelled() or receiver.stranded) for receiver in inbox.receivers or ()
    )


def _timed_out(source: Inbox | None, timeout: float | None) -> STTTimeoutError:
    where = "any endpoint" if source is None else f"endpoint {printable_id(source.endpoint_id)}"
    return STTTimeoutError(f"no message from {where} within {timeout} s")


def _removed(endpoint_id: bytes) -> STTTimeoutError:
    """Make the error of a receive whose endpoint has gone.

    It is a timeout: a call that waits for an answer gets none. The next call is told that the
    endpoint is unknown.
    """
    return STTTimeoutError(
        f"endpoint {printable_id(endpoint_id)} was removed while a receive waited for it"
    )
