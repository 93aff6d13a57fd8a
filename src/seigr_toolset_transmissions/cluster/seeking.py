"""How a hub gets to the others that its meeting lists: it dials some, and is dialed by the rest.

Of two hubs that list each other, the one with the greater address dials. A hub that does not answer
is dialed again and again, with a back-off, for as long as it is listed. One that this hub has no
link with for long is reported, whoever should have dialed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from ..errors import STTConnectError
from ..sessions.public import SessionState

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine

    from ..node.node import STTNode
    from ..sessions.public import Session
    from ..transports.base import Address
    from .meeting import Meeting

__all__ = ["Seeking", "SeekingOwner"]

_RETRY_SECONDS = 0.5
_RETRY_SECONDS_MAX = 2.0
"""Short, because a hub that has restarted waits for it, and one attempt costs next to nothing."""

_REPORT_SECONDS = 15.0
"""A hub that is listed must be out of reach for at least so long to be reported: a bus lists one
that was killed for a while."""


class SeekingOwner(Protocol):
    """What seeking needs of its hub."""

    grace: float

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that the node runs on."""

    def met(self) -> set[Address]:
        """Return where the hubs listen that this one has a link with."""

    def own(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine as a task of the node."""

    def report_unreached(self, address: Address, reason: str) -> None:
        """Report that there is no link with a hub."""


class _Listed:
    """What is known of a hub that the meeting lists."""

    __slots__ = (
        "dialing",
        "failure",
        "is_expected",
        "is_reported",
        "not_before",
        "pause",
        "session",
        "since",
    )

    def __init__(self, now: float) -> None:
        self.since: float = now  # listed, or without a link after there was one
        self.dialing: asyncio.Task[None] | None = None
        self.session: Session | None = None  # the link, if this hub has dialed
        self.not_before: float = now
        self.pause: float = _RETRY_SECONDS
        self.failure: str = ""
        self.is_expected: bool = True
        self.is_reported: bool = False

    @property
    def is_dialed(self) -> bool:
        """Whether it is being dialed, or was, and the link lasts."""
        if self.dialing is not None and not self.dialing.done():
            return True
        return self.session is not None and self.session.state is not SessionState.CLOSED


class Seeking:
    """The hubs that are listed at a meeting.

    Args:
        owner: See `SeekingOwner`.
        meeting: Lists them.
        node: The node for links.
        address: Where it listens.

    """

    def __init__(
        self, owner: SeekingOwner, meeting: Meeting, node: STTNode, address: Address
    ) -> None:
        self._owner = owner
        self._meeting = meeting
        self._node = node
        self._address = address
        self._hubs: dict[Address, _Listed] = {}

    def seek(self) -> None:
        """Dial those that should be dialed now, and report those that are out of reach."""
        now, met = self._owner.loop.time(), self._owner.met()
        for address in self._listed():
            hub = self._hubs[address]
            if address in met:
                continue
            mine = self._meeting.is_mine_to_dial(address, self._address)
            if mine and not hub.is_dialed and now >= hub.not_before:
                hub.dialing = self._owner.own(self._dial(address, hub))
            if not hub.is_reported and now - hub.since >= max(self._owner.grace, _REPORT_SECONDS):
                hub.is_reported = True
                reason = hub.failure or ("no answer yet" if mine else "it has not dialed this hub")
                self._owner.report_unreached(address, reason)

    def expects_links(self) -> bool:
        """Whether there may be a hub that this one has not met yet."""
        now, met = self._owner.loop.time(), self._owner.met()
        unmet = [self._hubs[address] for address in self._listed() if address not in met]
        return any(hub.is_expected and now - hub.since < self._owner.grace for hub in unmet)

    def hurry(self) -> None:
        """Skip all back-offs."""
        for hub in self._hubs.values():
            hub.not_before = 0.0

    def link_lost(self, address: Address) -> None:
        """Note that the link with a hub is lost. If it is still seen there, it may be met again."""
        hub = self._hubs.get(address)
        if hub is not None:
            hub.since, hub.is_reported = self._owner.loop.time(), False
            hub.is_expected = self._meeting.sees_hubs

    def _listed(self) -> list[Address]:
        """Return the other hubs that are listed now, and know them from now on."""
        listed = [each for each in self._meeting.members() if each != self._address]
        now = self._owner.loop.time()
        kept = {each: hub for each, hub in self._hubs.items() if hub.is_dialed}
        self._hubs = kept | {each: self._hubs.get(each) or _Listed(now) for each in listed}
        return listed

    async def _dial(self, address: Address, hub: _Listed) -> None:
        try:
            hub.session = await self._node.connect(*address)
            hub.pause, hub.failure = _RETRY_SECONDS, ""
        except STTConnectError as error:
            if _was_refused(error):
                self._meeting.refused(address)
            hub.failure = str(error)
            hub.not_before = self._owner.loop.time() + hub.pause
            hub.pause = min(2 * hub.pause, _RETRY_SECONDS_MAX)
        except RuntimeError:
            pass  # the node was stopped meanwhile


def _was_refused(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError):
            return True
        cause = cause.__cause__
    return False
