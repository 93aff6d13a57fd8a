"""`stt ping`: round trips through a session."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

import click

from .. import NodeConfig, Session, SessionState
from .addresses import format_address, short_id
from .converse import Ends
from .failures import Failure
from .nodes import connect_to, running

if TYPE_CHECKING:
    from .seeds import Seeds

__all__ = ["ping_peer", "summary"]

_PATIENCE_SECONDS = 5.0
"""An answer that takes longer counts as lost."""
_SPIN_SECONDS = 0.005
_LOOK_SECONDS = 0.0005


async def ping_peer(
    seeds: Seeds,
    config: NodeConfig,
    address: tuple[str, int],
    *,
    count: int,
    interval: float,
    expect: bytes | None,
) -> None:
    """Measure ``count`` round trips (0: until cancelled), one every ``interval`` seconds.

    Raises:
        Failure: Not all of them were answered, or the session ended before its time.

    """
    times: list[float] = []
    asked = 0
    async with running(seeds, config) as node:
        ends = Ends(node)
        session = await connect_to(node, address, expect=expect, seeds=seeds)
        peer = f"{short_id(session.peer_node_id)} at {format_address(address)}"
        loop = asyncio.get_running_loop()
        try:
            while not count or asked < count:
                next_time = loop.time() + interval
                asked += 1
                sample = await _round_trip(session)
                if sample is None:
                    click.echo(f"no answer from {peer}: seq={asked}")
                else:
                    times.append(sample)
                    click.echo(f"answer from {peer}: seq={asked} time={sample * 1000:.3f} ms")
                if session.state is SessionState.CLOSED:
                    break
                if asked != count:
                    await asyncio.sleep(next_time - loop.time())
        finally:
            click.echo(summary(asked, times))
        if session.state is SessionState.CLOSED:
            await ends.of(session.session_id)
            raise Failure("the peer has closed the session")
        await session.close()
    if len(times) < asked:
        raise Failure(f"{asked - len(times)} of {asked} pings were not answered")


async def _round_trip(session: Session) -> float | None:
    """Return the seconds that one ping takes; None if it was not answered over this connection.

    The session tells a smoothed time only; a new answer shows in that it changes. It is looked for
    in every turn of the loop at first, lest short round trips seem longer than they are.
    """
    loop = asyncio.get_running_loop()
    before = session.rtt
    began = loop.time()
    session.ping()
    while session.rtt == before:
        waited = loop.time() - began
        if waited > _PATIENCE_SECONDS or session.state is not SessionState.OPEN:
            return None
        await asyncio.sleep(0 if waited < _SPIN_SECONDS else _LOOK_SECONDS)
    return loop.time() - began


def summary(asked: int, times: list[float]) -> str:
    """Return one line about all round trips, whose times are in seconds."""
    line = f"{asked} asked, {len(times)} answered"
    if not times:
        return line
    mean = math.fsum(times) / len(times)
    figures = "/".join(f"{1000 * value:.3f}" for value in (min(times), mean, max(times)))
    return f"{line}; min/avg/max = {figures} ms"
