"""One session between standard input and output, until one of its ends comes."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from ..errors import STTSessionClosedError
from .failures import Failure
from .nodes import leave
from .streams import STDIN, STDOUT, OutputStream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .. import STTNode

__all__ = ["Ends", "Output", "converse", "is_terminal", "withdraw"]

_LEFTOVER_SECONDS = 0.2
"""When the peer has closed, input that comes so soon was there before: the peer did not get it all.
What is later, from a keyboard or an idle pipe, it was not to wait for."""


class Output:
    """Standard output for received messages. The first failure to write ends the command."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._stream = OutputStream(STDOUT)
        self._given_up: asyncio.Future[None] = loop.create_future()
        self.failed: asyncio.Future[None] = loop.create_future()
        """Gets the OSError."""

    async def write(self, data: bytes, observe: Callable[[bytes], object] | None = None) -> None:
        """Write all of the data, waiting as long as that takes.

        After a failure this waits until `give_up`: if it returned, the session would take more
        from its peer, and the peer believe that all is well. After that, the data is dropped.
        """
        if not self.failed.done() and not self._given_up.done():
            writing = asyncio.ensure_future(self._stream.write(data, observe))
            try:
                await asyncio.wait((writing, self._given_up), return_when=asyncio.FIRST_COMPLETED)
                if writing.done():
                    writing.result()
            except OSError as error:
                if not self.failed.done():
                    self.failed.set_exception(error)
                    self.failed.exception()  # retrieved: nobody may wait for it any more
            finally:
                writing.cancel()
        if self.failed.done():
            await asyncio.wait((self._given_up,))

    def give_up(self) -> None:
        """Let everybody go who waits to write; what they had is dropped."""
        if not self._given_up.done():
            self._given_up.set_result(None)


class Ends:
    """Knows of each session of a node whether it has ended, and how."""

    def __init__(self, node: STTNode) -> None:
        self._ended: dict[bytes, asyncio.Future[None]] = {}
        node.events.register("error", self._on_error)
        node.events.register("session_closed", self._on_closed)

    def of(self, session_id: bytes) -> asyncio.Future[None]:
        """Return a future that is done when all that the session brought has been handled.

        It gets a Failure if the session was lost.
        """
        if session_id not in self._ended:
            self._ended[session_id] = asyncio.get_running_loop().create_future()
        return self._ended[session_id]

    async def _on_error(self, error_type: str, details: dict[str, Any]) -> None:
        if error_type == "session_lost":
            future = self.of(details["session_id"])
            future.set_exception(Failure(f"the session was lost: {details['reason']}"))
            future.exception()  # retrieved: not everybody asks

    async def _on_closed(self, session_id: bytes) -> None:
        future = self.of(session_id)
        if not future.done():
            future.set_result(None)


async def converse(
    ended: asyncio.Future[None], output: Output, feed: Awaitable[None] | None
) -> None:
    """Wait until the session has ended and its messages are written; ``feed`` sends meanwhile.

    Whatever comes of it, `withdraw` in the end.

    Args:
        ended: See `Ends.of`.
        output: Where its messages go.
        feed: Sends, and closes the session if that is wanted. Cancelled if the session ends first.

    Raises:
        Failure: The session was lost, or ended before the feed had sent all it had.
        OSError: A message could not be written.

    """
    feeding = None if feed is None else asyncio.ensure_future(feed)
    waiting: set[asyncio.Future[None]] = {ended, output.failed}
    try:
        if feeding is not None:
            await asyncio.wait({feeding, *waiting}, return_when=asyncio.FIRST_COMPLETED)
            if feeding.done() and not ended.done():
                error = feeding.exception()
                if error is not None and not isinstance(error, STTSessionClosedError):
                    raise error
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if output.failed.done():
            output.failed.result()
        ended.result()
        if feeding is not None:
            await asyncio.wait((feeding,), timeout=_LEFTOVER_SECONDS)
            if feeding.done():
                try:
                    feeding.result()
                except STTSessionClosedError as error:
                    raise Failure("the peer closed the session before it had all input") from error
    finally:
        if feeding is not None and not feeding.done():
            feeding.cancel()
            await asyncio.wait((feeding,))


async def withdraw(node: STTNode, output: Output) -> None:
    """Leave the sessions that are still there, and only then give up the output.

    In this order, as no peer must believe that somebody has taken what it sent.
    """
    try:
        await asyncio.gather(*(leave(session) for session in node.sessions))
    finally:
        output.give_up()


def is_terminal(descriptor: int = STDIN) -> bool:
    """Tell whether a person types there."""
    return os.isatty(descriptor)
