"""What type checkers refuse of a node's emitter; `test_type_checkers` runs them.

Each ignored line is a mistake. Both checkers report a comment that ignores nothing.
"""

# mypy: enable-error-code="deprecated"

from __future__ import annotations

from seigr_toolset_transmissions import STTNode

events = STTNode(b"a node's own seed", b"the group's shared seed").events


@events.on("peer_connected")  # type: ignore[type-var]
async def another_name(endpoint_id: bytes) -> None: ...


@events.once("peer_disconnected")  # type: ignore[type-var]
async def another_type(peer_node_id: str) -> None: ...


@events.on("session_created")  # type: ignore[type-var]
async def one_too_many(session_id: bytes, data: bytes) -> None: ...


@events.on("data_received")  # type: ignore[type-var]
async def one_too_few(data: bytes) -> None: ...


@events.once("error")  # type: ignore[type-var]
async def by_position(error_type: str, details: dict[str, object], /) -> None: ...


@events.on("session_closed")  # type: ignore[type-var]
def not_async(session_id: bytes) -> None: ...


@events.on("health_changed")  # type: ignore[type-var]
async def another_type_of_health(peer_node_id: bytes, status: int) -> None: ...


class Handlers:
    async def of_an_error(self, error: str) -> None: ...

    def __init__(self) -> None:
        events.on("error")(self.of_an_error)  # type: ignore[type-var]
        events.register("error", self.of_an_error)  # type: ignore[deprecated]


events.register("peer_connected", another_name)  # type: ignore[deprecated]
events.register("session_resumed", one_too_many)  # type: ignore[deprecated]
events.register("data_received", one_too_few)  # type: ignore[deprecated]
events.register("of my own", not_async)  # type: ignore[arg-type]


def of_a_name(name: str) -> bool:
    return bool(name)


async def occurrences() -> None:
    connected = await events.wait_for("peer_connected")
    connected.kwargs["endpoint_id"]  # type: ignore[typeddict-item]
    connected.kwargs["peer_node_id"].upper().encode()  # type: ignore[attr-defined]
    await events.wait_for("data_received", of_a_name)  # type: ignore[arg-type]
    async with events.expect("data_received") as expected:
        expected.occurrence.kwargs["peer_node_id"]  # type: ignore[typeddict-item]
    with events.registered("peer_connected", another_name):  # type: ignore[attr-defined, deprecated]
        pass
    events.stream("error", overflow="drop_newest")  # type: ignore[call-overload]
    async with events.stream("session_closed") as stream:
        (await anext(stream)).kwargs["reason"]  # type: ignore[typeddict-item]
