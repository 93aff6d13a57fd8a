"""`stt send`: files to a peer that runs `stt receive`, each checked there."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import stat
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from ... import NodeConfig, Session, SessionState
from ...errors import STTSessionClosedError
from ..addresses import format_address
from ..converse import Ends
from ..failures import Failure, Misuse
from ..keyboard import unechoed
from ..nodes import connect_to, leave, running
from ..notes import complain, note
from ..printable import printable_line
from ..rates import describe
from ..streams import CHUNK_BYTES, Worker
from .dialogue import VERSION, Dialogue, GarbledError, Message, PeerLeftError
from .outcomes import Outcomes
from .progress import file_progress

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.progress import Progress

    from ..seeds import Seeds

__all__ = ["send_files"]

_ADVICE = "; send it again to continue from there"
_REDRAW_SECONDS = 0.1
_GREETING_SECONDS = 10.0
"""A peer that runs `stt receive` speaks first, within a round trip."""


async def send_files(
    seeds: Seeds,
    config: NodeConfig,
    address: tuple[str, int],
    paths: Sequence[Path],
    *,
    expect: bytes | None,
    as_json: bool,
) -> None:
    """Send files, have the peer verify each, and close the session; print what was sent.

    Raises:
        Misuse: A file cannot be read, or two have the same name. Nothing was sent.
        Failure: Not all files were sent, or the peer does not receive files.
        STTError: The peer could not be reached.

    Whatever happens, the session is closed if the peer takes part in that soon; the peer keeps what
    has arrived of a file, and goes on from there the next time.

    """
    _check(paths)
    failed = 0
    async with running(seeds, config) as node:
        ends = Ends(node)
        session = await connect_to(node, address, expect=expect, seeds=seeds)
        dialogue = Dialogue(session, ends.of(session.session_id))

        async def on_data(session_id: bytes, data: bytes) -> None:
            del session_id  # there is one
            await dialogue.deliver(data)

        node.events.register("data_received", on_data)
        worker, outcomes = Worker("read"), Outcomes(as_json=as_json)
        try:
            await _be_greeted(dialogue, address)
            for path in paths:
                failed += not await _send(dialogue, path, worker, outcomes)
        finally:
            dialogue.close()
            worker.end()
            await leave(session)
            session.abort("interrupted")  # if closing has taken too long
    if failed:
        raise Failure(f"not sent: {failed} of {len(paths)} files")


def _check(paths: Sequence[Path]) -> None:
    """Look at the files without opening them: a process that writes to a pipe would notice."""
    names: dict[str, Path] = {}
    for path in paths:
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise Misuse(f"cannot read {path}: {error.strerror}") from error
        if stat.S_ISDIR(mode):
            raise Misuse(f"{path} is a directory: pipe it, `tar c {path} | stt connect --raw ...`")
        if not os.access(path, os.R_OK):
            raise Misuse(f"cannot read {path}: {os.strerror(errno.EACCES)}")
        other = names.setdefault(path.name, path)
        if other is not path:
            raise Misuse(f"{other} and {path} have the same name: send each to another directory")


async def _be_greeted(dialogue: Dialogue, address: tuple[str, int]) -> None:
    """Check that the peer runs `stt receive`. Raises Failure if not."""
    where = format_address(address)
    other_program = Failure(
        f"no `stt receive` at {where}: start it there, or pipe the file to whatever else listens: "
        f"`stt connect {where} --raw < FILE`"
    )
    try:
        async with asyncio.timeout(_GREETING_SECONDS):
            greeting = await dialogue.next()
    except asyncio.CancelledError:
        note("interrupted: nothing was sent")
        raise
    except (TimeoutError, GarbledError, PeerLeftError):
        raise other_program from None
    if greeting.kind != "greeting":
        raise other_program
    if greeting.number("version") != VERSION:
        raise Failure(f"`stt receive` at {where} has another version: use the same on both sides")


async def _send(dialogue: Dialogue, path: Path, worker: Worker, outcomes: Outcomes) -> bool:
    """Send a file and print the outcome; return whether the peer has all of it."""
    began, peer = time.monotonic(), dialogue.session.peer_node_id
    try:
        file = await worker.call(_Source, path)
    except OSError as error:
        complain(f"cannot read {path}: {error.strerror}")
        outcomes.add(str(path), "unreadable", peer, reason=error.strerror)
        return False
    try:
        began_at = await _offer(dialogue, path.name, file, worker)
    except _RefusedError as error:
        complain(f"{path} was refused: {error}")
        outcomes.add(str(path), "refused", peer, reason=str(error))
        return False
    except OSError as error:
        complain(f"cannot read {path}: {error.strerror}")
        await dialogue.say("given-up")
        outcomes.add(str(path), "unreadable", peer, reason=error.strerror)
        return False
    except (Failure, STTSessionClosedError) as error:
        outcomes.add(str(path), "incomplete", peer, reason=str(error))
        raise Failure(f"the transfer of {path} is incomplete: {error}{_ADVICE}") from error
    except asyncio.CancelledError:
        note(f"interrupted: the transfer of {path} is incomplete{_ADVICE}")
        raise
    finally:
        worker.call_soon(file.close)  # a pipe may still be read
    seconds = time.monotonic() - began
    if began_at is None:
        outcome, sent, before = "present", 0, file.position
        text = f"{path} was there already, with the same content"
    else:
        outcome, sent, before = "sent", file.position - began_at, began_at
        rest = f" after the {began_at:,} that were there" if began_at else ""
        text = f"sent {path}: {describe(sent, seconds)}{rest}, sha256 {file.digest()}"
    outcomes.add(
        str(path),
        outcome,
        peer,
        size=sent,
        size_before=before,
        seconds=seconds,
        sha256=file.digest(),
        text=text,
    )
    return True


async def _offer(dialogue: Dialogue, name: str, file: _Source, worker: Worker) -> int | None:
    """Offer a file, and send what the peer lacks of it.

    Returns:
        How many bytes the peer had before; None: all of the file, under its name.

    Raises:
        _RefusedError: The peer does not take the file.
        OSError: The file cannot be read.
        Failure: The session ended, or the peer does not keep to the protocol.

    """
    await dialogue.say("offer", name=name, size=file.size)
    answer = await dialogue.next()
    while answer.kind == "ask":
        await worker.call(file.skip, answer.number("size"))
        await dialogue.say("digest", sha256=file.digest())
        answer = await dialogue.next()
    if answer.kind == "done":
        return None
    began_at = 0
    if answer.kind == "start":
        began_at = answer.number("at")
        if began_at != file.position:
            await worker.call(file.begin_again)
        if began_at != file.position:
            raise GarbledError("it asks for a part without having the one before it")
        answer = await _send_rest(dialogue, name, file, worker)
    if answer.kind == "refused":
        raise _RefusedError(printable_line(answer.text("reason")))
    if answer.kind != "done":
        raise GarbledError(f"its message {printable_line(answer.kind)} came unexpectedly")
    return began_at


async def _send_rest(dialogue: Dialogue, name: str, file: _Source, worker: Worker) -> Message:
    """Send the file from its position to its end; return the verdict, which may come early."""
    with unechoed(), file_progress() as progress:
        progress.add_task(name, total=file.size, completed=file.position, state="")
        drawing = asyncio.create_task(_draw(progress, dialogue.session, file))
        feeding = asyncio.create_task(_feed(dialogue, file, worker))
        verdict = asyncio.create_task(dialogue.next())
        try:
            await asyncio.wait((feeding, verdict), return_when=asyncio.FIRST_COMPLETED)
            if feeding.done():
                with suppress(STTSessionClosedError):  # the verdict says why
                    feeding.result()
            answer = await verdict
            progress.update(progress.task_ids[0], completed=file.position, state="", refresh=True)
        finally:
            for task in (drawing, feeding, verdict):
                task.cancel()
    return answer


async def _feed(dialogue: Dialogue, file: _Source, worker: Worker) -> None:
    while chunk := await worker.call(file.read):
        await dialogue.say_content(chunk)
    await dialogue.say("end", size=file.position, sha256=file.digest())


async def _draw(progress: Progress, session: Session, file: _Source) -> None:
    """Show how much the peer has acknowledged, until cancelled."""
    begun_with = file.position
    while True:
        acknowledged = file.position - session.stats.unacknowledged_bytes
        progress.update(
            progress.task_ids[0],
            completed=max(begun_with, acknowledged),
            state="" if session.state is SessionState.OPEN else "(no connection)",
            refresh=True,
        )
        await asyncio.sleep(_REDRAW_SECONDS)


class _RefusedError(Exception):
    """The peer does not take a file; the text says why."""


class _Source:
    """A file that is read from its beginning. All methods block, and raise OSError.

    Attributes:
        size: How many bytes it had when it was opened; None: it is a pipe or the like.
        position: How many bytes were read.

    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        status = os.fstat(self._descriptor)
        self.size = status.st_size if stat.S_ISREG(status.st_mode) else None
        self.position = 0
        self._digest = hashlib.sha256()

    def read(self, longest: int = CHUNK_BYTES) -> bytes:
        """Return what comes next; empty at the end."""
        chunk = os.read(self._descriptor, longest)
        self._digest.update(chunk)
        self.position += len(chunk)
        return chunk

    def skip(self, size: int) -> None:
        """Read the first bytes, as many as there are of ``size``."""
        self.begin_again()
        while self.read(min(CHUNK_BYTES, size - self.position)):
            pass

    def begin_again(self) -> None:
        """Go back to the beginning."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self.position = 0
        self._digest = hashlib.sha256()

    def digest(self) -> str:
        """Return the SHA-256 of what was read, in hex."""
        return self._digest.hexdigest()

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
