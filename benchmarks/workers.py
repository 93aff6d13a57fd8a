"""Workers of one machine that share a port, and crowds of members: all processes and sockets real.

The workers are what ``stt serve`` starts: nodes that share a port and are hubs of a cluster over
Unix sockets. Linux spreads connections over them. Members are nodes with an identity of their own,
many to a process. Each process of members dials another address of this machine, because one
address has only some 28,000 ports for them.

`measure_idle` opens many sessions that then do nothing. `measure_beside` has members send messages
that are sent back, and has them open and close sessions: with one worker, with two, and with two
nodes that know nothing of each other.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
import time
from contextlib import ExitStack
from itertools import cycle
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from seigr_toolset_transmissions import NodeConfig, STTNode
from seigr_toolset_transmissions.cluster import Cluster
from seigr_toolset_transmissions.errors import STTConnectError
from seigr_toolset_transmissions.identity import Identity
from seigr_toolset_transmissions.transports.tcp import TcpNetwork

from .processes import Child
from .roles import resident_bytes, run

if TYPE_CHECKING:
    from .processes import Link

__all__ = ["SETTINGS", "Beside", "Idle", "measure_beside", "measure_idle"]

_MESSAGE = bytes(64)
_AT_ONCE = 100
"""Dials of one process of members that are under way at a time."""

_SPARE_SESSIONS = 100
_MOST_PER_MEMBER = 1000
_PROMISED_BYTES = 128 * 1024
"""What a node may have to hold for each session: it refuses those for which it has no room."""
_LEAST_BUFFERED = 512 * 1024 * 1024
_LIMIT = 1800.0
_SETTLE_SECONDS = 0.3
SETTINGS = ("one worker", "two workers", "two nodes apart")

_CROWDS = 2
"""Processes of members in `measure_beside`."""


class _Seeds(NamedTuple):
    hub: bytes
    shared: bytes


class _State(NamedTuple):
    """A process at one moment."""

    cpu: float
    bytes: int
    sessions: int


class Idle(NamedTuple):
    """What sessions that do nothing take."""

    seconds: float
    """Until all were open."""
    opening_cpu: float
    """Seconds of processor time to open one, at the worker."""
    worker_bytes: float
    """Of a session at its worker; and of its member."""
    member_bytes: float
    worker_share: float
    """Of a processor, for all workers together; and for all members."""
    member_share: float
    spread: list[int]
    """How many sessions each worker has."""


class Beside(NamedTuple):
    """Microseconds of processor time at all workers together."""

    message: float
    """To receive a message, and to send it back."""
    session: float
    """To open a session and to close it."""


# ---------------------------------------------------------------------------------- processes


def worker(link: Link, port: int, folder: str, number: int, seeds: _Seeds, sessions: int) -> None:
    """Run as a worker that sends back what it receives."""
    run(_worker(link, port, folder, number, seeds, sessions), "asyncio")


async def _worker(
    link: Link, port: int, folder: str, number: int, seeds: _Seeds, sessions: int
) -> None:
    node = STTNode(
        *seeds,
        "0.0.0.0",  # noqa: S104 - members dial several addresses of this machine
        port,
        network=TcpNetwork(reuse_port=True),
        cluster=Cluster(f"unix://{folder}", name=f"worker-{number}"),
        config=NodeConfig(
            max_sessions=sessions,
            max_sessions_per_peer=_MOST_PER_MEMBER,
            max_buffered_bytes=max(_LEAST_BUFFERED, sessions * _PROMISED_BYTES),
        ),
    )

    @node.events.on("data_received")
    async def send_back(session_id: bytes, data: bytes) -> None:
        session = node.get_session(session_id)
        if session is not None:
            await session.send(data)

    async with node.listening():
        link.tell("port", node.address[1] if node.address else 0)
        while await link.listen("more"):
            link.tell("state", _state(len(node.sessions)))
        os._exit(0)  # closing very many sessions is not what is measured


def members(link: Link, address: tuple[str, int], count: int, shared_seed: bytes) -> None:
    """Run as so many members of the group."""
    run(_members(link, address, count, shared_seed), "asyncio")


async def _members(link: Link, address: tuple[str, int], count: int, shared_seed: bytes) -> None:
    nodes = await _started(count, shared_seed)
    visitors: list[STTNode] = []
    link.tell("state", _state(0))
    turns = asyncio.Semaphore(_AT_ONCE)

    async def connect(node: STTNode, times: int) -> None:
        while len(node.sessions) < times:
            async with turns:
                try:
                    await node.connect(*address, timeout=_LIMIT)
                except STTConnectError:  # the worker had no time for the handshake, or no place
                    await asyncio.sleep(secrets.randbelow(1000) / 1000)

    async def exchange(node: STTNode, messages: int) -> None:
        (session,) = node.sessions
        for _ in range(messages):
            await session.send(_MESSAGE)

    async def collect(node: STTNode, messages: int) -> None:
        while messages > 0:
            messages -= len(await node.endpoints.receive_many())

    async def come_and_go(node: STTNode, times: int) -> None:
        for _ in range(times):
            session = await node.connect(*address, timeout=_LIMIT)
            await session.close()

    while (order := await link.listen("order")) is not None:
        match order:
            case ("connect", times):
                await asyncio.gather(*(connect(node, times) for node in nodes))
            case ("exchange", times):
                sending = [exchange(node, times) for node in nodes]
                await asyncio.gather(*sending, *(collect(node, times) for node in nodes))
            case ("come and go", times):
                visitors = visitors or await _started(count, shared_seed)
                await asyncio.gather(*(come_and_go(node, times) for node in visitors))
        link.tell("state", _state(sum(len(node.sessions) for node in nodes)))
    os._exit(0)


async def _started(count: int, shared_seed: bytes) -> list[STTNode]:
    nodes = [_member(shared_seed) for _ in range(count)]
    for node in nodes:
        await node.start()
    return nodes


def _member(shared_seed: bytes) -> STTNode:
    config = NodeConfig(max_sessions_per_peer=_MOST_PER_MEMBER)
    node = STTNode(secrets.token_bytes(32), shared_seed, config=config)
    # Deriving one from a seed takes 100 ms, which a program does once.
    node._keys._identity = Identity(X25519PrivateKey.generate())  # noqa: SLF001
    return node


def _state(sessions: int) -> _State:
    return _State(time.process_time(), resident_bytes(), sessions)


# ------------------------------------------------------------------------------- measurements


class _Stage:
    """Workers and members, who open some sessions ``each``, until the stack is closed.

    Workers that are ``apart`` are nodes of their own: each has a port, and some of the members.
    """

    def __init__(
        self,
        stack: ExitStack,
        workers: int,
        crowds: list[int],
        *,
        each: int = 1,
        apart: bool = False,
    ) -> None:
        self._stack = stack
        most = int(1.1 * each * sum(crowds) / workers) + _SPARE_SESSIONS  # they spread evenly
        shared_seed = secrets.token_bytes(32)
        self._workers: list[Link] = []
        ports: list[int] = []
        for number in range(workers):
            if apart or not ports:
                port, seeds = 0, _Seeds(secrets.token_bytes(32), shared_seed)
                folder = stack.enter_context(tempfile.TemporaryDirectory())
            self._workers.append(self._start(worker, port, folder, number, seeds, most))
            port = self._workers[-1].hear("port")
            ports.append(port)
        self._members = [
            self._start(members, (f"127.0.0.{number + 1}", port), count, shared_seed)
            for number, (count, port) in enumerate(zip(crowds, cycle(ports), strict=False))
        ]
        self.began = [each.hear("state") for each in self._members]

    def _start(self, role: Any, *arguments: Any) -> Link:
        return self._stack.enter_context(Child(role, *arguments, limit=_LIMIT)).link

    def states(self) -> list[_State]:
        """Return the state of each worker."""
        for each in self._workers:
            each.tell("more", True)
        return [each.hear("state") for each in self._workers]

    def do(self, *order: Any) -> list[_State]:
        """Have all members do something; return the state of each of their processes."""
        for each in self._members:
            each.tell("order", order)
        return [each.hear("state") for each in self._members]

    def end(self) -> None:
        """Let all processes end, members first."""
        for each in self._members:
            each.tell("order", None)
        for each in self._workers:
            each.tell("more", False)


def _cpu(states: list[_State]) -> float:
    return sum(state.cpu for state in states)


def measure_idle(members: int, each: int, workers: int, seconds: float) -> Idle:
    """Have members open some sessions each, which then do nothing for a while.

    There are as many processes of members as workers.
    """
    crowds = [members // workers + (number < members % workers) for number in range(workers)]
    sessions = members * each
    with ExitStack() as stack:
        stage = _Stage(stack, workers, crowds, each=each)
        before, began = stage.states(), time.perf_counter()
        joined = stage.do("connect", each)
        took = time.perf_counter() - began
        if sum(state.sessions for state in joined) != sessions:
            raise ValueError("not all sessions are open")
        time.sleep(_SETTLE_SECONDS)
        opened = stage.states()
        quiet, since = stage.do("look"), time.perf_counter()
        time.sleep(seconds)
        after, left, lasted = stage.states(), stage.do("look"), time.perf_counter() - since
        stage.end()
    return Idle(
        took,
        (_cpu(opened) - _cpu(before)) / sessions,
        sum(new.bytes - old.bytes for new, old in zip(opened, before, strict=True)) / sessions,
        sum(new.bytes - old.bytes for new, old in zip(joined, stage.began, strict=True)) / sessions,
        (_cpu(after) - _cpu(opened)) / lasted,
        (_cpu(left) - _cpu(quiet)) / lasted,
        [state.sessions for state in after],
    )


def measure_beside(
    messages: int, sessions: int, members_each: int, rounds: int
) -> dict[str, Beside]:
    """Return what messages and sessions cost with `SETTINGS`: the medians of alternate rounds.

    Args:
        messages: Of each member, in each round.
        sessions: That each member opens and closes, in each round.
        members_each: How many members each of two processes has.
        rounds: How many.

    """
    crowds = [members_each] * _CROWDS
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in SETTINGS}
    with ExitStack() as stack:
        stages = [
            _Stage(stack, 1, crowds),
            _Stage(stack, 2, crowds),
            _Stage(stack, 2, crowds, apart=True),
        ]
        for stage in stages:
            stage.do("connect", 1)
            stage.do("exchange", 10)
            stage.do("come and go", 1)
        for _ in range(rounds):
            for name, stage in zip(SETTINGS, stages, strict=True):
                message = _cost(stage, "exchange", messages) / sum(crowds)
                found[name].append((message, _cost(stage, "come and go", sessions) / sum(crowds)))
        for stage in stages:
            stage.end()
    return {name: Beside(*map(median, zip(*each, strict=True))) for name, each in found.items()}


def _cost(stage: _Stage, order: str, times: int) -> float:
    """Return the microseconds of processor time at all workers for what each member does once."""
    before = _cpu(stage.states())
    stage.do(order, times)
    time.sleep(_SETTLE_SECONDS)  # for the last acknowledgements
    return (_cpu(stage.states()) - before) / times * 1e6
