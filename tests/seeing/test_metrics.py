"""A node's metrics: what a scrape shows, who may scrape, and that the documents name them all."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
from typing import TYPE_CHECKING, Any, Never

import pytest

from helpers.documents import names, read, rows, section
from helpers.nodes import Nodes, in_virtual_time, live, memory_nodes, until
from seigr_toolset_transmissions.cluster import Cluster
from seigr_toolset_transmissions.errors import STTConnectError
from seigr_toolset_transmissions.seeing import NodeCollector, metrics
from seigr_toolset_transmissions.transports.memory import MemoryNetwork
from seigr_toolset_transmissions.transports.memory_bus import MemoryBus

if TYPE_CHECKING:
    from seigr_toolset_transmissions import STTNode

prometheus = pytest.importorskip("prometheus_client")
parse = pytest.importorskip("prometheus_client.parser").text_string_to_metric_families


def registry_of(node: STTNode, **options: Any) -> Any:
    registry = prometheus.CollectorRegistry()
    registry.register(NodeCollector(node, **options))
    return registry


def families(registry: Any) -> dict[str, Any]:
    """Return what Prometheus reads, by name: a counter has the suffix that its samples have."""
    text = prometheus.generate_latest(registry).decode()
    return {
        family.name + ("_total" if family.type == "counter" else ""): family
        for family in parse(text)
    }


def values(registry: Any) -> dict[str, float]:
    """Return the values of all metrics without labels, by name."""
    return {
        sample.name: sample.value
        for family in families(registry).values()
        for sample in family.samples
        if not sample.labels
    }


def by_endpoint(registry: Any, name: str) -> dict[str, float]:
    return {sample.labels["endpoint"]: sample.value for sample in families(registry)[name].samples}


@in_virtual_time
async def test_a_scrape_shows_what_the_node_has_done_and_holds() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        registry = registry_of(pair.listener)
        await pair.listener.endpoints.add_endpoint(bytes(32), ("192.0.2.1", 9000))
        for data in (b"one", b"three"):
            await pair.near.send(data)
        await pair.far.send(b"a reply")
        live(pair.near).cut("for the test")
        await pair.near.flush()
        await asyncio.sleep(5)
        shown, stats = values(registry), pair.listener.stats()
        assert shown["stt_uptime_seconds"] == pytest.approx(5, abs=1)
        assert (shown["stt_sessions"], shown["stt_peers"], shown["stt_endpoints"]) == (1, 1, 2)
        assert (shown["stt_received_messages_total"], shown["stt_received_bytes_total"]) == (2, 8)
        assert (shown["stt_sent_messages_total"], shown["stt_sent_bytes_total"]) == (1, 7)
        assert (shown["stt_sessions_opened_total"], shown["stt_resumes_total"]) == (1, 1)
        assert shown["stt_buffered_bytes"] == stats.buffered_bytes > 8
        assert shown["stt_promised_bytes"] == stats.promised_bytes > 0
        await pair.near.send(b"more")
        await pair.near.flush()
        assert values(registry)["stt_received_messages_total"] == 3


@in_virtual_time
async def test_a_session_without_a_connection_and_a_stranger_are_counted() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        await pair.listener.ban(nodes.make("carol").node_id)
        stranger = await nodes.start("carol")
        with pytest.raises(STTConnectError):
            await stranger.connect(*pair.listener.address or ("", 0))
        assert values(registry_of(pair.listener))["stt_peers_denied_total"] >= 1
        live(pair.near).cut("for the test")
        assert values(registry_of(pair.dialer))["stt_sessions_suspended"] == 1


@in_virtual_time
async def test_nothing_is_labelled_unless_asked_for() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        shown = families(registry_of(pair.listener))
        assert not [sample for family in shown.values() for sample in family.samples if sample[1]]
        assert all(family.documentation for family in shown.values())


@in_virtual_time
async def test_each_endpoint_is_shown_by_its_name_or_the_beginning_of_its_id() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        node, peer = pair.listener, pair.dialer.node_id
        node.endpoints.update_endpoint(peer, metadata={"name": 'k\n"1"', "pin": "1234"})
        await node.endpoints.add_endpoint(bytes(32), None)
        await pair.near.send(b"four")
        await pair.near.flush()
        registry = registry_of(node, per_endpoint=True)
        assert by_endpoint(registry, "stt_endpoint_connected") == {'k\n"1"': 1, "0" * 16: 0}
        assert by_endpoint(registry, "stt_endpoint_inbox_bytes")['k\n"1"'] == 4
        assert by_endpoint(registry, "stt_endpoint_received_messages_total")['k\n"1"'] == 1
        assert set(by_endpoint(registry, "stt_endpoint_round_trip_seconds")) <= {'k\n"1"'}
        assert {
            key
            for family in families(registry).values()
            for sample in family.samples
            for key in sample.labels
        } == {"endpoint"}
        assert b"1234" not in prometheus.generate_latest(registry)


@in_virtual_time
async def test_no_name_can_spoil_a_scrape() -> None:
    async with memory_nodes() as nodes:
        node = await nodes.start()
        given = ["same", "same", "\ud800", "x" * 1000, "", "01" * 8, None]
        for number, name in enumerate(given):
            endpoint_id = bytes([number]) * 32
            await node.endpoints.add_endpoint(endpoint_id, None, {"name": name})
        await node.endpoints.add_endpoint(bytes([1]) * 31 + b"!", None)  # "01" * 8 is taken
        registry = registry_of(node, per_endpoint=True)
        labels = by_endpoint(registry, "stt_endpoint_connected")
        assert set(labels) == {
            f"same {'00' * 8}",
            f"same {'01' * 8}",
            "?",
            "x" * 64,
            "04" * 8,
            "01" * 8,
            "06" * 8,
        }


@in_virtual_time
async def test_a_scrape_shows_a_limited_number_of_endpoints() -> None:
    async with memory_nodes() as nodes:
        node = await nodes.start()
        for number in range(1, 1002):
            await node.endpoints.add_endpoint(number.to_bytes(8, "big") + bytes(24), None)
        registry = registry_of(node, per_endpoint=True)
        shown = by_endpoint(registry, "stt_endpoint_connected")
        assert len(shown) == 1000
        assert f"{1001:016x}" not in shown
        assert values(registry)["stt_endpoints"] == 1001


@in_virtual_time
async def test_a_snapshot_is_taken_once_for_each_scrape_and_at_no_other_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        taken = []
        snapshot = pair.listener.snapshot

        def note() -> Any:
            taken.append(1)
            return snapshot()

        monkeypatch.setattr(pair.listener, "snapshot", note)
        registry = prometheus.CollectorRegistry(auto_describe=True)
        registry.register(NodeCollector(pair.listener, per_endpoint=True))
        await pair.near.send(b"a message")
        await pair.near.flush()
        await asyncio.sleep(3600)
        assert taken == []
        prometheus.generate_latest(registry)
        assert taken == [1]


@in_virtual_time
async def test_a_node_that_does_not_run_keeps_its_totals() -> None:
    async with memory_nodes() as nodes:
        pair = await nodes.pair()
        registry = registry_of(pair.dialer)
        await pair.near.send(b"four")
        await pair.near.flush()
        await pair.dialer.stop()
        shown = values(registry)
        assert shown["stt_sent_bytes_total"] == 4
        assert shown["stt_sessions"] == 0
        assert "stt_uptime_seconds" not in shown


def test_a_node_whose_loop_was_closed_can_be_scraped() -> None:
    async def run() -> Any:
        async with memory_nodes() as nodes:
            return registry_of(await nodes.start())

    assert values(asyncio.run(run()))["stt_sessions"] == 0


@in_virtual_time
async def test_hubs_are_counted() -> None:
    bus = MemoryBus()
    async with memory_nodes() as nodes:
        hubs = [
            await nodes.start("bob", cluster=Cluster(bus, name=name)) for name in ("one", "two")
        ]
        await until(lambda: all(hub.cluster.hubs for hub in hubs))
        shown = values(registry_of(hubs[0]))
        assert (shown["stt_hubs"], shown["stt_hubs_connected"]) == (1, 1)


async def test_another_thread_may_scrape_while_the_node_runs() -> None:
    asyncio.get_running_loop().set_debug(True)  # so that a snapshot in another thread raises
    async with Nodes(MemoryNetwork()) as nodes:
        pair = await nodes.pair()
        registry = registry_of(pair.listener, per_endpoint=True)
        shown = await asyncio.to_thread(values, registry)
        assert shown["stt_sessions"] == 1


async def test_a_scrape_fails_while_the_event_loop_stands_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics, "_PATIENCE", 0.01)
    async with Nodes(MemoryNetwork()) as nodes:
        registry = registry_of(await nodes.start())
        failures: list[BaseException] = []

        def scrape() -> None:
            try:
                prometheus.generate_latest(registry)
            except TimeoutError as error:
                failures.append(error)

        thread = threading.Thread(target=scrape)
        thread.start()
        thread.join()  # which holds up the loop
        assert "event loop has not answered" in str(failures[0])
        assert "stt_uptime_seconds" in values(registry)


@in_virtual_time
async def test_a_registry_refuses_a_second_node() -> None:
    async with memory_nodes() as nodes:
        registry = registry_of(nodes.make("alice"))
        with pytest.raises(ValueError, match="stt_sessions"):
            registry.register(NodeCollector(nodes.make("bob")))


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
    node: Never = None  # type: ignore[assignment]
    with pytest.raises(ModuleNotFoundError, match=r"seigr-toolset-transmissions\[metrics\]"):
        NodeCollector(node)


# ------------------------------------------------------------------------ the documents


def shown_by_a_node() -> dict[str, str]:
    """Return the types of all metrics, by name."""
    registry = registry_of(memory_nodes().make("alice"), per_endpoint=True)
    return {name: family.type for name, family in families(registry).items()}


def test_the_documents_list_every_metric_and_its_type() -> None:
    page = read("docs/monitoring.md")
    listed = [*rows(section(page, "Metrics")), *rows(section(page, "Metrics of each endpoint"))]
    documented = {name: row[1] for row in listed for name in names(row[0])}
    assert documented == shown_by_a_node()
    assert len(documented) == len(listed)


def test_the_dashboard_asks_only_for_metrics_that_exist() -> None:
    dashboard = json.loads(read("docs/grafana-dashboard.json"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [item["query"] for item in dashboard["templating"]["list"][1:]]
    asked = [name for query in queries for name in re.findall(r"\bstt_\w+", query)]
    assert len(asked) >= len(queries) > 10
    assert set(asked) <= set(shown_by_a_node())
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(places)
