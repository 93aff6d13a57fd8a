"""Where the hubs of a cluster find each other: a bus, or a folder of sockets.

A meeting has a network for the links, announces where this hub listens, and lists where the others
do. The list may be wrong: a hub proves its identity in the handshake of its link.

Over a bus, hubs announce themselves once a second. An announcement is sealed with a key of the
cluster, and its subject is derived from that key, so that other users of the bus learn nothing from
it and cannot forge a hub, and two clusters on one bus never see each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import secrets
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from ..transports.unix import UnixNetwork, check_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ..transports.base import Address, Network
    from ..transports.bus import Bus

__all__ = ["PIPE_PORT", "BusMeeting", "FolderMeeting", "Meeting"]

logger: logging.Logger = logging.getLogger(__name__)

_NONCE_BYTES = 12
_PREFIX = "stt.hubs"
PIPE_PORT = 1
"""The port of every hub on a bus, where each has a host name of its own."""

_LANDING_PORT = 2
"""Where a hub on a bus takes connections that are passed on to it."""

_LANDING_FOLDER = "landing"
"""Where hubs of one machine take such connections: a folder beside their sockets."""

_FORGET_SECONDS = 10.0
"""A hub that has not announced itself for this long is no longer listed."""

_MOST_HUBS = 1024

_STALE_SECONDS = 10.0
"""A socket that refuses connections and is older than this belongs to a process that was killed."""


class Meeting(ABC):
    """A place where hubs meet. Use it as ``async with``.

    Attributes:
        network: What carries the bytes of links.

    """

    network: Network
    found: Callable[[], object] | None = None
    """Called when another hub is heard of that was not known; None: nobody wants to know."""

    sees_hubs: bool = True
    """Whether it lists a hub because it was seen there, and not only because it may be there."""

    folder: str | None = None
    """Where hubs of one machine pass sockets to each other; None if they may have no such place."""

    refusal_is_final: bool
    """Whether a hub that refuses a connection has ended, and cannot merely be out of reach."""

    @property
    @abstractmethod
    def listen_at(self) -> Address:
        """Where this hub should listen."""

    @abstractmethod
    def landing_of(self, address: Address) -> Address:
        """Return where the hub that listens there takes connections that are passed on to it."""

    def seed(self, secret: bytes) -> bytes:
        """Return the seed of this hub's node for links, which is the meeting's own.

        Args:
            secret: 32 bytes that only hubs of the cluster know.

        """
        return secrets.token_bytes(32)

    @abstractmethod
    def announce(self, address: Address) -> None:
        """Tell the others where this hub listens."""

    @abstractmethod
    def members(self) -> list[Address]:
        """Return where hubs listen, as far as this side knows."""

    def is_mine_to_dial(self, other: Address, own: Address) -> bool:
        """Whether this hub dials the other one, and not the reverse."""
        return other < own

    @abstractmethod
    def refused(self, address: Address) -> None:
        """Note that nothing listens there."""

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Open it.

        Raises:
            OSError: It cannot be reached.

        """

    @abstractmethod
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""


class BusMeeting(Meeting):
    """Hubs that meet on a bus.

    Args:
        bus: The bus. If it can be opened, the meeting opens and closes it.
        network: What carries the links: pipes over it.
        key: 32 bytes that only hubs of the cluster know.

    """

    refusal_is_final = False

    def __init__(self, bus: Bus, network: Network, key: bytes) -> None:
        self.network = network
        self._bus = bus
        self._opened = contextlib.AsyncExitStack()
        self._cipher = ChaCha20Poly1305(key)
        tag = hmac.digest(key, b"the subject of the hubs", "sha256")[:8].hex()
        self._subject = f"{_PREFIX}.{tag}"
        self._name = secrets.token_hex(8)
        self._heard: dict[Address, float] = {}
        self._warned = False

    @property
    def listen_at(self) -> Address:
        """See `Meeting`."""
        return self._name, PIPE_PORT

    def landing_of(self, address: Address) -> Address:
        """See `Meeting`."""
        return address[0], _LANDING_PORT

    def announce(self, address: Address) -> None:
        """See `Meeting`."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        text = f"{self._name} {address[0]} {address[1]}"
        sealed = self._cipher.encrypt(nonce, text.encode(), None)
        self._bus.publish(f"{self._subject}.hub", nonce + sealed)

    def members(self) -> list[Address]:
        """See `Meeting`."""
        now = asyncio.get_running_loop().time()
        for each in [each for each, at in self._heard.items() if now - at > _FORGET_SECONDS]:
            del self._heard[each]
        return list(self._heard)

    def refused(self, address: Address) -> None:
        """See `Meeting`."""
        self._heard.pop(address, None)

    def _arrived(self, _name: str, data: bytes, _reply: str) -> None:
        try:
            text = self._cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], None).decode()
            name, host, port = text.split()
            address = host, int(port)
        except (InvalidTag, ValueError):
            return
        is_new = address not in self._heard
        if name == self._name or (is_new and len(self._heard) >= _MOST_HUBS):
            return
        trouble = self._trouble_with(address)
        if trouble:
            self._warn(address, trouble)
            return
        self._heard[address] = asyncio.get_running_loop().time()
        if is_new and self.found is not None:
            self.found()

    def _trouble_with(self, address: Address) -> str | None:
        """Return why there can be no link with the hub that says it is there; None if there can."""
        if address[1] == PIPE_PORT:
            return None
        return "it has direct=True, and this one has not: let all hubs have it, or none"

    def _warn(self, address: Address, trouble: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("no link with the hub at %s port %d: %s", *address, trouble)

    async def _open_links(self, opened: contextlib.AsyncExitStack) -> None:
        """Open what carries the links, and the bus does not."""

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as opened:
            if isinstance(self._bus, contextlib.AbstractAsyncContextManager):
                await opened.enter_async_context(self._bus)
            await self._open_links(opened)
            opened.push_async_callback(await self._bus.subscribe(self._subject, self._arrived))
            self._opened = opened.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._opened.aclose()


class FolderMeeting(Meeting):
    """Hubs of one machine that meet in a folder of Unix sockets.

    Args:
        folder: The folder. If it is missing, it is made, for this user alone.

    """

    refusal_is_final = True

    @staticmethod
    def check(folder: str) -> None:
        """Check that hubs can meet in a folder, which need not exist.

        Raises:
            OSError: Its path is too long for that, or this system has no Unix sockets.

        """
        check_folder(str(Path(folder, _LANDING_FOLDER)))

    def __init__(self, folder: str) -> None:
        self.network: Network = UnixNetwork()
        self.folder: str | None = str(Path(folder, _LANDING_FOLDER))
        self._folder = folder

    @property
    def listen_at(self) -> Address:
        """See `Meeting`."""
        return self._folder, 0

    def landing_of(self, address: Address) -> Address:
        """See `Meeting`."""
        return str(Path(address[0], _LANDING_FOLDER)), address[1]

    def announce(self, address: Address) -> None:
        """Do nothing: the others see the socket."""

    def members(self) -> list[Address]:
        """See `Meeting`."""
        sockets = Path(self._folder).glob("*.sock")
        ports = [int(path.stem) for path in sockets if path.stem.isdecimal()]
        return [(self._folder, port) for port in ports[:_MOST_HUBS]]

    def refused(self, address: Address) -> None:
        """Remove the socket of a process that was killed."""
        folder, port = address
        path = Path(folder, f"{port}.sock")
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                Path(folder, _LANDING_FOLDER, path.name).unlink(missing_ok=True)
                path.unlink()  # last: a new hub takes the number once this is gone

    async def __aenter__(self) -> Self:
        folder = Path(self._folder)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # noqa: ASYNC240  takes no time
        (folder / _LANDING_FOLDER).mkdir(mode=0o700, exist_ok=True)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Do nothing: the listener removes its socket."""
