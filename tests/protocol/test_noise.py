"""The secure channel against published vectors, two other implementations, and hostile bytes."""

from __future__ import annotations

import copy
import gc
import hmac
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from dissononce.cipher.aesgcm import AESGCMCipher
from dissononce.dh.x25519.private import PrivateKey
from dissononce.dh.x25519.x25519 import X25519DH
from dissononce.hash.sha256 import SHA256Hash
from dissononce.processing.handshakepatterns.interactive.XX import XXHandshakePattern
from dissononce.processing.impl.cipherstate import CipherState as DissononceCipherState
from dissononce.processing.impl.handshakestate import HandshakeState
from dissononce.processing.impl.symmetricstate import SymmetricState
from dissononce.processing.modifiers.psk import PSKPatternModifier
from hypothesis import given, settings
from hypothesis import strategies as st
from noise.connection import Keypair, NoiseConnection

from helpers.forked import in_fork, needs_fork
from seigr_toolset_transmissions.errors import STTAuthenticationError, STTIdentityError
from seigr_toolset_transmissions.protocol import noise
from seigr_toolset_transmissions.protocol.noise import (
    KEY_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_PLAINTEXT_BYTES,
    PROLOGUE,
    REKEY_INTERVAL,
    TAG_BYTES,
    XX,
    XXPSK0,
    Channel,
    CipherState,
    Handshake,
    Pattern,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dissononce.dh.keypair import KeyPair

PSK = bytes(range(100, 132))
PAYLOADS = (b"\xa1" * 16, b"\xa2" * 64, b"\xa3" * 96)
SIZES = (64, 160, 160)


def key(fill: int) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(bytes([fill]) * 32)


def public(private: X25519PrivateKey) -> bytes:
    return private.public_key().public_bytes_raw()


INITIATOR_STATIC, RESPONDER_STATIC = key(1), key(2)
INITIATOR_EPHEMERAL, RESPONDER_EPHEMERAL = key(3), key(4)


def initiator(
    *,
    static: X25519PrivateKey = INITIATOR_STATIC,
    ephemeral: Callable[[], X25519PrivateKey] = lambda: INITIATOR_EPHEMERAL,
    psk: bytes | None = PSK,
    prologue: bytes = PROLOGUE,
    pattern: Pattern = XXPSK0,
) -> Handshake:
    return Handshake(
        initiator=True,
        static=static,
        ephemeral=ephemeral,
        psk=psk,
        prologue=prologue,
        pattern=pattern,
    )


def responder(
    *,
    static: X25519PrivateKey = RESPONDER_STATIC,
    ephemeral: Callable[[], X25519PrivateKey] = lambda: RESPONDER_EPHEMERAL,
    psk: bytes | None = PSK,
    prologue: bytes = PROLOGUE,
    pattern: Pattern = XXPSK0,
) -> Handshake:
    return Handshake(
        initiator=False,
        static=static,
        ephemeral=ephemeral,
        psk=psk,
        prologue=prologue,
        pattern=pattern,
    )


def up_to(step: int) -> tuple[Handshake, Handshake, bytes]:
    """Return the writer and the reader of message `step`, and the message, written but not read."""
    writer, reader = initiator(), responder()
    for payload in PAYLOADS[:step]:
        reader.read_message(writer.write_message(payload))
        writer, reader = reader, writer
    return writer, reader, writer.write_message(PAYLOADS[step])


def channels(
    dial: Handshake | None = None, listen: Handshake | None = None
) -> tuple[Channel, Channel]:
    """Return the channels of an initiator and a responder."""
    first = initiator() if dial is None else dial
    second = responder() if listen is None else listen
    writer, reader = first, second
    for payload in PAYLOADS:
        assert reader.read_message(writer.write_message(payload)) == payload
        writer, reader = reader, writer
    return first.finish(), second.finish()


# Published vectors


def read_vectors() -> list[dict[str, str]]:
    path = Path(__file__).resolve().parents[3] / "shared" / "vectors" / "noise-xxpsk0.txt"
    if not path.exists():
        return []
    vectors: list[dict[str, str]] = []
    for block in path.read_text().split("\n\n"):
        lines = [line for line in block.splitlines() if "=" in line and not line.startswith("#")]
        if lines:
            vectors.append(dict(line.split("=", 1) for line in lines))
    return vectors


VECTORS = read_vectors()
PATTERNS = {f"Noise_{pattern.name}_25519_AESGCM_SHA256": pattern for pattern in (XX, XXPSK0)}


def implemented_vectors() -> Iterator[Any]:
    """Yield those for AESGCM; the file has ChaChaPoly too, which this library does not offer."""
    if not VECTORS:
        absent = pytest.mark.skip(reason="the published vectors are not beside the repository")
        yield pytest.param({}, marks=absent, id="absent")
    for number, vector in enumerate(VECTORS):
        if vector["handshake"] in PATTERNS:
            yield pytest.param(vector, id=f"{number}-{vector['handshake']}")


@pytest.mark.parametrize("vector", list(implemented_vectors()))
def test_a_published_vector_is_reproduced_byte_for_byte(vector: dict[str, str]) -> None:
    def field(name: str) -> bytes:
        return bytes.fromhex(vector.get(name, ""))

    def private(name: str) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(field(name))

    pattern = PATTERNS[vector["handshake"]]
    psk = field("preshared_key") or None
    first = initiator(
        static=private("init_static"),
        ephemeral=lambda: private("gen_init_ephemeral"),
        psk=psk,
        prologue=field("prologue"),
        pattern=pattern,
    )
    second = responder(
        static=private("resp_static"),
        ephemeral=lambda: private("gen_resp_ephemeral"),
        psk=psk,
        prologue=field("prologue"),
        pattern=pattern,
    )
    writer, reader = first, second
    for step in range(3):
        payload, message = field(f"msg_{step}_payload"), field(f"msg_{step}_ciphertext")
        assert writer.write_message(payload) == message
        assert reader.read_message(message) == payload
        assert len(message) == pattern.message_size(step, len(payload))
        writer, reader = reader, writer
    sender, receiver = first.finish(), second.finish()
    assert sender.handshake_hash == receiver.handshake_hash
    assert f"msg_{step + 1}_payload" in vector
    while f"msg_{(step := step + 1)}_payload" in vector:
        payload, message = field(f"msg_{step}_payload"), field(f"msg_{step}_ciphertext")
        assert sender.send_cipher.encrypt(payload) == message
        assert receiver.receive_cipher.decrypt(message) == payload
        sender, receiver = receiver, sender


@pytest.mark.skipif(not VECTORS, reason="the published vectors are not beside the repository")
def test_the_published_vectors_cover_both_patterns() -> None:
    assert {vector["handshake"] for vector in VECTORS} >= set(PATTERNS)


# Other implementations


class Oracle:
    """Another implementation of Noise, in one role."""

    def __init__(self, *, initiator: bool) -> None:
        self.initiator = initiator
        self.static = INITIATOR_STATIC if initiator else RESPONDER_STATIC

    def write(self, payload: bytes) -> bytes:
        raise NotImplementedError

    def read(self, message: bytes) -> bytes:
        raise NotImplementedError

    def encrypt(self, plaintext: bytes) -> bytes:
        raise NotImplementedError

    def decrypt(self, ciphertext: bytes) -> bytes:
        raise NotImplementedError

    def handshake_hash(self) -> bytes:
        raise NotImplementedError


class NoiseProtocol(Oracle):
    """The package noiseprotocol, which makes its own ephemeral keys and warns of any other."""

    def __init__(self, *, initiator: bool, ephemeral: X25519PrivateKey | None = None) -> None:
        super().__init__(initiator=initiator)
        self.connection = NoiseConnection.from_name(b"Noise_XXpsk0_25519_AESGCM_SHA256")
        if initiator:
            self.connection.set_as_initiator()
        else:
            self.connection.set_as_responder()
        self.connection.set_psks(PSK)
        self.connection.set_prologue(PROLOGUE)
        for kind, private in ((Keypair.STATIC, self.static), (Keypair.EPHEMERAL, ephemeral)):
            if private is not None:
                raw = private.private_bytes_raw()
                self.connection.set_keypair_from_private_bytes(kind, raw)
        self.connection.start_handshake()

    def write(self, payload: bytes) -> bytes:
        return bytes(self.connection.write_message(payload))

    def read(self, message: bytes) -> bytes:
        return bytes(self.connection.read_message(message))

    def encrypt(self, plaintext: bytes) -> bytes:
        return bytes(self.connection.encrypt(plaintext))

    def decrypt(self, ciphertext: bytes) -> bytes:
        return bytes(self.connection.decrypt(ciphertext))

    def handshake_hash(self) -> bytes:
        return bytes(self.connection.get_handshake_hash())


class Dissononce(Oracle):
    """The package dissononce, which makes its own ephemeral keys."""

    def __init__(self, *, initiator: bool) -> None:
        super().__init__(initiator=initiator)
        dh = X25519DH()
        self.symmetric = SymmetricState(DissononceCipherState(AESGCMCipher()), SHA256Hash())
        self.state = HandshakeState(self.symmetric, dh)
        static: KeyPair = dh.generate_keypair(PrivateKey(self.static.private_bytes_raw()))
        pattern = PSKPatternModifier(0).modify(XXHandshakePattern())
        self.state.initialize(pattern, initiator, PROLOGUE, s=static, psks=[PSK])
        self.ciphers: Any = None

    def write(self, payload: bytes) -> bytes:
        buffer = bytearray()
        self.ciphers = self.state.write_message(payload, buffer)
        return bytes(buffer)

    def read(self, message: bytes) -> bytes:
        buffer = bytearray()
        self.ciphers = self.state.read_message(message, buffer)
        return bytes(buffer)

    def encrypt(self, plaintext: bytes) -> bytes:
        return bytes(self.ciphers[not self.initiator].encrypt_with_ad(b"", plaintext))

    def decrypt(self, ciphertext: bytes) -> bytes:
        return bytes(self.ciphers[self.initiator].decrypt_with_ad(b"", ciphertext))

    def handshake_hash(self) -> bytes:
        return bytes(self.symmetric.get_handshake_hash())


def shake_hands(oracle: Oracle, payloads: tuple[bytes, ...] = PAYLOADS) -> Channel:
    """Do a handshake with another implementation and return our channel."""
    ours = responder() if oracle.initiator else initiator()
    for step, payload in enumerate(payloads):
        if oracle.initiator == (step % 2 == 0):
            message = oracle.write(payload)
            assert ours.read_message(message) == payload
        else:
            message = ours.write_message(payload)
            assert oracle.read(message) == payload
        assert len(message) == XXPSK0.message_size(step, len(payload))
    assert ours.remote_static == public(oracle.static)
    channel = ours.finish()
    assert channel.remote_static == public(oracle.static)
    assert channel.handshake_hash == oracle.handshake_hash()
    return channel


ORACLES = pytest.mark.parametrize("make_oracle", [NoiseProtocol, Dissononce])
ROLES = pytest.mark.parametrize(
    "oracle_is_initiator", [True, False], ids=["initiator", "responder"]
)


@ORACLES
@ROLES
def test_another_implementation_understands_us_and_we_understand_it(
    make_oracle: Callable[..., Oracle], oracle_is_initiator: bool
) -> None:
    oracle = make_oracle(initiator=oracle_is_initiator)
    channel = shake_hands(oracle)
    for size in (0, 1, 64, 1000, MAX_PLAINTEXT_BYTES):
        message = bytes([size & 0xFF]) * size
        assert oracle.decrypt(channel.send_cipher.encrypt(message)) == message
        assert channel.receive_cipher.decrypt(oracle.encrypt(message)) == message


@ORACLES
@ROLES
@settings(deadline=None, max_examples=25)
@given(
    payloads=st.tuples(*[st.binary(max_size=300)] * 3),
    messages=st.lists(st.binary(max_size=300), max_size=5),
)
def test_another_implementation_agrees_on_any_payload(
    make_oracle: Callable[..., Oracle],
    oracle_is_initiator: bool,
    payloads: tuple[bytes, ...],
    messages: list[bytes],
) -> None:
    oracle = make_oracle(initiator=oracle_is_initiator)
    channel = shake_hands(oracle, payloads)
    for message in messages:
        assert oracle.decrypt(channel.send_cipher.encrypt(message)) == message
        assert channel.receive_cipher.decrypt(oracle.encrypt(message)) == message


def test_another_implementation_writes_the_same_bytes_with_the_same_keys() -> None:
    ours = [initiator(), responder()]
    with pytest.warns(UserWarning, match="OK for testing"):
        theirs = [
            NoiseProtocol(initiator=True, ephemeral=INITIATOR_EPHEMERAL),
            NoiseProtocol(initiator=False, ephemeral=RESPONDER_EPHEMERAL),
        ]
    for step, payload in enumerate(PAYLOADS):
        writer, reader = step % 2, 1 - step % 2
        message = ours[writer].write_message(payload)
        assert theirs[writer].write(payload) == message
        ours[reader].read_message(message)
        theirs[reader].read(message)


# Change of keys (dissononce 0.34.3 resets the nonce when it does this, against Section 11.3)


@ROLES
def test_another_implementation_changes_to_the_same_key(oracle_is_initiator: bool) -> None:
    oracle = NoiseProtocol(initiator=oracle_is_initiator)
    channel = shake_hands(oracle)
    for _ in range(3):
        assert oracle.decrypt(channel.send_cipher.encrypt(b"out")) == b"out"
        assert channel.receive_cipher.decrypt(oracle.encrypt(b"in")) == b"in"
        channel.send_cipher.rekey()
        oracle.connection.rekey_inbound_cipher()
        channel.receive_cipher.rekey()
        oracle.connection.rekey_outbound_cipher()
    assert oracle.decrypt(channel.send_cipher.encrypt(b"out")) == b"out"
    assert channel.receive_cipher.decrypt(oracle.encrypt(b"in")) == b"in"


def test_the_key_changes_by_itself_after_each_interval_when_sending() -> None:
    oracle = NoiseProtocol(initiator=False)
    cipher = shake_hands(oracle).send_cipher
    for _ in range(2):
        for _ in range(REKEY_INTERVAL):
            oracle.decrypt(cipher.encrypt(b"x"))
        oracle.connection.rekey_inbound_cipher()
    assert oracle.decrypt(cipher.encrypt(b"after")) == b"after"
    assert cipher.n == 2 * REKEY_INTERVAL + 1


def test_the_key_changes_by_itself_after_each_interval_when_receiving() -> None:
    oracle = NoiseProtocol(initiator=False)
    cipher = shake_hands(oracle).receive_cipher
    for _ in range(2):
        for _ in range(REKEY_INTERVAL):
            cipher.decrypt(oracle.encrypt(b"x"))
        oracle.connection.rekey_outbound_cipher()
    assert cipher.decrypt(oracle.encrypt(b"after")) == b"after"
    assert cipher.n == 2 * REKEY_INTERVAL + 1


def test_a_message_under_the_old_key_is_refused_after_the_change() -> None:
    sender, receiver, stale = CipherState(PSK), CipherState(PSK), CipherState(PSK)
    for cipher in (sender, receiver, stale):
        cipher._n = REKEY_INTERVAL - 1
    assert receiver.decrypt(sender.encrypt(b"last of the interval")) == b"last of the interval"
    stale._n = REKEY_INTERVAL  # as if it had not changed its key
    with pytest.raises(STTAuthenticationError):
        receiver.decrypt(stale.encrypt(b"first of the next"))
    assert receiver.decrypt(sender.encrypt(b"first of the next")) == b"first of the next"


def test_the_last_nonce_is_never_used_for_a_message() -> None:
    sender, receiver = CipherState(PSK), CipherState(PSK)
    sender._n = receiver._n = 2**64 - 2
    message = sender.encrypt(b"the last")
    assert receiver.decrypt(message) == b"the last"
    with pytest.raises(OverflowError):
        sender.encrypt(b"one more")
    with pytest.raises(OverflowError):
        receiver.decrypt(message)
    assert sender.n == receiver.n == 2**64 - 1


# Transport messages


@given(st.lists(st.binary(max_size=2000), max_size=20))
def test_every_message_comes_out_as_it_went_in(messages: list[bytes]) -> None:
    sender, receiver = CipherState(PSK), CipherState(PSK)
    for message in messages:
        ciphertext = sender.encrypt(message)
        assert len(ciphertext) == len(message) + TAG_BYTES
        assert receiver.decrypt(ciphertext) == message


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_cipher_takes_any_kind_of_bytes(kind: Callable[[bytes], bytes | memoryview]) -> None:
    sender, receiver = CipherState(PSK), CipherState(PSK)
    plaintext = receiver.decrypt(kind(sender.encrypt(kind(b"payload"))))
    assert type(plaintext) is bytes
    assert plaintext == b"payload"


def test_every_changed_bit_of_a_message_is_refused_and_changes_nothing() -> None:
    sender, receiver = CipherState(PSK), CipherState(PSK)
    receiver.decrypt(sender.encrypt(b"first"))
    message = sender.encrypt(b"second")
    for wrong in single_bit_flips(message):
        with pytest.raises(STTAuthenticationError):
            receiver.decrypt(wrong)
    assert receiver.n == 1
    assert receiver.decrypt(message) == b"second"


@pytest.mark.parametrize("size", [0, 1, TAG_BYTES - 1, TAG_BYTES, MAX_MESSAGE_BYTES, 10**6])
def test_bytes_of_any_length_that_are_not_a_message_are_refused(size: int) -> None:
    receiver = CipherState(PSK)
    with pytest.raises(STTAuthenticationError):
        receiver.decrypt(bytes(size))
    assert receiver.n == 0


def test_a_message_repeated_left_out_or_sent_back_is_refused() -> None:
    first, second = channels()
    messages = [first.send_cipher.encrypt(b"%d" % number) for number in range(3)]
    second.receive_cipher.decrypt(messages[0])
    for wrong in (messages[0], messages[2]):
        with pytest.raises(STTAuthenticationError):
            second.receive_cipher.decrypt(wrong)
    with pytest.raises(STTAuthenticationError):
        first.receive_cipher.decrypt(messages[0])


def test_a_plaintext_that_fits_no_message_is_refused_and_changes_nothing() -> None:
    sender = CipherState(PSK)
    with pytest.raises(ValueError, match="do not fit"):
        sender.encrypt(bytes(MAX_PLAINTEXT_BYTES + 1))
    assert sender.n == 0
    assert len(sender.encrypt(bytes(MAX_PLAINTEXT_BYTES))) == MAX_MESSAGE_BYTES


def test_encrypting_into_a_buffer_writes_the_same_messages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(noise, "_REKEY_MASK", 3)  # a new key every four messages
    returned, written = CipherState(PSK), CipherState(PSK)
    for number in range(10):
        plaintext = b"%d" % number * number * 1000
        message = returned.encrypt(plaintext)
        buffer = bytearray(b"\xff" * len(message))
        if number % 2:
            written.encrypt_into(plaintext, buffer)
        else:
            written.encrypt_into(memoryview(plaintext), memoryview(buffer))
        assert buffer == message
        assert written.n == returned.n


def test_the_key_changes_by_itself_after_each_interval_when_encrypting_into_a_buffer() -> None:
    sender, receiver = CipherState(PSK), CipherState(PSK)
    sender._n = receiver._n = REKEY_INTERVAL - 1
    for plaintext in (b"last of the interval", b"first of the next"):
        buffer = bytearray(len(plaintext) + TAG_BYTES)
        sender.encrypt_into(plaintext, buffer)
        assert receiver.decrypt(buffer) == plaintext


@pytest.mark.parametrize("off", [-TAG_BYTES, -1, 1])
def test_a_buffer_that_the_message_does_not_fill_is_refused_and_changes_nothing(off: int) -> None:
    sender = CipherState(PSK)
    buffer = bytearray(10 + TAG_BYTES + off)
    with pytest.raises(ValueError, match="buffer"):
        sender.encrypt_into(bytes(10), buffer)
    assert sender.n == 0
    assert buffer == bytes(len(buffer))


def test_a_plaintext_that_fits_no_message_is_not_encrypted_into_a_buffer_either() -> None:
    sender = CipherState(PSK)
    with pytest.raises(ValueError, match="do not fit"):
        sender.encrypt_into(bytes(MAX_PLAINTEXT_BYTES + 1), bytearray(MAX_MESSAGE_BYTES + 1))
    assert sender.n == 0
    sender.encrypt_into(bytes(MAX_PLAINTEXT_BYTES), bytearray(MAX_MESSAGE_BYTES))
    assert sender.n == 1


def test_the_last_nonce_is_not_used_to_encrypt_into_a_buffer_either() -> None:
    sender = CipherState(PSK)
    sender._n = 2**64 - 2
    buffer = bytearray(8 + TAG_BYTES)
    sender.encrypt_into(b"the last", buffer)
    with pytest.raises(OverflowError):
        sender.encrypt_into(b"one more", buffer)
    assert sender.n == 2**64 - 1


def test_a_cipher_key_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32"):
        CipherState(bytes(16))  # which AES would take


# The handshake


def test_message_sizes_are_fixed_by_the_payloads() -> None:
    assert XXPSK0.overheads == (48, 96, 64)
    assert XX.overheads == (32, 96, 64)
    for step, size in enumerate(SIZES):
        _, _, message = up_to(step)
        assert len(message) == XXPSK0.message_size(step, len(PAYLOADS[step])) == size


def test_a_pattern_says_how_much_longer_its_messages_are_than_their_payloads() -> None:
    """A message has a tag for each encrypted part, once there is a key."""
    messages: tuple[tuple[Any, ...], ...] = (("e", "s"), ("e", "ee", "s", "es"), ("s", "se"), ())
    plain = Pattern("plain", messages)
    assert plain.overheads == (32 + 32, 32 + 48 + 16, 48 + 16, 16)
    assert plain.message_size(0, 5) == 69
    with_psk = Pattern("with psk", messages, psk0=True)
    assert with_psk.overheads == (32 + 48 + 16, 32 + 48 + 16, 48 + 16, 16)


def test_each_error_says_what_is_wrong() -> None:
    cipher = CipherState(bytes(32))
    for ciphertext in (bytes(15), bytes(MAX_MESSAGE_BYTES + 1)):
        with pytest.raises(STTAuthenticationError, match=r"^a transport message of a length that"):
            cipher.decrypt(ciphertext)
    with pytest.raises(STTAuthenticationError, match=r"^not the peer's next message$"):
        cipher.decrypt(bytes(16))
    cipher._n = 2**64 - 1
    buffer = bytearray(16)
    for use in (
        lambda: cipher.encrypt(b""),
        lambda: cipher.encrypt_into(b"", buffer),
        lambda: cipher.encrypt(bytes(MAX_PLAINTEXT_BYTES)),
        lambda: cipher.decrypt(bytes(16)),
    ):
        with pytest.raises(OverflowError, match=r"^no nonce is left under this key$"):
            use()
    begun = initiator()
    begun.write_message(b"")
    with pytest.raises(RuntimeError, match=r"^a handshake that has begun cannot be copied$"):
        begun.copy()
    with pytest.raises(
        RuntimeError, match=r"^only a finished handshake yields a channel, and only"
    ):
        begun.finish()


def test_each_side_learns_the_others_key_once_it_is_proven() -> None:
    initiators, responders = public(INITIATOR_STATIC), public(RESPONDER_STATIC)
    known: list[tuple[bytes | None, bytes | None]] = []
    first, second = initiator(), responder()
    writer, reader = first, second
    for payload in PAYLOADS:
        known.append((first.remote_static, second.remote_static))
        message = writer.write_message(payload)
        known.append((first.remote_static, second.remote_static))
        reader.read_message(message)
        writer, reader = reader, writer
    assert known == [(None, None)] * 4 + [(responders, None)] * 2
    for side, others in ((first, responders), (second, initiators)):
        assert side.remote_static == others
        assert side.finish().remote_static == others
        assert side.remote_static == others


def test_a_channel_comes_from_a_finished_handshake_only_and_once() -> None:
    first, second = initiator(), responder()
    writer, reader = first, second
    for payload in PAYLOADS:
        for side in (first, second):
            assert not side.finished
            with pytest.raises(RuntimeError, match="finished"):
                side.finish()
        reader.read_message(writer.write_message(payload))
        writer, reader = reader, writer
    for side in (first, second):
        assert side.finished
        assert isinstance(side.finish(), Channel)
        assert side.finished
        with pytest.raises(RuntimeError, match="only once"):
            side.finish()


def test_a_call_out_of_turn_is_refused_and_changes_nothing() -> None:
    first, second = initiator(), responder()
    writer, reader = first, second
    for payload in PAYLOADS:
        with pytest.raises(RuntimeError, match="out of turn"):
            reader.write_message(b"")
        with pytest.raises(RuntimeError, match="out of turn"):
            writer.read_message(bytes(160))
        assert reader.read_message(writer.write_message(payload)) == payload
        writer, reader = reader, writer
    for side in (first, second):
        with pytest.raises(RuntimeError, match="out of turn"):
            side.write_message(b"")
        with pytest.raises(RuntimeError, match="out of turn"):
            side.read_message(bytes(160))
    assert first.finish().handshake_hash == second.finish().handshake_hash


def test_copies_have_nothing_to_do_with_each_other() -> None:
    dial = initiator(ephemeral=X25519PrivateKey.generate)
    listen = responder(ephemeral=X25519PrivateKey.generate)
    pairs = [channels(dial.copy(), listen.copy()) for _ in range(3)]
    assert len({first.handshake_hash for first, _ in pairs}) == 3
    assert not dial.finished
    messages = [first.send_cipher.encrypt(b"m") for first, _ in pairs]
    for (_, second), message in zip(pairs, messages, strict=True):
        assert second.receive_cipher.decrypt(message) == b"m"


def test_a_handshake_that_has_begun_is_not_copied() -> None:
    writer, reader, message = up_to(0)
    with pytest.raises(RuntimeError, match="begun"):
        writer.copy()
    reader.read_message(message)
    with pytest.raises(RuntimeError, match="begun"):
        reader.copy()


def test_a_strangers_first_message_costs_no_key_and_no_diffie_hellman(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object, **__: object) -> Any:
        raise AssertionError("this is what a stranger must not cause")

    keys = []

    def ephemeral() -> X25519PrivateKey:
        keys.append(RESPONDER_EPHEMERAL)
        return RESPONDER_EPHEMERAL

    listen = responder(ephemeral=ephemeral)
    with monkeypatch.context() as patch:
        patch.setattr(noise, "_exchange", never)
        patch.setattr(noise, "X25519PublicKey", never)
        with pytest.raises(STTAuthenticationError):
            listen.copy().read_message(bytes(64))
        reader = listen.copy()
        assert reader.read_message(initiator().write_message(PAYLOADS[0])) == PAYLOADS[0]
        assert not keys
    reader.write_message(PAYLOADS[1])
    assert len(keys) == 1


def single_bit_flips(message: bytes) -> Iterator[bytes]:
    for bit in range(len(message) * 8):
        flipped = bytearray(message)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)


STEPS = pytest.mark.parametrize("step", [0, 1, 2])


@STEPS
def test_every_changed_bit_of_a_handshake_message_is_refused_and_changes_nothing(step: int) -> None:
    _, reader, message = up_to(step)
    for wrong in single_bit_flips(message):
        with pytest.raises(STTAuthenticationError):
            reader.read_message(wrong)
    assert reader.remote_static is None
    assert reader.read_message(message) == PAYLOADS[step]


@STEPS
def test_a_truncated_or_extended_handshake_message_is_refused_and_changes_nothing(
    step: int,
) -> None:
    _, reader, message = up_to(step)
    wrong = [message[:size] for size in range(len(message))]
    wrong += [message + b"\0", b"\0" + message, message * 2, message.ljust(MAX_MESSAGE_BYTES)]
    wrong += [message.ljust(MAX_MESSAGE_BYTES + 1)]
    for each in wrong:
        with pytest.raises(STTAuthenticationError):
            reader.read_message(each)
    assert reader.read_message(message) == PAYLOADS[step]


@STEPS
@settings(deadline=None)
@given(data=st.data())
def test_hostile_bytes_raise_only_documented_errors(step: int, data: st.DataObject) -> None:
    _, reader, message = up_to(step)
    hostile = data.draw(st.binary(max_size=200) | st.binary(min_size=SIZES[step], max_size=200))
    for wrong in (hostile, message[:KEY_BYTES] + hostile):
        with pytest.raises(STTAuthenticationError):
            reader.read_message(wrong)
    assert reader.read_message(message) == PAYLOADS[step]


@STEPS
@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_a_handshake_takes_any_kind_of_bytes(
    step: int, kind: Callable[[bytes], bytearray | memoryview]
) -> None:
    _, reader, message = up_to(step)
    payload = reader.read_message(kind(message))
    assert type(payload) is bytes
    assert payload == PAYLOADS[step]
    if step < 2:
        reader.write_message(kind(PAYLOADS[step + 1]))


@pytest.mark.parametrize("pattern", [XX, XXPSK0], ids=lambda pattern: pattern.name)
def test_a_payload_that_fits_no_message_is_refused_and_changes_nothing(pattern: Pattern) -> None:
    psk = PSK if pattern.psk0 else None
    writer, reader = initiator(psk=psk, pattern=pattern), responder(psk=psk, pattern=pattern)
    largest = bytes(MAX_MESSAGE_BYTES - pattern.overheads[0])
    with pytest.raises(ValueError, match="do not fit"):
        writer.write_message(largest + b"\0")
    message = writer.write_message(largest)
    assert len(message) == MAX_MESSAGE_BYTES
    assert reader.read_message(message) == largest


def test_another_pre_shared_key_is_refused_at_the_first_message() -> None:
    message = initiator(psk=bytes(32)).write_message(PAYLOADS[0])
    with pytest.raises(STTAuthenticationError):
        responder().read_message(message)


def test_another_prologue_is_refused_at_the_first_message() -> None:
    message = initiator(prologue=b"seigr-stt/2").write_message(PAYLOADS[0])
    with pytest.raises(STTAuthenticationError):
        responder().read_message(message)


def test_another_pattern_is_refused_at_the_first_message() -> None:
    message = initiator(psk=None, pattern=XX).write_message(bytes(32))
    with pytest.raises(STTAuthenticationError):
        responder().read_message(message)


@pytest.mark.parametrize("step", [1, 2])
def test_a_message_of_another_handshake_is_refused(step: int) -> None:
    """A recorded answer does not answer this handshake's messages, whose keys are fresh."""
    writer, reader, recorded = up_to(step)
    dial = initiator(ephemeral=X25519PrivateKey.generate)
    listen = responder(ephemeral=X25519PrivateKey.generate)
    writer, reader = dial, listen
    for payload in PAYLOADS[:step]:
        reader.read_message(writer.write_message(payload))
        writer, reader = reader, writer
    with pytest.raises(STTAuthenticationError):
        reader.read_message(recorded)


@pytest.mark.parametrize("psk", [None, b"", bytes(31), bytes(33)])
def test_a_pattern_with_psk_takes_32_bytes_only(psk: bytes | None) -> None:
    with pytest.raises(ValueError, match="32"):
        initiator(psk=psk)


def test_a_pattern_without_psk_takes_none() -> None:
    with pytest.raises(ValueError, match="no pre-shared key"):
        initiator(pattern=XX)


def test_a_node_that_meets_itself_notices_on_both_sides() -> None:
    first = initiator(static=RESPONDER_STATIC)
    second = responder(static=RESPONDER_STATIC)
    second.read_message(first.write_message(b""))
    message = second.write_message(b"")
    with pytest.raises(STTIdentityError, match="own key"):
        first.read_message(message)
    assert first.remote_static is None

    # An initiator that does not mind, as another implementation might not.
    first._setup = initiator()._setup
    first.read_message(message)
    first._setup = initiator(static=RESPONDER_STATIC)._setup
    with pytest.raises(STTIdentityError, match="own key"):
        second.read_message(first.write_message(b""))
    assert not second.finished


# Public keys of low order: the points of order 1, 2, 4 and 8, of the curve and of its twist, and
# what is the same modulo the prime

LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    *((2**255 - 19 + offset).to_bytes(32, "little") for offset in (-1, 0, 1)),
]


class LowOrderKey:
    """Points that an attacker within the group may use: multiplied with anything, they give 0."""

    def __init__(self, point: bytes) -> None:
        self.point = point

    def public_key(self) -> LowOrderKey:
        return self

    def public_bytes_raw(self) -> bytes:
        return self.point

    def exchange(self, _: X25519PublicKey) -> bytes:
        return bytes(32)


@pytest.fixture(params=LOW_ORDER, ids=lambda point: point[:4].hex())
def low_order(request: pytest.FixtureRequest) -> X25519PrivateKey:
    return cast("X25519PrivateKey", LowOrderKey(request.param))


def test_an_initiators_ephemeral_key_of_low_order_is_refused(low_order: X25519PrivateKey) -> None:
    reader = responder()
    reader.read_message(initiator(ephemeral=lambda: low_order).write_message(PAYLOADS[0]))
    with pytest.raises(STTAuthenticationError, match="low order"):
        reader.write_message(PAYLOADS[1])


def test_an_initiators_static_key_of_low_order_is_refused(low_order: X25519PrivateKey) -> None:
    writer, reader = initiator(static=low_order), responder()
    reader.read_message(writer.write_message(PAYLOADS[0]))
    writer.read_message(reader.write_message(PAYLOADS[1]))
    message = writer.write_message(PAYLOADS[2])
    with pytest.raises(STTAuthenticationError, match="low order"):
        reader.read_message(message)
    assert reader.remote_static is None


@pytest.mark.parametrize("which", ["ephemeral", "static"])
def test_a_responders_key_of_low_order_is_refused(low_order: X25519PrivateKey, which: str) -> None:
    reader = initiator()
    writer = (
        responder(static=low_order) if which == "static" else responder(ephemeral=lambda: low_order)
    )
    writer.read_message(reader.write_message(PAYLOADS[0]))
    message = writer.write_message(PAYLOADS[1])
    with pytest.raises(STTAuthenticationError, match="low order"):
        reader.read_message(message)
    assert reader.remote_static is None


# Secrets


def test_neither_payload_nor_static_key_can_be_read_on_the_wire() -> None:
    messages = [up_to(step)[2] for step in range(3)]
    wire = b"".join(messages)
    for payload in PAYLOADS:
        assert payload[:8] not in wire
    for private in (INITIATOR_STATIC, RESPONDER_STATIC):
        assert public(private) not in wire
    for private in (INITIATOR_EPHEMERAL, RESPONDER_EPHEMERAL):
        assert public(private) in wire


class Kept(NamedTuple):
    name: str
    holder: object


def holders() -> list[Kept]:
    kept = [Kept("new", initiator()), Kept("new responder", responder())]
    for step in range(3):
        writer, reader, message = up_to(step)
        reader.read_message(message)
        kept += [Kept(f"writer {step}", writer), Kept(f"reader {step}", reader)]
    first, _ = channels()
    kept += [Kept("channel", first), Kept("cipher", first.send_cipher)]
    return kept


HOLDERS = pytest.mark.parametrize("holder", [pytest.param(h, id=name) for name, h in holders()])


def shown(secret: bytes) -> list[str]:
    """Return how a secret could be seen in a text."""
    return [secret[:8].hex(), repr(secret[:8])[2:-1], repr(list(secret[:8]))[1:-1]]


@HOLDERS
def test_no_text_shows_a_key(holder: object, monkeypatch: pytest.MonkeyPatch) -> None:
    cipher_keys: list[bytes] = []
    original = CipherState.__init__

    def spy(self: CipherState, key: bytes) -> None:
        cipher_keys.append(key)
        original(self, key)

    monkeypatch.setattr(CipherState, "__init__", spy)
    channels()
    assert len(cipher_keys) == 4
    private = (INITIATOR_STATIC, RESPONDER_STATIC, INITIATOR_EPHEMERAL, RESPONDER_EPHEMERAL)
    secrets = [PSK, *cipher_keys, *(key.private_bytes_raw() for key in private)]
    for text in (repr(holder), str(holder), f"{holder}"):
        for secret in secrets:
            for form in shown(secret):
                assert form not in text


@HOLDERS
def test_objects_with_keys_are_neither_pickled_nor_copied(holder: object) -> None:
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="holds keys"):
            attempt(holder)


def test_a_channel_keeps_nothing_of_the_handshake_alive() -> None:
    first, _ = channels()
    seen: dict[int, object] = {}
    queue: list[object] = [first]
    while queue:
        each = queue.pop()
        if id(each) not in seen and not isinstance(each, type):
            seen[id(each)] = each
            queue += gc.get_referents(each)
    kinds = {type(each).__name__ for each in seen.values()}
    assert kinds == {"Channel", "CipherState", "AESGCM", "bytes", "int"}


def test_a_finished_handshake_forgets_its_keys() -> None:
    first, second = initiator(), responder()
    channels(first, second)
    for side in (first, second):
        assert side._state.ephemeral is None
        assert side._state.ck == side._state.k == side._state.h == b""


def test_both_sides_share_a_handshake_hash_that_names_the_handshake() -> None:
    first, second = channels()
    other, _ = channels(initiator(ephemeral=X25519PrivateKey.generate))
    assert first.handshake_hash == second.handshake_hash
    assert len(first.handshake_hash) == 32
    assert first.handshake_hash != other.handshake_hash


@given(st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES), st.binary(max_size=200))
def test_the_short_hmac_is_hmac(key: bytes, message: bytes) -> None:
    assert noise._hmac(key, message) == hmac.digest(key, message, "sha256")


# Forked processes


@needs_fork
def test_a_forked_child_cannot_use_a_cipher_of_its_parent() -> None:
    near, far = channels()
    ciphertext = near.send_cipher.encrypt(b"of the parent")
    for call in (
        lambda: near.send_cipher.encrypt(b"of the child"),
        lambda: near.send_cipher.encrypt_into(b"of the child", bytearray(28)),
        lambda: far.receive_cipher.decrypt(ciphertext),
    ):
        assert in_fork(call).startswith("RuntimeError: the cipher belongs to the parent")
    assert far.receive_cipher.decrypt(ciphertext) == b"of the parent"
    assert far.receive_cipher.decrypt(near.send_cipher.encrypt(b"again")) == b"again"


@needs_fork
@pytest.mark.parametrize("step", [1, 2])
def test_a_forked_child_cannot_continue_a_handshake_of_its_parent(step: int) -> None:
    writer, reader, message = up_to(step)
    assert in_fork(lambda: reader.read_message(message)).startswith("RuntimeError: the handshake")
    reader.read_message(message)
    assert in_fork(lambda: reader.write_message(b"")).startswith("RuntimeError: the handshake")
    assert in_fork(writer.finish).startswith("RuntimeError: the handshake")


@needs_fork
def test_a_forked_child_has_ciphers_of_its_own() -> None:
    def talk() -> bytes:
        near, far = channels()
        return far.receive_cipher.decrypt(near.send_cipher.encrypt(b"of the child"))

    assert in_fork(talk) == "b'of the child'"
