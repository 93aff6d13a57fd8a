"""The seeds of a node and of its group, and the keys derived from them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Never

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ..foundation.workers import Workers
from ..identity import Identity, derive_group_secret, derive_psk, derive_secret
from ..protocol.noise import Handshake
from ..seeds import check_distinct, check_seed, check_shared_seeds

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Keys", "group_secret"]

_deriving = Workers("stt-keys", 1)
"""One thread, because `identity` derives one key at a time; its own, so that no other work holds it
up."""


async def group_secret(shared_seed: bytes, purpose: bytes) -> bytes:
    """Return 32 bytes that only members of the group can derive, for one purpose."""
    return await _deriving.run(partial(derive_group_secret, shared_seed, purpose))


class Keys:
    """The seeds of one node, and what is derived from them.

    Raises:
        STTSeedError: See `node.STTNode`.

    """

    def __init__(self, node_seed: bytes, shared_seed: bytes | Sequence[bytes]) -> None:
        self._node_seed = check_seed(node_seed, "node_seed")
        self._identity: Identity | None = None
        self.share(shared_seed)

    def __reduce__(self) -> Never:
        raise TypeError("Keys holds seeds and can neither be pickled nor copied")

    def share(self, shared_seed: bytes | Sequence[bytes]) -> None:
        """Use this seed, or these, of the group from now on."""
        shared_seeds = check_shared_seeds(shared_seed)
        check_distinct(self._node_seed, shared_seeds)
        self._shared_seeds = shared_seeds

    @property
    def shared_seeds(self) -> tuple[bytes, ...]:
        """The seeds of the group: to dial with the first, and to accept all."""
        return self._shared_seeds

    @property
    def identity(self) -> Identity:
        """The node's identity. Derived on first use, which takes some 100 ms."""
        if self._identity is None:
            self._identity = Identity.from_seed(self._node_seed)
        return self._identity

    def is_own(self, node_id: bytes) -> bool:
        """Whether this is the node's own id; False while that has not been derived."""
        return self._identity is not None and node_id == self._identity.node_id

    async def handshakes(self) -> tuple[Handshake, list[Handshake]]:
        """Return a dialer's handshake at its start, and a listener's for each shared seed."""
        seeds: tuple[bytes, ...] = ()
        while seeds != self._shared_seeds:  # they may be replaced meanwhile
            seeds = self._shared_seeds
            identity, psks = await _deriving.run(partial(self._derive, seeds))
        make = partial(Handshake, static=identity.private_key, ephemeral=X25519PrivateKey.generate)
        dialing = make(psk=psks[0], initiator=True)
        return dialing, [make(psk=psk, initiator=False) for psk in psks]

    async def secret_for(self, purpose: bytes) -> bytes:
        """Return 32 bytes that only holders of the node seed can derive, for one purpose."""
        return await _deriving.run(partial(derive_secret, self._node_seed, purpose))

    def _derive(self, seeds: tuple[bytes, ...]) -> tuple[Identity, list[bytes]]:
        return self.identity, [derive_psk(seed) for seed in seeds]
