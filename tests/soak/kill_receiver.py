"""Kill the receiver, a real process, at random moments: ``python -m tests.soak.kill_receiver``.

A node sends numbered messages to another process, which is then ended by SIGKILL. Whenever that
happens, the sender must get a report of each message that was not acknowledged, exactly once and in
order, and ``unsent`` must hold no message that the receiver had. Prints a summary, and exits with
code 1 if that fails.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seigr_toolset_transmissions import NodeConfig, STTNode
from seigr_toolset_transmissions.errors import STTSessionClosedError

SHARED_SEED = b"the killing test's shared seed"
RECEIVER_SEED = b"the killed receiver's own seed"
SENDER_SEED = b"the surviving sender's own seed"
CONFIG = NodeConfig(resume_window=0.3, reconnect_delay=0.05)
MESSAGE_BYTES = 200


async def receive(log: str) -> None:
    """Run as the receiver: write the number of each message to the log, until killed."""
    node = STTNode(RECEIVER_SEED, SHARED_SEED)
    address = await node.start(server_mode=True)
    assert address is not None
    print(address[1], flush=True)
    with Path(log).open("w") as file:
        while True:
            data, _ = await node.endpoints.receive_any()
            # Unbuffered: the log must hold everything the receiver had when it is killed.
            file.write(f"{int.from_bytes(data[:8])}\n")
            file.flush()


@dataclass
class Result:
    """What killing one receiver showed."""

    accepted: int
    delivered: int
    unsent: int
    unknown: int
    problem: str | None


async def kill_once(chance: random.Random, number: int) -> Result:
    """Start a receiver, send to it, kill it, and check what the sender learns."""
    with tempfile.TemporaryDirectory() as folder:
        log = str(Path(folder) / "log")
        child = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--receive", log, stdout=PIPE
        )
        try:
            assert child.stdout is not None
            port = int(await child.stdout.readline())
            told, accepted = await _send_until_lost(port, child, chance)
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()
        delivered = [int(line) for line in Path(log).read_text().split("\n")[:-1]]
    return _judge(told, accepted, delivered, number)


async def _send_until_lost(
    port: int, child: asyncio.subprocess.Process, chance: random.Random
) -> tuple[list[dict[str, Any]], int]:
    node = STTNode(SENDER_SEED, SHARED_SEED, config=CONFIG)
    told: list[dict[str, Any]] = []
    over = asyncio.Event()

    @node.events.on("error")
    async def note(error_type: str, details: dict[str, Any]) -> None:
        if error_type == "session_lost":
            told.append(details)

    @node.events.on("session_closed")
    async def end(session_id: bytes) -> None:
        over.set()

    accepted = 0
    async with node:
        session = await node.connect("127.0.0.1", port)
        asyncio.get_running_loop().call_later(
            chance.uniform(0, 0.15), child.send_signal, signal.SIGKILL
        )
        try:
            while True:
                await session.send(accepted.to_bytes(8) + bytes(MESSAGE_BYTES))
                accepted += 1
                if chance.random() < 0.02:
                    await asyncio.sleep(0)
        except STTSessionClosedError:
            pass
        await over.wait()
    return told, accepted


def _judge(told: list[dict[str, Any]], accepted: int, delivered: list[int], number: int) -> Result:
    problem = None
    if len(told) != 1:
        return Result(accepted, len(delivered), 0, 0, f"run {number}: {len(told)} reports")
    unsent = [int.from_bytes(message[:8]) for message in told[0]["unsent"]]
    unknown = [int.from_bytes(message[:8]) for message in told[0]["unknown"]]
    reported = unknown + unsent
    if delivered != list(range(len(delivered))):
        problem = f"run {number}: delivered out of order"
    elif reported != list(range(accepted - len(reported), accepted)):
        problem = f"run {number}: reported {reported[:3]}... of {accepted}, not the last ones"
    elif set(unsent) & set(delivered):
        problem = f"run {number}: reported as unsent, but delivered"
    return Result(accepted, len(delivered), len(unsent), len(unknown), problem)


async def soak(kills: int, seed: int) -> int:
    """Kill ``kills`` receivers; return the exit code."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    results = []
    for number in range(1, kills + 1):
        result = await kill_once(chance, number)
        results.append(result)
        if result.problem is not None:
            print(f"FAILED {result.problem}")
            return 1
        if number % 10 == 0:
            print(f"{number} receivers killed", flush=True)
    print(
        f"{kills} receivers killed: {sum(r.accepted for r in results)} messages accepted, "
        f"{sum(r.delivered for r in results)} delivered, {sum(r.unsent for r in results)} reported "
        f"unsent and {sum(r.unknown for r in results)} unknown; "
        "none unreported, none reported twice, no delivered one reported as unsent"
    )
    return 0


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of all random choices")
    parser.add_argument("--receive", metavar="LOG", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.receive is not None:
        asyncio.run(receive(options.receive))
        return 0
    return asyncio.run(soak(options.kills, options.seed))


if __name__ == "__main__":
    sys.exit(main())
