"""`stt listen` and `stt connect` for people: a line is a message, a message is a line."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

from .addresses import format_address, short_id
from .converse import Ends, Output, converse, is_terminal, withdraw
from .nodes import connect_to, note_listening, running
from .notes import note
from .streams import STDIN, InputStream

if TYPE_CHECKING:
    from .. import NodeConfig, STTNode
    from .seeds import Seeds

__all__ = ["connect_lines", "listen_lines", "printable"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters with which a peer could move the cursor, or worse. Tabs and line ends are fine."""


async def connect_lines(
    seeds: Seeds,
    config: NodeConfig,
    address: tuple[str, int],
    *,
    expect: bytes | None,
    read_input: bool,
) -> None:
    """Send the lines of standard input and print what comes, until the one ends or the other."""
    async with running(seeds, config) as node:
        ends, output = Ends(node), Output()

        async def on_data(session_id: bytes, data: bytes) -> None:
            del session_id  # there is one
            await output.write(printable(data))

        node.events.register("data_received", on_data)
        session = await connect_to(node, address, expect=expect, seeds=seeds)
        if read_input and is_terminal():
            note("each line that you type is a message; Ctrl-D ends")

        async def feed() -> None:
            async for line in InputStream(STDIN).lines():
                await session.send(line)
            await session.flush()
            await session.close()

        ended = ends.of(session.session_id)
        try:
            await converse(ended, output, feed() if read_input else None)
        finally:
            await withdraw(node, output)
        note("the session is closed")


async def listen_lines(
    seeds: Seeds, config: NodeConfig, address: tuple[str, int], *, read_input: bool
) -> None:
    """Print what peers say and send them the lines of standard input."""
    async with running(seeds, config, address) as node:
        room = _Room(node)
        note_listening(node, seeds, address)
        if read_input and is_terminal():
            note("each line that you type goes to all peers; Ctrl-D ends")
        await room.run(read_input=read_input)


class _Room:
    """All peers of a listening node."""

    def __init__(self, node: STTNode) -> None:
        self._node = node
        self._output = Output()
        self._anybody = asyncio.Event()
        node.events.register("peer_connected", self._on_connected)
        node.events.register("peer_disconnected", self._on_disconnected)
        node.events.register("error", self._on_error)

    async def run(self, *, read_input: bool) -> None:
        """Go on until the user has typed the end of input, or the output is gone."""
        tasks = [asyncio.create_task(self._print())]
        if read_input:
            tasks.append(asyncio.create_task(self._speak()))
        waiting: set[asyncio.Future[None]] = {*tasks, self._output.failed}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for future in waiting:
                if future.done():
                    future.result()
        finally:
            # What is lost when the node is stopped is told then.
            self._node.events.remove_handler("error", self._on_error)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _print(self) -> None:
        while True:
            data, peer = await self._node.endpoints.receive_any()
            await self._output.write(printable(data, f"{short_id(peer)}: "))

    async def _speak(self) -> None:
        """Send each line to all who are there."""
        typed = is_terminal()
        async for line in InputStream(STDIN).lines():
            if not typed:
                await self._anybody.wait()
            outcomes = await self._node.send_to_all(line, timeout=None if typed else 1e9)
            if not outcomes:
                note("nobody is connected: not sent")
            for peer, outcome in outcomes.items():
                if not outcome:
                    note(f"not sent to {short_id(peer)}: {outcome.value}")
        if not typed:
            await asyncio.Event().wait()  # go on printing

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


def printable(message: bytes, prefix: str = "") -> bytes:
    """Return a message as whole lines that are safe to print, each with the prefix."""
    text = _CONTROL.sub(_escape, message.decode(errors="backslashreplace"))
    return "".join(f"{prefix}{line}\n" for line in text.split("\n")).encode()


def _escape(match: re.Match[str]) -> str:
    return f"\\x{ord(match[0]):02x}"
