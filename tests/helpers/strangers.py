"""What strangers send to a listening node, and what forgers change between two nodes.

For the tests and the soak program. A `Forger` works on a node in memory, and fails at the first
forgery that the node accepts.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import Counter
from typing import TYPE_CHECKING, Any

from helpers.independent import (
    ACCEPTED,
    DATA,
    NEW,
    PING,
    RESUME,
    Channel,
    Keys,
    Opening,
    Reply,
    Stream,
    dial,
    first_message,
    frame,
    initiate,
    number,
    numbers,
    start_noise,
)
from helpers.nodes import until
from seigr_toolset_transmissions import STTError
from seigr_toolset_transmissions.errors import STTConnectError

if TYPE_CHECKING:
    from random import Random

    from seigr_toolset_transmissions import STTNode
    from seigr_toolset_transmissions.transports.base import Address, Network

__all__ = ["FIRST_BYTES", "PROBES", "Forger", "mutated", "opening_of", "probe"]

FIRST_BYTES = 64
CREDIT = 1 << 40


def _client_hello() -> bytes:
    """What a browser sends first."""
    to_send = ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), to_send, server_hostname="a.test")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return to_send.read()


PROBES = {
    "nothing": b"",
    "1 byte": b"x",
    "63 bytes": bytes(63),
    "64 bytes": bytes(64),
    "65 bytes": bytes(65),
    "1 MiB": bytes(range(256)) * 4096,
    "HTTP": b"GET / HTTP/1.1\r\nHost: a.test\r\nUser-Agent: probe/1.0\r\nAccept: */*\r\n\r\n",
    "TLS": _client_hello(),
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
}


def opening_of(shared_seed: bytes) -> bytes:
    """Return a first message from a member of that group."""
    return first_message(start_noise(Keys(shared_seed), initiator=True))


async def probe(address: Address, data: bytes) -> bytes:
    """Connect, send this, and return everything that comes back until the connection ends."""
    reader, writer = await asyncio.open_connection(*address)
    answer = b""
    with contextlib.suppress(ConnectionError):
        writer.write(data)
        if len(data) < FIRST_BYTES:
            writer.write_eof()
        answer = await reader.read()
    writer.transport.abort()
    return answer


_LOW_ORDER = bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")
"""A public key that yields no shared secret."""


def mutated(chance: Random, data: bytes, *, longer: bool = False) -> bytes:
    """Return other bytes, more or less similar; longer ones only if ``longer`` is true."""
    result = bytearray(data)
    match chance.randrange(8 if longer else 7):
        case 0 | 1 | 2:
            result[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        case 3:
            at = chance.randrange(len(data))
            result[at : at + 16] = chance.randbytes(len(data[at : at + 16]))
        case 4:
            result = bytearray(chance.randbytes(len(data)))
        case 5:
            result[:32] = _LOW_ORDER[: len(result)]
        case 6:
            del result[chance.randrange(len(data)) :]
        case _:
            result += chance.randbytes(1 + chance.randrange(40))
    return bytes(result) if result != data else mutated(chance, data, longer=longer)


class Forger:
    """Changes handshakes and records on their way to a node, or from it.

    Args:
        network: The in-memory network.
        node: The node that listens there, with `member`'s shared seed.
        member: The member whose messages are changed.
        chance: Decides how they are changed.

    """

    def __init__(self, network: Network, node: STTNode, member: Keys, chance: Random) -> None:
        self._network = network
        self._node = node
        self._member = member
        self._chance = chance
        self._first = first_message(start_noise(member, initiator=True))
        self._session_id = b""
        self._epoch = 0
        self._dialed: asyncio.Queue[Stream] = asyncio.Queue()
        self.done: Counter[str] = Counter()
        self.causes: Counter[type] = Counter()
        """The errors with which the node ended connections."""
        self._watch(node._life.acceptor, "failed")
        self._watch(node._registry, "session_suspended")

    def _watch(self, owner: Any, method: str) -> None:
        inner = getattr(owner, method)

        def watched(subject: object, cause: Exception | None) -> None:
            self.causes[type(cause)] += 1
            inner(subject, cause)

        setattr(owner, method, watched)

    @property
    def address(self) -> Address:
        assert self._node.address is not None
        return self._node.address

    def undocumented(self) -> list[str]:
        """Return the names of causes that are neither protocol nor connection errors."""
        allowed = (STTError, ConnectionError, type(None))
        return [cause.__name__ for cause in self.causes if not issubclass(cause, allowed)]

    async def begin(self) -> None:
        """Open a session whose records can be changed, and listen for dials from the node."""
        opening = Opening(NEW, 1 << 22, self._member.incarnation, credit=CREDIT)
        channel, _ = await dial(self._network, self.address, self._member, opening)
        assert (await channel.welcome()).status == ACCEPTED
        channel.write(numbers(0, CREDIT))
        self._session_id = channel.session_id
        await until(lambda: self._node.get_session(channel.session_id))
        self._listener = await self._network.listen(
            lambda: Stream(self._dialed.put_nowait), "forger", 1
        )

    async def end(self) -> None:
        """Show that the session is unharmed, and end."""
        channel = await self._resume()
        channel.write(frame(DATA, b"genuine"))
        data, _ = await self._node.endpoints.receive_from(self._member.node_id, timeout=5)
        assert data == b"genuine"
        channel.stream.transport.abort()
        await self._listener.close()

    async def forge(self, kind: str) -> None:
        """Try one forgery, which must fail."""
        opened = self._node.stats().sessions_opened
        await getattr(self, f"_forge_{kind}")()
        assert self._node.stats().sessions_opened == opened
        self.done[kind] += 1

    async def _send(self, stream: Stream, genuine: bytes) -> None:
        """Send something else, and check that there is no reply."""
        stream.transport.write(mutated(self._chance, genuine, longer=True))
        stream.transport.close()
        assert await stream.rest() == b""

    async def _forge_first(self) -> None:
        stream = Stream()
        await self._network.dial(stream, *self.address)
        await self._send(stream, self._first)

    async def _forge_second(self) -> None:
        dialing = asyncio.ensure_future(self._node._life.dialer.dial("forger", 1, None))
        stream = await self._dialed.get()
        noise = start_noise(self._member, initiator=False)
        noise.read_message(await stream.read(FIRST_BYTES))
        reply = Reply(1, 1 << 22, self._member.incarnation)
        stream.transport.write(mutated(self._chance, bytes(noise.write_message(reply.encode()))))
        stream.transport.close()
        try:
            await dialing
        except STTConnectError:
            return
        raise AssertionError("a forged answer was accepted")

    async def _forge_third(self) -> None:
        stream = Stream()
        await self._network.dial(stream, *self.address)
        noise, _, _ = await initiate(stream, self._member)
        opening = Opening(NEW, 1 << 22, self._member.incarnation, credit=CREDIT)
        await self._send(stream, bytes(noise.write_message(opening.encode())))

    async def _forge_record(self) -> None:
        channel = await self._resume()
        message = frame(DATA, self._chance.randbytes(self._chance.randrange(200)))
        genuine = channel.seal(self._chance.choice([message, number(PING, 1)]))
        session = self._node.get_session(self._session_id)
        assert session is not None
        before = session.stats.bytes_received
        channel.stream.transport.write(mutated(self._chance, genuine))
        channel.stream.transport.close()
        await channel.stream.ended.wait()
        assert session.stats.bytes_received == before

    async def _resume(self) -> Channel:
        self._epoch += 1
        opening = Opening(
            RESUME,
            1 << 22,
            self._member.incarnation,
            self._session_id,
            self._epoch,
            0,
            CREDIT,
        )
        channel, _ = await dial(self._network, self.address, self._member, opening)
        assert (await channel.welcome()).status == ACCEPTED
        return channel
