"""The scenario of the lossless tests: two nodes, messages both ways, and cables that fail."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from helpers.clock import run_virtual
from helpers.fault_network import FaultNetwork
from seigr_toolset_transmissions import NodeConfig, Session, STTNode
from seigr_toolset_transmissions.errors import STTConnectError
from seigr_toolset_transmissions.transports.memory import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import Iterable

    from helpers.fault_network import Cable, Fault

SHARED_SEED = b"the lossless tests' shared seed!"
LISTENER_SEED = b"the lossless tests' listener seed"
DIALER_SEED = b"the lossless tests' dialer's seed"


@dataclass
class Outcome:
    """The outcome of a run of the scenario."""

    cables: list[Cable]
    at_listener: list[bytes]
    at_dialer: list[bytes]
    events: dict[str, list[str]] = field(default_factory=dict)


def messages(tag: bytes, sizes: Iterable[int]) -> list[bytes]:
    """Return one message for each size, each different from all others."""
    return [(b"%s%d." % (tag, k) * (size + 1))[:size] for k, size in enumerate(sizes)]


def run_scenario(
    to_listener: list[bytes],
    to_dialer: list[bytes],
    faults: Iterable[Fault] = (),
    config: NodeConfig | None = None,
) -> Outcome:
    """Send both lists at once, in virtual time, over cables with these faults.

    Returns once each side has received as many messages as the other sent, both sessions have
    closed, and enough time has passed for any surplus message to arrive.
    """
    return run_virtual(_scenario(to_listener, to_dialer, faults, config))


async def _scenario(
    to_listener: list[bytes],
    to_dialer: list[bytes],
    faults: Iterable[Fault],
    config: NodeConfig | None,
) -> Outcome:
    network = FaultNetwork(MemoryNetwork(), faults)
    listener = STTNode(LISTENER_SEED, SHARED_SEED, config=config, network=network)
    dialer = STTNode(DIALER_SEED, SHARED_SEED, config=config, network=network)
    outcome = Outcome(network.cables, [], [])
    for name, node, received in (
        ("listener", listener, outcome.at_listener),
        ("dialer", dialer, outcome.at_dialer),
    ):
        _record(node, received, outcome.events.setdefault(name, []))
    address = await listener.start(server_mode=True)
    assert address is not None
    await dialer.start()
    accepted: asyncio.Future[Session] = asyncio.get_running_loop().create_future()

    @listener.events.on("session_created")
    async def note(session_id: bytes) -> None:
        session = listener.get_session(session_id)
        if session is not None and not accepted.done():
            accepted.set_result(session)

    async def send_all(session: Session, all_of_them: list[bytes]) -> None:
        for message in all_of_them:
            await session.send(message)
            await asyncio.sleep(0)
        await session.flush()

    out = await _connect(dialer, address)
    back = await accepted
    await asyncio.gather(send_all(out, to_listener), send_all(back, to_dialer))
    await out.close()
    await dialer.stop()
    await listener.stop()
    await asyncio.sleep(300)  # anything that comes twice, or too late, comes now
    return outcome


def _record(node: STTNode, received: list[bytes], names: list[str]) -> None:
    async def record(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if name != "data_received":
            names.append(kwargs.get("error_type", name))

    async def receive(session_id: bytes, data: bytes) -> None:
        received.append(data)

    node.events.on_any(record)
    node.events.register("data_received", receive)


async def _connect(dialer: STTNode, address: tuple[str, int]) -> Session:
    """Connect, using as many cables as it takes to complete a handshake."""
    while True:
        try:
            return await dialer.connect(*address)
        except STTConnectError:
            continue
