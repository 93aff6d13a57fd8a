"""What messages cost in a cluster: ``python -m benchmarks.cluster``.

Two hubs of a cluster meet at a nats-server on loopback. One of them, the origin, sends messages of
64 bytes to a peer of its own, and then to a peer of the other hub, the owner. In the same round,
one program publishes as many such messages with nats-py, one at a time, and another receives them.
Hubs, peers, and the users of nats-py are processes of their own, and every message is compared when
it arrives.

Then members exchange messages with workers that share a port, and open and close sessions: with one
worker, with two, and with two nodes that know nothing of each other. Prints the medians of the
rounds, and whether the goals are met.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
import time
from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from seigr_toolset_transmissions import STTNode
from seigr_toolset_transmissions.cluster import Cluster

from .material import Material
from .peers.nats_broker import run_broker
from .processes import Child
from .roles import run
from .workers import SETTINGS, measure_beside

if TYPE_CHECKING:
    from .processes import Link

__all__ = ["Cost", "Round", "measure"]

_BYTES = 64
_LIMIT = 600.0
_SETTLE_SECONDS = 0.3
"""For the last acknowledgements, which belong to the cost of a message."""
_SUBJECT = "benchmark"
_MOST_PENDING = 1 << 30

GOAL_CPU = 2.5
"""Microseconds of processor time at origin and owner together, beyond a local send."""
GOAL_RATE = 2.0
"""Times the rate of nats-py."""
GOAL_WORKERS = 1.1
"""Times what two nodes take that know nothing of each other."""

_MESSAGES = [number.to_bytes(8) + secrets.token_bytes(_BYTES - 8) for number in range(512)]


class _Seeds(NamedTuple):
    """What the hubs and their peers share, made anew for each run."""

    hubs: bytes
    shared: bytes
    messages: list[bytes]


class Cost(NamedTuple):
    """What some messages have cost."""

    per_second: float
    cpu: float
    """Microseconds of processor time of one message, at the senders and hubs measured."""


class Round(NamedTuple):
    """One turn of each way to send."""

    local: Cost
    cluster: Cost
    nats: Cost

    @property
    def beyond(self) -> float:
        """Return the processor time of a message at both hubs, beyond a local send."""
        return self.cluster.cpu - self.local.cpu


# ---------------------------------------------------------------------------------- processes


def hub(link: Link, url: str, name: str, seeds: _Seeds) -> None:
    """Run as a hub that sends what it is told to."""
    run(_hub(link, url, name, seeds), "asyncio")


async def _hub(link: Link, url: str, name: str, seeds: _Seeds) -> None:
    cluster = Cluster(url, name=name)
    node = STTNode(seeds.hubs, seeds.shared, "127.0.0.1", 0, cluster=cluster)
    async with node.listening():
        link.tell("address", node.address)
        while (order := await link.listen("order")) is not None:
            if not order:
                link.tell("cpu", time.process_time())
                continue
            endpoint_id, count = order
            while cluster.locate(endpoint_id) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            begun, send = time.perf_counter(), node.endpoints.send_to_endpoint
            for number in range(count):
                await send(endpoint_id, seeds.messages[number % 512])
            link.tell("begun", begun)


def peer(link: Link, address: tuple[str, int], seeds: _Seeds) -> None:
    """Run as a peer that receives so many messages, again and again."""
    run(_peer(link, address, seeds), "asyncio")


async def _peer(link: Link, address: tuple[str, int], seeds: _Seeds) -> None:
    async with STTNode(secrets.token_bytes(32), seeds.shared) as node:
        await node.connect(*address)
        link.tell("id", node.node_id)
        while (count := await link.listen("count")) is not None:
            number = 0
            while number < count:
                for data, _ in await node.endpoints.receive_many():
                    _check(data, number, seeds)
                    number += 1
            link.tell("ended", time.perf_counter())


def _check(data: bytes, number: int, seeds: _Seeds) -> None:
    if data != seeds.messages[number % 512]:
        raise ValueError(f"message {number} is not the one that was sent")


def publisher(link: Link, url: str, seeds: _Seeds) -> None:
    """Run as a program that publishes with nats-py."""
    run(_publish(link, url, seeds), "asyncio")


async def _publish(link: Link, url: str, seeds: _Seeds) -> None:
    import nats

    client = await nats.connect(url, pending_size=8 * 1024 * 1024, allow_reconnect=False)
    while (count := await link.listen("count")) is not None:
        begun, cpu = time.perf_counter(), time.process_time()
        for number in range(count):
            await client.publish(_SUBJECT, seeds.messages[number % 512])
        await client.flush()
        link.tell("begun", (begun, time.process_time() - cpu))
    await client.close()


def subscriber(link: Link, url: str, seeds: _Seeds) -> None:
    """Run as a program that receives with nats-py."""
    run(_subscribe(link, url, seeds), "asyncio")


async def _subscribe(link: Link, url: str, seeds: _Seeds) -> None:
    import nats

    client = await nats.connect(url, allow_reconnect=False)
    number, count, over = 0, 0, asyncio.Event()

    async def take(message: Any) -> None:
        nonlocal number
        _check(message.data, number, seeds)
        number += 1
        if number == count:
            over.set()

    await client.subscribe(
        _SUBJECT, cb=take, pending_msgs_limit=-1, pending_bytes_limit=_MOST_PENDING
    )
    await client.flush()
    link.tell("ready")
    while (order := await link.listen("count")) is not None:
        number, count = 0, order
        over.clear()
        cpu = time.process_time()
        link.tell("ready")
        await over.wait()
        link.tell("ended", (time.perf_counter(), time.process_time() - cpu))
    await client.close()


# ------------------------------------------------------------------------------- measurements


class _Stage:
    """All processes of a run."""

    def __init__(self, stack: ExitStack, directory: str) -> None:
        self._stack = stack
        seeds = _Seeds(secrets.token_bytes(32), secrets.token_bytes(32), _MESSAGES)
        broker = self._start(run_broker, Material(directory), False)
        url = f"nats://127.0.0.1:{broker.hear('address')}"
        stack.callback(broker.tell, "done")
        self.hubs = [self._start(hub, url, name, seeds) for name in ("origin", "owner")]
        self.peers = [self._start(peer, each.hear("address"), seeds) for each in self.hubs]
        self.ids = [each.hear("id") for each in self.peers]
        self.subscriber = self._start(subscriber, url, seeds)
        self.subscriber.hear("ready")
        self.publisher = self._start(publisher, url, seeds)

    def _start(self, role: Any, *arguments: Any) -> Link:
        return self._stack.enter_context(Child(role, *arguments, limit=_LIMIT)).link

    def close(self) -> None:
        """Let all processes end."""
        for each in self.hubs:
            each.tell("order", None)
        for each in (*self.peers, self.publisher, self.subscriber):
            each.tell("count", None)

    def send(self, whose: int, count: int) -> Cost:
        """Have the origin send to its own peer (0) or to the owner's (1)."""
        before = self._cpu()
        self.peers[whose].tell("count", count)
        self.hubs[0].tell("order", (self.ids[whose], count))
        begun = self.hubs[0].hear("begun")
        ended = self.peers[whose].hear("ended")
        time.sleep(_SETTLE_SECONDS)
        return Cost(count / (ended - begun), (self._cpu() - before) / count * 1e6)

    def _cpu(self) -> float:
        """Return for how many seconds the processors of both hubs have worked."""
        for each in self.hubs:
            each.tell("order", ())
        return sum(float(each.hear("cpu")) for each in self.hubs)

    def publish(self, count: int) -> Cost:
        """Have nats-py carry as many messages."""
        self.subscriber.tell("count", count)
        self.subscriber.hear("ready")
        self.publisher.tell("count", count)
        begun, sending = self.publisher.hear("begun")
        ended, receiving = self.subscriber.hear("ended")
        return Cost(count / (ended - begun), (sending + receiving) / count * 1e6)


def measure(count: int, rounds: int) -> list[Round]:
    """Return what so many messages cost, in each round."""
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        stage = _Stage(stack, directory)
        for whose in (0, 1):
            stage.send(whose, min(count, 1000))
        found = [
            Round(stage.send(0, count), stage.send(1, count), stage.publish(count))
            for _ in range(rounds)
        ]
        stage.close()
    return found


def main() -> int:
    """Measure and report; return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=200_000, help="of a turn (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="how many (default: %(default)s)")
    options = parser.parse_args()
    rounds = measure(options.messages, options.rounds)
    for name in ("local", "cluster", "nats"):
        costs = [getattr(each, name) for each in rounds]
        print(
            f"{name}: {median(cost.per_second for cost in costs):,.0f} messages/s, "
            f"{median(cost.cpu for cost in costs):.2f} us of processor time for each"
        )
    beyond = median(each.beyond for each in rounds)
    ratio = median(each.cluster.per_second / each.nats.per_second for each in rounds)
    good = [beyond <= GOAL_CPU, ratio >= GOAL_RATE]
    print(
        f"beyond a local send, at both hubs: {beyond:.2f} us (goal: {GOAL_CPU} at most): "
        f"{'met' if good[0] else 'MISSED'}"
    )
    print(
        f"rate, compared with nats-py: {ratio:.1f} (goal: {GOAL_RATE:.0f} at least): "
        f"{'met' if good[1] else 'MISSED'}"
    )
    found = measure_beside(options.messages // 16, 20, 8, options.rounds)
    for name, cost in found.items():
        print(
            f"{name}: {cost.message:.2f} us of processor time to send a message back, "
            f"{cost.session:,.0f} us to open and close a session"
        )
    _, together, apart = (found[name] for name in SETTINGS)
    for what in ("message", "session"):
        dearer = getattr(together, what) / getattr(apart, what)
        good.append(dearer <= GOAL_WORKERS)
        print(
            f"two workers, compared with two nodes apart, a {what}: {dearer:.2f} "
            f"(goal: {GOAL_WORKERS} at most): {'met' if good[-1] else 'MISSED'}"
        )
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
