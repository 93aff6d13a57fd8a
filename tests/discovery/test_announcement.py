"""A node that is announced: what members and others see of it, over loopback, and what changes."""

from __future__ import annotations

import asyncio
import errno
import logging
import sys
from ipaddress import ip_interface
from typing import Any, Never

import pytest

from helpers.multicast import GROUP, HERE, SERVICE, Listening, needs_multicast
from helpers.nodes import Nodes, address_of, memory_nodes, until
from seigr_toolset_transmissions import generate_seed
from seigr_toolset_transmissions.discovery import (
    Announcement,
    Discovery,
    Member,
    announcement,
    multicast,
)
from seigr_toolset_transmissions.discovery.interfaces import Own, OwnAddress, own_addresses

pytestmark = needs_multicast
zeroconf = pytest.importorskip("zeroconf")

OTHER_SEED = generate_seed()
LAN = Own(
    OwnAddress(ip_interface(at), interface)
    for at, interface in [("127.0.0.1/8", 1), ("192.168.1.5/24", 2), ("2001:db8::5/64", 2)]
)


@pytest.fixture
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let changes be noticed at once."""
    monkeypatch.setattr(multicast, "_LOOK_SECONDS", 0.01)


async def test_members_find_a_node_and_others_see_only_that_something_is_there() -> None:
    async with Nodes() as nodes:
        node = await nodes.listen(shared=GROUP)
        async with Listening(GROUP) as inside, Listening(OTHER_SEED) as outside:
            async with Announcement(node):
                await until(lambda: inside.opened)
                [name] = inside.opened
                await until(lambda: name in outside.heard)
                assert inside.members == [Member(node.node_id, (address_of(node),))]
                assert outside.members == []
            await until(lambda: not inside.members)
        seen = outside.heard[name]
        label = name.removesuffix(f".{SERVICE}")
        assert len(bytes.fromhex(label)) == 12
        assert (seen.port, seen.parsed_addresses(), seen.server) == (0, [], f"{label}.local.")
        assert len(seen.text) == len(b"?a=") + 178
        assert node.node_id not in seen.text


async def test_two_announcements_of_a_node_have_nothing_in_common() -> None:
    async with Nodes() as nodes, Listening(GROUP) as discovery:
        node = await nodes.listen(shared=GROUP)
        for _ in range(2):
            async with Announcement(node):
                await until(lambda: discovery.members)
            await until(lambda: not discovery.members)
        first, second = discovery.opened
        one, other = discovery.heard[first], discovery.heard[second]
        assert [a for a, b in zip(one.text[3:], other.text[3:], strict=True) if a == b][8:] == []


class Answering(Listening):
    """Says what a member has announced once more as soon as it hears the member's goodbye."""

    repeated = False

    def _changed(self, zeroconf: Any, service_type: str, name: str, state_change: Any) -> None:
        known = name in self._found
        super()._changed(zeroconf, service_type, name, state_change)
        if known and name not in self._found and not self.repeated:
            self.repeated = True
            self.opened.clear()
            zeroconf.async_send(zeroconf.generate_service_broadcast(self.heard[name], None))


async def test_the_last_goodbye_holds_although_an_answer_follows_the_first() -> None:
    async with Nodes() as nodes, Answering(GROUP) as discovery:
        async with Announcement(await nodes.listen(shared=GROUP)):
            await until(lambda: discovery.opened)
        await until(lambda: discovery.repeated and discovery.opened)
        await until(lambda: not discovery.members)


async def test_a_node_that_changes_is_announced_anew(watchful: None) -> None:
    async with Nodes() as nodes, Listening([OTHER_SEED, GROUP]) as discovery:
        node = await nodes.listen(shared=GROUP)
        async with Announcement(node):
            await until(lambda: discovery.members)

            await node.set_shared_seed([OTHER_SEED, GROUP])
            await until(lambda: len(discovery.opened) == 2 and len(discovery.members) == 1)

            await node.stop()
            await until(lambda: not discovery.members)

            await node.start(server_mode=True)
            await until(lambda: discovery.members)
            assert discovery.members == [Member(node.node_id, (address_of(node),))]
        assert len(discovery.opened) == 3


async def test_a_failure_is_logged_once_and_tried_again(
    watchful: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looks = 0
    true_addresses = own_addresses

    def fail() -> Own:
        nonlocal looks
        looks += 1
        raise OSError("the cable is out")

    async with Nodes() as nodes, Listening(GROUP) as discovery:
        node = await nodes.listen(shared=GROUP)
        async with Announcement(node):
            await until(lambda: discovery.members)
            monkeypatch.setattr(announcement, "own_addresses", fail)
            await until(lambda: looks > 2 and not discovery.members)
            monkeypatch.setattr(announcement, "own_addresses", true_addresses)
            await until(lambda: discovery.members)
    [record] = [record for record in caplog.records if record.name.startswith("seigr")]
    assert record.levelno == logging.WARNING
    assert "the cable is out" in record.getMessage()


async def test_a_node_is_announced_where_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcement, "own_addresses", lambda: LAN)
    said: dict[str, Any] = {}
    async with Nodes() as nodes:
        for host in ("", "0.0.0.0", "::", "127.0.0.1"):  # noqa: S104
            node = await nodes.listen(host=host, shared=GROUP)
            scene = Announcement(node)._look()
            assert scene is not None
            assert scene.what.place.port == address_of(node)[1]
            said[host] = scene.interfaces, [*map(str, scene.what.place.addresses)]
            await node.stop()
    everywhere = ("127.0.0.1", "192.168.1.5", 2)
    assert said == {
        "": (everywhere, ["192.168.1.5", "2001:db8::5"]),
        "0.0.0.0": (everywhere, ["192.168.1.5"]),  # noqa: S104
        "::": (everywhere, ["2001:db8::5"]),
        "127.0.0.1": (("127.0.0.1",), ["127.0.0.1"]),
    }


async def test_a_machine_without_a_network_announces_to_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = Own(
        [OwnAddress(ip_interface("127.0.0.1/8"), 1), OwnAddress(ip_interface("fe80::5/64"), 2)]
    )
    monkeypatch.setattr(announcement, "own_addresses", lambda: alone)
    async with Nodes() as nodes:
        scene = Announcement(await nodes.listen(host=""))._look()
        assert scene is not None
        assert scene.interfaces == ("127.0.0.1",)


async def test_a_node_that_cannot_be_announced_is_refused() -> None:
    async with Nodes() as nodes, memory_nodes() as others:
        idle = await nodes.start("alice")
        with pytest.raises(RuntimeError, match="does not listen"):
            await Announcement(idle).__aenter__()
        with pytest.raises(ValueError, match="only an IP address can be announced, not 'hub'"):
            await Announcement(await others.listen(host="hub")).__aenter__()
        listener = await nodes.listen(shared=GROUP)
        async with Announcement(listener) as announced:
            with pytest.raises(RuntimeError, match="already in use"):
                await announced.__aenter__()


async def test_an_error_says_what_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    discovery = Discovery(GROUP, interfaces=HERE)

    def refuse(**_: object) -> Never:
        raise OSError(errno.EADDRINUSE, "Address already in use")

    monkeypatch.setattr(discovery._asyncio, "AsyncZeroconf", refuse)
    with pytest.raises(
        OSError, match=r"multicast DNS \(UDP port 5353\) cannot .* in use"
    ) as caught:
        await discovery.__aenter__()
    assert caught.value.errno == errno.EADDRINUSE


async def test_an_announcement_that_zeroconf_refuses_is_an_error_and_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Nodes() as nodes:
        announced = Announcement(await nodes.listen(shared=GROUP))

        async def refuse(*_: object, **_options: object) -> Never:
            raise announced._zeroconf.NonUniqueNameException

        monkeypatch.setattr(announced._asyncio.AsyncZeroconf, "async_register_service", refuse)
        with pytest.raises(OSError, match="multicast DNS"):
            await announced.__aenter__()


async def test_a_block_that_is_cancelled_at_its_end_leaves_nothing_open() -> None:
    async with Nodes() as nodes:  # which checks that no task is left
        node = await nodes.listen(shared=GROUP)
        announced = asyncio.Event()

        async def announce() -> None:
            async with Announcement(node):
                announced.set()

        task = asyncio.create_task(announce())
        await announced.wait()
        await asyncio.sleep(0)  # it says goodbye now
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def test_without_zeroconf_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    with pytest.raises(ModuleNotFoundError, match=r"seigr-toolset-transmissions\[discovery\]"):
        Discovery(GROUP)
