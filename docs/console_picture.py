"""Make `docs/console.webp`, the picture in `docs/monitoring.md`: the web console of a real node.

In a virtual environment with the extra ``dev``, on a machine with Chromium, from the repository's
root::

    python docs/console_picture.py
"""

from __future__ import annotations

import asyncio
import math
import random
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.browser import Browser, find_browser
from seigr_toolset_transmissions import STTNode, generate_seed
from seigr_toolset_transmissions.seeing import serve_console
from seigr_toolset_transmissions.transports.memory import MemoryNetwork

SECONDS = 115.0
WIDTH, HEIGHT = 1280, 1130
PLACES = ("kitchen", "hall", "cellar", "roof", "garden", "office", "garage")
KINDS = ("camera", "sensor", "valve")


async def play(hub: STTNode, peer: STTNode, name: str) -> None:
    """Let a peer talk with the hub, now more and now less; it also goes, and comes back."""
    chance = random.Random(name)  # noqa: S311 - the same picture each time
    phase = chance.uniform(0, 0.8)
    while True:
        await peer.start()
        session = await peer.connect(*(hub.address or ("", 0)))
        session.ping()
        await asyncio.sleep(0.1)
        hub.endpoints.update_endpoint(peer.node_id, metadata={"name": name})
        leaves = time.monotonic() + chance.uniform(25, 400)
        while time.monotonic() < leaves:
            much = 1.2 + math.sin(time.monotonic() / 9 + phase)
            await session.send(bytes(int(much * chance.uniform(2_000, 30_000))))
            await hub.endpoints.send_to_endpoint(peer.node_id, bytes(chance.randrange(3_000)))
            session.ping()
            await asyncio.sleep(chance.uniform(0.2, 0.9))
        await peer.stop()
        await asyncio.sleep(chance.uniform(1, 5))


async def main(path: Path) -> None:
    """Show a node with its peers for two minutes, and write what the page looks like."""
    program = find_browser()
    if program is None:
        sys.exit("there is no Chromium: install it")
    network, shared_seed = MemoryNetwork(), generate_seed()
    hub = STTNode(generate_seed(), shared_seed, network=network)
    names = [f"{kind}-{place}" for place in PLACES for kind in KINDS]
    peers = [STTNode(generate_seed(), shared_seed, network=network) for _ in names]

    @hub.events.on("data_received")
    async def drop(session_id: bytes, data: bytes) -> None:
        pass

    with tempfile.TemporaryDirectory() as folder:
        async with (
            hub.listening(),
            serve_console(hub) as console,
            Browser(program, Path(folder)) as browser,
        ):
            page = await browser.open(console.url, width=WIDTH, height=HEIGHT)
            playing = [
                asyncio.create_task(play(hub, peer, name))
                for peer, name in zip(peers, names, strict=True)
            ]
            await asyncio.sleep(SECONDS)
            await page.picture(path)
            for task in playing:
                task.cancel()
            await asyncio.gather(*playing, return_exceptions=True)
            await asyncio.gather(*(peer.stop(drain=0) for peer in peers))


if __name__ == "__main__":
    default = Path(__file__).with_name("console.webp")
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else default))
