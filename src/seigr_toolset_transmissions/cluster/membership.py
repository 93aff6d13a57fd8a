"""A hub's place among the others, from joining them to leaving: who listens where, and dialing.

The hubs of a cluster are peers of each other. Each has a node of its own for the links, whose group
is the cluster: its shared secret is derived from the node seed, which all hubs have and no device.
So encryption, order, acknowledgement and resuming of links are those of any session, and no member
of the group can pose as a hub. `meeting` says where the others are, and `seeking` dials them.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Protocol

from ..config import NodeConfig
from ..errors import STTListenError
from ..node.duty import Duty
from ..node.node import STTNode
from .landings import Landings, LandingsOwner
from .messages import LONGEST_HEAD_BYTES
from .seeking import Seeking, SeekingOwner

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..node.keys import Keys
    from ..node.runtime import Runtime
    from ..transports.base import Address, Listener
    from .meeting import Meeting

__all__ = ["Membership", "MembershipOwner"]

logger: logging.Logger = logging.getLogger(__name__)

_LINKS, _MEETING = b"stt cluster links", b"stt cluster meeting"
_LANDING = b"stt cluster landing"
"""The purposes of the secrets derived from the node seed."""

_ANNOUNCE_SECONDS = 1.0

_LOOK_SECONDS = 0.1
"""How long after another hub was found this one dials it, or is dialed."""

_SETTLING_SECONDS = 3.0
"""For this long after it has joined, a hub may not know all others yet."""

_RETRY_SECONDS = 1.0
_RETRY_SECONDS_MAX = 30.0

_LEAST_MESSAGE_BYTES = 4 * 1024 * 1024
"""Hubs can say so much in one message, however short those of the application are: routes, the
answer to a search, the metadata of an endpoint."""


class MembershipOwner(LandingsOwner, SeekingOwner, Protocol):
    """What a membership needs of its hub."""

    runtime: Runtime
    name: str
    most_bytes: int

    def follow(self, node: STTNode) -> None:
        """Register for what happens on the links, which are the sessions of this node."""


class Membership:
    """The membership of one hub. It begins at once, and joins when it can.

    Args:
        owner: See `MembershipOwner`.
        keys: The seeds of the hub's node.
        meet: Makes the meeting, from a key.

    Attributes:
        node: The node of the links; None before it has started, and after its end.
        meeting: Where the hubs meet; None while this hub is not a member.
        landings: The connections that are passed on; None before this hub joins, and once it has
            left.
        address: Where this hub listens for links, once it does.

    """

    def __init__(
        self, owner: MembershipOwner, keys: Keys, meet: Callable[[bytes], Meeting]
    ) -> None:
        self._owner = owner
        self._keys = keys
        self._meet = meet
        self._loop = owner.loop
        self.node: STTNode | None = None
        self.meeting: Meeting | None = None
        self.landings: Landings | None = None
        self.address: Address = ("", 0)
        self._opened = AsyncExitStack()  # the meeting
        self._listener: Listener | None = None  # for landings
        self._since = self._loop.time()
        self._seeking: Seeking | None = None  # while this hub is a member
        self._wake = asyncio.Event()
        self._look_timer: asyncio.TimerHandle | None = None
        self._joined = False  # and not quite left
        self._leaving = False
        self._left: asyncio.Future[None] = self._loop.create_future()
        self._duty = Duty(owner.runtime, self._work)

    @property
    def leaving(self) -> bool:
        """Whether this hub leaves, or has left."""
        return self._leaving

    @property
    def _close_seconds(self) -> float:
        return self._owner.runtime.config.close_timeout

    async def _work(self) -> None:
        """Join the others, again after each failure, and meet new ones, until this hub leaves.

        If other code cancels it, the hub stays a member, and the next task goes on.
        """
        pause = _RETRY_SECONDS
        while not self._leaving:
            try:
                if self.meeting is None:
                    await self._join()
                await self._meet_others()
            except (OSError, STTListenError, ModuleNotFoundError) as error:
                await self._leave()
                logger.warning(
                    "hub %r has not joined its cluster: %s; trying again in %g s",
                    self._owner.name,
                    getattr(error, "strerror", None) or error,
                    pause,
                )
                await self._pause(pause)
                pause = min(2 * pause, _RETRY_SECONDS_MAX)
        await self._leave()
        if not self._left.done():
            self._left.set_result(None)

    async def _join(self) -> None:
        await self._leave()  # what an attempt that was cancelled has left open
        secret = await self._keys.secret_for(_LINKS)
        landing_key = await self._keys.secret_for(_LANDING)
        meeting = self._meet(await self._keys.secret_for(_MEETING))
        try:
            await self._opened.enter_async_context(meeting)
            self.landings = Landings(self._owner, meeting.network, landing_key, meeting.folder)
            self.node = self._make_node(secret, meeting)
            await self.node.start(server_mode=True)
            assert self.node.address is not None  # noqa: S101  it listens
            self.address = self.node.address
            landing = meeting.landing_of(self.address)
            self._listener = await meeting.network.listen(self.landings.accept, *landing)
        except BaseException:
            await self._leave()
            raise
        self._joined = True
        self.meeting = meeting
        self._seeking = Seeking(self._owner, meeting, self.node, self.address)
        self._since = self._loop.time()
        meeting.found = self._found

    def _make_node(self, secret: bytes, meeting: Meeting) -> STTNode:
        owner = self._owner
        most = max(owner.most_bytes + LONGEST_HEAD_BYTES, _LEAST_MESSAGE_BYTES)
        window = max(8 * 1024 * 1024, 2 * most)
        config = NodeConfig(
            max_message_bytes=most,
            send_window_bytes=window,
            receive_window_bytes=window,
            max_buffered_bytes=max(owner.runtime.config.max_buffered_bytes, 4 * window),
            connect_timeout=5.0,
            resume_window=owner.grace,
            reconnect_delay=0.05,
            reconnect_delay_max=1.0,
            ping_interval=2.0,
            ping_timeout=3.0,
            max_sessions=1024,
            max_requests=4096,
            max_half_open_per_source=256,
            handler_warning=None,
        )
        node = STTNode(
            meeting.seed(secret),
            secret,
            *meeting.listen_at,
            network=meeting.network,
            config=config,
        )
        owner.follow(node)
        return node

    async def _meet_others(self) -> None:
        """Announce this hub and dial others, again and again."""
        meeting, seeking = self.meeting, self._seeking
        while meeting is not None and seeking is not None and not self._leaving:
            meeting.announce(self.address)
            seeking.seek()
            await self._pause(_ANNOUNCE_SECONDS)

    async def _leave(self) -> None:
        """Close what is open. If cancelled, another call goes on with it."""
        self.meeting = self._seeking = None
        if self._listener is not None:
            await self._listener.close()
            self._listener = None
        if self.landings is not None:
            self.landings.end()
        if self.node is not None:
            await self.node.stop(drain=self._close_seconds)
            self.node = None
        await self._opened.aclose()
        self.landings = None
        self._joined = False

    # -- the others ---------------------------------------------------------------------------

    def _found(self) -> None:
        """Meet another hub soon, and be heard by it, together with others that are found now."""
        if self._look_timer is None:
            self._look_timer = self._loop.call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._look_timer = None
        self.look_again()

    async def _pause(self, seconds: float) -> None:
        self._wake.clear()
        if not self._leaving:
            try:
                async with asyncio.timeout(seconds):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def expects_links(self) -> bool:
        """Whether there may be a hub that this one has not met yet."""
        seconds = self._loop.time() - self._since
        if self._seeking is None:
            return seconds < max(self._owner.grace, _SETTLING_SECONDS)
        return seconds < _SETTLING_SECONDS or self._seeking.expects_links()

    def link_lost(self, address: Address) -> None:
        """Note that the link to a hub is lost. If it lives, it may be met again."""
        if self._seeking is not None:
            self._seeking.link_lost(address)

    def look_again(self) -> None:
        """Try at once what waits for the end of a pause: a hub was found, or the bus changed."""
        if self._seeking is not None:
            self._seeking.hurry()
        self._wake.set()

    async def end(self) -> None:
        """Leave, and return once that is done. May be called again, if cancelled."""
        self._leaving = True
        self._wake.set()
        if self._joined:
            await asyncio.wait((self._left,), timeout=4 * self._close_seconds)
        self._duty.end()  # and what is not done: opening the bus, or closing it
