"""Whether the peer of a connection still lives: when to ask, and when to give up."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..config import NodeConfig
    from ..protocol.machine import SessionMachine
    from .connection import Connection

__all__ = ["look_for_life"]


def look_for_life(
    connection: Connection, machine: SessionMachine, config: NodeConfig, now: float
) -> str | None:
    """Ask the peer for a sign of life if it is time to.

    Returns:
        Why the connection counts as dead; None while it does not.

    """
    stalled, asked, heard = connection.stalled(now), machine.ping_time, machine.last_received
    if stalled is not None:
        if now - max(stalled, machine.last_ack) >= config.write_timeout:
            return "the connection accepted no bytes in time"
        heard = max(heard, stalled)  # a PING waits behind what goes out slowly
    if asked is not None:
        silent = now - max(asked, heard) >= config.ping_timeout
        return "the peer gave no sign of life" if silent else None
    # Spread over a fifth of the interval, so that many sessions do not ping at once.
    jitter = 0.9 + 0.2 * machine.session_id[0] / 255
    # Even while the peer is heard, to measure the round trip; but not behind bytes that are stuck.
    since = machine.asked_at if stalled is None else heard
    if now - since >= config.ping_interval * jitter:
        machine.ping(now)
        connection.flush()
    return None
