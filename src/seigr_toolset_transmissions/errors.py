"""Every exception that the library raises.

An exception's class says who is at fault and what the caller can do; its attributes carry the
facts; the original error of a foreign library is chained as ``__cause__``. The tree::

    STTError
     +-- STTConfigError (ValueError)         a setting that cannot work
     +-- STTSeedError (ValueError)           a seed that is too short or of the wrong type
     +-- STTEventError                       a handler that cannot be registered
     +-- STTListenError                      the node cannot listen where it was told to
     +-- STTEndpointError                    unknown, already present, or no way to send to it
     |    +-- STTTimeoutError (TimeoutError) nothing arrived, or was accepted, in the time given
     +-- STTConnectError                     no session could be made; nothing was sent
     |    +-- STTHandshakeError              an answer, but no common secret or version
     |    +-- STTIdentityError               a member of the group, but not the expected one
     |         +-- STTSilenceError            (STTHandshakeError, too) one of both: it did not say
     +-- STTSessionError
     |    +-- STTMessageSizeError (ValueError) the message is too long; nothing was accepted
     |    +-- STTWindowFullError             the send window is full; nothing was accepted
     |    +-- STTSessionClosedError          the session takes no more messages
     |         +-- STTSessionLostError       it ended without an acknowledged close
     +-- STTProtocolError                    the peer broke the protocol
          +-- STTAuthenticationError         bytes that no holder of the keys has written
          +-- STTLimitError                  the peer exceeded a limit of `config.NodeConfig`

No exception of this library contains a seed, a key or a message's content in its text.
"""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import Any

__all__ = [
    "STTAuthenticationError",
    "STTConfigError",
    "STTConnectError",
    "STTEndpointError",
    "STTError",
    "STTEventError",
    "STTHandshakeError",
    "STTIdentityError",
    "STTLimitError",
    "STTListenError",
    "STTMessageSizeError",
    "STTProtocolError",
    "STTSeedError",
    "STTSessionClosedError",
    "STTSessionError",
    "STTSessionLostError",
    "STTSilenceError",
    "STTTimeoutError",
    "STTWindowFullError",
    "reason_of",
]


class STTError(Exception):
    """Base of every exception that this library raises on purpose."""


class STTConfigError(STTError, ValueError):
    """A setting that cannot work; the message names the setting and the values it takes."""


class STTSeedError(STTError, ValueError):
    """A seed that cannot be used. The message never contains the seed."""


class STTEventError(STTError):
    """A handler that cannot be registered, or a wait for an event that nobody emits any more.

    The message names the handler and says what to write, or says who has ended.
    """


class STTListenError(STTError):
    """The node cannot listen on the given address; the operating system's error is the cause."""


class STTEndpointError(STTError):
    """The endpoint is unknown, or already present, or there is no way to send to it."""


class STTTimeoutError(STTEndpointError, TimeoutError):
    """The time given ran out, or the endpoint that a receive waited for was removed meanwhile.

    Nothing was consumed and nothing was accepted.
    """


class STTConnectError(STTError):
    """No session could be made with the peer. Nothing was sent to it."""


class STTHandshakeError(STTConnectError):
    """Somebody answered, but the handshake failed: another seed, version, or protocol."""


class STTIdentityError(STTConnectError):
    """The peer knows the shared seed but is not who was expected (or is this very node)."""


class STTSilenceError(STTHandshakeError, STTIdentityError):
    """Whoever is there did not answer to the call for the expected peer.

    It is another node of the group, or has another seed: either does not say which.
    """


class STTSessionError(STTError):
    """Base of the errors of one session."""


class STTMessageSizeError(STTSessionError, ValueError):
    """The message is longer than this side or its peer allows. It was not accepted."""


class STTWindowFullError(STTSessionError):
    """The send window is full. The message was not accepted; wait with ``await send()``."""


class STTSessionClosedError(STTSessionError):
    """The session is closing or closed and takes no more messages."""


class STTSessionLostError(STTSessionClosedError):
    """The session ended without an acknowledged close.

    Attributes:
        session_id: The session's id, 16 bytes.
        peer_node_id: The peer's identity, 32 bytes.
        unsent: Messages that the peer has certainly not received, oldest first.
        unknown: Messages that were sent but not acknowledged, oldest first: each may or may
            not have arrived.

    """

    def __init__(
        self,
        reason: str,
        *,
        session_id: bytes,
        peer_node_id: bytes,
        unsent: tuple[bytes, ...],
        unknown: tuple[bytes, ...],
    ) -> None:
        super().__init__(reason)
        self.session_id = session_id
        self.peer_node_id = peer_node_id
        self.unsent = unsent
        self.unknown = unknown

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are made anew with their positional arguments alone.
        make = partial(
            type(self),
            session_id=self.session_id,
            peer_node_id=self.peer_node_id,
            unsent=self.unsent,
            unknown=self.unknown,
        )
        return make, self.args, self.__dict__


class STTProtocolError(STTError):
    """The peer sent what the protocol does not allow. Its connection is closed."""


class STTAuthenticationError(STTProtocolError):
    """Bytes that no holder of the keys has written: tampered, forged or misdirected."""


class STTLimitError(STTProtocolError):
    """The peer exceeded a limit."""


def reason_of(error: OSError) -> str:
    """Return what went wrong in the system's words, without whose call and which address it was."""
    if error.errno is None or error.errno <= 0 or error.errno == errno.EINVAL:
        # Several errors, a name that is not known, or what is no address at all: it says which.
        return error.strerror or str(error)
    return os.strerror(error.errno)
