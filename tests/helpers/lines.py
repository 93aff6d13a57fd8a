"""How much work the library does: a measure of cost that is the same on each run and machine."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import seigr_toolset_transmissions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = ["Counted", "counting_lines"]

_LIBRARY = str(Path(seigr_toolset_transmissions.__file__).parent)


class Counted:
    """``lines``: how many lines of the library's code the block executed."""

    def __init__(self) -> None:
        self.lines = 0


@contextmanager
def counting_lines() -> Iterator[Counted]:
    """Count the executed lines of the library's code, in this thread."""
    counted = Counted()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        counted.lines += event == "line"
        return trace if frame.f_code.co_filename.startswith(_LIBRARY) else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield counted
    finally:
        sys.settrace(before)
