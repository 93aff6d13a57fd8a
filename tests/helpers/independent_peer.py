"""Another implementation of sessions, from ``docs/wire-format.md`` alone, on `independent`.

It is as simple as the document allows: it acknowledges each frame, and consumes at once.
"""

from __future__ import annotations

import asyncio
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple, Self

from cryptography.exceptions import InvalidTag

from helpers.independent import (
    ACCEPTED,
    ACK,
    CANCEL,
    CANCELLED,
    CLOSE,
    CLOSE_ACK,
    DATA,
    LONGEST_FRAME,
    LONGEST_RECORD,
    NEW,
    OK,
    PAD,
    PART,
    PING,
    PONG,
    REKEY_AFTER,
    REPLY,
    REQUEST,
    RESUME,
    TAG,
    WELCOME,
    Channel,
    Frame,
    Keys,
    Opening,
    Reply,
    Stream,
    Welcome,
    accept,
    dial,
    frame,
    number,
    numbers,
)

if TYPE_CHECKING:
    from seigr_toolset_transmissions.transports.base import Address, Network

__all__ = ["Host", "Peer", "Rules"]

COST = 64
MOST_OPEN = 1024

_u64, _ack, _reply_head = map(Struct, (">Q", ">QQ", ">QB"))


class Rules(NamedTuple):
    """How to use the liberties that the document allows."""

    max_message: int = 4 << 20
    window: int = 8 << 20
    part_bytes: int = LONGEST_FRAME
    record_bytes: int = LONGEST_RECORD - TAG
    rekey_after: int = REKEY_AFTER


class Peer:
    """One side of a session.

    While it has a connection, a task reads it. `leave` ends that task, and raises what went wrong.
    """

    def __init__(self, keys: Keys, rules: Rules | None = None) -> None:
        self.keys = keys
        self.rules = rules or Rules()
        self.channel: Channel | None = None
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.pongs: list[int] = []
        self.requests: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
        self.replies: dict[int, tuple[int, bytes]] = {}
        """By the ids of this side's requests: the status and the data."""
        self.cancelled: list[int] = []
        """The peer's requests for which it no longer waits, as often as it said so."""
        self.welcomes: list[Welcome] = []
        self.closed = False
        """Whether the session has ended by agreement of both sides."""
        self.session_id = bytes(16)
        self.epoch = 0
        self.peer_node_id = b""
        self.peer_incarnation = b""
        self.peer_max_message = 0
        # Sending
        self.frames: list[Frame] = []  # all sequenced frames since the session began
        self.costs = [0]  # of the frames before each position
        self.acked = 0
        self.sent = 0  # on this connection (before WELCOME: the last one), or acknowledged
        self.credit = 0
        # Receiving
        self.recv_next = 0
        self.recv_cost = 0
        self._parts: list[bytes] = []
        # Requests
        self.asked: list[int] = []  # by id: the position behind each request of this side
        self.received = 0  # requests of the peer
        self.unanswered: set[int] = set()
        self._gave_up: set[int] = set()
        # On this connection
        self._told: set[int] = set()  # requests whose CANCEL went out
        self._up = False
        self._close_wanted = False
        self._close_sent = False
        self._close_ack_sent = False
        self._reading: asyncio.Task[None] | None = None

    # The dialer

    async def connect(self, network: Network, address: Address) -> None:
        """Open a new session."""
        opening = Opening(
            NEW, self.rules.max_message, self.keys.incarnation, credit=self.rules.window
        )
        channel, reply = await dial(network, address, self.keys, opening)
        self.session_id = channel.session_id
        self.peer_node_id, self.peer_incarnation = channel.peer_node_id, reply.incarnation
        self.peer_max_message = reply.max_message
        self._attach(channel)

    async def resume(self, network: Network, address: Address) -> None:
        """Continue over a new connection."""
        await self.leave()
        self.epoch += 1
        opening = Opening(
            RESUME,
            self.rules.max_message,
            self.keys.incarnation,
            self.session_id,
            self.epoch,
            self.recv_next,
            self._own_credit,
        )
        channel, reply = await dial(network, address, self.keys, opening)
        assert channel.peer_node_id == self.peer_node_id
        assert reply.incarnation == self.peer_incarnation
        self._attach(channel)

    # The listener

    async def opened(self, channel: Channel, opening: Opening) -> None:
        """Begin, or continue, over a connection whose dialer sent this opening."""
        if opening.kind == NEW:
            self.session_id = channel.session_id
            self.peer_node_id, self.peer_incarnation = channel.peer_node_id, opening.incarnation
            self.peer_max_message = opening.max_message
        else:
            await self.leave()  # the fence
            assert opening.session_id == self.session_id
            assert channel.peer_node_id == self.peer_node_id
            assert opening.incarnation == self.peer_incarnation
            assert opening.epoch > self.epoch
            self.epoch = opening.epoch
        self._acknowledge(opening.recv_next if opening.kind == RESUME else 0, opening.credit)
        welcome = Welcome(ACCEPTED, self.recv_next, self._own_credit)
        channel.write(welcome.encode(), record_bytes=self.rules.record_bytes)
        self._attach(channel)
        self._go_up()

    # Both

    def _attach(self, channel: Channel) -> None:
        channel.rekey_after = self.rules.rekey_after
        self.channel = channel
        self._up = self._close_sent = self._close_ack_sent = False
        self._told.clear()
        self._reading = asyncio.create_task(self._read_all(channel))

    def _go_up(self) -> None:
        self._up = True
        self.sent = self.acked  # the rest is sent again
        self._pump()

    async def leave(self) -> None:
        """Read nothing more from this connection, and end it."""
        if self.channel is not None and self._reading is not None:
            self.channel.stream.transport.abort()
            await _end(self._reading)
            self.channel = None

    def send(self, message: bytes, kind: int = DATA) -> None:
        assert len(message) <= self.peer_max_message
        size = self.rules.part_bytes
        while len(message) > size:
            self._append(PART, message[:size])
            message = message[size:]
        self._append(kind, message)
        self._pump()

    def request(self, data: bytes) -> int:
        """Ask; return the id under which the reply will be."""
        request_id = len(self.asked)
        assert len(self.asked) - len(self.replies) < MOST_OPEN
        self.send(_u64.pack(request_id) + data, REQUEST)
        self.asked.append(len(self.frames))
        return request_id

    def reply(self, request_id: int, status: int = OK, data: bytes = b"") -> None:
        self.unanswered.remove(request_id)
        self.send(_reply_head.pack(request_id, status) + data, REPLY)

    def cancel(self, request_id: int) -> None:
        self._gave_up.add(request_id)
        self._pump()

    def _append(self, kind: int, payload: bytes) -> None:
        self.frames.append(Frame(kind, payload))
        self.costs.append(self.costs[-1] + len(payload) + COST)

    def ping(self, token: int) -> None:
        self._write(number(PING, token))

    def close(self) -> None:
        self._close_wanted = True
        self._pump()

    @property
    def _own_credit(self) -> int:
        return self.recv_cost + self.rules.window

    def _write(self, *frames: bytes) -> None:
        assert self.channel is not None
        self.channel.write(*frames, record_bytes=self.rules.record_bytes)

    def _write_ack(self) -> None:
        if not self._close_sent or self.closed:
            self._write(numbers(self.recv_next, self._own_credit))

    def _pump(self) -> None:
        """Send what may be sent."""
        if not self._up:
            return
        for request_id in self._gave_up - self.replies.keys() - self._told:
            if self.asked[request_id] <= self.acked:
                self._told.add(request_id)
                self._write(number(CANCEL, request_id))
        while not self._close_ack_sent and self.sent < len(self.frames):
            if self.costs[self.sent + 1] > self.credit:
                return
            self._write(frame(*self.frames[self.sent]))
            self.sent += 1
        if self._close_wanted and not self._close_sent:
            self._close_sent = True
            self._write(number(CLOSE, len(self.frames)))

    def _acknowledge(self, recv_next: int, credit: int) -> None:
        assert self.acked <= recv_next <= self.sent
        assert credit >= self.credit
        self.acked, self.credit = recv_next, credit

    async def _read_all(self, channel: Channel) -> None:
        try:
            while not self.closed:
                self._take(await channel.read())
        except EOFError:
            pass
        if self.closed:
            channel.stream.transport.close()
            await channel.stream.ended.wait()

    def _take(self, received: Frame) -> None:
        kind, payload = received
        if kind == WELCOME:
            assert not self._up
            self.welcomes.append(welcome := Welcome.decode(payload))
            if welcome.status == ACCEPTED:
                self._acknowledge(welcome.recv_next, welcome.credit)
                self._write_ack()
                self._go_up()
            return
        assert self._up or kind == PAD
        if kind in (DATA, PART, REQUEST, REPLY):
            self._take_data(received)
        elif kind == ACK:
            self._acknowledge(*_ack.unpack(payload))
            if self._close_ack_sent and self.acked == self.sent:
                self.closed = True
            self._pump()
        elif kind == PING:
            self._write_ack()
            self._write(frame(PONG, payload))
        elif kind == CANCEL:
            (request_id,) = _u64.unpack(payload)
            assert request_id < self.received
            if request_id in self.unanswered:
                self.cancelled.append(request_id)
        elif kind == PONG:
            self.pongs.append(*_u64.unpack(payload))
        elif kind in (CLOSE, CLOSE_ACK):
            (final,) = _u64.unpack(payload)
            assert final == self.recv_next
            self._pump()
            if kind == CLOSE:
                assert not self._parts
                self._close_ack_sent = True
                self._write(number(CLOSE_ACK, self.sent))
            else:
                assert self._close_sent
                self.acked = len(self.frames)
                self.closed = True
                self._write_ack()

    def _take_data(self, received: Frame) -> None:
        kind, payload = received
        self.recv_next += 1
        self.recv_cost += len(payload) + COST
        assert self.recv_cost <= self._own_credit
        self._parts.append(payload)
        assert sum(map(len, self._parts)) <= self.rules.max_message
        if kind == PART:
            assert payload
        else:
            message = b"".join(self._parts)
            self._parts.clear()
            self._take_message(kind, message)
        self._write_ack()

    def _take_message(self, kind: int, message: bytes) -> None:
        if kind == DATA:
            self.messages.put_nowait(message)
        elif kind == REQUEST:
            (request_id,) = _u64.unpack_from(message)
            assert request_id == self.received
            assert len(self.unanswered) < MOST_OPEN
            self.received += 1
            self.unanswered.add(request_id)
            self.requests.put_nowait((request_id, message[8:]))
        else:
            request_id, status = _reply_head.unpack_from(message)
            assert request_id < len(self.asked)
            assert request_id not in self.replies
            assert status <= CANCELLED
            self.replies[request_id] = (status, message[9:])


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel a task; raise what it raised."""
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled():
        task.result()


class Host:
    """Listens, and keeps one `Peer` for each session that is opened.

    Leaving the block ends everything, and raises what went wrong.
    """

    def __init__(self, network: Network, keys: Keys, rules: Rules | None = None) -> None:
        self._network = network
        self._keys = keys
        self._rules = rules
        self._answering: set[asyncio.Task[None]] = set()
        self.peers: dict[bytes, Peer] = {}
        self.refusal: int | None = None
        """The status with which to refuse openings; None: accept them."""

    @property
    def address(self) -> Address:
        return self._listener.address

    async def __aenter__(self) -> Self:
        self._listener = await self._network.listen(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._listener.close()
        for peer in self.peers.values():
            await peer.leave()
        for task in self._answering:
            await _end(task)

    def _accept(self) -> Stream:
        return Stream(lambda stream: self._answering.add(asyncio.create_task(self._answer(stream))))

    async def _answer(self, stream: Stream) -> None:
        reply = Reply(1, (self._rules or Rules()).max_message, self._keys.incarnation)
        try:
            channel, opening = await accept(stream, self._keys, reply)
        except (EOFError, InvalidTag):
            stream.transport.abort()  # not of this group, or it does not want us
            return
        if self.refusal is not None:
            channel.write(Welcome(self.refusal, 0, 0).encode())
            stream.transport.close()
        elif opening.kind == NEW:
            peer = Peer(self._keys, self._rules)
            await peer.opened(channel, opening)
            self.peers[peer.session_id] = peer
        else:
            await self.peers[opening.session_id].opened(channel, opening)
