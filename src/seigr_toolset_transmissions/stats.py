"""Figures for applications: about nodes, sessions, the traffic with peers, health and clusters."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, NamedTuple, Self

__all__ = [
    "EndpointSnapshot",
    "Health",
    "HealthStatus",
    "HubInfo",
    "NodeSnapshot",
    "NodeStats",
    "Presence",
    "SessionStats",
    "Tally",
    "Traffic",
]


@dataclass(frozen=True, slots=True)
class NodeStats:
    """What a node has done since it was created, and what it holds now."""

    sessions: int
    """Sessions now, including those without a connection or not yet used by their dialer."""
    suspended: int
    """How many of these have no connection."""
    peers: int
    half_open: int
    """Connections to this node that are in their handshake."""
    buffered_bytes: int
    """Bytes received and not yet taken by the application, plus 64 for each message, and 1,536 for
    each peer that has gone and whose messages still wait. Messages that handlers took in the last
    few milliseconds may still be included."""
    promised_bytes: int
    """Bytes that peers may still send with the credit they have, counted in the same way."""
    unacknowledged_bytes: int
    """Bytes accepted for sending and not yet acknowledged, counted in the same way; a broadcast
    message counts once for each recipient. These three together never exceed
    ``max_buffered_bytes``."""
    sessions_opened: int
    sessions_lost: int
    """Sessions that ended without an acknowledged close."""
    resumes: int
    handshakes_failed: int
    """Connections that did not become a session, in either direction."""
    handshakes_dropped: int
    """Connections to this node that were dropped because too many were in their handshake, or
    because the hub with the dialer's session was out of reach."""
    peers_denied: int
    """Connections with members that are banned or not allowed."""
    messages_sent: int
    """Messages that all sessions have accepted for sending, those that have ended included."""
    messages_received: int
    """Messages that all sessions have received in full."""
    bytes_sent: int
    """Total size of the messages in ``messages_sent``."""
    bytes_received: int
    """Total size of the messages in ``messages_received``."""


@dataclass(frozen=True, slots=True)
class SessionStats:
    """Totals since the session began."""

    messages_sent: int
    """Messages accepted for sending."""
    messages_received: int
    """Messages received in full, whatever has become of them since."""
    bytes_sent: int
    """Total size of the messages in ``messages_sent``."""
    bytes_received: int
    """Total size of the messages in ``messages_received``."""
    unacknowledged_bytes: int
    """Bytes accepted and not yet acknowledged: what the send window holds now, with overhead."""
    resumes: int
    """How often the session continued over a new connection."""


class Traffic(NamedTuple):
    """What a transport and an endpoint have exchanged."""

    bytes_sent: int = 0
    """Bytes of messages accepted for sending."""
    bytes_received: int = 0
    """Bytes of messages received."""
    last_activity: float | None = None
    """When a message was last sent or received, in seconds since the epoch; None if never."""
    messages_sent: int = 0
    """Messages accepted for sending."""
    messages_received: int = 0
    """Messages received."""
    resumes: int = 0
    """How often a session continued over a new connection."""


class HealthStatus(StrEnum):
    """How a peer answers. A `str`, too: ``status == "healthy"``."""

    HEALTHY = "healthy"
    """It answers."""
    SUSPECT = "suspect"
    """The last ``suspect_after`` probes were lost, or more."""
    UNHEALTHY = "unhealthy"
    """The last ``unhealthy_after`` probes were lost, or more."""
    UNKNOWN = "unknown"
    """It has no session, or there is no verdict yet."""


@dataclass(frozen=True, slots=True)
class Health:
    """What a `HealthMonitor` knows of a peer at one moment."""

    status: HealthStatus
    """The verdict."""
    rtt: float | None
    """Smoothed round-trip time in seconds, of the answered probes; None before the first."""
    rtt_deviation: float | None
    """Smoothed mean deviation from it, in seconds; None before the first answer."""
    loss: float | None
    """Share of the last 20 probes that were not answered in time, 0.0 to 1.0; of all probes while
    there were fewer; None before the first verdict on a probe."""


@dataclass(frozen=True, slots=True)
class HubInfo:
    """What one hub of a cluster knows of another."""

    name: str
    connected: bool
    """Whether the link has a connection. Without one it is suspended: what is sent waits."""
    rtt: float | None
    """The smoothed round-trip time of the link in seconds; None until it has been measured."""
    endpoints: int
    """How many endpoints are connected to that hub."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of a broadcast to a cluster."""

    accepted: int
    """Endpoints for which the message was accepted, at whatever hub."""
    refused: int
    """Endpoints for which it was not: they were full for too long, or had left."""
    unheard: tuple[str, ...]
    """The names of the hubs that did not say in time. They may have passed the message on."""


@dataclass(frozen=True, slots=True)
class Presence:
    """Where an endpoint of a cluster is now, and where it was before.

    It has joined if ``former_hub`` is None, has left if ``hub`` is None, and otherwise has moved.
    """

    endpoint_id: bytes
    hub: str | None
    """The name of the hub that it is connected to; None: to none any more."""
    former_hub: str | None
    """The name of the hub that it was connected to; None: to none."""


@dataclass(frozen=True, slots=True)
class EndpointSnapshot:
    """One endpoint of a node at one moment. Totals count from when the endpoint was added."""

    endpoint_id: bytes
    name: str | None
    """What its metadata have under ``name``, if that is a str; else None."""
    address: tuple[str, int] | None
    """Host and port, as given or as the peer was last seen at; None if unknown."""
    state: str
    """``"connected"``, ``"suspended"``, ``"connecting"``, ``"waiting"`` or ``"disconnected"``, as
    in `EndpointInfo`."""
    sessions: int
    """Its sessions now, including those without a connection."""
    rtt: float | None
    """Smoothed round-trip time in seconds; None while it is unknown."""
    inbox_messages: int
    """Messages that wait to be received with `EndpointManager.receive_from` and its like."""
    inbox_bytes: int
    """Their total size."""
    unacknowledged_bytes: int
    """Bytes accepted for sending and not yet acknowledged, with overhead."""
    messages_sent: int
    """Messages accepted for sending."""
    messages_received: int
    """Messages received in full."""
    bytes_sent: int
    """Total size of the messages in ``messages_sent``."""
    bytes_received: int
    """Total size of the messages in ``messages_received``."""
    resumes: int
    """How often one of its sessions continued over a new connection."""
    last_activity: float | None
    """When a message last came or went, in seconds since the epoch; None if never."""


@dataclass(frozen=True, slots=True)
class NodeSnapshot:
    """A node at one moment: `STTNode.snapshot` makes it. It holds no payload and no secret."""

    node_id: bytes
    time: float
    """When it was made, in seconds since the epoch."""
    uptime: float | None
    """Seconds since the node was started, by a clock that never goes back; None if it does not
    run."""
    address: tuple[str, int] | None
    """Where the node listens; None while it does not listen."""
    stats: NodeStats
    hub: str | None
    """The name of the node as a hub of its cluster; None if it is in no cluster."""
    hubs: tuple[HubInfo, ...]
    """The other hubs of the cluster."""
    endpoints: tuple[EndpointSnapshot, ...]
    """In order of addition."""

    def to_json(self) -> str:
        """Return it as one line of JSON: an object with these names as keys, ids in hexadecimal."""
        return json.dumps(_to_dict(self), default=_to_plain, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return the snapshot of which `to_json` made this line. Further keys are ignored.

        Raises:
            ValueError: It is none, or lacks something, as one of another version may.

        """
        try:
            found = json.loads(text)
            return cls(
                **_known(cls, found)
                | {
                    "node_id": bytes.fromhex(found["node_id"]),
                    "address": _to_address(found["address"]),
                    "stats": NodeStats(**_known(NodeStats, found["stats"])),
                    "hubs": tuple(HubInfo(**_known(HubInfo, hub)) for hub in found["hubs"]),
                    "endpoints": tuple(map(_to_endpoint, found["endpoints"])),
                }
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"this is no snapshot of a node: {error!r}") from error


def _known(cls: type[Any], found: dict[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in cls.__dataclass_fields__}


def _to_address(found: list[Any] | None) -> tuple[str, int] | None:
    return None if found is None else (str(found[0]), int(found[1]))


def _to_endpoint(found: dict[str, Any]) -> EndpointSnapshot:
    changed = {
        "endpoint_id": bytes.fromhex(found["endpoint_id"]),
        "address": _to_address(found["address"]),
    }
    return EndpointSnapshot(**_known(EndpointSnapshot, found) | changed)


def _to_dict(shown: Any) -> dict[str, Any]:
    # Not asdict, which copies each value deeply and takes five times as long.
    return {field.name: getattr(shown, field.name) for field in fields(shown)}


def _to_plain(value: Any) -> str | dict[str, Any]:
    return value.hex() if isinstance(value, bytes) else _to_dict(value)
