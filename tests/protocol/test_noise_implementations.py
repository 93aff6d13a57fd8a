"""The secure channel beside published vectors and other implementations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
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

from helpers.noise import (
    INITIATOR_EPHEMERAL,
    INITIATOR_STATIC,
    PAYLOADS,
    PSK,
    RESPONDER_EPHEMERAL,
    RESPONDER_STATIC,
    initiator,
    public,
    responder,
)
from seigr_toolset_transmissions.errors import STTAuthenticationError
from seigr_toolset_transmissions.protocol.noise import (
    MAX_PLAINTEXT_BYTES,
    PROLOGUE,
    REKEY_INTERVAL,
    XX,
    XXPSK0,
    Channel,
    CipherState,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dissononce.dh.keypair import KeyPair


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
