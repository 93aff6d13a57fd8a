"""Seeds and keys are nowhere but where they are used: in no log, repr, exception, count or pickle.

A stretch of eight bytes of a secret, in whatever way it is written down, counts as the secret.
"""

from __future__ import annotations

import ast
import asyncio
import base64
import copy
import gc
import logging
import pickle
import re
import traceback
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import seigr_toolset_transmissions
from helpers.independent import Keys
from helpers.multicast import HERE, needs_multicast
from helpers.nodes import EventLog, Nodes, address_of, in_virtual_time, live, memory_nodes, until
from seigr_toolset_transmissions import NodeConfig, STTError, STTNode
from seigr_toolset_transmissions.cli.failures import Failure
from seigr_toolset_transmissions.cli.seeds import Seeds, find_seeds
from seigr_toolset_transmissions.discovery import Announcement, Discovery
from seigr_toolset_transmissions.discovery.sealing import ANNOUNCEMENT_PURPOSE
from seigr_toolset_transmissions.errors import STTSeedError
from seigr_toolset_transmissions.identity import Identity, derive_group_secret, derive_psk
from seigr_toolset_transmissions.protocol import noise
from seigr_toolset_transmissions.protocol.noise import CipherState, Handshake
from seigr_toolset_transmissions.seeds import decode_seed, load_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHARED = bytes.fromhex("d1e5a7c3") * 3 + b"~qX7vKp2wZ9t~"
OLD_SHARED = bytes.fromhex("e9b3f2d8") * 3 + b"~hN4bRc8yLm3~"
NODE_SEEDS = {
    name: bytes.fromhex("c4f1b6e2") * 3 + name.encode() * 5 for name in ("alice", "bob", "carol")
}
PARENT = "seigr_toolset_transmissions"
PIECE = 8


def secrets_of_all() -> list[bytes]:
    """Every seed, key of a group and private key in these tests."""
    seeds = [SHARED, OLD_SHARED, *NODE_SEEDS.values()]
    keys = [Keys(shared, seed) for shared in (SHARED, OLD_SHARED) for seed in NODE_SEEDS.values()]
    announcing = [derive_group_secret(seed, ANNOUNCEMENT_PURPOSE) for seed in (SHARED, OLD_SHARED)]
    return [*seeds, *announcing, *{key.psk for key in keys}, *{key.static for key in keys}]


def writings(secret: bytes) -> Iterator[str]:
    """Each piece of a secret as it could be written down."""
    for start in range(len(secret) - PIECE + 1):
        piece = secret[start : start + PIECE]
        yield repr(piece)[2:-1]
        yield piece.hex()
        yield piece.hex().upper()
        yield piece.hex(" ")
        yield str(list(piece))[1:-1]
        yield piece.decode("latin-1")
        yield piece.decode("utf-8", "replace")
    for start in range(3):
        yield base64.b64encode(secret[start:])[:10].decode()


def any_of(secrets: list[bytes]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(w) for s in secrets for w in {*writings(s)}))


@cache
def any_secret() -> re.Pattern[str]:
    return any_of(secrets_of_all())


def assert_no_secret(text: str) -> None:
    found = any_secret().search(text)
    assert found is None, f"{found!r} in {text!r}"


def test_a_secret_would_be_found() -> None:
    for secret in secrets_of_all():
        for text in (repr(secret), secret.hex(), f"<{list(secret)}>", repr({"x": secret[3:]})):
            with pytest.raises(AssertionError):
                assert_no_secret(text)
        with pytest.raises(AssertionError):
            assert_no_secret(base64.b64encode(secret).decode())
    assert_no_secret(repr(Identity.from_seed(NODE_SEEDS["alice"]).node_id))


def texts_of(error: BaseException) -> Iterator[str]:
    yield str(error)
    yield repr(error)
    yield repr(error.args)
    yield repr(vars(error))
    yield "".join(traceback.format_exception(error))


def make(nodes: Nodes, name: str, **options: Any) -> STTNode:
    options = {"network": nodes.network, "config": nodes.config, "shared_seed": SHARED} | options
    node = STTNode(NODE_SEEDS[name], **options)
    nodes.made.append(node)
    return node


def library_objects() -> list[object]:
    """All existing objects of the library's classes."""
    gc.collect()
    # str: some classes that are not written in Python have no name of a module there.
    return [thing for thing in gc.get_objects() if str(type(thing).__module__).startswith(PARENT)]


@in_virtual_time
async def test_a_conversation_shows_no_secret(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut, a stranger, a failing handler, a kick; with what asyncio logs in its debug mode."""
    caplog.set_level(logging.DEBUG)
    keys: list[bytes] = []  # of handshakes and connections

    def recorded(key: bytes) -> AESGCM:
        keys.append(bytes(key))
        return AESGCM(key)

    monkeypatch.setattr(noise, "AESGCM", recorded)
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0
    async with memory_nodes() as nodes:
        bob = make(nodes, "bob", shared_seed=[SHARED, OLD_SHARED])
        await bob.start(server_mode=True)
        alice = make(nodes, "alice")
        await alice.start()
        logs = [EventLog(alice), EventLog(bob)]

        @bob.events.on("data_received")
        async def fail(session_id: bytes, data: bytes) -> None:
            raise ValueError("a handler's own error")

        session = await alice.connect(*address_of(bob))
        await session.send(b"a message")
        await session.flush()
        live(session).cut("a cable is pulled")
        await until(lambda: session.state == "open")
        await bob.set_shared_seed(SHARED)
        carol = make(nodes, "carol", shared_seed=OLD_SHARED)
        await carol.start()
        with pytest.raises(STTError) as caught:
            await carol.connect(*address_of(bob))
        await until(lambda: logs[1].errors)
        things = library_objects()
        assert {STTNode, Identity, Handshake, CipherState} <= {type(thing) for thing in things}
        for thing in things:
            assert_no_secret(repr(thing))
            assert_no_secret(str(thing))
        for node in nodes.made:
            assert_no_secret(repr(asdict(node.stats())))
            assert_no_secret(repr(node.sessions))
            assert_no_secret(repr([node.endpoints.get_endpoint(i) for i in node.endpoints]))
        bob.sessions[0].send_nowait(b"too late")
        (lost,) = await bob.kick(alice.node_id)
    for error in (caught.value, lost):
        for text in texts_of(error):
            assert_no_secret(text)
    for log in logs:
        assert_no_secret(repr(log.entries))
    assert any("handler" in record.message for record in caplog.records)
    assert len({*keys}) > 10
    assert any_of([key[:PIECE] for key in keys]).search(caplog.text) is None
    assert_no_secret(caplog.text)
    for record in caplog.records:
        assert_no_secret(repr(vars(record)))


@in_virtual_time
async def test_a_repr_an_error_or_a_log_line_shows_no_part_of_a_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Messages wait in a window, in a handler and in an inbox, and are lost both ways."""
    caplog.set_level(logging.DEBUG)
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0
    message = b"<sealed>" * 4
    async with memory_nodes(close_timeout=1) as nodes:
        pair = await nodes.pair()

        @pair.listener.events.on("data_received")
        async def hang(session_id: bytes, data: bytes) -> None:
            await asyncio.sleep(3600)

        for _ in range(3):
            await pair.near.send(message)
            await pair.far.send(message)
        await pair.near.flush()
        await pair.far.flush()
        live(pair.near).cut("a cable is pulled")
        pair.near.send_nowait(message * 4000)
        things = library_objects()
        handed_on = await pair.listener.stop(drain=0)
        lost = await pair.dialer.stop(drain=0)
        assert (len(lost), len(handed_on.undelivered)) == (1, 1)
        texts = [*map(repr, [*things, handed_on, lost]), *map(str, [*things, handed_on, lost])]
    assert repr(handed_on) == "<StopReport lost=0 undelivered=2 peers=1>"
    assert repr(lost) == "<StopReport lost=1 undelivered=0 peers=0>"
    texts += ["".join(traceback.format_exception(error)) for error in lost]
    assert not [text for text in texts if "sealed" in text]
    assert "undelivered" in caplog.text
    assert "sealed" not in caplog.text


@needs_multicast
async def test_an_announcement_and_a_discovery_show_no_secret(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("zeroconf")
    caplog.set_level(logging.DEBUG)
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0
    async with Nodes() as nodes:
        bob = make(nodes, "bob")
        await bob.start(server_mode=True)
        async with Announcement(bob), Discovery([SHARED, OLD_SHARED], interfaces=HERE) as discovery:
            await until(lambda: discovery.members)
            things = library_objects()
            assert {Announcement, Discovery} <= {type(thing) for thing in things}
            for thing in things:
                assert_no_secret(repr(thing))
        with pytest.raises(TypeError, match="holds seeds"):
            pickle.dumps(discovery)
    assert_no_secret(caplog.text)


# Every error that can be brought about


async def refuse_seed(nodes: Nodes) -> None:
    STTNode(NODE_SEEDS["alice"][:15], SHARED)


async def refuse_no_bytes(nodes: Nodes) -> None:
    STTNode(NODE_SEEDS["alice"], SHARED.decode("latin-1"))  # type: ignore[arg-type]


async def refuse_bytearray(nodes: Nodes) -> None:
    STTNode(bytearray(NODE_SEEDS["alice"]), SHARED)  # type: ignore[arg-type]


async def refuse_no_seeds(nodes: Nodes) -> None:
    STTNode(NODE_SEEDS["alice"], [])


async def refuse_one_of_the_seeds(nodes: Nodes) -> None:
    STTNode(NODE_SEEDS["alice"], [SHARED, OLD_SHARED[:9]])


async def refuse_new_seed(nodes: Nodes) -> None:
    await make(nodes, "alice").set_shared_seed(SHARED[:10])


async def refuse_allow(nodes: Nodes) -> None:
    make(nodes, "alice", allow=[b"short"])


async def reach_nobody(nodes: Nodes) -> None:
    node = make(nodes, "alice")
    await node.start()
    await node.connect("nobody", 1)


async def reach_another_group(nodes: Nodes) -> None:
    hub, node = make(nodes, "bob"), make(nodes, "alice", shared_seed=OLD_SHARED)
    await hub.start(server_mode=True)
    await node.start()
    await node.connect(*address_of(hub))


async def reach_somebody_else(nodes: Nodes) -> None:
    hub, node = make(nodes, "bob"), make(nodes, "alice")
    await hub.start(server_mode=True)
    await node.start()
    await node.connect(*address_of(hub), expect=bytes(32))


async def reach_itself(nodes: Nodes) -> None:
    hub = make(nodes, "bob")
    await hub.start(server_mode=True)
    await hub.connect(*address_of(hub))


async def be_refused(nodes: Nodes) -> None:
    hub, node = make(nodes, "bob", allow=[]), make(nodes, "alice")
    await hub.start(server_mode=True)
    await node.start()
    await node.connect(*address_of(hub))


async def listen_twice(nodes: Nodes) -> None:
    hub = make(nodes, "bob")
    await hub.start(server_mode=True)
    await make(nodes, "alice", port=address_of(hub)[1]).start(server_mode=True)


async def start_twice(nodes: Nodes) -> None:
    node = make(nodes, "alice")
    await node.start()
    await node.start()


async def use_before_start(nodes: Nodes) -> None:
    await make(nodes, "alice").connect("nobody", 1)


async def send_to_nobody(nodes: Nodes) -> None:
    node = make(nodes, "alice")
    await node.start()
    await node.endpoints.send_to_endpoint(bytes(32), b"x")


async def send_too_much(nodes: Nodes) -> None:
    hub, node = make(nodes, "bob"), make(nodes, "alice")
    await hub.start(server_mode=True)
    await node.start()
    await (await node.connect(*address_of(hub))).send(bytes(5 << 20))


async def send_no_bytes(nodes: Nodes) -> None:
    hub, node = make(nodes, "bob"), make(nodes, "alice")
    await hub.start(server_mode=True)
    await node.start()
    await (await node.connect(*address_of(hub))).send("text")  # type: ignore[arg-type]


async def pickle_node(nodes: Nodes) -> None:
    pickle.dumps(make(nodes, "alice"))


async def read_forged(nodes: Nodes) -> None:
    noise = Handshake(
        initiator=False,
        static=Identity.from_seed(NODE_SEEDS["alice"]).private_key,
        ephemeral=X25519PrivateKey.generate,
        psk=derive_psk(SHARED),
    )
    noise.read_message(bytes(64))


async def decrypt_forged(nodes: Nodes) -> None:
    CipherState(derive_psk(SHARED)).decrypt(bytes(40))


async def use_wrong_key(nodes: Nodes) -> None:
    CipherState(NODE_SEEDS["alice"])


async def use_wrong_psk(nodes: Nodes) -> None:
    identity = Identity.from_seed(NODE_SEEDS["alice"])
    Handshake(
        initiator=True, static=identity.private_key, ephemeral=X25519PrivateKey.generate, psk=SHARED
    )


async def decode_half_a_digit(nodes: Nodes) -> None:
    decode_seed(SHARED.hex().encode()[:-1], "seed file x")


async def decode_short(nodes: Nodes) -> None:
    decode_seed(SHARED[:15], "seed file x")


async def decode_long(nodes: Nodes) -> None:
    decode_seed(SHARED * 500, "seed file x")


async def find_half_a_digit(nodes: Nodes) -> None:
    find_seeds(None, None, {"STT_SHARED_SEED": SHARED.hex()[:-1]})


ERRORS = [
    refuse_seed,
    refuse_no_bytes,
    refuse_bytearray,
    refuse_no_seeds,
    refuse_one_of_the_seeds,
    refuse_new_seed,
    refuse_allow,
    reach_nobody,
    reach_another_group,
    reach_somebody_else,
    reach_itself,
    be_refused,
    listen_twice,
    start_twice,
    use_before_start,
    send_to_nobody,
    send_too_much,
    send_no_bytes,
    pickle_node,
    read_forged,
    decrypt_forged,
    use_wrong_key,
    use_wrong_psk,
    decode_half_a_digit,
    decode_short,
    decode_long,
    find_half_a_digit,
]


@pytest.mark.parametrize("provoke", ERRORS, ids=lambda provoke: provoke.__name__)
@in_virtual_time
async def test_an_error_shows_no_secret(provoke: Callable[[Nodes], Any]) -> None:
    async with memory_nodes() as nodes:
        with pytest.raises((STTError, Failure, TypeError, ValueError, RuntimeError)) as caught:
            await provoke(nodes)
    for text in texts_of(caught.value):
        assert_no_secret(text)


def test_a_seed_file_that_others_can_read_is_refused_without_its_content(tmp_path: Path) -> None:
    path = tmp_path / "shared.seed"
    path.write_bytes(SHARED.hex().encode())
    path.chmod(0o644)
    with pytest.raises(STTSeedError) as caught:
        load_seed(path)
    for text in texts_of(caught.value):
        assert_no_secret(text)


# Pickles, copies, reprs


def test_seeds_of_the_command_line_have_no_repr() -> None:
    assert_no_secret(repr(Seeds(NODE_SEEDS["alice"], SHARED, ephemeral=False)))


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_objects_with_secrets_can_neither_be_pickled_nor_copied(
    duplicate: Callable[[object], object],
) -> None:
    identity = Identity.from_seed(NODE_SEEDS["alice"])
    handshake = Handshake(
        initiator=True,
        static=identity.private_key,
        ephemeral=X25519PrivateKey.generate,
        psk=derive_psk(SHARED),
    )
    node = STTNode(NODE_SEEDS["alice"], SHARED)
    for thing in (identity, handshake, handshake._state, CipherState(bytes(32)), node, node._keys):
        with pytest.raises(TypeError, match="neither be pickled nor copied"):
            duplicate(thing)
    for part in (node.endpoints, node._runtime, node._life.acceptor, node._life.dialer):
        with pytest.raises(Exception, match=r"pickle|copied"):
            pickle.dumps(part)


def test_a_config_holds_no_secret() -> None:
    assert pickle.loads(pickle.dumps(NodeConfig())) == NodeConfig()  # noqa: S301


# Comparisons


SECRET_NAMES = re.compile(r"seed|psk|private|secret|\bck\b|\bk\b|chaining|\broot\b|tag\b")
HARMLESS = {
    # These compare a node's own seeds with each other: no outsider is involved.
    "seeds != self._shared_seeds",
}


def test_secrets_are_compared_by_the_ciphers_only() -> None:
    """``==`` takes longer the more bytes are equal, which tells a stranger how many are."""
    found = set()
    for source in Path(seigr_toolset_transmissions.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and isinstance(
                node.ops[0], ast.Eq | ast.NotEq | ast.In | ast.NotIn
            ):
                found.add(re.sub(r"len\(.*?\)", "len", ast.unparse(node)))
    assert {text for text in found if SECRET_NAMES.search(text)} - HARMLESS == set()
