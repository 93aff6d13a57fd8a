"""The targets: functions that take an input and return, unless there is a bug.

Each one accepts the errors that the code under test documents, and nothing else: any other
exception, including `AssertionError`, is a finding. They are deterministic, including their keys,
and need no fuzzer.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from seigr_toolset_transmissions.cli.addresses import (
    format_address,
    parse_address,
    parse_listen_address,
    parse_node_id,
)
from seigr_toolset_transmissions.cli.failures import Misuse
from seigr_toolset_transmissions.cli.seeds import find_seeds
from seigr_toolset_transmissions.errors import (
    STTAuthenticationError,
    STTIdentityError,
    STTProtocolError,
    STTSeedError,
)
from seigr_toolset_transmissions.protocol.frames import (
    Frame,
    FrameDecoder,
    Pad,
    Part,
    ReplyEnd,
    RequestEnd,
)
from seigr_toolset_transmissions.protocol.hello import (
    HELLO_BYTES,
    OPENING_BYTES,
    REPLY_BYTES,
    VERSION,
    Hello,
    Opening,
    OpeningKind,
    Reply,
)
from seigr_toolset_transmissions.protocol.noise import KEY_BYTES, CipherState, Handshake
from seigr_toolset_transmissions.protocol.records import seal, unseal
from seigr_toolset_transmissions.seeds import MIN_SEED_BYTES, decode_seed

from .reader import Reader
from .session_target import session

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TARGETS", "addresses", "frames", "handshake", "records", "seeds", "session"]

# ------------------------------------------------------------------------ frames


def frames(data: bytes) -> None:
    """Feed the decoder in arbitrary pieces; the result must be the same as all at once.

    The first byte is the length of the pieces; the rest is the stream.
    """
    source = Reader(data)
    size = source.byte() + 1
    stream = source.rest()
    whole, whole_refused = _decoded([stream])
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    pieced, pieced_refused = _decoded(pieces)
    assert whole_refused == pieced_refused, "accepted in pieces but refused whole, or vice versa"
    if not whole_refused:
        assert whole == pieced, "the result depends on the pieces"


def _decoded(pieces: list[bytes]) -> tuple[list[object], bool]:
    """Return the stream's frames, with runs and parts joined, and whether it was refused."""
    decoder = FrameDecoder()
    result: list[object] = []
    try:
        for piece in pieces:
            for frame in decoder.feed(piece):
                result += _plain(frame)
    except STTProtocolError:
        return result, True
    return result, False


def _plain(frame: Frame) -> list[object]:
    match frame:
        case list():
            return list(frame)
        case Part(part):
            return [("part", b"".join(part))]
        case RequestEnd(pieces) | ReplyEnd(pieces):
            return [(type(frame).__name__, b"".join(pieces))]
        case Pad(length):
            return [("pad", length)]
        case _:
            # A control frame must encode to the bytes it was read from.
            [again] = FrameDecoder().feed(frame.encode())
            assert again == frame
            return [frame]


# --------------------------------------------------------------------- handshake

_PSK = bytes(range(KEY_BYTES))
_PAYLOADS = (
    Hello(VERSION, VERSION).encode(),
    Reply(VERSION, 1 << 20, bytes(16)).encode(),
    Opening(OpeningKind.NEW, 1 << 20, bytes(16), bytes(16), 0, 0, 1 << 20).encode(),
)
_SIZES = (HELLO_BYTES, REPLY_BYTES, OPENING_BYTES)
_DECODERS: tuple[Callable[[bytes], object], ...] = (Hello.decode, Reply.decode, Opening.decode)


def _key(number: int) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(bytes([number]) * KEY_BYTES)


def _handshake(ephemeral: X25519PrivateKey, static: X25519PrivateKey, *, dials: bool) -> Handshake:
    return Handshake(initiator=dials, static=static, ephemeral=lambda: ephemeral, psk=_PSK)


_DIALER = _handshake(_key(1), _key(2), dials=True)
_LISTENER = _handshake(_key(3), _key(4), dials=False)


def _before(index: int) -> tuple[Handshake, Handshake]:
    """Return the side that writes message ``index`` next, and the side that reads it."""
    writer, reader = _DIALER.copy(), _LISTENER.copy()
    for payload in _PAYLOADS[:index]:
        assert reader.read_message(writer.write_message(payload)) == payload
        writer, reader = reader, writer
    return writer, reader


def handshake(data: bytes) -> None:
    """Read one of the three messages, in a form that no honest peer would write.

    The first byte selects the message, the second what is wrong with it.
    """
    source = Reader(data)
    index = source.byte() % 3
    ways = (_from_stranger, _tampered, _from_member, _with_claimed_key)
    ways[source.byte() % len(ways)](index, source)


def _from_stranger(index: int, source: Reader) -> None:
    """Read arbitrary bytes."""
    writer, reader = _before(index)
    _refused(reader, source.rest(), writer.write_message(_PAYLOADS[index]), _PAYLOADS[index])


def _tampered(index: int, source: Reader) -> None:
    """Change some bits of an honest message: two bytes select where, the rest is the change."""
    writer, reader = _before(index)
    honest = writer.write_message(_PAYLOADS[index])
    start = (source.byte() << 8 | source.byte()) % len(honest)
    message = bytearray(honest)
    for at, change in enumerate(source.rest()[: len(honest) - start], start):
        message[at] ^= change
    _refused(reader, bytes(message), honest, _PAYLOADS[index])


def _refused(reader: Handshake, message: bytes, honest: bytes, payload: bytes) -> None:
    """Read a forged message: it must be refused and leave the handshake unchanged."""
    if message != honest:
        try:
            reader.read_message(message)
        except (STTAuthenticationError, STTIdentityError):
            pass
        else:
            raise AssertionError("a forged message was accepted")
    assert reader.read_message(honest) == payload


def _from_member(index: int, source: Reader) -> None:
    """Read any payload, correctly encrypted; the message's size determines the payload's."""
    writer, reader = _before(index)
    payload = source.take(_SIZES[index]).ljust(_SIZES[index], b"\0")
    assert reader.read_message(writer.write_message(payload)) == payload
    with suppress(STTProtocolError):
        _DECODERS[index](payload)


class _Claimed:
    """A public key without a private key; it may be of low order."""

    def __init__(self, public: bytes) -> None:
        self._public = public

    def public_key(self) -> _Claimed:
        return self

    def public_bytes_raw(self) -> bytes:
        return self._public


def _with_claimed_key(_index: int, source: Reader) -> None:
    """Answer a first message that has an arbitrary ephemeral key; only low order is refused."""
    key = _Claimed(source.take(KEY_BYTES).ljust(KEY_BYTES, b"\0"))
    writer = Handshake(
        initiator=True,
        static=_key(2),
        ephemeral=lambda: key,  # type: ignore[arg-type, return-value]  # as far as it is used here
        psk=_PSK,
    )
    reader = _LISTENER.copy()
    assert reader.read_message(writer.write_message(_PAYLOADS[0])) == _PAYLOADS[0]
    with suppress(STTAuthenticationError):
        reader.write_message(_PAYLOADS[1])


# ----------------------------------------------------------------------- records

_CIPHER_KEY = bytes(range(KEY_BYTES))
_MOST_BUFFERS = 8


def records(data: bytes) -> None:
    """Read records that nobody sealed; or seal records, tamper with them and read them.

    The first byte selects one of the two.
    """
    source = Reader(data)
    if source.byte() % 2:
        forged = source.rest()
        try:
            opened = unseal(CipherState(_CIPHER_KEY), memoryview(forged), 0)
        except STTAuthenticationError:
            return
        assert opened is None, "a forged record was accepted"
        return
    tampered_at, change = source.byte() << 8 | source.byte(), source.byte()
    buffers: list[bytes | memoryview] = []
    while source and len(buffers) < _MOST_BUFFERS:
        buffers.append(bytes([len(buffers)]) * (source.byte() << 8 | source.byte()))
    plaintext = b"".join(buffers)
    sealed = bytearray(seal(CipherState(_CIPHER_KEY), buffers))
    honest = (plaintext, len(sealed))
    assert _opened(sealed) == honest
    if change:
        sealed[tampered_at % len(sealed)] ^= change
        with suppress(STTAuthenticationError):
            assert _opened(sealed) != honest, "a tampered record was accepted"


def _opened(sealed: bytearray) -> tuple[bytes, int]:
    """Return the plaintext of the complete records, and where they end."""
    cipher = CipherState(_CIPHER_KEY)
    result = b""
    start = 0
    while record := unseal(cipher, memoryview(sealed), start):
        plaintext, start = record
        result += plaintext
    return result, start


# ------------------------------------------------------------ input from a user


def addresses(data: bytes) -> None:
    """Parse an argument as each kind of address and as a node id."""
    text = os.fsdecode(data)
    with _misuse_in_one_line():
        host, port = parse_listen_address(text)
        assert 0 <= port <= 65_535
        if host:
            assert parse_listen_address(format_address((host, port))) == (host, port)
    with _misuse_in_one_line():
        host, port = parse_address(text)
        assert host
        assert 0 < port <= 65_535
        assert parse_address(format_address((host, port))) == (host, port)
    with _misuse_in_one_line():
        assert parse_node_id(text).hex() == text.lower()


def seeds(data: bytes) -> None:
    """Read a seed from the contents of a file and from the value of a variable."""
    with _misuse_in_one_line():
        seed = decode_seed(data, "a file")
        assert MIN_SEED_BYTES <= len(seed) <= len(data)
        assert (
            seed in (data, data.rstrip(b"\r\n"))
            or seed.hex() == data.strip().decode("ascii").lower()
        )
        if b"\0" not in data:
            assert find_seeds(None, None, {"STT_SHARED_SEED": os.fsdecode(data)}).shared == seed
    with _misuse_in_one_line():
        find_seeds(None, None, {"STT_SHARED_SEED": os.fsdecode(data.replace(b"\0", b""))})


class _misuse_in_one_line:  # noqa: N801 - used as a statement, like contextlib.suppress
    """Accept the error that ends the command, if it is one line that any terminal can print."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if not isinstance(error, Misuse | STTSeedError):
            return False
        text = str(error)
        assert text
        assert text.isprintable()
        return True


TARGETS: dict[str, Callable[[bytes], None]] = {
    "frames": frames,
    "handshake": handshake,
    "session": session,
    "records": records,
    "addresses": addresses,
    "seeds": seeds,
}
"""Every target by its name."""
