"""Kill and replace the workers of `stt serve` under load: ``python -m tests.soak.kill_workers``.

Peers send numbered requests to several workers that act as one node, each of which writes down what
it gets. Random workers are ended by SIGKILL, and in the end all are replaced by SIGHUP. All peers
must be connected again soon after each kill. No request may be handled twice; those with a reply
must have been handled, and those whose error says that they were not must not. While workers are
replaced, no request may have an uncertain end. Prints a summary, and exits with code 1 if that
fails.
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

from seigr_toolset_transmissions import NodeConfig, SessionState, STTError, STTNode
from seigr_toolset_transmissions.errors import STTRequestError

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

    @node.on_request
    async def write(peer_node_id, data):
        log.write(data + b"\\n")
        return b"written"

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
        """Wait until it has said something this often."""
        async with asyncio.timeout(PATIENCE):
            while sum(bool(re.search(pattern, line)) for line in self.said) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    def workers(self) -> list[int]:
        """Return the processes of the workers."""
        pid = self.process.pid
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Peer:
    """A peer that sends numbered requests for as long as it is told to."""

    def __init__(self, number: int) -> None:
        self.name = f"{number}"
        self.answered: set[str] = set()
        self.unhandled: set[str] = set()
        self.uncertain: set[str] = set()
        self.node = STTNode(
            number.to_bytes(2) * 16, SHARED_SEED, config=NodeConfig(reconnect_delay_max=1)
        )

    def is_connected(self, hub_id: bytes) -> bool:
        session = self.node.get_session_for_endpoint(hub_id)
        return session is not None and session.state is SessionState.OPEN

    async def send(self, hub_id: bytes, end: asyncio.Event) -> None:
        number = 0
        while not end.is_set():
            message = f"{self.name} {number}"
            try:
                await self.node.endpoints.request(hub_id, message.encode(), timeout=PATIENCE)
            except STTRequestError as error:
                (self.unhandled if error.handled is False else self.uncertain).add(message)
            except STTError:
                self.unhandled.add(message)
            else:
                self.answered.add(message)
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
        uncertain = sum(len(peer.uncertain) for peer in peers)
        supervisor.process.send_signal(signal.SIGHUP)
        await supervisor.until("all workers have restarted")
        await all_connected(peers, hub_id)
        end.set()
        await asyncio.gather(*sending)
        late = sum(len(peer.uncertain) for peer in peers) - uncertain
    finally:
        await asyncio.gather(*(peer.node.stop() for peer in peers))
        supervisor.process.terminate()
        code = await supervisor.process.wait()
    problems = judge(peers, folder)
    if late:
        problems.append(f"{late} requests had an uncertain end because workers were replaced")
    if code != 128 + signal.SIGTERM:
        problems.append(f"stt serve ended with {code}: {''.join(supervisor.said[-3:])}")
    return problems


def judge(peers: list[Peer], folder: Path) -> list[str]:
    """Compare what the peers know with what the workers have written."""
    handled = Counter(line for log in folder.glob("*.log") for line in log.read_text().splitlines())
    answered = set[str]().union(*(peer.answered for peer in peers))
    unhandled = set[str]().union(*(peer.unhandled for peer in peers))
    uncertain = set[str]().union(*(peer.uncertain for peer in peers))
    print(
        f"{len(answered)} requests answered, {len(unhandled)} not handled, {len(uncertain)} "
        f"uncertain, of which {len(uncertain & set(handled))} were handled"
    )
    wrong = {
        "handled twice": [request for request, count in handled.items() if count > 1],
        "answered, but not handled": list(answered - set(handled)),
        "handled, though reported as not": list(unhandled & set(handled)),
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
