"""Pipes: connections over a publish/subscribe bus, between nodes that can only dial out.

The host of an address is a name and its port a number; a node listens on the bus at
``stt.at.HOST.PORT.open``. Each network has an inbox, and each end of a pipe a random name in it: it
is reached at ``stt.to.INBOX.NAME``. An envelope is

    u8 kind | 8 bytes pipe id | u32 seq | u64 taken | payload, at most 128 KiB

The id is the name of the end that was dialed. ``seq`` is the number of DATA and END envelopes sent
before this one in the same direction. ``taken`` is the number of bytes that the sender has taken
from the other direction, which is credit for that many more; in OPEN and OPENED, it is how many
bytes may be under way. OPEN, OPENED, and a TAKEN that wants an answer carry the subject of the
sender's end as the reply.

A pipe never retransmits. A missing envelope or an outage of the bus cuts it, like a TCP connection,
and the session above resumes over a new one. An end whose bytes stay unconfirmed for a while asks
the other end: silence alone does not cut a pipe. An envelope for a pipe that does not exist is
dropped; if it has a reply, a RESET goes there.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import secrets
from collections import deque
from enum import IntEnum
from struct import Struct
from typing import TYPE_CHECKING
from urllib.parse import quote

from .base import (
    FREE_PORTS,
    NOBODY,
    WRITE_HIGH_BYTES,
    WRITE_LOW_BYTES,
    Address,
    Listener,
    Network,
    QueueTransport,
    Receiver,
    Transport,
    receiver_or_nobody,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .bus import Bus, Unsubscribe

__all__ = ["PipeNetwork"]


class _Kind(IntEnum):
    OPEN = 0
    OPENED = 1
    REFUSED = 2
    DATA = 3
    TAKEN = 4
    END = 5
    RESET = 6


_HEAD = Struct("!B8sIQ")
_NO_ID = bytes(8)
_SEQ_MASK = 0xFFFFFFFF
_HALF = 0x80000000

_END_SUBJECT = re.compile(r"stt\.to\.([0-9a-f]{16})\.[0-9a-f]{16}")
"""The form of a valid reply. Nothing is ever sent to any other."""

_CHUNK_BYTES = 128 * 1024
"""The most bytes in one envelope: far below what a NATS server accepts (1 MiB)."""

_WINDOW_BYTES = 1024 * 1024
"""The most bytes of one direction that are under way or kept while the reader pauses."""

_MEMORY_BYTES = 32 * 1024 * 1024
"""A new pipe gets this divided by the number of pipes, if that is less than a full window. So a few
busy pipes stay below what a NATS server buffers for one connection (64 MiB), and thousands need
little memory."""

_MOST_PIPES = 8192
"""Per network. With this many, a window is 4 KiB."""

_ASK_SECONDS = 2.0
"""A pipe asks when its bytes stay unconfirmed for this long."""

_BUSY_ASK_SECONDS = 0.5
_BUSY_BYTES = 1024
"""A pipe that has sent this much since it last looked asks sooner: there is more to lose."""

_OPEN_SECONDS = 10.0
"""How long a dial or a listener waits for the bus, and then for an answer."""

_TAKEN_SECONDS = 1.0
"""How long a new listener waits for an answer from one that may already have its address."""

_LONGEST_HOST = 255
"""In characters, like a host name. A NATS server allows 4 KiB for a subject and its command."""


def _reset() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))


class _Pipe(QueueTransport):
    """One end of a pipe, known by its name in the inbox of its network."""

    __slots__ = (
        "_address",
        "_answer",
        "_asking_timer",
        "_begun",
        "_broken",
        "_busy",
        "_confirmed",
        "_end_sent",
        "_ended",
        "_id",
        "_inbox",
        "_kept",
        "_name",
        "_queue",
        "_sent",
        "_seq_in",
        "_seq_out",
        "_taken",
        "_to",
        "_told",
        "_waiting",
        "_window",
        "_window_there",
    )

    def __init__(
        self, inbox: _Inbox, receiver: Receiver, address: Address, name: str, window: int
    ) -> None:
        super().__init__(receiver)
        self._inbox = inbox
        self._address = address
        self._name = name
        self._id = _NO_ID
        self._to = ""  # the subject of the other end, once it is known
        self._answer: asyncio.Future[_Kind | None] | None = None  # to OPEN; None: nobody is there
        self._begun = False
        self._broken = False  # nothing moves any more; the end has been or will be reported
        # Writing
        self._queue: deque[memoryview] = deque()
        self._waiting = 0  # bytes in it
        self._window_there = 0
        self._sent = 0
        self._confirmed = 0
        self._seq_out = 0
        self._end_sent = False
        self._asking_timer: asyncio.TimerHandle | None = None
        self._busy = False
        # Reading
        self._window = window
        self._kept = bytearray()  # arrived, and not handed over yet
        self._seq_in = 0
        self._taken = 0
        self._told = 0  # how much of that the other end knows about
        self._ended = False  # the other end has sent its END

    @property
    def peer_address(self) -> Address:
        return self._address

    @property
    def waiting(self) -> int:
        return self._waiting

    # The beginning.

    async def ask(self, subject: str, kind: _Kind) -> _Kind | None:
        """Send the first envelope to a listener; return its answer, or None if there is none.

        Afterwards, and after an error, the pipe is in the inbox if it is open.
        """
        self._answer = self._loop.create_future()
        self._inbox.pipes[self._name] = self
        try:
            self._inbox.bus.publish(
                f"{subject}.open",
                _HEAD.pack(kind, _NO_ID, 0, self._window),
                self._inbox.subject_of(self._name),
            )
            return await self._answer
        except BaseException:
            self._lose(tell=True)
            raise
        finally:
            if not self._to:
                self._inbox.pipes.pop(self._name, None)

    def _connect(self, pipe_id: bytes, to: str, window: int) -> None:
        """Learn where the other end is, and how many bytes may be under way to it."""
        self._id = pipe_id
        self._to = to
        self._window_there = min(window, _WINDOW_BYTES)

    def accept(self, to: str, window: int) -> None:
        """Answer an OPEN, and begin."""
        self._connect(bytes.fromhex(self._name), to, window)
        self._inbox.pipes[self._name] = self
        self._inbox.bus.publish(
            to,
            _HEAD.pack(_Kind.OPENED, self._id, 0, self._window),
            self._inbox.subject_of(self._name),
        )
        self.open()

    def open(self) -> None:
        """Begin, and hand over everything that has arrived in the meantime."""
        broken = self._broken
        self._begun = True
        self._begin()
        if broken:
            self._loop.call_soon(self._end, _reset())
        else:
            self.wake()

    # Writing.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or self._broken or not data:
            return
        self._queue.append(memoryview(data))
        self._waiting += len(data)
        self._push()
        if self._waiting > WRITE_HIGH_BYTES and not self._paused:
            self._press(True)

    def _push(self) -> None:
        """Send as much as the window allows, and the end if it is due."""
        queue = self._queue
        while queue:
            room = self._window_there - (self._sent - self._confirmed)
            if room <= 0:
                break
            piece = queue.popleft()
            most = min(room, _CHUNK_BYTES)
            if len(piece) > most:
                queue.appendleft(piece[most:])
                piece = piece[:most]
            self._waiting -= len(piece)
            self._sent += len(piece)
            self._send(_Kind.DATA, piece)
        if self._paused and self._waiting <= WRITE_LOW_BYTES:
            self._press(False)
        if self._closing and not queue:
            self._send_end()
        self._expect_confirmation()

    def _send(self, kind: _Kind, payload: memoryview | bytes = b"", reply: str = "") -> None:
        self._told = self._taken
        head = _HEAD.pack(kind, self._id, self._seq_out, self._taken)
        if kind is _Kind.DATA or kind is _Kind.END:
            self._seq_out = (self._seq_out + 1) & _SEQ_MASK
        self._inbox.bus.publish(self._to, b"".join((head, payload)), reply)

    def _send_end(self) -> None:
        if not self._end_sent:
            self._end_sent = True
            self._send(_Kind.END)

    def _expect_confirmation(self) -> None:
        unconfirmed = self._sent > self._confirmed or self._end_sent
        if unconfirmed and self._asking_timer is None and not self._broken:
            self._asking_timer = self._loop.call_later(
                _BUSY_ASK_SECONDS if self._busy else _ASK_SECONDS,
                self._ask_if_unconfirmed,
                self._confirmed,
            )

    def _ask_if_unconfirmed(self, before: int) -> None:
        self._asking_timer = None
        if self._confirmed == before:
            self._send(_Kind.TAKEN, reply=self._inbox.subject_of(self._name))
        self._busy = self._sent - before >= _BUSY_BYTES
        self._expect_confirmation()

    # Reading.

    def arrived(self, data: bytes, reply: str) -> None:
        """Take an envelope. An empty one means that one of ours had no subscriber."""
        if data and len(data) < _HEAD.size:
            return
        kind, pipe_id, seq, taken = _HEAD.unpack_from(data) if data else (None, self._id, 0, 0)
        if self._answer is not None and not self._answer.done():
            if kind == _Kind.OPENED and _END_SUBJECT.fullmatch(reply):
                self._connect(pipe_id, reply, taken)
                self._answer.set_result(_Kind.OPENED)
            elif kind is None or kind == _Kind.REFUSED:
                self._answer.set_result(None if kind is None else _Kind.REFUSED)
        elif pipe_id != self._id:  # from another end, because the OPEN was duplicated
            self._inbox.answer(reply, _Kind.RESET, pipe_id)
        elif kind is None or kind == _Kind.RESET:
            self._lose(_reset())
        elif kind in {_Kind.DATA, _Kind.TAKEN, _Kind.END}:
            ahead = (seq - self._seq_in) & _SEQ_MASK
            if not ahead:
                self._next_arrived(kind, taken, memoryview(data)[_HEAD.size :], reply)
            elif ahead < _HALF:  # otherwise it came before
                self.cut()

    def _next_arrived(self, kind: int, taken: int, payload: memoryview, reply: str) -> None:
        if taken > self._sent:
            self.cut()
            return
        if taken > self._confirmed:
            self._confirmed = taken
            self._push()
        if kind == _Kind.DATA:
            self._seq_in = (self._seq_in + 1) & _SEQ_MASK
            if not 0 < len(payload) <= min(_CHUNK_BYTES, self._window - len(self._kept)):
                self.cut()
            elif self._kept or self._resting or not self._begun:
                self._kept += payload
            else:
                self._kept += payload[self._hand_over(payload) :]
        elif kind == _Kind.END:
            self._seq_in = (self._seq_in + 1) & _SEQ_MASK
            self._ended = True
            self._finish_if_ended()
        elif reply:
            self._send(_Kind.TAKEN)

    def _hand_over(self, data: memoryview) -> int:
        """Give the receiver what arrived until it pauses or ends; return how much it was given."""
        given = 0
        while given < len(data) and not self._broken and not self._resting:
            space = self.get_buffer()
            count = min(len(space), len(data) - given)
            space[:count] = data[given : given + count]
            given += count
            self._taken += count  # before the call: what the receiver writes in it reports this too
            self.buffer_updated(count)
        if self._taken - self._told >= self._window // 4 and not self._broken:
            self._send(_Kind.TAKEN)
        return given

    def _read(self) -> None:
        self._reading = False
        if self._kept and not self._resting:
            with memoryview(bytes(self._kept)) as kept:
                self._kept.clear()
                self._kept += kept[self._hand_over(kept) :]
        self._finish_if_ended()

    # The end.

    def _finish_if_ended(self) -> None:
        """End this side too, once the receiver has been given all that came before the end."""
        given = self._begun and not self._kept and not self._resting
        if self._ended and not self._broken and (given or self._closing):
            self._send_end()
            self._lose(None)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._rest = b""
            if not self._broken:
                self._push()
                self.wake()

    def abort(self) -> None:
        self._closing = True
        self._lose(None, tell=True)

    def cut(self) -> None:
        """End both sides with a reset: something is missing or invalid."""
        self._lose(_reset(), tell=True)

    def lose(self) -> None:
        """End this side with a reset: the bus is lost, and the other side notices too."""
        self._lose(_reset())

    def _lose(self, cause: Exception | None = None, *, tell: bool = False) -> None:
        """Stop moving bytes, and report the end, once, in a later turn."""
        if self._broken:
            return
        self._broken = True
        self._inbox.pipes.pop(self._name, None)
        self._queue.clear()
        self._waiting = 0
        self._kept.clear()
        if self._asking_timer is not None:
            self._asking_timer.cancel()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(cause or _reset())
        if tell and self._to:
            self._send(_Kind.RESET)
        if self._begun:
            self._loop.call_soon(self._end, cause)


class _Inbox:
    """Receives everything for the pipes of a network, in one event loop."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.loop = asyncio.get_running_loop()
        self.pipes: dict[str, _Pipe] = {}
        self._prefix = f"stt.to.{secrets.token_hex(8)}"
        self._subscribing = asyncio.Lock()
        self._subscribed = False
        self._up = asyncio.Event()
        self._early: list[Callable[[], None]] = []
        bus.watch(self._changed)
        self._changed(bus.is_up)

    def _changed(self, is_up: bool) -> None:
        """Note whether the bus is up; a loss cuts all pipes."""
        if is_up:
            self._up.set()
            early, self._early = self._early, []
            for answer in early:
                answer()
        else:
            self._up.clear()
            self._early.clear()
            for pipe in list(self.pipes.values()):
                pipe.lose()

    async def ready(self) -> None:
        """Wait until the bus is up and knows of this inbox."""
        await self._up.wait()
        async with self._subscribing:
            if not self._subscribed:
                await self.bus.subscribe(self._prefix, self._arrived)
                self._subscribed = True

    def when_up(self, answer: Callable[[], None]) -> None:
        """Answer as soon as the bus is up.

        Envelopes can arrive a moment before a bus that is back says so, and what is published until
        then is lost.
        """
        if self.bus.is_up:
            answer()
        elif len(self._early) < _MOST_PIPES:
            self._early.append(answer)

    @property
    def is_full(self) -> bool:
        return len(self.pipes) >= _MOST_PIPES

    def pipe(self, receiver: Receiver, address: Address) -> _Pipe:
        """Make one end of a pipe."""
        window = min(_WINDOW_BYTES, _MEMORY_BYTES // (len(self.pipes) + 1))
        return _Pipe(self, receiver, address, secrets.token_hex(8), window)

    def subject_of(self, name: str) -> str:
        """Return where to send what is for one end of a pipe in this inbox."""
        return f"{self._prefix}.{name}"

    def answer(self, reply: str, kind: _Kind, pipe_id: bytes) -> None:
        """Answer on behalf of an end that does not exist, and only to an end of a pipe."""
        if _END_SUBJECT.fullmatch(reply):
            self.bus.publish(reply, _HEAD.pack(kind, pipe_id, 0, 0))

    def _arrived(self, name: str, data: bytes, reply: str) -> None:
        pipe = self.pipes.get(name)
        if pipe is not None:
            pipe.arrived(data, reply)
        elif len(data) >= _HEAD.size:
            self.answer(reply, _Kind.RESET, _HEAD.unpack_from(data)[1])


class _PipeListener(Listener):
    def __init__(self, inbox: _Inbox, accept: Callable[[], Receiver], address: Address) -> None:
        self._inbox = inbox
        self._accept = accept
        self._address = address
        self._unsubscribe: Unsubscribe | None = None
        self._closed = False

    @property
    def address(self) -> Address:
        return self._address

    async def start(self) -> None:
        """Begin to accept."""
        subject = _subject_of(self._address)
        self._unsubscribe = await self._inbox.bus.subscribe(subject, self._arrived)

    async def close(self) -> None:
        self._closed = True
        unsubscribe, self._unsubscribe = self._unsubscribe, None
        if unsubscribe is not None:
            await unsubscribe()

    def _arrived(self, _: str, data: bytes, reply: str) -> None:
        head = data[: _HEAD.size]
        self._inbox.when_up(lambda: self._asked(head, reply))

    def _asked(self, data: bytes, reply: str) -> None:
        dialer = _END_SUBJECT.fullmatch(reply)
        if dialer is None or len(data) < _HEAD.size:
            return
        kind, _id, _seq, window = _HEAD.unpack_from(data)
        if kind != _Kind.OPEN or self._closed or self._inbox.is_full:
            self._inbox.answer(reply, _Kind.REFUSED, _NO_ID)
            return
        pipe = self._inbox.pipe(receiver_or_nobody(self._accept), (dialer[1], 0))
        pipe.accept(reply, window)


class PipeNetwork(Network):
    """Reaches peers by name over a bus that both use.

    The host of an address is a name, such as ``"eu-1"``, of at most 255 characters. One node at a
    time can listen at a name and port. The name is not a secret: anyone allowed to publish on the
    bus can dial it. Sessions encrypt what passes, as over any network.

    One network serves any number of nodes, in one event loop at a time. Losing the bus cuts all
    connections; sessions survive that.

    Args:
        bus: What carries the bytes. It may be down for now.

    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._inbox: _Inbox | None = None

    async def dial(self, receiver: Receiver, host: str, port: int) -> Transport:
        """Connect to a name and port. If the bus is down, wait up to 10 seconds for it.

        Raises:
            ConnectionRefusedError: Nobody listens there, or the listener has too many connections.
            TimeoutError: There was no answer for 10 seconds.
            OSError: The bus was down or was lost, there are 8,192 connections already, or the host
                is no name. In each case ``receiver`` was not called.

        If cancelled, no connection is left open, and ``receiver`` was not called.

        """
        address = (host, port)
        subject = _subject_of(address)
        with _errors_for(address, self._bus):
            async with asyncio.timeout(_OPEN_SECONDS):
                inbox = await self._ready()
                if inbox.is_full:
                    raise OSError(errno.ENOBUFS, f"{_MOST_PIPES} connections are open already")
                pipe = inbox.pipe(receiver, address)
                answer = await pipe.ask(subject, _Kind.OPEN)
        if answer is None:
            raise ConnectionRefusedError(
                errno.ECONNREFUSED, f"nobody on the bus listens at {host!r} port {port}"
            )
        if answer is _Kind.REFUSED:
            raise ConnectionRefusedError(
                errno.ECONNREFUSED, f"{host!r} port {port} has too many connections"
            )
        pipe.open()
        return pipe

    async def listen(self, accept: Callable[[], Receiver], host: str, port: int) -> Listener:
        """Accept connections at a name and port; port 0 takes any free port.

        If the bus is down, this waits up to 10 seconds for it. After that, listening continues
        through any outage of the bus.

        Raises:
            OSError: Somebody on the bus listens there, the bus was down or was lost, or the host is
                no name.

        If cancelled, nothing is left open.

        """
        with _errors_for((host, port), self._bus):
            async with asyncio.timeout(_OPEN_SECONDS):
                inbox = await self._ready()
                for number in [port] if port else secrets.SystemRandom().sample(FREE_PORTS, 9):
                    listener = _PipeListener(inbox, accept, (host, number))
                    if not await _is_taken(inbox, listener.address):
                        await listener.start()
                        return listener
        raise OSError(errno.EADDRINUSE, f"somebody on the bus listens at {host!r} port {port}")

    def _check(self) -> None:
        """Raise OSError if waiting for the bus is pointless."""

    async def _ready(self) -> _Inbox:
        self._check()
        inbox = self._inbox
        if inbox is None or inbox.loop is not asyncio.get_running_loop():
            inbox = self._inbox = _Inbox(self._bus)
        await inbox.ready()
        return inbox


@contextlib.contextmanager
def _errors_for(address: Address, bus: Bus) -> Iterator[None]:
    """Make a timeout say what it was waiting for."""
    try:
        yield
    except TimeoutError:
        if not bus.is_up:
            raise OSError(errno.ENETUNREACH, "the bus cannot be reached") from None
        host, port = address
        raise TimeoutError(
            errno.ETIMEDOUT, f"no answer over the bus from {host!r} port {port}"
        ) from None


async def _is_taken(inbox: _Inbox, address: Address) -> bool:
    """Return whether somebody listens at an address, as far as this side can tell."""
    asking = inbox.pipe(NOBODY, address)
    try:
        async with asyncio.timeout(_TAKEN_SECONDS):
            return await asking.ask(_subject_of(address), _Kind.TAKEN) is not None
    except TimeoutError:
        return False  # the listener there has died, and the bus does not know yet


def _subject_of(address: Address) -> str:
    """Return where a listener at an address listens; raise OSError if it is not an address."""
    host, port = address
    if not 0 < len(host) <= _LONGEST_HOST:
        raise OSError(
            errno.EADDRNOTAVAIL,
            f"on a bus the host is a name of at most {_LONGEST_HOST} characters, not {host!r}",
        )
    return f"stt.at.{quote(host, safe='').replace('.', '%2E')}.{port}"
