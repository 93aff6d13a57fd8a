"""Cut the cable between two nodes: the session continues over a new one, and nothing is lost.

The cable is a small relay that stands in for anything between two nodes that can break.
"""

import asyncio

from seigr_toolset_transmissions import STTNode, generate_seed


class Cable:
    """Passes bytes on to a listening node, until it is cut."""

    def __init__(self, node: STTNode) -> None:
        self.node = node
        self.writers: list[asyncio.StreamWriter] = []

    async def plug_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self.node.address or ("", 0)
        far_reader, far_writer = await asyncio.open_connection(host, port)
        self.writers = [writer, far_writer]
        await asyncio.gather(self.carry(reader, far_writer), self.carry(far_reader, writer))

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
        except ConnectionError:
            pass
        writer.close()

    def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


async def main() -> None:
    shared_seed = generate_seed()
    hub = STTNode(generate_seed(), shared_seed)
    peer = STTNode(generate_seed(), shared_seed)
    for event in ("session_suspended", "session_resumed"):

        async def tell(session_id: bytes, event: str = event) -> None:
            print("peer:", event)

        peer.events.register(event, tell)

    cable = Cable(hub)
    relay = await asyncio.start_server(cable.plug_in, "127.0.0.1", 0)
    async with hub.listening(), peer:
        session = await peer.connect(*relay.sockets[0].getsockname())
        messages = [f"message {number}".encode() for number in range(1000)]
        for message in messages[:500]:
            await session.send(message)
        await hub.endpoints.receive_any()  # some have arrived, others are under way
        cable.cut()
        for message in messages[500:]:
            await session.send(message)
        received = [(await hub.endpoints.receive_any())[0] for _ in messages[1:]]
        print("the rest arrived in order, each exactly once:", received == messages[1:])
        print("resumed:", session.stats.resumes, "time")
    relay.close()


asyncio.run(main())
