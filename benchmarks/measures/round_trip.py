"""Round trip: one message there and back; the next one follows the answer."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from benchmarks import roles
from benchmarks.processes import Child

from .base import Case, Key, Metric, Sample, Setting
from .pairs import contenders, make_job

if TYPE_CHECKING:
    from benchmarks.peers.base import Job

__all__ = ["MEDIAN", "SLOWEST", "RoundTrip"]

_CALLS = 5_000
_QUICK_CALLS = 1_500

MEDIAN = Metric("round trip of 64 B, p50", unit="us", digits=0)
SLOWEST = Metric("round trip of 64 B, p99", unit="us", digits=0)


class RoundTrip:
    """Questions and answers."""

    name = "roundtrip"

    def cases(self, setting: Setting) -> list[Case]:
        """Return one case for each peer and loop."""
        count = _QUICK_CALLS if setting.quick else _CALLS
        return [
            Case(
                peer.name,
                "round trip",
                partial(_measure, make_job(setting, peer, loop, count=count), loop),
            )
            for peer, loop in contenders(setting, "roundtrip")
        ]


def _measure(job: Job, loop: str) -> list[Sample]:
    with Child(roles.echo, job, limit=job.limit) as echo:
        address = echo.link.hear("address")
        with Child(roles.caller, job, address, limit=job.limit) as caller:
            calls: roles.Calls = caller.link.hear("called")
        echo.link.tell("close")
    ordered = sorted(calls.seconds)
    return [
        Sample(Key(MEDIAN, loop, job.peer), ordered[len(ordered) // 2] * 1e6),
        Sample(Key(SLOWEST, loop, job.peer), ordered[len(ordered) * 99 // 100] * 1e6),
    ]
