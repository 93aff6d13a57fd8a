"""The messages with which files travel between `stt send` and `stt receive`.

The protocol is in ``docs/files.md``. A message is a JSON object with a ``kind``, or it is content:
the letter ``D`` and then bytes of a file.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from ..failures import Failure

if TYPE_CHECKING:
    from ... import Session

__all__ = ["VERSION", "Dialogue", "GarbledError", "Message", "PeerLeftError", "is_greeting"]

VERSION = 1

_CONTENT = b"D"
_MAX_CONTROL_BYTES = 64 * 1024


class GarbledError(Failure):
    """The peer sent something that this protocol does not allow: it is another program."""


class PeerLeftError(Failure):
    """The peer closed the session."""


class Message:
    """One message of the protocol.

    Attributes:
        kind: Its kind; ``content`` for bytes of a file.
        content: Those bytes.

    """

    __slots__ = ("_facts", "content", "kind")

    def __init__(self, data: bytes) -> None:
        """Read a message.

        Raises:
            GarbledError: It is none.

        """
        self.kind: str = "content"
        self.content: bytes = b""
        self._facts: dict[str, Any] = {}
        if data.startswith(_CONTENT):
            self.content = data[len(_CONTENT) :]
            return
        try:
            facts = json.loads(data) if len(data) <= _MAX_CONTROL_BYTES else None
        except (ValueError, RecursionError):
            facts = None
        if not isinstance(facts, dict) or not isinstance(facts.get("kind"), str):
            raise GarbledError("it sent something that is not part of a file transfer")
        self.kind, self._facts = facts["kind"], facts

    def text(self, name: str) -> str:
        """Return a fact that is text."""
        value = self._facts.get(name)
        if not isinstance(value, str):
            raise GarbledError(f"its message {self.kind!r} has no text {name!r}")
        return value

    def number(self, name: str) -> int:
        """Return a fact that is a whole number from 0 on."""
        value = self._facts.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise GarbledError(f"its message {self.kind!r} has no number {name!r}")
        return value

    def has(self, name: str) -> bool:
        """Whether the fact is given, and not null."""
        return self._facts.get(name) is not None


def is_greeting(data: bytes) -> bool:
    """Whether this is the message with which `stt receive` begins."""
    try:
        message = Message(data)
    except GarbledError:
        return False
    return message.kind == "greeting" and message.has("version")


class Dialogue:
    """The messages of one session, both ways.

    Args:
        session: The session.
        ended: Is done when all that the session brought was handed to `deliver`; gets a Failure if
            it was lost. See `converse.Ends.of`.

    """

    def __init__(self, session: Session, ended: asyncio.Future[None]) -> None:
        self.session = session
        self._ended = ended
        self._arrived: asyncio.Queue[bytes] = asyncio.Queue(1)
        self._over = asyncio.get_running_loop().create_future()

    async def deliver(self, data: bytes) -> None:
        """Take a message from the session; wait until the one before it has been read."""
        if self._over.done():
            return
        putting = asyncio.ensure_future(self._arrived.put(data))
        try:
            await asyncio.wait((putting, self._over), return_when=asyncio.FIRST_COMPLETED)
        finally:
            putting.cancel()

    def close(self) -> None:
        """Stop reading: whatever still arrives is dropped."""
        if not self._over.done():
            self._over.set_result(None)

    async def next(self) -> Message:
        """Wait for the next message.

        Raises:
            PeerLeftError: The peer closed the session.
            GarbledError: It is not a message of this protocol.
            Failure: The session was lost.

        """
        if self._arrived.empty() and not self._ended.done():
            getting = asyncio.ensure_future(self._arrived.get())
            try:
                await asyncio.wait((getting, self._ended), return_when=asyncio.FIRST_COMPLETED)
                if getting.done():
                    return Message(getting.result())
            finally:
                getting.cancel()
        if not self._arrived.empty():
            return Message(self._arrived.get_nowait())
        self._ended.result()
        raise PeerLeftError("the peer closed the session")

    async def say(self, kind: str, **facts: object) -> None:
        """Send a message; raises as `Session.send`."""
        await self.session.send(json.dumps({"kind": kind, **facts}).encode("ascii"))

    async def say_content(self, content: bytes) -> None:
        """Send bytes of a file; raises as `Session.send`."""
        await self.session.send(_CONTENT + content)
