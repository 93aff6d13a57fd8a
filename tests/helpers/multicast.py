"""Multicast DNS on loopback: whether this machine can, and nothing that leaves it.

Other tests may run on this machine at the same time and hear ours, so each run has a group of its
own.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from seigr_toolset_transmissions import generate_seed
from seigr_toolset_transmissions.discovery import Discovery

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["GROUP", "HERE", "SERVICE", "Listening", "needs_multicast"]

GROUP = generate_seed()
"""The shared seed of this run."""

HERE = ["127.0.0.1"]
SERVICE = "_seigr-stt._tcp.local."


def _works() -> bool:
    """Return whether a multicast datagram over loopback comes back."""
    group, lo = socket.inet_aton("224.0.0.251"), socket.inet_aton("127.0.0.1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, lo)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + lo)
            sock.bind(("", 0))
            sock.settimeout(0.2)
            sock.sendto(b"stt", ("224.0.0.251", sock.getsockname()[1]))
            return sock.recv(3) == b"stt"
        except OSError:
            return False


needs_multicast = pytest.mark.skipif(
    "STT_REQUIRE_ALL" not in os.environ and not _works(),
    reason="this machine has no multicast over loopback",
)


class Listening(Discovery):
    """A discovery over loopback that also notes each announcement of which it hears.

    Attributes:
        heard: What each of them says, by name; those of other tests too.
        opened: The names of those of the group.

    """

    def __init__(self, shared_seed: bytes | Sequence[bytes]) -> None:
        super().__init__(shared_seed, interfaces=HERE)
        self.heard: dict[str, Any] = {}
        self.opened: list[str] = []

    def _changed(self, zeroconf: Any, service_type: str, name: str, state_change: Any) -> None:
        super()._changed(zeroconf, service_type, name, state_change)
        if state_change is self._zeroconf.ServiceStateChange.Removed:
            return
        info = self._asyncio.AsyncServiceInfo(service_type, name)
        info.load_from_cache(zeroconf)
        self.heard[name] = info
        if name in self._found and name not in self.opened:
            self.opened.append(name)
