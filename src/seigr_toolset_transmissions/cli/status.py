"""`stt status` and `stt top --once`: one page about a node in another process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from .addresses import format_address
from .amounts import bytes_text, count_text, rtt_text, span_text
from .columns import by_traffic, cells, fitting, rows_of
from .printable import printable_line
from .tables import hub_table
from .watching import figures_of, watched

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from .. import NodeSnapshot
    from ..seeing import RemoteMonitor, Sample
    from .columns import Row

__all__ = ["show_status"]

_MOST_ENDPOINTS = 10


async def show_status(
    path: Path, *, as_json: bool, width: int = 80, most: int | None = _MOST_ENDPOINTS
) -> None:
    """Print what the node at a monitor socket does and holds, after watching it for a second.

    Args:
        path: The path of the socket.
        as_json: Whether to print all figures as one object.
        width: How many columns the page may have.
        most: How many endpoints it lists, the busiest first; None: all.

    Raises:
        Failure: There is none, or it has ended.

    """
    async with watched(path) as monitor:
        if as_json:
            click.echo(json.dumps(figures_of(monitor)))
        else:
            click.echo("\n".join(_node_page(monitor, width, most)))


def _node_page(monitor: RemoteMonitor, width: int, most: int | None) -> Iterator[str]:
    shot, sample = monitor.snapshot, monitor.history[-1]
    yield from _facts(shot, sample)
    if shot.hubs:
        yield ""
        yield from hub_table(shot.hubs)
    if shot.endpoints:
        yield ""
        busiest = sorted(rows_of(monitor), key=by_traffic, reverse=True)
        yield from _endpoint_table(busiest[:most], width)
        if most is not None and len(busiest) > most:
            yield f"and {len(busiest) - most:,} more, less busy: `stt top --once` lists all"


def _facts(shot: NodeSnapshot, sample: Sample) -> Iterator[str]:
    stats, rates = shot.stats, sample.rates
    yield _fact("node", shot.node_id.hex())
    where = "it does not listen" if shot.address is None else f"at {format_address(shot.address)}"
    yield _fact("", where, f"up for {span_text(shot.uptime or 0)}")
    if shot.hub is not None:
        yield _fact("hub", printable_line(shot.hub), f"other hubs {len(shot.hubs)}")
    yield _fact(
        "sessions",
        f"{stats.sessions:,}",
        f"suspended {stats.suspended:,}",
        f"in handshake {stats.half_open:,}",
        f"peers {stats.peers:,}",
    )
    yield _fact(
        "received",
        f"{bytes_text(rates.bytes_received)}/s",
        f"{count_text(rates.messages_received)} messages/s",
        f"so far {bytes_text(stats.bytes_received)} in {stats.messages_received:,} messages",
    )
    yield _fact(
        "sent",
        f"{bytes_text(rates.bytes_sent)}/s",
        f"{count_text(rates.messages_sent)} messages/s",
        f"so far {bytes_text(stats.bytes_sent)} in {stats.messages_sent:,} messages",
    )
    yield _fact(
        "waiting",
        f"{bytes_text(stats.buffered_bytes)} for the program",
        f"{bytes_text(stats.unacknowledged_bytes)} not acknowledged",
    )
    if sample.rtt is None:
        yield _fact("round trip", "not measured yet")
    else:
        yield _fact(
            "round trip",
            f"median {rtt_text(sample.rtt)}",
            f"one endpoint in twenty above {rtt_text(sample.rtt_high)}",
        )
    yield _fact(
        "so far",
        f"sessions opened {stats.sessions_opened:,}",
        f"lost {stats.sessions_lost:,}",
        f"resumes {stats.resumes:,}",
    )
    yield _fact(
        "",
        f"handshakes failed {stats.handshakes_failed:,}",
        f"dropped {stats.handshakes_dropped:,}",
        f"peers denied {stats.peers_denied:,}",
    )


def _fact(title: str, *parts: str) -> str:
    return f"{title:<12}{', '.join(parts)}"


def _endpoint_table(rows: Sequence[Row], width: int) -> Iterator[str]:
    columns = fitting(width - 1)
    yield cells((column.title for column, _ in columns), columns)
    for row in rows:
        yield cells((column.text(row) for column, _ in columns), columns).rstrip()
