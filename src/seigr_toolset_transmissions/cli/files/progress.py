"""Progress bars for files."""

from __future__ import annotations

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column

from ..notes import console

__all__ = ["file_progress"]

_NAME_WIDTH = 24
"""A longer name is cut, so that the figures beside it are seen."""


def file_progress(*, transient: bool = False) -> Progress:
    """Return what draws a bar for each of its tasks; they have a field ``state``.

    Nothing is drawn unless standard error is a terminal. Transient bars are gone at the end.
    """
    return Progress(
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis", max_width=_NAME_WIDTH),
        ),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}", markup=False),
        console=console,
        auto_refresh=False,
        transient=transient,
        disable=not console.is_terminal or console.quiet,
    )
