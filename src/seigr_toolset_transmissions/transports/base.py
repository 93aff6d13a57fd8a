"""What a transport is: the contract between the carrier of the bytes and their reader.

A transport carries an ordered stream of bytes each way, reports its end exactly once, and asks its
writer to pause when too much waits to be sent. It uses callbacks rather than awaits, because an
idle connection must cost no task and no buffer. Every transport passes the same contract tests
(``tests/transports/test_contract.py``).

All calls are made from the event loop's thread. A `Receiver` is never called from within a call to
its `Transport` (there is no re-entrance): callbacks that ``write``, ``close`` or ``abort`` cause
come in a later turn of the loop. The exception is ``pause_writing``, which comes within the
``write`` that was too much, so that the writer can stop there.

`StreamTransport` is what transports have in common. Derive new ones from it, or from
`QueueTransport` if no socket keeps the bytes until they are read.
"""

from __future__ import annotations

import asyncio
import errno
import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "FREE_PORTS",
    "READ_BYTES",
    "WRITE_HIGH_BYTES",
    "WRITE_LOW_BYTES",
    "Address",
    "Listener",
    "Network",
    "QueueTransport",
    "Receiver",
    "StreamTransport",
    "Transport",
]

Address = tuple[str, int]

FREE_PORTS = range(49_152, 65_536)
"""The ports that no service owns (RFC 6335, section 6)."""

READ_BYTES = 256 * 1024
"""Size of the read buffer that all connections of one event loop share. It holds several records of
the largest size (65,537 bytes), so that a large message needs few system calls."""

_HEAP_BYTES = 8 * 1024 * 1024
"""Twice the default limit of a message, which is in memory first in parts and then as a whole.

glibc gives free memory at the end of its heap back to the system once it exceeds twice the largest
block that was mapped on its own and freed. With messages of 1 MiB that can happen after each of
them, and getting the pages back takes up to half of a receiver's time. So a block of this size is
allocated and freed once, without being touched: from then on the heap keeps up to twice as much.
Other C libraries are not affected."""

WRITE_HIGH_BYTES = 256 * 1024
"""When more than this waits to be sent, the writer is asked to pause. Four records of the largest
size keep the system's own send buffer from running empty (16 were measured to be no faster). For a
peer that does not read, no more is held than this and the rest of the turn's writes."""

WRITE_LOW_BYTES = 64 * 1024
"""When no more than this waits, the writer may continue; one record is left to send meanwhile."""


class Receiver(Protocol):
    """Reads from a transport, and learns what happens to it.

    A method that raises has a bug: the connection is aborted, and the exception comes back as the
    ``cause`` of `connection_lost`.
    """

    def connection_made(self, transport: Transport) -> None:
        """Begin: bytes can be written from now on. Called once, first."""

    def bytes_received(self, data: memoryview) -> int:
        """Take the bytes that arrived; return how many of them, from the front, were used up.

        The rest is presented again at the front of the next call, which comes when more bytes
        have arrived, or after `Transport.resume_reading`. ``data`` is valid only during the call:
        its memory then belongs to other connections, so keep neither it nor a slice of it. Leaving
        a full read buffer (`READ_BYTES`) untouched is a mistake, because no more could be read.
        """

    def pause_writing(self) -> None:
        """Stop writing until `resume_writing`: too much waits to be sent."""

    def resume_writing(self) -> None:
        """Continue to write: most of what waited has gone out."""

    def connection_lost(self, cause: Exception | None) -> None:
        """End: nothing more arrives, and nothing more is sent. Called once, last.

        ``cause`` is None if the peer ended its stream, or after a local close or abort.
        """


class Transport(ABC):
    """One open connection that carries bytes."""

    __slots__ = ()

    @property
    @abstractmethod
    def peer_address(self) -> Address:
        """The peer's host and port, known even after the connection has ended."""

    @property
    def waiting(self) -> int:
        """Bytes that were written and have not gone out yet; 0 if the transport does not know.

        While the writer pauses, a smaller number than before shows that the peer still reads.
        """
        return 0

    @abstractmethod
    def hand_over(self, receiver: Receiver) -> None:
        """Call another receiver from now on, without its ``connection_made``."""

    @abstractmethod
    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data`` (a view must be of bytes) after all earlier writes. Never blocks.

        The caller must not change ``data`` afterwards. Does nothing once the transport is closed:
        ``connection_lost`` reports its end.
        """

    @abstractmethod
    def pause_reading(self) -> None:
        """Stop calling ``bytes_received`` until `resume_reading`.

        Only for a moment: the end of the stream goes unnoticed meanwhile.
        """

    @abstractmethod
    def resume_reading(self) -> None:
        """Continue to read; bytes left by ``bytes_received`` come again, even if no more arrive."""

    def give_away(self, give: Callable[[int], object]) -> None:
        """Let ``give`` pass the connection's descriptor to another process, and forget it here.

        Call `pause_reading` in the callback that has taken the last bytes. After that, the
        connection is the other process's; ``connection_lost`` follows as after a local close.

        Raises:
            OSError: It has no descriptor, has ended, or bytes wait to be sent or taken here.

        Also raises what ``give`` does. After an error, the connection is as it was.

        """
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    @abstractmethod
    def close(self) -> None:
        """Send what was written, then end the stream; read no more. May be called again.

        ``connection_lost`` follows when the peer has ended its side too, which a transport does at
        once when it sees the end. A peer that reads nothing, or never ends, delays it forever, so
        set a deadline and call `abort` when it has passed.
        """

    @abstractmethod
    def abort(self) -> None:
        """End the connection at once and drop what waits to be sent. May be called again.

        The peer sees a `ConnectionError` (usually a `ConnectionResetError`), after all, some or
        none of what was written. May follow a `close` that takes too long.
        """


class Listener(ABC):
    """Accepts connections until it is closed."""

    @property
    @abstractmethod
    def address(self) -> Address:
        """Where it listens, with the actual port; known even after it was closed."""

    @abstractmethod
    async def close(self) -> None:
        """Stop accepting; existing connections live on. May be called again."""


class Network(ABC):
    """A way to reach peers: it creates transports of one kind."""

    async def resolve(self, host: str, port: int, *, urgent: bool = True) -> list[Address]:
        """Return the addresses that a host stands for, at least one; each can be passed to `dial`.

        Args:
            host: A name or address.
            port: Its port.
            urgent: Whether a call is waiting for it; otherwise other look-ups may come first.

        Raises:
            OSError: It stands for no address.

        """
        return [(host, port)]

    @abstractmethod
    async def dial(self, receiver: Receiver, host: str, port: int) -> Transport:
        """Connect. ``receiver.connection_made`` was called before this returns.

        Raises:
            OSError: Nothing could be reached there. ``receiver`` was not called.

        If cancelled, no connection is left open: either ``receiver`` was not called, or its
        ``connection_lost`` follows.

        """

    @abstractmethod
    async def listen(self, accept: Callable[[], Receiver], host: str, port: int) -> Listener:
        """Accept connections at an address; port 0 takes any free port.

        ``accept`` is called for each new connection and returns its receiver. If it raises, that
        connection is aborted and the loop's exception handler is called.

        Raises:
            OSError: The address is taken, or does not belong to this machine.

        """


class StreamTransport(Transport):
    """What all transports do between the carrier of the bytes and the receiver.

    A subclass reads into `get_buffer`, then reports with `buffer_updated` how much it read, **with
    no other code of the loop in between**: all connections of the loop share the space. (The names
    are those of `asyncio.BufferedProtocol`, for a subclass that is one.) It reports the start with
    `_begin`, back-pressure with `_press`, and the end with `_end`, always from a loop callback of
    its own.
    """

    __slots__ = ("_buffer", "_cause", "_closing", "_paused", "_receiver", "_rest", "_told_paused")

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._buffer = _shared_buffer()
        self._rest = b""
        self._cause: Exception | None = None  # the receiver's own mistake
        self._closing = False  # by either side: no more bytes are accepted or handed over
        self._paused = False
        self._told_paused = False

    def hand_over(self, receiver: Receiver) -> None:
        """Call another receiver from now on, as `Transport.hand_over` says."""
        self._receiver = receiver

    def _begin(self) -> None:
        try:
            self._receiver.connection_made(self)
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends this connection only
            self._fail(error)

    def get_buffer(self, sizehint: int = -1) -> memoryview:
        """Return the space for the next bytes; valid until `buffer_updated`, in one callback."""
        rest = self._rest
        if not rest:
            return self._buffer
        self._buffer[: len(rest)] = rest
        return self._buffer[len(rest) :]

    def buffer_updated(self, nbytes: int) -> None:
        """Hand over the bytes left last time, followed by the ``nbytes`` read now."""
        if self._closing:
            return
        length = len(self._rest) + nbytes
        try:
            # Released on leaving: a receiver that keeps it gets a ValueError, and not another
            # connection's bytes. (A slice that it keeps cannot be taken from it.)
            with self._buffer[:length] as data:
                done = self._receiver.bytes_received(data)
                if done == length:
                    self._rest = b""
                elif not self._closing:
                    self._rest = _left_over(data, done)
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends this connection only
            self._fail(error)

    def begin_with(self, data: bytes) -> None:
        """Have bytes that were read elsewhere handed over before all others.

        Call it on a new transport, and `resume_reading` once that is connected.
        """
        self._rest = data

    def _present_again(self) -> None:
        """Hand over the bytes left, in a later turn of the loop."""
        asyncio.get_running_loop().call_soon(self._hand_over_rest)

    def _hand_over_rest(self) -> None:
        if self._rest:
            self.get_buffer()
            self.buffer_updated(0)

    def _press(self, paused: bool) -> None:
        """Ask the receiver to pause, at once; or to resume, later, if that still holds by then."""
        self._paused = paused
        if paused:
            self._tell()
        else:
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        if self._closing or self._paused is self._told_paused:
            return
        self._told_paused = self._paused
        try:
            if self._paused:
                self._receiver.pause_writing()
            else:
                self._receiver.resume_writing()
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends this connection only
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self._cause is None:
            self._cause = error
        self.abort()

    def _end(self, cause: Exception | None) -> None:
        """Report the end, once. ``cause`` is what the carrier noticed; a local close hides it."""
        if self._cause is not None:
            cause = self._cause
        elif self._closing:
            cause = None
        self._closing = True
        self._rest = b""
        receiver = self._receiver
        self._receiver = NOBODY  # also drops the reference to the reader, which refers to us
        receiver.connection_lost(cause)


class QueueTransport(StreamTransport):
    """A stream whose bytes wait in this process until a turn of the loop that reads them."""

    __slots__ = ("_loop", "_reading", "_resting")

    def __init__(self, receiver: Receiver) -> None:
        super().__init__(receiver)
        self._loop = asyncio.get_running_loop()
        self._reading = False  # a _read is scheduled
        self._resting = False  # reading is paused

    def pause_reading(self) -> None:
        """Let what waits stay where it is."""
        self._resting = True

    def resume_reading(self) -> None:
        """Read what waits, in a later turn."""
        self._resting = False
        self._present_again()
        self.wake()

    def wake(self) -> None:
        """Have `_read` called, once, in a later turn."""
        if not self._reading:
            self._reading = True
            self._loop.call_soon(self._read)

    @abstractmethod
    def _read(self) -> None:
        """Set ``_reading`` to False; then hand over what waits, unless ``_resting``."""


def _left_over(data: memoryview, done: int) -> bytes:
    """Return the bytes that the receiver left, to be presented again."""
    length = len(data)
    if not 0 <= done < length:
        raise ValueError(f"bytes_received returned {done} for {length} bytes")
    if length - done >= READ_BYTES:
        raise BufferError(f"bytes_received left a full read buffer of {length} bytes")
    return bytes(data[done:])


class Nobody:
    """The receiver of an unwanted connection, which it ends."""

    def connection_made(self, transport: Transport) -> None:
        """Abort."""
        transport.abort()

    def bytes_received(self, data: memoryview) -> int:
        """Drop what arrived."""
        return len(data)

    def pause_writing(self) -> None:
        """Do nothing."""

    def resume_writing(self) -> None:
        """Do nothing."""

    def connection_lost(self, cause: Exception | None) -> None:
        """Do nothing."""


NOBODY: Receiver = Nobody()


def receiver_or_nobody(accept: Callable[[], Receiver]) -> Receiver:
    """Call ``accept``; if it raises, call the loop's exception handler and return `NOBODY`."""
    try:
        return accept()
    except Exception as error:  # noqa: BLE001 - one refused connection must not stop the listener
        asyncio.get_running_loop().call_exception_handler(
            {"message": "accepting a connection failed", "exception": error}
        )
        return NOBODY


_buffers: WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = WeakKeyDictionary()


def _shared_buffer() -> memoryview:
    """Return the read buffer of the running loop."""
    loop = asyncio.get_running_loop()
    buffer = _buffers.get(loop)
    if buffer is None:
        bytes(_HEAP_BYTES)
        buffer = _buffers[loop] = memoryview(bytearray(READ_BYTES))
    return buffer
