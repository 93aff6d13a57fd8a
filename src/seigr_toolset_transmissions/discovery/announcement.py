"""`Announcement`: lets the other members of its group find a node on the local network."""

from __future__ import annotations

import errno
import secrets
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, Self

from ..node.keys import group_secret
from .interfaces import own_addresses
from .multicast import Multicast, Scene
from .sealing import ANNOUNCEMENT_PURPOSE, NAME_BYTES, SERVICE, TXT_KEY, Place, seal

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from ..node import STTNode
    from .sealing import IPAddress

__all__ = ["Announcement"]

_TTL_SECONDS = 1200
"""How long others keep the records; zeroconf makes hardly less of anything shorter."""

_AUTHORITATIVE_RESPONSE = 0x8400
"""The flags of a DNS message."""


@dataclass(frozen=True, slots=True)
class _Said:
    """What is announced, and the seed of those to whom."""

    shared_seed: bytes = field(repr=False)
    place: Place


class Announcement(Multicast[_Said]):
    """Announces a node that listens, for as long as its block lasts.

    ::

        async with node.listening(), Announcement(node):
            ...

    Members of the group find it with `Discovery`. Everybody on the network can see that something
    of this kind is there, at the machine's address, but neither which node nor which group it is.

    It is announced where it listens: a node that listens at a loopback address, to this machine
    only; at another address, on that network; at all addresses, on all networks. It announces at
    most 8 addresses, and no link-local IPv6 address. The members that find it are those with the
    shared seed that it dials with.

    Every 5 seconds it looks whether the node's port or shared seed, or the machine's addresses have
    changed, and announces the node anew if so. While the node does not listen, nothing is
    announced.

    Args:
        node: The node. It must listen when the block is entered.

    Raises:
        ModuleNotFoundError: zeroconf is not installed.

    Entering the block raises RuntimeError if the node does not listen, ValueError if it does not
    listen at an IP address that others could use (such as a link-local IPv6 address, or a name on
    another network than TCP's), and OSError if multicast DNS cannot be used. Later failures are
    logged, and it tries again.

    """

    def __init__(self, node: STTNode) -> None:
        super().__init__()
        self._node = node

    async def __aenter__(self) -> Self:
        """Announce the node; return once that has been said for the first time."""
        self._node._registry.runtime.check_caller()  # noqa: SLF001 - as for all that looks inside
        if self._node.address is None:
            raise RuntimeError(
                "the node does not listen, so there is nothing to announce: use `async with "
                "node.listening()` first"
            )
        return await super().__aenter__()

    def _look(self) -> Scene[_Said] | None:
        node = self._node
        if node.address is None:
            return None
        host, port = node.address
        try:
            ip = ip_address(host)
        except ValueError:
            raise ValueError(f"only an IP address can be announced, not {host!r}") from None
        if isinstance(ip, IPv6Address) and ip.is_link_local:
            raise ValueError(f"{host} can be dialed on one network only: listen at another address")
        own = own_addresses()
        addresses: tuple[IPAddress, ...] = (ip,)
        if ip.is_unspecified:
            everywhere = node._host == ""  # noqa: SLF001 - else of one family alone
            addresses = own.announced((4, 6) if everywhere else (ip.version,))
        if not addresses:
            raise OSError(errno.EADDRNOTAVAIL, "this machine has no address to announce")
        elsewhere = ip.is_unspecified and not addresses[0].is_loopback
        interfaces = own.interfaces() if elsewhere else (own.interface_of(addresses[0]),)
        seed = node._keys.shared_seeds[0]  # noqa: SLF001
        return Scene(interfaces, _Said(seed, Place(node.node_id, port, addresses)))

    async def _begin(self, service: Any, what: _Said, opened: AsyncExitStack) -> None:
        key = await group_secret(what.shared_seed, ANNOUNCEMENT_PURPOSE)
        name = secrets.token_bytes(NAME_BYTES)
        info = self._zeroconf.ServiceInfo(
            SERVICE,
            f"{name.hex()}.{SERVICE}",
            port=0,
            properties={TXT_KEY: seal(key, name, what.place)},
            server=f"{name.hex()}.local.",
            other_ttl=_TTL_SECONDS,
        )
        opened.push_async_callback(self._say_goodbye, service, info)
        # A random name needs no probing, with which a stranger could forbid it.
        repeating = await service.async_register_service(info, cooperating_responders=True)
        opened.callback(repeating.cancel)

    async def _say_goodbye(self, service: Any, info: Any) -> None:
        await service.async_unregister_all_services()
        # An answer that was under way may have followed the first goodbye. The others are copies of
        # that, which are ignored for a while, so the last one has other bytes.
        goodbye = self._zeroconf.DNSOutgoing(_AUTHORITATIVE_RESPONSE)
        goodbye.add_answer_at_time(info.dns_pointer(override_ttl=0), 0)
        service.zeroconf.async_send(goodbye)
