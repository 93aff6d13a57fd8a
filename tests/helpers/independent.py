"""Another implementation of the protocol below sessions, from ``docs/wire-format.md`` alone.

It shares no code with the library above the transport, so that it reveals mistakes that both sides
of the library make alike. Its handshake is that of noiseprotocol.

`Channel` is a handshake, records and frames, and has no rules. Tests that break the rules on
purpose build on it; so does `independent_peer`, which keeps the rules.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from functools import cache
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from noise.connection import Keypair, NoiseConnection

if TYPE_CHECKING:
    from collections.abc import Callable

    from seigr_toolset_transmissions.transports.base import Address, Network, Transport

__all__ = [
    "ABORT",
    "ACCEPTED",
    "ACK",
    "CANCEL",
    "CANCELLED",
    "CLOSE",
    "CLOSE_ACK",
    "DATA",
    "ENDED",
    "FAILED",
    "FORBIDDEN",
    "NEW",
    "OK",
    "PAD",
    "PART",
    "PING",
    "PONG",
    "REFUSED",
    "REPLY",
    "REQUEST",
    "RESUME",
    "UNKNOWN",
    "UNSERVED",
    "WELCOME",
    "Channel",
    "Frame",
    "Keys",
    "Opening",
    "Reply",
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
REQUEST, REPLY, CANCEL = range(10, 13)
OK, FAILED, UNSERVED, CANCELLED = range(4)  # of a reply; UNSERVED is the document's REFUSED
ACCEPTED, ENDED, UNKNOWN, REFUSED, FORBIDDEN = range(5)
NEW, RESUME = range(2)

LONGEST_FRAME = 65_536
LONGEST_RECORD = 65_535
TAG = 16
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
    """A PING, PONG, CLOSE, CLOSE_ACK or CANCEL."""
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
    """A listener's answer to an opening."""

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
    """The keys of one node. Without a node seed: a new node, with keys that cost nothing."""

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
    """One connection, as the receiver of its transport; it can be read like a file.

    Reading past its end raises `EOFError`.
    """

    transport: Transport

    def __init__(self, made: Callable[[Stream], object] = lambda _: None) -> None:
        self._made = made
        self._reader = asyncio.StreamReader()
        self.cause: Exception | None = None
        """The error with which the connection ended."""
        self.ended = asyncio.Event()

    async def read(self, size: int) -> bytes:
        return await self._reader.readexactly(size)

    async def rest(self) -> bytes:
        """Return everything that still arrives."""
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
    """A connection after its handshake: records and frames, without the rules of sessions."""

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
        """Return the next record, with this plaintext."""
        ciphertext: bytes = self._noise.encrypt(plaintext)
        self.records_sent += 1
        if self.records_sent % self.rekey_after == 0:
            self._noise.rekey_outbound_cipher()
        return _u16.pack(len(ciphertext)) + ciphertext

    def write(self, *frames: bytes, record_bytes: int = LONGEST_RECORD - TAG) -> None:
        """Send frames, in records that hold this many of their bytes."""
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
        assert kind <= CANCEL
        assert length <= LONGEST_FRAME
        return Frame(kind, await self._take(length))

    async def welcome(self) -> Welcome:
        """Return the listener's answer, which comes first."""
        kind, payload = await self.read()
        assert kind == WELCOME
        return Welcome.decode(payload)

    async def _take(self, size: int) -> bytes:
        while len(self._plaintext) < size:
            self._plaintext += await self.read_record()
        taken, self._plaintext = self._plaintext[:size], self._plaintext[size:]
        return taken


async def initiate(stream: Stream, keys: Keys) -> tuple[NoiseConnection, Reply, bytes]:
    """Shake hands up to message 3; also return the peer's static key."""
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
    """Connect and shake hands. The answer, WELCOME, is still to be read."""
    stream = Stream()
    await network.dial(stream, *address)
    noise, reply, static = await initiate(stream, keys)
    stream.transport.write(bytes(noise.write_message(opening.encode())))
    return Channel(stream, noise, static), reply


async def accept(stream: Stream, keys: Keys, reply: Reply) -> tuple[Channel, Opening]:
    """Shake hands with a dialer; raise whatever error its mistakes lead to."""
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
