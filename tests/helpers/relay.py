"""A TCP relay between a dialer and a listener: it delays, slices, corrupts, repeats and cuts.

It sees, and can change, what is really on the wire. For faults in memory and virtual time, use
`fault_network`, which shares its vocabulary::

    async with Relay(listener.address) as relay:
        relay.plan(Plan(Fault(Direction.OUT, 1000, Kind.RST)))  # for the next connection
        session = await dialer.connect(*relay.address)
        relay.links[-1].cut(Kind.FIN)                           # or now
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, cast

from helpers.fault_network import Direction, Fault, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from seigr_toolset_transmissions.transports.base import Address

__all__ = ["Direction", "Fault", "Kind", "Link", "Plan", "Relay"]

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Plan:
    """What happens to one connection."""

    fault: Fault | None = None
    """Where it breaks by itself."""
    flip: Mapping[tuple[Direction, int], int] = field(default_factory=dict)
    """Bits to flip: for the byte at an offset in a direction, a mask."""
    delay: float = 0.0
    """Seconds that each byte is under way."""
    slice: int = 0
    """Bytes to forward in one turn of the loop; 0: forward them as they come."""


class Relay:
    """Listens on a free port of the loopback; each connection to it gets one to the target."""

    def __init__(self, target: Address) -> None:
        self.target = target
        """Where new connections go; may be changed."""
        self.down = False
        """While true, new connections are reset at once."""
        self.links: list[Link] = []
        """All connections so far, oldest first."""
        self._plans: deque[Plan] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    def plan(self, *plans: Plan) -> None:
        """Set what happens to the next connections, one after the other."""
        self._plans.extend(plans)

    @property
    def address(self) -> Address:
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    @property
    def recorded(self) -> bytes:
        """Return everything that was on the wire, as it was sent."""
        return b"".join(bytes(half) for link in self.links for half in link.recorded.values())

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Accepted(self), "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.down = True
        self._server.close()
        for link in self.links:
            link.cut(Kind.RST)
        for task in self._tasks:
            task.cancel()
        for link in self.links:
            await link.ended.wait()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def own(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def accepted(self, side: _Side) -> None:
        if self.down:
            side.reset()
            return
        link = Link(self, self._plans.popleft() if self._plans else Plan())
        self.links.append(link)
        link.sides[Direction.OUT] = side
        side.link, side.direction = link, Direction.OUT
        self.own(asyncio.ensure_future(self._dial(link, side)))

    async def _dial(self, link: Link, accepted: _Side) -> None:
        side = _Side(self)
        side.link, side.direction = link, Direction.IN
        try:
            await asyncio.get_running_loop().create_connection(lambda: side, *self.target)
        except OSError:
            accepted.reset()
            return
        link.sides[Direction.IN] = side
        if accepted.lost:
            side.reset()
        link.connected()


class Link:
    """One relayed connection."""

    def __init__(self, relay: Relay, plan: Plan) -> None:
        self.plan = plan
        self.sides: dict[Direction, _Side] = {}
        """By the direction of the bytes that arrive there: OUT is the dialer's side."""
        self.recorded = {Direction.OUT: bytearray(), Direction.IN: bytearray()}
        """What was sent in each direction, whether or not it was passed on."""
        self.passed = {Direction.OUT: 0, Direction.IN: 0}
        self.holes: set[Direction] = set()
        """Directions in which everything vanishes."""
        self.broken: Kind | None = None
        self.ended = asyncio.Event()
        """Set when neither side has a connection any more."""
        self._queues: dict[Direction, deque[tuple[float, bytes]]] = {
            Direction.OUT: deque(),
            Direction.IN: deque(),
        }
        self._forwarders: dict[Direction, asyncio.Task[None]] = {}
        self._early: list[bytes] = []
        self._relay = relay

    def cut(self, kind: Kind) -> None:
        """Break now."""
        if self.broken is None or self.broken is Kind.BLACK_HOLE:
            self.broken = kind
        if kind is Kind.BLACK_HOLE:
            self.swallow(Direction.OUT)
            self.swallow(Direction.IN)
            return
        for side in self.sides.values():
            if kind is Kind.FIN:
                side.end()
            else:
                side.reset()

    def swallow(self, direction: Direction) -> None:
        """From now on, let nothing pass in this direction, not even the end of the stream."""
        self.holes.add(direction)

    def hold(self, direction: Direction, *, on: bool = True) -> None:
        """Read nothing, so that the sender's pipe fills up; ``on=False``: continue."""
        self.sides[direction].hold(on=on)

    def insert(self, direction: Direction, data: bytes) -> None:
        """Pass on bytes that neither side sends now: old ones from `recorded`, say."""
        self._other(direction).write(data)

    def connected(self) -> None:
        """Pass on the bytes that came before there was anywhere to pass them."""
        early, self._early = b"".join(self._early), []
        if early:
            self.arrived(Direction.OUT, early)
        self.break_if_due()

    def arrived(self, direction: Direction, data: bytes) -> None:
        if Direction.IN not in self.sides:
            self._early.append(data)
            return
        recorded = self.recorded[direction]
        start = len(recorded)
        recorded += data
        if direction in self.holes or self.broken is not None:
            return
        changed = bytearray(data)
        for (flipped, offset), mask in self.plan.flip.items():
            if flipped is direction and start <= offset < start + len(data):
                changed[offset - start] ^= mask
        plan, fault = self.plan, self.plan.fault
        if fault is not None and fault.direction is direction:
            del changed[max(fault.offset - self.passed[direction], 0) :]
        self.passed[direction] += len(changed)
        if not plan.delay and not plan.slice:
            self._other(direction).write(bytes(changed))
            self.break_if_due()
            return
        due = asyncio.get_running_loop().time() + plan.delay
        self._queues[direction].append((due, bytes(changed)))
        if direction not in self._forwarders:
            task = asyncio.ensure_future(self._forward(direction))
            self._forwarders[direction] = task
            self._relay.own(task)

    async def _forward(self, direction: Direction) -> None:
        queue = self._queues[direction]
        while queue:
            due, data = queue.popleft()
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            step = self.plan.slice or len(data)
            for start in range(0, len(data), step):
                self._other(direction).write(data[start : start + step])
                await asyncio.sleep(0)
        del self._forwarders[direction]
        self.break_if_due()

    def break_if_due(self) -> None:
        fault = self.plan.fault
        if fault and self.broken is None and self.passed[fault.direction] >= fault.offset:
            self.cut(fault.kind)

    def side_lost(self, direction: Direction, cause: Exception | None) -> None:
        if all(side.lost for side in self.sides.values()):
            self.ended.set()
        elif direction not in self.holes:
            other = self._other(direction)
            if cause is None:
                other.end()
            else:
                other.reset()

    def _other(self, direction: Direction) -> _Side:
        return self.sides[Direction.IN if direction is Direction.OUT else Direction.OUT]


class _Side(asyncio.Protocol):
    """One of the two connections of a link."""

    link: Link
    direction: Direction

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.lost = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.link.arrived(self.direction, data)

    def eof_received(self) -> bool:
        return self.direction in self.link.holes  # as if it had never come

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if hasattr(self, "link"):
            self.link.side_lost(self.direction, exc)

    def write(self, data: bytes) -> None:
        if data and not self.lost:
            self._transport.write(data)

    def hold(self, *, on: bool) -> None:
        if self.lost or self._transport.is_closing():
            return
        if on:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def end(self) -> None:
        self._transport.close()

    def reset(self) -> None:
        if not self._transport.is_closing():
            sock: Any = self._transport.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()


class _Accepted(_Side):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.relay.accepted(self)
