"""Another hub, as this one sees it for as long as the link between them lasts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .deliveries import Deliveries
    from .link import Link

__all__ = ["Other"]


class Other(NamedTuple):
    """The link to another hub, and what its lanes bring to endpoints of this one."""

    link: Link
    deliveries: Deliveries
