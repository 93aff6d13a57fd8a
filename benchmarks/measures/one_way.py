"""One-way throughput: from the first send to the last receipt, in two processes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from benchmarks import roles
from benchmarks.peers.base import BATCHES, HANDLER, ITERATOR, RECEIVE
from benchmarks.processes import Child

from .base import Case, Key, Metric, Sample, Setting
from .pairs import contenders, make_job

if TYPE_CHECKING:
    from benchmarks.peers.base import Job

__all__ = ["SIZES", "OneWay", "batches", "cpu", "iterated", "pull", "push"]

SIZES = {64: 500_000, 1024: 200_000, 64 * 1024: 8_000, 1024 * 1024: 500}
"""Message sizes in bytes, and how many messages a fast peer sends."""
_LARGE = 16 * 1024
"""From this size on, all peers send the same number: bytes limit them, not messages."""
_QUICK = 5


def _metric(name: str, size: int) -> Metric:
    if size < _LARGE:
        return Metric(name, size, "msg/s", 0, more_is_better=True, of="B")
    return Metric(name, size, "MB/s", 0, more_is_better=True, of="B")


def pull(size: int) -> Metric:
    """Return the metric of messages received one after the other."""
    return _metric("one way", size)


def push(size: int) -> Metric:
    """Return the metric of messages handed to a handler."""
    return _metric("one way, to a handler", size)


def batches(size: int) -> Metric:
    """Return the metric of messages received many at once."""
    return _metric("one way, many at once", size)


def iterated(size: int) -> Metric:
    """Return the metric of messages received by a loop over all of them."""
    return _metric("one way, in a loop", size)


_CONSUMERS = {RECEIVE: pull, HANDLER: push, BATCHES: batches, ITERATOR: iterated}


def cpu(one_way: Metric) -> Metric:
    """Return the metric of both sides' processor time for one message that goes this way."""
    name = one_way.name.replace("one way", "CPU of a message, both sides")
    return Metric(name, one_way.size, "us", 2, of="B")


class OneWay:
    """Messages from one process to another."""

    name = "oneway"

    def cases(self, setting: Setting) -> list[Case]:
        """Return one case for each size, peer, loop and way to receive."""
        cases = []
        for size, most in SIZES.items():
            for peer, loop in contenders(setting, "oneway"):
                pace = 1.0 if size >= _LARGE else peer.pace
                count = int(most * pace / (_QUICK if setting.quick else 1))
                for consumer in peer.consumers:
                    job = make_job(setting, peer, loop, size=size, count=count, consumer=consumer)
                    label = str(_CONSUMERS[consumer](size))
                    cases.append(Case(peer.name, label, partial(_measure, job, loop)))
        return cases


def _measure(job: Job, loop: str) -> list[Sample]:
    with Child(roles.sink, job, limit=job.limit) as sink:
        address = sink.link.hear("address")
        with Child(roles.source, job, address, limit=job.limit) as source:
            sink.link.hear("warm")
            source.link.tell("go")
            received: roles.Stretch = sink.link.hear("received")
            sent: roles.Stretch = source.link.hear("sent")
            source.link.tell("close")
            sink.link.tell("close")
    seconds = received.ended - sent.begun
    per_second = job.count / seconds
    metric = _CONSUMERS[job.consumer](job.size)
    if job.size >= _LARGE:
        per_second *= job.size / 1e6
    spent = (received.cpu + sent.cpu) / job.count * 1e6
    return [
        Sample(Key(metric, loop, job.peer), per_second),
        Sample(Key(cpu(metric), loop, job.peer), spent),
    ]
