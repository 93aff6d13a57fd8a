"""Bounded inboxes whose every message is consumed exactly once, by one of two kinds of receiver.

A receiver waits for one inbox or for any of them, and both see the same messages: what one takes
is gone for the other. The rule is: a message goes to the oldest receiver that waits for its inbox,
else to the oldest that waits for any, else to whoever asks first. It must hold although, in
asyncio, a receiver that was woken runs only later, and may be cancelled before it does. Therefore:

* A message that arrives for a waiting receiver is *promised* to it but stays in its inbox until
  the receiver runs.
* A newcomer does not overtake those who have yet to run: should one of them be cancelled, the
  order would be lost. It is promised the next message and waits for one turn of the loop.
* A receiver that is cancelled before it runs gives its promise back: the others shift up, and
  what is left over is promised to the next in line or stays where it was.

So nothing is lost, doubled or reordered, whatever is cancelled when. (How messages wait for room
in an inbox that is full stands in `room`.) When a message is at hand
and nobody is before, receiving neither waits nor touches the event loop.

`Inboxes` knows no endpoints, names or transports; `endpoints.EndpointManager` joins it to those.
Not thread-safe: everything runs in one event loop. When that loop has been closed, another one may
take over: whoever still waited in the closed one is passed over, and the messages stay.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING

from .errors import STTEndpointError, STTTimeoutError
from .waiting import Receiver, printable_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .room import Room
    from .waiting import Inbox

__all__ = ["Inboxes"]

# Stale tokens (see `Inboxes`) are swept when they outnumber the live ones by this many: a sweep
# is then paid for by the receives that made them, and small managers never need one.
_SWEEP_SLACK = 256


class Inboxes:
    """All the inboxes of one manager, and everybody who waits for them.

    Args:
        room: The bounds of each inbox.
        on_drained: Called with a retiring inbox when its last message has been taken.
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
        on_wait: Callable[[], None] | None = None,
    ) -> None:
        self._room = room
        self._on_drained = on_drained
        self._on_wait = on_wait
        self._loop: asyncio.AbstractEventLoop | None = None  # of the last receive that had to wait
        self._closed: Callable[[], STTEndpointError] | None = None  # the error of those who wait
        self.size = 0
        """Bytes of all messages that wait."""
        self._arrivals: deque[Inbox] = deque()
        self._stale = 0
        self._promised = 0
        self._promised_to_any = 0
        self._any_receivers: OrderedDict[Receiver, None] = OrderedDict()
        self._asked = 0

    @property
    def count(self) -> int:
        """How many messages wait, in all inboxes."""
        return len(self._arrivals) - self._stale

    # -- receiving ---------------------------------------------------------------------------

    def take_any(self) -> tuple[bytes, bytes] | None:
        """Take the oldest message of all: ``(data, endpoint_id)``, or None if one must wait.

        Having got None, the caller goes on to `receive` in the same step, or forgoes its turn.
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
        """Take the oldest message of this inbox: as `take_any`."""
        if inbox.messages is None or inbox.promised:
            return None
        return self._take(inbox), inbox.endpoint_id

    async def receive(self, source: Inbox | None, timeout: float | None) -> tuple[bytes, bytes]:
        """Wait for a message of ``source``, or of any inbox if that is None, and take it.

        To be called only when `take_from` or `take_any` has returned None. A message that arrives
        as the time runs out is received.

        Raises:
            STTTimeoutError: Nothing came within ``timeout`` seconds (None: no limit; 0: at once),
                or the inbox was removed meanwhile.
            STTEndpointError: Nothing is there, and nothing will come: see `close`.

        After an error or a cancel nothing has been taken.

        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._change_loop(loop)
        self._asked += 1
        receiver = Receiver(loop.create_future(), source, self._asked)
        promised = self._promise_free(receiver)
        if not promised:
            if timeout is not None and timeout <= 0:
                raise _timed_out(source, timeout)
            if self._closed is not None:
                raise self._closed()
            if self._on_wait is not None:
                self._on_wait()
            self._join_queue(receiver)
        timer: asyncio.TimerHandle | None = None
        try:
            if timeout is not None:
                timer = loop.call_later(timeout, self._expire, receiver)
            # A promise at once is to be taken after those who are before: in the next turn.
            await (asyncio.sleep(0) if promised else receiver.future)
            while not self._may_take(receiver):
                if receiver.slot is not None:
                    await asyncio.sleep(0)  # whoever is before it has been woken, and runs soon
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
        """Fail everybody who waits for a message, and whoever would have to, until `reopen`.

        Messages that are there are received all the same.

        Args:
            reason: The error's text.
            inboxes: All of them.

        """
        self._closed = partial(STTEndpointError, reason)
        for inbox in inboxes:
            receivers, inbox.receivers = inbox.receivers, None
            for receiver in receivers or ():
                receiver.fail(self._closed)
        self._fail_any(self._closed)

    def reopen(self) -> None:
        """Let receivers wait again."""
        self._closed = None

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
        """Put one message; False, and nothing happened, if it must wait for room."""
        room = self._room
        if (inbox.senders and room.is_barred(inbox)) or not room.fits(inbox, len(data), 1):
            return False
        inbox.turn = None
        self._put(inbox, data)
        return True

    async def put_when_room(self, inbox: Inbox, data: bytes) -> None:
        """Wait, behind those who wait already, for room for the message, and put it.

        Raises STTEndpointError if the inbox takes no more or is removed meanwhile. After an error
        or a cancel nothing was put.
        """
        sender = await self._room.enter(inbox, len(data), 1)
        self._put(inbox, data)
        self._room.leave(inbox, sender)

    def put_many(
        self, inbox: Inbox, messages: Sequence[bytes], *, beyond_bounds: bool = False
    ) -> int:
        """Put as many messages, from the first on, as there is room for; return how many.

        It is 0 while somebody waits for room, except right after `Room.wait`. With
        ``beyond_bounds`` all are put, before those who wait.
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
        """Drop the inbox and its messages, and fail everybody who waits for it alone.

        Who was promised one of its messages while waiting for any waits on, as old as before.
        """
        self._room.refuse(inbox)
        receivers, inbox.receivers = inbox.receivers, None
        for receiver in receivers or ():
            receiver.fail(partial(_removed, inbox.endpoint_id))
        orphans = self._revoke(inbox)
        count = 0 if inbox.messages is None else len(inbox.messages)
        inbox.messages = None
        self.size -= inbox.size
        inbox.size = 0
        self._token_stale(inbox, count)
        if orphans:
            self._requeue(orphans)

    def _revoke(self, inbox: Inbox) -> list[Receiver]:
        """Withdraw what is promised of the inbox; return those of its receivers who take any."""
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
        """Let receivers of any, whose promise was withdrawn, wait again at their old rank."""
        by_age = sorted([*orphans, *self._any_receivers], key=lambda receiver: receiver.rank)
        self._any_receivers = OrderedDict.fromkeys(by_age)
        while self._any_receivers and self._promise_free(next(iter(self._any_receivers))):
            receiver, _ = self._any_receivers.popitem(last=False)
            receiver.wake()
        if self._closed is not None:
            self._fail_any(self._closed)

    # -- promises ----------------------------------------------------------------------------

    def _promise_new(self, inbox: Inbox, count: int) -> None:
        """Promise the last ``count`` messages, which have just arrived, as far as people wait."""
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
        """Return the promised messages that are older than any free one, and whose that one is.

        In order of arrival, each as its inbox and its place there. What is promised to receivers
        of any is among them.
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
        """Return whose the oldest message is, if there is one."""
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
        """Take out of its queue, and wake, whoever is to have the next free message of the inbox.

        One that is cancelled but has yet to run waits for nothing any more.
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

        An inbox gives its messages away in order, and to receivers of any, all in order. Someone
        who was promised an older message may have been woken later, and yet be cancelled.
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
        """Pass on the message that was promised to a receiver which will not take it.

        Everybody promised a later message who may have this one moves up to it, leaving theirs to
        the next, so that nobody overtakes; the one that is left over at the end goes to whoever
        waits without a promise, or becomes free. Receivers of any do not move up to a message
        that somebody waits for in particular: theirs would be left over in its stead.
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
    """Return whether somebody waits for this very inbox, without a promise."""
    return any(
        not (receiver.future.cancelled() or receiver.stranded) for receiver in inbox.receivers or ()
    )


def _timed_out(source: Inbox | None, timeout: float | None) -> STTTimeoutError:
    where = "any endpoint" if source is None else f"endpoint {printable_id(source.endpoint_id)}"
    return STTTimeoutError(f"no message from {where} within {timeout} s")


def _removed(endpoint_id: bytes) -> STTTimeoutError:
    """Make the error of a receive whose endpoint has gone.

    It is a time-out as well: who waits for an answer for a while does not get one, and whoever
    asks again hears that the endpoint is unknown.
    """
    return STTTimeoutError(
        f"endpoint {printable_id(endpoint_id)} was removed while a receive waited for it"
    )
