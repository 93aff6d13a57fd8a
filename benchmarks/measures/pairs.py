"""Which peers a measure runs on which loops, and the job of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.peers import PEERS
from benchmarks.peers.base import Job

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.peers import Peer

    from .base import Setting

__all__ = ["BLOCKING", "contenders", "make_job"]

BLOCKING = "no loop"
"""Takes the place of the event loop's name for peers that use none."""


def contenders(setting: Setting, ability: str) -> Iterator[tuple[Peer, str]]:
    """Yield each chosen peer that can do this, with each loop that it runs on."""
    for name in setting.peers:
        peer = PEERS[name]
        if ability in peer.can:
            for loop in (BLOCKING,) if peer.blocking else setting.loops:
                yield peer, loop


def make_job(setting: Setting, peer: Peer, loop: str, **what: Any) -> Job:
    """Return a job with the settings that all jobs of this run share."""
    return Job(
        peer=peer.name,
        loop="asyncio" if loop == BLOCKING else loop,
        material=setting.material,
        broker=setting.brokers.get(peer.name),
        **what,
    )
