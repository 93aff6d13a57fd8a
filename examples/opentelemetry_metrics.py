"""Export the figures of a node through OpenTelemetry; needs `pip install opentelemetry-sdk`."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    MetricsData,
    PeriodicExportingMetricReader,
)

from seigr_toolset_transmissions import STTNode, generate_seed
from seigr_toolset_transmissions.seeing import Monitor

GAUGES = {"sessions": "{session}", "suspended": "{session}", "unacknowledged_bytes": "By"}
COUNTERS = {
    "sessions_opened": "{session}",
    "sessions_lost": "{session}",
    "messages_sent": "{message}",
    "messages_received": "{message}",
    "bytes_sent": "By",
    "bytes_received": "By",
}
"""What is exported of the counters of a node (`NodeStats`), and their units."""


def observe(monitor: Monitor, meter: Meter) -> None:
    """Let OpenTelemetry read the monitor's latest snapshot, in whatever thread it exports."""

    def reading(figure: str) -> Callable[[CallbackOptions], Iterator[Observation]]:
        def read(_: CallbackOptions) -> Iterator[Observation]:
            yield Observation(getattr(monitor.snapshot.stats, figure))

        return read

    for figure, unit in GAUGES.items():
        meter.create_observable_gauge(f"stt.{figure}", [reading(figure)], unit)
    for figure, unit in COUNTERS.items():
        meter.create_observable_counter(f"stt.{figure}", [reading(figure)], unit)


def lines(metrics: MetricsData) -> str:
    """Write what is exported in few words: your program exports to a collector instead."""
    found: list[Any] = [
        metric
        for resource in metrics.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]
    return "".join(f"{each.name} = {each.data.data_points[0].value}\n" for each in found)


async def main() -> None:
    shared_seed = generate_seed()
    hub, peer = STTNode(generate_seed(), shared_seed), STTNode(generate_seed(), shared_seed)
    # With opentelemetry-exporter-otlp installed, use its OTLPMetricExporter here.
    reader = PeriodicExportingMetricReader(ConsoleMetricExporter(formatter=lines))
    provider = MeterProvider([reader])
    async with hub.listening(), peer, Monitor(hub) as monitor:
        observe(monitor, provider.get_meter("seigr_toolset_transmissions"))
        session = await peer.connect(*(hub.address or ("", 0)), expect=hub.node_id)
        for number in range(3):
            await session.send(f"message {number}".encode())
        await session.flush()
        async for sample in monitor.samples():
            if sample.stats.messages_received == 3:
                break
        await asyncio.to_thread(provider.shutdown)  # exports once more


asyncio.run(main())
