"""What the three handshake messages carry (``docs/wire-format.md``): versions, limits, identities.

The payloads have fixed sizes, so that the messages need no length prefix and a stranger learns
nothing from them. The reserved bytes are sent as zeros and ignored when received.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from .errors import STTProtocolError

__all__ = [
    "HELLO_BYTES",
    "OPENING_BYTES",
    "REPLY_BYTES",
    "VERSION",
    "Hello",
    "Opening",
    "OpeningKind",
    "Reply",
]

VERSION = 1

_hello = Struct(">BB14x")
_reply = Struct(">B3xI16s40x")
_opening = Struct(">B3xI16s16sQQQ32x")

HELLO_BYTES = _hello.size
REPLY_BYTES = _reply.size
OPENING_BYTES = _opening.size


class Hello(NamedTuple):
    """First message, dialer to listener: the versions that the dialer speaks, both included."""

    min_version: int
    max_version: int

    def encode(self) -> bytes:
        """Return the payload, `HELLO_BYTES` long."""
        return _hello.pack(*self)

    @classmethod
    def decode(cls, payload: bytes) -> Hello:
        """Read a payload of `HELLO_BYTES`."""
        return cls(*_hello.unpack(payload))


class Reply(NamedTuple):
    """Second message, listener to dialer."""

    version: int
    max_message_bytes: int
    incarnation: bytes
    """16 random bytes that the listener's process drew when its node started."""

    def encode(self) -> bytes:
        """Return the payload, `REPLY_BYTES` long."""
        return _reply.pack(*self)

    @classmethod
    def decode(cls, payload: bytes) -> Reply:
        """Read a payload of `REPLY_BYTES`."""
        return cls(*_reply.unpack(payload))


class OpeningKind(IntEnum):
    """What the dialer wants."""

    NEW = 0
    RESUME = 1


class Opening(NamedTuple):
    """Third message, dialer to listener.

    For NEW, ``session_id`` is zeros (the id is taken from the handshake) and ``epoch`` and
    ``recv_next`` are 0.
    """

    kind: OpeningKind
    max_message_bytes: int
    incarnation: bytes
    session_id: bytes
    epoch: int
    recv_next: int
    credit: int

    def encode(self) -> bytes:
        """Return the payload, `OPENING_BYTES` long."""
        return _opening.pack(*self)

    @classmethod
    def decode(cls, payload: bytes) -> Opening:
        """Read a payload of `OPENING_BYTES`.

        Raises:
            STTProtocolError: An opening of an unknown kind.

        """
        kind, *rest = _opening.unpack(payload)
        try:
            return cls(OpeningKind(kind), *rest)
        except ValueError as error:
            raise STTProtocolError(f"an opening of the unknown kind {kind}") from error
