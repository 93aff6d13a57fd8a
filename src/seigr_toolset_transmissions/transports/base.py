"""What a transport is: the contract between the bytes' carrier and whoever reads them.

A transport carries an ordered stream of bytes each way, reports its end exactly once, and asks its
writer to pause when too much waits to be sent. It is driven by callbacks and not by awaits because
a connection must cost no task and no buffer while it is idle. Every transport passes the same
contract tests (``tests/transports/test_contract.py``).

All calls are made from the event loop's thread. A `Receiver` is never called from within a call to
its `Transport` (no re-entrance): what follows from ``write``, ``close`` or ``abort`` comes in a
later turn of the loop. The exception is ``pause_writing``, which comes within the ``write`` that
was too much, so that its caller can stop there.

`StreamTransport` is the part that transports have in common; it is for their authors.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "READ_BYTES",
    "WRITE_HIGH_BYTES",
    "WRITE_LOW_BYTES",
    "Address",
    "Listener",
    "Network",
    "Receiver",
    "StreamTransport",
    "Transport",
]

Address = tuple[str, int]

READ_BYTES = 256 * 1024
"""Size of the read buffer that all connections of one event loop share. It holds several records of
the largest size (65,537 bytes), so that a large message needs few system calls."""

WRITE_HIGH_BYTES = 256 * 1024
"""With more than this waiting to be sent, the writer is asked to pause. Four records of the largest
size keep the system's own send buffer from running empty (16 were measured no faster); for a peer
that does not read, no more is held than this and what was still written in the same turn."""

WRITE_LOW_BYTES = 64 * 1024
"""With no more than this waiting, the writer may go on: one record is left to send meanwhile."""


class Receiver(Protocol):
    """Who reads from a transport and is told what happens to it.

    A method that raises has a bug: the connection is aborted, and the exception comes back as the
    ``cause`` of `connection_lost`.
    """

    def connection_made(self, transport: Transport) -> None:
        """Begin: bytes can be written from now on. Called once, first."""

    def bytes_received(self, data: memoryview) -> int:
        """Take what arrived and return how many bytes, from the front, are done with.

        The rest is presented again at the front of the next call, which comes when more bytes
        have arrived, or after `Transport.resume_reading`. ``data`` is valid during the call only:
        afterwards its memory belongs to other connections, so neither it nor a slice of it may be
        kept. Leaving a full read buffer (`READ_BYTES`) untouched is a mistake: no more could be
        read.
        """

    def pause_writing(self) -> None:
        """Write no more until `resume_writing`: too much waits to be sent."""

    def resume_writing(self) -> None:
        """Go on writing: what waited has gone out."""

    def connection_lost(self, cause: Exception | None) -> None:
        """End: nothing more comes, and nothing more is sent. Called once, last.

        ``cause`` is None for an end of the peer's stream, or after a local close or abort.
        """


class Transport(ABC):
    """One open connection that carries bytes."""

    __slots__ = ()

    @property
    @abstractmethod
    def peer_address(self) -> Address:
        """Where the peer is: host and port; known also after the connection has ended."""

    @property
    def waiting(self) -> int:
        """Bytes that were written and have not gone out yet; 0 if the transport cannot tell.

        While the writer pauses, a smaller number than before says that the peer's side still reads.
        """
        return 0

    @abstractmethod
    def hand_over(self, receiver: Receiver) -> None:
        """Call another receiver from now on, without its ``connection_made``."""

    @abstractmethod
    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data`` (a view must be of bytes) after all that was written before. Never blocks.

        The caller must not change ``data`` afterwards. Does nothing once the transport is closed:
        its end is reported by ``connection_lost``.
        """

    @abstractmethod
    def pause_reading(self) -> None:
        """Call ``bytes_received`` no more until `resume_reading`.

        For a moment only: the end of the stream is not seen meanwhile.
        """

    @abstractmethod
    def resume_reading(self) -> None:
        """Read on; what ``bytes_received`` has left is presented again, if more arrives or not."""

    @abstractmethod
    def close(self) -> None:
        """Send what was written, then end the stream; read no more. May be called again.

        ``connection_lost`` follows when the peer has ended its side too, which a transport does at
        once when it sees the end. A peer that reads nothing, or never ends, delays it for ever:
        whoever closes sets a deadline and calls `abort` when it has passed.
        """

    @abstractmethod
    def abort(self) -> None:
        """End the connection at once; what waits to be sent is dropped. May be called again.

        The peer sees a `ConnectionError` (as a rule a `ConnectionResetError`), after all, some or
        none of what was written. May follow a `close` that takes too long.
        """


class Listener(ABC):
    """Accepts connections until it is closed."""

    @property
    @abstractmethod
    def address(self) -> Address:
        """Where it listens, with the real port; known also after it was closed."""

    @abstractmethod
    async def close(self) -> None:
        """Accept no more; connections already made live on. May be called again."""


class Network(ABC):
    """A way to reach peers: it makes the transports of one kind."""

    async def resolve(self, host: str, port: int, *, urgent: bool = True) -> list[Address]:
        """Return the addresses that a host stands for, each to be given to `dial`; at least one.

        Args:
            host: A name or address.
            port: Its port.
            urgent: Whether somebody waits for it; otherwise others may come first.

        Raises:
            OSError: It stands for none.

        """
        return [(host, port)]

    @abstractmethod
    async def dial(self, receiver: Receiver, host: str, port: int) -> Transport:
        """Connect. ``receiver.connection_made`` was called before this returns.

        Raises:
            OSError: Nobody could be reached there. ``receiver`` was not called.

        If cancelled, no connection is left open: either ``receiver`` was not called, or its
        ``connection_lost`` follows.

        """

    @abstractmethod
    async def listen(self, accept: Callable[[], Receiver], host: str, port: int) -> Listener:
        """Accept connections at an address; port 0 takes any free port.

        ``accept`` is called for each new connection and returns its receiver. If it raises, that
        connection is aborted and the loop's exception handler is told.

        Raises:
            OSError: The address is taken, or not of this machine.

        """


class StreamTransport(Transport):
    """What all transports do alike between the carrier of the bytes and the receiver.

    A subclass reads into `get_buffer`, then says with `buffer_updated` how much it read, **with no
    other code of the loop in between**: the space is shared by all connections of the loop. (The
    two are named as in `asyncio.BufferedProtocol`, for one that is such a protocol.) It reports the
    start with `_begin`, back-pressure with `_press`, and the end with `_end`, always from a
    callback of the loop of its own.
    """

    __slots__ = ("_buffer", "_cause", "_closing", "_paused", "_receiver", "_rest", "_told_paused")

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._buffer = _shared_buffer()
        self._rest = b""
        self._cause: Exception | None = None  # the receiver's own mistake
        self._closing = False  # by either side: no byte is taken or handed over any more
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
        """Return where the next bytes go; valid until `buffer_updated`, in the same callback."""
        rest = self._rest
        if not rest:
            return self._buffer
        self._buffer[: len(rest)] = rest
        return self._buffer[len(rest) :]

    def buffer_updated(self, nbytes: int) -> None:
        """Hand over what was left last time and the ``nbytes`` now read behind it."""
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

    def _present_again(self) -> None:
        """Hand over what was left, in a later turn of the loop."""
        asyncio.get_running_loop().call_soon(self._hand_over_rest)

    def _hand_over_rest(self) -> None:
        if self._rest:
            self.get_buffer()
            self.buffer_updated(0)

    def _press(self, paused: bool) -> None:
        """Ask the receiver to pause, at once; or to resume, later, if that is still so by then."""
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
        """Report the end, once. ``cause`` is what the carrier saw; a local close hides it."""
        if self._cause is not None:
            cause = self._cause
        elif self._closing:
            cause = None
        self._closing = True
        self._rest = b""
        receiver = self._receiver
        self._receiver = NOBODY  # also lets go of the reader, which holds us
        receiver.connection_lost(cause)


def _left_over(data: memoryview, done: int) -> bytes:
    """Return what the receiver has left, to be presented again."""
    length = len(data)
    if not 0 <= done < length:
        raise ValueError(f"bytes_received returned {done} for {length} bytes")
    if length - done >= READ_BYTES:
        raise BufferError(f"bytes_received left a full read buffer of {length} bytes")
    return bytes(data[done:])


class Nobody:
    """The receiver of a connection that nobody wants: it ends it."""

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
    """Call ``accept``; if it raises, tell the loop's exception handler and return `NOBODY`."""
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
        buffer = _buffers[loop] = memoryview(bytearray(READ_BYTES))
    return buffer
