"""Many fast peers, and a consumer that pauses: ``python -m tests.soak.slow_consumer``.

A hub with default settings, and peers that send as fast as they may, all run in this process over a
network in memory. The application takes nothing for a minute, and then everything. Prints a
summary, and exits with code 1 if a session is lost, if a message is lost, duplicated or out of
order, or if the hub holds and promises more than `max_buffered_bytes`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from seigr_toolset_transmissions import NodeConfig, STTNode
from seigr_toolset_transmissions.transports.memory import MemoryNetwork

SHARED_SEED = b"the shared seed of the soak tests"
MIB = 2**20
MESSAGE_BYTES = 1000
PEERS = NodeConfig(max_message_bytes=2**18, send_window_bytes=MIB, receive_window_bytes=MIB)
"""The peers' settings: they are all in this process, where what they accept takes memory too."""
AT_ONCE = 64
"""Messages that a peer sends before it is the next one's turn."""


class Sums:
    """What was sent and received, and the most that the hub ever held and had promised."""

    def __init__(self, peers: int) -> None:
        self.sent = [0] * peers
        self.received = [0] * peers
        self.wrong = 0
        self.most = 0

    def take(self, data: bytes) -> None:
        """Note a received message, which must be the next one of its peer."""
        peer, number = int.from_bytes(data[:4]), int.from_bytes(data[4:12])
        self.wrong += number != self.received[peer]
        self.received[peer] += 1


async def run(peers: int, pause: float) -> bool:
    """Let the peers send while the application pauses for ``pause`` seconds."""
    network = MemoryNetwork()
    sums = Sums(peers)
    hub = STTNode(b"the seed of the hub, 32 bytes...", SHARED_SEED, network=network)
    address = await hub.start(server_mode=True)
    assert address is not None
    async with hub:
        nodes = [
            STTNode(b"the seed of peer %016d" % number, SHARED_SEED, config=PEERS, network=network)
            for number in range(peers)
        ]
        sessions = []
        for node in nodes:
            await node.start()
            sessions.append(await node.connect(*address))
        over = asyncio.Event()

        async def send(peer: int) -> None:
            while not over.is_set():
                for _ in range(AT_ONCE):
                    number = sums.sent[peer]
                    await sessions[peer].send(
                        peer.to_bytes(4) + number.to_bytes(8) + bytes(MESSAGE_BYTES - 12)
                    )
                    sums.sent[peer] += 1
                await asyncio.sleep(0)

        async def watch() -> None:
            while True:
                stats = hub.stats()
                held = stats.buffered_bytes + stats.promised_bytes + stats.unacknowledged_bytes
                sums.most = max(sums.most, held)
                await asyncio.sleep(0.05)

        watching = asyncio.ensure_future(watch())
        sending = [asyncio.ensure_future(send(peer)) for peer in range(peers)]
        await asyncio.sleep(pause)
        held = hub.stats().buffered_bytes
        over.set()
        began = time.monotonic()
        taken = 0
        while not all(task.done() for task in sending) or taken < sum(sums.sent):
            for _ in range(AT_ONCE):
                data, _ = await hub.endpoints.receive_any(timeout=30)
                sums.take(data)
                taken += 1
                if taken == sum(sums.sent):
                    break
            await asyncio.sleep(0)
        seconds = time.monotonic() - began
        await asyncio.gather(*sending)
        watching.cancel()
        lost = hub.stats().sessions_lost + sum(node.stats().sessions_lost for node in nodes)
        opened = hub.stats().sessions_opened
        await asyncio.gather(*(node.stop() for node in nodes))
    limit = NodeConfig().max_buffered_bytes
    print(
        f"{peers} peers, nothing taken for {pause:g} s: then {held / MIB:.0f} MiB were held, at "
        f"most {sums.most / MIB:.0f} of {limit / MIB:.0f} MiB held and promised; sessions lost "
        f"{lost} of {opened}; {sum(sums.sent)} messages sent, {sum(sums.received)} received in "
        f"{seconds:.0f} s, {sums.wrong} duplicated or out of order"
    )
    good = sums.sent == sums.received and not sums.wrong and opened == peers
    good = good and not lost and sums.most <= limit
    print("all ok" if good else "FAILED")
    return good


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=int, default=200, help="how many (default: %(default)s)")
    parser.add_argument("--pause", type=float, default=60.0, help="seconds (default: %(default)g)")
    options = parser.parse_args()
    return 0 if asyncio.run(run(options.peers, options.pause)) else 1


if __name__ == "__main__":
    sys.exit(main())
