"""Answer every message in capitals."""

import asyncio
import signal
from argparse import ArgumentParser
from contextlib import suppress

from seigr_toolset_transmissions import STTError, STTNode, load_seed


async def main(host: str, port: int) -> None:
    node = STTNode(load_seed("hub.seed"), load_seed("shared.seed"), host, port)

    @node.events.on("data_received")
    async def answer(session_id: bytes, data: bytes) -> None:
        print(f"received {data.decode()!r}", flush=True)
        await node.send_to_sessions([session_id], data.upper())

    end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end.set)
    async with node.listening():
        _, actual_port = node.address or (host, port)
        print("python peer.py HOST", actual_port, node.node_id.hex(), flush=True)
        await end.wait()  # until SIGTERM or Ctrl-C


parser = ArgumentParser(description=__doc__)
parser.add_argument("host", nargs="?", default="", help="where to listen (default: all addresses)")
parser.add_argument("port", nargs="?", default=9400, type=int)
options = parser.parse_args()
try:
    with suppress(KeyboardInterrupt):
        asyncio.run(main(options.host, options.port))
except (OSError, STTError) as error:  # no seed file, or a port that cannot be used
    parser.error(str(error))
