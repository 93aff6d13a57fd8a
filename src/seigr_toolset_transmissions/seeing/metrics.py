"""`NodeCollector`: the figures of a node as metrics for Prometheus.

It needs the package prometheus_client (the extra ``metrics``), and imports it only when you make a
`NodeCollector`.
"""

from __future__ import annotations

import asyncio
import importlib
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from ..foundation.ids import short
from ..foundation.threads import run_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..node import STTNode
    from ..stats import EndpointSnapshot, NodeSnapshot

__all__ = ["NodeCollector"]

_MOST_ENDPOINTS = 1000
"""How many endpoints have metrics of their own, so that a scrape stays small."""

_MOST_LETTERS = 64
"""How much of an endpoint's name its label shows."""

_PATIENCE = 5.0
"""Seconds that a scrape in another thread waits for the event loop: half of what Prometheus
gives it."""


class NodeCollector:
    """Shows a node to Prometheus: register it in a registry of prometheus_client.

    ::

        metrics = CollectorRegistry()
        metrics.register(NodeCollector(node))

    Each scrape of the registry takes one `STTNode.snapshot`; between scrapes, nothing is done. You
    may scrape in any thread: the snapshot is taken in the thread of the node's event loop.
    ``docs/monitoring.md`` lists the metrics. A registry can hold one node.

    Args:
        node: The node. It need not run: its totals are kept, and its uptime is left out.
        per_endpoint: Whether to add metrics of each endpoint, with a label ``endpoint``: what its
            metadata have under ``name``, up to 64 characters, or the first 16 digits of its id.
            Endpoints with the same name have both. At most 1,000 endpoints are shown, in order of
            addition.

    Raises:
        ModuleNotFoundError: prometheus_client is not installed.

    """

    def __init__(self, node: STTNode, *, per_endpoint: bool = False) -> None:
        try:
            core = importlib.import_module("prometheus_client.core")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "metrics need the package prometheus_client: "
                "pip install 'seigr-toolset-transmissions[metrics]'",
                name=error.name,
            ) from error
        self._kinds: tuple[Any, Any] = (core.GaugeMetricFamily, core.CounterMetricFamily)
        self._node = node
        self._per_endpoint = per_endpoint

    def describe(self) -> Iterator[Any]:
        """Return the metrics without their values, for the registry."""
        for name, text, _ in _OF_NODE:
            yield self._family(name, text)
        if self._per_endpoint:
            for name, text, _ in _OF_ENDPOINT:
                yield self._family(name, text, "endpoint")

    def collect(self) -> Iterator[Any]:
        """Return the metrics as they are now, for the registry.

        Raises:
            TimeoutError: You call this in another thread than the node's, and its event loop has
                not answered for 5 seconds.
            RuntimeError: This is a forked child, and the node is its parent's.

        """
        shot = self._snapshot()
        for name, text, read in _OF_NODE:
            family = self._family(name, text)
            if (value := read(shot)) is not None:
                family.add_metric((), value)
            yield family
        if self._per_endpoint:
            labelled = _labelled(shot.endpoints)
            for name, text, read_one in _OF_ENDPOINT:
                family = self._family(name, text, "endpoint")
                for label, endpoint in labelled.items():
                    if (value := read_one(endpoint)) is not None:
                        family.add_metric((label,), value)
                yield family

    def _family(self, name: str, text: str, *labels: str) -> Any:
        return self._kinds[name.endswith("_total")](name, text, labels=labels)

    def _snapshot(self) -> NodeSnapshot:
        loop = self._node.events.loop
        if loop is None or not loop.is_running() or _running_loop() is loop:
            return self._node.snapshot()
        # Another thread must not read what the loop's thread changes meanwhile.
        taken = run_in(
            loop,
            self._take(),
            unknown="the node has no event loop",
            closed="the node's event loop was closed",
        )
        try:
            return taken.result(_PATIENCE)
        except TimeoutError:
            taken.cancel()
            raise TimeoutError(
                f"the node's event loop has not answered for {_PATIENCE:g} seconds: something "
                "holds it up"
            ) from None

    async def _take(self) -> NodeSnapshot:
        return self._node.snapshot()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _labelled(endpoints: tuple[EndpointSnapshot, ...]) -> dict[str, EndpointSnapshot]:
    """Return the endpoints that have metrics of their own, by their labels."""
    shown = endpoints[:_MOST_ENDPOINTS]
    names = Counter(_name_of(endpoint) for endpoint in shown)
    labelled: dict[str, EndpointSnapshot] = {}
    for endpoint in shown:
        name, digits = _name_of(endpoint), short(endpoint.endpoint_id)
        label = name or digits if names[name] == 1 or not name else f"{name} {digits}"
        # Whatever names there are, no label appears twice: Prometheus would refuse the scrape.
        labelled.setdefault(label, endpoint)
    return labelled


def _name_of(endpoint: EndpointSnapshot) -> str:
    # Half a surrogate pair, which JSON can bring, cannot be written as UTF-8.
    return (endpoint.name or "")[:_MOST_LETTERS].encode("utf-8", "replace").decode()


class _OfNode(NamedTuple):
    """A metric of the node: a counter if its name ends in ``_total``, else a gauge."""

    name: str
    text: str
    read: Callable[[NodeSnapshot], float | None]


class _OfEndpoint(NamedTuple):
    """A metric of each endpoint; likewise."""

    name: str
    text: str
    read: Callable[[EndpointSnapshot], float | None]


_OF_NODE = (
    _OfNode("stt_uptime_seconds", "Time since the node was started.", lambda shot: shot.uptime),
    _OfNode("stt_sessions", "Sessions.", lambda shot: shot.stats.sessions),
    _OfNode(
        "stt_sessions_suspended",
        "Sessions without a connection.",
        lambda shot: shot.stats.suspended,
    ),
    _OfNode("stt_peers", "Peers with a session.", lambda shot: shot.stats.peers),
    _OfNode(
        "stt_endpoints",
        "Endpoints, connected or not.",
        lambda shot: len(shot.endpoints),
    ),
    _OfNode(
        "stt_handshakes_open",
        "Connections to the node that are in their handshake.",
        lambda shot: shot.stats.half_open,
    ),
    _OfNode(
        "stt_buffered_bytes",
        "Received and not yet taken by the application, with overhead.",
        lambda shot: shot.stats.buffered_bytes,
    ),
    _OfNode(
        "stt_promised_bytes",
        "What peers may still send with the credit they have, with overhead.",
        lambda shot: shot.stats.promised_bytes,
    ),
    _OfNode(
        "stt_unacknowledged_bytes",
        "Accepted for sending and not yet acknowledged, with overhead.",
        lambda shot: shot.stats.unacknowledged_bytes,
    ),
    _OfNode("stt_hubs", "Other hubs of the cluster.", lambda shot: len(shot.hubs)),
    _OfNode(
        "stt_hubs_connected",
        "Other hubs of the cluster to which there is a connection.",
        lambda shot: sum(hub.connected for hub in shot.hubs),
    ),
    _OfNode(
        "stt_sessions_opened_total",
        "Sessions that were opened.",
        lambda shot: shot.stats.sessions_opened,
    ),
    _OfNode(
        "stt_sessions_lost_total",
        "Sessions that ended without an acknowledged close.",
        lambda shot: shot.stats.sessions_lost,
    ),
    _OfNode(
        "stt_resumes_total",
        "How often a session continued over a new connection.",
        lambda shot: shot.stats.resumes,
    ),
    _OfNode(
        "stt_handshakes_failed_total",
        "Connections that did not become a session, in either direction.",
        lambda shot: shot.stats.handshakes_failed,
    ),
    _OfNode(
        "stt_handshakes_dropped_total",
        "Connections that were dropped because too many were in their handshake, "
        "or because the hub with the dialer's session was out of reach.",
        lambda shot: shot.stats.handshakes_dropped,
    ),
    _OfNode(
        "stt_peers_denied_total",
        "Connections with members that are banned or not allowed.",
        lambda shot: shot.stats.peers_denied,
    ),
    _OfNode(
        "stt_sent_messages_total",
        "Messages accepted for sending.",
        lambda shot: shot.stats.messages_sent,
    ),
    _OfNode(
        "stt_received_messages_total",
        "Messages received in full.",
        lambda shot: shot.stats.messages_received,
    ),
    _OfNode(
        "stt_sent_bytes_total",
        "Size of the messages accepted for sending.",
        lambda shot: shot.stats.bytes_sent,
    ),
    _OfNode(
        "stt_received_bytes_total",
        "Size of the messages received in full.",
        lambda shot: shot.stats.bytes_received,
    ),
)

_OF_ENDPOINT = (
    _OfEndpoint(
        "stt_endpoint_connected",
        "1 if the endpoint is connected, else 0.",
        lambda endpoint: endpoint.state == "connected",
    ),
    _OfEndpoint(
        "stt_endpoint_round_trip_seconds",
        "Smoothed round-trip time.",
        lambda endpoint: endpoint.rtt,
    ),
    _OfEndpoint(
        "stt_endpoint_inbox_messages",
        "Messages that wait to be received.",
        lambda endpoint: endpoint.inbox_messages,
    ),
    _OfEndpoint(
        "stt_endpoint_inbox_bytes",
        "Size of the messages that wait to be received.",
        lambda endpoint: endpoint.inbox_bytes,
    ),
    _OfEndpoint(
        "stt_endpoint_unacknowledged_bytes",
        "Accepted for sending and not yet acknowledged, with overhead.",
        lambda endpoint: endpoint.unacknowledged_bytes,
    ),
    _OfEndpoint(
        "stt_endpoint_resumes_total",
        "How often one of its sessions continued over a new connection.",
        lambda endpoint: endpoint.resumes,
    ),
    _OfEndpoint(
        "stt_endpoint_sent_messages_total",
        "Messages accepted for sending.",
        lambda endpoint: endpoint.messages_sent,
    ),
    _OfEndpoint(
        "stt_endpoint_received_messages_total",
        "Messages received in full.",
        lambda endpoint: endpoint.messages_received,
    ),
    _OfEndpoint(
        "stt_endpoint_sent_bytes_total",
        "Size of the messages accepted for sending.",
        lambda endpoint: endpoint.bytes_sent,
    ),
    _OfEndpoint(
        "stt_endpoint_received_bytes_total",
        "Size of the messages received in full.",
        lambda endpoint: endpoint.bytes_received,
    ),
)
