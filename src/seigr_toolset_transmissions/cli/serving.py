"""What `stt listen` answers requests with: the request itself, or what a command makes of it."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from ..errors import STTRequestFailedError, reason_of
from .addresses import short_id
from .failures import Misuse
from .notes import complain, note
from .printable import printable_line
from .streams import CHUNK_BYTES, split_lines

if TYPE_CHECKING:
    from asyncio.subprocess import Process

    from .. import NodeConfig

__all__ = ["Answer", "CommandAnswer", "describe_status", "echo", "parse_command"]

Answer = Callable[[bytes, bytes], Awaitable[bytes]]
"""Called with the asking peer's node id and the request; returns the reply."""

_REPLY_BYTES = 9
"""How much shorter than the longest message a reply is."""
_LONGEST_LINE = 1000
_GRACE_SECONDS = 1.0
"""From the request to end until a process is killed."""


async def echo(peer_node_id: bytes, data: bytes) -> bytes:
    """Answer a request with the request."""
    del peer_node_id
    return data


def parse_command(command: str) -> list[str]:
    """Return the program and its arguments, which are quoted as for a shell. No shell sees them.

    Raises:
        Misuse: There is no such program, or a quotation has no end.

    """
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise Misuse(f"--exec {command!r}: {str(error).lower()}") from error
    if not arguments:
        raise Misuse("--exec needs a command, for instance --exec 'wc -c'")
    if shutil.which(arguments[0]) is None:
        raise Misuse(
            f"--exec: there is no program {arguments[0]!r}: name one that is in PATH, or the path "
            "of a file that may be executed; for what only a shell understands, write "
            "--exec \"sh -c '...'\""
        )
    return arguments


class CommandAnswer:
    """Answers each request with the output of a process of its own.

    The request is the process's standard input, and its standard output is the reply. If its exit
    status is not 0, the request has failed, and the output says why. Lines on its standard error
    are notes on this side. ``STT_PEER_NODE_ID`` in its environment is the asking peer's node id.

    A request that is cancelled, because the peer no longer waits or the node stops, ends the
    process and all that it has started: with SIGTERM, and a second later with SIGKILL.

    Args:
        arguments: The program and its arguments.
        config: The node's: replies are as long as it allows, and ``max_requests`` processes run at
            a time, whoever asks.

    """

    def __init__(self, arguments: Sequence[str], config: NodeConfig) -> None:
        self._arguments = arguments
        self._longest = config.max_message_bytes - _REPLY_BYTES
        self._turns = asyncio.Semaphore(config.max_requests)

    async def __call__(self, peer_node_id: bytes, data: bytes) -> bytes:
        """Run the command for one request; return its output."""
        who = f"{self._arguments[0]} for {short_id(peer_node_id)}"
        async with self._turns:
            process = await self._start(peer_node_id, who)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_give(process, data))
                    group.create_task(_tell(process, who))
                    reading = group.create_task(self._read(process))
                status = await process.wait()
            except BaseException:
                await _end(process)
                raise
        output = reading.result()
        if output is None:
            complain(f"{who}: its output is longer than a reply can be, {self._longest:,} bytes")
            raise STTRequestFailedError(b"the reply would be too long")
        if status:
            note(f"{who}: {describe_status(status)}")
            raise STTRequestFailedError(output)
        return output

    async def _start(self, peer_node_id: bytes, who: str) -> Process:
        try:
            return await asyncio.create_subprocess_exec(
                *self._arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, "STT_PEER_NODE_ID": peer_node_id.hex()},
                start_new_session=True,  # no Ctrl-C reaches it, and it ends with all its children
            )
        except OSError as error:
            complain(f"{who}: it cannot be run: {reason_of(error)}")
            raise STTRequestFailedError(b"the command cannot be run") from error

    async def _read(self, process: Process) -> bytes | None:
        """Return all that the process writes; None: it is too long, and the process is killed."""
        assert process.stdout is not None  # noqa: S101  it is a pipe
        output = bytearray()
        while chunk := await process.stdout.read(CHUNK_BYTES):
            output += chunk
            if len(output) > self._longest:
                _signal(process, at_once=True)
                while await process.stdout.read(CHUNK_BYTES):
                    pass  # what it had written already
                return None
        return bytes(output)


async def _give(process: Process, data: bytes) -> None:
    """Write all input, unless the process does not want it."""
    assert process.stdin is not None  # noqa: S101  it is a pipe
    if not process.stdin.is_closing():  # as it is if the process has ended already
        with suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(data)
            await process.stdin.drain()
    process.stdin.close()


async def _tell(process: Process, who: str) -> None:
    """Note what the process writes to its standard error."""
    assert process.stderr is not None  # noqa: S101  it is a pipe
    rest = b""
    while chunk := await process.stderr.read(CHUNK_BYTES):
        lines, rest = split_lines(rest + chunk, _LONGEST_LINE)
        for line in lines:
            note(f"{who}: {printable_line(line.decode(errors='backslashreplace'))}")
    if rest:
        note(f"{who}: {printable_line(rest.decode(errors='backslashreplace'))}")


def describe_status(status: int) -> str:
    """Say how a process has ended."""
    if status >= 0:
        return f"exit status {status}"
    return f"killed by {signal.Signals(-status).name}"


async def _end(process: Process) -> None:
    """End a process and all that it has started."""
    _signal(process, at_once=False)
    try:
        await _ended(process)
    finally:
        _signal(process, at_once=True)
    await _ended(process)


async def _ended(process: Process) -> None:
    """Wait for the end, but not for long: in some versions of Python, open pipes delay it."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_GRACE_SECONDS):
            await process.wait()


def _signal(process: Process, *, at_once: bool) -> None:
    with suppress(ProcessLookupError, PermissionError):  # there is none any more
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL if at_once else signal.SIGTERM)
        else:
            process.kill()
