"""A file over one session. For many files, with digests and resuming, see `stt send`."""

import asyncio
import filecmp
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from seigr_toolset_transmissions import Session, STTNode, generate_seed


async def send_file(node: STTNode, session: Session, path: Path) -> None:
    digest = sha256()
    await session.send(path.name.encode())
    with path.open("rb") as file:
        while chunk := file.read(256 * 1024):
            digest.update(chunk)
            await session.send(chunk)  # waits while the peer does not keep up
    await session.send(b"")  # the end
    await session.send(digest.digest())
    answer, _ = await node.endpoints.receive_from(session.peer_node_id)
    if answer != b"stored":
        raise ValueError(f"{path.name} has arrived damaged; send it again")


async def receive_file(node: STTNode, folder: Path) -> Path:
    name, sender = await node.endpoints.receive_any()
    path = folder / Path(name.decode()).name  # never outside the folder
    part = folder / f"{path.name}.part"
    digest = sha256()
    with part.open("wb") as file:
        while chunk := (await node.endpoints.receive_from(sender))[0]:
            digest.update(chunk)
            file.write(chunk)
    if (await node.endpoints.receive_from(sender))[0] != digest.digest():
        await node.endpoints.send_to_endpoint(sender, b"damaged")
        raise ValueError(f"{path.name} has arrived damaged")
    part.rename(path)
    await node.endpoints.send_to_endpoint(sender, b"stored")
    return path


async def main(original: Path, inbox: Path) -> None:
    shared_seed = generate_seed()
    sender, receiver = (STTNode(generate_seed(), shared_seed) for _ in range(2))
    async with receiver.listening(), sender:
        host, port = receiver.address or ("", 0)
        session = await sender.connect(host, port, expect=receiver.node_id)
        sending = send_file(sender, session, original)
        _, copy = await asyncio.gather(sending, receive_file(receiver, inbox))
    print(f"{copy.name}: unchanged: {filecmp.cmp(original, copy, shallow=False)}")


with TemporaryDirectory() as here, TemporaryDirectory() as there:
    example = Path(here, "random.bin")
    example.write_bytes(generate_seed() * 100_000)
    asyncio.run(main(example, Path(there)))
