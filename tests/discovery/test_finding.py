"""Finding members: each announcement once, until the block ends, whatever strangers say."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from helpers.multicast import GROUP, HERE, SERVICE, Listening, needs_multicast
from helpers.nodes import Nodes, until
from seigr_toolset_transmissions.discovery import (
    Announcement,
    Discovery,
    Member,
    finding,
    multicast,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = needs_multicast
zeroconf = pytest.importorskip("zeroconf")
zeroconf_asyncio = pytest.importorskip("zeroconf.asyncio")


@pytest.fixture
def anyio_backend() -> str:
    """One loop is enough: the tests of announcements run on all."""
    return "asyncio"


@asynccontextmanager
async def stranger(*services: tuple[str, bytes]) -> AsyncIterator[None]:
    """Announce services of these names, with these values in their TXT records."""
    async with zeroconf_asyncio.AsyncZeroconf(interfaces=HERE) as service:
        saying = [
            await service.async_register_service(
                zeroconf.ServiceInfo(
                    SERVICE,
                    f"{name}.{SERVICE}",
                    port=0,
                    properties={b"a": value},
                    server="x.local.",
                ),
                cooperating_responders=True,
            )
            for name, value in services
        ]
        await asyncio.gather(*saying)
        yield


async def test_members_come_once_each_until_the_block_ends() -> None:
    found: list[Member] = []

    async def note(discovery: Discovery) -> None:
        async for member in discovery:
            found.append(member)  # noqa: PERF401  one by one

    async with Nodes() as nodes:
        alice, bob = [await nodes.listen(name, shared=GROUP) for name in ("alice", "bob")]
        async with Announcement(alice):
            async with Discovery(GROUP, interfaces=HERE) as discovery:
                noting = asyncio.create_task(note(discovery))
                await until(lambda: len(found) == 1)
                async with Announcement(bob):
                    await until(lambda: len(found) == 2)
                async with Announcement(bob):  # anew
                    await until(lambda: len(found) == 3)
            await noting
        assert [member.node_id for member in found] == [alice.node_id, bob.node_id, bob.node_id]
        assert [member.node_id for member in discovery.members] == [alice.node_id]


async def test_nothing_comes_of_what_strangers_say() -> None:
    async with Nodes() as nodes, Listening(GROUP) as discovery:
        node = await nodes.listen(shared=GROUP)
        async with Announcement(node):
            await until(lambda: discovery.members)
            [name] = discovery.opened
            true = discovery.heard[name].text[3:]
        await until(lambda: not discovery.members)
        copied, forged = secrets.token_hex(12), secrets.token_bytes(178)
        strange = [(copied, true), (secrets.token_hex(12), forged), ("Living Room", true)]
        strange.append((secrets.token_hex(12), b""))
        async with stranger(*strange):
            await until(lambda: {f"{said}.{SERVICE}" for said, _ in strange} <= {*discovery.heard})
            assert discovery.members == []
        # What a member has said, word for word: it is believed, and the dial will show.
        async with stranger((name.removesuffix(f".{SERVICE}"), true)):
            await until(lambda: discovery.members)


async def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "_MOST_MEMBERS", 1)
    async with Nodes() as nodes, Listening(GROUP) as discovery:
        alice, bob = [await nodes.listen(name, shared=GROUP) for name in ("alice", "bob")]
        async with Announcement(alice):
            await until(lambda: discovery.opened)
            heard = len(discovery.heard)
            async with Announcement(bob):
                await until(lambda: len(discovery.heard) > heard)
            assert len(discovery.opened) == 1


async def test_it_begins_anew_when_the_networks_have_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(multicast, "_LOOK_SECONDS", 0.01)
    async with Nodes() as nodes, Listening(GROUP) as discovery:
        node = await nodes.listen(shared=GROUP)
        async with Announcement(node):
            await until(lambda: discovery.members)
            discovery.opened.clear()
            discovery._scene = None  # as if it had looked at another network
            await until(lambda: discovery.opened)


async def test_entered_again_it_begins_anew() -> None:
    async with Nodes() as nodes:
        node = await nodes.listen(shared=GROUP)
        discovery = Discovery(GROUP, interfaces=HERE)
        for _ in range(2):
            async with Announcement(node), discovery:
                assert (await anext(aiter(discovery))).node_id == node.node_id
        with pytest.raises(RuntimeError, match="use `async with` first"):
            await anext(aiter(discovery))


async def test_interfaces_are_addresses_of_this_machine() -> None:
    with pytest.raises(TypeError, match="a list of addresses"):
        Discovery(GROUP, interfaces="127.0.0.1")
    with pytest.raises(ValueError, match="is empty"):
        Discovery(GROUP, interfaces=[])
    with pytest.raises(ValueError, match="lo"):
        Discovery(GROUP, interfaces=["lo"])
    with pytest.raises(OSError, match=r"no interface .* has the address 192\.0\.2\.99"):
        await Discovery(GROUP, interfaces=["192.0.2.99"]).__aenter__()
