"""What every demo has in common: its frame, its steps, its tables and its verdict."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import sys
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ... import STTError, __version__
from ..failures import FAILED, OK
from ..keyboard import unechoed
from .cast import ActorGoneError, Cast
from .stage import Stage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from rich.console import Console

__all__ = ["HOST", "Show", "make_table", "perform"]

HOST = "127.0.0.1"
STEP_SECONDS = 30.0
"""No step takes so long unless something is wrong."""


async def perform(
    console: Console,
    make: Callable[[Stage, Cast], Show],
    *,
    introduction: str,
    outlook: str,
    commands: Iterable[tuple[str, str]],
    fast: bool,
) -> int:
    """Play a demo; return its exit code.

    Args:
        console: Where to show it.
        make: Makes the show.
        introduction: What is to be seen.
        outlook: What users may do next.
        commands: How, each with a comment.
        fast: Leave out the pauses for reading.

    """
    with unechoed(), Stage(console, fast=fast) as stage:
        console.print(
            Text.assemble(
                ("Seigr Toolset Transmissions ", "bold"), f"{__version__}: {introduction}"
            )
        )
        async with AsyncExitStack() as stack:
            cast = Cast()
            show = make(stage, cast)
            stack.push_async_callback(show.end)
            await stack.enter_async_context(cast)  # the processes end first
            stack.callback(stage.close)
            await show.play()
    _print_verdict(console, stage, outlook, commands)
    return FAILED if stage.failed else OK


def _print_verdict(
    console: Console, stage: Stage, outlook: str, commands: Iterable[tuple[str, str]]
) -> None:
    console.print()
    if stage.failed:
        total = len(stage.failed) + stage.passed
        console.print(f"[bold red]{len(stage.failed)} of {total} checks failed:[/]")
        for text in stage.failed:
            console.print(f"  {text}", style="red", markup=False)
        return
    console.print(
        f"[bold green]All {stage.passed} checks passed[/] in {stage.elapsed:.1f} s. {outlook}:"
    )
    for command, where in (*_activation(), *commands):
        comment = "" if stage.narrow else f"[dim]# {where}[/]"
        console.print(f"  {command:<50}{comment}".rstrip(), highlight=False, soft_wrap=True)


def _activation() -> Iterable[tuple[str, str]]:
    """Return the command after which the shell finds `stt`, if it does not find it yet."""
    script = Path(sys.prefix, "bin", "activate")
    if shutil.which("stt") is None and script.exists():
        yield f". {shlex.quote(os.path.relpath(script))}", "in each terminal"


class Show(ABC):
    """A demo in steps, each of which ends in time or fails it."""

    def __init__(self, stage: Stage, cast: Cast, *, fast: bool) -> None:
        self._stage = stage
        self._cast = cast
        self._fast = fast
        self._number = ""

    @property
    @abstractmethod
    def steps(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """What is shown, in this order."""

    @abstractmethod
    async def end(self) -> None:
        """Close what the show has opened."""

    async def play(self) -> None:
        """Play all steps, or those up to one that fails."""
        for number, step in enumerate(self.steps, 1):
            self._number = f"{number} of {len(self.steps)}"
            if not await self._survives(step):
                return

    async def _survives(self, step: Callable[[], Awaitable[None]]) -> bool:
        try:
            async with asyncio.timeout(STEP_SECONDS):
                await step()
        except TimeoutError:
            self._stage.check(
                f"step {self._number} ends", ok=False, why=f"not within {STEP_SECONDS:.0f} s"
            )
            return False
        except (ActorGoneError, STTError) as error:
            self._stage.check(f"step {self._number} ends", ok=False, why=str(error))
            return False
        return True

    def _begin(self, title: str, explanation: str) -> None:
        self._stage.step(f"{self._number}  {title}", explanation)

    async def _until(self, condition: Callable[[], object]) -> None:
        while not condition():  # noqa: ASYNC110 - on facts that no event announces
            await asyncio.sleep(0.01)

    def _fitting_table(
        self,
        headers: Sequence[str],
        rows: Iterable[Sequence[str | Text]],
        *,
        if_narrow: Sequence[int],
        right: bool = False,
    ) -> Table:
        """Return a table; on a narrow terminal it has some of its columns only."""
        shown = if_narrow if self._stage.narrow else range(len(headers))
        table = make_table(*(headers[column] for column in shown), right=right)
        for row in rows:
            table.add_row(*(row[column] for column in shown))
        return table


def make_table(*headers: str, right: bool = False) -> Table:
    """Return an empty table in the style of the demo."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for index, header in enumerate(headers):
        table.add_column(header, no_wrap=True, justify="right" if right and index else "left")
    return table
