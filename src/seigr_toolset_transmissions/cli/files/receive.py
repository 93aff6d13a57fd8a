"""`stt receive`: files into a directory, under their names, each checked, and whole or not there.

A part that has arrived stays when its transfer breaks off, and the next one goes on from there.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from ... import Session, SessionState
from ...errors import STTSessionClosedError
from ..addresses import short_id
from ..converse import Ends
from ..failures import Failure, Misuse
from ..keyboard import unechoed
from ..nodes import leave, note_listening, running
from ..notes import complain, note
from ..printable import printable_line
from ..rates import describe
from ..streams import Worker
from .arriving import PartialFile, digest_of, fault_in
from .dialogue import VERSION, Dialogue, GarbledError, Message, PeerLeftError
from .outcomes import Outcomes
from .progress import file_progress

if TYPE_CHECKING:
    from pathlib import Path

    from rich.progress import TaskID

    from ... import NodeConfig, STTNode
    from ..seeds import Seeds

__all__ = ["Receiver", "receive_files"]

_REDRAW_SECONDS = 0.1


async def receive_files(
    seeds: Seeds,
    config: NodeConfig,
    address: tuple[str, int],
    directory: Path,
    *,
    announce: bool,
    force: bool,
    once: bool,
    as_json: bool,
) -> None:
    """Receive files from every peer that sends some.

    Args:
        seeds: What the node is made of.
        config: Its settings.
        address: Where to listen.
        directory: Where the files go.
        announce: Whether to announce the node on the local network.
        force: Replace files of the same name.
        once: End when the first peer that offered a file has left.
        as_json: Print what became of each file.

    Raises:
        Misuse: There is no such directory.
        Failure: With ``once``: not all that the peer offered is there.
        OSError: What became of a file cannot be printed.

    """
    _check(directory)
    async with running(seeds, config, address, announce=announce) as node:
        receiver = Receiver(node, directory, force=force, once=once, as_json=as_json)
        note_listening(node, seeds, address)
        with unechoed():
            try:
                complete = await receiver.over
            finally:
                await receiver.end()
    if not complete:
        raise Failure("not everything has arrived")


def _check(directory: Path) -> None:
    if not directory.is_dir():
        raise Misuse(f"{directory} is not a directory: make it, or name another one")


class _Bars:
    """The progress of files that arrive; drawn as long as there is one."""

    def __init__(self) -> None:
        self._progress = file_progress(transient=True)
        self._drawn_at = 0.0

    def add(self, name: str, size: int | None, completed: int) -> TaskID:
        """Show another file."""
        if not self._progress.task_ids:
            self._progress.start()
        return self._progress.add_task(name, total=size, completed=completed, state="")

    def show(self, bar: TaskID, completed: int) -> None:
        """Show how much of a file is there, unless something was drawn a moment ago."""
        self._progress.update(bar, completed=completed)
        now = time.monotonic()
        if now - self._drawn_at >= _REDRAW_SECONDS:
            self._drawn_at = now
            self._progress.refresh()

    def remove(self, bar: TaskID) -> None:
        """Remove a file's bar."""
        self._progress.remove_task(bar)
        if not self._progress.task_ids:
            self._progress.stop()


class Receiver:
    """The peers that send, each over a session of its own.

    Attributes:
        directory: Where their files go.
        force: Whether files of the same name are replaced.
        bars: Show the progress.
        claims: By name, the files that are arriving.
        over: Is done when there is no more to do: with ``once``, when a peer that has offered
            files has left, and then whether all of them are there. Its exception is why what became
            of a file cannot be printed.

    """

    def __init__(
        self, node: STTNode, directory: Path, *, force: bool, once: bool, as_json: bool
    ) -> None:
        self.directory = directory
        self.force = force
        self.bars: _Bars = _Bars()
        self.claims: dict[str, _Claim] = {}
        self.over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._once = once
        self._outcomes = Outcomes(as_json=as_json)
        self._printer = Worker("print")
        self._node = node
        self._ends = Ends(node)
        self._visits: dict[bytes, Dialogue] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        node.events.register("session_created", self._on_session)
        node.events.register("data_received", self._on_data)

    async def end(self) -> None:
        """Stop receiving and close all sessions; parts stay where they are."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._printer.end()
        await asyncio.gather(*(leave(session) for session in self._node.sessions))

    async def tell(self, *file_outcome_and_peer: Any, **facts: Any) -> None:
        """Print what became of a file, as `Outcomes.add` does, without holding up other files."""
        add = partial(self._outcomes.add, *file_outcome_and_peer, **facts)
        try:
            await self._printer.call(add)
        except OSError as error:
            if not self.over.done():
                self.over.set_exception(error)

    async def _on_session(self, session_id: bytes) -> None:
        session = self._node.get_session(session_id)
        if session is None:
            return  # it is over already
        dialogue = self._visits[session_id] = Dialogue(session, self._ends.of(session_id))
        task = asyncio.create_task(self._serve(dialogue))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _on_data(self, session_id: bytes, data: bytes) -> None:
        dialogue = self._visits.get(session_id)
        if dialogue is not None:
            await dialogue.deliver(data)

    async def _serve(self, dialogue: Dialogue) -> None:
        """Receive all that one peer sends."""
        session, visit = dialogue.session, _Visit(self, dialogue)
        peer = short_id(session.peer_node_id)
        try:
            await visit.serve()
        except (PeerLeftError, STTSessionClosedError):
            pass
        except GarbledError as error:
            complain(f"{peer} is not `stt send`: {printable_line(str(error))}")
            session.abort("it does not send files")
        except Failure as error:
            note(f"{peer}: {error}")
        finally:
            dialogue.close()
            visit.worker.end()
            del self._visits[session.session_id]
        if self._once and visit.offered and not self.over.done():
            self.over.set_result(visit.arrived == visit.offered)


class _Claim:
    """The right of one session to receive a file of one name."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.released = asyncio.Event()


class _RefusedError(Exception):
    """A file that cannot be received; the text says why, to both sides."""


class _Visit:
    """The files that come over one session, one after the other."""

    def __init__(self, receiver: Receiver, dialogue: Dialogue) -> None:
        self.offered = 0
        self.arrived = 0
        self.worker = Worker("receive")
        self._receiver = receiver
        self._dialogue = dialogue

    async def serve(self) -> None:
        """Receive until the session ends; raises as `Dialogue.next` and `Dialogue.say`."""
        await self._dialogue.say("greeting", version=VERSION)
        while True:
            message = await self._dialogue.next()
            if message.kind == "offer":
                self.offered += 1
                await self._answer(message)
            elif message.kind not in ("content", "end", "given-up"):  # of a file that was refused
                raise GarbledError(f"its message {message.kind!r} came unexpectedly")

    async def _answer(self, offer: Message) -> None:
        """Receive the file that is offered, or say why not."""
        name = offer.text("name")
        size = offer.number("size") if offer.has("size") else None
        try:
            try:
                fault = fault_in(name)
                if fault:
                    raise _RefusedError(fault)
                await self._claim_and_receive(name, size)
            except OSError as error:
                raise _RefusedError(f"it cannot be written there: {error.strerror}") from error
        except _RefusedError as refused:
            sender = short_id(self._dialogue.session.peer_node_id)
            complain(f"refused {printable_line(name)} from {sender}: {refused}")
            await self._tell(name, "refused", reason=str(refused))
            await self._dialogue.say("refused", reason=str(refused))
        except (Failure, STTSessionClosedError) as error:
            await self._tell(name, "incomplete", reason=str(error))
            raise

    async def _tell(self, name: str, outcome: str, **facts: Any) -> None:
        """Print what became of a file; see `Outcomes.add`."""
        peer = self._dialogue.session.peer_node_id
        await self._receiver.tell(name, outcome, peer, **facts)

    async def _claim_and_receive(self, name: str, size: int | None) -> None:
        claims, session = self._receiver.claims, self._dialogue.session
        while (other := claims.get(name)) is not None:
            if other.session.state is SessionState.OPEN:
                sender = short_id(other.session.peer_node_id)
                raise _RefusedError(f"a file of that name is arriving from {sender}")
            other.session.abort("its file is sent again over another session")
            await other.released.wait()
        claim = claims[name] = _Claim(session)
        try:
            await self._receive(self._receiver.directory / name, size)
        finally:
            del claims[name]
            claim.released.set()

    async def _receive(self, target: Path, size: int | None) -> None:
        began = time.monotonic()
        if await self.worker.call(os.path.lexists, target):
            if digest := await self._digest_if_there(target, size):
                self.arrived += 1
                await self._dialogue.say("done")
                note(f"{target} already exists, with the same content")
                seconds = time.monotonic() - began
                facts = {"size": 0, "size_before": size, "seconds": seconds, "sha256": digest}
                await self._tell(target.name, "present", **facts)
                return
            if not self._receiver.force:
                raise _RefusedError(
                    "there is another file of that name already; `stt receive --force` replaces it"
                )
        part = await self.worker.call(PartialFile, target)
        try:
            await self._fill(part, target, size)
        finally:
            # A call that was cancelled may still be under way: the worker closes it after that.
            # Until then no other session may open it: closing removes an empty part by its name.
            await asyncio.wait((self.worker.call_soon(part.close),))

    async def _digest_if_there(self, target: Path, size: int | None) -> str:
        """Return the digest of the content that is offered, if the file has it; empty: it has not.

        The digest is a SHA-256, in hex.
        """
        status = await self.worker.call(target.lstat)
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            return ""
        offered = await self._ask_for_digest(size)
        return offered if offered == await self.worker.call(digest_of, target) else ""

    async def _ask_for_digest(self, size: int) -> str:
        """Return the SHA-256 of the first bytes of what the peer sends."""
        await self._dialogue.say("ask", size=size)
        answer = await self._dialogue.next()
        if answer.kind != "digest":
            raise GarbledError(f"its message {answer.kind!r} came instead of a digest")
        return answer.text("sha256")

    async def _fill(self, part: PartialFile, target: Path, size: int | None) -> None:
        """Receive what is missing of the file."""
        resumable = part.size > 0 and size is not None and part.size <= size
        if not resumable or (
            await self._ask_for_digest(part.size) != await self.worker.call(part.digest)
        ):
            await self.worker.call(part.begin_again)
        if part.size:
            note(f"continuing {target} after {part.size:,} bytes")
        bar = self._receiver.bars.add(target.name, size, part.size)
        began, begun_with = time.monotonic(), part.size
        complete = False
        try:
            await self._dialogue.say("start", at=part.size)
            while (message := await self._dialogue.next()).kind == "content":
                await self.worker.call(part.append, message.content)
                self._receiver.bars.show(bar, part.size)
            complete = message.kind == "end"
        finally:
            self._receiver.bars.remove(bar)
            if not complete:
                of = "" if size is None else f" of {size:,}"
                note(f"received {part.size:,}{of} bytes of {target}; the transfer is incomplete")
        if complete:
            await self._conclude(part, target, message)
            arrived, seconds = part.size - begun_with, time.monotonic() - began
            digest = message.text("sha256")
            note(f"received {target}: {describe(arrived, seconds)}, sha256 {digest}")
            facts = {"size": arrived, "size_before": begun_with, "seconds": seconds}
            await self._tell(target.name, "received", sha256=digest, **facts)
        elif message.kind == "given-up":
            await self._tell(target.name, "incomplete", reason="the sender cannot read the rest")
        else:
            raise GarbledError(f"its message {message.kind!r} came in the middle of a file")

    async def _conclude(self, part: PartialFile, target: Path, end: Message) -> None:
        size, digest = end.number("size"), end.text("sha256")
        fault = await self.worker.call(
            partial(part.complete, size, digest, force=self._receiver.force)
        )
        if fault:
            raise _RefusedError(fault)
        self.arrived += 1
        await self._dialogue.say("done")
