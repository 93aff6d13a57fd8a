"""A hub that asks a fleet of devices for their state, again and again; some are slow, some away."""

import asyncio
import json
from argparse import ArgumentParser
from contextlib import AsyncExitStack, suppress
from itertools import count

from seigr_toolset_transmissions import NodeConfig, STTNode, generate_seed
from seigr_toolset_transmissions.errors import STTRequestTimeoutError

SLOW_EVERY = 20
AWAY_EVERY = 40


async def device(number: int, hub: STTNode, shared_seed: bytes, stack: AsyncExitStack) -> None:
    """Start a device that connects to the hub and answers its questions."""
    node = STTNode(generate_seed(), shared_seed)
    polls = count(1)

    @node.on_request
    async def state(peer_node_id: bytes, data: bytes) -> bytes:
        if number % SLOW_EVERY == 1:
            await asyncio.sleep(60)  # the hub gives up sooner, and this is cancelled
        return json.dumps({"device": number, "polls": next(polls)}).encode()

    await stack.enter_async_context(node)
    host, port = hub.address or ("", 0)
    session = await node.connect(host, port, expect=hub.node_id)
    await session.send(str(number).encode())  # which device this is
    if number % AWAY_EVERY == 2:
        await node.stop()


async def poll(hub: STTNode, devices: list[bytes], timeout: float) -> str:
    """Ask all devices at once; return what came of it."""
    replies = await hub.endpoints.request_many(devices, b"state?", timeout=timeout)
    states = [json.loads(reply) for reply in replies.values() if isinstance(reply, bytes)]
    errors = [reply for reply in replies.values() if not isinstance(reply, bytes)]
    slow = sum(isinstance(error, STTRequestTimeoutError) for error in errors)
    polls = sum(state["polls"] for state in states)
    return f"{len(states)} answered ({polls} in all), {slow} slow, {len(errors) - slow} away"


async def main(size: int, rounds: int, interval: float) -> None:
    shared_seed = generate_seed()
    hub = STTNode(generate_seed(), shared_seed, config=NodeConfig(max_sessions=size))
    async with hub.listening(), AsyncExitStack() as stack:
        print(f"starting {size} devices", flush=True)
        devices: dict[int, bytes] = {}
        await asyncio.gather(*(device(n, hub, shared_seed, stack) for n in range(size)))
        while len(devices) < size:
            number, device_id = await hub.endpoints.receive_any()
            devices[int(number)] = device_id
        ticks = asyncio.get_running_loop().time
        for turn in range(1, rounds + 1):
            next_round = ticks() + interval
            outcome = await poll(hub, list(devices.values()), interval / 2)
            print(f"round {turn}: {outcome}", flush=True)
            await asyncio.sleep(next_round - ticks() if turn < rounds else 0)


parser = ArgumentParser(description=__doc__)
parser.add_argument("--devices", type=int, default=200, help="how many (default: 200)")
parser.add_argument("--rounds", type=int, default=5, help="how often to ask (default: 5)")
parser.add_argument("--interval", type=float, default=1.0, help="seconds (default: 1)")
options = parser.parse_args()
with suppress(KeyboardInterrupt):
    asyncio.run(main(options.devices, options.rounds, options.interval))
