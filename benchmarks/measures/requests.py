"""Requests and replies: how many per second with many in flight, and how long a lone one takes.

A responder returns each request's own bytes. As soon as a reply has come and was checked, the next
request goes out, so that their number in flight stays the same.
"""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import roles
from benchmarks.processes import Child

from .base import Case, Key, Metric, Sample, Setting, size_text
from .pairs import contenders, make_job

if TYPE_CHECKING:
    from benchmarks.peers import Peer
    from benchmarks.peers.base import Job

__all__ = ["IN_FLIGHT", "SIZES", "Requests", "alone", "cpu", "rate"]

SIZES = (64, 1024)
IN_FLIGHT = {1: 3_000, 16: 30_000, 256: 60_000}
"""Requests in flight, and how many a fast peer makes."""
_QUICK = 5


def rate(size: int, in_flight: int) -> Metric:
    """Return the metric of requests per second while that many wait for their replies."""
    name = f"requests of {size_text(size, 'B')}"
    return Metric(name, in_flight, "/s", 0, more_is_better=True, of="in flight")


def cpu(size: int, in_flight: int) -> Metric:
    """Return the metric of both sides' processor time for one request and its reply."""
    name = f"CPU of a request of {size_text(size, 'B')}, both sides"
    return Metric(name, in_flight, "us", 1, of="in flight")


def alone(size: int) -> Metric:
    """Return the metric of the time from a request to its reply when there is no other."""
    return Metric("request, p50", size, "us", 0, of="B")


class Requests:
    """Requests from one process to another."""

    name = "requests"

    def cases(self, setting: Setting) -> list[Case]:
        """Return one case for each size, peer and loop."""
        return [
            Case(peer.name, f"requests of {size_text(size, 'B')}", partial(_measure, job, loop))
            for size in SIZES
            for peer, loop in contenders(setting, "requests")
            for job in (
                make_job(setting, peer, loop, size=size, stretches=_stretches(setting, peer)),
            )
        ]


def _stretches(setting: Setting, peer: Peer) -> tuple[tuple[int, int], ...]:
    less = _QUICK if setting.quick else 1
    return tuple(
        # A lone request takes about as long everywhere.
        (in_flight, int(most * (1 if in_flight == 1 else peer.pace)) // less)
        for in_flight, most in IN_FLIGHT.items()
        if in_flight == 1 or not peer.one_at_a_time
    )


def _measure(job: Job, loop: str) -> list[Sample]:
    values: dict[Metric, float] = {}
    with Child(roles.responder, job, limit=job.limit) as responder:
        address = responder.link.hear("address")
        with Child(roles.requester, job, address, limit=job.limit) as requester:
            for in_flight, count in job.stretches:
                requester.link.hear("warm")
                before = _cpu(responder)
                requester.link.tell("go")
                made: roles.Requests = requester.link.hear("requested")
                spent = _cpu(responder) - before + made.cpu
                if in_flight == 1:
                    values[alone(job.size)] = median(made.seconds) * 1e6
                values[rate(job.size, in_flight)] = count / made.elapsed
                values[cpu(job.size, in_flight)] = spent / count * 1e6
        responder.link.tell("close")
    return [Sample(Key(metric, loop, job.peer), value) for metric, value in values.items()]


def _cpu(responder: Child) -> float:
    """Return the processor time that the responder's process has used."""
    responder.link.tell("report")
    seconds: float = responder.link.hear("cpu")
    return seconds
