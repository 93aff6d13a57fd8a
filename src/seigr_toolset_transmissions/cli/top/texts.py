"""What `stt top` says of a node, of the other hubs, and of one endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..addresses import format_address
from ..amounts import bytes_text, count_text, rtt_text, span_text
from ..printable import printable_line
from ..tables import hub_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ... import HubInfo
    from ...seeing import RemoteMonitor
    from ..columns import Row

__all__ = ["endpoint_lines", "hub_lines", "node_lines"]

_BARS = " ▁▂▃▄▅▆▇█"
_MOST_HUBS = 4
_ID_DIGITS = 16


def node_lines(monitor: RemoteMonitor, width: int) -> Iterator[str]:
    """Return four lines about the node, the last two with the rates of the last minutes."""
    shot, stats = monitor.snapshot, monitor.snapshot.stats
    where = "not listening" if shot.address is None else format_address(shot.address)
    hub = "" if shot.hub is None else f"  hub {printable_line(shot.hub)}"
    up = span_text(shot.uptime or 0)
    yield f"node {shot.node_id.hex()[:_ID_DIGITS]}  {where}  up {up}{hub}"
    history = monitor.history
    rtt = rtt_text(history[-1].rtt if history else None)
    yield (
        f"sessions {stats.sessions:,}  suspended {stats.suspended:,}  peers {stats.peers:,}  "
        f"rtt {rtt}  waiting {bytes_text(stats.buffered_bytes)}  "
        f"unacked {bytes_text(stats.unacknowledged_bytes)}"
    )
    arrived = [sample.rates.bytes_received for sample in history]
    left = [sample.rates.bytes_sent for sample in history]
    messages = (0.0, 0.0)
    if history:
        messages = (history[-1].rates.messages_received, history[-1].rates.messages_sent)
    yield _rate_line("in", arrived, messages[0], width)
    yield _rate_line("out", left, messages[1], width)


def _rate_line(title: str, values: list[float], messages: float, width: int) -> str:
    now = bytes_text(values[-1] if values else 0.0)
    text = f"{title:<4}{now:>8}/s {count_text(messages):>7} msg/s  "
    shown = values[-max(0, width - len(text) - 14) :]
    most = max(shown, default=0.0)
    bars = "".join(_bar(value / most) if most else _BARS[0] for value in shown)
    return f"{text}{bars}{f'  max {bytes_text(most)}' if most else ''}"


def _bar(share: float) -> str:
    """Return a bar of this height; anything at all can be seen."""
    return _BARS[0 if share <= 0 else max(1, round(share * (len(_BARS) - 1)))]


def hub_lines(hubs: Sequence[HubInfo]) -> list[str]:
    """Return a few lines about the other hubs; none if there are none."""
    if not hubs:
        return []
    lines = list(hub_table(sorted(hubs, key=lambda hub: (hub.connected, hub.name))))
    more = len(lines) - 1 - _MOST_HUBS
    return lines if more <= 0 else [*lines[: 1 + _MOST_HUBS], f"and {more} more, with a link"]


def endpoint_lines(row: Row, now: float) -> Iterator[str]:
    """Return seven lines about an endpoint at this time."""
    endpoint, rates = row.endpoint, row.rates
    yield row.name
    yield f"id          {endpoint.endpoint_id.hex()}"
    address = "unknown" if endpoint.address is None else format_address(endpoint.address)
    yield (
        f"address     {printable_line(address)}, {printable_line(endpoint.state)}, "
        f"sessions {endpoint.sessions}, resumes {endpoint.resumes:,}"
    )
    last = endpoint.last_activity
    ago = "never" if last is None else f"{span_text(now - last)} ago"
    yield f"round trip  {rtt_text(endpoint.rtt)}, last message {ago}"
    yield _traffic(
        "received",
        rates.bytes_received,
        rates.messages_received,
        endpoint.bytes_received,
        endpoint.messages_received,
    )
    yield _traffic(
        "sent", rates.bytes_sent, rates.messages_sent, endpoint.bytes_sent, endpoint.messages_sent
    )
    yield (
        f"waiting     {endpoint.inbox_messages:,} messages for the program "
        f"({bytes_text(endpoint.inbox_bytes)}), {bytes_text(endpoint.unacknowledged_bytes)} not "
        "acknowledged"
    )


def _traffic(title: str, rate: float, count_rate: float, size: int, count: int) -> str:
    return (
        f"{title:<12}{bytes_text(rate)}/s, {count_text(count_rate)} messages/s, "
        f"so far {bytes_text(size)} in {count:,} messages"
    )
