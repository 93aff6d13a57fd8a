"""One-way throughput: from the first send to the last receipt, in two processes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from benchmarks import roles
from benchmarks.peers import OWN
from benchmarks.processes import Child

from .base import Case, Key, Metric, Sample, Setting
from .pairs import contenders, make_job

if TYPE_CHECKING:
    from benchmarks.peers.base import Job

__all__ = ["SIZES", "OneWay", "cpu", "pull", "push"]

SIZES = {64: 500_000, 1024: 200_000, 64 * 1024: 8_000, 1024 * 1024: 500}
"""Bytes of a message, and how many a fast peer sends."""
_LARGE = 16 * 1024
"""From here on all peers are given the same number: bytes limit them, not messages."""
_QUICK = 5


def _metric(name: str, size: int) -> Metric:
    if size < _LARGE:
        return Metric(name, size, "msg/s", 0, more_is_better=True, of="B")
    return Metric(name, size, "MB/s", 0, more_is_better=True, of="B")


def pull(size: int) -> Metric:
    """Return the metric of messages that are received one after the other."""
    return _metric("one way", size)


def push(size: int) -> Metric:
    """Return the metric of messages that a handler is called with."""
    return _metric("one way, to a handler", size)


def cpu(size: int) -> Metric:
    """Return the metric of the processor time of both sides for one message."""
    return Metric("CPU of a message, both sides", size, "us", 2, of="B")


class OneWay:
    """Messages from one process to another."""

    name = "oneway"

    def cases(self, setting: Setting) -> list[Case]:
        """One case for each size, peer and loop, and our handlers besides."""
        cases = []
        for size, most in SIZES.items():
            for peer, loop in contenders(setting, "oneway"):
                pace = 1.0 if size >= _LARGE else peer.pace
                count = int(most * pace / (_QUICK if setting.quick else 1))
                job = make_job(setting, peer, loop, size=size, count=count)
                cases.append(Case(peer.name, str(pull(size)), partial(_measure, job, loop)))
                if peer.name == OWN:
                    job = make_job(setting, peer, loop, size=size, count=count, push=True)
                    cases.append(Case(peer.name, str(push(size)), partial(_measure, job, loop)))
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
    metric = push(job.size) if job.push else pull(job.size)
    if job.size >= _LARGE:
        per_second *= job.size / 1e6
    samples = [Sample(Key(metric, loop, job.peer), per_second)]
    if not job.push:
        spent = (received.cpu + sent.cpu) / job.count * 1e6
        samples.append(Sample(Key(cpu(job.size), loop, job.peer), spent))
    return samples
