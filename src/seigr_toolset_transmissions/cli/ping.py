"""`stt ping`: round trips through a session."""

from __future__ import annotations

import asyncio
import json
import statistics
from typing import TYPE_CHECKING, Any

import click

from .. import HealthMonitor, NodeConfig, Session, SessionState, STTNode
from .addresses import format_address, short_id
from .converse import Ends
from .failures import Failure
from .keyboard import unechoed
from .nodes import connect_to, running

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .seeds import Seeds

__all__ = ["figures_of", "ping_peer", "summary"]

_PATIENCE_SECONDS = 5.0
"""An answer that takes longer counts as lost."""
_FIGURES = ("min", "avg", "max", "mdev")
"""As ping(8) has them; the last is the standard deviation."""


async def ping_peer(
    seeds: Seeds,
    config: NodeConfig,
    address: tuple[str, int],
    *,
    count: int,
    interval: float,
    expect: bytes | None,
    as_json: bool,
) -> None:
    """Measure ``count`` round trips (0: until cancelled), one every ``interval`` seconds.

    A ping that is under way when this is cancelled is left out of the statistics.

    Raises:
        Failure: Not all of them were answered, or the session ended before its time.

    """
    measured: list[float | None] = []
    async with running(seeds, config) as node:
        ends = Ends(node)
        session = await connect_to(node, address, expect=expect, seeds=seeds)
        peer = f"{short_id(session.peer_node_id)} at {format_address(address)}"
        loop = asyncio.get_running_loop()
        try:
            with unechoed():  # the summary begins a line, and does not follow a ^C
                while not count or len(measured) < count:
                    next_time = loop.time() + interval
                    seconds = await _round_trip(node, session)
                    measured.append(seconds)
                    if not as_json:
                        _show(peer, len(measured), seconds)
                    if session.state is SessionState.CLOSED:
                        break
                    if len(measured) != count:
                        await asyncio.sleep(next_time - loop.time())
        finally:
            facts = figures_of(measured)
            if as_json:
                where = format_address(address)
                facts = {"peer_node_id": session.peer_node_id.hex(), "address": where, **facts}
                click.echo(json.dumps(facts))
            else:
                click.echo(summary(facts))
        if session.state is SessionState.CLOSED:
            await ends.of(session.session_id)
            raise Failure("the peer has closed the session")
        await session.close()
    if None in measured:
        raise Failure(f"{measured.count(None)} of {len(measured)} pings were not answered")


def _show(peer: str, number: int, seconds: float | None) -> None:
    if seconds is None:
        click.echo(f"no answer from {peer}: seq={number}")
    else:
        click.echo(f"answer from {peer}: seq={number} time={1000 * seconds:.3f} ms")


async def _round_trip(node: STTNode, session: Session) -> float | None:
    """Return the seconds that one ping takes; None if it was not answered over this connection.

    A health monitor probes a peer as soon as it begins to watch it, and its first figure is the
    round trip of that probe.
    """
    over = ("health_changed", "session_suspended", "session_closed")
    async with HealthMonitor(node, _PATIENCE_SECONDS, _PATIENCE_SECONDS) as monitor:
        if session.state is not SessionState.CLOSED:
            await node.events.wait_for(over)
        return monitor.health(session.peer_node_id).rtt


def figures_of(measured: Sequence[float | None]) -> dict[str, Any]:
    """Return what is known of all pings. Milliseconds have three digits, as in the text."""
    times = [1000 * seconds for seconds in measured if seconds is not None]
    figures: dict[str, float | None] = dict.fromkeys(f"{name}_ms" for name in _FIGURES)
    if times:
        values = (min(times), statistics.fmean(times), max(times), statistics.pstdev(times))
        figures = dict(zip(figures, (round(value, 3) for value in values), strict=True))
    return {
        "transmitted": len(measured),
        "received": len(times),
        "loss": measured.count(None) / len(measured) if measured else 0.0,
        **figures,
        "times_ms": [None if one is None else round(1000 * one, 3) for one in measured],
    }


def summary(facts: dict[str, Any]) -> str:
    """Return the statistics as ping(8) prints them."""
    lost = f"{100 * facts['loss']:g}% loss"
    counts = f"{facts['transmitted']} transmitted, {facts['received']} received, {lost}"
    if not facts["received"]:
        return counts
    figures = "/".join(f"{facts[f'{name}_ms']:.3f}" for name in _FIGURES)
    return f"{counts}\n{'/'.join(_FIGURES)} = {figures} ms"
