"""`Discovery`: finds the members of a group that are announced on the local network."""

from __future__ import annotations

import asyncio
import errno
import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Never

from ..node.keys import group_secret
from ..seeds import check_shared_seeds
from .interfaces import own_addresses
from .multicast import Multicast, Scene
from .sealing import ANNOUNCEMENT_PURPOSE, NAME_BYTES, SERVICE, TXT_KEY, Member, unseal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from contextlib import AsyncExitStack

    from .interfaces import Own

__all__ = ["Discovery"]

_MOST_MEMBERS = 1024

_NAME = re.compile(rf"([0-9a-f]{{{2 * NAME_BYTES}}})\.{re.escape(SERVICE)}")


class Discovery(Multicast[None]):
    """Finds members of a group on the local network, for as long as its block lasts.

    ::

        async with Discovery(shared_seed) as discovery:
            async for member in discovery:
                print(member.node_id.hex(), *member.addresses[0])

    It finds nodes that have an `Announcement`, this program's own too. Most are found within two
    seconds: multicast DNS repeats an answer only after one. What a member says of itself can be out
    of date, or repeated by a stranger after the member has gone; the handshake shows who is there,
    so dial with ``expect``, or add the member as an endpoint.

    At most 1,024 announcements are kept. Every 5 seconds it looks whether the machine's networks
    have changed; if so, it forgets what it has found and begins anew. Entered again, it begins
    anew, too.

    Args:
        shared_seed: The group's secret; or several, while the group changes from one to another:
            members that are announced with any of them are found.
        interfaces: The IP addresses of this machine on whose networks to look; all of them if None.

    Raises:
        ModuleNotFoundError: zeroconf is not installed.
        STTSeedError: A seed cannot be used; see `STTNode`.
        TypeError: ``interfaces`` is one str.
        ValueError: It is empty, or has something else than IP addresses.

    Entering the block raises OSError if multicast DNS cannot be used, or this machine does not have
    one of the addresses. Later failures are logged, and it tries again.

    """

    def __init__(
        self, shared_seed: bytes | Sequence[bytes], *, interfaces: Iterable[str] | None = None
    ) -> None:
        super().__init__()
        self._seeds = check_shared_seeds(shared_seed)
        if isinstance(interfaces, str):
            raise TypeError("interfaces is a list of addresses, not one str")
        self._chosen = None if interfaces is None else [ip_address(ip) for ip in interfaces]
        if self._chosen == []:
            raise ValueError("interfaces is empty: name at least one, or leave it out for all")
        self._own: Own
        self._keys: list[bytes] = []
        self._found: dict[str, Member] = {}  # by the names of their announcements
        self._arrived = asyncio.Event()  # set, and replaced, when there is something new

    def __reduce__(self) -> Never:
        raise TypeError("Discovery holds seeds and can neither be pickled nor copied")

    @property
    def members(self) -> list[Member]:
        """A new list of the members that are announced now, or were when the block ended.

        A member has an entry for each of its announcements: a cluster, for each hub; a member that
        was killed and has started again, two for a while, the newer one last.
        """
        return list(self._found.values())

    async def __aiter__(self) -> AsyncIterator[Member]:
        """Iterate over the members that are announced now, and those to come, until the block ends.

        A member comes again each time it is announced anew: it has started again, or its address
        has changed.

        Raises:
            RuntimeError: The block has not begun, or has ended before the iteration began.

        """
        block = self._block
        if block is None:
            raise RuntimeError("nothing is looked for: use `async with` first")
        told: set[str] = set()
        while self._block is block:
            arrived = self._arrived
            new = {name: member for name, member in self._found.items() if name not in told}
            told = set(self._found)
            for member in new.values():
                yield member
            await arrived.wait()

    def _look(self) -> Scene[None]:
        self._own = own_addresses()
        if self._chosen is None:
            interfaces = self._own.interfaces()
        else:
            interfaces = tuple(dict.fromkeys(map(self._own.interface_of, self._chosen)))
        if not interfaces:
            raise OSError(errno.ENETDOWN, "this machine has no network interface with an address")
        return Scene(interfaces, None)

    async def _begin(self, service: Any, _: None, opened: AsyncExitStack) -> None:
        self._keys = [await group_secret(seed, ANNOUNCEMENT_PURPOSE) for seed in self._seeds]
        self._found.clear()
        browser = self._asyncio.AsyncServiceBrowser(
            service.zeroconf,
            SERVICE,
            handlers=[self._changed],
            # Answers to one machine alone may end at another program there that uses the port too.
            question_type=self._zeroconf.DNSQuestionType.QM,
        )
        opened.push_async_callback(browser.async_cancel)

    def _leave(self) -> None:
        super()._leave()
        self._wake()

    def _wake(self) -> None:
        arrived, self._arrived = self._arrived, asyncio.Event()
        arrived.set()

    def _changed(self, zeroconf: Any, service_type: str, name: str, state_change: Any) -> None:
        """Note what an announcement says, or that it was withdrawn. Called by zeroconf."""
        if state_change is self._zeroconf.ServiceStateChange.Removed:
            self._found.pop(name, None)
            return
        match = _NAME.fullmatch(name)
        if match is None or name in self._found or len(self._found) >= _MOST_MEMBERS:
            return
        info = self._asyncio.AsyncServiceInfo(service_type, name)
        info.load_from_cache(zeroconf)
        sealed = info.properties.get(TXT_KEY) or b""
        for key in self._keys:
            place = unseal(key, bytes.fromhex(match[1]), sealed)
            if place is not None:
                addresses = self._own.best_first(place.addresses, place.port)
                self._found[name] = Member(place.node_id, addresses)
                self._wake()
                return
