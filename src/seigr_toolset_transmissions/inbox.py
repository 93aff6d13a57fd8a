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

So nothing is lost, doubled or reordered, whatever is cancelled when. When a message is at hand
and nobody is before, receiving neither waits nor touches the event loop.

`Inboxes` knows no endpoints, names or transports; `endpoints.EndpointManager` joins it to those.
Not thread-safe: everything runs in one event loop.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from itertools import repeat
from typing import TYPE_CHECKING

from .errors import STTEndpointError, STTTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Inbox", "Inboxes", "printable_id"]

# Stale tokens (see `Inboxes`) are swept when they outnumber the live ones by this many: a sweep
# is then paid for by the receives that made them, and small managers never need one.
_SWEEP_SLACK = 256


def printable_id(endpoint_id: bytes) -> str:
    """Return the id in hexadecimal, shortened when it is longer than a node's id."""
    return endpoint_id.hex() if len(endpoint_id) <= 32 else f"{endpoint_id[:32].hex()}..."


class Inbox:
    """The messages of one endpoint that nobody has received yet. All state, no behaviour.

    An idle inbox holds no large container: these are made on first use and let go when empty.
    """

    __slots__ = (
        "bytes_received",
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
        self.promised: list[_Receiver] = []
        #: The first so many of this inbox's tokens in `Inboxes` stand for messages already taken.
        self.stale = 0
        #: Bytes in `messages`, and bytes ever put.
        self.size = 0
        self.bytes_received = 0
        #: True when no more is accepted and the inbox is to go once it is empty.
        self.retiring = False
        #: True when `Inboxes.wait_for_room` has returned: the next `put_many` need not queue.
        self.turn = False
        #: Who waits for a message without a promise, and who waits for room; oldest first.
        self.receivers: OrderedDict[_Receiver, None] | None = None
        self.senders: OrderedDict[_Sender, None] | None = None


class _Waiter:
    """Somebody who waits. ``error`` is set, before the wake-up, when there is nothing to get."""

    __slots__ = ("error", "future")

    def __init__(self, future: asyncio.Future[None]) -> None:
        self.future = future
        self.error: STTEndpointError | None = None

    def wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class _Receiver(_Waiter):
    """Waits for a message of ``source``, or of any inbox if that is None.

    ``slot`` is the inbox of which a message is promised to it, and ``rank`` its age. ``expired``
    says that its time has run out, which counts only while nothing is promised to it.
    """

    __slots__ = ("expired", "rank", "slot", "source")

    def __init__(self, future: asyncio.Future[None], source: Inbox | None, rank: int) -> None:
        self.future = future
        self.error = None
        self.source = source
        self.rank = rank
        self.slot: Inbox | None = None
        self.expired = False


class _Sender(_Waiter):
    """Waits for room for ``count`` messages of ``size`` bytes together."""

    __slots__ = ("count", "size")

    def __init__(self, future: asyncio.Future[None], size: int, count: int) -> None:
        super().__init__(future)
        self.size = size
        self.count = count


class Inboxes:
    """All the inboxes of one manager, and everybody who waits for them.

    Args:
        max_messages: How many messages one inbox holds.
        max_bytes: How many bytes one inbox holds; a larger message fits an empty inbox.
        on_drained: Called with a retiring inbox when its last message has been taken.

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
        self, max_messages: int, max_bytes: int, on_drained: Callable[[Inbox], None]
    ) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._on_drained = on_drained
        self.size = 0
        """Bytes of all messages that wait."""
        self._arrivals: deque[Inbox] = deque()
        self._stale = 0
        self._promised = 0
        self._promised_to_any = 0
        self._any_receivers: OrderedDict[_Receiver, None] = OrderedDict()
        self._asked = 0

    @property
    def count(self) -> int:
        """How many messages wait, in all inboxes."""
        return len(self._arrivals) - self._stale

    def is_overfull(self, inbox: Inbox) -> bool:
        """Whether the inbox holds more than twice its bounds."""
        return inbox.messages is not None and (
            inbox.size > 2 * self._max_bytes or len(inbox.messages) > 2 * self._max_messages
        )

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
            STTTimeoutError: Nothing came within ``timeout`` seconds (None: no limit; 0: at once).
            STTEndpointError: The inbox was removed.

        After an error or a cancel nothing has been taken.

        """
        loop = asyncio.get_running_loop()
        self._asked += 1
        receiver = _Receiver(loop.create_future(), source, self._asked)
        promised = self._promise_free(receiver)
        if not promised:
            if timeout is not None and timeout <= 0:
                raise _timed_out(source, timeout)
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
                elif receiver.error is not None or receiver.expired:
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
        if receiver.error is not None:
            raise receiver.error
        if receiver.slot is None:
            self._leave_queue(receiver)
            raise _timed_out(source, timeout)
        return self._redeem(receiver)

    def _expire(self, receiver: _Receiver) -> None:
        receiver.expired = True
        if receiver.slot is None:
            self._leave_queue(receiver)
            receiver.wake()

    def _join_queue(self, receiver: _Receiver) -> None:
        source = receiver.source
        if source is None:
            self._any_receivers[receiver] = None
        elif source.receivers is None:
            source.receivers = OrderedDict.fromkeys((receiver,))
        else:
            source.receivers[receiver] = None

    def _leave_queue(self, receiver: _Receiver) -> None:
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
        if inbox.senders or not self._fits(inbox, len(data), 1):
            return False
        self._put(inbox, data)
        return True

    def put_many(
        self, inbox: Inbox, messages: Sequence[bytes], *, beyond_bounds: bool = False
    ) -> int:
        """Put as many messages, from the first on, as there is room for; return how many.

        It is 0 while somebody waits for room, except right after `wait_for_room`. With
        ``beyond_bounds`` all are put.
        """
        if inbox.senders and not inbox.turn and not beyond_bounds:
            return 0
        inbox.turn = False
        count = len(messages)
        size = sum(map(len, messages))
        held = inbox.messages
        if not beyond_bounds and (
            count + (0 if held is None else len(held)) > self._max_messages
            or inbox.size + size > self._max_bytes
        ):
            count, size = self._fitting(inbox, messages)
            messages = messages[:count]
        if count == 0:
            return 0
        if held is None:
            inbox.messages = deque(messages)
        else:
            held.extend(messages)
        self._arrivals.extend(repeat(inbox, count))
        inbox.size += size
        self.size += size
        inbox.bytes_received += size
        if inbox.receivers or self._any_receivers:
            self._promise_new(inbox, count)
        return count

    async def put_when_room(self, inbox: Inbox, data: bytes) -> None:
        """Wait, behind those who wait already, for room for the message, and put it.

        Raises STTEndpointError if the inbox takes no more or is removed meanwhile. After an error
        or a cancel nothing was put.
        """
        sender = _Sender(asyncio.get_running_loop().create_future(), len(data), 1)
        await self._at_head(inbox, sender)
        self._put(inbox, data)
        self._next_sender(inbox, sender)

    async def wait_for_room(self, inbox: Inbox, size: int, count: int) -> None:
        """Wait, behind those who wait already, until `put_many` would accept so many bytes.

        That holds for the caller, and until it next gives way to the loop. Raises as
        `put_when_room`.
        """
        if inbox.senders or not self._fits(inbox, size, count):
            sender = _Sender(asyncio.get_running_loop().create_future(), size, count)
            await self._at_head(inbox, sender)
            self._next_sender(inbox, sender)
        inbox.turn = True

    async def _at_head(self, inbox: Inbox, sender: _Sender) -> None:
        """Return when the sender is the oldest, its message fits, and it is its turn to run."""
        if inbox.senders is None:
            inbox.senders = OrderedDict()
        inbox.senders[sender] = None
        try:
            await sender.future
            while sender.error is None and not self._fits(inbox, sender.size, sender.count):
                # Whoever was before it in the line has waited for room and used more of it.
                sender.future = asyncio.get_running_loop().create_future()
                await sender.future
        except BaseException:
            self._next_sender(inbox, sender)
            raise
        if sender.error is not None:
            raise sender.error

    def _next_sender(self, inbox: Inbox, done: _Sender) -> None:
        """Take the sender out of the line and wake the next one if there is room for it."""
        senders = inbox.senders
        if senders is None:  # the inbox was removed
            return
        senders.pop(done, None)
        if senders:
            self._wake_sender(inbox, senders)
        else:
            inbox.senders = None

    def _wake_sender(self, inbox: Inbox, senders: OrderedDict[_Sender, None]) -> None:
        oldest = next(iter(senders))
        if self._fits(inbox, oldest.size, oldest.count):
            oldest.wake()

    def _fits(self, inbox: Inbox, size: int, count: int) -> bool:
        held = inbox.messages
        return held is None or (
            len(held) + count <= self._max_messages and inbox.size + size <= self._max_bytes
        )

    def _fitting(self, inbox: Inbox, messages: Sequence[bytes]) -> tuple[int, int]:
        held = inbox.messages
        slots = self._max_messages - (0 if held is None else len(held))
        room = self._max_bytes - inbox.size
        count = size = 0
        for data in messages[:slots]:
            # An inbox that is empty takes one message however large.
            if size + len(data) > room and (held is not None or count):
                break
            count += 1
            size += len(data)
        return count, size

    def _put(self, inbox: Inbox, data: bytes) -> None:
        if inbox.messages is None:
            inbox.messages = deque((data,))
        else:
            inbox.messages.append(data)
        self._arrivals.append(inbox)
        size = len(data)
        inbox.size += size
        self.size += size
        inbox.bytes_received += size
        if inbox.receivers or self._any_receivers:
            self._promise_new(inbox, 1)

    # -- the end of an inbox -----------------------------------------------------------------

    def refuse(self, inbox: Inbox) -> None:
        """Fail everybody who waits for room: the inbox takes no more."""
        senders, inbox.senders = inbox.senders, None
        inbox.turn = False
        for sender in senders or ():
            sender.error = STTEndpointError(
                f"endpoint {printable_id(inbox.endpoint_id)} takes no more messages; "
                "this one was not delivered"
            )
            sender.wake()

    def discard(self, inbox: Inbox) -> None:
        """Drop the inbox and its messages, and fail everybody who waits for it alone.

        Who was promised one of its messages while waiting for any waits on, as old as before.
        """
        self.refuse(inbox)
        receivers, inbox.receivers = inbox.receivers, None
        for receiver in receivers or ():
            _fail_removed(receiver, inbox)
        orphans = self._revoke(inbox)
        count = 0 if inbox.messages is None else len(inbox.messages)
        inbox.messages = None
        self.size -= inbox.size
        inbox.size = 0
        self._token_stale(inbox, count)
        if orphans:
            self._requeue(orphans)

    def _revoke(self, inbox: Inbox) -> list[_Receiver]:
        """Withdraw what is promised of the inbox; return those of its receivers who take any."""
        promised, inbox.promised = inbox.promised, []
        orphans = []
        for receiver in promised:
            receiver.slot = None
            if receiver.source is None:
                orphans.append(receiver)
            else:
                _fail_removed(receiver, inbox)
        self._promised -= len(promised)
        self._promised_to_any -= len(orphans)
        return orphans

    def _requeue(self, orphans: list[_Receiver]) -> None:
        """Let receivers of any, whose promise was withdrawn, wait again at their old rank."""
        by_age = sorted([*orphans, *self._any_receivers], key=lambda receiver: receiver.rank)
        self._any_receivers = OrderedDict.fromkeys(by_age)
        while self._any_receivers and self._promise_free(next(iter(self._any_receivers))):
            self._any_receivers.popitem(last=False)

    # -- promises ----------------------------------------------------------------------------

    def _promise_new(self, inbox: Inbox, count: int) -> None:
        """Promise the last ``count`` messages, which have just arrived, as far as people wait."""
        for _ in range(count):
            receiver = self._next_receiver(inbox)
            if receiver is None:
                return
            inbox.promised.append(receiver)
            self._bind(receiver, inbox)

    def _promise_free(self, receiver: _Receiver) -> bool:
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

    def _next_receiver(self, inbox: Inbox) -> _Receiver | None:
        """Take out of its queue whoever is to have the next free message of the inbox."""
        receivers = inbox.receivers
        while receivers:
            receiver, _ = receivers.popitem(last=False)
            if not receivers:
                inbox.receivers = None
            # One that is cancelled but has yet to run waits for nothing any more.
            if not receiver.future.cancelled():
                return receiver
        while self._any_receivers:
            receiver, _ = self._any_receivers.popitem(last=False)
            if not receiver.future.cancelled():
                return receiver
        return None

    def _bind(self, receiver: _Receiver, inbox: Inbox) -> None:
        receiver.slot = inbox
        self._promised += 1
        if receiver.source is None:
            self._promised_to_any += 1
        receiver.wake()

    def _unbind(self, receiver: _Receiver) -> None:
        receiver.slot = None
        self._promised -= 1
        if receiver.source is None:
            self._promised_to_any -= 1

    def _may_take(self, receiver: _Receiver) -> bool:
        """Return whether a message is promised to the receiver and all before it are settled.

        An inbox gives its messages away in order, and to receivers of any, all in order. Someone
        who was promised an older message may have been woken later, and yet be cancelled.
        """
        inbox = receiver.slot
        if inbox is None or inbox.promised[0] is not receiver:
            return False
        return receiver.source is not None or self._oldest() is inbox

    def _redeem(self, receiver: _Receiver) -> tuple[bytes, bytes]:
        """Take the message that was promised to the receiver, which may take it."""
        inbox = receiver.slot
        assert inbox is not None  # noqa: S101  callers hold a promised receiver
        del inbox.promised[0]
        self._unbind(receiver)
        return self._take(inbox), inbox.endpoint_id

    def _give_back(self, receiver: _Receiver) -> None:
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
            self._wake_sender(inbox, inbox.senders)

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
    return any(not receiver.future.cancelled() for receiver in inbox.receivers or ())


def _timed_out(source: Inbox | None, timeout: float | None) -> STTTimeoutError:
    where = "any endpoint" if source is None else f"endpoint {printable_id(source.endpoint_id)}"
    return STTTimeoutError(f"no message from {where} within {timeout} s")


def _fail_removed(receiver: _Receiver, inbox: Inbox) -> None:
    receiver.error = STTEndpointError(
        f"endpoint {printable_id(inbox.endpoint_id)} was removed while a receive waited for it"
    )
    receiver.wake()
