"""Meetings of hubs whose links go over TCP: found on a bus, or in a list that all of them have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from ..transports.tcp import TcpNetwork
from .door import DoorNetwork, own_host
from .meeting import PIPE_PORT, BusMeeting, Meeting

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Sequence
    from types import TracebackType

    from ..transports.base import Address
    from ..transports.bus import Bus

__all__ = ["DirectMeeting", "ListMeeting"]


class _TcpMeeting(Meeting):
    """What these meetings have in common."""

    network: DoorNetwork

    @property
    def listen_at(self) -> Address:
        """See `Meeting`."""
        return self.network.address

    def landing_of(self, address: Address) -> Address:
        """See `Meeting`."""
        return self.network.landing_of(address)

    def seed(self, secret: bytes) -> bytes:
        """See `Meeting`."""
        return self.network.seed(secret)


class DirectMeeting(_TcpMeeting, BusMeeting):
    """Hubs that find each other on a bus, where each announces a host and a port.

    Args:
        bus: The bus. If it can be opened, the meeting opens and closes it.
        key: 32 bytes that only hubs of the cluster know.
        address: Where others reach this hub; port 0 for a free port. None: where they should, as
            far as this machine can tell.

    """

    def __init__(self, bus: Bus, key: bytes, address: Address | None) -> None:
        super().__init__(bus, DoorNetwork(TcpNetwork()), key)
        self._wanted = address

    async def _open_links(self, opened: contextlib.AsyncExitStack) -> None:
        address = self._wanted or (await own_host(self._bus.server), 0)
        await self.network.open([address], anywhere=True)
        opened.push_async_callback(self.network.close)

    def _trouble_with(self, address: Address) -> str | None:
        if address == self.network.address:
            return "that is the address of this hub, too: give each its own with address="
        if address[1] == PIPE_PORT:
            return "this one has direct=True, and it has not: let all hubs have it, or none"
        return None


class ListMeeting(_TcpMeeting):
    """Hubs that all have the same list of addresses, and meet without a broker.

    Args:
        listed: The addresses.
        address: That of this hub. If it is not in the list, this hub dials all that are. None: the
            first in the list that this machine has and that nothing else uses.

    """

    sees_hubs = False
    refusal_is_final = False

    def __init__(self, listed: Sequence[Address], address: Address | None) -> None:
        self.network: DoorNetwork = DoorNetwork(TcpNetwork())
        self._listed = list(listed)
        self._wanted = address

    def announce(self, address: Address) -> None:
        """Do nothing: the others have the list."""

    def members(self) -> list[Address]:
        """See `Meeting`."""
        return self._listed

    def is_mine_to_dial(self, other: Address, own: Address) -> bool:
        """See `Meeting`."""
        return own not in self._listed or super().is_mine_to_dial(other, own)

    def refused(self, address: Address) -> None:
        """Do nothing: it stays in the list."""

    async def __aenter__(self) -> Self:
        if self._wanted is not None:
            await self.network.open([self._wanted], anywhere=True)
        else:
            await self.network.open(self._listed, anywhere=False)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.network.close()
