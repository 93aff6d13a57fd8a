"""Many messages over a cable that keeps breaking: ``python -m tests.soak.random_cuts``.

Two nodes send 200,000 messages each way at once, over TCP on loopback. After a random number of
bytes, a reset, an end of stream or a black hole cuts the cable, often within a handshake or while
the session resumes. Prints what arrived, and exits with code 1 if any message was lost, duplicated
or reordered.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.fault_network import Direction, Fault, FaultNetwork, Kind
from seigr_toolset_transmissions import NodeConfig, Session, STTNode
from seigr_toolset_transmissions.errors import STTConnectError
from seigr_toolset_transmissions.transports.tcp import TcpNetwork

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARED_SEED = b"the soak test's shared seed, 32 b"
CONFIG = NodeConfig(
    ping_interval=0.2,
    ping_timeout=0.2,
    reconnect_delay=0.01,
    reconnect_delay_max=0.02,
    connect_timeout=1.0,
    handshake_timeout=1.0,
)


def faults(chance: random.Random, mean_bytes: int) -> Iterator[Fault]:
    """Yield faults endlessly: one in four within the first 700 bytes of its cable."""
    while True:
        early = chance.random() < 0.25
        offset = chance.randrange(700) if early else chance.randrange(2 * mean_bytes)
        # A black hole lasts until it is noticed, so it is rarer than the others.
        kind = chance.choices(list(Kind), weights=(5, 5, 1))[0]
        yield Fault(chance.choice(list(Direction)), offset, kind)


class Side:
    """One node's end: counts, checks and digests what it receives."""

    def __init__(self, count: int, tag: bytes) -> None:
        self.count = count
        self.tag = tag
        self.received = 0
        self.wrong: list[str] = []
        self.digest = hashlib.sha256()
        self.complete = asyncio.Event()

    def take(self, message: bytes) -> None:
        """Check that this is the next message of the other side."""
        number = int.from_bytes(message[1:9])
        if message[:1] != self.tag or number != self.received:
            self.wrong.append(f"message {number} when {self.received} was due")
        self.digest.update(message)
        self.received += 1
        if self.received == self.count:
            self.complete.set()


async def send(session: Session, tag: bytes, count: int, digest: hashlib._Hash) -> None:
    """Send numbered messages of various sizes."""
    filling = bytes(range(256)) * 4
    for number in range(count):
        message = tag + number.to_bytes(8) + filling[: number * 37 % 300]
        digest.update(message)
        await session.send(message)
        if number % 50 == 0:
            await asyncio.sleep(0)
    await session.flush()


async def soak(count: int, cuts: int, seed: int) -> int:
    """Run it; return the exit code."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    mean = max(1000, 80 * count // cuts)
    network = FaultNetwork(TcpNetwork())
    network.faults = itertools.chain(faults(chance, mean))
    listener = STTNode(b"soak listener's seed", SHARED_SEED, config=CONFIG, network=network)
    dialer = STTNode(b"soak dialer's own seed", SHARED_SEED, config=CONFIG, network=network)
    at_listener, at_dialer = Side(count, b"o"), Side(count, b"i")
    sent_out, sent_in = hashlib.sha256(), hashlib.sha256()
    back: asyncio.Future[Session] = asyncio.get_running_loop().create_future()

    @listener.events.on("session_created")
    async def note(session_id: bytes) -> None:
        session = listener.get_session(session_id)
        if session is not None and not back.done():
            back.set_result(session)

    @listener.events.on("data_received")
    async def receive_out(session_id: bytes, data: bytes) -> None:
        at_listener.take(data)

    @dialer.events.on("data_received")
    async def receive_in(session_id: bytes, data: bytes) -> None:
        at_dialer.take(data)

    async def watch() -> None:
        while True:
            await asyncio.sleep(5)
            print(
                f"{at_listener.received:8d} out, {at_dialer.received:8d} in, "
                f"{len(network.cables)} connections",
                flush=True,
            )

    began = time.monotonic()
    address = await listener.start(server_mode=True)
    assert address is not None
    await dialer.start()
    while True:
        try:
            out = await dialer.connect(*address)
        except STTConnectError:
            continue
        break
    watcher = asyncio.create_task(watch())
    sending = [
        send(out, b"o", count, sent_out),
        send(await back, b"i", count, sent_in),
    ]
    await asyncio.gather(*sending, at_listener.complete.wait(), at_dialer.complete.wait())
    network.faults = iter(())
    watcher.cancel()
    await dialer.stop()
    await listener.stop()
    broken = sum(cable.broken is not None for cable in network.cables)
    by_kind = {kind.name: sum(c.broken is kind for c in network.cables) for kind in Kind}
    early = sum(c.broken is not None and sum(c.passed.values()) < 700 for c in network.cables)
    print(f"{broken} connections were cut {by_kind}, {early} of them within a handshake or so")
    print(f"session resumed {out.stats.resumes} times, seed {seed}")
    good = True
    for name, side, digest in (("out", at_listener, sent_out), ("in", at_dialer, sent_in)):
        same = side.digest.digest() == digest.digest()
        good = good and same and not side.wrong and side.received == count
        print(
            f"{name}: {side.received} of {count} messages, {len(side.wrong)} lost, duplicated or "
            f"out of order, digests {'equal' if same else 'DIFFER'}"
        )
    print(f"{time.monotonic() - began:.0f} s; {'all ok' if good else 'FAILED'}")
    return 0 if good and broken >= cuts else 1


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--messages", type=int, default=200_000, help="how many each way (default: %(default)s)"
    )
    parser.add_argument(
        "--cuts",
        type=int,
        default=500,
        help="at least this many (default: %(default)s); about twice as many happen",
    )
    parser.add_argument("--seed", type=int, default=1, help="of all random choices")
    options = parser.parse_args()
    return asyncio.run(soak(options.messages, options.cuts, options.seed))


if __name__ == "__main__":
    sys.exit(main())
