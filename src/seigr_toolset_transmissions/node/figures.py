"""A node in figures: what it has done and holds, and how it is at one moment."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING

from ..stats import EndpointSnapshot, NodeSnapshot, NodeStats

if TYPE_CHECKING:
    from ..endpoints.endpoint import Endpoint
    from .life import Life

__all__ = ["snapshot_of", "stats_of"]


def stats_of(life: Life) -> NodeStats:
    """Return what a node has done since it was made, and holds now."""
    counters, registry = life.runtime.counters, life.registry
    sent, received = counters.messages_sent, counters.messages_received
    size, came = counters.bytes_sent, counters.bytes_received
    for session in registry.sessions.values():  # one loop, without objects: there may be thousands
        machine, outbox = session.machine, session.machine.outbox
        sent += outbox.messages_sent
        received += machine.messages_received
        size += outbox.bytes_sent
        came += machine.bytes_received
    return NodeStats(
        sessions=len(registry.sessions) + len(registry.unconfirmed),
        suspended=registry.suspended_count(),
        peers=len(registry.peers),
        half_open=len(life.acceptor.answering),
        buffered_bytes=registry.held_bytes(),
        promised_bytes=registry.promised_bytes(),
        unacknowledged_bytes=registry.unacknowledged_bytes(),
        sessions_opened=counters.sessions_opened,
        sessions_lost=counters.sessions_lost,
        resumes=counters.resumes,
        handshakes_failed=counters.handshakes_failed,
        handshakes_dropped=counters.handshakes_dropped,
        peers_denied=counters.peers_denied,
        messages_sent=sent,
        messages_received=received,
        bytes_sent=size,
        bytes_received=came,
    )


def snapshot_of(life: Life, node_id: bytes) -> NodeSnapshot:
    """Return a node, whose id this is, as it is now."""
    runtime, cluster = life.runtime, life.cluster
    return NodeSnapshot(
        node_id=node_id,
        time=time(),
        uptime=runtime.loop.time() - runtime.began if runtime.running else None,
        address=life.address,
        stats=stats_of(life),
        hub=None if cluster is None else cluster.name,
        hubs=() if cluster is None else tuple(cluster.hubs),
        endpoints=tuple(_snapshot_of(life, endpoint) for endpoint in runtime.endpoints.known()),
    )


def _snapshot_of(life: Life, endpoint: Endpoint) -> EndpointSnapshot:
    endpoint_id, name = endpoint.endpoint_id, endpoint.metadata.get("name")
    status = life.keeper.status(endpoint_id)
    peer = life.registry.peers.get(endpoint_id)
    sessions = () if peer is None else peer.sessions
    total = endpoint.total([session.traffic for session in sessions])
    return EndpointSnapshot(
        endpoint_id=endpoint_id,
        name=name if isinstance(name, str) else None,
        address=endpoint.address,
        state=status["state"],
        sessions=len(sessions),
        rtt=status["rtt"],
        inbox_messages=len(endpoint.messages or ()),
        inbox_bytes=endpoint.size,
        unacknowledged_bytes=sum([session.machine.outbox.unacked_cost for session in sessions]),
        messages_sent=total.messages_sent,
        messages_received=total.messages_received,
        bytes_sent=total.bytes_sent,
        bytes_received=total.bytes_received,
        resumes=total.resumes,
        last_activity=total.last_activity,
    )
