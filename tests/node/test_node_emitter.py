"""The emitter of a node knows the node's events: what it refuses, and what it doubts."""

from __future__ import annotations

import functools
import inspect
import typing
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock, create_autospec

import pytest

from helpers.nodes import BUILT_IN
from seigr_toolset_transmissions import EventEmitter, NodeEvents, STTNode
from seigr_toolset_transmissions.errors import STTEventError
from seigr_toolset_transmissions.node import event_types

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = typing.get_args(event_types.NodeEvent)


def make_node(events: EventEmitter | None = None) -> STTNode:
    return STTNode(b"a node's own seed", b"the group's shared seed", events=events)


# Events and their arguments


def test_every_event_is_described_once() -> None:
    assert {name: set(arguments) for name, arguments in event_types.ARGUMENTS.items()} == BUILT_IN
    assert sorted(NAMES) == sorted(BUILT_IN)


@pytest.mark.parametrize("group", ["Session", "Peer", "Data", "Error", "Health"])
def test_handlers_take_what_occurrences_hold(group: str) -> None:
    handler = inspect.signature(getattr(event_types, f"{group}Handler").__call__)
    _, *parameters = handler.parameters.values()
    arguments = getattr(event_types, f"{group}Arguments").__annotations__
    assert {p.name: p.annotation for p in parameters} == {
        name: annotation.__forward_arg__ for name, annotation in arguments.items()
    }
    assert {p.kind for p in parameters} == {inspect.Parameter.KEYWORD_ONLY}


# Handlers


async def takes_a_peer(peer_node_id: bytes) -> None: ...
async def takes_another(endpoint_id: bytes) -> None: ...
async def takes_more(peer_node_id: bytes, room: str) -> None: ...
async def takes_none() -> None: ...
async def takes_positions(peer_node_id: bytes, /) -> None: ...
async def takes_any_positions(*args: Any) -> None: ...
async def takes_keywords(**kwargs: Any) -> None: ...
async def takes_anything(*args: Any, **kwargs: Any) -> None: ...
async def has_a_default(peer_node_id: bytes, room: str = "lobby") -> None: ...


@functools.wraps(takes_another)
async def decorated(*args: Any, **kwargs: Any) -> None: ...


async def claims_another() -> None: ...


takes_anybody: Any = takes_a_peer

claims_another.__signature__ = inspect.signature(takes_another)  # type: ignore[attr-defined]


class Handler:
    async def fits(self, peer_node_id: bytes) -> None: ...
    async def does_not(self, endpoint_id: bytes) -> None: ...
    @classmethod
    async def of_class(cls, peer_node_id: bytes) -> None: ...
    @staticmethod
    async def static(peer_node_id: bytes) -> None: ...
    async def __call__(self, peer_node_id: bytes) -> None: ...


class OfAnother:
    async def __call__(self, endpoint_id: bytes) -> None: ...


@pytest.mark.parametrize(
    "handler",
    [
        takes_a_peer,
        takes_keywords,
        takes_anything,
        has_a_default,
        Handler().fits,
        Handler.of_class,
        Handler.static,
        Handler(),
        functools.partial(takes_more, room="lobby"),
        functools.partial(Handler().fits),
        functools.partial(takes_a_peer, peer_node_id=b""),
    ],
)
async def test_a_handler_that_can_be_called_is_taken(
    handler: Callable[..., Any], no_log: None
) -> None:
    events = make_node().events
    events.register("peer_connected", handler)
    events.on("peer_disconnected")(handler)
    assert await events.emit("peer_connected", peer_node_id=b"") == [None]
    assert await events.emit("peer_disconnected", peer_node_id=b"") == [None]


@pytest.mark.parametrize(
    ("handler", "fault"),
    [
        (takes_another, "missing a required argument: 'endpoint_id'"),
        (takes_more, "missing a required argument: 'room'"),
        (takes_none, "got an unexpected keyword argument 'peer_node_id'"),
        (takes_positions, "'peer_node_id'"),
        (takes_any_positions, "got an unexpected keyword argument 'peer_node_id'"),
        (Handler().does_not, "missing a required argument: 'endpoint_id'"),
        (OfAnother(), "missing a required argument: 'endpoint_id'"),
        (functools.partial(takes_more, b""), "missing a required argument: 'room'|multiple"),
        (functools.partial(OfAnother()), "missing a required argument: 'endpoint_id'"),
    ],
)
@pytest.mark.parametrize("way", ["on", "once", "register"])
def test_a_handler_that_cannot_be_called_is_refused(
    way: str, handler: Callable[..., Any], fault: str
) -> None:
    events: Any = make_node().events
    ways = {"register": functools.partial(events.register, "peer_connected")}
    register = ways.get(way) or getattr(events, way)("peer_connected")
    with pytest.raises(STTEventError, match=fault) as refused:
        register(handler)
    assert "calls it with (peer_node_id=...)" in str(refused.value)
    assert "name its parameters so" in str(refused.value)
    assert events.handlers("peer_connected") == []


@pytest.mark.parametrize(
    "handler",
    [
        decorated,
        claims_another,
        AsyncMock(),
        AsyncMock(spec=takes_another),
        create_autospec(takes_another),
        functools.partial(takes_anybody, 1, 2, 3),
    ],
)
def test_a_handler_is_taken_where_its_signature_proves_nothing(handler: Any) -> None:
    events: EventEmitter = make_node().events
    events.register("peer_connected", handler)
    assert events.handlers("peer_connected") == [handler]


def test_events_of_ones_own_call_handlers_of_any_kind(no_log: None) -> None:
    events = make_node().events
    for handler in (takes_none, takes_more, takes_positions):
        events.register("room_opened", handler)
    assert len(events.handlers("room_opened")) == 3


# Names


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("peer_conected", "peer_connected"),
        ("peer_connnected", "peer_connected"),
        ("peer_conmected", "peer_connected"),
        ("peer_connetced", "peer_connected"),
        ("peer_connect", "peer_connected"),
        ("peer-disconnected", "peer_disconnected"),
        ("peerConnected", "peer_connected"),
        ("SESSION_CLOSED", "session_closed"),
        ("session_close", "session_closed"),
        ("session_suspend", "session_suspended"),
        ("data_recieved", "data_received"),
        ("errors", "error"),
        ("eror", "error"),
    ],
)
def test_a_name_like_one_of_the_nodes_is_doubted_once(
    name: str, meant: str, caplog: pytest.LogCaptureFixture
) -> None:
    events: EventEmitter = make_node().events
    events.on(name)(takes_keywords)
    events.register(name, takes_keywords)
    (line,) = caplog.records
    assert line.levelname == "WARNING"
    assert line.getMessage() == f"a node emits no event {name!r}: did you mean {meant!r}?"
    assert len(events.handlers(name)) == 2


@pytest.mark.parametrize(
    "name",
    [
        *NAMES,
        "bytes_received",
        "connection_established",
        "custom_event",
        "my_event",
        "peer_message",
        "broadcast_complete",
        "peer_reconnected",
        "session_opened",
        "connected",
        "mirror",
        "data",
        "x",
        "",
    ],
)
def test_a_name_that_may_well_be_ones_own_is_not_doubted(name: str, no_log: None) -> None:
    events: EventEmitter = make_node().events
    events.register(name, takes_keywords if name not in BUILT_IN else takes_anything)


async def test_waiting_for_a_misspelt_name_is_doubted_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events = make_node().events
    with pytest.raises(TimeoutError):
        await events.wait_for("peer_conected", timeout=0)
    async with events.stream("session_closd"):
        pass
    async with events.expect(("session_closed", "error_"), timeout=0) as expected:
        await events.emit("error_")
    assert expected.occurrence.name == "error_"
    assert [line.args for line in caplog.records] == [
        ("peer_conected", "peer_connected"),
        ("session_closd", "session_closed"),
        ("error_", "error"),
    ]


# Whose emitter it is


async def test_an_emitter_that_was_passed_in_stays_itself_and_takes_everything(
    no_log: None,
) -> None:
    events = EventEmitter()
    node = make_node(events)
    assert node.events is events
    events.register("peer_connected", takes_another)
    events.register("peer_conected", takes_none)
    assert await events.emit("peer_connected", endpoint_id=b"") == [None]


def test_several_nodes_may_share_an_emitter_that_knows_their_events() -> None:
    events = NodeEvents()
    assert make_node(events).events is make_node(events).events is events
    with pytest.raises(STTEventError):
        events.register("peer_connected", takes_another)


def test_knowing_events_costs_an_emit_nothing() -> None:
    assert NodeEvents.emit is EventEmitter.emit
