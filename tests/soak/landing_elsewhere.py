"""Sessions whose connections land at any hub: ``python -m tests.soak.landing_elsewhere``.

Several processes are the hubs of one cluster, which meet in a folder. Peers dial them through a
balancer that picks a hub at random for each connection. Both sides of every session send without a
pause while the connections are cut again and again, often within a handshake. No session may be
lost. Then the hubs are replaced one after the other, under the same load and cuts: sessions end and
others begin, and each must be closed with everything delivered. Prints a summary, and exits with
code 1 if a session, or any message, was lost, or if messages were duplicated or reordered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import signal
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.fault_network import FaultNetwork, Kind
from helpers.nodes import until
from seigr_toolset_transmissions import NodeConfig, Session, SessionState, STTNode
from seigr_toolset_transmissions.cluster import Cluster
from seigr_toolset_transmissions.errors import STTSessionClosedError
from seigr_toolset_transmissions.transports.base import Network
from seigr_toolset_transmissions.transports.tcp import TcpNetwork
from soak.random_cuts import faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from seigr_toolset_transmissions.transports.base import Address, Listener, Receiver, Transport

SHARED_SEED = b"the soak test's shared seed, 32 b"
HUB_SEED = b"the seed that all hubs share, 32"
HOST = "127.0.0.1"
CONFIG = NodeConfig(
    ping_interval=0.2,
    ping_timeout=0.4,
    reconnect_delay=0.01,
    reconnect_delay_max=0.05,
    connect_timeout=2.0,
    handshake_timeout=2.0,
    close_timeout=15.0,
)
MEAN_BYTES = 20_000
"""What passes over a connection before it is cut, on average; ten times as much while hubs are
replaced: each has only so much time to deliver what is left."""
PATIENCE = 30.0
"""Seconds for anything that this program waits for."""


@dataclass
class Stream:
    """One session, as one side sees it: how much it has sent and received."""

    accepted: int = 0
    received: int = 0
    wrong: int = 0


@dataclass
class Side:
    """What one process, a hub or that of all peers, knows of its sessions."""

    streams: dict[str, Stream] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    _sending: set[asyncio.Task[None]] = field(default_factory=set)

    def watch(self, node: STTNode) -> None:
        """Count and check all that the node's sessions send and receive."""

        @node.events.on("session_created")
        async def begin(session_id: bytes) -> None:
            session = node.get_session(session_id)
            stream = self.streams.setdefault(session_id.hex(), Stream())
            if session is not None:
                task = asyncio.create_task(_send(session, stream))
                self._sending.add(task)
                task.add_done_callback(self._sending.discard)

        @node.events.on("data_received")
        async def take(session_id: bytes, data: bytes) -> None:
            stream = self.streams[session_id.hex()]
            stream.wrong += int.from_bytes(data[:8]) != stream.received
            stream.received += 1

        @node.events.on("error")
        async def fail(error_type: str, details: dict[str, Any]) -> None:
            if error_type in ("session_lost", "undelivered", "handler"):
                self.failures.append(f"{error_type}: {details.get('reason') or details!r:.200}")

    def report(self) -> str:
        """Return everything, as one line for the process that asked for it."""
        streams = {key: vars(stream) for key, stream in self.streams.items()}
        return json.dumps({"streams": streams, "failures": self.failures})

    def add(self, report: str) -> None:
        """Add what another process has reported."""
        told = json.loads(report)
        self.streams.update({key: Stream(**values) for key, values in told["streams"].items()})
        self.failures += told["failures"]


async def _send(session: Session, stream: Stream) -> None:
    """Send numbered messages until the session closes."""
    filling = bytes(200)
    try:
        while True:
            await session.send(stream.accepted.to_bytes(8) + filling[: stream.accepted % 200])
            stream.accepted += 1
            if stream.accepted % 10 == 0:
                await asyncio.sleep(0.005)
            if stream.accepted % 1000 == 0:
                await session.flush()  # so that a hub can deliver what is left when it stops
    except STTSessionClosedError:
        pass


async def serve(folder: str, others: int, name: str) -> None:
    """Run as a hub until SIGTERM: print the port when the others are there, at the end a report."""
    end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end.set)
    node = STTNode(
        HUB_SEED,
        SHARED_SEED,
        HOST,
        0,
        config=CONFIG,
        cluster=Cluster(f"unix://{folder}", name=name),
    )
    side = Side()
    side.watch(node)
    address = await node.start(server_mode=True)
    assert address is not None
    assert node.cluster is not None
    cluster = node.cluster
    await until(lambda: len(cluster.hubs) == others)
    print(address[1], flush=True)
    await end.wait()
    lost = await node.stop()
    side.failures += [f"at the stop: {error}" for error in lost]
    print(side.report(), flush=True)


class Hubs:
    """The hubs' processes, by name, and where each of them listens.

    A process runs ``program --hub ARGUMENT... NAME``, and prints its port when it is ready.
    """

    def __init__(self, program: str, count: int, *arguments: str) -> None:
        self.names = [f"hub-{number}" for number in range(count)]
        self.ports: dict[str, int] = {}
        self.seen = Side()
        self._program = program
        self._arguments = arguments
        self._processes: dict[str, Process] = {}

    async def start(self, name: str) -> None:
        """Start a hub; return when it is ready."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, self._program, "--hub", *self._arguments, name,
            stdout=PIPE, limit=2**24,
        )  # fmt: skip
        self._processes[name] = process
        self.ports[name] = int(await self._line(process))

    async def stop(self, name: str) -> None:
        """Stop a hub, and note what it reports."""
        process = self._processes[name]
        process.terminate()
        self.seen.add(await self._line(process))
        await process.wait()

    async def kill(self, *names: str) -> None:
        """End those of these hubs that run."""
        for name in names:
            process = self._processes.get(name)
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()

    async def _line(self, process: Process) -> str:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            return (await process.stdout.readline()).decode()


class Balanced(Network):
    """What one peer dials: each connection leads to a hub picked at random."""

    def __init__(self, hubs: Hubs, chance: random.Random) -> None:
        self.home = ""
        """The hub where the peer's session began."""
        self.last = ""
        self.elsewhere = 0
        """How often a connection has led to another hub than that."""
        self._hubs = hubs
        self._chance = chance
        self._inner = TcpNetwork()

    async def dial(self, receiver: Receiver, host: str, port: int) -> Transport:
        self.last = self._chance.choice(self._hubs.names)
        transport = await self._inner.dial(receiver, HOST, self._hubs.ports[self.last])
        self.elsewhere += self.home not in ("", self.last)
        return transport

    async def listen(self, accept: Callable[[], Receiver], host: str, port: int) -> Listener:
        raise NotImplementedError("peers only dial")


class Peers:
    """Peers of the hubs, which stay connected through the balancer."""

    def __init__(self, hubs: Hubs, count: int, chance: random.Random) -> None:
        self.seen = Side()
        self.balanced = [Balanced(hubs, chance) for _ in range(count)]
        self.networks = [FaultNetwork(balanced) for balanced in self.balanced]
        self._nodes: list[STTNode] = []
        self._chance = chance

    async def start(self, stack: AsyncExitStack) -> None:
        """Connect all of them."""
        address: Address = ("balancer", 1)
        hub_id = STTNode(HUB_SEED, SHARED_SEED).node_id
        for number, (network, balanced) in enumerate(
            zip(self.networks, self.balanced, strict=True)
        ):
            seed = b"the seed of peer %016d" % number
            node = STTNode(seed, SHARED_SEED, config=CONFIG, network=network)
            self._nodes.append(node)
            self.seen.watch(node)

            @node.events.on("session_created")
            async def settle(session_id: bytes, balanced: Balanced = balanced) -> None:
                balanced.home = balanced.last

            await stack.enter_async_context(node)
            await node.endpoints.add_endpoint(hub_id, address, connect=True)
        await self.settle()

    async def settle(self) -> None:
        """Return when each of them has had a connection, if not all at once: cables break."""
        for node in self._nodes:
            await until(partial(_connected, node), PATIENCE)

    @property
    def cuts(self) -> int:
        """How many connections were cut."""
        return sum(c.broken is not None for network in self.networks for c in network.cables)

    async def suffer(self, cuts: int) -> None:
        """Have connections cut until `recover`; return after this many cuts, which get rarer."""
        for network in self.networks if cuts else ():
            network.faults = faults(self._chance, MEAN_BYTES)
            network.cables[-1].cut(self._chance.choice((Kind.FIN, Kind.RST)))
        while self.cuts < cuts and not self.seen.failures:  # noqa: ASYNC110  both change often
            await asyncio.sleep(0.05)
        for network in self.networks if cuts else ():
            network.faults = faults(self._chance, 10 * MEAN_BYTES)

    async def recover(self) -> None:
        """Have no more connections cut; return when each peer has one that will last."""
        for network in self.networks:
            network.faults = iter(())
        await until(lambda: self.seen.failures or self._safe, PATIENCE)

    @property
    def _safe(self) -> bool:
        """Whether all are connected, and no connection will be cut."""
        lasting = all(network.cables[-1].fault is None for network in self.networks)
        return lasting and all(map(_connected, self._nodes))


def _connected(node: STTNode) -> bool:
    return any(session.state is SessionState.OPEN for session in node.sessions)


def judge(peers: Side, hubs: Side) -> list[str]:
    """Return what is wrong: each side must have received what the other has sent."""
    problems = [*peers.failures, *hubs.failures]
    if peers.streams.keys() != hubs.streams.keys():
        problems.append(f"{len(peers.streams)} sessions at peers, {len(hubs.streams)} at hubs")
    for key in peers.streams.keys() & hubs.streams.keys():
        out, back = peers.streams[key], hubs.streams[key]
        if out.wrong or back.wrong:
            problems.append(f"session {key}: duplicated, left out or out of order")
        if (out.received, back.received) != (back.accepted, out.accepted):
            problems.append(f"session {key}: {out} at the peer, {back} at the hub")
    return problems


async def soak(hub_count: int, peer_count: int, cuts: int, rounds: int, seed: int) -> int:
    """Run it; return the exit code."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        hubs = Hubs(__file__, hub_count, str(Path(folder) / "hubs"), str(hub_count - 1))
        try:
            await asyncio.gather(*map(hubs.start, hubs.names))
            peers = Peers(hubs, peer_count, chance)
            async with AsyncExitStack() as stack:
                await peers.start(stack)
                await peers.suffer(cuts)
                kept = len(peers.seen.streams) == peer_count and not peers.seen.failures
                elsewhere = sum(balanced.elsewhere for balanced in peers.balanced)
                print(
                    f"{hub_count} hubs, {peer_count} sessions, {peers.cuts} cuts, {elsewhere} "
                    f"connections landed elsewhere: {'no session lost' if kept else 'FAILED'}",
                    flush=True,
                )
                for name in hubs.names * rounds if kept else ():
                    await hubs.stop(name)
                    await hubs.start(name)
                    await peers.settle()
                await peers.recover()
            for name in hubs.names:
                await hubs.stop(name)
        finally:
            await hubs.kill(*hubs.names)
    problems = judge(peers.seen, hubs.seen)
    print(*problems[:20], sep="\n", end="\n" if problems else "")
    sides = (peers.seen, hubs.seen)
    received = sum(stream.received for side in sides for stream in side.streams.values())
    print(
        f"{rounds * hub_count} hubs replaced, {peers.cuts} cuts and {len(peers.seen.streams)} "
        f"sessions in all, {received} messages; {time.monotonic() - began:.0f} s; "
        + ("FAILED" if problems or not kept else "every message once and in order: all ok")
    )
    return 1 if problems or not kept else 0


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hubs", type=int, default=4, help="processes (default: %(default)s)")
    parser.add_argument("--peers", type=int, default=20, help="how many (default: %(default)s)")
    parser.add_argument("--cuts", type=int, default=1000, help="at least (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=2, help="of replacing every hub (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of all random choices")
    parser.add_argument("--hub", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable()  # else it warns of each connection that could not be made at once
    if options.hub is not None:
        folder, others, name = options.hub
        asyncio.run(serve(folder, int(others), name))
        return 0
    return asyncio.run(
        soak(options.hubs, options.peers, options.cuts, options.rounds, options.seed)
    )


if __name__ == "__main__":
    sys.exit(main())
