"""`stt listen --raw` and `stt connect --raw`: exact bytes from pipe to pipe.

What was read is sent as it comes, and what arrives is written before more is taken from the
session; so a reader that stops makes the sender stop, and neither side fills its memory.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from .. import SessionState
from .addresses import short_id
from .converse import Ends, Output, converse, is_terminal, withdraw
from .failures import Failure
from .nodes import connect_to, note_listening, running
from .notes import complain, note
from .rates import describe
from .streams import STDIN, InputStream

if TYPE_CHECKING:
    from pathlib import Path

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
    retry: bool,
) -> None:
    """Send standard input and write what arrives, until the input ends or the peer closes."""
    async with running(seeds, config) as node:
        ends, output = Ends(node), Output()

        async def on_data(session_id: bytes, data: bytes) -> None:
            del session_id  # there is one
            await output.write(data)

        node.events.register("data_received", on_data)
        session = await connect_to(node, address, expect=expect, seeds=seeds, retry=retry)
        feed = _feed(session, only_if_any=False) if read_input else None
        try:
            await converse(ends.of(session.session_id), output, feed)
        finally:
            await withdraw(node, output)


async def listen_raw(
    seeds: Seeds,
    config: NodeConfig,
    address: tuple[str, int],
    *,
    announce: bool,
    keep: bool,
    read_input: bool,
    monitor: Path | None = None,
    console: int | None = None,
) -> None:
    """Write what one peer sends, and send it standard input, until it closes its session.

    A visitor that neither sends nor gets anything does not count.

    Args:
        seeds: What the node is made of.
        config: Allows one session; with ``keep`` as many more as may wait for their turn.
        address: Where to listen.
        announce: Whether to announce the node on the local network.
        keep: Go on with the next peer, even if one was lost; standard input is not read.
        read_input: Whether to read standard input at all.
        monitor: The socket at which the node is shown; None: it is not.
        console: The port of its web console, 0 for any; None: it has none.

    """
    async with running(seeds, config, address, monitor, console=console, announce=announce) as node:
        receiver = _Receiver(node)
        note_listening(node, seeds, address)
        try:
            while keep:
                try:
                    await receiver.receive_next(read_input=False)
                except Failure as error:
                    complain(str(error))
            while not await receiver.receive_next(read_input=read_input):
                pass
        finally:
            await receiver.withdraw()


class _Receiver:
    """Receives from one session after another."""

    def __init__(self, node: STTNode) -> None:
        self._node = node
        self._ends = Ends(node)
        self._output = Output()
        self._sessions: asyncio.Queue[bytes] = asyncio.Queue()
        self._turns: defaultdict[bytes, asyncio.Event] = defaultdict(asyncio.Event)
        self._digest = hashlib.sha256()
        self._size = 0
        self._used = False  # whether the present session has brought a message
        node.events.register("session_created", self._on_session)
        node.events.register("data_received", self._on_data)

    async def receive_next(self, *, read_input: bool) -> bool:
        """Wait for a session; write what it brings until it has ended, and send it the input.

        Returns:
            Whether the session carried a message in either direction.

        Raises:
            Failure: It did, and was lost.

        """
        session_id = await self._sessions.get()
        session = self._node.get_session(session_id)
        ended = self._ends.of(session_id)
        self._digest, self._size, began = hashlib.sha256(), 0, time.monotonic()
        self._used = False
        self._turns[session_id].set()
        feed = _feed(session, only_if_any=True) if session is not None and read_input else None
        try:
            await converse(ended, self._output, feed)
        except Failure:
            if self._used_by(session):
                raise
        finally:
            used = self._used_by(session)
            if used and ended.done() and ended.exception() is None:
                received = describe(self._size, time.monotonic() - began)
                note(f"received {received}, sha256 {self._digest.hexdigest()}")
            elif used:
                note(f"received {self._size:,} bytes; the transfer is incomplete")
        del self._turns[session_id]
        if not used:
            peer = "a peer" if session is None else short_id(session.peer_node_id)
            note(f"{peer} has left without sending anything; waiting for the next one")
        return used

    def _used_by(self, session: Session | None) -> bool:
        return self._used or (session is not None and session.stats.messages_sent > 0)

    async def withdraw(self) -> None:
        """Leave all sessions; what they have brought but is not yet written is dropped."""
        await withdraw(self._node, self._output)
        for turn in self._turns.values():
            turn.set()

    async def _on_session(self, session_id: bytes) -> None:
        self._sessions.put_nowait(session_id)

    async def _on_data(self, session_id: bytes, data: bytes) -> None:
        await self._turns[session_id].wait()
        self._used = True
        self._size += len(data)
        await self._output.write(data, self._digest.update)


async def _feed(session: Session, *, only_if_any: bool) -> None:
    """Send standard input; at its end, deliver everything and close the session.

    A session that is closed is complete. If this is interrupted while it sends a file or a pipe,
    which the peer would take for a whole, the session is not closed but aborted.

    Input without a single byte is sent as an empty message: a session without any message is a
    visit, and no transfer.

    Args:
        session: Where to send.
        only_if_any: Leave the session open if there was no input at all: the command was not
            started to send, but with ``< /dev/null``, in the background or by a service manager.

    """
    sends = not only_if_any
    digest, size, began = hashlib.sha256(), 0, time.monotonic()
    try:
        async for chunk in InputStream(STDIN).chunks():
            sends = True
            await session.send(chunk)
            digest.update(chunk)
            size += len(chunk)
        if sends and not size:
            await session.send(b"")
        await session.flush()
    except BaseException:
        if sends and not is_terminal() and session.state is not SessionState.CLOSED:
            session.abort("interrupted")
            note(f"interrupted: the transfer to {short_id(session.peer_node_id)} is incomplete")
        raise
    if sends:
        await session.close()
        note(f"sent {describe(size, time.monotonic() - began)}, sha256 {digest.hexdigest()}")
