"""The secure channel: a Noise handshake and the two cipher states that it yields.

Implements revision 34 of the Noise Protocol Framework for the patterns XXpsk0 (the one in use) and
XX, with Curve25519, AES-256-GCM and SHA-256, and nothing more. "Section N" means a section of that
specification.

Each phase has its own type. A `Handshake` turns three messages, written and read in turn, into one
`Channel`; only a finished handshake yields one, and only once::

    initiator                            responder
    m1 = i.write_message(p1)    ->       p1 = r.read_message(m1)     no Diffie-Hellman so far
    p2 = i.read_message(m2)     <-       m2 = r.write_message(p2)
    m3 = i.write_message(p3)    ->       p3 = r.read_message(m3)
    channel = i.finish()                 channel = r.finish()

**A message that fails leaves the handshake as it was**: reading or writing works on a copy that
replaces the old state only on success. A caller may therefore drop a bad message and go on; on a
byte stream there is no next message to try, so the connection is closed.

Strangers are meant to cost little. Everything that does not depend on the peer is done when a
handshake is made, and `Handshake.copy` shares it. The responder makes no key before the first
message has proven that its writer knows the pre-shared key.

There is no I/O here, no clock and no randomness: keys come in as arguments. Nothing here is safe to
use from two threads at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from operator import attrgetter
from typing import TYPE_CHECKING, Final, Literal, Never

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..errors import STTAuthenticationError, STTIdentityError
from ..foundation.forks import belongs_to_parent, in_child

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "KEY_BYTES",
    "MAX_MESSAGE_BYTES",
    "MAX_PLAINTEXT_BYTES",
    "PROLOGUE",
    "REKEY_INTERVAL",
    "TAG_BYTES",
    "XX",
    "XXPSK0",
    "Channel",
    "CipherState",
    "Handshake",
    "Pattern",
]

PROLOGUE: Final = b"seigr-stt/1"
"""What both sides hash into the transcript first: the protocol's name and major version."""

KEY_BYTES: Final = 32
"""Length of every key: private, public, pre-shared and cipher keys (Sections 4.2, 9.1 and 12.1)."""

TAG_BYTES: Final = 16
"""What encryption adds to a plaintext (Section 4.2)."""

MAX_MESSAGE_BYTES: Final = 65_535
"""The longest Noise message, handshake or transport, its tags included (Section 3)."""

MAX_PLAINTEXT_BYTES: Final = MAX_MESSAGE_BYTES - TAG_BYTES
"""The longest plaintext of one transport message."""

REKEY_INTERVAL: Final = 1 << 16
"""Transport messages under one key, in each direction. AES-GCM would allow far more; the point is
that a key found in memory decrypts only what came after the last change. It must be a power of
two."""

_MAX_NONCE: Final = 2**64 - 1
_REKEY_MASK: Final = REKEY_INTERVAL - 1
_NONCE_BYTES: Final = 12
"""The AESGCM nonce: 32 zero bits, then the 64-bit counter, big-endian (Section 12.4). That equals
the counter as a big-endian number of 12 bytes."""

_REKEY_NONCE: Final = _MAX_NONCE.to_bytes(_NONCE_BYTES, "big")
_ZEROS: Final = bytes(KEY_BYTES)

_INNER_PAD: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER_PAD: Final = bytes(byte ^ 0x5C for byte in range(256))
_INNER_FILL: Final = b"\x36" * 32
_OUTER_FILL: Final = b"\x5c" * 32

_process = 0
"""Stands for this process: the number of forks that led to it. Its process id would cost a call."""


def _begin_process() -> None:
    global _process  # noqa: PLW0603
    _process += 1


in_child(_begin_process)

BytesLike = bytes | bytearray | memoryview
Token = Literal["e", "s", "ee", "es", "se"]


class _Secret:
    """An object that is neither pickled nor copied.

    It holds keys, which belong in no file; and two copies of one cipher would encrypt two messages
    under the same nonce, which gives away both. For the same reason a cipher, or a handshake that
    has begun, cannot be used in a forked child.
    """

    __slots__ = ()

    def __reduce__(self) -> Never:
        msg = f"{type(self).__name__} holds keys and can neither be pickled nor copied"
        raise TypeError(msg)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A handshake pattern (Section 7) with its psk modifier (Section 9)."""

    name: str
    """As it stands in the protocol's name."""
    messages: tuple[tuple[Token, ...], ...]
    """The tokens of each message; the initiator writes the first, and then they take turns."""
    psk0: bool = False
    """Whether a pre-shared key is mixed in before the first message (Section 9.4)."""
    overheads: tuple[int, ...] = field(init=False, repr=False)
    """For each message, how many bytes it is longer than its payload."""

    def __post_init__(self) -> None:
        encrypted = self.psk0
        overheads = []
        for tokens in self.messages:
            size = 0
            for token in tokens:
                match token:
                    case "e":
                        size += KEY_BYTES
                    case "s":
                        size += KEY_BYTES + TAG_BYTES * encrypted
                    case _:
                        encrypted = True
            overheads.append(size + TAG_BYTES * encrypted)
        object.__setattr__(self, "overheads", tuple(overheads))

    def message_size(self, index: int, payload_bytes: int) -> int:
        """Length in bytes of message ``index`` (0 is the first) with a payload of that length."""
        return self.overheads[index] + payload_bytes


_XX_MESSAGES: Final[tuple[tuple[Token, ...], ...]] = (
    ("e",),
    ("e", "ee", "s", "es"),
    ("s", "se"),
)

XX: Final = Pattern("XX", _XX_MESSAGES)
"""Mutual authentication by static keys alone; here so that published vectors can check it."""

XXPSK0: Final = Pattern("XXpsk0", _XX_MESSAGES, psk0=True)
"""XX in which a stranger without the pre-shared key cannot write even the first message."""

_DH: Final = {
    ("ee", True): attrgetter("ephemeral", "remote_ephemeral"),
    ("ee", False): attrgetter("ephemeral", "remote_ephemeral"),
    ("es", True): attrgetter("ephemeral", "remote_static"),
    ("es", False): attrgetter("static", "remote_ephemeral"),
    ("se", True): attrgetter("static", "remote_ephemeral"),
    ("se", False): attrgetter("ephemeral", "remote_static"),
}
"""For a token and "this side is the initiator": this side's private key and the peer's public key,
as attributes of `_State`. A token's first letter names the initiator's key (Section 7.1)."""


class CipherState(_Secret):
    """Encrypts, or decrypts, the transport messages of one direction (Section 5.1).

    Both sides count messages, and both change the key after every `REKEY_INTERVAL` messages.
    Messages must be decrypted in the order in which they were encrypted, each once.

    Args:
        key: 32 bytes, used for nothing else. It is not kept as bytes.

    In a forked child, every use of a cipher of the parent raises RuntimeError.

    Raises:
        ValueError: The key has another length.

    """

    __slots__ = ("_aead", "_n", "_process")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            msg = f"a cipher key has {KEY_BYTES} bytes, not {len(key)}"
            raise ValueError(msg)
        self._aead = AESGCM(key)
        self._n = 0
        self._process = _process

    @property
    def n(self) -> int:
        """How many messages were encrypted, or decrypted: the nonce of the next one."""
        return self._n

    def encrypt(self, plaintext: BytesLike) -> bytes:
        """Return the next transport message: the ciphertext and its tag of `TAG_BYTES`.

        Raises:
            ValueError: ``plaintext`` is longer than `MAX_PLAINTEXT_BYTES`. Nothing has changed.
            OverflowError: 2**64 - 1 messages were encrypted: no nonce is left.

        """
        n = self._n
        if len(plaintext) > MAX_PLAINTEXT_BYTES or n == _MAX_NONCE or self._process != _process:
            raise self._refusal(plaintext)
        ciphertext = self._aead.encrypt(n.to_bytes(_NONCE_BYTES, "big"), plaintext, None)
        self._n = n = n + 1
        if not n & _REKEY_MASK:
            self.rekey()
        return ciphertext

    def encrypt_into(self, plaintext: BytesLike, buffer: bytearray | memoryview) -> None:
        """Write the next transport message into ``buffer``, which it must fill exactly.

        The message is the one that `encrypt` would return; this saves a copy of it.

        Raises:
            ValueError: ``plaintext`` is longer than `MAX_PLAINTEXT_BYTES`, or ``buffer`` is not
                longer by `TAG_BYTES`. Nothing has changed.
            OverflowError: 2**64 - 1 messages were encrypted: no nonce is left.

        """
        n = self._n
        if len(plaintext) > MAX_PLAINTEXT_BYTES or n == _MAX_NONCE or self._process != _process:
            raise self._refusal(plaintext)
        self._aead.encrypt_into(n.to_bytes(_NONCE_BYTES, "big"), plaintext, None, buffer)
        self._n = n = n + 1
        if not n & _REKEY_MASK:
            self.rekey()

    def decrypt(self, ciphertext: BytesLike) -> bytes:
        """Return the plaintext of the next transport message.

        Raises:
            STTAuthenticationError: It is not the peer's next message: it was tampered with,
                truncated, repeated or reordered, or is too long. Nothing has changed, but the
                caller must end the connection.
            OverflowError: 2**64 - 1 messages were decrypted: no nonce is left.

        """
        n = self._n
        if self._process != _process:
            raise belongs_to_parent("the cipher")
        if not TAG_BYTES <= len(ciphertext) <= MAX_MESSAGE_BYTES:
            raise STTAuthenticationError("a transport message of a length that none can have")
        if n == _MAX_NONCE:
            raise OverflowError("no nonce is left under this key")
        try:
            plaintext = self._aead.decrypt(n.to_bytes(_NONCE_BYTES, "big"), ciphertext, None)
        except InvalidTag as error:
            raise STTAuthenticationError("not the peer's next message") from error
        self._n = n = n + 1
        if not n & _REKEY_MASK:
            self.rekey()
        return plaintext

    def rekey(self) -> None:
        """Replace the key by a one-way function of it; `n` continues (Sections 4.2 and 11.3).

        This happens by itself every `REKEY_INTERVAL` messages. If you call it in addition, do so at
        the same message on both sides.
        """
        self._aead = AESGCM(self._aead.encrypt(_REKEY_NONCE, _ZEROS, None)[:KEY_BYTES])

    def _refusal(self, plaintext: BytesLike) -> Exception:
        """Return the error for a plaintext that cannot be encrypted."""
        if self._process != _process:
            return belongs_to_parent("the cipher")
        if len(plaintext) > MAX_PLAINTEXT_BYTES:
            return ValueError(f"{len(plaintext)} bytes do not fit into one Noise message")
        return OverflowError("no nonce is left under this key")


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Channel(_Secret):
    """What a finished handshake yields. It holds nothing of the handshake itself."""

    send_cipher: CipherState
    """Encrypts what this side sends."""
    receive_cipher: CipherState
    """Decrypts what the peer sends."""
    handshake_hash: bytes
    """32 bytes that name this very handshake, the same on both sides (Section 11.2)."""
    remote_static: bytes
    """The peer's static public key, 32 bytes; the peer has proven that it has the private key."""


def _hmac(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA-256 under a key of 32 bytes (RFC 2104).

    Depending on the version of Python, ``hmac.digest`` takes 1.5 to 3 times as long, and three of
    these calls are most of what a stranger's first message costs.
    """
    inner = sha256(key.translate(_INNER_PAD) + _INNER_FILL + message).digest()
    return sha256(key.translate(_OUTER_PAD) + _OUTER_FILL + inner).digest()


def _hkdf(chaining_key: bytes, material: bytes) -> tuple[bytes, bytes, bytes]:
    """Return HKDF's first two outputs and its inner secret (Section 4.3)."""
    secret = _hmac(chaining_key, material)
    first = _hmac(secret, b"\x01")
    return first, _hmac(secret, first + b"\x02"), secret


class _State(_Secret):
    """Symmetric state (Section 5.2) and the keys learnt so far (Section 5.3).

    A state that a `Handshake` holds is never changed: `copy` it, and work on the copy.
    """

    __slots__ = ("ck", "ephemeral", "h", "k", "n", "remote_ephemeral", "remote_static", "static")

    ck: bytes
    """The chaining key."""
    h: bytes
    """The hash of the transcript."""
    k: bytes
    """The key for the next encryption; empty if there is none yet."""
    n: int
    """How often `k` was used."""
    static: X25519PrivateKey
    ephemeral: X25519PrivateKey | None
    remote_ephemeral: bytes
    """The peer's public keys are empty until they are known."""
    remote_static: bytes

    def __init__(self, h: bytes, static: X25519PrivateKey) -> None:
        self.static = static
        self.ck = self.h = h
        self.k = self.remote_ephemeral = self.remote_static = b""
        self.n = 0
        self.ephemeral = None

    def copy(self) -> _State:
        other = _State.__new__(_State)
        other.ck = self.ck
        other.h = self.h
        other.k = self.k
        other.n = self.n
        other.static = self.static
        other.ephemeral = self.ephemeral
        other.remote_ephemeral = self.remote_ephemeral
        other.remote_static = self.remote_static
        return other

    def mix_hash(self, data: bytes) -> None:
        self.h = sha256(self.h + data).digest()

    def mix_key(self, material: bytes) -> None:
        self.ck, self.k, _ = _hkdf(self.ck, material)
        self.n = 0

    def mix_key_and_hash(self, material: bytes) -> None:
        self.ck, second, secret = _hkdf(self.ck, material)
        self.mix_hash(second)
        self.k = _hmac(secret, second + b"\x03")
        self.n = 0

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        ciphertext = plaintext
        if self.k:
            ciphertext = AESGCM(self.k).encrypt(
                self.n.to_bytes(_NONCE_BYTES, "big"), plaintext, self.h
            )
            self.n += 1
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        plaintext = ciphertext
        if self.k:
            try:
                plaintext = AESGCM(self.k).decrypt(
                    self.n.to_bytes(_NONCE_BYTES, "big"), ciphertext, self.h
                )
            except InvalidTag as error:
                raise STTAuthenticationError(
                    "the other side has another shared seed, or is not an STT node"
                ) from error
            self.n += 1
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[CipherState, CipherState]:
        """Return the cipher of the initiator's messages and that of the responder's."""
        first, second, _ = _hkdf(self.ck, b"")
        return CipherState(first), CipherState(second)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class _Setup(_Secret):
    """What all copies of a handshake share."""

    initiator: bool
    static_public: bytes
    ephemeral: Callable[[], X25519PrivateKey]
    pattern: Pattern


class Handshake(_Secret):
    """One side of a handshake (Section 5.3).

    Write and read messages in turn, then call `finish`. What fails on account of the peer leaves
    the handshake as it was; so does a call out of turn, which is a RuntimeError.

    A listener makes one and copies it for each connection: see `copy`. One that has begun belongs
    to its process: in a forked child, every call to it is a RuntimeError.

    Args:
        initiator: True for the side that writes the first message.
        static: This side's long-term key.
        ephemeral: Called when this side's first message is written, and only then, for a fresh
            private key. It must return a new random key each time, in use
            ``X25519PrivateKey.generate``: security rests on it.
        psk: The pre-shared key, 32 bytes; None exactly if the pattern takes none.
        prologue: Bytes on which both sides must agree (Section 6).
        pattern: `XXPSK0`, or `XX`.

    Raises:
        ValueError: The pattern takes a psk and none of 32 bytes was given, or the reverse.

    """

    __slots__ = ("_process", "_setup", "_state", "_step")

    _process: int
    _setup: _Setup
    _state: _State
    _step: int
    """Messages written and read so far; one more once the channel was handed over."""

    def __init__(
        self,
        *,
        initiator: bool,
        static: X25519PrivateKey,
        ephemeral: Callable[[], X25519PrivateKey],
        psk: bytes | None = None,
        prologue: bytes = PROLOGUE,
        pattern: Pattern = XXPSK0,
    ) -> None:
        name = f"Noise_{pattern.name}_25519_AESGCM_SHA256".encode()
        # Section 5.2: a name no longer than the hash is padded, a longer one hashed.
        h = name.ljust(KEY_BYTES, b"\0") if len(name) <= KEY_BYTES else sha256(name).digest()
        state = _State(h, static)
        state.mix_hash(prologue)
        if pattern.psk0:
            if psk is None or len(psk) != KEY_BYTES:
                msg = f"{pattern.name} takes a pre-shared key of {KEY_BYTES} bytes"
                raise ValueError(msg)
            state.mix_key_and_hash(psk)
        elif psk is not None:
            msg = f"{pattern.name} takes no pre-shared key"
            raise ValueError(msg)
        static_public = static.public_key().public_bytes_raw()
        self._setup = _Setup(initiator, static_public, ephemeral, pattern)
        self._state = state
        self._step = 0
        self._process = _process

    def copy(self) -> Handshake:
        """Return another handshake with the same setting, at its start.

        It costs a fraction of a microsecond, and nothing that either does affects the other.

        Raises:
            RuntimeError: This handshake has begun.

        """
        if self._step:
            raise RuntimeError("a handshake that has begun cannot be copied")
        other = Handshake.__new__(Handshake)
        other._setup = self._setup  # noqa: SLF001 - of this very class
        other._state = self._state  # noqa: SLF001 - never changed, only replaced
        other._step = 0  # noqa: SLF001
        other._process = _process  # noqa: SLF001
        return other

    @property
    def finished(self) -> bool:
        """Whether all messages were written and read: `finish` may be called."""
        return self._step >= len(self._setup.pattern.messages)

    @property
    def remote_static(self) -> bytes | None:
        """The peer's static public key, 32 bytes; None as long as it is not known.

        The initiator knows it after the second message, the responder after the third. The peer
        has then proven that it has the private key.
        """
        return self._state.remote_static or None

    def write_message(self, payload: BytesLike) -> bytes:
        """Return this side's next message, `Pattern.message_size` bytes long.

        Raises:
            STTAuthenticationError: The peer's ephemeral key is a point of low order, with which
                there is no secret to agree on.
            ValueError: The message would be longer than `MAX_MESSAGE_BYTES`.
            RuntimeError: It is the peer's turn, or the handshake is finished.

        """
        setup = self._setup
        tokens = self._turn(setup.initiator)
        if setup.pattern.message_size(self._step, len(payload)) > MAX_MESSAGE_BYTES:
            msg = f"{len(payload)} bytes do not fit into one handshake message"
            raise ValueError(msg)
        state = self._state.copy()
        parts = []
        for token in tokens:
            match token:
                case "e":
                    state.ephemeral = setup.ephemeral()
                    public = state.ephemeral.public_key().public_bytes_raw()
                    parts.append(public)
                    state.mix_hash(public)
                    if setup.pattern.psk0:
                        state.mix_key(public)
                case "s":
                    parts.append(state.encrypt_and_hash(setup.static_public))
                case _:
                    state.mix_key(_exchange(state, token, initiator=setup.initiator))
        parts.append(state.encrypt_and_hash(bytes(payload)))
        self._state = state
        self._step += 1
        return b"".join(parts)

    def read_message(self, message: BytesLike) -> bytes:
        """Read the peer's next message, of exactly these bytes, and return its payload.

        Raises:
            STTAuthenticationError: No peer with the same pre-shared key and prologue has written
                it in answer to what this side wrote; or it holds a key of low order.
            STTIdentityError: The peer has this side's own static key: it is this very node, or
                one with the same seed.
            RuntimeError: It is this side's turn, or the handshake is finished.

        """
        setup = self._setup
        tokens = self._turn(not setup.initiator)
        if not setup.pattern.overheads[self._step] <= len(message) <= MAX_MESSAGE_BYTES:
            raise STTAuthenticationError("a handshake message of a length that it cannot have")
        message = bytes(message)
        state = self._state.copy()
        at = 0
        for token in tokens:
            match token:
                case "e":
                    state.remote_ephemeral = public = message[:KEY_BYTES]
                    at = KEY_BYTES
                    state.mix_hash(public)
                    if setup.pattern.psk0:
                        state.mix_key(public)
                case "s":
                    start, at = at, at + KEY_BYTES + TAG_BYTES * bool(state.k)
                    state.remote_static = state.decrypt_and_hash(message[start:at])
                case _:
                    state.mix_key(_exchange(state, token, initiator=setup.initiator))
        payload = state.decrypt_and_hash(message[at:])
        if state.remote_static == setup.static_public:
            raise STTIdentityError("the peer has this node's own key: it is this very node")
        self._state = state
        self._step += 1
        return payload

    def finish(self) -> Channel:
        """Return the channel, and forget the keys made for the handshake.

        Raises:
            RuntimeError: The handshake is not finished, or has handed over its channel already
                (two channels with the same keys would encrypt under the same nonces).

        """
        self._check_process()
        if self._step != len(self._setup.pattern.messages):
            raise RuntimeError("only a finished handshake yields a channel, and only once")
        state = self._state
        first, second = state.split()
        if not self._setup.initiator:
            first, second = second, first
        channel = Channel(first, second, state.h, state.remote_static)
        self._state = _State(b"", state.static)
        self._state.remote_static = state.remote_static
        self._step += 1
        return channel

    def _turn(self, initiators: bool) -> tuple[Token, ...]:
        """Return the tokens of the next message if it is the initiator's, or the responder's."""
        self._check_process()
        if self.finished or initiators != (self._step % 2 == 0):
            raise RuntimeError("a handshake message out of turn")
        return self._setup.pattern.messages[self._step]

    def _check_process(self) -> None:
        if self._step and self._process != _process:
            raise belongs_to_parent("the handshake")


def _exchange(state: _State, token: Token, *, initiator: bool) -> bytes:
    """Do the Diffie-Hellman that ``token`` names."""
    own: X25519PrivateKey
    remote: bytes
    own, remote = _DH[token, initiator](state)
    try:
        return own.exchange(X25519PublicKey.from_public_bytes(remote))
    except ValueError as error:  # the result would be all zeros (Section 12.1)
        raise STTAuthenticationError("a public key of low order") from error
