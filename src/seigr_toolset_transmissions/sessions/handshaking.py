"""Handshakes over a transport: both sides, up to the secure channel.

The listener's side is driven by callbacks, so that a stranger costs no task. It sends nothing
before its peer has proven that it knows the shared seed, and whatever is wrong, it closes the
connection without an answer. The dialer's side is a coroutine, because its caller waits anyway.
"""

from __future__ import annotations

import asyncio
import time
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..errors import STTAuthenticationError, STTHandshakeError, STTIdentityError, STTProtocolError
from ..identity import node_id_of
from ..protocol.hello import HELLO_BYTES, OPENING_BYTES, REPLY_BYTES, VERSION, Hello, Opening, Reply
from ..protocol.noise import KEY_BYTES, XXPSK0

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..protocol.noise import Channel, Handshake
    from ..transports.base import Address, Network, Transport

__all__ = [
    "Answering",
    "AnsweringUser",
    "Dialed",
    "FirstMessages",
    "Landing",
    "dial",
    "wall_clock",
]

_FIRST = XXPSK0.message_size(0, HELLO_BYTES)
_SECOND = XXPSK0.message_size(1, REPLY_BYTES)
_THIRD = XXPSK0.message_size(2, OPENING_BYTES)


def wall_clock() -> int:
    """Return the time that first messages state: milliseconds since the epoch."""
    return max(0, time.time_ns() // 1_000_000)  # some machines wake up before 1970


class FirstMessages:
    """Decides which first messages get an answer, so that a replayed one gets none.

    It remembers the keys of recent messages; earlier ones are recognized by the time that they
    state. Only messages encrypted under the shared seed come here, so a stranger cannot fill it.

    Args:
        limit: How many messages it remembers.

    """

    __slots__ = ("_keys", "_limit", "_node_id", "_since")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._keys: dict[bytes, int] = {}  # with the time of arrival
        self._node_id = b""
        self._since = 0  # messages written before that time may be replayed: they get no answer

    def begin(self, node_id: bytes) -> None:
        """Begin a life of the node that has this id."""
        self._node_id = node_id
        self._since = max(self._since, wall_clock())

    def check(self, message: bytes, hello: Hello) -> None:
        """Remember this first message.

        Raises:
            STTAuthenticationError: It must not be answered.

        """
        key = message[:KEY_BYTES]
        if key in self._keys:
            raise STTAuthenticationError("the first message was replayed")
        if not hello.may_be_for(self._node_id):
            raise STTAuthenticationError("the dialer expects another node here")
        if hello.written_at and hello.written_at < self._since:
            raise STTAuthenticationError("the first message is from before this node's start")
        self._keys[key] = wall_clock()
        if len(self._keys) > self._limit:
            oldest = next(iter(self._keys))
            self._since = max(self._since, self._keys.pop(oldest) + 1)


class Landing(Enum):
    """What becomes of a connection whose first message is valid."""

    #: It is answered here.
    HERE = "here"
    #: It was handed over, to be passed on to the hub that has the dialer's session.
    PASSED_ON = "passed on"
    #: That hub cannot be reached now: the connection ends, and the dialer tries again.
    LATER = "later"


class AnsweringUser(Protocol):
    """What the listener's side of a handshake reports to."""

    def landed(
        self, answering: Answering, transport: Transport, hello: Hello, message: bytes
    ) -> Landing:
        """Decide where to answer a valid first message, and hand its transport over if elsewhere.

        Args:
            answering: What has received it. It forgets a transport that was handed over.
            transport: Where it came from.
            hello: What it says.
            message: All of its bytes.

        """

    def entered(self, answering: Answering) -> bool:
        """Admit a new connection, or return False to have it dropped (`Answering.drop`)."""

    def proven(self, answering: Answering) -> None:
        """Note that the dialer knows the shared seed; it is not authenticated yet."""

    def authenticated(
        self, answering: Answering, transport: Transport, channel: Channel, opening: Opening
    ) -> None:
        """Hand the transport over to another receiver, or end it (`Answering.end`)."""

    def failed(self, answering: Answering, cause: Exception | None) -> None:
        """Note that the handshake has failed for this cause; the transport has been aborted."""

    def gone(self, answering: Answering) -> None:
        """Note that the transport has ended; never called after it was handed over."""


class Answering:
    """The listener's side of one handshake: a `Receiver` until the channel is made.

    Args:
        user: What to report to.
        handshakes: The node's handshakes, one for each of its shared seeds; they are copied. The
            first one that can read the dialer's first message is used.
        reply: The payload of our message.
        first_messages: Decides which first messages this node answers.
        deadline: Seconds for the whole handshake.
        passed_on: Whether another hub has passed the connection on to this node.

    """

    __slots__ = (
        "_deadline",
        "_first_messages",
        "_handshake",
        "_handshakes",
        "_over",
        "_reply",
        "_timer",
        "_transport",
        "_user",
        "dropped",
        "heard",
        "passed_on",
    )

    def __init__(
        self,
        user: AnsweringUser,
        handshakes: Sequence[Handshake],
        reply: Reply,
        first_messages: FirstMessages,
        deadline: float,
        *,
        passed_on: bool = False,
    ) -> None:
        self.passed_on: bool = passed_on
        self._user = user
        self._handshakes = handshakes
        self._handshake: Handshake | None = None  # from the first message on
        self._over = False
        self._reply = reply
        self._first_messages = first_messages
        self._transport: Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = deadline
        self.heard: bool = False
        """Whether the dialer has sent anything."""
        self.dropped: bool = False
        """Whether the connection was dropped: there are too many, or its hub is out of reach."""

    def connection_made(self, transport: Transport) -> None:
        """Wait for the first message from now on."""
        self._transport = transport
        if self._over:  # aborted before
            transport.abort()
        elif not self._user.entered(self):
            self.drop()
        else:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._deadline, self._too_late)

    def bytes_received(self, data: memoryview) -> int:
        """Take the next message once it has arrived whole."""
        if self._over:
            return len(data)
        self.heard = True
        size = _FIRST if self._handshake is None else _THIRD
        if len(data) < size:
            return 0
        if len(data) > size:
            # The dialer must not send anything before it has our answer.
            self.abort(STTProtocolError("more than one handshake message at once"))
            return len(data)
        try:
            if self._handshake is None:
                self._answer(bytes(data))
            else:
                self._finish(self._handshake, data)
        except (STTProtocolError, STTIdentityError) as error:
            self.abort(error)
        return size

    def _answer(self, message: bytes) -> None:
        handshake, payload = self._read_first(message)
        hello = Hello.decode(payload)
        self._first_messages.check(message, hello)
        if not hello.min_version <= VERSION <= hello.max_version:
            raise STTProtocolError(
                f"a dialer that speaks versions {hello.min_version} to {hello.max_version}, "
                f"not {VERSION}"
            )
        assert self._transport is not None  # noqa: S101  connection_made comes first
        landing = self._user.landed(self, self._transport, hello, message)
        if landing is Landing.PASSED_ON:
            self._stop_timer()
            self._over = True
            self._transport = None
        elif landing is Landing.LATER:
            self.drop()
        else:
            self._handshake = handshake
            self._user.proven(self)
            self._transport.write(handshake.write_message(self._reply.encode()))

    def _read_first(self, message: bytes) -> tuple[Handshake, bytes]:
        """Return the handshake that can read the message, and the payload."""
        *others, last = self._handshakes
        for template in others:
            handshake = template.copy()
            try:
                return handshake, handshake.read_message(message)
            except STTAuthenticationError:
                continue  # not under this shared seed
        handshake = last.copy()
        return handshake, handshake.read_message(message)

    def _finish(self, handshake: Handshake, message: memoryview) -> None:
        opening = Opening.decode(handshake.read_message(message))
        self._stop_timer()
        self._over = True
        assert self._transport is not None  # noqa: S101  connection_made comes first
        self._user.authenticated(self, self._transport, handshake.finish(), opening)

    @property
    def peer_address(self) -> Address:
        """Where the dialer is: host and port."""
        assert self._transport is not None  # noqa: S101  connection_made comes first
        return self._transport.peer_address

    def end(self) -> None:
        """Send what was written and end the connection, within the deadline."""
        if self._transport is not None:
            self._transport.close()
            self._timer = asyncio.get_running_loop().call_later(
                self._deadline, self._transport.abort
            )

    def _too_late(self) -> None:
        self.abort(STTHandshakeError(f"no complete handshake within {self._deadline} s"))

    def pause_writing(self) -> None:
        """Nothing to do: a handshake writes one short message."""

    def resume_writing(self) -> None:
        """Nothing to do: see `pause_writing`."""

    def connection_lost(self, cause: Exception | None) -> None:
        """Report the failure, unless one has been reported."""
        self.abort(cause)
        self._user.gone(self)

    def drop(self) -> None:
        """End the connection without an answer, and without a report: the dialer tries again."""
        self.dropped = True
        self.abort(None)

    def abort(self, cause: Exception | None) -> None:
        """End the connection without an answer and report why, unless that was done before."""
        self._stop_timer()
        if self._transport is not None:
            self._transport.abort()
        if not self._over:
            self._over = True
            self._handshake = None
            self._user.failed(self, cause)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Dialing:
    """The dialer's `Receiver` until the channel is made: collects the listener's message."""

    __slots__ = ("_arrived", "_message", "lost")

    def __init__(self) -> None:
        self._message = b""
        self._arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost: bool = False
        """Whether the connection has ended."""

    async def message(self) -> bytes:
        """Wait for the message; empty if the connection ends first."""
        await self._arrived
        return self._message

    def connection_made(self, transport: Transport) -> None:
        pass

    def bytes_received(self, data: memoryview) -> int:
        if self._message or len(data) < _SECOND:
            return 0
        self._message = bytes(data[:_SECOND])
        self._wake()
        return _SECOND

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass

    def connection_lost(self, cause: Exception | None) -> None:
        self.lost = True
        self._wake()

    def _wake(self) -> None:
        if not self._arrived.done():
            self._arrived.set_result(None)


class Dialed(NamedTuple):
    """A connection whose listener is authenticated and waits for the third message."""

    transport: Transport
    receiver: _Dialing
    handshake: Handshake
    reply: Reply
    peer_node_id: bytes

    def open(self, opening: Opening) -> Channel:
        """Send the third message; return the channel. Hand the transport over in the same turn.

        Raises:
            STTHandshakeError: The connection has ended, and nothing would report that later.

        """
        if self.receiver.lost:
            raise STTHandshakeError("the connection ended before the session was established")
        self.transport.write(self.handshake.write_message(opening.encode()))
        return self.handshake.finish()


async def dial(
    network: Network,
    address: Address,
    handshake: Handshake,
    hello: Hello,
    connected: Callable[[], object] = lambda: None,
) -> Dialed | None:
    """Connect and shake hands up to the third message, which the caller writes.

    ``connected`` is called when there is a connection.

    Returns:
        None if the other end accepted the connection and closed it without an answer.

    Raises:
        OSError: Nothing could be reached there.
        STTHandshakeError: The other end does not know the shared seed, or speaks another version or
            protocol.
        STTIdentityError: The other end has this very node's key.

    After an error or a cancellation, no connection is left open. The caller limits the time.

    """
    receiver = _Dialing()
    transport = await network.dial(receiver, *address)
    try:
        connected()
        transport.write(handshake.write_message(hello.encode()))
        message = await receiver.message()
        if not message:
            return None
        reply = _read_reply(handshake, message)
    except BaseException:
        transport.abort()
        raise
    assert handshake.remote_static is not None  # noqa: S101  known from the second message on
    return Dialed(transport, receiver, handshake, reply, node_id_of(handshake.remote_static))


def _read_reply(handshake: Handshake, message: bytes) -> Reply:
    try:
        reply = Reply.decode(handshake.read_message(message))
    except STTAuthenticationError as error:
        raise STTHandshakeError(
            "the peer's answer does not come from this group: "
            "most likely the peer has another shared seed, or is not an STT node"
        ) from error
    if reply.version != VERSION:
        raise STTHandshakeError(f"the peer chose version {reply.version}, not {VERSION}")
    return reply
