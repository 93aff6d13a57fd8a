"""Where the time of a message goes: the stages of its path, each timed by itself, in one process.

Two nodes are connected. From then on the benchmark keeps what they would write to their sockets and
hands it to the other node itself. These figures therefore include nothing of the system or the
event loop, which account for the difference to a measured throughput or round trip.

A lone message pays for a record, an encryption and a check of everything that may be due. In a
stream, many messages share that.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, cast

from benchmarks import roles
from benchmarks.peers import OWN
from benchmarks.processes import Child
from seigr_toolset_transmissions import STTNode
from seigr_toolset_transmissions.protocol.frames import FrameDecoder, encode_data
from seigr_toolset_transmissions.protocol.noise import KEY_BYTES, CipherState
from seigr_toolset_transmissions.protocol.records import seal, unseal
from seigr_toolset_transmissions.transports.memory import MemoryNetwork

from .base import Case, Key, Metric, Sample, Setting

if TYPE_CHECKING:
    from benchmarks.processes import Link
    from seigr_toolset_transmissions import Session
    from seigr_toolset_transmissions.sessions.session import LiveSession

__all__ = ["AT_ONCE", "Layers", "layers"]

AT_ONCE = (1, 512)
_BYTES = 64
_MESSAGES = 100_000
_QUICK_MESSAGES = 20_000
_LIMIT = 120.0

_AWAIT = "awaiting a coroutine that does nothing"
_SEND = "send_to_endpoint, up to the socket"
_ENCODE = "of that: frames, records, encryption"
_TAKE = "from the socket to the inbox"
_DECODE = "of that: decryption, records, frames"
_RECEIVE = "receive_any, with a message at hand"
_ACKNOWLEDGE = "an acknowledgement, on both sides"
_PARTS = (_AWAIT, _SEND, _ENCODE, _TAKE, _DECODE, _RECEIVE, _ACKNOWLEDGE)


def layers(at_once: int) -> Metric:
    """Return the metric of one message's share when this many are sent at once."""
    return Metric("the path of a message of 64 B", at_once, "us", 2, of="at once")


class Layers:
    """The stages of a message's path."""

    name = "layers"

    def cases(self, setting: Setting) -> list[Case]:
        """Return one case for each number of messages at once."""
        count = _QUICK_MESSAGES if setting.quick else _MESSAGES
        return [
            Case(OWN, str(layers(at_once)), partial(_measure, at_once, count))
            for at_once in AT_ONCE
        ]


def _measure(at_once: int, count: int) -> list[Sample]:
    with Child(walk, at_once, count, limit=_LIMIT) as child:
        seconds: dict[str, float] = child.link.hear("seconds")
    return [
        Sample(Key(layers(at_once), "asyncio", part), spent / at_once * 1e6)
        for part, spent in seconds.items()
    ]


class _Door:
    """Stands in for the transport of a connection and keeps what is written."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self._transport = connection._transport  # noqa: SLF001
        self._written: list[bytes | bytearray] = []
        connection._transport = self  # noqa: SLF001

    def write(self, data: bytes | bytearray) -> None:
        self._written.append(data)

    def written(self) -> memoryview:
        """Return what was written since the last call."""
        data = memoryview(b"".join(self._written))
        self._written.clear()
        return data

    def unhinge(self) -> None:
        """Give the connection its transport back."""
        self.connection._transport = self._transport  # noqa: SLF001


def _live(session: Session) -> LiveSession:
    """Return the session as its node has it."""
    return cast("LiveSession", session)


def _door_of(session: Session) -> _Door:
    return _Door(_live(session)._connection)  # noqa: SLF001


class _Clock:
    """Notes the time of each stage of each lap."""

    def __init__(self) -> None:
        self.laps: dict[str, list[float]] = {}
        self._last = time.perf_counter()

    def start(self) -> None:
        self._last = time.perf_counter()

    def note(self, part: str) -> None:
        now = time.perf_counter()
        self.laps.setdefault(part, []).append(now - self._last)
        self._last = time.perf_counter()


def walk(link: Link, at_once: int, count: int) -> None:
    """Time each stage for ``count`` messages in all; report the medians, in seconds."""
    messages = [secrets.token_bytes(_BYTES) for _ in range(at_once)]
    laps = count // at_once
    clock = _Clock()
    roles.run(_pass(clock, messages, laps), "asyncio")
    _encode_and_decode(clock, messages, laps)
    link.tell("seconds", {part: median(clock.laps[part]) for part in _PARTS})


async def _pass(clock: _Clock, messages: list[bytes], laps: int) -> None:
    network, shared_seed = MemoryNetwork(), secrets.token_bytes(32)
    near, far = (STTNode(secrets.token_bytes(32), shared_seed, network=network) for _ in range(2))
    address = await far.start(server_mode=True)
    assert address is not None
    async with near, far:
        session = await near.connect(*address)
        while not far.sessions:  # noqa: ASYNC110 - it takes some turns of the loop
            await asyncio.sleep(0)
        here, there = _door_of(session), _door_of(far.sessions[0])
        send = partial(near.endpoints.send_to_endpoint, far.node_id)
        receive = far.endpoints.receive_any
        for _ in range(laps):
            clock.start()
            for data in messages:
                await _nothing(data)
            clock.note(_AWAIT)
            for data in messages:
                await send(data)
            if _live(session).machine.outbox.pending:
                here.connection.flush()
            clock.note(_SEND)
            with here.written() as records:
                clock.start()
                there.connection.bytes_received(records)
                clock.note(_TAKE)
            received = [(await receive())[0] for _ in messages]
            clock.note(_RECEIVE)
            if received != messages:
                raise ValueError("what was received is not what was sent")
            clock.start()
            there.connection.flush()
            with there.written() as records:
                here.connection.bytes_received(records)
            clock.note(_ACKNOWLEDGE)
            if _live(session).machine.outbox.unacked_cost:
                raise ValueError("what was received is not acknowledged")
            await asyncio.sleep(0)
        here.unhinge()
        there.unhinge()


async def _nothing(_data: bytes) -> None:
    pass


def _encode_and_decode(clock: _Clock, messages: list[bytes], laps: int) -> None:
    key = secrets.token_bytes(KEY_BYTES)
    sealing, unsealing, decoder = CipherState(key), CipherState(key), FrameDecoder()
    for _ in range(laps):
        clock.start()
        records = seal(sealing, encode_data(messages))
        clock.note(_ENCODE)
        with memoryview(records) as view:
            clock.start()
            record = unseal(unsealing, view, 0)
            frames = [] if record is None else decoder.feed(record[0])
            clock.note(_DECODE)
        if frames != [messages]:
            raise ValueError("what was decrypted is not what was encrypted")
