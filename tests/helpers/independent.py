"""Another implementation of the protocol, from ``docs/wire-format.md`` alone, on noiseprotocol.

It shares no code with the library above the transport, so that a mistake which both sides of the
library make alike shows. It is as simple as the document allows: it acknowledges each frame, and
consumes at once.

`Channel` is the layer below sessions: a handshake, records, frames, and no rules. Who breaks the
rules on purpose stands on it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from functools import cache
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from noise.connection import Keypair, NoiseConnection

if TYPE_CHECKING:
    from collections.abc import Callable

    from seigr_toolset_transmissions.transports.base import Address, Network, Transport

__all__ = [
    "ABORT",
    "ACCEPTED",
    "ACK",
    "CLOSE",
    "CLOSE_ACK",
    "DATA",
    "ENDED",
    "FORBIDDEN",
    "NEW",
    "PAD",
    "PART",
    "PING",
    "PONG",
    "REFUSED",
    "RESUME",
    "UNKNOWN",
    "WELCOME",
    "Channel",
    "Frame",
    "Host",
    "Keys",
    "Opening",
    "Peer",
    "Reply",
    "Rules",
    "Stream",
    "Welcome",
    "accept",
    "derive",
    "dial",
    "first_message",
    "frame",
    "initiate",
    "node_id_of",
    "number",
    "numbers",
    "recipient_of",
    "start_noise",
]

# Frames

DATA, PART, WELCOME, ACK, PING, PONG, CLOSE, CLOSE_ACK, PAD, ABORT = range(10)
ACCEPTED, ENDED, UNKNOWN, REFUSED, FORBIDDEN = range(5)
NEW, RESUME = range(2)

LONGEST_FRAME = 65_536
LONGEST_RECORD = 65_535
TAG = 16
COST = 64
REKEY_AFTER = 65_536

_u16, _u32, _u64, _ack, _welcome = map(Struct, (">H", ">I", ">Q", ">QQ", ">BQQ"))
_hello, _reply = Struct(">BB6s8s"), Struct(">B3xI16s40x")
_opening = Struct(">B3xI16s16sQQQ32x")


class Frame(NamedTuple):
    kind: int
    payload: bytes


def frame(kind: int, payload: bytes = b"") -> bytes:
    return _u32.pack(kind << 28 | len(payload)) + payload


def number(kind: int, value: int) -> bytes:
    """A PING, PONG, CLOSE or CLOSE_ACK."""
    return frame(kind, _u64.pack(value))


def numbers(recv_next: int, credit: int) -> bytes:
    """An ACK."""
    return frame(ACK, _ack.pack(recv_next, credit))


class Opening(NamedTuple):
    """Payload 3."""

    kind: int
    max_message: int
    incarnation: bytes
    session_id: bytes = bytes(16)
    epoch: int = 0
    recv_next: int = 0
    credit: int = 0

    def encode(self) -> bytes:
        return _opening.pack(*self)


class Reply(NamedTuple):
    """Payload 2."""

    version: int
    max_message: int
    incarnation: bytes

    def encode(self) -> bytes:
        return _reply.pack(*self)


class Welcome(NamedTuple):
    """What a listener answers to an opening."""

    status: int
    recv_next: int
    credit: int

    def encode(self) -> bytes:
        return frame(WELCOME, _welcome.pack(*self))

    @classmethod
    def decode(cls, payload: bytes) -> Welcome:
        return cls(*_welcome.unpack(payload))


# Keys


@cache
def derive(seed: bytes, label: str, purpose: str) -> bytes:
    salt = hashlib.sha256(label.encode()).digest()
    root = hashlib.scrypt(seed, salt=salt, n=32768, r=8, p=1, maxmem=2**26, dklen=32)
    return hmac.digest(root, purpose.encode() + b"\x01", "sha256")  # HKDF-Expand, one block


def node_id_of(public_key: bytes) -> bytes:
    return hashlib.sha256(b"seigr-stt/1 node-id" + public_key).digest()


class Keys:
    """Who somebody is. Without a node seed: somebody new, whose keys cost nothing."""

    def __init__(self, shared_seed: bytes, node_seed: bytes | None = None) -> None:
        self.psk = derive(shared_seed, "seigr-stt/1 shared-seed", "seigr-stt/1 psk")
        if node_seed is None:
            self.static = secrets.token_bytes(32)
        else:
            self.static = derive(node_seed, "seigr-stt/1 node-seed", "seigr-stt/1 static-key")
        private = X25519PrivateKey.from_private_bytes(self.static)
        self.public = private.public_key().public_bytes_raw()
        self.node_id = node_id_of(self.public)
        self.incarnation = secrets.token_bytes(16)


# The stream of bytes


class Stream:
    """One connection, as a receiver of the transport that carries it; it can be read like a file.

    Reading past its end raises `EOFError`.
    """

    transport: Transport

    def __init__(self, made: Callable[[Stream], object] = lambda _: None) -> None:
        self._made = made
        self._reader = asyncio.StreamReader()
        self.cause: Exception | None = None
        """With what the connection ended."""
        self.ended = asyncio.Event()

    async def read(self, size: int) -> bytes:
        return await self._reader.readexactly(size)

    async def rest(self) -> bytes:
        """All that still arrives."""
        return await self._reader.read()

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport
        self._made(self)

    def bytes_received(self, data: memoryview) -> int:
        self._reader.feed_data(bytes(data))
        return len(data)

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass

    def connection_lost(self, cause: Exception | None) -> None:
        self.cause = cause
        self._reader.feed_eof()
        self.ended.set()


# The handshake


def start_noise(keys: Keys, *, initiator: bool, ephemeral: bytes | None = None) -> NoiseConnection:
    noise = NoiseConnection.from_name(b"Noise_XXpsk0_25519_AESGCM_SHA256")
    if initiator:
        noise.set_as_initiator()
    else:
        noise.set_as_responder()
    noise.set_prologue(b"seigr-stt/1")
    noise.set_psks(keys.psk)
    noise.set_keypair_from_private_bytes(Keypair.STATIC, keys.static)
    if ephemeral is not None:
        noise.set_keypair_from_private_bytes(Keypair.EPHEMERAL, ephemeral)
    noise.start_handshake()
    return noise


def recipient_of(time: bytes, node_id: bytes) -> bytes:
    return hmac.digest(node_id, b"seigr-stt/1 recipient" + time, "sha256")[:8]


def first_message(
    noise: NoiseConnection,
    versions: tuple[int, int] = (1, 1),
    time: bytes = bytes(6),
    recipient: bytes = bytes(8),
) -> bytes:
    return bytes(noise.write_message(_hello.pack(*versions, time, recipient)))


class Channel:
    """A connection after its handshake: records and frames. It knows no rules of sessions."""

    def __init__(self, stream: Stream, noise: NoiseConnection, peer_static: bytes) -> None:
        self.stream = stream
        self.peer_node_id = node_id_of(peer_static)
        self.session_id = bytes(noise.get_handshake_hash()[:16])
        self.rekey_after = REKEY_AFTER
        self.records_sent = 0
        self.records_received = 0
        self._noise = noise
        self._plaintext = b""

    def seal(self, plaintext: bytes) -> bytes:
        """The next record, whose plaintext this is."""
        ciphertext: bytes = self._noise.encrypt(plaintext)
        self.records_sent += 1
        if self.records_sent % self.rekey_after == 0:
            self._noise.rekey_outbound_cipher()
        return _u16.pack(len(ciphertext)) + ciphertext

    def write(self, *frames: bytes, record_bytes: int = LONGEST_RECORD - TAG) -> None:
        """Send frames, in records of that many bytes of them."""
        data = b"".join(frames)
        self.stream.transport.write(
            b"".join(
                self.seal(data[start : start + record_bytes])
                for start in range(0, len(data) or 1, record_bytes)
            )
        )

    async def read_record(self) -> bytes:
        (length,) = _u16.unpack(await self.stream.read(2))
        assert length >= TAG
        plaintext: bytes = self._noise.decrypt(await self.stream.read(length))
        self.records_received += 1
        if self.records_received % self.rekey_after == 0:
            self._noise.rekey_inbound_cipher()
        return plaintext

    async def read(self) -> Frame:
        (header,) = _u32.unpack(await self._take(4))
        kind, length = header >> 28, header & 0xFFFFFFF
        assert kind <= PAD
        assert length <= LONGEST_FRAME
        return Frame(kind, await self._take(length))

    async def welcome(self) -> Welcome:
        """The listener's answer, which comes first."""
        kind, payload = await self.read()
        assert kind == WELCOME
        return Welcome.decode(payload)

    async def _take(self, size: int) -> bytes:
        while len(self._plaintext) < size:
            self._plaintext += await self.read_record()
        taken, self._plaintext = self._plaintext[:size], self._plaintext[size:]
        return taken


async def initiate(stream: Stream, keys: Keys) -> tuple[NoiseConnection, Reply, bytes]:
    """Shake hands up to message 3; return the peer's static key, too."""
    noise = start_noise(keys, initiator=True)
    state = noise.noise_protocol.handshake_state
    stream.transport.write(first_message(noise))
    reply = Reply(*_reply.unpack(noise.read_message(await stream.read(160))))
    assert reply.version == 1
    assert state.rs.public_bytes != keys.public
    return noise, reply, state.rs.public_bytes


async def dial(
    network: Network, address: Address, keys: Keys, opening: Opening
) -> tuple[Channel, Reply]:
    """Connect and shake hands. The answer, WELCOME, has yet to be read."""
    stream = Stream()
    await network.dial(stream, *address)
    noise, reply, static = await initiate(stream, keys)
    stream.transport.write(bytes(noise.write_message(opening.encode())))
    return Channel(stream, noise, static), reply


async def accept(stream: Stream, keys: Keys, reply: Reply) -> tuple[Channel, Opening]:
    """Shake hands with who has connected; raise whatever it is if the peer does it wrongly."""
    noise = start_noise(keys, initiator=False)
    state = noise.noise_protocol.handshake_state
    payload = noise.read_message(await stream.read(64))
    lowest, highest, time, recipient = _hello.unpack(payload)
    assert lowest <= 1 <= highest
    assert recipient in (bytes(8), recipient_of(time, keys.node_id))
    stream.transport.write(bytes(noise.write_message(reply.encode())))
    opening = Opening(*_opening.unpack(noise.read_message(await stream.read(160))))
    assert opening.kind in (NEW, RESUME)
    assert state.rs.public_bytes != keys.public
    return Channel(stream, noise, state.rs.public_bytes), opening


# The session


class Rules(NamedTuple):
    """How somebody uses the liberties that the document gives."""

    max_message: int = 4 << 20
    window: int = 8 << 20
    part_bytes: int = LONGEST_FRAME
    record_bytes: int = LONGEST_RECORD - TAG
    rekey_after: int = REKEY_AFTER


class Peer:
    """One side of a session.

    While it has a connection, a task reads it. `leave` ends that, and raises what went wrong in it.
    """

    def __init__(self, keys: Keys, rules: Rules | None = None) -> None:
        self.keys = keys
        self.rules = rules or Rules()
        self.channel: Channel | None = None
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.pongs: list[int] = []
        self.welcomes: list[Welcome] = []
        self.closed = False
        """Whether the session has ended as both sides agreed."""
        self.session_id = bytes(16)
        self.epoch = 0
        self.peer_node_id = b""
        self.peer_incarnation = b""
        self.peer_max_message = 0
        # Sending
        self.frames: list[Frame] = []  # sequenced, all since the session began
        self.costs = [0]  # of the frames before each position
        self.acked = 0
        self.sent = 0  # on the present connection (before WELCOME: on the last), or acknowledged
        self.credit = 0
        # Receiving
        self.recv_next = 0
        self.recv_cost = 0
        self._parts: list[bytes] = []
        # On the present connection
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
        """Go on over a new connection."""
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
        """Begin, or go on, over a connection whose dialer has sent this opening."""
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
        self._reading = asyncio.create_task(self._read_all(channel))

    def _go_up(self) -> None:
        self._up = True
        self.sent = self.acked  # all the rest is sent again
        self._pump()

    async def leave(self) -> None:
        """Read nothing more of the present connection, and end it."""
        if self.channel is not None and self._reading is not None:
            self.channel.stream.transport.abort()
            await _end(self._reading)
            self.channel = None

    def send(self, message: bytes) -> None:
        assert len(message) <= self.peer_max_message
        size = self.rules.part_bytes
        while len(message) > size:
            self._append(PART, message[:size])
            message = message[size:]
        self._append(DATA, message)
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
        if kind in (DATA, PART):
            self._take_data(received)
        elif kind == ACK:
            self._acknowledge(*_ack.unpack(payload))
            if self._close_ack_sent and self.acked == self.sent:
                self.closed = True
            self._pump()
        elif kind == PING:
            self._write_ack()
            self._write(frame(PONG, payload))
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
        if kind == DATA:
            self.messages.put_nowait(b"".join(self._parts))
            self._parts.clear()
        else:
            assert payload
        self._write_ack()


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel a task; raise what it has raised."""
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled():
        task.result()


class Host:
    """Listens, and has one `Peer` for each session that is opened.

    Leaving it ends everything, and raises what went wrong.
    """

    def __init__(self, network: Network, keys: Keys, rules: Rules | None = None) -> None:
        self._network = network
        self._keys = keys
        self._rules = rules
        self._answering: set[asyncio.Task[None]] = set()
        self.peers: dict[bytes, Peer] = {}
        self.refusal: int | None = None
        """With which status to refuse openings; None: they are accepted."""

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
