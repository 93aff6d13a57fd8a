"""A network whose cables fail on purpose: wraps another `Network` and acts at its dialers' end.

A `Fault` is due when a number of bytes has passed over one cable in one direction. Whatever passed
before it arrives; nothing passes after it. Faults are used up in order, one for each cable that is
dialed, so that a scenario can cut the first connection, the second, and so on.

A cable can also hang and come back to life (`Cable.hold`, `Cable.release`). Whatever both ends have
written in the meantime then arrives late, when the dialer has long been connected over another one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from helpers.between import Between
from seigr_toolset_transmissions.transports.base import (
    Listener,
    Network,
    Receiver,
    Transport,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Direction(Enum):
    OUT = "dialer to listener"
    IN = "listener to dialer"


class Kind(Enum):
    FIN = "both ends see an end of stream"
    RST = "both ends see a reset"
    BLACK_HOLE = "neither end sees anything"


@dataclass(frozen=True)
class Fault:
    direction: Direction
    offset: int
    kind: Kind


class FaultNetwork(Network):
    """Dials through cables; listens directly.

    `cables` holds all cables dialed so far; the next ones take their faults from `faults`.
    """

    def __init__(self, inner: Network, faults: Iterable[Fault] = ()) -> None:
        self._inner = inner
        self.faults = iter(faults)
        self.cables: list[Cable] = []

    async def dial(self, receiver: Receiver, host: str, port: int) -> Transport:
        cable = Cable(receiver, next(self.faults, None))
        self.cables.append(cable)
        await self._inner.dial(cable, host, port)
        return cable

    async def listen(self, accept: Callable[[], Receiver], host: str, port: int) -> Listener:
        return await self._inner.listen(accept, host, port)


class Cable(Between):
    """A connection that breaks when its fault is due."""

    def __init__(self, receiver: Receiver, fault: Fault | None) -> None:
        super().__init__(receiver)
        self.fault = fault
        self.passed = {Direction.OUT: 0, Direction.IN: 0}
        self.broken: Kind | None = None
        self._held: dict[Direction, list[bytes]] | None = None
        self._aborted = False  # by the dialer, while the cable was held

    def _pass(self, direction: Direction, count: int) -> int:
        """Return how many of ``count`` bytes pass before the fault is due."""
        fault = self.fault
        if self.broken is not None:
            return 0
        if fault is not None and fault.direction is direction:
            count = min(count, fault.offset - self.passed[direction])
        self.passed[direction] += count
        return count

    def _break_if_due(self) -> None:
        fault = self.fault
        if (
            fault is not None
            and self.broken is None
            and self.passed[fault.direction] >= fault.offset
        ):
            self.cut(fault.kind)

    def cut(self, kind: Kind) -> None:
        """Break now."""
        self.broken = kind
        if kind is Kind.FIN:
            self._transport.close()
            asyncio.get_running_loop().call_soon(self._lose, None)
        elif kind is Kind.RST:
            self._transport.abort()
            asyncio.get_running_loop().call_soon(self._lose, ConnectionResetError())

    def hold(self) -> None:
        """From now on, keep all bytes in both directions: neither end sees any of them."""
        self._held = {Direction.OUT: [], Direction.IN: []}

    def release(self) -> None:
        """Let what was kept arrive, in both directions, even if the dialer has aborted since.

        (No real transport may do that. It shows that a connection does not rely on its transport.)
        """
        assert self._held is not None
        held, self._held = self._held, None
        for data in held[Direction.OUT]:
            self._transport.write(data)
        self._give(b"".join(held[Direction.IN]))
        if self._aborted:
            self._transport.close()
            self._lose(None)

    # Called by the dialer.

    @property
    def waiting(self) -> int:
        return self._transport.waiting

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._held is not None:
            self._held[Direction.OUT].append(bytes(data))
            return
        count = self._pass(Direction.OUT, len(data))
        if count:
            self._transport.write(bytes(data[:count]))
        self._break_if_due()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()
        asyncio.get_running_loop().call_soon(self._give, b"")

    def close(self) -> None:
        if self.broken is None:
            self._transport.close()

    def abort(self) -> None:
        if self._held is not None:
            self._aborted = True
        elif self.broken is Kind.BLACK_HOLE:
            # Only the dialer's end goes away; the listener does not notice.
            asyncio.get_running_loop().call_soon(self._lose, None)
        else:
            self._transport.abort()

    # Called by the real transport.

    def connection_made(self, transport: Transport) -> None:
        super().connection_made(transport)
        self._break_if_due()

    def bytes_received(self, data: memoryview) -> int:
        if self._held is not None:
            self._held[Direction.IN].append(bytes(data))
            return len(data)
        count = self._pass(Direction.IN, len(data))
        self._give(bytes(data[:count]))
        self._break_if_due()
        return len(data)

    def pause_writing(self) -> None:
        self._receiver.pause_writing()

    def resume_writing(self) -> None:
        self._receiver.resume_writing()

    def connection_lost(self, cause: Exception | None) -> None:
        if self.broken is None and self._held is None:
            self._lose(cause)
