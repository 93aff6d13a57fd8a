"""What an announcement says to members, as bytes that mean nothing to others.

Plaintext, 162 bytes: the node id (32), the port (2, big-endian), and up to 8 addresses of 16 bytes
each, an IPv4 address as its IPv6-mapped one; the rest is zeros. It is sealed with
ChaCha20-Poly1305, without associated data. The key is derived from the shared seed; the nonce is
the random name of the announcement, which is never used twice.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

if TYPE_CHECKING:
    from ..transports.base import Address

__all__ = [
    "ANNOUNCEMENT_PURPOSE",
    "MOST_ADDRESSES",
    "NAME_BYTES",
    "SEALED_BYTES",
    "SERVICE",
    "TXT_KEY",
    "IPAddress",
    "Member",
    "Place",
    "seal",
    "unseal",
]

IPAddress = IPv4Address | IPv6Address

SERVICE: Final = "_seigr-stt._tcp.local."
"""The type of the service that is announced."""

TXT_KEY: Final = b"a"
"""The key in the TXT record whose value is what `seal` returns."""

ANNOUNCEMENT_PURPOSE: Final = b"seigr-stt/1 announcement"
"""Purpose of the key that is derived from the shared seed."""

NAME_BYTES: Final = 12
MOST_ADDRESSES: Final = 8

_LAYOUT = struct.Struct(f">32sH{16 * MOST_ADDRESSES}s")
_TAG_BYTES = 16

SEALED_BYTES: Final = _LAYOUT.size + _TAG_BYTES

_NOTHING = IPv6Address(0)
_MAPPED = int(IPv6Address("::ffff:0:0"))


class Member(NamedTuple):
    """A node of the group that was found."""

    node_id: bytes
    """Its node id, 32 bytes."""
    addresses: tuple[Address, ...]
    """Where it says that it listens, as host and port, the most promising first: at least one."""


class Place(NamedTuple):
    """A node, and where it listens: what an announcement says."""

    node_id: bytes
    port: int
    addresses: tuple[IPAddress, ...]
    """From 1 to `MOST_ADDRESSES`."""


def seal(key: bytes, name: bytes, place: Place) -> bytes:
    """Return what an announcement of this name (12 random bytes, new each time) says to members."""
    packed = b"".join(_pack(address) for address in place.addresses)
    return ChaCha20Poly1305(key).encrypt(
        name, _LAYOUT.pack(place.node_id, place.port, packed), None
    )


def unseal(key: bytes, name: bytes, sealed: bytes) -> Place | None:
    """Return what the announcement says; None if no member with this key wrote it under the name.

    None, too, if it is none that could be of use: it has no address, or port 0.
    """
    if len(name) != NAME_BYTES or len(sealed) != SEALED_BYTES:
        return None
    try:
        plain = ChaCha20Poly1305(key).decrypt(name, sealed, None)
    except InvalidTag:
        return None
    node_id, port, packed = _LAYOUT.unpack(plain)
    found = (IPv6Address(packed[at : at + 16]) for at in range(0, len(packed), 16))
    addresses = tuple(address.ipv4_mapped or address for address in found if address != _NOTHING)
    return Place(node_id, port, addresses) if port and addresses else None


def _pack(address: IPAddress) -> bytes:
    if isinstance(address, IPv4Address):
        address = IPv6Address(_MAPPED | int(address))
    return address.packed
