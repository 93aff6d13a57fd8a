"""Sessions whose connection breaks, or whose peer ends: what continues, and what is lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from helpers.fault_network import FaultNetwork
from helpers.nodes import (
    EventLog,
    Nodes,
    address_of,
    in_virtual_time,
    live,
    memory_nodes,
    until,
)
from helpers.relay import Direction, Fault, Kind, Plan, Relay
from helpers.sessions import KILO, SMALL, fill, numbered, receive
from seigr_toolset_transmissions.errors import (
    STTConnectError,
    STTSessionClosedError,
    STTSessionLostError,
)
from seigr_toolset_transmissions.node import registry
from seigr_toolset_transmissions.node.accepting import Acceptor
from seigr_toolset_transmissions.protocol.frames import Welcome, WelcomeStatus
from seigr_toolset_transmissions.transports.memory import MemoryNetwork

if TYPE_CHECKING:
    from seigr_toolset_transmissions import Session


# Going on after a cut.


@pytest.mark.parametrize("kind", [Kind.FIN, Kind.RST])
@pytest.mark.parametrize("direction", [Direction.OUT, Direction.IN])
async def test_a_session_continues_after_a_cut(kind: Kind, direction: Direction) -> None:
    async with Nodes(reconnect_delay=0.01) as nodes, Relay(("", 0)) as relay:
        listener = await nodes.listen()
        relay.target = address_of(listener)
        dialer = await nodes.start()
        relay.plan(*(Plan(Fault(direction, 20_000 * k + 7919, kind)) for k in range(4)))
        pair = await nodes.connect(dialer, listener, relay.address)
        logs = [EventLog(dialer), EventLog(listener)]
        messages = [b"%d " % k * 200 for k in range(300)]

        async def send(session: Session) -> None:
            for data in messages:
                await session.send(data)
                await asyncio.sleep(0)
            await session.flush()

        await asyncio.gather(send(pair.near), send(pair.far))
        assert await receive(listener, 300) == messages
        assert await receive(dialer, 300) == messages
        assert len(relay.links) > 1
        assert pair.near.stats.resumes == len(relay.links) - 1
        await pair.near.close()
        for log in logs:
            await log.until("session_closed")
            names = [n for n in log.names if n.startswith("session_")]
            assert names[:-1:2] == ["session_suspended"] * (len(relay.links) - 1)
            assert names[1::2] == ["session_resumed"] * (len(relay.links) - 1)
            assert all(k == {"session_id": pair.near.session_id} for k in log.of(names[0]))
            assert log.errors == []


async def test_a_cut_that_only_one_side_sees_is_reported_on_both() -> None:
    async with Nodes() as nodes, Relay(("", 0)) as relay:
        listener = await nodes.listen()
        relay.target = address_of(listener)
        dialer = await nodes.start()
        pair = await nodes.connect(dialer, listener, relay.address)
        logs = [EventLog(dialer), EventLog(listener)]
        link = relay.links[0]
        link.swallow(Direction.OUT)  # the listener sees neither bytes nor the end of the stream
        link.sides[Direction.OUT].reset()
        await pair.near.send(b"over the next one")
        assert await receive(listener, 1) == [b"over the next one"]
        for log in logs:
            await log.until("session_resumed")
            assert log.names == ["session_suspended", "session_resumed"]


async def test_messages_sent_while_suspended_wait() -> None:
    async with Nodes(reconnect_delay=0.01) as nodes, Relay(("", 0)) as relay:
        listener = await nodes.listen()
        relay.target = address_of(listener)
        dialer = await nodes.start()
        pair = await nodes.connect(dialer, listener, relay.address)
        relay.down = True
        relay.links[0].cut(Kind.RST)
        await until(lambda: pair.near.state == pair.far.state == "suspended")
        for data in numbered(10):
            await pair.near.send(data)
            await pair.far.send(data)
        info = dialer.endpoints.get_endpoint(listener.node_id)
        assert info is not None
        assert info["state"] == "suspended"
        assert dialer.stats().suspended == listener.stats().suspended == 1
        relay.down = False
        assert await receive(listener, 10) == numbered(10)
        assert await receive(dialer, 10) == numbered(10)
        await until(lambda: pair.near.state == pair.far.state == "open")


@in_virtual_time
async def test_the_end_of_a_connection_that_was_replaced_changes_nothing() -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        old = live(pair.far)._connection
        assert old is not None
        network.cables[0].hold()
        live(pair.near).cut("for this test")
        await pair.dialer.events.wait_for("session_resumed", timeout=1)
        await pair.near.flush()
        network.cables[0].release()
        live(pair.far).connection_ended(old, ConnectionResetError())
        assert pair.far.state == "open"
        await pair.near.send(b"x")
        assert await receive(pair.listener, 1) == [b"x"]


@pytest.mark.parametrize("direction", [Direction.OUT, Direction.IN])
async def test_a_tampered_record_is_never_delivered(direction: Direction) -> None:
    async with Nodes(reconnect_delay=0.01) as nodes, Relay(("", 0)) as relay:
        listener = await nodes.listen()
        relay.target = address_of(listener)
        dialer = await nodes.start()
        relay.plan(Plan(flip={(direction, 5000): 0x10}), Plan(flip={(direction, 3000): 0x01}))
        pair = await nodes.connect(dialer, listener, relay.address)
        messages = [b"%d " % k * 100 for k in range(200)]

        async def send(session: Session) -> None:
            for data in messages:
                await session.send(data)
                await asyncio.sleep(0)
            await session.flush()

        await asyncio.gather(send(pair.near), send(pair.far))
        assert await receive(listener, 200) == messages
        assert await receive(dialer, 200) == messages
        assert len(relay.links) == 3
        assert pair.near.stats.messages_received == pair.far.stats.messages_received == 200


@pytest.mark.parametrize("direction", Direction, ids=lambda direction: direction.name)
@pytest.mark.parametrize("what", ["the last record", "all records"])
async def test_old_bytes_that_come_again_are_never_delivered(
    direction: Direction, what: str
) -> None:
    async with Nodes(reconnect_delay=0.01) as nodes, Relay(("", 0)) as relay:
        listener = await nodes.listen()
        relay.target = address_of(listener)
        dialer = await nodes.start()
        pair = await nodes.connect(dialer, listener, relay.address)
        outward = direction is Direction.OUT
        session, node = (pair.near, listener) if outward else (pair.far, dialer)
        recorded = relay.links[0].recorded[direction]
        handshake = 224 if outward else 160
        start = len(recorded) if what == "the last record" else handshake
        await session.send(b"once")
        await session.flush()
        old = bytes(recorded[start:])
        # First on the connection on which they came, then on the next one.
        for number in (1, 2):
            relay.links[-1].insert(direction, old)
            await until(lambda: len(relay.links) > number)  # noqa: B023  it ends in this round
            await session.send(b"after %d" % number)
            await session.flush()
        assert await receive(node, 3) == [b"once", b"after 1", b"after 2"]
        assert node.stats().buffered_bytes == 0


async def test_bytes_that_come_slowly_and_in_slices_change_nothing() -> None:
    async with Nodes() as nodes, Relay(("", 0)) as relay:
        listener = await nodes.listen()
        relay.target = address_of(listener)
        dialer = await nodes.start()
        relay.plan(Plan(delay=0.002, slice=7))
        pair = await nodes.connect(dialer, listener, relay.address)
        messages = numbered(50)
        for data in messages:
            await pair.near.send(data)
            await pair.far.send(data)
        assert await receive(listener, 50) == messages
        assert await receive(dialer, 50) == messages
        await pair.near.flush()
        assert pair.near.rtt is not None
        assert pair.near.rtt >= 0.003


@in_virtual_time
async def test_a_session_whose_listener_closed_unheard_ends_cleanly() -> None:
    """Its CLOSE_ACK is lost, and its connection still seems alive when the dialer is back."""
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        logs = [EventLog(pair.dialer), EventLog(pair.listener)]
        await pair.near.send(b"last words")
        network.cables[0].cut(Kind.BLACK_HOLE)
        live(pair.near).start_closing()
        live(pair.near).cut("for this test")
        await until(lambda: pair.near.state == pair.far.state == "closed", seconds=100)
        assert await receive(pair.listener, 1) == [b"last words"]
        for log in logs:
            await log.until("session_closed")
            assert log.errors == []


# The end of a peer.


@in_virtual_time
async def test_a_dead_peer_is_reported_when_its_time_is_over() -> None:
    async with memory_nodes(**SMALL) as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.dialer)
        loop = asyncio.get_running_loop()
        count = await fill(pair.near)
        await kill(pair.listener)
        await log.until("session_suspended")
        before = loop.time()
        await log.until("peer_disconnected", seconds=200)
        assert loop.time() - before == pytest.approx(120, abs=1)
        assert log.names == ["session_suspended", "error", "session_closed", "peer_disconnected"]
        ((error_type, details),) = log.errors
        assert error_type == "session_lost"
        assert details["unsent"] == (KILO,) * 3  # no credit was left for these
        assert details["unknown"] == ()
        assert len(details["unsent"]) + pair.far.stats.messages_received == count
        assert set(details) >= {"session_id", "peer_node_id", "reason", "unsent", "unknown"}
        assert pair.near.error is not None
        with pytest.raises(STTSessionClosedError):
            await pair.near.send(b"x")
        with pytest.raises(STTSessionLostError):
            await pair.near.flush()


async def kill(node: Any) -> None:
    """End a node as if its process had died: no goodbyes, and no listener is left."""
    await node._life._listener.close()
    for session in node.sessions:
        session._owner = _Dead(session._owner)
    for connection in list(node._registry.connections):
        connection.drop()
    for suspension in node._registry.reconnects._suspensions.values():
        suspension.end()


class _Dead:
    """The owner of a session whose process has died: its calls have no effect."""

    def __init__(self, owner: Any) -> None:
        self.config, self.loop = owner.config, owner.loop
        self.events, self.endpoints = owner.events, owner.endpoints
        self._owner = owner

    def __getattr__(self, name: str) -> Any:
        if name in {"session_closing", "session_ended", "own", "emit", "tell"}:
            return getattr(self._owner, name)
        return lambda *_: None


async def test_a_restarted_peer_is_noticed_at_once() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair(reconnect_delay=0.01)
        log = EventLog(pair.dialer)
        port = address_of(pair.listener)[1]
        await pair.near.send(b"before")
        await pair.near.flush()
        await kill(pair.listener)
        restarted = nodes.make("bob", port=port)
        await pair.near.send(b"to the old process")
        await restarted.start(server_mode=True)
        await log.until("peer_disconnected")
        ((error_type, details),) = log.errors
        assert error_type == "session_lost"
        assert "restarted" in details["reason"]
        assert details["unsent"] + details["unknown"] == (b"to the old process",)
        session = await pair.dialer.connect(*address_of(restarted))
        await session.send(b"to the new process")
        assert await receive(restarted, 1) == [b"to the new process"]


@in_virtual_time
async def test_a_restarted_dialer_is_noticed_even_by_a_closing_session() -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        live(pair.near).dial_address = None  # its process has died: it does not dial again
        network.cables[0].cut(Kind.RST)
        await until(lambda: pair.far.state == "suspended")
        await pair.far.send(b"to the old process")
        live(pair.far).start_closing()
        await nodes.connect(await nodes.start("alice"), pair.listener)
        assert pair.far.state == "closed"
        assert pair.far.error is not None
        assert "restarted" in str(pair.far.error)
        assert pair.far.error.unsent == (b"to the old process",)


@pytest.mark.parametrize("noticed", [True, False], ids=["cut seen", "cut not seen"])
async def test_a_restarted_dialer_is_noticed_when_it_is_back(noticed: bool) -> None:
    async with Nodes() as nodes, Relay(("", 0)) as relay:
        listener = await nodes.listen()
        relay.target = address_of(listener)
        dialer = await nodes.start()
        pair = await nodes.connect(dialer, listener, relay.address)
        log = EventLog(listener)
        link = relay.links[0]
        if not noticed:
            link.swallow(Direction.OUT)
        live(pair.near).dial_address = None  # its process has died: it does not dial again
        link.sides[Direction.OUT].reset()
        if noticed:
            await until(lambda: pair.far.state == "suspended")
        again = nodes.make("alice")
        await again.start()
        await nodes.connect(again, listener)
        if not noticed:
            link.sides[Direction.IN].reset()  # the answer to the listener's PING
        await log.until("session_closed")
        assert pair.far.state == "closed"
        assert "restarted" in str(pair.far.error)
        ((error_type, details),) = log.errors
        assert error_type == "session_lost"
        assert details["unsent"] == details["unknown"] == ()
        await until(lambda: log.names.count("session_created") == 1)


@in_virtual_time
async def test_a_session_whose_dialer_closed_ends_even_if_the_answer_is_lost() -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        logs = [EventLog(pair.dialer), EventLog(pair.listener)]
        await pair.near.send(b"last words")
        live(pair.near).start_closing()
        while pair.far.state != "closing":  # noqa: ASYNC110  not a turn longer
            await asyncio.sleep(0)
        assert live(pair.near).connected
        network.cables[0].cut(Kind.RST)
        await pair.near.wait_closed()
        await asyncio.sleep(1)
        assert await receive(pair.listener, 1) == [b"last words"]
        assert pair.far.state == "closed"
        assert logs[0].names == ["session_suspended", "session_closed", "peer_disconnected"]
        assert logs[1].names == ["session_closed", "peer_disconnected"]


@pytest.mark.parametrize("owing", [False, True])
@pytest.mark.parametrize("answer", ["UNKNOWN", "ENDED", "FORBIDDEN"])
@in_virtual_time
async def test_a_session_ends_if_the_peer_does_not_have_it(
    answer: str, owing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network, reconnect_delay=10) as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.dialer)
        if answer != "ENDED":
            monkeypatch.setattr(registry, "_TOMBSTONES", 0)
        network.cables[0].cut(Kind.BLACK_HOLE)
        if owing:
            await pair.near.send(b"owed")
        live(pair.near).cut("for this test")
        live(pair.far).lose("for this test")
        if answer == "FORBIDDEN":
            await pair.listener.ban(pair.dialer.node_id)
        await pair.near.wait_closed()
        await log.until("peer_disconnected")
        if owing:
            ((_, details),) = log.errors
            # Only with ENDED comes how far the session had come.
            assert details["unsent"] == ((b"owed",) if answer == "ENDED" else ())
            assert details["unsent"] + details["unknown"] == (b"owed",)
            with pytest.raises(STTSessionLostError):
                await pair.near.close()
        else:
            # Nothing was lost with it: as good as a close.
            assert log.errors == []
            assert pair.near.error is None
            await pair.near.close()


@in_virtual_time
async def test_a_session_that_the_peer_cannot_resume_just_now_is_resumed_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = FaultNetwork(MemoryNetwork())
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        log = EventLog(pair.dialer)
        refusals = iter([Welcome(WelcomeStatus.REFUSED, 0, 0)] * 2)
        resume = Acceptor._resume
        monkeypatch.setattr(
            Acceptor, "_resume", lambda *args: next(refusals, None) or resume(*args)
        )
        await pair.near.send(b"x")
        network.cables[0].cut(Kind.RST)
        await log.until("session_resumed")
        assert len(network.cables) == 4
        assert await receive(pair.listener, 1) == [b"x"]
        assert log.names == ["session_suspended", "session_resumed"]


@in_virtual_time
async def test_a_peer_that_breaks_the_protocol_loses_its_session() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        logs = [EventLog(pair.dialer), EventLog(pair.listener)]
        await pair.far.send(b"arrives")
        await pair.far.flush()
        await pair.far.send(b"in doubt")
        live(pair.near).machine._control.append(b"\xf0\0\0\0")  # no frame has this type
        pair.near.ping()
        await logs[1].until("peer_disconnected")
        assert [error_type for error_type, _ in logs[1].errors] == [
            "protocol_error",
            "session_lost",
        ]
        assert "unknown type 15" in logs[1].errors[0][1]["reason"]
        # The breaker dials again, and hears that it is over.
        await logs[0].until("peer_disconnected")
        assert pair.near.state == "closed"


@in_virtual_time
async def test_a_session_that_no_one_waits_for_ends() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        live(pair.near).give_up()
        await until(lambda: pair.near.state == pair.far.state == "closed")
        live(pair.near).give_up()
        live(pair.near).lose("twice")
        assert pair.near.error is None
        assert "closed" in repr(pair.near)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(Direction.OUT, 224, Kind.FIN),  # right behind the third message
        Fault(Direction.OUT, 224, Kind.BLACK_HOLE),
    ],
    ids=lambda fault: fault.kind.name,
)
@in_virtual_time
async def test_a_session_that_was_never_answered_ends_in_silence(fault: Fault) -> None:
    network = FaultNetwork(MemoryNetwork(), [fault])
    async with Nodes(network) as nodes:
        listener = await nodes.listen()
        dialer = await nodes.start()
        logs = [EventLog(dialer), EventLog(listener)]
        with pytest.raises(STTConnectError):
            await dialer.connect(*address_of(listener))
        # The listener keeps it for as long as the dialer could come back.
        await asyncio.sleep(nodes.config.resume_window + 2)
        assert logs[0].names == logs[1].names == []
        assert dialer.sessions == listener.sessions == []


@in_virtual_time
async def test_a_session_that_the_peer_refuses_is_not_established() -> None:
    async with memory_nodes(max_sessions_per_peer=1) as nodes:
        pair = await nodes.pair()
        with pytest.raises(STTConnectError, match="accepts no more sessions"):
            await pair.dialer.connect(*address_of(pair.listener))
        assert pair.dialer.sessions == [pair.near]
