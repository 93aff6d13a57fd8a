"""`stt listen` and `stt connect` for people: a line is a message, a message is a line."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .addresses import format_address, short_id
from .converse import Ends, Output, converse, is_terminal, withdraw
from .files.dialogue import is_greeting
from .nodes import connect_to, note_listening, running
from .notes import complain, note
from .printable import printable
from .prompting import can_prompt, prompting
from .streams import STDIN, InputStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from .. import NodeConfig, STTNode
    from .seeds import Seeds
    from .serving import Answer

__all__ = ["connect_lines", "listen_lines", "show_lost_lines"]


_LOST_LINES_SHOWN = 100

_TAKES_FILES = (
    "at {where} is `stt receive`, which takes files: use `stt send {where} FILE`, or run "
    "`stt listen` there to talk"
)


async def connect_lines(
    seeds: Seeds,
    config: NodeConfig,
    address: tuple[str, int],
    *,
    expect: bytes | None,
    read_input: bool,
    retry: bool,
) -> None:
    """Send the lines of standard input and print what arrives, until either ends."""
    async with running(seeds, config) as node:
        with _streams(read_input=read_input) as (lines, output):
            ends = Ends(node)
            where = format_address(address)
            nothing_yet = True

            async def on_data(session_id: bytes, data: bytes) -> None:
                nonlocal nothing_yet
                if nothing_yet and is_greeting(data):
                    ends.fail(session_id, _TAKES_FILES.format(where=where))
                    return
                nothing_yet = False
                await output.write(printable(data))

            node.events.register("data_received", on_data)
            node.events.register("error", show_lost_lines)
            session = await connect_to(node, address, expect=expect, seeds=seeds, retry=retry)
            if lines is not None and is_terminal():
                note("each line that you type is a message; Ctrl-D ends")

            closing = False

            async def feed(lines: AsyncIterator[bytes]) -> None:
                nonlocal closing
                async for line in lines:
                    await session.send(line)
                await session.flush()
                closing = True
                await session.close()

            ended = ends.of(session.session_id)
            try:
                await converse(ended, output, None if lines is None else feed(lines))
            except asyncio.CancelledError:
                note("interrupted: closing the session; nothing more is sent")
                raise
            finally:
                await withdraw(node, output)
            if closing:
                note("the session is closed")
            else:
                peer = short_id(session.peer_node_id)
                note(f"{peer} at {where} closed its session; run the command again to reconnect")


async def listen_lines(
    seeds: Seeds,
    config: NodeConfig,
    address: tuple[str, int],
    *,
    announce: bool,
    read_input: bool,
    answer: Answer | None = None,
    monitor: Path | None = None,
    console: int | None = None,
) -> None:
    """Print what peers say, send them the lines of standard input, and answer their requests."""
    async with running(seeds, config, address, monitor, console=console, announce=announce) as node:
        if answer is not None:
            node.on_request(answer)
        with _streams(read_input=read_input) as (lines, output):
            room = _Room(node, output)
            note_listening(node, seeds, address)
            if lines is not None and is_terminal():
                note("each line that you type goes to all peers; Ctrl-D ends")
            await room.run(lines)


@contextmanager
def _streams(*, read_input: bool) -> Iterator[tuple[AsyncIterator[bytes] | None, Output]]:
    """Yield the lines to send, None if there are to be none, and the output for the others'."""
    if read_input and can_prompt():
        with prompting() as prompt:
            yield prompt.lines(), Output(prompt)
    else:
        yield InputStream(STDIN).lines() if read_input else None, Output()


class _Room:
    """All peers of a listening node."""

    def __init__(self, node: STTNode, output: Output) -> None:
        self._node = node
        self._output = output
        self._anybody = asyncio.Event()
        node.events.register("peer_connected", self._on_connected)
        node.events.register("peer_disconnected", self._on_disconnected)
        node.events.register("error", self._on_error)
        node.events.register("error", show_lost_lines)

    async def run(self, lines: AsyncIterator[bytes] | None) -> None:
        """Run until the user ends the input or the output is gone."""
        tasks = [asyncio.create_task(self._print())]
        if lines is not None:
            tasks.append(asyncio.create_task(self._speak(lines)))
        waiting: set[asyncio.Future[None]] = {*tasks, self._output.failed}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for future in waiting:
                if future.done():
                    future.result()
        except asyncio.CancelledError:
            note("interrupted: closing every session; nothing more is sent")
            raise
        finally:
            # Losses while the node stops are reported by `running`.
            self._node.events.remove_handler("error", self._on_error)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _print(self) -> None:
        while True:
            messages = await self._node.endpoints.receive_many()
            lines = (printable(data, f"{short_id(peer)}: ") for data, peer in messages)
            await self._output.write(b"".join(lines))

    async def _speak(self, lines: AsyncIterator[bytes]) -> None:
        """Send each line to all peers that are connected."""
        typed = is_terminal()
        async for line in lines:
            if not typed:
                await self._anybody.wait()
            outcomes = await self._node.send_to_all(line, timeout=None if typed else 1e9)
            if not outcomes:
                note("nobody is connected: not sent")
            for peer, outcome in outcomes.items():
                if not outcome:
                    note(f"not sent to {short_id(peer)}: {outcome.value}")
        if not typed:
            await asyncio.Event().wait()  # keep printing

    async def _on_connected(self, peer_node_id: bytes) -> None:
        self._anybody.set()
        info = self._node.endpoints.get_endpoint(peer_node_id)
        where = "" if info is None else f" from {format_address(info['address'])}"
        note(f"{short_id(peer_node_id)} has connected{where}")

    async def _on_error(self, error_type: str, details: dict[str, Any]) -> None:
        if error_type == "session_lost":
            note(f"{short_id(details['peer_node_id'])} was lost: {details['reason']}")

    async def _on_disconnected(self, peer_node_id: bytes) -> None:
        if not self._node.sessions:
            self._anybody.clear()
        note(f"{short_id(peer_node_id)} has left")


async def show_lost_lines(error_type: str, details: dict[str, Any]) -> None:
    """Complain about each line that a lost session did not deliver; a handler for ``error``."""
    if error_type != "session_lost":
        return
    lost = [("may not have arrived", line) for line in details["unknown"]]
    lost += [("not delivered", line) for line in details["unsent"]]
    for what, line in lost[:_LOST_LINES_SHOWN]:
        complain(f"{what}: {printable(line).decode().rstrip()}")
    if len(lost) > _LOST_LINES_SHOWN:
        complain(f"not delivered, or perhaps not: {len(lost) - _LOST_LINES_SHOWN:,} more lines")
