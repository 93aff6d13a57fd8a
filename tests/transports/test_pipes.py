"""What is specific to pipes over a bus; the rest is in test_contract.py."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
from dataclasses import dataclass, field
from struct import Struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from helpers.clock import run_virtual
from helpers.faulty_bus import FaultyBus, Odds
from helpers.nodes import Nodes, in_virtual_time, until
from helpers.recorder import Recorder, on, pattern, turns
from seigr_toolset_transmissions.transports import pipes
from seigr_toolset_transmissions.transports.memory_bus import MemoryBus
from seigr_toolset_transmissions.transports.pipes import PipeNetwork

if TYPE_CHECKING:
    from seigr_toolset_transmissions.transports.bus import Bus

KIB = 1024
HEAD = Struct("!B8sIQ")
OPEN, OPENED, REFUSED, DATA, TAKEN, END, RESET = range(7)


@dataclass
class Stranger:
    """Has no pipes, only the bus: sends any envelopes, and sees what comes to its subject."""

    bus: Bus
    to: str = ""
    pipe_id: bytes = bytes(8)
    here: str = f"stt.to.{'5' * 16}.{'6' * 16}"
    arrived: list[tuple[int, int, int, bytes]] = field(default_factory=list)

    async def dial(self, host: str, port: int, window: int = 1 << 20) -> None:
        await self.bus.subscribe(self.here.rpartition(".")[0], self._note)
        self.to = f"stt.at.{host}.{port}.open"
        self.send(OPEN, taken=window, reply=self.here)
        await turns(3)

    def _note(self, _: str, data: bytes, reply: str) -> None:
        kind, pipe_id, seq, taken = HEAD.unpack_from(data)
        if kind == OPENED:
            self.to, self.pipe_id = reply, pipe_id
        self.arrived.append((kind, seq, taken, data[HEAD.size :]))

    def send(
        self, kind: int, seq: int = 0, taken: int = 0, payload: bytes = b"", reply: str = ""
    ) -> None:
        self.bus.publish(self.to, HEAD.pack(kind, self.pipe_id, seq, taken) + payload, reply)

    @property
    def kinds(self) -> list[int]:
        return [kind for kind, *_ in self.arrived]


async def connect(bus: Bus, client: Recorder, server: Recorder) -> None:
    listener = await PipeNetwork(bus).listen(lambda: server, "hub", 7)
    await PipeNetwork(bus).dial(client, "hub", 7)
    await listener.close()


async def ends(odds: Odds | None = None) -> tuple[FaultyBus, MemoryBus, Recorder, Recorder]:
    inner = MemoryBus()
    bus = FaultyBus(inner, Odds())
    client, server = Recorder(), Recorder()
    await connect(bus, client, server)
    if odds is not None:
        bus.odds = odds
    return bus, inner, client, server


async def both_reset(client: Recorder, server: Recorder) -> None:
    for side in (client, server):
        await side.until_lost()
        assert isinstance(side.cause, ConnectionResetError)
        side.check()


# Addresses.


@pytest.mark.parametrize("host", ["eu-1", "eu.1", "*", ">", "a b", "ü\n", "127.0.0.1", "%2E"])
async def test_any_name_is_a_host_and_no_two_are_the_same(host: str) -> None:
    network = PipeNetwork(MemoryBus())
    server, client = Recorder(), Recorder()
    listener = await network.listen(lambda: server, host, 7)
    for other in ("eu-2", f"{host}.", f"{host}.7", "eu%2D1"):
        with pytest.raises(ConnectionRefusedError, match="nobody on the bus"):
            await network.dial(Recorder(), other, 7)
    await network.dial(client, host, 7)
    client.transport.abort()
    await client.until_lost()
    await server.until_lost()
    await listener.close()


@pytest.mark.parametrize("host", ["", "x" * 256])
async def test_what_is_no_name_is_refused(host: str) -> None:
    network = PipeNetwork(MemoryBus())
    with pytest.raises(OSError, match="name of at most 255"):
        await network.dial(Recorder(), host, 7)
    with pytest.raises(OSError, match="name of at most 255"):
        await network.listen(Recorder, host, 7)


async def test_an_address_is_taken_on_the_whole_bus() -> None:
    bus = MemoryBus()
    listener = await PipeNetwork(bus).listen(Recorder, "hub", 7)
    with pytest.raises(OSError, match="listens at 'hub' port 7") as raised:
        await PipeNetwork(bus).listen(Recorder, "hub", 7)
    assert raised.value.errno == errno.EADDRINUSE
    await listener.close()


@in_virtual_time
async def test_a_dead_listener_that_the_bus_still_knows_takes_no_address() -> None:
    bus = MemoryBus()
    await bus.subscribe("stt.at.hub.7", lambda *_: None)
    listener = await PipeNetwork(bus).listen(Recorder, "hub", 7)
    await listener.close()


async def test_a_dial_that_arrives_before_the_bus_is_known_to_be_back_is_answered_then() -> None:
    near, far = MemoryBus(), MemoryBus()  # one bus, as two processes see it
    far._subscriptions = near._subscriptions
    client, server = Recorder(), Recorder()
    listener = await PipeNetwork(far).listen(lambda: server, "hub", 7)
    far.take_down()
    dial = asyncio.create_task(PipeNetwork(near).dial(client, "hub", 7))
    await turns(20)
    assert not dial.done()
    far.bring_up()
    await dial
    client.transport.write(b"hi")
    await server.until_received(2)
    assert server.data == b"hi"
    client.transport.abort()
    await server.until_lost()
    await listener.close()


@in_virtual_time
async def test_a_dial_that_arrives_before_the_bus_is_back_reaches_no_closed_listener() -> None:
    near, far = MemoryBus(), MemoryBus()
    far._subscriptions = near._subscriptions
    accepted: list[Recorder] = []

    def accept() -> Recorder:
        accepted.append(Recorder())
        return accepted[-1]

    listener = await PipeNetwork(far).listen(accept, "hub", 7)
    far.take_down()
    dial = asyncio.create_task(PipeNetwork(near).dial(Recorder(), "hub", 7))
    await turns(20)
    await listener.close()
    far.bring_up()
    with pytest.raises(ConnectionRefusedError):
        await dial
    assert accepted == []


@in_virtual_time
async def test_a_dial_that_nobody_answers_ends_in_time_and_says_so() -> None:
    bus = MemoryBus()
    await bus.subscribe("stt.at.hub.7", lambda *_: None)
    with pytest.raises(TimeoutError, match="no answer over the bus from 'hub' port 7"):
        await PipeNetwork(bus).dial(Recorder(), "hub", 7)


# A bus that is down.


async def test_a_bus_that_is_lost_cuts_both_sides() -> None:
    _, bus, client, server = await ends()
    client.transport.write(b"lost")
    bus.take_down()
    await both_reset(client, server)
    assert server.data == b""


@in_virtual_time
async def test_dialling_and_listening_wait_until_the_bus_is_back() -> None:
    bus = MemoryBus()
    bus.take_down()
    client, server = Recorder(), Recorder()
    listening = asyncio.create_task(PipeNetwork(bus).listen(lambda: server, "hub", 7))
    await asyncio.sleep(5)
    bus.bring_up()
    listener = await listening
    bus.take_down()
    dialling = asyncio.create_task(PipeNetwork(bus).dial(client, "hub", 7))
    await asyncio.sleep(5)
    bus.bring_up()
    await dialling
    client.transport.write(b"hello")
    await server.until_received(5)
    bus.take_down()
    await both_reset(client, server)
    with pytest.raises(OSError, match="bus cannot be reached"):
        await PipeNetwork(bus).dial(Recorder(), "hub", 7)
    await listener.close()


async def test_a_dial_during_which_the_bus_is_lost_fails() -> None:
    bus = MemoryBus()
    await bus.subscribe("stt.at.hub.7", lambda *_: None)
    dialling = asyncio.create_task(PipeNetwork(bus).dial(Recorder(), "hub", 7))
    await turns(3)
    bus.take_down()
    with pytest.raises(ConnectionResetError):
        await dialling


def test_a_network_serves_one_loop_after_the_other() -> None:
    network = PipeNetwork(MemoryBus())

    async def talk() -> None:
        server, client = Recorder(), Recorder()
        listener = await network.listen(lambda: server, "hub", 7)
        await network.dial(client, "hub", 7)
        client.transport.write(b"hello")
        await server.until_received(5)
        client.transport.abort()
        await server.until_lost()
        await listener.close()

    asyncio.run(talk())
    asyncio.run(talk())


# A bus that loses.


@in_virtual_time
async def test_a_lost_envelope_cuts_both_sides_when_the_next_one_comes() -> None:
    bus, _, client, server = await ends(Odds(lose=1))
    client.transport.write(b"lost")
    bus.odds = Odds()
    client.transport.write(b"next")
    await both_reset(client, server)
    assert asyncio.get_running_loop().time() == 0
    assert server.data == b""


@in_virtual_time
async def test_a_last_envelope_that_is_lost_cuts_both_sides_within_seconds() -> None:
    bus, _, client, server = await ends(Odds(lose=1))
    client.transport.write(b"lost")
    await turns(3)
    bus.odds = Odds()
    await both_reset(client, server)
    assert asyncio.get_running_loop().time() < 5


@in_virtual_time
async def test_a_lost_end_or_reset_is_noticed_within_seconds() -> None:
    for how in ("close", "abort"):
        bus, _, client, server = await ends(Odds(lose=1))
        getattr(client.transport, how)()
        await turns(3)
        bus.odds = Odds()
        server.transport.write(b"still there?")
        await server.until_lost()
        await client.until_lost()
        assert isinstance(server.cause, ConnectionResetError)
        assert client.cause is None


@in_virtual_time
async def test_a_standstill_cuts_nothing() -> None:
    _, _, client, server = await ends()
    server.transport.pause_reading()
    client.transport.write(bytes(5000))
    await asyncio.sleep(60)
    server.transport.resume_reading()
    await server.until_received(5000)
    client.transport.abort()
    await server.until_lost()


@in_virtual_time
async def test_a_peer_whose_network_is_gone_is_noticed_within_seconds() -> None:
    bus = MemoryBus()
    inbox: list[Any] = []
    subscribe = bus.subscribe

    async def keep(prefix: str, arrived: Any) -> Any:
        inbox.append(await subscribe(prefix, arrived))
        return inbox[-1]

    bus.subscribe = keep  # type: ignore[method-assign]
    client, server = Recorder(), Recorder()
    await connect(bus, client, server)
    await inbox[0]()  # the listener's process is killed: its inbox is the first
    client.transport.write(b"anybody there?")
    await client.until_lost()
    assert isinstance(client.cause, ConnectionResetError)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32),
    odds=st.builds(
        Odds, *(st.sampled_from([0.0, 0.01, 0.1]) for _ in ("lose", "double", "swap", "delay"))
    ),
    sizes=st.lists(st.integers(1, 300) | st.integers(1, 400 * KIB), min_size=1, max_size=20),
    closes=st.booleans(),
)
@example(seed=52, odds=Odds(double=0.1), sizes=[1], closes=False)  # doubles the dial
def test_over_a_faulty_bus_the_stream_is_exact_or_both_sides_see_an_error(
    seed: int, odds: Odds, sizes: list[int], closes: bool
) -> None:
    run_virtual(_talk_over_a_faulty_bus(seed, odds, sizes, closes))


class Talker(Recorder):
    """Knows what it has said."""

    def __init__(self) -> None:
        super().__init__()
        self.said = bytearray()
        self.closed = False

    def say(self, data: bytes) -> None:
        if not self.closed:
            self.transport.write(data)
            self.said += data

    def close(self) -> None:
        self.closed = True
        self.transport.close()


async def _talk_over_a_faulty_bus(seed: int, odds: Odds, sizes: list[int], closes: bool) -> None:
    chance = random.Random(seed)  # noqa: S311
    bus = FaultyBus(MemoryBus(), odds, seed)
    client, servers = Talker(), list[Talker]()

    def accept() -> Talker:
        servers.append(Talker())
        return servers[-1]

    bus.odds = Odds()
    listener = await PipeNetwork(bus).listen(accept, "hub", 7)
    bus.odds = odds
    with contextlib.suppress(TimeoutError):
        await PipeNetwork(bus).dial(client, "hub", 7)
    sides = [client, *servers] if client.calls else servers
    for number, size in enumerate(sizes):
        for side in sides:
            side.say(pattern(size, number))
        await asyncio.sleep(chance.choice([0, 0, 0.5]))
    if closes and client.calls:
        client.close()

    def is_over() -> bool:
        left = [side for side in sides if not side.lost]
        if not left:
            return True
        if closes or client.lost or len(left) != 2:
            return False
        server = left[1]  # one of two, if the dial was doubled
        return server.data == client.said and client.data == server.said

    async with asyncio.timeout(600):
        await asyncio.sleep(10)
        while not is_over():
            for side in sides:  # silence is no loss: only one who says something notices it
                side.say(b"?")
            await asyncio.sleep(4)
    for server in servers:
        assert client.said.startswith(server.data)
        if server.lost and server.cause is None:
            assert server.data == client.said
            assert client.closed
    assert any(server.said.startswith(client.data) for server in servers) or not client.data
    if client.lost and not client.closed:
        assert isinstance(client.cause, ConnectionError)
    bus.odds = Odds()
    for side in sides:
        side.transport.abort()
        await side.until_lost()
        side.check()
    await listener.close()
    await asyncio.sleep(10)  # what was delayed finds nobody


async def test_of_the_two_ends_that_a_doubled_dial_makes_only_one_is_heard() -> None:
    bus = FaultyBus(MemoryBus(), Odds())
    servers: list[Recorder] = []

    def accept() -> Recorder:
        number = len(servers)
        server = Recorder(react=on("made", lambda: server.transport.write(b"%d" % number)))
        servers.append(server)
        return server

    listener = await PipeNetwork(bus).listen(accept, "hub", 7)
    network, client = PipeNetwork(bus), Recorder()
    bus.odds = Odds(double=1)
    await network.dial(client, "hub", 7)
    await servers[1].until_lost()
    assert isinstance(servers[1].cause, ConnectionResetError)
    await turns(5)
    assert client.data == b"0"
    assert client.calls == ["made", "bytes"]
    client.transport.abort()
    await servers[0].until_lost()
    await listener.close()


# Strangers on the bus.


async def accepted(server: Recorder) -> Stranger:
    bus = MemoryBus()
    await PipeNetwork(bus).listen(lambda: server, "hub", 7)
    stranger = Stranger(bus)
    await stranger.dial("hub", 7)
    assert stranger.kinds == [OPENED]
    return stranger


async def test_a_stranger_makes_a_reader_that_pauses_keep_no_more_than_its_window() -> None:
    server = Recorder()
    stranger = await accepted(server)
    server.transport.pause_reading()
    for seq in range(8):
        stranger.send(DATA, seq, payload=bytes(128 * KIB))
    await turns(3)
    assert not server.lost
    stranger.send(DATA, 8, payload=b"!")
    await server.until_lost()
    assert isinstance(server.cause, ConnectionResetError)
    assert stranger.kinds[-1] == RESET


@pytest.mark.parametrize(
    ("kind", "seq", "taken", "payload"),
    [
        (DATA, 0, 0, b""),
        (DATA, 0, 0, bytes(128 * KIB + 1)),
        (DATA, 1, 0, b"x"),
        (TAKEN, 0, 1, b""),
        (TAKEN, 7, 0, b""),
        (END, 1, 0, b""),
    ],
    ids=["no bytes", "too many bytes", "a gap", "more than was sent", "a late gap", "a late end"],
)
async def test_an_envelope_that_cannot_be_right_cuts_its_pipe(
    kind: int, seq: int, taken: int, payload: bytes
) -> None:
    server = Recorder()
    stranger = await accepted(server)
    stranger.send(kind, seq, taken, payload)
    await server.until_lost()
    assert isinstance(server.cause, ConnectionResetError)
    assert server.data == b""
    await turns(3)
    assert stranger.kinds == [OPENED, RESET]


async def test_what_is_no_envelope_of_the_pipe_is_dropped() -> None:
    server = Recorder()
    stranger = await accepted(server)
    right = stranger.pipe_id
    for data in (b"x", bytes(20), HEAD.pack(99, right, 0, 0), HEAD.pack(OPEN, right, 0, 0)):
        stranger.bus.publish(stranger.to, data)
    stranger.pipe_id = b"another!"
    for kind in (DATA, END, RESET):
        stranger.send(kind, payload=b"x")
    stranger.pipe_id = right
    for _ in range(2):
        stranger.send(DATA, 0, payload=b"hello")
    await server.until_received(5)
    await turns(3)
    assert server.calls == ["made", "bytes"]
    server.transport.abort()
    await server.until_lost()


@pytest.mark.parametrize("reply", ["", "orders.new", "stt.to.x.y", f"stt.to.{'5' * 16}.*"])
async def test_nothing_is_sent_to_subjects_that_are_none_of_pipes(reply: str) -> None:
    bus = MemoryBus()
    network = PipeNetwork(bus)
    await network.listen(Recorder, "hub", 7)
    assert network._inbox is not None
    published: list[str] = []
    stranger = Stranger(bus, "stt.at.hub.7.open")
    stranger.send(OPEN, taken=9, reply=reply)
    stranger.to = network._inbox.subject_of("6" * 16)
    for kind in range(8):
        stranger.send(kind, reply=reply)
    bus.publish = lambda subject, *_: published.append(subject)  # type: ignore[method-assign]
    await turns(3)
    assert published == []
    assert not network._inbox.pipes


async def test_who_asks_for_a_pipe_that_is_gone_is_told() -> None:
    server = Recorder()
    stranger = await accepted(server)
    server.transport.abort()
    await server.until_lost()
    stranger.arrived.clear()
    stranger.send(TAKEN, reply=stranger.here)
    await turns(3)
    assert stranger.kinds == [RESET]


async def test_no_more_pipes_are_opened_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "_MOST_PIPES", 2)
    bus = MemoryBus()
    servers: list[Recorder] = []

    def accept() -> Recorder:
        servers.append(Recorder())
        return servers[-1]

    listening, dialling = PipeNetwork(bus), PipeNetwork(bus)
    listener = await listening.listen(accept, "hub", 7)
    clients = [Recorder(), Recorder()]
    for client in clients:
        await dialling.dial(client, "hub", 7)
    with pytest.raises(OSError, match="open already"):
        await dialling.dial(Recorder(), "hub", 7)
    with pytest.raises(ConnectionRefusedError, match="too many"):
        await PipeNetwork(bus).dial(Recorder(), "hub", 7)
    for side in (*clients, *servers):
        side.transport.abort()
        await side.until_lost()
    for network in (listening, dialling):
        assert network._inbox is not None
        assert not network._inbox.pipes
    await listener.close()


async def test_the_count_of_envelopes_starts_again_after_its_largest_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipes, "_SEQ_MASK", 7)
    monkeypatch.setattr(pipes, "_HALF", 4)
    _, _, client, server = await ends()
    for _ in range(30):
        client.transport.write(b"x")
        await turns(2)
    await server.until_received(30)
    client.transport.abort()
    await server.until_lost()


# Nodes.


@in_virtual_time
async def test_nodes_over_a_faulty_bus_deliver_once_and_in_order() -> None:
    inner = MemoryBus()
    bus = FaultyBus(inner, Odds())
    count = 3000
    async with Nodes(PipeNetwork(bus), reconnect_delay=0.01, reconnect_delay_max=0.1) as nodes:
        pair = await nodes.pair()
        bus.odds = Odds(lose=0.01, double=0.03, swap=0.01, delay=0.01)
        received: dict[str, list[bytes]] = {"near": [], "far": []}

        async def send(session: Any) -> None:
            for number in range(count):
                await session.send(b"%d" % number)
                await asyncio.sleep(0.001)

        async def receive(node: Any, where: str) -> None:
            while len(received[where]) < count:
                data, _ = await node.endpoints.receive_any()
                received[where].append(data)

        async def interrupt() -> None:
            for _ in range(5):
                await asyncio.sleep(0.4)
                inner.take_down()
                await asyncio.sleep(0.2)
                inner.bring_up()

        suspended: list[bytes] = []

        async def note(session_id: bytes) -> None:
            suspended.append(session_id)

        pair.dialer.events.register("session_suspended", note)
        await asyncio.gather(
            send(pair.near),
            send(pair.far),
            receive(pair.dialer, "near"),
            receive(pair.listener, "far"),
            interrupt(),
        )
        expected = [b"%d" % number for number in range(count)]
        assert received == {"near": expected, "far": expected}
        assert len(suspended) >= 5
        bus.odds = Odds()
        await until(lambda: pair.near.state == "open")
