"""Say three things to the hub, and print its answers."""

import asyncio
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError

from seigr_toolset_transmissions import STTError, STTNode, load_seed
from seigr_toolset_transmissions.errors import STTConnectError


async def main(host: str, port: int, hub: bytes) -> None:
    async with STTNode(load_seed("peer.seed"), load_seed("shared.seed")) as node:
        await node.endpoints.add_endpoint(hub, (host, port), connect=True)
        await node.endpoints.wait_connected(hub, timeout=10)
        for text in ("hello", "how are you?", "goodbye"):
            await node.endpoints.send_to_endpoint(hub, text.encode())
            answer, _ = await node.endpoints.receive_from(hub, timeout=10)
            print(answer.decode())


def node_id(text: str) -> bytes:
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise ArgumentTypeError("a node id is 64 hex digits, as `stt id` prints")
    return bytes.fromhex(text)


parser = ArgumentParser(description=__doc__)
parser.add_argument("host")
parser.add_argument("port", type=int)
parser.add_argument("node", type=node_id, help="the hub's node id")
options = parser.parse_args()
try:
    asyncio.run(main(options.host, options.port, options.node))
except TimeoutError:
    sys.exit("the hub does not answer")
except KeyboardInterrupt:
    sys.exit(130)
except STTConnectError as error:
    sys.exit(str(error))
except (OSError, STTError) as error:  # no seed file, or one that cannot be used
    parser.error(str(error))
