"""Kill and replace the workers of `stt serve` under load: ``python -m tests.soak.kill_workers``.

Peers send numbered messages to several workers that act as one node, each of which writes down what
it gets. Workers are ended by SIGKILL at random, and at last all are replaced by SIGHUP. All peers
must be connected again soon after each kill. Each message that was accepted must have arrived once,
or the peer must know that it may not have; nothing may be lost while workers are replaced. Prints a
summary, and exits with code 1 if that fails.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import signal
import socket
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from pathlib import Path
from typing import Any

from seigr_toolset_transmissions import NodeConfig, SessionState, STTError, STTNode

NODE_SEED = b"the node seed that all workers share"
SHARED_SEED = b"the seed of the workers' and the peers' group"
PATIENCE = 30.0
GAP_SECONDS = 0.02

APP = f"""
import os
from pathlib import Path
from seigr_toolset_transmissions import STTNode

def make_node():
    node = STTNode({NODE_SEED!r}, {SHARED_SEED!r}, "127.0.0.1", int(os.environ["PORT"]))
    log = Path(str(os.getpid()) + ".log").open("wb", buffering=0)

    @node.events.on("data_received")
    async def write(session_id, data):
        log.write(data + b"\\n")

    return node
"""


class Supervisor:
    """`stt serve`, and what it says."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.said: list[str] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.said.append(line.decode())

    async def until(self, pattern: str, count: int = 1) -> None:
        """Wait until it has said something so often."""
        async with asyncio.timeout(PATIENCE):
            while sum(bool(re.search(pattern, line)) for line in self.said) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    def workers(self) -> list[int]:
        """Return the processes of the workers."""
        pid = self.process.pid
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Peer:
    """A peer that sends numbers for as long as it is told to, and hears what may be lost."""

    def __init__(self, number: int) -> None:
        self.name = f"{number}"
        self.accepted: set[str] = set()
        self.unsent: set[str] = set()
        self.unknown: set[str] = set()
        self.node = STTNode(
            number.to_bytes(2) * 16, SHARED_SEED, config=NodeConfig(reconnect_delay_max=1)
        )
        self.node.events.register("error", self._on_error)

    async def _on_error(self, error_type: str, details: dict[str, Any]) -> None:
        if error_type == "session_lost":
            self.unsent |= {data.decode() for data in details["unsent"]}
            self.unknown |= {data.decode() for data in details["unknown"]}

    def is_connected(self, hub_id: bytes) -> bool:
        session = self.node.get_session_for_endpoint(hub_id)
        return session is not None and session.state is SessionState.OPEN

    async def send(self, hub_id: bytes, end: asyncio.Event) -> None:
        number = 0
        while not end.is_set():
            message = f"{self.name} {number}"
            try:
                await self.node.endpoints.send_to_endpoint(hub_id, message.encode())
            except STTError:
                pass  # it was not accepted
            else:
                self.accepted.add(message)
            number += 1
            await asyncio.sleep(GAP_SECONDS)


async def all_connected(peers: list[Peer], hub_id: bytes) -> float:
    """Wait until all peers are; return how long that took."""
    began = time.monotonic()
    async with asyncio.timeout(PATIENCE):
        while not all(peer.is_connected(hub_id) for peer in peers):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return time.monotonic() - began


async def run(options: argparse.Namespace, folder: Path, port: int) -> list[str]:
    """Do it all; return what went wrong."""
    (folder / "app.py").write_text(APP)
    supervisor = Supervisor(
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "seigr_toolset_transmissions.cli"),
            *("serve", "app:make_node", "--workers", str(options.workers)),
            cwd=folder,
            env=os.environ | {"PORT": str(port), "TMPDIR": str(folder)},
            stderr=PIPE,
        )
    )
    chance = random.Random(options.seed)  # noqa: S311 - no secret
    hub_id = STTNode(NODE_SEED, SHARED_SEED).node_id
    peers = [Peer(number) for number in range(options.peers)]
    end = asyncio.Event()
    try:
        await supervisor.until("listens on", options.workers)
        for peer in peers:
            await peer.node.start()
            address = ("127.0.0.1", port)
            await peer.node.endpoints.add_endpoint(hub_id, address, connect=True)
        await all_connected(peers, hub_id)
        sending = [asyncio.create_task(peer.send(hub_id, end)) for peer in peers]
        slowest = 0.0
        for _ in range(options.kills):
            os.kill(chance.choice(supervisor.workers()), signal.SIGKILL)
            await asyncio.sleep(chance.uniform(0.2, 1))
            slowest = max(slowest, await all_connected(peers, hub_id))
        print(f"{options.kills} kills; all {len(peers)} connected again {slowest:.1f} s later")
        reported = sum(len(peer.unsent) + len(peer.unknown) for peer in peers)
        supervisor.process.send_signal(signal.SIGHUP)
        await supervisor.until("all workers are new")
        await all_connected(peers, hub_id)
        late = sum(len(peer.unsent) + len(peer.unknown) for peer in peers) - reported
        end.set()
        await asyncio.gather(*sending)
    finally:
        await asyncio.gather(*(peer.node.stop() for peer in peers))
        supervisor.process.terminate()
        code = await supervisor.process.wait()
    problems = judge(peers, folder)
    if late:
        problems.append(f"{late} messages may be lost because workers were replaced")
    if code != 128 + signal.SIGTERM:
        problems.append(f"stt serve ended with {code}: {''.join(supervisor.said[-3:])}")
    return problems


def judge(peers: list[Peer], folder: Path) -> list[str]:
    """Compare what was accepted with what has arrived."""
    arrived = Counter(line for log in folder.glob("*.log") for line in log.read_text().splitlines())
    accepted = set().union(*(peer.accepted for peer in peers))
    unsent = set().union(*(peer.unsent for peer in peers))
    unknown = set().union(*(peer.unknown for peer in peers))
    print(
        f"{len(accepted)} accepted, {len(arrived)} arrived; reported: {len(unsent)} that have not, "
        f"{len(unknown)} that may not have"
    )
    wrong = {
        "arrived twice": [message for message, count in arrived.items() if count > 1],
        "lost without a word": list(accepted - set(arrived) - unsent - unknown),
        "arrived, though reported as unsent": list(unsent & set(arrived)),
    }
    return [f"{len(found)} {what}: {found[:3]}" for what, found in wrong.items() if found]


def main() -> int:
    """Run as a program; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=4, help="how many (default: %(default)s)")
    parser.add_argument("--peers", type=int, default=100, help="how many (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=20, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of all random choices")
    options = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        problems = asyncio.run(run(options, Path(folder), port))
    print(*problems, sep="\n", end="\n" if problems else "")
    print("failed" if problems else "all well")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
