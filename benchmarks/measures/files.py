"""A file through the command line: ``stt send`` to ``stt receive``, two processes, whole."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import Case, Setting

__all__ = ["Files"]


class Files:
    """The user's command."""

    name = "files"

    def cases(self, setting: Setting) -> list[Case]:
        """No case yet: see `missing`."""
        return []

    def missing(self) -> str | None:
        """Return why there is nothing to measure."""
        if importlib.util.find_spec("seigr_toolset_transmissions.cli") is None:
            return "the command `stt` is not there yet"
        return "not written yet"
