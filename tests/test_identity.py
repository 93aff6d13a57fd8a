"""Seeds become keys as the protocol says, once per process, and show up nowhere."""

from __future__ import annotations

import copy
import hashlib
import hmac
import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from helpers.forked import in_fork, needs_fork
from seigr_toolset_transmissions import identity
from seigr_toolset_transmissions.errors import STTSeedError
from seigr_toolset_transmissions.identity import (
    NODE_ID_BYTES,
    Identity,
    derive_psk,
    node_id_of,
)

SEED = b"a seed that only tests use"


def by_the_book(seed: bytes, label: bytes, purpose: bytes) -> bytes:
    """Derive a key with the standard library alone."""
    salt = hashlib.sha256(label).digest()
    root = hashlib.scrypt(seed, salt=salt, n=2**15, r=8, p=1, maxmem=2**26, dklen=32)
    return hmac.digest(root, purpose + b"\x01", "sha256")  # HKDF-Expand: one block of output


class CountingScrypt:
    """A derivation that costs nothing and is counted."""

    derived: list[bytes]

    def __init__(self, **_: object) -> None: ...

    def derive(self, seed: bytes) -> bytes:
        self.derived.append(seed)
        return hashlib.sha256(seed).digest()


@pytest.fixture
def derived(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Start with an empty cache, and list the seeds that were derived from."""
    monkeypatch.setattr(identity, "_cache", {})
    monkeypatch.setattr(identity, "Scrypt", CountingScrypt)
    monkeypatch.setattr(CountingScrypt, "derived", [], raising=False)
    return CountingScrypt.derived


# Derivation


@pytest.fixture
def nothing_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_cache", {})


def test_the_pre_shared_key_is_derived_as_the_protocol_says(nothing_cached: None) -> None:
    assert derive_psk(SEED) == by_the_book(SEED, b"seigr-stt/1 shared-seed", b"seigr-stt/1 psk")


def test_the_identity_is_derived_as_the_protocol_says(nothing_cached: None) -> None:
    me = Identity.from_seed(SEED)
    private = by_the_book(SEED, b"seigr-stt/1 node-seed", b"seigr-stt/1 static-key")
    assert me.private_key.private_bytes_raw() == private
    key = X25519PrivateKey.from_private_bytes(private)
    assert me.public_key == key.public_key().public_bytes_raw()
    assert me.node_id == hashlib.sha256(b"seigr-stt/1 node-id" + me.public_key).digest()


def test_the_derived_values_never_change() -> None:
    """A change here would cut every node off from its peers and from its own identity."""
    assert (
        derive_psk(SEED).hex() == "54cb89674e8e7f35484b83f5932ca9c6030b9c6188c0aadb36f60270dbb1b03e"
    )
    assert (
        Identity.from_seed(SEED).public_key.hex()
        == "09e839639719d3df5a16b055a8b9234aeecf991703f3adbb8241c739022b0640"
    )
    assert (
        Identity.from_seed(SEED).node_id.hex()
        == "1792ce3f5bee40bb9b260914c86d8d80b3951d91f3cd712fdb1b49ee20bf6a58"
    )


def test_one_seed_used_for_both_gives_unrelated_keys() -> None:
    assert derive_psk(SEED) != Identity.from_seed(SEED).private_key.private_bytes_raw()


def test_the_same_seed_gives_the_same_identity_and_another_seed_another() -> None:
    first, again = Identity.from_seed(SEED), Identity.from_seed(SEED)
    other = Identity.from_seed(SEED + b"!")
    assert first == again
    assert hash(first) == hash(again)
    assert first != other
    assert first.node_id != other.node_id


def test_a_node_id_has_32_bytes_and_follows_from_the_public_key() -> None:
    key = X25519PrivateKey.generate()
    me = Identity(key)
    assert me.private_key is key
    assert me.node_id == node_id_of(me.public_key)
    assert len(me.node_id) == NODE_ID_BYTES == 32


# Seeds


@pytest.mark.parametrize("seed", [b"", b"short", "x" * 32, bytearray(32), None])
def test_nothing_is_derived_from_a_seed_that_cannot_be_used(
    seed: Any, derived: list[bytes]
) -> None:
    with pytest.raises(STTSeedError, match="shared_seed"):
        derive_psk(seed)
    with pytest.raises(STTSeedError, match="node_seed"):
        Identity.from_seed(seed)
    assert derived == []


# The cache


def test_a_key_is_derived_once(derived: list[bytes]) -> None:
    assert derive_psk(SEED) == derive_psk(SEED)
    assert derived == [SEED]
    assert Identity.from_seed(SEED) == Identity.from_seed(SEED)
    assert derived == [SEED, SEED]


def test_threads_that_want_the_same_key_at_once_derive_it_once(
    derived: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    second = Event()

    def derive(_: CountingScrypt, seed: bytes) -> bytes:
        derived.append(seed)
        if len(derived) > 1:
            second.set()
        second.wait(0.1)  # time enough for another thread to come in, if it could
        return hashlib.sha256(seed).digest()

    monkeypatch.setattr(CountingScrypt, "derive", derive)
    with ThreadPoolExecutor(4) as pool:
        keys = {future.result() for future in [pool.submit(derive_psk, SEED) for _ in range(4)]}
    assert len(keys) == 1
    assert derived == [SEED]


def test_the_cache_is_bounded_and_the_oldest_goes_first(
    derived: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "_CACHE_SIZE", 3)
    seeds = [SEED + bytes([number]) for number in range(5)]
    for seed in seeds:
        derive_psk(seed)
    assert len(identity._cache) == 3
    derived.clear()
    for seed in (*seeds[2:], seeds[0]):
        derive_psk(seed)
    assert derived == [seeds[0]]


def test_the_cache_knows_no_seed(derived: list[bytes]) -> None:
    derive_psk(SEED)
    Identity.from_seed(SEED)
    assert len(identity._cache) == 2
    for entry, key in identity._cache.items():
        assert SEED not in entry + key
        assert entry != hashlib.sha256(SEED).digest()
        assert len(entry) == len(key) == 32


# Secrets


def test_no_text_shows_the_private_key_or_the_seed() -> None:
    me = Identity.from_seed(SEED)
    private = me.private_key.private_bytes_raw()
    for text in (repr(me), str(me), f"{me}"):
        assert me.node_id.hex() in text
        for secret in (private, SEED):
            assert secret[:8].hex() not in text
            assert repr(secret[:8])[2:-1] not in text
        assert "private" not in text


def test_an_identity_is_neither_pickled_nor_copied() -> None:
    me = Identity.from_seed(SEED)
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="private key"):
            attempt(me)


@pytest.mark.parametrize("name", ["private_key", "public_key", "node_id"])
def test_an_identity_does_not_change(name: str) -> None:
    me = Identity.from_seed(SEED)
    with pytest.raises(AttributeError):
        setattr(me, name, b"")
    assert not hasattr(me, "__dict__")


@needs_fork
def test_a_forked_child_derives_keys_even_while_its_parent_does() -> None:
    other = b"a seed that only a child uses"
    with identity._cache_lock:  # held by a thread that the child does not have
        in_child = in_fork(lambda: Identity.from_seed(other).node_id)
    assert in_child == str(Identity.from_seed(other).node_id)
