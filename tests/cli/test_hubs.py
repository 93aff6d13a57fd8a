"""`stt cluster`: what it shows of hubs that run meanwhile, and how it fails."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from anyio.from_thread import start_blocking_portal

from cli.documented import documented_keys
from cli.processes import Stt
from helpers.nats_server import NatsServer, needs_nats
from helpers.nodes import address_of, free_port, until
from seigr_toolset_transmissions import STTNode, generate_seed
from seigr_toolset_transmissions.cli.failures import Misuse
from seigr_toolset_transmissions.cli.hubs import parse_metadata
from seigr_toolset_transmissions.cli.main import run
from seigr_toolset_transmissions.cluster import Cluster, membership

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.once

NODE_SEED, SHARED_SEED = b"the node's own seed, a secret one", b"the seed that all peers here share"
PEER_SEED = b"the peer's own seed, a secret too"


@asynccontextmanager
async def hubs_with_a_peer(where: str | list[str]) -> AsyncIterator[bytes]:
    """Run two hubs, one of which has a peer; yield its id."""
    hubs = [
        STTNode(NODE_SEED, SHARED_SEED, cluster=Cluster(where, name=name))
        for name in ("hub-1", "hub-\x1b[2")
    ]
    async with hubs[0].listening(), hubs[1].listening(), STTNode(PEER_SEED, SHARED_SEED) as peer:
        await peer.connect(*address_of(hubs[1]))
        await until(lambda: peer.node_id in hubs[1].endpoints)
        hubs[1].endpoints.update_endpoint(peer.node_id, metadata={"type": "sensor", "floor": 7})
        await until(lambda: hubs[0].cluster.locate(peer.node_id))
        yield peer.node_id


@contextmanager
def running(where: str | list[str]) -> Iterator[bytes]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(hubs_with_a_peer(where)) as peer_id,
    ):
        yield peer_id


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the hubs meet, and soon see each other, with their seed in the environment."""
    monkeypatch.setattr(membership, "_ANNOUNCE_SECONDS", 0.05)
    monkeypatch.setenv("STT_NODE_SEED", NODE_SEED.decode())
    with tempfile.TemporaryDirectory() as name:  # pytest's own paths may be too long for a socket
        yield Path(name)


def test_hubs_endpoints_and_their_places_are_shown(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = f"unix://{folder}"
    with running(where) as peer_id:

        def shown(*arguments: str) -> str:
            assert run(["cluster", *arguments, "--wait", "2"]) == 0
            output = capsys.readouterr()
            assert output.err == "stt: looking for hubs for 2 s\n"
            return output.out

        header, *rows = shown("hubs", where).splitlines()
        second, first = sorted(rows, key=lambda row: row.startswith("hub-1"))
        assert header.split() == ["hub", "link", "round", "trip", "endpoints"]
        name, link, _rtt, unit, count = first.split()
        assert (name, link, unit, count) == ("hub-1", "up", "ms", "0")
        assert second.split()[0] == r"hub-\x1b[2"  # and not what it would do to a terminal
        assert second.split()[-1] == "1"

        hubs = json.loads(shown("hubs", where, "--json"))
        assert {(each["name"], each["connected"], each["endpoints"]) for each in hubs} == {
            ("hub-1", True, 0),
            ("hub-\x1b[2", True, 1),
        }
        assert all(0 < each["rtt"] < 1 for each in hubs)
        assert hubs[0].keys() == documented_keys("cluster hubs")

        found = f"{peer_id.hex()}  hub-\\x1b[2\n"
        assert shown("find", where, "type=sensor", "floor:=7") == found
        as_json = {"endpoint_id": peer_id.hex(), "hub": "hub-\x1b[2"}
        assert (
            as_json.keys() == documented_keys("cluster find") == documented_keys("cluster locate")
        )
        assert json.loads(shown("find", where, "--json")) == [as_json]
        assert shown("locate", where, peer_id.hex()) == "hub-\\x1b[2\n"
        assert json.loads(shown("locate", where, peer_id.hex(), "--json")) == as_json

        assert run(["cluster", "find", where, "floor=7", "--wait", "2"]) == 0  # it is a number
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.endswith("stt: no endpoint has this metadata\n")
        assert run(["cluster", "locate", where, "00" * 32, "--wait", "2"]) == 1
        assert "stt: the endpoint is not connected to any hub (2 found)" in capsys.readouterr().err


@needs_nats
def test_hubs_at_a_nats_server_are_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STT_NODE_SEED", NODE_SEED.decode())
    with NatsServer() as server, running(server.url) as peer_id:
        assert run(["cluster", "find", server.url, "-q"]) == 0
        assert capsys.readouterr().out.startswith(peer_id.hex())


def test_hubs_with_a_list_of_addresses_are_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STT_NODE_SEED", NODE_SEED.decode())
    addresses = [f"tcp://127.0.0.1:{free_port()}" for _ in range(3)]
    with running(addresses) as peer_id:
        assert run(["cluster", "find", ",".join(addresses), "-q"]) == 0
        assert capsys.readouterr().out.startswith(peer_id.hex())


@pytest.mark.parametrize(
    "arguments", [["hubs"], ["find"], ["locate", "00" * 32]], ids=lambda arguments: arguments[0]
)
def test_without_a_hub_it_fails_and_says_what_to_check(
    folder: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    name, *rest = arguments
    assert run(["cluster", name, f"unix://{folder}", *rest, "--wait", "0.01"]) == 1
    assert capsys.readouterr().err == (
        "stt: looking for hubs for 0.01 s\n"
        f"stt: no hub was found at unix://{folder} within 0.01 s: check the address, and that "
        "--seed is the node seed of the hubs, or look for longer with --wait\n"
    )


def test_hubs_with_another_seed_are_not_found(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(f"unix://{folder}"):
        monkeypatch.setenv("STT_NODE_SEED", generate_seed().hex())
        assert run(["cluster", "hubs", f"unix://{folder}", "--wait", "2"]) == 1
    assert "no hub was found" in capsys.readouterr().err


def test_what_keeps_it_from_the_hubs_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STT_NODE_SEED", NODE_SEED.decode())
    assert run(["cluster", "hubs", "nats://me:my-password@127.0.0.1:9", "--wait", "2"]) == 1
    said = capsys.readouterr().err
    assert "my-password" not in said
    assert "has not joined its cluster: " in said
    assert "no hub was found at nats://127.0.0.1:9 within 2 s" in said


@pytest.mark.parametrize(
    ("where", "options", "said"),
    [
        ("unix:///no/such/folder", [], "no hubs meet at unix:///no/such/folder: there is no such"),
        ("http://broker", [], "hubs cannot meet at 'http://broker': give the absolute path"),
        ("nats://broker", ["--creds", "/no"], "there is no credentials file /no"),
        ("nats://broker:x", [], "'nats://broker:x' is not the URL of a NATS server, such as"),
        ("unix:///", ["--creds", "x"], "--creds is for a NATS server; other hubs need none"),
    ],
)
def test_a_place_where_no_hubs_can_meet_is_misuse(
    where: str,
    options: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STT_NODE_SEED", NODE_SEED.decode())
    assert run(["cluster", "hubs", where, *options]) == 2
    assert f"stt: {said}" in capsys.readouterr().err


def test_without_nats_py_it_says_at_once_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STT_NODE_SEED", NODE_SEED.decode())
    monkeypatch.setitem(sys.modules, "nats.aio.client", None)
    assert run(["cluster", "hubs", "nats://127.0.0.1:9"]) == 2
    assert "pip install 'seigr-toolset-transmissions[nats]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["hubs"], ["find"], ["locate", "00" * 32]], ids=lambda arguments: arguments[0]
)
def test_an_interrupted_search_says_so(folder: Path, arguments: list[str]) -> None:
    name, *rest = arguments
    with Stt("cluster", name, f"unix://{folder}", *rest, "--seed", str(seed_file(folder))) as stt:
        stt.until("looking for hubs for 3 s")
        stt.signal(signal.SIGINT)
        assert stt.end() == 130
        assert stt.stderr.endswith("stt: interrupted: the search was not finished\n")


def seed_file(folder: Path) -> Path:
    path = folder / "node.seed"
    path.write_bytes(NODE_SEED)
    path.chmod(0o600)
    return path


def test_metadata_are_text_or_json() -> None:
    assert parse_metadata(["type=sensor", "a=b=c", "empty=", "floor:=7", "on:=true"]) == {
        "type": "sensor",
        "a": "b=c",
        "empty": "",
        "floor": 7,
        "on": True,
    }
    for text, said in [
        ("sensor", "write type=sensor, or floor:=7"),
        ("=7", "is not KEY=VALUE"),
        (":=7", "is not KEY=VALUE"),
        ("floor:=[7]", "a search takes text, numbers, true, false and null only"),
        ("type:=sensor", "'sensor' is not JSON; write type=sensor for text"),
    ]:
        with pytest.raises(Misuse, match=said):
            parse_metadata([text])
