"""Groups of endpoints: membership, its end, and sending to all members."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.clock import run_virtual
from helpers.lines import counting_lines
from helpers.nodes import in_virtual_time, memory_nodes
from seigr_toolset_transmissions.endpoints import EndpointManager, SendOutcome
from seigr_toolset_transmissions.endpoints.transport_side import TransportEndpoints as Side
from seigr_toolset_transmissions.errors import STTEndpointError

if TYPE_CHECKING:
    from collections.abc import Iterable

A, B, C, D = (bytes([letter]) * 28 for letter in b"abcd")


class Wire:
    """A transport that records what it is given, and refuses some recipients."""

    def __init__(self, *unreachable: bytes) -> None:
        self.sent: list[tuple[bytes, bytes]] = []
        self._unreachable = unreachable

    async def send(self, endpoint_id: bytes, data: bytes) -> None:
        if endpoint_id in self._unreachable:
            raise STTEndpointError("there is no way")
        self.sent.append((endpoint_id, data))


def manager_with(ids: Iterable[bytes], wire: Wire | None = None) -> EndpointManager:
    manager = EndpointManager((wire or Wire()).send)
    for endpoint_id in ids:
        Side(manager).add_endpoint_nowait(endpoint_id, None)
    return manager


def assert_nothing_kept(manager: EndpointManager) -> None:
    assert manager._members == {}
    assert manager._groups == {}


# -- membership ------------------------------------------------------------------------------


def test_members_and_groups_come_in_the_order_of_joining() -> None:
    manager = manager_with([A, B, C])
    for group, endpoint_id in [("y", C), ("x", A), ("y", A), ("x", C), ("y", B)]:
        manager.join(group, endpoint_id)
    assert manager.members("y") == [C, A, B]
    assert manager.members("x") == [A, C]
    assert manager.groups(A) == ["x", "y"]
    assert manager.groups(C) == ["y", "x"]


def test_joining_twice_changes_nothing_and_joining_again_makes_the_youngest_member() -> None:
    manager = manager_with([A, B])
    manager.join("x", A)
    manager.join("x", B)
    manager.join("x", A)
    assert manager.members("x") == [A, B]
    manager.leave("x", A)
    manager.join("x", A)
    assert manager.members("x") == [B, A]


def test_a_group_is_there_as_long_as_it_has_a_member() -> None:
    manager = manager_with([A, B])
    assert manager.members("x") == []
    manager.join("x", A)
    manager.join("x", B)
    manager.leave("x", A)
    assert manager.members("x") == [B]
    manager.leave("x", B)
    assert manager.members("x") == []
    assert_nothing_kept(manager)


def test_leaving_a_group_without_being_in_it_does_nothing() -> None:
    manager = manager_with([A, B])
    manager.join("x", A)
    manager.leave("x", B)
    manager.leave("y", A)
    manager.leave("x", C)  # which is unknown
    assert manager.members("x") == [A]
    assert manager.groups(A) == ["x"]


def test_an_unknown_endpoint_joins_no_group_and_is_in_none() -> None:
    manager = manager_with([A])
    with pytest.raises(STTEndpointError, match="is unknown"):
        manager.join("x", B)
    assert manager.groups(B) == []
    assert_nothing_kept(manager)


def test_what_is_returned_is_the_caller_s_own() -> None:
    manager = manager_with([A])
    manager.join("x", A)
    manager.members("x").clear()
    manager.groups(A).clear()
    assert (manager.members("x"), manager.groups(A)) == ([A], ["x"])


@pytest.mark.parametrize("wrong", [b"x", None, 1], ids=repr)
async def test_only_a_str_names_a_group(wrong: Any) -> None:
    manager = manager_with([A])
    for call in (manager.join, manager.leave):
        with pytest.raises(TypeError, match="the name of a group must be a str"):
            call(wrong, A)
    with pytest.raises(TypeError, match="the name of a group must be a str"):
        manager.members(wrong)
    with pytest.raises(TypeError, match="the name of a group must be a str"):
        await manager.send_to_group(wrong, b"")


def test_only_bytes_that_are_not_empty_are_ids() -> None:
    manager = manager_with([A])
    wrong: Any = A.hex()
    for call in (manager.join, manager.leave):
        with pytest.raises(TypeError, match="must be bytes"):
            call("x", wrong)
        with pytest.raises(ValueError, match="must not be empty"):
            call("x", b"")
    with pytest.raises(TypeError, match="must be bytes"):
        manager.groups(wrong)


# -- its end ---------------------------------------------------------------------------------


async def test_an_endpoint_that_is_removed_leaves_all_its_groups() -> None:
    manager = manager_with([A, B])
    manager.join("x", A)
    manager.join("y", A)
    manager.join("y", B)
    await manager.remove_endpoint(A)
    assert manager.members("x") == []
    assert manager.members("y") == [B]
    assert manager.groups(A) == []
    await manager.add_endpoint(A, None)
    assert manager.groups(A) == []
    await manager.remove_endpoint(A)
    await manager.remove_endpoint(B)
    assert_nothing_kept(manager)


async def test_an_endpoint_that_is_updated_or_added_with_exist_ok_stays_in_its_groups() -> None:
    manager = manager_with([A])
    manager.join("x", A)
    manager.update_endpoint(A, address="elsewhere", metadata={"new": True})
    await manager.add_endpoint(A, "elsewhere", exist_ok=True)
    assert manager.members("x") == [A]


async def test_an_endpoint_that_retires_leaves_its_groups_with_its_last_message() -> None:
    manager = manager_with([A, B])
    manager.join("x", A)
    Side(manager).offer(A, [b"unread"])
    Side(manager).retire_endpoint(A)
    manager.join("x", B)
    manager.join("y", A)
    assert manager.members("x") == [A, B]
    await manager.receive_any()
    assert manager.members("x") == [B]
    assert manager.groups(A) == []


async def test_an_endpoint_that_is_added_again_while_it_retires_is_in_no_group() -> None:
    manager = manager_with([A, B])
    manager.join("x", A)
    manager.join("x", B)
    Side(manager).offer(A, [b"unread"])
    Side(manager).retire_endpoint(A)
    Side(manager).add_endpoint_nowait(A, None)
    assert manager.groups(A) == []
    manager.join("x", A)
    await manager.receive_any()
    assert manager.members("x") == [B, A]


@in_virtual_time
async def test_a_peer_that_came_by_itself_leaves_its_groups_when_it_has_gone() -> None:
    async with memory_nodes() as nodes:
        hub = await nodes.listen()
        for unread in (False, True):
            peer = await nodes.start()
            pair = await nodes.connect(peer, hub)
            hub.endpoints.join("room", peer.node_id)
            outcomes = await hub.endpoints.send_to_group("room", b"welcome")
            assert outcomes == {peer.node_id: SendOutcome.ACCEPTED}
            if unread:
                await pair.near.send(b"goodbye")
            await peer.stop()
            await asyncio.sleep(1)
            if unread:
                outcomes = await hub.endpoints.send_to_group("room", b"anybody?")
                assert outcomes == {peer.node_id: SendOutcome.UNREACHABLE}
                await hub.endpoints.receive_any()
            assert await hub.endpoints.send_to_group("room", b"anybody?") == {}
        assert_nothing_kept(hub.endpoints)


@in_virtual_time
async def test_a_peer_that_the_program_added_stays_in_its_groups_while_it_is_away() -> None:
    async with memory_nodes() as nodes:
        hub, peer = await nodes.listen(), await nodes.start()
        await hub.endpoints.add_endpoint(peer.node_id, None)
        hub.endpoints.join("room", peer.node_id)
        for _ in range(2):
            pair = await nodes.connect(peer, hub)
            outcomes = await hub.endpoints.send_to_group("room", b"1")
            assert outcomes == {peer.node_id: SendOutcome.ACCEPTED}
            await pair.near.close()
            await asyncio.sleep(1)
            assert hub.endpoints.members("room") == [peer.node_id]
        outcomes = await hub.endpoints.send_to_group("room", b"2")
        assert outcomes == {peer.node_id: SendOutcome.UNREACHABLE}


# -- sending ---------------------------------------------------------------------------------


async def test_each_member_of_a_group_has_an_outcome_in_the_order_of_joining() -> None:
    wire = Wire(B)
    manager = manager_with([A, B, C, D], wire)
    for endpoint_id in (C, B, A):
        manager.join("x", endpoint_id)
    assert list((await manager.send_to_group("x", bytearray(b"hello"))).items()) == [
        (C, SendOutcome.ACCEPTED),
        (B, SendOutcome.UNREACHABLE),
        (A, SendOutcome.ACCEPTED),
    ]
    assert wire.sent == [(C, b"hello"), (A, b"hello")]


async def test_a_message_to_a_group_that_is_not_there_goes_to_nobody() -> None:
    wire = Wire()
    manager = manager_with([A], wire)
    assert await manager.send_to_group("x", b"hello") == {}
    assert wire.sent == []


async def test_those_who_are_excluded_get_nothing_and_have_no_outcome() -> None:
    wire = Wire()
    manager = manager_with([A, B, C], wire)
    for endpoint_id in (A, B):
        manager.join("x", endpoint_id)
    outcomes = await manager.send_to_group("x", b"hello", exclude={A, C})
    assert outcomes == {B: SendOutcome.ACCEPTED}
    assert wire.sent == [(B, b"hello")]


@pytest.mark.parametrize("kind", [set, list, iter, dict.fromkeys])
async def test_any_iterable_of_ids_excludes_members_but_not_a_single_id(
    kind: Any,
) -> None:
    manager = manager_with([A, B])
    manager.join("x", A)
    manager.join("x", B)
    assert set(await manager.send_to_group("x", b"", exclude=kind([A]))) == {B}
    single: Any = A
    with pytest.raises(TypeError, match="exclude must be an iterable of ids, not one bytes"):
        await manager.send_to_group("x", b"", exclude=single)


async def test_a_message_goes_to_the_members_of_the_moment_of_the_call() -> None:
    manager = manager_with([A, B, C])

    async def shuffle(endpoint_id: bytes, data: bytes) -> None:
        manager.leave("x", B)
        if C not in manager.members("x"):
            manager.join("x", C)

    manager._callback = shuffle
    manager.join("x", A)
    manager.join("x", B)
    assert set(await manager.send_to_group("x", b"hello")) == {A, B}
    assert manager.members("x") == [A, C]


def test_a_member_that_is_slow_counts_as_full_after_the_time_given() -> None:
    async def scenario() -> None:
        async def send(endpoint_id: bytes, data: bytes) -> None:
            if endpoint_id == B:
                await asyncio.sleep(1000)

        manager = EndpointManager(send)
        for endpoint_id in (A, B):
            Side(manager).add_endpoint_nowait(endpoint_id, None)
            manager.join("x", endpoint_id)
        times: list[tuple[dict[str, Any], int]] = [({"timeout": 3}, 3), ({}, 10)]
        for given_time, seconds in times:
            began = asyncio.get_running_loop().time()
            outcomes = await manager.send_to_group("x", b"hello", **given_time)
            assert asyncio.get_running_loop().time() - began == seconds
            assert outcomes == {A: SendOutcome.ACCEPTED, B: SendOutcome.FULL}

    run_virtual(scenario())


async def test_a_message_that_is_none_is_refused_before_anything_is_sent() -> None:
    wire = Wire()
    manager = manager_with([A], wire)
    manager.join("x", A)
    wrong: Any = "text"
    with pytest.raises(TypeError):
        await manager.send_to_group("x", wrong)
    assert wire.sent == []


# -- against a model, and what it costs ------------------------------------------------------

NAMES = ["", "x", "y"]
VERBS = ["add", "add", "remove", "retire", "offer", "receive", "join", "join", "join", "leave"]
STEPS = st.tuples(st.sampled_from(VERBS), st.sampled_from([A, B, C, D]), st.sampled_from(NAMES))


class Model:
    """What a manager's groups should be, kept in the plainest way."""

    def __init__(self) -> None:
        self.manager = manager_with([])
        self.unread: dict[bytes, int] = {}  # of each endpoint
        self.retiring: set[bytes] = set()
        self.joined: list[tuple[str, bytes]] = []  # in order

    def leave_all(self, one: bytes) -> None:
        self.joined = [pair for pair in self.joined if pair[1] != one]

    def forget(self, one: bytes) -> None:
        del self.unread[one]
        self.retiring.discard(one)
        self.leave_all(one)

    async def step(self, verb: str, one: bytes, group: str) -> None:
        manager, there = self.manager, one in self.unread
        if verb == "add" and (not there or one in self.retiring):
            Side(manager).add_endpoint_nowait(one, None)
            self.unread.setdefault(one, 0)
            self.retiring.discard(one)
            self.leave_all(one)
        elif verb == "remove" and there:
            await manager.remove_endpoint(one)
            self.forget(one)
        elif verb == "retire" and there:
            Side(manager).retire_endpoint(one)
            self.retiring.add(one)
            if not self.unread[one]:
                self.forget(one)
        elif verb == "offer" and there and one not in self.retiring:
            self.unread[one] += Side(manager).offer(one, [b"unread"])
        elif verb == "receive" and self.unread.get(one):
            await manager.receive_from(one, timeout=0)
            self.unread[one] -= 1
            if one in self.retiring and not self.unread[one]:
                self.forget(one)
        elif verb == "join" and there:
            manager.join(group, one)
            if (group, one) not in self.joined:
                self.joined.append((group, one))
        elif verb == "join":
            with pytest.raises(STTEndpointError):
                manager.join(group, one)
        elif verb == "leave":
            manager.leave(group, one)
            self.joined = [pair for pair in self.joined if pair != (group, one)]

    async def check(self) -> None:
        manager, joined = self.manager, self.joined
        for group in NAMES:
            members = [one for name, one in joined if name == group]
            assert manager.members(group) == members
            assert list(await manager.send_to_group(group, b"data")) == members
        for one in (A, B, C, D):
            assert manager.groups(one) == [name for name, other in joined if other == one]
        assert manager._members.keys() == {name for name, _ in joined}
        assert manager._groups.keys() == {one for _, one in joined}


@settings(deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_whatever_happens_the_groups_are_those_of_the_model(
    steps: list[tuple[str, bytes, str]],
) -> None:
    async def scenario() -> None:
        model = Model()
        for step in steps:
            await model.step(*step)
            await model.check()

    asyncio.run(scenario())


def test_joining_and_leaving_cost_the_same_among_many_members_and_groups() -> None:
    costs = []
    for count in (10, 2000):
        manager = manager_with(number.to_bytes(4, "big") for number in range(count))
        for endpoint_id in manager:
            manager.join("all", endpoint_id)
            manager.join(endpoint_id.hex(), endpoint_id)
        with counting_lines() as counted:
            manager.leave("all", bytes(4))
            manager.join("all", bytes(4))
            manager.groups(bytes(4))
        costs.append(counted.lines)
    assert costs[0] == costs[1]


def test_a_membership_takes_a_few_hundred_bytes() -> None:
    ids = [number.to_bytes(32, "big") for number in range(5000)]
    manager = manager_with(ids)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for endpoint_id in ids:
            manager.join("room", endpoint_id)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / len(ids) < 500
