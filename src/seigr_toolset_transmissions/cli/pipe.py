"""`stt listen --raw` and `stt connect --raw`: exact bytes from pipe to pipe.

What was read is sent as it comes, and what arrives is written before more is taken from the
session; so a reader that stops makes the sender stop, and neither side fills its memory.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from .addresses import short_id
from .converse import Ends, Output, converse, is_terminal
from .nodes import connect_to, note_listening, running
from .notes import note
from .rates import describe
from .streams import STDIN, InputStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .. import NodeConfig, Session, STTNode
    from .seeds import Seeds

__all__ = ["connect_raw", "listen_raw"]


async def connect_raw(
    seeds: Seeds,
    config: NodeConfig,
    address: tuple[str, int],
    *,
    expect: bytes | None,
    read_input: bool,
) -> None:
    """Send standard input and write what comes until the one ends or the peer closes."""
    async with running(seeds, config) as node:
        ends, output = Ends(node), Output()

        async def on_data(session_id: bytes, data: bytes) -> None:
            del session_id  # there is one
            await output.write(data)

        node.events.register("data_received", on_data)
        session = await connect_to(node, address, expect=expect, seeds=seeds)
        async with _whole_or_lost(session, sends=read_input):
            feed = _feed(session, only_if_any=False) if read_input else None
            await converse(ends.of(session.session_id), output, feed)


async def listen_raw(
    seeds: Seeds, config: NodeConfig, address: tuple[str, int], *, keep: bool, read_input: bool
) -> None:
    """Write what one peer sends, and send it standard input, until it closes its session.

    Args:
        seeds: What the node is made of.
        config: Must allow one session only.
        address: Where to listen.
        keep: Go on with the next peer; standard input is not read.
        read_input: Whether to read standard input at all.

    """
    async with running(seeds, config, address) as node:
        receiver = _Receiver(node)
        note_listening(node, seeds)
        while True:
            session_id = await receiver.next_session()
            session = node.get_session(session_id)
            if keep or not read_input or session is None:
                await receiver.receive(session_id)
                if keep:
                    continue
            else:
                async with _whole_or_lost(session, sends=True):
                    await receiver.receive(session_id, session)
            return


class _Receiver:
    """Receives from one session after the other."""

    def __init__(self, node: STTNode) -> None:
        self._ends = Ends(node)
        self._output = Output()
        self._sessions: asyncio.Queue[bytes] = asyncio.Queue()
        self._turn = asyncio.Condition()
        self._present = b""
        self._digest = hashlib.sha256()
        self._size = 0
        self._began = 0.0
        node.events.register("session_created", self._on_session)
        node.events.register("data_received", self._on_data)

    async def next_session(self) -> bytes:
        """Wait for the next peer."""
        waiting = asyncio.ensure_future(self._sessions.get())
        try:
            both: set[asyncio.Future[Any]] = {waiting, self._output.failed}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if self._output.failed.done():
                self._output.failed.result()
            return waiting.result()
        finally:
            waiting.cancel()

    async def receive(self, session_id: bytes, feed_from_input: Session | None = None) -> None:
        """Write what a session brings until it has ended."""
        self._digest, self._size, self._began = hashlib.sha256(), 0, time.monotonic()
        async with self._turn:
            self._present = session_id
            self._turn.notify_all()
        feed = None if feed_from_input is None else _feed(feed_from_input, only_if_any=True)
        await converse(self._ends.of(session_id), self._output, feed)
        seconds = time.monotonic() - self._began
        note(f"received {describe(self._size, seconds)}, sha256 {self._digest.hexdigest()}")

    async def _on_session(self, session_id: bytes) -> None:
        self._sessions.put_nowait(session_id)

    async def _on_data(self, session_id: bytes, data: bytes) -> None:
        if session_id != self._present:
            # What the session before has brought is not written yet.
            async with self._turn:
                await self._turn.wait_for(lambda: session_id == self._present)
        self._size += len(data)
        await self._output.write(data, self._digest.update)


async def _feed(session: Session, *, only_if_any: bool) -> None:
    """Send standard input; at its end have it delivered and close the session.

    Args:
        session: Where to send.
        only_if_any: Leave the session open if there was no input at all: the command was not
            started to send, but with ``< /dev/null``, in the background or by a service manager.

    """
    any_input = False
    async for chunk in InputStream(STDIN).chunks():
        await session.send(chunk)
        any_input = True
    if any_input or not only_if_any:
        await session.flush()
        await session.close()


@asynccontextmanager
async def _whole_or_lost(session: Session, *, sends: bool) -> AsyncIterator[None]:
    """See that a peer never takes half of the input for the whole.

    A session that is closed is complete. If the command is interrupted while it sends what
    somebody will take for a whole, a file or a pipe, the session must not be closed, but be lost.
    """
    try:
        yield
    except BaseException:
        if sends and not is_terminal():
            session.lose("interrupted")
            note(f"interrupted: {short_id(session.peer_node_id)} was not told that this was all")
        raise
