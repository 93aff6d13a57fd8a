"""Kill hubs that have the endpoints, at random moments: ``python -m tests.soak.kill_hub``.

One hub of a cluster, the origin, sends numbered messages without a pause to peers of other hubs,
which are processes of their own. Again and again one of those is ended by SIGKILL and started
again. Its peers reconnect elsewhere, through a balancer that picks a hub at random. Whatever the
origin has accepted must arrive once and in order or be reported once, and nothing reported as
``unsent`` may have arrived. Prints a summary, and exits with code 1 if that fails. The hubs meet in
a folder, or with ``--at nats`` at a real nats-server on loopback, or have a list of addresses.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import tempfile
import time
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.nats_server import NatsServer
from helpers.nodes import free_port, until
from seigr_toolset_transmissions import NodeConfig, STTNode
from seigr_toolset_transmissions.cluster import Cluster
from seigr_toolset_transmissions.errors import STTEndpointError
from soak.landing_elsewhere import HOST, HUB_SEED, SHARED_SEED, Balanced, Hubs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONFIG = NodeConfig(
    reconnect_delay=0.01,
    reconnect_delay_max=0.1,
    connect_timeout=2.0,
    handshake_timeout=2.0,
)
GRACE = 3.0
"""Seconds that a link, or an endpoint, has to come back."""
MESSAGE = bytes(56)
"""What follows the number in each message."""
PATIENCE = 60.0
"""Seconds for anything that this program waits for."""


def make_cluster(where: str, name: str) -> Cluster:
    """Return what makes a node a hub; ``where`` is a URL, or a list of addresses."""
    listed = where.split(",")
    return Cluster(listed if where.startswith("tcp:") else where, name=name, grace=GRACE)


def meeting_place(at: str, around: ExitStack, hub_count: int) -> str:
    """Return where so many hubs and the origin can meet until the stack is closed."""
    if at == "nats":
        return around.enter_context(NatsServer()).url
    if at == "list":
        return ",".join(f"tcp://{HOST}:{free_port()}" for _ in range(hub_count + 1))
    return f"unix://{Path(around.enter_context(tempfile.TemporaryDirectory())) / 'hubs'}"


async def start_hub(where: str, name: str) -> STTNode:
    """Start a hub, print its port once the origin is there, and return it."""
    node = STTNode(
        HUB_SEED,
        SHARED_SEED,
        HOST,
        0,
        config=CONFIG,
        cluster=make_cluster(where, name),
    )
    address = await node.start(server_mode=True)
    assert address is not None
    assert node.cluster is not None
    cluster = node.cluster
    await until(lambda: any(hub.name == "origin" for hub in cluster.hubs), PATIENCE)
    print(address[1], flush=True)
    return node


async def serve(where: str, name: str) -> None:
    """Run as a hub until killed."""
    node = await start_hub(where, name)
    await asyncio.Event().wait()
    del node  # it must live until then


class Account:
    """What the origin has accepted for one peer, and what became of it."""

    def __init__(self) -> None:
        self.accepted = 0
        self.delivered = 0
        self.skipped: set[int] = set()
        """Numbers that have not arrived, though a later one has."""
        self.unsent: list[int] = []
        self.unknown: list[int] = []
        self.wrong: list[int] = []
        """Numbers that have arrived after a later one, or twice."""
        self._next = 0

    def arrived(self, number: int) -> None:
        """Note a message that the peer has received."""
        if number < self._next:
            self.wrong.append(number)
            return
        self.skipped.update(range(self._next, number))
        self._next = number + 1
        self.delivered += 1

    @property
    def missing(self) -> set[int]:
        """What was accepted and has not arrived."""
        return self.skipped.union(range(self._next, self.accepted))

    @property
    def is_settled(self) -> bool:
        """Whether each message has arrived or is reported."""
        return self.missing <= {*self.unsent, *self.unknown}

    def problems(self) -> list[str]:
        """Return what must not be."""
        reported = [*self.unsent, *self.unknown]
        missing = self.missing
        found = {
            "twice or out of order": self.wrong,
            "arrived, but reported as unsent": set(self.unsent) - missing,
            "neither arrived nor reported": missing.difference(reported),
            "reports of the same messages": range(len(reported) - len(set(reported))),
            "arrived, but never accepted": range(self.accepted, self._next),
        }
        return [f"{len(what)} {text}: {sorted(what)[:5]}" for text, what in found.items() if what]


class Load:
    """The origin, its peers, and an account for each of them.

    A sender sends ``batch`` messages to its peer, and then pauses for ``pause`` seconds.
    """

    def __init__(
        self,
        where: str,
        hubs: Hubs,
        count: int,
        chance: random.Random,
        *,
        batch: int,
        pause: float,
    ) -> None:
        self.batch = batch
        self.pause = pause
        self.origin = STTNode(
            HUB_SEED, SHARED_SEED, config=CONFIG, cluster=make_cluster(where, "origin")
        )
        self.peers = [
            STTNode(
                b"the seed of peer %016d" % number,
                SHARED_SEED,
                config=CONFIG,
                network=Balanced(hubs, chance),
            )
            for number in range(count)
        ]
        self.accounts = {peer.node_id: Account() for peer in self.peers}
        self._over = False

        @self.origin.events.on("error")
        async def note(error_type: str, details: dict[str, Any]) -> None:
            if error_type == "endpoint_lost":
                account = self.accounts[details["peer_node_id"]]
                account.unsent += [int.from_bytes(data[:8]) for data in details["unsent"]]
                account.unknown += [int.from_bytes(data[:8]) for data in details["unknown"]]

    async def _start(self, stack: AsyncExitStack) -> None:
        """Connect the peers."""
        for peer in self.peers:
            await stack.enter_async_context(peer)
            await peer.endpoints.add_endpoint(self.origin.node_id, ("balancer", 1), connect=True)
        await until(lambda: all(self.hub_of(peer) for peer in self.peers), PATIENCE)

    def hub_of(self, peer: STTNode) -> str | None:
        """Return the name of the hub that has this peer, as far as the origin knows."""
        assert self.origin.cluster is not None
        return self.origin.cluster.locate(peer.node_id)

    async def _send(self, peer: STTNode) -> None:
        """Send to a peer until told to stop."""
        account = self.accounts[peer.node_id]
        while not self._over:
            try:
                for _ in range(self.batch):
                    message = account.accepted.to_bytes(8) + MESSAGE
                    await self.origin.endpoints.send_to_endpoint(peer.node_id, message)
                    account.accepted += 1
            except STTEndpointError:
                await asyncio.sleep(0.01)  # it is connected to no hub
            await asyncio.sleep(self.pause)

    async def _receive(self, peer: STTNode) -> None:
        """Note what a peer receives, until it stops."""
        account = self.accounts[peer.node_id]
        async for data, _ in peer.endpoints.messages():
            account.arrived(int.from_bytes(data[:8]))

    @asynccontextmanager
    async def under_way(self, hubs: Hubs) -> AsyncIterator[None]:
        """Run hubs and peers, and send; in the end, until each message is accounted for."""
        try:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(self.origin)
                await asyncio.gather(*map(hubs.start, hubs.names))
                await self._start(stack)
                receiving = [asyncio.create_task(self._receive(peer)) for peer in self.peers]
                sending = [asyncio.create_task(self._send(peer)) for peer in self.peers]
                yield
                self._over = True
                await asyncio.gather(*sending)
                accounts = self.accounts.values()
                with suppress(TimeoutError):
                    await until(lambda: all(each.is_settled for each in accounts), PATIENCE)
                await asyncio.sleep(0.5)  # anything that comes twice, or too late, comes now
            await asyncio.gather(*receiving)
        finally:
            await hubs.kill(*hubs.names)

    async def heard_from(self, peers: list[STTNode]) -> None:
        """Wait until messages reach these peers again."""
        before = {peer.node_id: self.accounts[peer.node_id].delivered for peer in peers}
        await until(
            lambda: all(self.accounts[key].delivered > old for key, old in before.items()),
            PATIENCE,
        )


async def soak(hub_count: int, peer_count: int, kills: int, seed: int, at: str) -> int:
    """Run it; return the exit code."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    began = time.monotonic()
    with ExitStack() as around:
        where = meeting_place(at, around, hub_count)
        hubs = Hubs(__file__, hub_count, where)
        load = Load(where, hubs, peer_count, chance, batch=50, pause=0.001)
        accounts = load.accounts.values()
        async with load.under_way(hubs):
            for number in range(1, kills + 1):
                await asyncio.sleep(chance.uniform(0, 0.3))
                name = load.hub_of(chance.choice(load.peers)) or hubs.names[0]
                bereft = [peer for peer in load.peers if load.hub_of(peer) == name]
                await hubs.kill(name)
                await asyncio.gather(load.heard_from(bereft), hubs.start(name))
                if number % 10 == 0:
                    print(f"{number} hubs killed", flush=True)
    problems = [problem for account in accounts for problem in account.problems()]
    print(*problems[:20], sep="\n", end="\n" if problems else "")
    accepted, delivered, unsent, unknown, both = (
        sum(values)
        for values in zip(
            *(
                (
                    each.accepted,
                    each.delivered,
                    len(each.unsent),
                    len(each.unknown),
                    len(set(each.unknown) - each.missing),
                )
                for each in accounts
            ),
            strict=True,
        )
    )
    print(
        f"{kills} hubs killed, {peer_count} peers: {accepted} messages accepted, {delivered} "
        f"delivered, {unsent} reported unsent and {unknown} unknown, of which {both} were "
        f"delivered; {time.monotonic() - began:.0f} s; "
        + ("FAILED" if problems else "every message once and in order, or reported: all ok")
    )
    return 1 if problems else 0


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hubs", type=int, default=3, help="besides the origin (%(default)s)")
    parser.add_argument("--peers", type=int, default=6, help="how many (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=100, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of all random choices")
    parser.add_argument("--at", choices=["folder", "nats", "list"], default="folder")
    parser.add_argument("--hub", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable()  # else it warns of each connection that could not be made at once
    if options.hub is not None:
        asyncio.run(serve(*options.hub))
        return 0
    return asyncio.run(soak(options.hubs, options.peers, options.kills, options.seed, options.at))


if __name__ == "__main__":
    sys.exit(main())
