"""The address book: add a peer with its identity and address, then just send to it.

The first send connects. The node at that address has to prove that identity, or nothing is sent to
it.
"""

import asyncio

from seigr_toolset_transmissions import STTNode, generate_seed
from seigr_toolset_transmissions.errors import STTIdentityError


async def main() -> None:
    shared_seed = generate_seed()
    alpha = STTNode(generate_seed(), shared_seed)
    beta = STTNode(generate_seed(), shared_seed)
    gamma = STTNode(generate_seed(), shared_seed)
    async with alpha, beta.listening():
        book = alpha.endpoints
        await book.add_endpoint(beta.node_id, beta.address, {"name": "beta"})
        await book.add_endpoint(gamma.node_id, beta.address, {"name": "gamma"})  # a wrong address

        print("sessions before the first send:", len(alpha.sessions))
        await book.send_to_endpoint(beta.node_id, b"first")
        await book.send_to_endpoint(beta.node_id, b"second")
        print("sessions after two sends:", len(alpha.sessions))
        for _ in range(2):
            data, _sender = await beta.endpoints.receive_any()
            print(f"beta received {data!r}")

        try:
            await book.send_to_endpoint(gamma.node_id, b"for gamma only")
        except STTIdentityError:
            print("gamma is not at that address: nothing was sent")


asyncio.run(main())
