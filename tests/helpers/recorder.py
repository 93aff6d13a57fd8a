"""A receiver that records what its transport does, and checks that it keeps the contract."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from seigr_toolset_transmissions.transports.base import Address, Transport

__all__ = ["Recorder", "on", "pattern", "turns"]

_inside = 0
"""How many calls into a transport are under way; until they end, receivers may only be paused."""


class _Guarded:
    """A transport's calls, marked so that a receiver can tell when it is called within one."""

    def __init__(self, transport: Transport) -> None:
        self.inner = transport

    @property
    def peer_address(self) -> Address:
        return self.inner.peer_address

    @property
    def waiting(self) -> int:
        return self.inner.waiting

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._call(lambda: self.inner.write(data))

    def pause_reading(self) -> None:
        self._call(self.inner.pause_reading)

    def resume_reading(self) -> None:
        self._call(self.inner.resume_reading)

    def close(self) -> None:
        self._call(self.inner.close)

    def abort(self) -> None:
        self._call(self.inner.abort)

    @staticmethod
    def _call(function: Callable[[], None]) -> None:
        global _inside  # noqa: PLW0603 - the event loop's thread is one place, too
        _inside += 1
        try:
            function()
        finally:
            _inside -= 1


class Recorder:
    """Records calls as words: made, bytes, pause, resume, lost.

    ``take`` gets each view and returns how many of its bytes it has used; all by default. These are
    added to ``data``; the others are in ``left``.
    ``react`` is called with each word after it is recorded, and may raise.
    """

    def __init__(
        self,
        take: Callable[[memoryview], int] = len,
        react: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.take = take
        self.react = react
        self.calls: list[str] = []
        self.presented: list[bytes] = []
        self.data = bytearray()
        self.left = b""
        self.cause: Exception | None = None
        self.reentered: list[str] = []
        self._transport: _Guarded | None = None
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    # Called by the transport.

    def connection_made(self, transport: Transport) -> None:
        self._transport = _Guarded(transport)
        self._record("made")

    def bytes_received(self, data: memoryview) -> int:
        self.presented.append(bytes(data))
        done = self.take(data)
        self.data += data[: max(done, 0)]
        self.left = bytes(data[max(done, 0) :])
        self._record("bytes")
        return done

    def pause_writing(self) -> None:
        self._record("pause")

    def resume_writing(self) -> None:
        self._record("resume")

    def connection_lost(self, cause: Exception | None) -> None:
        self.cause = cause
        self._record("lost")

    # Called by the tests.

    @property
    def transport(self) -> _Guarded:
        assert self._transport is not None, "no connection was made"
        return self._transport

    @property
    def lost(self) -> bool:
        return "lost" in self.calls

    @property
    def paused(self) -> bool:
        return self.calls.count("pause") > self.calls.count("resume")

    async def until(self, condition: Callable[[], bool], *, seconds: float = 20) -> None:
        """Wait until a call to this receiver makes ``condition`` true."""
        if condition():
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((condition, future))
        async with asyncio.timeout(seconds):
            await future

    async def until_received(self, count: int) -> None:
        await self.until(lambda: len(self.data) >= count)

    async def until_lost(self) -> None:
        await self.until(lambda: self.lost)

    def check(self) -> None:
        """Assert that the calls came in an order that the contract allows."""
        assert not self.reentered, "called from within a call to the transport"
        if not self.calls:
            return
        assert self.calls[0] == "made"
        assert self.calls.count("made") == 1
        assert self.calls.count("lost") <= 1
        if self.lost:
            assert self.calls[-1] == "lost"
        pressure = [call for call in self.calls if call in {"pause", "resume"}]
        assert pressure[0::2] == ["pause"] * len(pressure[0::2])
        assert pressure[1::2] == ["resume"] * len(pressure[1::2])

    def _record(self, call: str) -> None:
        if call != "pause" and _inside:
            self.reentered.append(call)
        self.calls.append(call)
        try:
            self.react(call)
        finally:
            for entry in [entry for entry in self._waiting if entry[0]()]:
                self._waiting.remove(entry)
                if not entry[1].done():
                    entry[1].set_result(None)


async def turns(count: int) -> None:
    """Let the loop run long enough for scheduled calls, and for the calls that those schedule."""
    for _ in range(count):
        await asyncio.sleep(0)


def on(call: str, action: Callable[[], None]) -> Callable[[str], None]:
    """Do something each time the receiver has been called in this way."""

    def react(happened: str) -> None:
        if happened == call:
            action()

    return react


def pattern(length: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(length)  # noqa: S311 - bytes to compare, not to hide
