"""Routes to recipients, played by a function."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["PlayedRoute", "routes_to"]


class PlayedRoute:
    """A `fanout.Route` whose ``accept`` accepts, declines or fails each message."""

    def __init__(self, accept: Callable[[bytes], bool]) -> None:
        self._accept = accept

    def try_send(self, data: bytes) -> bool:
        return self._accept(data)


def routes_to(
    recipients: Iterable[bytes], accept: Callable[[bytes, bytes], bool]
) -> dict[bytes, PlayedRoute]:
    """Return a route to each recipient; it calls ``accept(recipient, data)``."""
    return {recipient: PlayedRoute(partial(accept, recipient)) for recipient in recipients}
