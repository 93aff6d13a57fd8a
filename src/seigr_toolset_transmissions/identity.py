"""From seeds to keys: a node's identity, and what its group shares.

A seed is the user's secret; nothing is encrypted with a seed itself. For each seed::

    root = scrypt(seed, salt=SHA-256(label), N=2**15, r=8, p=1, 32 bytes)
    key  = HKDF-Expand(SHA-256, root, info=purpose, 32 bytes)

scrypt (RFC 7914) makes each guess at a weak phrase cost about 80 ms and 32 MiB; HKDF-Expand (RFC
5869, Section 2.3) keeps keys of different purposes apart. The labels and purposes are part of the
protocol (``docs/wire-format.md``): changing one changes every node's keys.

Deriving is slow, so do it outside the event loop's thread. Results are cached per process, and
every function here may be called from any thread.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from hashlib import sha256
from threading import Lock
from typing import Final, Never

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from .foundation.forks import in_child
from .seeds import check_seed

__all__ = [
    "NODE_ID_BYTES",
    "NODE_ID_LABEL",
    "NODE_SEED_LABEL",
    "PSK_PURPOSE",
    "SHARED_SEED_LABEL",
    "STATIC_KEY_PURPOSE",
    "Identity",
    "derive_group_secret",
    "derive_psk",
    "derive_secret",
    "node_id_of",
]

NODE_ID_BYTES: Final = 32
"""Length of a node id."""

SHARED_SEED_LABEL: Final = b"seigr-stt/1 shared-seed"
"""Label of the root that comes from the group's seed."""

NODE_SEED_LABEL: Final = b"seigr-stt/1 node-seed"
"""Label of the root that comes from a node's own seed; another label, so that one seed used for
both gives unrelated keys."""

PSK_PURPOSE: Final = b"seigr-stt/1 psk"
"""Purpose of the pre-shared key of the handshake."""

STATIC_KEY_PURPOSE: Final = b"seigr-stt/1 static-key"
"""Purpose of the node's long-term X25519 private key."""

NODE_ID_LABEL: Final = b"seigr-stt/1 node-id"
"""What is hashed before the static public key to give the node id."""

_KEY_BYTES: Final = 32
_SCRYPT_N: Final = 2**15
_SCRYPT_R: Final = 8
_SCRYPT_P: Final = 1

_CACHE_SIZE: Final = 1024
"""Keys remembered, about 200 bytes each. A node needs two; simulations run hundreds of nodes."""

_cache: dict[bytes, bytes] = {}
_cache_key = secrets.token_bytes(32)
"""Seeds are not kept: the cache knows them by a keyed hash, which is worth nothing elsewhere."""
_cache_lock = Lock()


def _begin_process() -> None:
    # The thread that held the lock, if there was one, is not in the forked child.
    global _cache_lock  # noqa: PLW0603
    _cache_lock = Lock()


in_child(_begin_process)


def derive_psk(shared_seed: bytes) -> bytes:
    """Return the group's pre-shared key, 32 bytes. Slow at first: see the module.

    Raises:
        STTSeedError: See `check_seed`.

    """
    return derive_group_secret(shared_seed, PSK_PURPOSE)


def derive_group_secret(shared_seed: bytes, purpose: bytes) -> bytes:
    """Return a secret of 32 bytes of the group's, for a purpose of its own. Slow at first.

    Nothing that is derived from the same seed for another purpose helps to find it.

    Raises:
        STTSeedError: See `check_seed`.

    """
    return _derive(check_seed(shared_seed, "shared_seed"), SHARED_SEED_LABEL, purpose)


def derive_secret(node_seed: bytes, purpose: bytes) -> bytes:
    """Return a secret of 32 bytes for a purpose of its own. Slow at first.

    Nothing that is derived from the same seed for another purpose helps to find it.
    """
    return _derive(node_seed, NODE_SEED_LABEL, purpose)


def node_id_of(public_key: bytes) -> bytes:
    """Return the id, 32 bytes, of the node that has this static public key (32 bytes)."""
    return sha256(NODE_ID_LABEL + public_key).digest()


@dataclass(frozen=True, slots=True)
class Identity:
    """A node's identity: its static key pair, and the id by which others know it.

    Two identities are equal if their ids are. The private key appears in no repr, and an identity
    can be neither pickled nor copied: it is immutable, and its key belongs in no file.
    """

    private_key: X25519PrivateKey = field(repr=False, compare=False)
    """The static private key."""
    public_key: bytes = field(init=False, repr=False, compare=False)
    """The static public key, 32 bytes."""
    node_id: bytes = field(init=False)
    """`node_id_of` the public key, 32 bytes."""

    def __post_init__(self) -> None:
        public_key = self.private_key.public_key().public_bytes_raw()
        object.__setattr__(self, "public_key", public_key)
        object.__setattr__(self, "node_id", node_id_of(public_key))

    def __repr__(self) -> str:
        return f"Identity(node_id={self.node_id.hex()})"

    def __reduce__(self) -> Never:
        raise TypeError("Identity holds a private key and can neither be pickled nor copied")

    @classmethod
    def from_seed(cls, node_seed: bytes) -> Identity:
        """Return the identity that this seed stands for, always the same. Slow at first.

        Raises:
            STTSeedError: See `check_seed`.

        """
        key = _derive(check_seed(node_seed, "node_seed"), NODE_SEED_LABEL, STATIC_KEY_PURPOSE)
        return cls(X25519PrivateKey.from_private_bytes(key))


def _derive(seed: bytes, label: bytes, purpose: bytes) -> bytes:
    """Return the key for a purpose, 32 bytes, from the cache if it is there."""
    # Seeds have any length: label and purpose come in a block of one length before them.
    entry = hmac.digest(_cache_key, sha256(label + b"\0" + purpose).digest() + seed, "sha256")
    key = _cache.get(entry)
    if key is not None:
        return key
    # One at a time: many nodes starting at once take turns with 32 MiB, and the same seed is
    # derived once.
    with _cache_lock:
        key = _cache.get(entry)
        if key is None:
            salt = sha256(label).digest()
            root = Scrypt(
                salt=salt, length=_KEY_BYTES, n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P
            ).derive(seed)
            key = HKDFExpand(algorithm=SHA256(), length=_KEY_BYTES, info=purpose).derive(root)
            if len(_cache) >= _CACHE_SIZE:
                del _cache[next(iter(_cache))]
            _cache[entry] = key
    return key
