"""What a node keeps to itself: its seeds and keys, in texts and on the wire."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING, Any

from helpers.nodes import (
    SHARED_SEED,
    EventLog,
    Nodes,
    address_of,
    free_port,
    seed_of,
    until,
)
from helpers.relay import Kind, Relay
from seigr_toolset_transmissions import STTNode
from seigr_toolset_transmissions.errors import (
    STTError,
)
from seigr_toolset_transmissions.identity import Identity, derive_psk

if TYPE_CHECKING:
    import pytest


async def test_no_secret_is_in_any_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    texts: list[str] = []
    shared, own = b"the shared-secret of this test", b"the nodes-own-secret of this test"
    other = b"another shared-secret of this test"
    async with Nodes() as nodes:
        listener = STTNode(own, shared)
        nodes.made.append(listener)
        await listener.start(server_mode=True)
        stranger = STTNode(own, other)
        nodes.made.append(stranger)
        await stranger.start()
        dialer = await nodes.start("alice", shared=shared)
        session = await dialer.connect(*address_of(listener))
        listener.events.register("data_received", fail)
        await session.send(b"the content of a message")
        await session.flush()
        texts += [repr(listener), str(listener), repr(session), repr(dialer.stats())]
        texts += [repr(session.stats), repr(dialer.sessions), repr(dialer.endpoints)]
        log = EventLog(listener)
        for connecting in (
            stranger.connect(*address_of(listener)),
            listener.connect(*address_of(listener)),
            dialer.connect(*address_of(listener), expect=bytes(32)),
            dialer.connect("127.0.0.1", free_port()),
        ):
            try:
                await connecting
            except STTError as error:
                texts.append("".join(traceback.format_exception(error)))
                texts += [repr(error.__dict__)]
        for broken in (shared[:9], str(own[:9]), own[:15]):
            seed: Any = broken
            try:
                STTNode(seed, shared)
            except STTError as error:
                # A traceback shows this test's own lines, and no values.
                texts.append(str(error) + repr(error.args))
        await log.until("error")
        texts.append(repr(log.entries))
        await listener.stop()
        texts.append(repr(listener))
    texts.append(caplog.text)
    everything = "\n".join(texts)
    identity = Identity.from_seed(own)
    secrets = [
        shared,
        own,
        other,
        derive_psk(shared),
        identity.private_key.private_bytes_raw(),
        b"the content of a message",
    ]
    for secret in secrets:
        for form in (secret.decode("latin-1"), repr(secret)[2:-1], secret.hex(), str(list(secret))):
            assert form not in everything
    assert b"shared-secret".decode() not in everything
    assert len(caplog.records) > 0


async def fail(session_id: bytes, data: bytes) -> None:
    raise RuntimeError("a handler that fails")


async def test_nothing_on_the_wire_reveals_anything_to_a_stranger() -> None:
    async with Nodes() as nodes, Relay(("", 0)) as relay:
        listener = await nodes.listen()
        relay.target = address_of(listener)
        dialer = await nodes.start()
        pair = await nodes.connect(dialer, listener, relay.address)
        content = b"a message that nobody else may read"
        await pair.near.send(content)
        await pair.far.send(content * 1000)
        await pair.near.flush()
        await pair.far.flush()
        relay.links[0].cut(Kind.RST)
        await until(lambda: pair.near.stats.resumes == 1 and pair.near.state == "open")
        await pair.near.send(content)
        await pair.near.close()
        wire = relay.recorded
        assert len(wire) > 36_000
        for secret in (
            content,
            b"message",
            SHARED_SEED,
            seed_of("alice"),
            seed_of("bob"),
            dialer.node_id,
            listener.node_id,
            pair.near.session_id,
            Identity.from_seed(seed_of("alice")).public_key,
            Identity.from_seed(seed_of("bob")).public_key,
            derive_psk(SHARED_SEED),
            pair.near.peer_incarnation,
            pair.far.peer_incarnation,
            b"seigr",
            b"stt",
        ):
            assert secret not in wire
