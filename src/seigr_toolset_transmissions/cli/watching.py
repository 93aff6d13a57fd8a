"""A node in another process, as `stt status` and `stt top` get to see it."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from ..seeing import RemoteMonitor
from .failures import Failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

__all__ = ["connected", "figures_of", "watched"]


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[RemoteMonitor]:
    """Watch the node that is shown at a monitor socket.

    Raises:
        Failure: There is none, or it has ended.

    """
    try:
        async with RemoteMonitor(path) as monitor:
            yield monitor
    except ConnectionError as error:
        raise Failure(f"{error}{_others(path)}") from error


@asynccontextmanager
async def watched(path: Path) -> AsyncIterator[RemoteMonitor]:
    """Watch a node, and wait until its rates are known.

    Raises:
        Failure: There is none, or it has ended.

    """
    async with connected(path) as monitor:
        async for _ in monitor.samples():
            break
        else:
            raise Failure(f"the node at {path} is gone: {monitor.ended}")
        yield monitor


def _others(path: Path) -> str:
    """Say at which paths near by there may be workers of `stt serve`."""
    found = sorted(path.parent.glob(f"{path.name}.[0-9]*"))
    return f" (workers show theirs at {' and '.join(map(str, found))})" if found else ""


def figures_of(monitor: RemoteMonitor) -> dict[str, Any]:
    """Return all that is known now: the keys of a snapshot, with rates and round trips."""
    sample, rates = monitor.history[-1], monitor.endpoint_rates()
    figures: dict[str, Any] = json.loads(monitor.snapshot.to_json())
    for shown, endpoint in zip(figures["endpoints"], monitor.snapshot.endpoints, strict=True):
        shown["rates"] = rates[endpoint.endpoint_id]._asdict()
    return figures | {
        "rates": sample.rates._asdict(),
        "rtt": sample.rtt,
        "rtt_high": sample.rtt_high,
    }
