"""Standard input and output without blocking the event loop, and without losing back-pressure.

The descriptors are read and written by daemon threads, one call at a time and only on request.
(Non-blocking descriptors would not do: a terminal's input and output share one open file with the
shell's, regular files cannot be polled, and an executor's thread that waits for the keyboard would
keep the process from ending.)
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from .failures import Failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = [
    "CHUNK_BYTES",
    "STDERR",
    "STDIN",
    "STDOUT",
    "InputStream",
    "OutputStream",
    "Worker",
    "retrieve",
    "split_lines",
    "write_all",
]

STDIN, STDOUT, STDERR = 0, 1, 2

CHUNK_BYTES = 256 * 1024
"""Read at a time: few enough calls for full speed, and far below the largest message."""

MAX_LINE_BYTES = 1024 * 1024
"""A longer line is passed on in pieces, so that input without line ends takes bounded memory."""

T = TypeVar("T")


class Worker:
    """A daemon thread that makes blocking calls, one at a time and in order."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]] | None] = (
            SimpleQueue()
        )
        Thread(target=self._work, name=name, daemon=True).start()

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Return, or raise, what the function does.

        If cancelled, a call that has not begun is not made, and the outcome of one that has begun
        is dropped.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._calls.put((future, partial(function, *args)))
        return await future

    def call_soon(self, function: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """Have the call made, even if nothing can wait for it; whatever it raises may be dropped.

        Returns:
            A future that is done once the call was made. Cancelling `asyncio.wait` for it changes
            nothing.

        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        future.add_done_callback(retrieve)
        self._calls.put((future, partial(function, *args)))
        return future

    def end(self) -> None:
        """End the thread once it has made the calls so far; there may be none after that."""
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            future, function = call
            if future.cancelled():
                continue
            result, error = None, None
            try:
                result = function()
            except BaseException as raised:  # noqa: BLE001 - for whoever awaits it
                error = raised
            try:
                future.get_loop().call_soon_threadsafe(_settle, future, result, error)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return
            del call, future, function, result, error  # a chunk must not live until the next call


def retrieve(future: asyncio.Future[Any]) -> None:
    """Retrieve the exception of a future that is done, so that asyncio does not report it."""
    if not future.cancelled():
        future.exception()


def _settle(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


class InputStream:
    """Bytes from a file descriptor, which stays the caller's; ``name`` is what errors call it."""

    def __init__(self, descriptor: int, name: str = "standard input") -> None:
        self._descriptor = descriptor
        self._name = name
        self._worker = Worker(f"read-{descriptor}")

    async def read(self, size: int = CHUNK_BYTES) -> bytes:
        """Return what is there, at most ``size`` bytes, waiting for the first; empty at the end.

        Raises:
            Failure: It cannot be read.

        """
        try:
            return await self._worker.call(os.read, self._descriptor, size)
        except OSError as error:
            raise Failure(f"cannot read {self._name}: {error.strerror}") from error

    async def chunks(self) -> AsyncIterator[bytes]:
        """Iterate over what arrives until its end, in pieces as they come."""
        while chunk := await self.read():
            yield chunk

    async def lines(self) -> AsyncIterator[bytes]:
        """Iterate over the lines, without their ends."""
        rest = b""
        async for chunk in self.chunks():
            lines, rest = split_lines(rest + chunk)
            for line in lines:
                yield line
        if rest:
            yield rest


def split_lines(data: bytes, longest: int = MAX_LINE_BYTES) -> tuple[list[bytes], bytes]:
    """Return the complete lines in ``data`` without their ends, and the rest.

    A line or rest that is longer comes in pieces of ``longest`` bytes.
    """
    lines = []
    *complete, rest = data.split(b"\n")
    for line in complete:
        lines += [line[i : i + longest] for i in range(0, len(line), longest)] or [b""]
    while len(rest) > longest:
        lines.append(rest[:longest])
        rest = rest[longest:]
    return lines, rest


class OutputStream:
    """Bytes to a file descriptor, which stays the caller's."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._worker = Worker(f"write-{descriptor}")

    async def write(self, data: bytes, observe: Callable[[bytes], object] | None = None) -> None:
        """Write all of the data; writes of several tasks do not mix, and go in order.

        Args:
            data: What to write.
            observe: Called with it in the writing thread, once it is written: to hash it, say.

        Raises:
            OSError: It could not be written; part of it may have been.

        """
        await self._worker.call(_write, self._descriptor, data, observe)


def _write(descriptor: int, data: bytes, observe: Callable[[bytes], object] | None) -> None:
    write_all(descriptor, data)
    if observe is not None:
        observe(data)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of the data, blocking as long as that takes.

    Raises:
        OSError: It could not be written; part of it may have been.

    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
