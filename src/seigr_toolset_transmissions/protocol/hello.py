"""What the three handshake messages carry (``docs/wire-format.md``): versions, limits, identities.

The payloads have fixed sizes, so the messages need no length prefix, and a stranger learns nothing
from them. Reserved bytes are sent as zeros and ignored when received.
"""

from __future__ import annotations

import hmac
from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from ..errors import STTProtocolError

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

_RECIPIENT_LABEL = b"seigr-stt/1 recipient"
_RECIPIENT_BYTES = 8
_NODE_BYTES = 4
"""This much of the recipient names the node, and the rest the node again or one of its hubs."""
_NOBODY_NAMED = bytes(_RECIPIENT_BYTES)
_TIME_BYTES = 6

_hello = Struct(f">BB{_TIME_BYTES}s{_RECIPIENT_BYTES}s")
_reply = Struct(">BB2xI16s40x")
_HUB = 1
_opening = Struct(">BB2xI16s16sQQQ32x")

HELLO_BYTES = _hello.size
REPLY_BYTES = _reply.size
OPENING_BYTES = _opening.size


class Hello(NamedTuple):
    """First message, dialer to listener.

    Anyone who records the message can send it again. Because it states its recipient and time, all
    other nodes ignore it then, and so does the recipient after a restart. Both may be left out.
    """

    min_version: int
    max_version: int
    """The versions that the dialer speaks, both included."""
    written_at: int = 0
    """When it was written, in milliseconds since the epoch by the dialer's clock; 0: not stated."""
    recipient: bytes = _NOBODY_NAMED
    """A hash of the intended node's id, with one of the intended hub's incarnation in its second
    half if there is such a hub; zeros: not stated."""

    def meant_for(self, node_id: bytes, incarnation: bytes = b"") -> Hello:
        """Return the same message, but for this node only.

        Args:
            node_id: The node's id.
            incarnation: Which of the hubs that share this id has the dialer's session; empty: none.

        """
        recipient = self._hash_of(node_id)
        if incarnation:
            hub = self._hash_of(incarnation)
            recipient = recipient[:_NODE_BYTES] + hub[: _RECIPIENT_BYTES - _NODE_BYTES]
        return self._replace(recipient=recipient)

    def may_be_for(self, node_id: bytes) -> bool:
        """Return whether it names this node, or none, as its recipient."""
        if self.recipient == _NOBODY_NAMED:
            return True
        return self.recipient[:_NODE_BYTES] == self._hash_of(node_id)[:_NODE_BYTES]

    def names_hub(self, node_id: bytes) -> bool:
        """Return whether it is for a certain one of the hubs that share this id."""
        return self.recipient not in (_NOBODY_NAMED, self._hash_of(node_id))

    def is_for_hub(self, incarnation: bytes) -> bool:
        """Return whether that hub, if it names one, is the one with this incarnation."""
        hub = self._hash_of(incarnation)
        return self.recipient[_NODE_BYTES:] == hub[: _RECIPIENT_BYTES - _NODE_BYTES]

    def _hash_of(self, name: bytes) -> bytes:
        # With the time, so that members who do not know the name learn little of who dials whom.
        text = _RECIPIENT_LABEL + self.written_at.to_bytes(_TIME_BYTES)
        return hmac.digest(name, text, "sha256")[:_RECIPIENT_BYTES]

    def encode(self) -> bytes:
        """Return the payload, `HELLO_BYTES` long."""
        time = self.written_at.to_bytes(_TIME_BYTES)
        return _hello.pack(self.min_version, self.max_version, time, self.recipient)

    @classmethod
    def decode(cls, payload: bytes) -> Hello:
        """Read a payload of `HELLO_BYTES`."""
        min_version, max_version, time, recipient = _hello.unpack(payload)
        return cls(min_version, max_version, int.from_bytes(time), recipient)


class Reply(NamedTuple):
    """Second message, listener to dialer."""

    version: int
    max_message_bytes: int
    incarnation: bytes
    """16 random bytes that the listener's process drew when its node started."""
    hub: bool = False
    """Whether other processes listen with the same identity, as the hubs of a cluster do."""

    def encode(self) -> bytes:
        """Return the payload, `REPLY_BYTES` long."""
        flags = _HUB if self.hub else 0
        return _reply.pack(self.version, flags, self.max_message_bytes, self.incarnation)

    @classmethod
    def decode(cls, payload: bytes) -> Reply:
        """Read a payload of `REPLY_BYTES`."""
        version, flags, max_message_bytes, incarnation = _reply.unpack(payload)
        return cls(version, max_message_bytes, incarnation, bool(flags & _HUB))


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
    hub: bool = False
    """Whether other processes dial with the same identity, as the hubs of a cluster do."""

    def encode(self) -> bytes:
        """Return the payload, `OPENING_BYTES` long."""
        return _opening.pack(self.kind, _HUB if self.hub else 0, *self[1:-1])

    @classmethod
    def decode(cls, payload: bytes) -> Opening:
        """Read a payload of `OPENING_BYTES`.

        Raises:
            STTProtocolError: An opening of an unknown kind.

        """
        kind, flags, *rest = _opening.unpack(payload)
        try:
            return cls(OpeningKind(kind), *rest)._replace(hub=bool(flags & _HUB))
        except ValueError as error:
            raise STTProtocolError(f"an opening of the unknown kind {kind}") from error
