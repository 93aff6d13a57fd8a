"""What type checkers accept of an emitter; `test_type_checkers` runs them."""

# mypy: enable-error-code="deprecated", allow-untyped-defs

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, assert_type
from unittest.mock import AsyncMock

from seigr_toolset_transmissions import EventEmitter, HealthStatus, NodeEvents, Occurrence, STTNode

if TYPE_CHECKING:
    from collections.abc import Mapping

node = STTNode(b"a node's own seed", b"the group's shared seed")
events = node.events

# Handlers of the node's events.


@events.on("session_created")
@events.on("session_suspended")
@events.once("session_resumed")
@events.once("session_closed")
async def of_a_session(session_id: bytes) -> None: ...


@events.on("peer_connected")
@events.once("peer_disconnected")
async def of_a_peer(peer_node_id: bytes) -> int:
    return len(peer_node_id)


@events.on("data_received")
async def of_a_message(session_id: bytes, data: bytes) -> None: ...


@events.on("error")
async def of_an_error(error_type: str, details: Mapping[str, object]) -> None: ...


@events.on("data_received")
async def without_annotations(session_id, data): ...


@events.on("error")
async def keywords_only(*, details: dict[str, Any], error_type: str) -> None: ...


@events.on("peer_connected")
async def with_a_default(peer_node_id: bytes, greeting: str = "hello") -> None: ...


@events.on("peer_connected")
@events.on("data_received")
@events.on("error")
@events.on("of my own")
async def of_anything(**kwargs: Any) -> None: ...


class Handlers:
    async def of_a_peer(self, peer_node_id: bytes) -> None: ...

    async def __call__(self, *args: Any, **kwargs: Any) -> None: ...

    def __init__(self) -> None:
        events.on("peer_connected")(self.of_a_peer)
        events.on("error")(self)
        events.register("peer_connected", self.of_a_peer)
        events.register("data_received", self)


async def of_a_room(room: str, peer_node_id: bytes) -> None: ...


events.on("peer_connected")(partial(of_a_room, "lobby"))
events.register("peer_connected", partial(of_a_room, "lobby"))
events.register("error", AsyncMock())
events.register("session_closed", of_a_session)
events.register("data_received", of_a_message)


@events.on("health_changed")
async def of_health(peer_node_id: bytes, status: HealthStatus) -> None: ...


@events.on("hub_joined")
@events.once("hub_lost")
async def of_a_hub(hub: str) -> None: ...


@events.once("health_changed")
async def of_health_as_text(peer_node_id: bytes, status: str) -> None: ...


# Events of one's own.


@events.on("of my own")
@events.once("of my own")
async def of_my_own(count: int, /) -> None: ...


def with_any_name(name: str) -> None:
    events.register(name, of_my_own)
    events.on(name)(of_my_own)


# Occurrences.


def is_expected(occurrence: Occurrence) -> bool:
    return bool(occurrence.kwargs)


async def occurrences() -> None:
    connected = await events.wait_for("peer_connected", timeout=5)
    assert_type(connected.kwargs["peer_node_id"], bytes)
    plain: Occurrence = await events.wait_for("error", is_expected)
    assert_type(plain.name, str)
    message = await events.wait_for("data_received", lambda o: o.kwargs["data"].startswith(b"x"))
    assert_type(message.kwargs["session_id"], bytes)
    checked = await events.wait_for("data_received", is_expected)
    assert_type(checked.kwargs["data"], bytes)
    health = await events.wait_for("health_changed")
    assert_type(health.kwargs["status"], HealthStatus)
    async with events.expect("peer_connected", timeout=5) as expected:
        pass
    assert_type(expected.occurrence.kwargs["peer_node_id"], bytes)
    with events.registered("peer_connected", of_a_peer), events.registered("my own", of_my_own):
        either = await events.wait_for(("peer_connected", "my own"))
    assert_type(either.kwargs, dict[str, Any])
    async with events.stream("peer_connected", overflow="drop_oldest") as newest:
        assert_type(newest.dropped, int)
    mine = await events.wait_for("of my own", is_expected)
    assert_type(mine.kwargs, dict[str, Any])
    async with events.stream("error", maxsize=1) as errors:
        async for error in errors:
            assert_type(error.kwargs["error_type"], str)
            assert_type(error.kwargs["details"], dict[str, Any])
    async with events.stream("of my own") as own:
        assert_type((await anext(own)).kwargs, dict[str, Any])


# An emitter that belongs to no node takes anything; a node's serves wherever one is wanted.

bare = EventEmitter()
bare.on("peer_connected")(of_my_own)
bare.register("error", of_my_own)


def takes_an_emitter(emitter: EventEmitter) -> None: ...


takes_an_emitter(events)
takes_an_emitter(NodeEvents())
STTNode(b"a node's own seed", b"the group's shared seed", events=bare)
STTNode(b"a node's own seed", b"the group's shared seed", events=events)
