"""A chat with rooms, in the terminal: ``serve`` it once, and ``join`` it from anywhere.

The first ``serve`` in a folder makes the seeds. Copy ``shared.seed`` to everyone who may join.
"""

import asyncio
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

from seigr_toolset_transmissions import STTError, STTNode, generate_seed, load_seed, save_seed
from seigr_toolset_transmissions.errors import STTRequestError, STTRequestFailedError

HELP = "/join ROOM, /leave, /who, /quit; anything else goes to everybody in the room"


# The hub: rooms are groups, and a peer's name is in its endpoint's metadata.


def make_seeds() -> None:
    for file in ("shared.seed", "hub.seed"):
        if not Path(file).exists():
            save_seed(file, generate_seed())


async def serve(host: str, port: int) -> None:
    node = STTNode(load_seed("hub.seed"), load_seed("shared.seed"), host, port)
    endpoints = node.endpoints

    def name_of(peer: bytes) -> str:
        info = endpoints.get_endpoint(peer)
        return "somebody" if info is None else info["metadata"].get("name", "somebody")

    async def say(room: str, text: str, *, but: bytes) -> None:
        await endpoints.send_to_group(room, text.encode(), exclude={but}, timeout=1)

    async def leave(peer: bytes) -> None:
        for room in endpoints.groups(peer):
            endpoints.leave(room, peer)
            await say(room, f"{name_of(peer)} has left", but=peer)

    @node.on_request
    async def command(peer_node_id: bytes, data: bytes) -> bytes:
        verb, _, rest = data.decode().partition(" ")
        if verb == "name":
            endpoints.update_endpoint(peer_node_id, metadata={"name": rest})
        elif verb == "join":
            if not rest:
                raise STTRequestFailedError(b"which room? /join ROOM")
            await leave(peer_node_id)
            endpoints.join(rest, peer_node_id)
            await say(rest, f"{name_of(peer_node_id)} is here", but=peer_node_id)
        elif verb == "leave":
            await leave(peer_node_id)
        elif verb != "who":
            raise STTRequestFailedError(b"there is no such command: " + verb.encode())
        rooms = endpoints.groups(peer_node_id)
        return "\n".join(
            f"in {room}: " + ", ".join(map(name_of, endpoints.members(room))) for room in rooms
        ).encode()

    @node.events.on("peer_disconnected")
    async def left(peer_node_id: bytes) -> None:
        await leave(peer_node_id)

    async with node.listening():
        _, actual_port = node.address or (host, port)
        print(f"python chat_rooms.py join HOST {actual_port} {node.node_id.hex()} NAME", flush=True)
        async for data, sender in endpoints.messages():
            if sender in endpoints:  # it may have left since
                rooms = endpoints.groups(sender)
                for room in rooms:
                    await say(room, f"{name_of(sender)}: {data.decode()}", but=sender)
                if not rooms:
                    nobody = b"you are in no room, and nobody has heard: " + data
                    await endpoints.send_to_many([sender], nobody, timeout=1)


# The terminal.


async def typed() -> AsyncGenerator[str]:
    """Yield the lines that are typed, until Ctrl-D."""
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    try:
        while line := await reader.readline():
            yield line.decode().strip()
    finally:
        pipe.close()


async def join(host: str, port: int, hub: bytes, name: str) -> None:
    room = "lobby"
    async with STTNode(generate_seed(), load_seed("shared.seed")) as node:

        async def ask(text: str) -> None:
            try:
                reply = await node.endpoints.request(hub, text.encode(), timeout=10)
                print(reply.decode() or "in no room", flush=True)
            except STTRequestFailedError as error:
                print(error.data.decode(), flush=True)
            except STTRequestError as error:
                print(error, flush=True)

        @node.events.on("peer_connected")
        async def introduce(peer_node_id: bytes) -> None:  # again if the hub was restarted
            with suppress(STTRequestError):  # then `join` fails, too, and says so
                await node.endpoints.request(hub, f"name {name}".encode(), timeout=10)
            await ask(f"join {room}")

        # With these handlers, what goes wrong appears here in our words, not as lines of the log.

        @node.events.on("session_suspended")
        async def away(session_id: bytes) -> None:
            print("the hub is away; what you type waits for it", flush=True)

        @node.events.on("session_resumed")
        async def back(session_id: bytes) -> None:
            print("the hub is back", flush=True)

        @node.events.on("error")
        async def report(error_type: str, details: dict[str, Any]) -> None:
            if error_type == "session_lost":
                for line in details["unknown"]:
                    print(f"perhaps not heard: {line.decode()}", flush=True)
                for line in details["unsent"]:
                    print(f"not heard: {line.decode()}", flush=True)

        async def show() -> None:
            async for data, _ in node.endpoints.messages(hub):
                print(data.decode(), flush=True)

        await node.endpoints.add_endpoint(hub, (host, port), connect=True)
        await node.endpoints.wait_connected(hub, timeout=10)
        print(HELP, flush=True)
        showing = asyncio.create_task(show())
        async with aclosing(typed()) as lines:
            async for line in lines:
                if line == "/quit":
                    break
                if line.startswith("/"):
                    await ask(line[1:])
                    verb, _, rest = line.partition(" ")
                    room = rest if verb == "/join" and rest else room
                elif line:
                    try:
                        await node.endpoints.send_to_endpoint(hub, line.encode(), timeout=2)
                    except STTError as error:  # the hub has been stopped
                        print(f"not sent: {line} ({error})", flush=True)
        showing.cancel()


def node_id(text: str) -> bytes:
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise ArgumentTypeError("a node id is 64 hex digits, as `stt id` prints")
    return bytes.fromhex(text)


parser = ArgumentParser(description=__doc__)
commands = parser.add_subparsers(required=True, dest="command")
command = commands.add_parser("serve", help="be the hub")
command.add_argument("host", nargs="?", default="", help="where to listen (default: everywhere)")
command.add_argument("port", nargs="?", default=9400, type=int)
command = commands.add_parser("join", help="join the hub")
command.add_argument("host")
command.add_argument("port", type=int)
command.add_argument("node", type=node_id, help="the hub's node id")
command.add_argument("name")
options = parser.parse_args()
try:
    if options.command == "serve":
        make_seeds()
        asyncio.run(serve(options.host, options.port))
    else:
        asyncio.run(join(options.host, options.port, options.node, options.name))
except KeyboardInterrupt:
    sys.exit(130)
except TimeoutError:
    sys.exit("the hub does not answer")
except (OSError, STTError) as error:
    sys.exit(str(error))
