"""A type checker accepts the code in the documents, and what the how-to pages define works."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_interface
from typing import TYPE_CHECKING, Any

import pytest

from helpers.documents import DOCUMENTS, FOREIGN, ROOT, python_blocks, read
from helpers.multicast import needs_multicast
from helpers.nodes import until
from seigr_toolset_transmissions import STTNode, generate_seed
from seigr_toolset_transmissions.discovery import finding
from seigr_toolset_transmissions.discovery.interfaces import Own, OwnAddress
from seigr_toolset_transmissions.transports.memory import MemoryNetwork

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.once

COMING_FROM = sorted((ROOT / "docs" / "coming-from").glob("*.md"))
GIVEN = """
import asyncio
import json
from collections import deque
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from seigr_toolset_transmissions import HealthMonitor, HealthStatus, NodeConfig, STTNode, Session
from seigr_toolset_transmissions.errors import (
    STTEndpointError, STTRequestError, STTRequestFailedError,
)

node: STTNode
node_seed: bytes
shared_seed: bytes
old: bytes
new: bytes
device_id: bytes
peer_id: bytes
other_id: bytes
alice_id: bytes
bob_id: bytes
registry: set[bytes]
counts: dict[str, int]


async def snippet() -> None:
"""
"""What a block may use without saying so, and the function that lets it await."""


def run(folder: Path, *arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=os.environ | {"MYPYPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_type_checker_accepts_every_snippet(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    checked = 0
    for document in DOCUMENTS:
        for number, block in enumerate(python_blocks(document.read_text(encoding="utf-8"))):
            name = f"{document.relative_to(ROOT).with_suffix('')}-{number}"
            module = tmp_path / (re.sub(r"[^a-z0-9]", "_", name.lower()) + ".py")
            whole = "asyncio.run(" in block or "shout" in block
            module.write_text(block if whole else GIVEN + textwrap.indent(block, "    "))
            checked += 1
    (tmp_path / "shout.py").write_text(python_blocks(read("docs/how-to/testing.md"))[0])
    assert checked > 60
    options = ["--no-error-summary", "--check-untyped-defs", "--cache-dir", ".cache"]
    run(tmp_path, "mypy", *options, "--disable-error-code=import-not-found", ".")


@pytest.mark.parametrize("page", COMING_FROM, ids=lambda path: path.stem)
def test_what_other_libraries_look_like_is_python(page: Path) -> None:
    blocks = re.findall(
        r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    [theirs] = [block for block in blocks if FOREIGN.search(block)]
    compile(theirs, page.name, "exec")
    assert len(blocks) > 1


def test_the_test_of_the_how_to_page_passes(tmp_path: Path) -> None:
    program, test = python_blocks(read("docs/how-to/testing.md"))
    (tmp_path / "shout.py").write_text(program)
    (tmp_path / "test_shout.py").write_text(test)
    assert "1 passed" in run(tmp_path, "pytest", "-q", "-p", "no:cacheprovider", ".")


def defined_in(page: str, **given: object) -> dict[str, Any]:
    """Return what the definitions of a how-to page define."""
    namespace: dict[str, Any] = {
        "asyncio": asyncio,
        "Callable": Callable,
        "STTNode": STTNode,
        **given,
    }
    for block in python_blocks(read(f"docs/how-to/{page}.md")):
        if re.search(r"^(?:async )?def ", block, re.MULTILINE):
            exec(compile(block, page, "exec"), namespace)  # noqa: S102 - our own document
    return namespace


@pytest.fixture
async def pair() -> AsyncIterator[tuple[STTNode, STTNode]]:
    """Yield a hub that listens and a peer that does not run yet."""
    network, shared_seed = MemoryNetwork(), generate_seed()
    hub, peer = (STTNode(generate_seed(), shared_seed, network=network) for _ in range(2))
    async with hub.listening():
        yield hub, peer


async def test_the_devices_of_the_how_to_page_register(pair: tuple[STTNode, STTNode]) -> None:
    hub, device = pair
    page = defined_in("many-devices")
    page["welcome_devices"](hub)
    running = asyncio.create_task(page["run_device"](device, hub.node_id, hub.address))
    await until(lambda: hub.endpoints.find(type="sensor") == [device.node_id])
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_the_shop_of_the_how_to_page_answers(
    pair: tuple[STTNode, STTNode], capsys: pytest.CaptureFixture[str]
) -> None:
    shop, customer = pair
    page = defined_in("requests")
    async with customer:
        await customer.endpoints.add_endpoint(shop.node_id, shop.address)
        assert await page["price_of"](customer, shop.node_id, b"tea") is None
        assert "handled: False" in capsys.readouterr().out  # it serves no requests yet
        page["serve_prices"](shop, {b"tea": b"3"})
        assert await page["price_of"](customer, shop.node_id, b"tea") == b"3"
        assert await page["price_of"](customer, shop.node_id, b"gin") is None
    assert capsys.readouterr().out == "the shop says: no such article\n"


async def test_the_thread_of_the_how_to_page_sends(pair: tuple[STTNode, STTNode]) -> None:
    hub, peer = pair
    page = defined_in("fork-threads-loops", node=peer)
    page["serve_reports"](hub, bytes.upper)
    async with peer:
        await peer.endpoints.add_endpoint(hub.node_id, hub.address)
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(page["send_from_a_thread"], loop, hub.node_id, b"from a thread")
        assert await hub.endpoints.receive_any(timeout=10) == (b"from a thread", peer.node_id)
        assert await peer.endpoints.request(hub.node_id, b"report", timeout=10) == b"REPORT"


@needs_multicast
async def test_the_nodes_of_the_how_to_page_find_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("zeroconf")
    here = Own([OwnAddress(ip_interface("127.0.0.1/8"), 1)])
    monkeypatch.setattr(finding, "own_addresses", lambda: here)
    page = defined_in("local-network")
    shared_seed = generate_seed()
    one, other = (STTNode(generate_seed(), shared_seed) for _ in range(2))
    async with one.listening(), other.listening():
        meeting = [asyncio.create_task(page["meet"](node, shared_seed)) for node in (one, other)]
        await until(lambda: one.sessions and other.sessions)
        found = await page["look_around"](shared_seed, 2)  # answers may take a second
        assert {member.node_id for member in found} == {one.node_id, other.node_id}
        for task in meeting:
            task.cancel()
        await asyncio.wait(meeting)
        assert all(task.cancelled() for task in meeting)
        assert len(one.sessions) == 1
