"""What the secure channel keeps to itself: its keys, in texts, copies and forked processes."""

from __future__ import annotations

import copy
import gc
import hmac
import pickle
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from helpers.forked import in_fork, needs_fork
from helpers.noise import (
    INITIATOR_EPHEMERAL,
    INITIATOR_STATIC,
    PAYLOADS,
    PSK,
    RESPONDER_EPHEMERAL,
    RESPONDER_STATIC,
    channels,
    initiator,
    public,
    responder,
    up_to,
)
from seigr_toolset_transmissions.protocol import noise
from seigr_toolset_transmissions.protocol.noise import (
    KEY_BYTES,
    CipherState,
)

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
