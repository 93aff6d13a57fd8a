"""Many sessions at one hub: how fast they open, how much they weigh, what a broadcast costs.

A broadcast's cost is the processor time of the hub's process from the call until the system has all
copies, divided by the number of sessions. It leaves out what the hub waits for, and what the
crowd's process costs. A library whose messages are acknowledged pays for that a little later: "in
all" ends when nothing more follows. How late the copies arrive is a separate metric, which includes
the crowd.
"""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import roles
from benchmarks.peers import OWN
from benchmarks.processes import Child

from .base import Case, Key, Metric, Sample, Setting
from .pairs import contenders, make_job

if TYPE_CHECKING:
    from benchmarks.peers.base import Job

__all__ = ["Crowds", "broadcast", "idle", "in_all", "last_arrivals", "opening", "process", "used"]

_SIZES = (100, 1_000, 5_000, 10_000)
_QUICK_SIZES = (100, 1_000)
_OWN_ONLY = 10_000
_ONCE = 5_000
"""From this size on, one round is enough: it repeats the broadcasts."""
_BROADCASTS = 8
_LIMIT = 240.0


def opening(sessions: int) -> Metric:
    """Return the metric of how many sessions open per second."""
    return Metric("new sessions", sessions, "/s", 0, more_is_better=True, of="sessions")


def idle(sessions: int) -> Metric:
    """Return the metric of the hub's memory for a session that has never been used."""
    return Metric("memory of an idle session", sessions, "KiB", 1, of="sessions")


def used(sessions: int) -> Metric:
    """Return the metric of the hub's memory for a session that has carried messages."""
    return Metric("memory of a used, idle session", sessions, "KiB", 1, of="sessions")


def process(sessions: int) -> Metric:
    """Return the metric of all the memory that the hub's sessions take."""
    return Metric("memory of all idle sessions", sessions, "MiB", 0, of="sessions")


def broadcast(sessions: int) -> Metric:
    """Return the metric of the hub's processor time to send one recipient's copy."""
    return Metric("broadcast of 64 B, per recipient", sessions, "us CPU", 1, of="sessions")


def in_all(sessions: int) -> Metric:
    """Return the metric of the same, until nothing more follows, acknowledgements included."""
    return Metric("broadcast of 64 B in all, per recipient", sessions, "us CPU", 1, of="sessions")


def last_arrivals(sessions: int) -> Metric:
    """Return the metric of how long it takes until 99 of 100 recipients have a broadcast."""
    return Metric("broadcast of 64 B, p99 of arrival", sessions, "ms", 1, of="sessions")


class Crowds:
    """A hub and its sessions."""

    name = "crowd"

    def cases(self, setting: Setting) -> list[Case]:
        """One case for each number of sessions, peer and loop."""
        return [
            Case(
                peer.name,
                f"{sessions:,} sessions",
                partial(
                    _measure,
                    make_job(
                        setting, peer, loop, sessions=sessions, rounds=_BROADCASTS, limit=_LIMIT
                    ),
                    loop,
                ),
                once=sessions >= _ONCE,
            )
            for sessions in (_QUICK_SIZES if setting.quick else _SIZES)
            for peer, loop in contenders(setting, "crowd")
            if sessions <= peer.most_sessions and (sessions < _OWN_ONLY or peer.name == OWN)
        ]


def _measure(job: Job, loop: str) -> list[Sample]:
    sessions = job.sessions
    with Child(roles.hub, job, limit=job.limit) as hub:
        address = hub.link.hear("address")
        with Child(roles.crowd, job, address, limit=job.limit) as crowd:
            joined: roles.Stretch = crowd.link.hear("joined")
            hub.link.tell("joined")
            weight, _ = hub.link.hear("idle")
            sent, settled, late = [], [], []
            for _ in range(job.rounds):
                crowd.link.tell("broadcast")
                crowd.link.hear("ready")
                hub.link.tell("broadcast")
                crowd.link.hear("arrived")
                hub.link.tell("arrived")
                times = sorted(crowd.link.hear("settled"))
                hub.link.tell("settled")
                done: roles.Broadcast = hub.link.hear("done")
                sent.append(done.cpu / sessions * 1e6)
                settled.append(done.cpu_settled / sessions * 1e6)
                late.append((times[len(times) * 99 // 100] - done.begun) * 1e3)
            hub.link.tell("close")
            worn = hub.link.hear("used")
            crowd.link.tell("close")
    values = {
        opening(sessions): sessions / (joined.ended - joined.begun),
        idle(sessions): weight / sessions / 1024,
        used(sessions): worn / sessions / 1024,
        process(sessions): weight / 1024 / 1024,
        broadcast(sessions): median(sent),
        in_all(sessions): median(settled),
        last_arrivals(sessions): median(late),
    }
    return [Sample(Key(metric, loop, job.peer), value) for metric, value in values.items()]
