"""Every exception that the library raises.

An exception's class says what is wrong and what you can do about it, and its attributes carry the
facts. The original error of another library is chained as ``__cause__``. The tree::

    STTError
     +-- STTConfigError (ValueError)         a setting that cannot work
     +-- STTSeedError (ValueError)           a seed that cannot be used
     +-- STTEventError                       a handler that is not async, or nothing emits any more
     +-- STTListenError                      the node cannot listen where it was told to
     +-- STTEndpointError                    unknown, already present, or no way to send to it
     |    +-- STTTimeoutError (TimeoutError) nothing arrived, or was accepted, in time
     +-- STTConnectError                     no session could be made; nothing was sent
     |    +-- STTHandshakeError              something answers, but the handshake failed
     |    +-- STTIdentityError               a member of the group, but not the expected one
     |         +-- STTSilenceError            (STTHandshakeError too) no reply: either of the two
     +-- STTSessionError
     |    +-- STTMessageSizeError (ValueError) the message is too long; nothing was accepted
     |    +-- STTWindowFullError             the send window is full; nothing was accepted
     |    +-- STTSessionClosedError          the session accepts no more messages
     |         +-- STTPeerGoneError           (STTTimeoutError too) it ended during a receive
     |         +-- STTSessionLostError       it ended without an acknowledged close
     +-- STTRequestError                     a request without a good reply; says if it was handled
     |    +-- STTRequestTimeoutError (TimeoutError) no reply came in the time given
     |    +-- STTRequestUnreachableError     (STTConnectError, too) no session to send it over
     |    +-- STTRequestRefusedError         the peer serves no requests
     |    +-- STTRequestFailedError          the peer's handler failed
     |    +-- STTRequestLostError            (STTSessionClosedError, too) the session has ended
     +-- STTProtocolError                    the peer broke the protocol
          +-- STTAuthenticationError         bytes that no holder of the keys wrote
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
    "STTPeerGoneError",
    "STTProtocolError",
    "STTRequestError",
    "STTRequestFailedError",
    "STTRequestLostError",
    "STTRequestRefusedError",
    "STTRequestTimeoutError",
    "STTRequestUnreachableError",
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
    """A setting that cannot work. The message names the setting and the values it takes."""


class STTSeedError(STTError, ValueError):
    """A seed that cannot be used. The message never contains the seed."""


class STTEventError(STTError):
    """A handler that cannot be registered, or a wait for an event that nothing emits any more.

    The message names the handler and says what to write instead, or says what has ended.
    """


class STTListenError(STTError):
    """The node cannot listen on the given address; ``__cause__`` is the system's error."""


class STTEndpointError(STTError):
    """The endpoint is unknown or already present, or there is no way to send to it.

    Or a receive cannot return anything, because the node was stopped.
    """


class STTTimeoutError(STTEndpointError, TimeoutError):
    """The timeout expired, or the endpoint that a receive waited for was removed meanwhile.

    Nothing was consumed and nothing was accepted.
    """


class STTConnectError(STTError):
    """No session could be made with the peer. Nothing was sent to it."""


class STTHandshakeError(STTConnectError):
    """Something answers, but the handshake failed: another seed, version, or protocol."""


class STTIdentityError(STTConnectError):
    """The peer knows the shared seed but is not the one you expected, or is this very node."""


class STTSilenceError(STTHandshakeError, STTIdentityError):
    """Something accepts connections at that address but does not reply as the expected peer.

    It is another node of the group, or has another shared seed. Neither replies, so there is no
    telling which it is.
    """


class STTSessionError(STTError):
    """Base of the errors of one session."""


class STTMessageSizeError(STTSessionError, ValueError):
    """The message is longer than this side or the peer allows. It was not accepted."""


class STTWindowFullError(STTSessionError):
    """The send window is full. The message was not accepted; ``await send()`` waits for room."""


class STTSessionClosedError(STTSessionError):
    """The session is closing or closed. It accepts no more messages, and brings none."""


class STTPeerGoneError(STTSessionClosedError, STTTimeoutError):
    """The peer's last session ended while a receive waited for it: no answer will come.

    It is a timeout as well, for programs that give a peer a certain time to answer. A receive that
    begins later raises a plain `STTSessionClosedError`, so a loop that retries after a timeout
    does not spin.
    """


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
        # By default, exceptions are copied with their positional arguments alone.
        make = partial(
            type(self),
            session_id=self.session_id,
            peer_node_id=self.peer_node_id,
            unsent=self.unsent,
            unknown=self.unknown,
        )
        return make, self.args, self.__dict__


class STTRequestError(STTError):
    """A request has no good reply.

    Attributes:
        handled: Whether the peer's handler was called for it: True or False if that is certain,
            None if it may or may not have been.

    """

    handled: bool | None = None


class STTRequestTimeoutError(STTRequestError, TimeoutError):
    """No reply came in the time given. The peer is told, and its handler is cancelled."""


class STTRequestUnreachableError(STTRequestError, STTConnectError):
    """There is no session with the peer, and none could be made.

    The request was certainly not handled.

    ``__cause__`` says why: STTEndpointError for an endpoint that is unknown or has no address, or
    the STTConnectError of its dial.
    """

    handled: bool | None = False


class STTRequestRefusedError(STTRequestError):
    """The peer serves no requests, or no longer does. The request was certainly not handled."""

    handled: bool | None = False


class STTRequestFailedError(STTRequestError):
    """The peer's handler failed.

    A handler may raise it to give the asking peer a reason: ``STTRequestFailedError(b"no such
    device")``. Nothing about any other exception leaves the node.

    Attributes:
        data: The reason that the handler chose to give; empty if it gave none.
        is_outcome: Whether a request of this node has ended with this error. If a handler lets such
            an error propagate, that counts as any other failure: what one peer has said is not
            passed on to another. To do so, raise a new one: ``STTRequestFailedError(error.data)``.

    """

    handled: bool | None = True
    is_outcome: bool = False

    def __init__(self, data: bytes = b"") -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"the reason of a failure must be bytes, not {type(data).__name__}")
        if data:
            text = f"the peer's handler failed; its reason ({len(data)} bytes) is in `data`"
        else:
            text = "the peer's handler failed and gave no reason: see the peer's log"
        super().__init__(text)
        self.data: bytes = bytes(data)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.data,), self.__dict__


class STTRequestLostError(STTRequestError, STTSessionClosedError):
    """The session ended before the reply came, or had ended before the request was sent."""


class STTProtocolError(STTError):
    """The peer sent something that the protocol does not allow. Its connection is closed."""


class STTAuthenticationError(STTProtocolError):
    """Bytes that no holder of the keys wrote: they were tampered with, forged or misdirected."""


class STTLimitError(STTProtocolError):
    """The peer exceeded a limit."""


def reason_of(error: OSError) -> str:
    """Return what went wrong in the system's words, without the call and the address."""
    if error.errno is None or error.errno <= 0 or error.errno == errno.EINVAL:
        # Several errors, an unknown name, or something that is not an address: the text says which.
        return error.strerror or str(error)
    return os.strerror(error.errno)
