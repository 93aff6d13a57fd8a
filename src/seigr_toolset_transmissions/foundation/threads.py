"""Finding calls from threads other than the event loop's, in asyncio's debug mode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Checked"]


class Checked:
    """Stands in for something that only one thread may use, and checks each use first.

    Args:
        target: What it stands in for.
        check: Raises RuntimeError if the caller is in another thread.

    """

    def __init__(self, target: object, check: Callable[[], None]) -> None:
        self._target = target
        self._check = check

    def __getattr__(self, name: str) -> Any:
        self._check()
        return getattr(self._target, name)
