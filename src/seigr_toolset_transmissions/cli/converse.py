"""One session between standard input and output, until either side ends it."""

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
    from .prompting import Prompt

__all__ = ["Ends", "Output", "converse", "is_terminal", "withdraw"]

_LEFTOVER_SECONDS = 0.2
"""Input that comes so soon after the peer has closed was there before: the peer did not get it all.
Later input, from a keyboard or an idle pipe, is nothing that the peer should have waited for."""


class Output:
    """Standard output for received messages. The first failure to write ends the command.

    Args:
        stream: What writes there; None: the bytes go straight to the descriptor.

    """

    def __init__(self, stream: Prompt | None = None) -> None:
        loop = asyncio.get_running_loop()
        self._stream = stream or OutputStream(STDOUT)
        self._given_up: asyncio.Future[None] = loop.create_future()
        self.failed: asyncio.Future[None] = loop.create_future()
        """Gets the OSError."""

    async def write(self, data: bytes, observe: Callable[[bytes], object] | None = None) -> None:
        """Write all of the data, waiting as long as that takes.

        After a failure this waits until `give_up`: if it returned, the session would take more
        from its peer, and the peer would believe that all is well. After `give_up` it drops the
        data.
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
                    self.failed.exception()  # retrieved: perhaps nobody waits for it any more
            finally:
                writing.cancel()
        if self.failed.done():
            await asyncio.wait((self._given_up,))

    def give_up(self) -> None:
        """Release every writer that waits; what they were writing is dropped."""
        if not self._given_up.done():
            self._given_up.set_result(None)


class Ends:
    """Tracks whether and how each session of a node has ended."""

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

    def fail(self, session_id: bytes, reason: str) -> None:
        """Count a session as failed, unless it has ended; the reason is what the user reads."""
        future = self.of(session_id)
        if not future.done():
            future.set_exception(Failure(reason))
            future.exception()  # retrieved: perhaps nobody asks

    async def _on_error(self, error_type: str, details: dict[str, Any]) -> None:
        if error_type == "session_lost":
            self.fail(details["session_id"], f"the session was lost: {details['reason']}")

    async def _on_closed(self, session_id: bytes) -> None:
        future = self.of(session_id)
        if not future.done():
            future.set_result(None)


async def converse(
    ended: asyncio.Future[None], output: Output, feed: Awaitable[None] | None
) -> None:
    """Wait until the session has ended and its messages are written; ``feed`` sends in parallel.

    However this ends, call `withdraw` afterwards.

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
                    raise Failure(
                        "the peer closed the session before the input had ended"
                    ) from error
    finally:
        if feeding is not None and not feeding.done():
            feeding.cancel()
            await asyncio.wait((feeding,))


async def withdraw(node: STTNode, output: Output) -> None:
    """Leave the sessions that are still there, and only then give up the output.

    The order matters: no peer may believe that its messages were taken when they were dropped.
    """
    try:
        await asyncio.gather(*(leave(session) for session in node.sessions))
    finally:
        output.give_up()


def is_terminal(descriptor: int = STDIN) -> bool:
    """Return whether the descriptor is a terminal, where a person types."""
    return os.isatty(descriptor)
