"""A folder into which every member of the group can drop files: ``serve`` it, and ``drop`` files.

The first ``serve`` in a folder makes the seeds. Copy ``shared.seed`` to everyone who may drop
files. A drop that was interrupted continues where it stopped.
"""

import asyncio
import json
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError
from hashlib import file_digest
from pathlib import Path
from typing import Any

from seigr_toolset_transmissions import (
    Session,
    STTError,
    STTNode,
    generate_seed,
    load_seed,
    save_seed,
)
from seigr_toolset_transmissions.errors import STTRequestFailedError

CHUNK = 256 * 1024


def describe(path: Path) -> dict[str, Any]:
    return {"name": path.name, "size": path.stat().st_size, "digest": sha256(path)}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


class Drop:
    """A file that arrives."""

    def __init__(self, folder: Path, name: str, size: int, digest: str) -> None:
        self.path = folder / Path(name).name  # never outside the folder
        if self.path.name in ("", ".."):
            raise STTRequestFailedError(b"a file needs a name")
        self.part = folder / f".{digest}.part"
        self.size, self.digest = size, digest
        self.part.touch()
        self.complete = asyncio.Event()
        self.write(b"")

    @property
    def there(self) -> int:
        return self.part.stat().st_size

    def write(self, data: bytes) -> None:
        with self.part.open("ab") as file:
            file.write(data)
        if self.there >= self.size:
            self.complete.set()

    def finish(self) -> None:
        if sha256(self.part) != self.digest:
            self.part.unlink()
            raise STTRequestFailedError(b"this is not the file that was offered; drop it again")
        self.part.rename(self.path)


async def serve(folder: Path, host: str, port: int) -> None:
    node = STTNode(load_seed("hub.seed"), load_seed("shared.seed"), host, port)
    drops: dict[bytes, Drop] = {}

    @node.on_request
    async def answer(peer_node_id: bytes, data: bytes) -> bytes:
        if data != b"done":
            drop = drops[peer_node_id] = Drop(folder, **json.loads(data))
            return str(drop.there).encode()  # where to begin
        drop = drops[peer_node_id]
        await drop.complete.wait()  # what was sent may still be on its way to `write`
        drop.finish()
        print(f"{drop.path.name}, {drop.size:,} bytes, from {peer_node_id.hex()[:16]}", flush=True)
        return b""

    async with node.listening():
        _, actual_port = node.address or (host, port)
        print(f"python file_drop.py drop HOST {actual_port} {node.node_id.hex()} FILE", flush=True)
        async for chunk, sender in node.endpoints.messages():
            drops[sender].write(chunk)


async def drop_file(session: Session, path: Path) -> None:
    offer = describe(path)
    size = offer["size"]
    sent = int(await session.request(json.dumps(offer).encode(), timeout=30))
    with path.open("rb") as file:
        file.seek(sent)
        while chunk := file.read(CHUNK):
            await session.send(chunk)  # waits while the hub does not keep up
            sent += len(chunk)
            if sys.stdout.isatty():
                arrived = max(0, sent - session.stats.unacknowledged_bytes)
                print(f"{path.name}: {arrived:,} of {size:,} bytes", end="\r", flush=True)
    await session.request(b"done", timeout=60)
    print(f"{path.name}: all {size:,} bytes have arrived")


async def drop(files: list[Path], host: str, port: int, hub: bytes) -> None:
    async with STTNode(generate_seed(), load_seed("shared.seed")) as node:
        session = await node.connect(host, port, expect=hub, timeout=10)
        for path in files:
            await drop_file(session, path)


def make_seeds() -> None:
    for file in ("shared.seed", "hub.seed"):
        if not Path(file).exists():
            save_seed(file, generate_seed())


def node_id(text: str) -> bytes:
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise ArgumentTypeError("a node id is 64 hex digits, as `stt id` prints")
    return bytes.fromhex(text)


parser = ArgumentParser(description=__doc__)
commands = parser.add_subparsers(required=True, dest="command")
command = commands.add_parser("serve", help="take files")
command.add_argument("folder", type=Path, help="where to put them; made if it is not there")
command.add_argument("host", nargs="?", default="", help="where to listen (default: everywhere)")
command.add_argument("port", nargs="?", default=9400, type=int)
command = commands.add_parser("drop", help="send files")
command.add_argument("host")
command.add_argument("port", type=int)
command.add_argument("node", type=node_id, help="the hub's node id")
command.add_argument("files", type=Path, nargs="+")
options = parser.parse_args()
try:
    if options.command == "serve":
        make_seeds()
        options.folder.mkdir(parents=True, exist_ok=True)
        asyncio.run(serve(options.folder, options.host, options.port))
    else:
        asyncio.run(drop(options.files, options.host, options.port, options.node))
except KeyboardInterrupt:
    sys.exit(130)
except STTRequestFailedError as error:
    sys.exit(error.data.decode() or str(error))
except (OSError, STTError) as error:
    sys.exit(str(error))
