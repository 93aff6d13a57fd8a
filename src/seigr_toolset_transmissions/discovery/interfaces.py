"""The addresses of this machine: which of them to announce, and where multicast DNS is spoken.

It takes some 0.2 ms to list them.
"""

from __future__ import annotations

import errno
import importlib
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import TYPE_CHECKING, NamedTuple

from .sealing import MOST_ADDRESSES, IPAddress

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..transports.base import Address

__all__ = ["LOOPBACK", "MulticastInterface", "Own", "OwnAddress", "own_addresses"]

MulticastInterface = str | int
"""As zeroconf has it: an IPv4 address, or the index of an interface with IPv6."""

LOOPBACK: MulticastInterface = "127.0.0.1"
"""Where this machine speaks to itself, in both families."""


class OwnAddress(NamedTuple):
    """An address of this machine, with its network, and the index of the interface that has it."""

    at: IPv4Interface | IPv6Interface
    interface: int


class Own:
    """The addresses of this machine at one moment."""

    def __init__(self, addresses: Iterable[OwnAddress]) -> None:
        # IPv4 first: it is what most local networks have.
        self._addresses = sorted(addresses, key=lambda address: address.at.version)

    def interfaces(self) -> tuple[MulticastInterface, ...]:
        """Return all interfaces, each once for each family."""
        found = [address for address in self._addresses if address.interface]
        names = [
            str(address.at.ip) if address.at.version == 4 else address.interface
            for address in found
            if address.at.version == 4 or not address.at.is_loopback
        ]
        return tuple(dict.fromkeys(names))

    def interface_of(self, ip: IPAddress) -> MulticastInterface:
        """Return the interface with this address.

        Raises:
            OSError: There is none.

        """
        if ip.is_loopback:
            return LOOPBACK
        for address in self._addresses:
            if address.at.ip == ip:
                return str(ip) if ip.version == 4 else address.interface
        raise OSError(errno.EADDRNOTAVAIL, f"no interface of this machine has the address {ip}")

    def announced(self, versions: Iterable[int]) -> tuple[IPAddress, ...]:
        """Return the addresses of these IP versions at which others can reach this machine.

        If there are none, those at which it can reach itself.
        """
        # A link-local IPv6 address means something only together with an interface of the reader's.
        usable = [
            address.at.ip
            for address in self._addresses
            if address.at.version in versions
            and not (address.at.version == 6 and address.at.is_link_local)
        ]
        public = [ip for ip in usable if not ip.is_loopback]
        return tuple(public or usable)[:MOST_ADDRESSES]

    def best_first(self, addresses: Iterable[IPAddress], port: int) -> tuple[Address, ...]:
        """Return another machine's addresses, or this one's own, the most promising first."""
        return tuple((str(ip), port) for ip in sorted(addresses, key=self._distance))

    def _distance(self, ip: IPAddress) -> int:
        # An address that this machine has too is another's only where both have a network of their
        # own with the same addresses, as for containers. It is the last to try.
        if any(address.at.ip == ip for address in self._addresses):
            return 2
        return 0 if any(ip in address.at.network for address in self._addresses) else 1


def own_addresses() -> Own:
    """List the addresses of this machine.

    Raises:
        OSError: The system does not tell.

    """
    ifaddr = importlib.import_module("ifaddr")
    return Own(
        OwnAddress(
            ip_interface(f"{ip.ip if ip.is_IPv4 else ip.ip[0]}/{ip.network_prefix}"),
            adapter.index or 0,
        )
        for adapter in ifaddr.get_adapters()
        for ip in adapter.ips
    )
