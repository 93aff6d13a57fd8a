"""The figures of a node, its sessions and its endpoints, against a model."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.clock import run_virtual
from helpers.nodes import Nodes, Pair, in_virtual_time, live, memory_nodes
from seigr_toolset_transmissions.errors import STTTimeoutError
from seigr_toolset_transmissions.sessions import session as session_module

if TYPE_CHECKING:
    from seigr_toolset_transmissions import Session, STTNode

MESSAGE_COST = 64


def wall(seconds: float | None = None) -> float:
    """The wall clock's time at this virtual time, or now."""
    return 1e9 + (asyncio.get_running_loop().time() if seconds is None else seconds)


@dataclass
class Side:
    """What one side of a session has sent."""

    session: Session
    sent: list[int] = field(default_factory=list)


@dataclass
class Link:
    """A session, seen from both sides."""

    sides: dict[STTNode, Side]
    resumes: int = 0
    ended: bool = False


class Model:
    """Counts, in the plainest way, what the nodes should count."""

    def __init__(self, nodes: Nodes, pair: Pair, *, push: bool) -> None:
        self.nodes = nodes
        self.dialer, self.listener = pair.dialer, pair.listener
        self.push = push
        self.links: list[Link] = []
        self.unread: dict[STTNode, list[int]] = {self.dialer: [], self.listener: []}
        self.last_message: float | None = None
        self.note(pair)

    def note(self, pair: Pair) -> None:
        sides = {pair.dialer: Side(pair.near), pair.listener: Side(pair.far)}
        self.links.append(Link(sides))

    @property
    def live(self) -> list[Link]:
        return [link for link in self.links if not link.ended]

    def other(self, node: STTNode) -> STTNode:
        return self.listener if node is self.dialer else self.dialer

    def sent(self, node: STTNode, session: Session | None, size: int) -> None:
        (link,) = (link for link in self.live if link.sides[node].session is session)
        link.sides[node].sent.append(size)
        self.last_message = asyncio.get_running_loop().time()
        if not self.push:
            self.unread[self.other(node)].append(size)

    async def act(self, operation: str, which: int, size: int) -> None:
        node = (self.dialer, self.listener)[which % 2]
        peer = self.other(node)
        link = self.live[which % len(self.live)] if self.live else None
        data = bytes(size)
        if operation == "connect" and len(self.live) < 4:
            self.note(await self.nodes.connect(self.dialer, self.listener))
        elif operation == "receive" and self.unread[node]:
            size = self.unread[node].pop(0)
            assert len((await node.endpoints.receive_any(timeout=1))[0]) == size
        elif link is None:
            return
        elif operation == "session":
            await link.sides[node].session.send(data)
            self.sent(node, link.sides[node].session, size)
        elif operation in ("endpoint", "broadcast", "all", "sessions"):
            session = node.get_session_for_endpoint(peer.node_id)
            assert session is not None
            if operation == "endpoint":
                await node.endpoints.send_to_endpoint(peer.node_id, data)
            elif operation == "broadcast":
                assert all((await node.endpoints.broadcast(data)).values())
            elif operation == "all":
                assert all((await node.send_to_all(data)).values())
            else:
                assert all((await node.send_to_sessions([session.session_id], data)).values())
            self.sent(node, session, size)
        elif operation == "close":
            await link.sides[node].session.close()
            link.ended = True
        elif operation == "cut":
            live(link.sides[node].session).cut("for the test")
            link.resumes += 1
        elif operation == "rest":
            await asyncio.sleep(40)  # more than a PING

    def check(self) -> None:
        for node in (self.dialer, self.listener):
            peer = self.other(node)
            for link in self.links:
                stats = link.sides[node].session.stats
                sent, received = link.sides[node].sent, link.sides[peer].sent
                assert (stats.messages_sent, stats.bytes_sent) == (len(sent), sum(sent))
                assert (stats.messages_received, stats.bytes_received) == (
                    len(received),
                    sum(received),
                )
                assert stats.unacknowledged_bytes == 0
                assert stats.resumes == link.resumes
            self.check_endpoint(node, peer)
            stats_of_node = node.stats()
            assert stats_of_node.sessions == len(self.live)
            assert stats_of_node.suspended == 0
            assert stats_of_node.peers == bool(self.live)
            assert stats_of_node.sessions_opened == len(self.links)
            assert stats_of_node.sessions_lost == 0
            assert stats_of_node.resumes == sum(link.resumes for link in self.links)
            unread = self.unread[node]
            assert stats_of_node.buffered_bytes == sum(unread) + MESSAGE_COST * len(unread)
            assert stats_of_node.half_open == 0
            assert stats_of_node.handshakes_failed == stats_of_node.handshakes_dropped == 0
            assert stats_of_node.peers_denied == 0
            sent = [size for link in self.links for size in link.sides[node].sent]
            received = [size for link in self.links for size in link.sides[peer].sent]
            assert (stats_of_node.messages_sent, stats_of_node.bytes_sent) == (len(sent), sum(sent))
            assert stats_of_node.messages_received == len(received)
            assert stats_of_node.bytes_received == sum(received)
            (shown,) = node.snapshot().endpoints
            assert (shown.messages_sent, shown.messages_received) == (len(sent), len(received))
            assert shown.resumes == sum(link.resumes for link in self.links)
            assert shown.sessions == len(self.live)

    def check_endpoint(self, node: STTNode, peer: STTNode) -> None:
        info = node.endpoints.get_endpoint(peer.node_id)
        assert info is not None
        assert info["bytes_sent"] == sum(sum(link.sides[node].sent) for link in self.links)
        assert info["bytes_received"] == sum(sum(link.sides[peer].sent) for link in self.links)
        assert info["state"] == ("connected" if self.live else "disconnected")
        if self.last_message is None:
            assert info["last_activity"] is None
        else:
            assert info["last_activity"] == pytest.approx(wall(self.last_message), abs=0.5)


ways = st.sampled_from(["session", "session", "endpoint", "broadcast", "all", "sessions"])
sizes = st.sampled_from([0, 1, 100, 5000, 65_536, 200_000])
operations = st.lists(
    st.tuples(
        st.one_of(ways, st.sampled_from(["connect", "receive", "close", "cut", "rest"])),
        st.integers(0, 7),
        sizes,
    ),
    max_size=15,
)


@pytest.mark.parametrize("push", [True, False], ids=["push", "pull"])
@given(script=operations)
@settings(max_examples=25, deadline=None)
def test_every_figure_follows_whatever_is_done(
    push: bool, script: list[tuple[str, int, int]]
) -> None:
    async def main() -> None:
        with mock.patch.object(session_module, "time", wall):
            await follow(script, push=push)

    run_virtual(main())


async def follow(script: list[tuple[str, int, int]], *, push: bool) -> None:
    async with memory_nodes() as nodes:
        dialer, listener = await nodes.start("alice"), await nodes.listen("bob")
        for node, peer in ((dialer, listener), (listener, dialer)):
            await node.endpoints.add_endpoint(peer.node_id, None)
            if push:

                @node.events.on("data_received")
                async def take(session_id: bytes, data: bytes) -> None:
                    """Take it."""

        model = Model(nodes, await nodes.connect(dialer, listener), push=push)
        for operation in script:
            await model.act(*operation)
            for link in model.live:
                for side in link.sides.values():
                    await side.session.flush()
            await asyncio.sleep(2)
            model.check()


@pytest.mark.parametrize("push", [True, False], ids=["push", "pull"])
@in_virtual_time
async def test_a_busy_session_measures_its_round_trip(push: bool) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        if push:

            @pair.listener.events.on("data_received")
            async def take(session_id: bytes, data: bytes) -> None:
                """Take it."""

        tokens = live(pair.near).machine._ping_token, live(pair.far).machine._ping_token
        for _ in range(6000):
            await pair.near.send(b"x")
            await asyncio.sleep(0.1)
        for session, before, node in zip(
            (pair.near, pair.far), tokens, (pair.dialer, pair.listener), strict=True
        ):
            assert session.rtt is not None
            assert session.min_rtt is not None
            info = node.endpoints.get_endpoint(session.peer_node_id)
            assert info is not None
            assert info["rtt"] == session.rtt
            # 600 s: one in each interval of 15 s, give or take a tenth and a second.
            assert 34 <= live(session).machine._ping_token - before <= 45


@in_virtual_time
async def test_a_message_that_has_only_begun_counts_when_it_is_complete() -> None:
    async with memory_nodes(max_message_bytes=1 << 20, receive_window_bytes=2 << 20) as nodes:
        pair = await nodes.pair()
        machine = live(pair.far).machine
        before = machine.messages_received, machine.bytes_received
        seen = []
        pair.near.send_nowait(bytes(1_000_000))
        for _ in range(200):
            await asyncio.sleep(0)
            seen.append((machine.messages_received, machine.bytes_received))
        assert set(seen) <= {before, (1, 1_000_000)}
        await pair.near.flush()
        assert (machine.messages_received, machine.bytes_received) == (1, 1_000_000)


@in_virtual_time
async def test_an_endpoint_counts_the_sessions_that_have_ended_since_it_was_added() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        endpoints, peer = pair.listener.endpoints, pair.dialer.node_id
        await endpoints.remove_endpoint(peer)
        await endpoints.add_endpoint(peer, None)
        for count in (1, 2, 3):
            again = await nodes.connect(pair.dialer, pair.listener)
            await again.near.send(bytes(10))
            await again.far.send(bytes(7))
            await again.near.close()
            await asyncio.sleep(1)
            info = endpoints.get_endpoint(peer)
            assert info is not None
            assert (info["bytes_received"], info["bytes_sent"]) == (10 * count, 7 * count)
        await endpoints.remove_endpoint(peer)
        await endpoints.add_endpoint(peer, None)
        info = endpoints.get_endpoint(peer)
        assert info is not None
        assert (info["bytes_received"], info["bytes_sent"]) == (0, 0)
        assert info["last_activity"] is None


@in_virtual_time
async def test_endpoints_of_peers_that_have_gone_count_what_they_take() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        await pair.near.send(b"left behind")
        await pair.near.close()
        await asyncio.sleep(1)
        assert pair.listener.stats().buffered_bytes == 1536 + MESSAGE_COST + len(b"left behind")
        await pair.listener.endpoints.receive_any()
        assert pair.listener.stats().buffered_bytes == 0
        with pytest.raises(STTTimeoutError):
            await pair.listener.endpoints.receive_any(timeout=0)
