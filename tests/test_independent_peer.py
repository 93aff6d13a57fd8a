"""A node and another implementation of the protocol understand each other, over TCP.

The other one is `helpers.independent_peer`, written from ``docs/wire-format.md`` alone. It is the
dialer in half of the tests, and the listener in the others.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from helpers.independent import (
    CANCELLED,
    ENDED,
    FAILED,
    FORBIDDEN,
    NEW,
    OK,
    PAD,
    REFUSED,
    RESUME,
    UNKNOWN,
    UNSERVED,
    Channel,
    Keys,
    Opening,
    Reply,
    Stream,
    first_message,
    frame,
    recipient_of,
    start_noise,
)
from helpers.independent_peer import Host, Peer, Rules
from helpers.nodes import SHARED_SEED, EventLog, Nodes, address_of, in_virtual_time, seed_of, until
from seigr_toolset_transmissions.errors import (
    STTConnectError,
    STTHandshakeError,
    STTRequestFailedError,
    STTRequestRefusedError,
    STTSessionLostError,
)
from seigr_toolset_transmissions.protocol import noise
from seigr_toolset_transmissions.transports.tcp import TcpNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from seigr_toolset_transmissions import Session, STTNode

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "wire-format.md"
KIB = 1024
SIZES = [0, 1, 1000, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 128 * KIB, 300_000]
"""A message of 64 KiB is one frame, of 128 KiB two parts and an empty frame."""

LIBERTIES = {
    "as this implementation": Rules(),
    "small parts": Rules(part_bytes=777),
    "small records": Rules(record_bytes=1000),
    "little credit": Rules(max_message=512 * KIB, window=1024 * KIB, part_bytes=5000),
}


@cache
def keys(name: str, shared: bytes = SHARED_SEED) -> Keys:
    return Keys(shared, seed_of(name))


OTHER_GROUP = keys("alice", b"the seed of quite another group")


class Both(NamedTuple):
    """A node's session with the other implementation, and the other's end of it."""

    node: STTNode
    session: Session
    peer: Peer
    host: Host | None
    """Where the other listens; None if it dials."""

    async def cut(self) -> None:
        """Break the connection, and let the session continue over another one."""
        resumes = self.session.stats.resumes
        await self.peer.leave()
        if self.host is None:
            await self.peer.resume(TcpNetwork(), address_of(self.node))
        await until(lambda: self.session.stats.resumes > resumes)


@asynccontextmanager
async def connected(role: str, rules: Rules | None = None) -> AsyncIterator[Both]:
    """Connect a node and the other implementation, which has this role."""
    async with Nodes(reconnect_delay=0.01) as nodes:
        if role == "dialer":
            node = await nodes.listen("bob")
            peer = Peer(keys("alice"), rules)
            await peer.connect(TcpNetwork(), address_of(node))
            await until(lambda: node.sessions)
            yield Both(node, node.sessions[0], peer, None)
            await peer.leave()
        else:
            async with Host(TcpNetwork(), keys("alice"), rules) as host:
                node = await nodes.start("bob")
                session = await node.connect(*host.address, expect=keys("alice").node_id)
                yield Both(node, session, host.peers[session.session_id], host)


def numbered(count: int, size: int = 100) -> list[bytes]:
    return [number.to_bytes(4) * (size // 4) for number in range(count)]


async def receive(node: STTNode, count: int) -> list[bytes]:
    return [(await node.endpoints.receive_any(timeout=9))[0] for _ in range(count)]


async def receive_other(peer: Peer, count: int) -> list[bytes]:
    async with asyncio.timeout(9):
        return [await peer.messages.get() for _ in range(count)]


both_roles = pytest.mark.parametrize("role", ["dialer", "listener"])


@both_roles
@pytest.mark.parametrize("rules", LIBERTIES.values(), ids=LIBERTIES)
async def test_messages_of_all_sizes_arrive_both_ways(role: str, rules: Rules) -> None:
    async with connected(role, rules) as both:
        messages = [bytes([number]) * size for number, size in enumerate(SIZES)]
        for message in messages:
            both.peer.send(message)
            await both.session.send(message)
        assert await receive(both.node, len(SIZES)) == messages
        assert await receive_other(both.peer, len(SIZES)) == messages


@both_roles
async def test_both_agree_on_their_identities_and_the_session_id(role: str) -> None:
    async with connected(role) as both:
        assert both.peer.peer_node_id == both.node.node_id
        assert both.session.peer_node_id == both.peer.keys.node_id
        assert both.session.session_id == both.peer.session_id
        assert both.peer.peer_max_message == both.node.config.max_message_bytes


@both_roles
async def test_received_messages_are_acknowledged_both_ways(role: str) -> None:
    async with connected(role) as both:
        for message in numbered(50):
            both.peer.send(message)
            await both.session.send(message)
        await both.session.flush()
        assert both.session.stats.unacknowledged_bytes == 0
        await receive(both.node, 50)
        await until(lambda: both.peer.acked == 50)


@both_roles
async def test_new_credit_lets_more_through_than_one_window(role: str) -> None:
    rules = Rules(max_message=8 * KIB, window=16 * KIB)
    async with connected(role, rules) as both:
        messages = numbered(100, 4000)
        sending = asyncio.ensure_future(send_all(both.session, messages))
        assert await receive_other(both.peer, 100) == messages
        await sending


async def send_all(session: Session, messages: list[bytes]) -> None:
    for message in messages:
        await session.send(message)


@both_roles
async def test_each_side_answers_the_others_ping(role: str) -> None:
    async with connected(role) as both:
        both.session.ping()
        await until(lambda: both.session.rtt is not None)
        both.peer.ping(0xFEDCBA9876543210)
        await until(lambda: both.peer.pongs == [0xFEDCBA9876543210])


@both_roles
async def test_padding_is_ignored(role: str) -> None:
    async with connected(role) as both:
        assert both.peer.channel is not None
        both.peer.channel.write(b"")
        both.peer.channel.write(frame(PAD), frame(PAD, bytes(64 * KIB)))
        both.peer.send(b"behind it")
        assert await receive(both.node, 1) == [b"behind it"]


@both_roles
@pytest.mark.parametrize("closer", ["node", "other", "both"])
async def test_a_session_is_closed_as_both_agree(role: str, closer: str) -> None:
    async with connected(role) as both:
        log = EventLog(both.node)
        both.peer.send(b"the last word of the other")
        await both.session.send(b"the last word of the node")
        if closer != "other":
            closing = asyncio.ensure_future(both.session.close())
            await asyncio.sleep(0)
        if closer != "node":
            both.peer.close()
        await until(lambda: both.peer.closed)
        await log.until("session_closed")
        if closer != "other":
            await closing
        assert await receive(both.node, 1) == [b"the last word of the other"]
        assert await receive_other(both.peer, 1) == [b"the last word of the node"]
        assert log.errors == []
        assert both.session.error is None


@both_roles
async def test_a_cut_session_is_resumed_and_nothing_is_lost_or_doubled(role: str) -> None:
    async with connected(role) as both:
        messages = numbered(300, 2000)
        for _ in range(3):
            for message in messages[:150]:
                both.peer.send(message)
                both.session.send_nowait(message)
            await both.cut()
            for message in messages[150:]:
                both.peer.send(message)
                both.session.send_nowait(message)
            assert await receive(both.node, 300) == messages
            assert await receive_other(both.peer, 300) == messages
        both.peer.close()
        await until(lambda: both.peer.closed)


@both_roles
async def test_a_message_in_parts_continues_after_a_cut(role: str) -> None:
    async with connected(role) as both:
        message = bytes(range(256)) * 4 * KIB
        both.peer.send(message)
        both.session.send_nowait(message)
        await both.cut()
        assert await receive(both.node, 1) == [message]
        assert await receive_other(both.peer, 1) == [message]


@both_roles
async def test_both_change_their_keys_after_the_same_records(
    role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a key for eight records only; the worked example has the real number."""
    monkeypatch.setattr(noise, "_REKEY_MASK", 7)
    async with connected(role, Rules(rekey_after=8)) as both:
        for message in numbered(40):
            both.peer.send(message)
            assert await receive(both.node, 1) == [message]
            await both.session.send(message)
            assert await receive_other(both.peer, 1) == [message]
        channel = both.peer.channel
        assert channel is not None
        assert min(channel.records_sent, channel.records_received) >= 40


# Requests and replies


async def reply_other(peer: Peer, request_id: int) -> tuple[int, bytes]:
    """The reply to a request of the other implementation."""
    await until(lambda: request_id in peer.replies)
    return peer.replies[request_id]


@both_roles
@pytest.mark.parametrize("rules", LIBERTIES.values(), ids=LIBERTIES)
async def test_each_side_answers_the_others_requests_of_all_sizes(role: str, rules: Rules) -> None:
    async with connected(role, rules) as both:

        @both.node.on_request
        async def answer(_peer_node_id: bytes, data: bytes) -> bytes:
            return data[::-1]

        for number, size in enumerate(SIZES):
            data = b"?" + bytes([number]) * size
            assert await reply_other(both.peer, both.peer.request(data)) == (OK, data[::-1])
            asking = asyncio.ensure_future(both.session.request(data, timeout=9))
            request_id, arrived = await both.peer.requests.get()
            assert (request_id, arrived) == (number, data)
            both.peer.reply(request_id, OK, arrived[::-1])
            assert await asking == data[::-1]


@both_roles
async def test_replies_may_come_in_any_order(role: str) -> None:
    async with connected(role) as both:
        asking = [asyncio.ensure_future(both.session.request(b"%d" % n)) for n in range(5)]
        arrived = [await both.peer.requests.get() for _ in asking]
        for request_id, data in reversed(arrived):
            both.peer.reply(request_id, OK, data)
        assert await asyncio.gather(*asking) == [b"%d" % n for n in range(5)]


@both_roles
async def test_each_side_learns_why_a_request_was_not_answered(role: str) -> None:
    async with connected(role) as both:
        assert await reply_other(both.peer, both.peer.request(b"")) == (UNSERVED, b"")

        @both.node.on_request
        async def fail(_peer_node_id: bytes, data: bytes) -> bytes:
            raise STTRequestFailedError(data)

        assert await reply_other(both.peer, both.peer.request(b"why")) == (FAILED, b"why")
        for status, error in (
            (FAILED, STTRequestFailedError),
            (UNSERVED, STTRequestRefusedError),
            (CANCELLED, STTRequestFailedError),
        ):
            asking = asyncio.ensure_future(both.session.request(b"?"))
            request_id, _ = await both.peer.requests.get()
            both.peer.reply(request_id, status)
            with pytest.raises(error):
                await asking


@both_roles
@pytest.mark.parametrize("cut", [False, True], ids=["", "over a resumed connection"])
async def test_each_side_hears_that_the_other_has_cancelled(role: str, cut: bool) -> None:
    async with connected(role) as both:
        begun, cancelled = asyncio.Event(), asyncio.Event()

        @both.node.on_request
        async def wait(_peer_node_id: bytes, _data: bytes) -> bytes:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return b""

        mine = both.peer.request(bytes(100_000))
        async with asyncio.timeout(9):
            await begun.wait()
            asking = asyncio.ensure_future(both.session.request(bytes(100_000)))
            theirs, _ = await both.peer.requests.get()
            if cut:  # neither CANCEL gets across before it
                assert both.peer.channel is not None
                both.peer.channel.stream.transport.abort()
            both.peer.cancel(mine)
            asking.cancel()
            await asyncio.wait([asking])
            if cut:
                await both.cut()
            await cancelled.wait()
            await until(lambda: both.peer.cancelled == [theirs])
        assert await reply_other(both.peer, mine) == (CANCELLED, b"")
        both.peer.reply(theirs, OK, b"it crossed")
        await both.session.flush()
        follow_up = asyncio.ensure_future(both.session.request(b"next"))
        request_id, _ = await both.peer.requests.get()
        assert request_id == theirs + 1
        both.peer.reply(request_id, OK, b"there")
        assert await follow_up == b"there"


@both_roles
async def test_requests_and_replies_continue_after_cuts(role: str) -> None:
    async with connected(role) as both:
        handled: list[bytes] = []

        @both.node.on_request
        async def answer(_peer_node_id: bytes, data: bytes) -> bytes:
            handled.append(data)
            return data

        for turn in range(3):
            data = [bytes([turn, n]) * 40_000 for n in range(6)]
            mine = [both.peer.request(one) for one in data[:3]]
            asking = [asyncio.ensure_future(both.session.request(one)) for one in data]
            await asyncio.sleep(0)
            await both.cut()
            mine += [both.peer.request(one) for one in data[3:]]
            for _ in data:
                request_id, arrived = await both.peer.requests.get()
                both.peer.reply(request_id, OK, arrived)
            await both.cut()
            assert [await reply_other(both.peer, one) for one in mine] == [(OK, d) for d in data]
            assert await asyncio.gather(*asking) == data
            assert handled == data
            handled.clear()


# Refusals


async def test_the_dialer_learns_why_a_session_is_not_resumed() -> None:
    async with connected("dialer") as both:
        both.peer.send(b"received")
        assert await receive(both.node, 1) == [b"received"]
        await both.session.close()
        both.peer.closed = False
        await both.peer.resume(TcpNetwork(), address_of(both.node))
        await until(lambda: len(both.peer.welcomes) == 2)
        both.peer.session_id = b"never was there."
        await both.peer.resume(TcpNetwork(), address_of(both.node))
        await until(lambda: len(both.peer.welcomes) == 3)
        assert both.peer.welcomes[1:] == [(ENDED, 1, 0), (UNKNOWN, 0, 0)]


async def test_the_dialer_learns_that_it_is_not_allowed_or_beyond_a_limit() -> None:
    async with Nodes(max_sessions=1) as nodes:
        node = await nodes.listen("bob")
        for status in (0, REFUSED, FORBIDDEN):
            if status == FORBIDDEN:
                await node.ban(keys("alice").node_id)
            peer = Peer(keys("alice"))
            await peer.connect(TcpNetwork(), address_of(node))
            await until(lambda: peer.welcomes)  # noqa: B023  within this turn of the loop
            assert peer.welcomes[0].status == status
            if status:
                await peer.leave()
            else:
                first = peer
        await first.leave()


@pytest.mark.parametrize(
    ("status", "words"),
    [(REFUSED, "accepts no more sessions"), (FORBIDDEN, "does not allow this node")],
)
async def test_a_node_says_why_the_listener_did_not_accept(status: int, words: str) -> None:
    async with Nodes() as nodes, Host(TcpNetwork(), keys("alice")) as host:
        host.refusal = status
        node = await nodes.start("bob")
        with pytest.raises(STTConnectError, match=words):
            await node.connect(*host.address)


async def test_a_node_that_may_not_resume_says_what_is_lost() -> None:
    async with connected("listener") as both:
        assert both.host is not None
        both.host.refusal = UNKNOWN
        log = EventLog(both.node)
        await both.peer.leave()
        both.session.send_nowait(b"too late")
        lost = await log.until("error")
        assert lost["error_type"] == "session_lost"
        assert isinstance(both.session.error, STTSessionLostError)


async def test_a_member_of_another_group_gets_no_answer_from_a_node() -> None:
    async with Nodes() as nodes:
        node = await nodes.listen("bob")
        stream = Stream()
        await TcpNetwork().dial(stream, *address_of(node))
        stream.transport.write(first_message(start_noise(OTHER_GROUP, initiator=True)))
        assert await stream.rest() == b""


@pytest.mark.parametrize("recipient", ["nobody", "the node", "another"])
async def test_a_node_answers_a_first_message_that_names_it_or_nobody(recipient: str) -> None:
    async with Nodes() as nodes:
        node = await nodes.listen("bob")
        now = (time.time_ns() // 1_000_000 + 60_000).to_bytes(6)
        named = {"nobody": bytes(8), "the node": recipient_of(now, node.node_id)}
        message = first_message(
            start_noise(keys("alice"), initiator=True),
            time=now,
            recipient=named.get(recipient, recipient_of(now, keys("carol").node_id)),
        )
        stream = Stream()
        await TcpNetwork().dial(stream, *address_of(node))
        stream.transport.write(message)
        if recipient == "another":
            assert await stream.rest() == b""
        else:
            await stream.read(160)
            stream.transport.abort()


async def test_a_node_gets_no_answer_from_another_group() -> None:
    async with Nodes() as nodes, Host(TcpNetwork(), OTHER_GROUP) as host:
        node = await nodes.start("bob")
        with pytest.raises(STTHandshakeError):
            await node.connect(*host.address)


# The worked example


def worked_example() -> dict[str, bytes]:
    """The values of the document's worked example, by their names."""
    block = DOCUMENT.read_text(encoding="utf-8").partition("```text\n")[2].partition("```")[0]
    values: dict[str, str] = {}
    name = ""
    for line in block.splitlines():
        if line.startswith(" "):
            values[name] += line.strip()
        else:
            name = line.rstrip(":")
            values[name] = ""
    return {name: bytes.fromhex(digits) for name, digits in values.items()}


def test_the_keys_of_the_worked_example_come_from_its_seeds() -> None:
    values = worked_example()
    shared = values["shared seed"]
    for side in ("dialer's", "listener's"):
        own = Keys(shared, values[f"{side} node seed"])
        assert own.psk == values["pre-shared key"]
        assert own.static == values[f"{side} static private key"]
        assert own.public == values[f"{side} static public key"]
        assert own.node_id == values[f"{side} node id"]


@pytest.mark.filterwarnings("ignore:One of ephemeral keypairs")
@in_virtual_time
async def test_the_conversation_of_the_worked_example_is_that_of_the_other_implementation() -> None:
    values = worked_example()
    sides = []
    for side in ("dialer's", "listener's"):
        own = Keys(values["shared seed"], values[f"{side} node seed"])
        own.incarnation = values[f"{side} incarnation"]
        ephemeral = values[f"{side} ephemeral private key"]
        noise = start_noise(own, initiator=side == "dialer's", ephemeral=ephemeral)
        sides.append((own, noise))
    (dialer, near), (listener, far) = sides
    assert first_message(near) == values["message 1"]
    assert far.read_message(values["message 1"]) == values["payload 1"]
    reply = Reply(1, 4 * KIB * KIB, listener.incarnation).encode()
    assert reply == values["payload 2"]
    assert far.write_message(reply) == values["message 2"]
    near.read_message(values["message 2"])
    opening = Opening(NEW, 4 * KIB * KIB, dialer.incarnation, credit=8 * KIB * KIB)
    assert opening.encode() == values["payload 3"]
    assert near.write_message(opening.encode()) == values["message 3"]
    far.read_message(values["message 3"])
    channels = Channel(Stream(), near, listener.public), Channel(Stream(), far, dialer.public)
    for channel in channels:
        assert channel.session_id == values["session id"]
    for number in range(1, 7):
        record = channels[number % 2].seal(values[f"frames {number}"])
        assert record == values[f"record {number}"]
    again = opening._replace(kind=RESUME, session_id=channels[0].session_id, epoch=1)
    assert again.encode() == values["payload 3 to resume"]

    near.noise_protocol.cipher_state_encrypt.initialize_key(values["key of a direction"])
    channel = Channel(Stream(), near, listener.public)
    records = [channel.seal(b"") for _ in range(65_537)]
    for number in (0, 65_535, 65_536):
        assert records[number] == values[f"empty record with counter {number}"]
