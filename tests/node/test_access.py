"""Who may have a session: the list, the function, bans; and what a refused peer learns."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import AsyncMock

import pytest

from helpers.nodes import EventLog, Nodes, address_of, in_virtual_time, live, memory_nodes, until
from seigr_toolset_transmissions import Session, STTNode
from seigr_toolset_transmissions.errors import (
    STTConnectError,
    STTIdentityError,
    STTSessionClosedError,
    STTSessionLostError,
)
from seigr_toolset_transmissions.node.access import Access

if TYPE_CHECKING:
    from collections.abc import Callable

ALICE, BOB = b"a" * 32, b"b" * 32


def test_without_a_list_every_member_may() -> None:
    assert Access(None).refusal(ALICE) is None


@pytest.mark.parametrize("kind", [list, tuple, set, frozenset, iter])
def test_a_list_admits_the_nodes_it_names(kind: Callable[[list[bytes]], Any]) -> None:
    access = Access(kind([ALICE]))
    for _ in range(2):
        assert access.refusal(ALICE) is None
        assert access.refusal(BOB) == "the peer is not among the node ids that are allowed"


def test_an_empty_list_admits_no_one() -> None:
    assert Access([]).refusal(ALICE) is not None


def test_a_later_change_of_the_list_given_changes_nothing() -> None:
    allowed = {ALICE}
    access = Access(allowed)
    allowed.clear()
    assert access.refusal(ALICE) is None


def test_a_function_is_asked_each_time() -> None:
    welcome = {ALICE}
    access = Access(lambda node_id: node_id in welcome)
    assert access.refusal(ALICE) is None
    welcome.clear()
    assert access.refusal(ALICE) == "the allow function refused the peer"


class Outcome(BaseException):
    """Such as `pytest.fail` raises."""


@pytest.mark.parametrize("kind", [KeyError, Outcome, asyncio.CancelledError, GeneratorExit])
@in_virtual_time
async def test_a_function_that_fails_admits_no_one_and_does_not_fill_the_log(
    caplog: pytest.LogCaptureFixture, kind: type[BaseException]
) -> None:
    def fail(node_id: bytes) -> bool:
        raise kind("the database is away")

    access = Access(fail)
    for _ in range(1000):
        assert access.refusal(ALICE) == "the allow function failed"
    assert kind.__name__ in caplog.text
    assert "the database is away" in caplog.text
    assert len(caplog.records) == 1
    await asyncio.sleep(60)
    [_, count] = caplog.records
    assert "999 more" in count.getMessage()


async def allow_everybody(node_id: bytes) -> bool:
    return True


@pytest.mark.parametrize("function", [allow_everybody, partial(allow_everybody), AsyncMock()])
def test_an_async_function_is_refused(function: Any) -> None:
    """It returns a coroutine, which is true for every peer."""
    with pytest.raises(TypeError, match="allow function must not be async"):
        Access(function)


@in_virtual_time
async def test_a_function_that_returns_a_coroutine_admits_no_one_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    access = Access(lambda node_id: allow_everybody(node_id))
    assert access.refusal(ALICE) == "the allow function failed"
    assert "returned an awaitable" in caplog.text


def test_a_ban_overrides_the_list_until_it_is_lifted() -> None:
    access = Access([ALICE])
    access.ban(ALICE)
    assert access.refusal(ALICE) == "the peer is banned"
    assert access.banned == {ALICE}
    access.unban(ALICE)
    access.unban(ALICE)
    assert access.refusal(ALICE) is None
    assert access.banned == frozenset()


@pytest.mark.parametrize("allow", [ALICE, bytearray(ALICE), "alice", 5])
def test_an_allow_of_another_type_is_refused(allow: Any) -> None:
    with pytest.raises(TypeError):
        Access(allow)


@pytest.mark.parametrize(("node_id", "error"), [("a" * 32, TypeError), (b"short", ValueError)])
def test_an_invalid_node_id_is_refused(node_id: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="a node id"):
        Access([node_id])
    with pytest.raises(error, match="a node id"):
        Access(None).ban(node_id)


# Whole nodes.


@in_virtual_time
async def test_a_listener_tells_a_member_that_it_is_not_allowed() -> None:
    async with memory_nodes() as nodes:
        alice = await nodes.start("alice")
        carol = await nodes.start("carol")
        listener = await nodes.listen("bob", allow=[alice.node_id])
        log = EventLog(listener)
        await alice.connect(*address_of(listener))
        with pytest.raises(STTConnectError, match="does not allow this node"):
            await carol.connect(*address_of(listener))
        await log.until("error")
        assert log.names == ["session_created", "peer_connected", "error"]
        ((error_type, details),) = log.errors
        assert error_type == "peer_denied"
        assert details["peer_node_id"] == carol.node_id
        assert details["reason"] == "the peer is not among the node ids that are allowed"
        assert details["count"] == 1
        assert listener.stats().peers_denied == 1
        assert list(listener.endpoints) == [alice.node_id]


@in_virtual_time
async def test_a_dialer_refuses_a_peer_it_does_not_allow() -> None:
    async with memory_nodes() as nodes:
        listener = await nodes.listen("bob")
        dialer = await nodes.start("alice", allow=lambda node_id: False)
        log = EventLog(listener)
        with pytest.raises(STTIdentityError, match="refused the peer"):
            await dialer.connect(*address_of(listener))
        assert "session_created" not in log.names


@in_virtual_time
async def test_a_kick_ends_all_sessions_of_a_peer_and_reports_what_did_not_arrive() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        second = await pair.dialer.connect(*address_of(pair.listener))
        await until(lambda: len(pair.listener.sessions) == 2)
        log = EventLog(pair.listener)
        pair.far.send_nowait(b"not yet acknowledged")
        (error,) = await pair.listener.kick(pair.dialer.node_id)
        assert isinstance(error, STTSessionLostError)
        assert error.unsent + error.unknown == (b"not yet acknowledged",)
        assert pair.listener.sessions == []
        await until(lambda: pair.near.state == second.state == "closed")
        await log.until("peer_disconnected")
        assert log.names.count("session_closed") == 2
        assert {error_type for error_type, _ in log.errors} == {"session_lost"}
        again = await pair.dialer.connect(*address_of(pair.listener))
        assert again.state == "open"


@in_virtual_time
async def test_a_kick_of_an_unknown_peer_does_nothing() -> None:
    async with memory_nodes() as nodes:
        node = await nodes.start()
        assert await node.kick(BOB) == ()
        with pytest.raises(ValueError, match="32 bytes"):
            await node.kick(b"short")


@in_virtual_time
async def test_a_kick_from_a_handler_of_the_peers_message_ends_it() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()

        @pair.listener.events.on("data_received")
        async def throw_out(session_id: bytes, data: bytes) -> None:
            await pair.listener.kick(pair.dialer.node_id)

        pair.near.send_nowait(b"x")
        await until(lambda: pair.near.state == "closed")
        await until(lambda: not pair.listener.sessions)


@in_virtual_time
async def test_a_banned_peer_stays_out_until_the_ban_is_lifted() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        await pair.listener.ban(pair.dialer.node_id)
        assert pair.listener.banned == {pair.dialer.node_id}
        await until(lambda: pair.near.state == "closed")
        with pytest.raises(STTConnectError, match="does not allow this node"):
            await pair.dialer.connect(*address_of(pair.listener))
        await pair.listener.unban(pair.dialer.node_id)
        await pair.dialer.connect(*address_of(pair.listener))


@in_virtual_time
async def test_a_peer_no_longer_allowed_cannot_resume_but_learns_what_arrived() -> None:
    welcome = True
    async with memory_nodes() as nodes:
        dialer = await nodes.start("alice")
        listener = await nodes.listen("bob", allow=lambda node_id: welcome)
        pair = await nodes.connect(dialer, listener)
        log = EventLog(dialer)
        welcome = False
        pair.near.send_nowait(b"never acknowledged")
        live(pair.near).cut("a cable is pulled")
        lost = await log.until("error")
        assert lost["error_type"] == "session_lost"
        assert lost["details"]["unsent"] == (b"never acknowledged",)
        assert lost["details"]["unknown"] == ()
        await until(lambda: not listener.sessions)


# Thrown out at any moment: after each number of turns of the loop in the life of a session.

TURNS = range(18)
"""More than a connect, or a reconnect, takes in memory."""


class Life(NamedTuple):
    """One session, from its dial on, in which one node kicks or bans the other."""

    dialer: STTNode
    listener: STTNode
    connecting: asyncio.Task[Session]

    def sessions_between(self, node: STTNode) -> list[Session]:
        """The sessions that a node has with the other."""
        other = self.listener if node is self.dialer else self.dialer
        registry = node._registry
        return [
            session
            for session in (
                *registry.sessions.values(),
                *registry.unconfirmed.values(),
                *registry.opening,
            )
            if session.peer_node_id == other.node_id and session.state != "closed"
        ]

    async def outcome(self) -> Session | STTConnectError:
        """What the dialer got: an ended session, or an error."""
        try:
            return await self.connecting
        except STTConnectError as error:
            return error


async def live_on(nodes: Nodes, turns: int, *, expected: bool, cut: bool = False) -> Life:
    """Let this many turns pass after a dial, or after the connection was cut."""
    listener, dialer = await nodes.listen("bob"), await nodes.start("alice")
    expect = listener.node_id if expected else None
    connecting = asyncio.ensure_future(dialer.connect(*address_of(listener), expect=expect))
    if cut:
        (await connecting).send_nowait(b"the listener holds it for established")
        await until(lambda: listener.sessions)
        live(dialer.sessions[0]).cut("a cable is pulled")
        dialer.retry_now(listener.node_id)
    for _ in range(turns):
        await asyncio.sleep(0)
    return Life(dialer, listener, connecting)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("expected", [False, True])
@pytest.mark.parametrize("by_dialer", [False, True])
@pytest.mark.parametrize("turns", TURNS)
@in_virtual_time
async def test_a_ban_holds_once_it_returns_whatever_is_under_way(
    turns: int, by_dialer: bool, expected: bool, cut: bool
) -> None:
    async with memory_nodes() as nodes:
        life = await live_on(nodes, turns, expected=expected, cut=cut)
        judge, banned = life.dialer, life.listener
        if not by_dialer:
            judge, banned = banned, judge
        await judge.ban(banned.node_id)
        assert life.sessions_between(judge) == []
        log = EventLog(judge, "data_received")
        received = judge.stats().buffered_bytes
        for session in banned.sessions:
            with contextlib.suppress(STTSessionClosedError):
                session.send_nowait(b"is this heard?")
        outcome = await life.outcome()
        await asyncio.sleep(200)  # longer than any reconnect is tried
        assert not isinstance(outcome, Session) or outcome.state == "closed"
        assert life.sessions_between(judge) == life.sessions_between(banned) == []
        assert not log.of("data_received") or received
        with pytest.raises(STTIdentityError if by_dialer else STTConnectError):
            await life.dialer.connect(*address_of(life.listener))


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("by_dialer", [False, True])
@pytest.mark.parametrize("turns", TURNS)
@in_virtual_time
async def test_a_kick_ends_the_peers_sessions_and_its_dials_under_way(
    turns: int, by_dialer: bool, cut: bool
) -> None:
    async with memory_nodes() as nodes:
        life = await live_on(nodes, turns, expected=True, cut=cut)
        judge, kicked = life.dialer, life.listener
        if not by_dialer:
            judge, kicked = kicked, judge
        before = life.sessions_between(judge)
        await judge.kick(kicked.node_id)
        assert life.sessions_between(judge) == []
        outcome = await life.outcome()
        if before or (by_dialer and turns):  # with none, it was not dialing yet
            await asyncio.sleep(200)
            assert not isinstance(outcome, Session) or outcome.state == "closed"
            assert life.sessions_between(judge) == life.sessions_between(kicked) == []
        assert (await life.dialer.connect(*address_of(life.listener))).state == "open"


@in_virtual_time
async def test_a_kick_does_not_affect_a_dial_whose_peer_is_not_known_yet() -> None:
    async with memory_nodes() as nodes:
        life = await live_on(nodes, 1, expected=False)
        await life.dialer.kick(life.listener.node_id)
        assert (await life.connecting).state == "open"


@in_virtual_time
async def test_a_caller_that_waits_for_a_dial_of_a_kicked_peer_learns_why() -> None:
    async with memory_nodes() as nodes:
        life = await live_on(nodes, 1, expected=True)
        await life.dialer.kick(life.listener.node_id)
        with pytest.raises(STTConnectError, match="was kicked"):
            await life.connecting
        life = life._replace(
            connecting=asyncio.ensure_future(life.dialer.connect(*address_of(life.listener)))
        )
        while not life.dialer._registry.opening:  # noqa: ASYNC110  turn by turn
            await asyncio.sleep(0)
        await life.dialer.ban(life.listener.node_id)
        with pytest.raises(STTIdentityError, match="is banned"):
            await life.connecting


@in_virtual_time
async def test_a_banned_peer_is_not_dialed_even_if_wanted() -> None:
    async with memory_nodes() as nodes:
        listener, dialer = await nodes.listen("bob"), await nodes.start("alice")
        await dialer.ban(listener.node_id)
        log, answered = EventLog(dialer), listener.stats().handshakes_failed
        await dialer.endpoints.add_endpoint(listener.node_id, listener.address, connect=True)
        failed = await log.until("error")
        assert failed["error_type"] == "connect_failed"
        assert "is banned" in failed["details"]["reason"]
        assert listener.stats().handshakes_failed == answered


@in_virtual_time
async def test_messages_acknowledged_before_a_ban_are_handed_over_and_none_after_it() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        handled = []
        gate = asyncio.Event()

        @pair.listener.events.on("data_received")
        async def handle(session_id: bytes, data: bytes) -> None:
            handled.append(data)
            await gate.wait()

        for data in (b"1", b"2", b"3"):
            pair.near.send_nowait(data)
        await pair.near.flush()
        pair.near.send_nowait(b"too late")
        await pair.listener.ban(pair.dialer.node_id)
        gate.set()
        await pair.listener.events.wait_for("session_closed", timeout=5)
        await asyncio.sleep(200)
        assert handled == [b"1", b"2", b"3"]
        assert pair.near.error is not None
        assert pair.near.error.unsent + pair.near.error.unknown == (b"too late",)


# Another shared seed.


@in_virtual_time
async def test_a_group_changes_its_seed_while_its_sessions_continue() -> None:
    old, new = b"the seed that the group has", b"the seed that the group gets"
    async with memory_nodes() as nodes:
        listener = await nodes.listen("bob", shared=old)
        dialer = await nodes.start("alice", shared=old)
        pair = await nodes.connect(dialer, listener)
        steps: list[Any] = [[old, new], [new, old], new]
        for step in steps:
            for node in (listener, dialer):
                await node.set_shared_seed(step)
                session = await dialer.connect(*address_of(listener))
                await session.close()
        resumed = asyncio.ensure_future(dialer.events.wait_for("session_resumed"))
        await asyncio.sleep(0)
        live(pair.near).cut("a cable is pulled")
        await resumed
        pair.near.send_nowait(b"still here")
        data, _ = await listener.endpoints.receive_any(timeout=5)
        assert data == b"still here"
        stranger = await nodes.start("carol", shared=old)
        with pytest.raises(STTConnectError):
            await stranger.connect(*address_of(listener))


@in_virtual_time
async def test_a_node_may_get_another_seed_before_it_starts_and_while_it_does() -> None:
    old, new = b"the seed that the group has", b"the seed that the group gets"
    async with memory_nodes() as nodes:
        listener = await nodes.listen("bob", shared=new)
        before = nodes.make("alice", shared=old)
        await before.set_shared_seed(new)
        await before.start()
        await before.connect(*address_of(listener))
        meanwhile = nodes.make("carol", shared=old)
        start = asyncio.ensure_future(meanwhile.start())
        await asyncio.sleep(0)
        await meanwhile.set_shared_seed(new)
        await start
        await meanwhile.connect(*address_of(listener))
