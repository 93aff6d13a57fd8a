"""A NATS server that dies again and again, under sessions: ``python -m tests.soak.nats_outages``.

Two nodes send each other numbered messages through a real nats-server on loopback. The server is
killed with SIGKILL and started again 20 times in 60 seconds, and then stands still for 14 seconds.
Prints how long each outage was, how long the senders waited, and the rate of messages. Exits with
code 1 if a message was lost, duplicated or reordered, or if a sender waited longer than the
outage and a second more.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.nats_server import NatsServer
from helpers.nodes import SHARED_SEED, seed_of, until
from seigr_toolset_transmissions import Session, STTNode
from seigr_toolset_transmissions.transports.nats import NatsNetwork

MOST_WAIT = 1.0
"""Seconds that a sender may wait beyond the outage."""
LATEST = 60.0
"""Seconds that the last messages may take to arrive."""
_PAUSE = 0.001
"""Seconds between two batches of a sender."""
_BATCH = 20


class Direction:
    """Numbered messages over a session to the node at its other end."""

    def __init__(self, session: Session, receiver: STTNode) -> None:
        self._session = session
        self._receiver = receiver
        self.sent = 0
        self.received = 0
        self.right = True
        self.longest = 0.0

    async def send(self, stop: asyncio.Event) -> None:
        """Send until told to stop, and note the longest wait."""
        while not stop.is_set():
            for _ in range(_BATCH):
                began = time.monotonic()
                await self._session.send(b"%d" % self.sent)
                self.longest = max(self.longest, time.monotonic() - began)
                self.sent += 1
            await asyncio.sleep(_PAUSE)

    async def receive(self) -> None:
        """Check what arrives until cancelled."""
        while True:
            data, _ = await self._receiver.endpoints.receive_any()
            self.right &= data == b"%d" % self.received
            self.received += 1


async def outage(
    name: str,
    server: NatsServer,
    seconds: float,
    ways: list[Direction],
    most_wait: float,
    *,
    still: bool,
) -> bool:
    """Take the server away for a few seconds; return whether both ways go on in time."""
    before = [way.received for way in ways]
    for way in ways:
        way.longest = 0.0
    began = time.monotonic()
    if still:
        server.pause()
    else:
        server.kill()
    await asyncio.sleep(seconds)
    if still:
        server.resume()
    else:
        await asyncio.to_thread(server.start)
    lasted = time.monotonic() - began
    sent = [way.sent for way in ways]
    try:
        async with asyncio.timeout(LATEST):  # the first messages of afterwards have arrived
            await until(
                lambda: all(
                    way.received > max(count, old)
                    for way, count, old in zip(ways, sent, before, strict=True)
                )
            )
    except TimeoutError:
        print(f"{name}: nothing arrives any more: FAILED", flush=True)
        return False
    silent = time.monotonic() - began
    longest = max(way.longest for way in ways)
    good = max(longest, silent) <= lasted + most_wait
    print(
        f"{name}: {lasted:.2f} s; longest wait of a sender {longest:.2f} s, messages arrive again "
        f"after {silent:.2f} s: {'ok' if good else 'FAILED'}",
        flush=True,
    )
    return good


async def soak(kills: int, seconds: float, standstill: float, most_wait: float = MOST_WAIT) -> int:
    """Kill a server, then stop it for a while; return the exit code."""
    with NatsServer() as server:
        async with (
            NatsNetwork(server.url) as one,
            NatsNetwork(server.url) as other,
            STTNode(seed_of("hub"), SHARED_SEED, "hub", 1, network=one).listening() as hub,
            STTNode(seed_of("peer"), SHARED_SEED, network=other) as peer,
        ):
            near = await peer.connect("hub", 1)
            await until(lambda: hub.get_session(near.session_id))
            far = hub.get_session(near.session_id)
            assert far is not None
            ways = [Direction(near, hub), Direction(far, peer)]
            stop = asyncio.Event()
            receiving = [asyncio.create_task(way.receive()) for way in ways]
            sending = [asyncio.create_task(way.send(stop)) for way in ways]
            began = time.monotonic()
            results = []
            for number in range(kills):
                await asyncio.sleep(
                    max(0.0, began + seconds * (number + 0.5) / kills - time.monotonic())
                )
                name = f"kill {number + 1}"
                results.append(await outage(name, server, 0.3, ways, most_wait, still=False))
            await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
            results.append(
                await outage("standstill", server, standstill, ways, most_wait, still=True)
            )
            stop.set()
            await asyncio.gather(*sending)
            try:
                async with asyncio.timeout(LATEST):
                    await until(lambda: all(way.received >= way.sent for way in ways))
            except TimeoutError:
                results.append(False)
            lasted = time.monotonic() - began
            for task in receiving:
                task.cancel()
            await asyncio.gather(*receiving, return_exceptions=True)
    exact = all(way.right and way.received == way.sent for way in ways)
    received, sent = sum(way.received for way in ways), sum(way.sent for way in ways)
    print(
        f"{received:,} of {sent:,} messages, {'once and in order' if exact else 'NOT RIGHT'}, "
        f"{received / lasted:,.0f} a second; {near.stats.resumes} resumptions"
    )
    good = exact and all(results)
    print("all ok" if good else "FAILED")
    return 0 if good else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60, help="over which the kills are spread")
    parser.add_argument("--standstill", type=float, default=14, help="seconds")
    arguments = parser.parse_args()
    sys.exit(asyncio.run(soak(arguments.kills, arguments.seconds, arguments.standstill)))
