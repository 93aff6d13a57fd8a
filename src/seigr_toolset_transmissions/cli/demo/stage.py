"""The screen of the demo: one panel a step, alive while the step runs, and a summary.

On a terminal the panel of the present step is redrawn in place, and stays where it is when the
next one begins. Elsewhere everything is written as plain lines, as it happens.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["Stage"]

_EVENTS_SHOWN = 8
_REDRAW_SECONDS = 0.1
_WIDEST = 104
"""Longer lines are hard to read, however wide the terminal is."""
_TWO_COLUMNS = 64
"""A narrower terminal has no room for events beside the step's lines."""


class Stage:
    """Shows steps. Use it as a context manager: the terminal is as it was afterwards.

    Args:
        console: Where to show them.
        fast: Leave out the pauses for reading.

    """

    def __init__(self, console: Console, *, fast: bool) -> None:
        if console.width > _WIDEST:
            console.width = _WIDEST
        self.console = console
        self.narrow: bool = console.width < _TWO_COLUMNS
        """Whether wide tables have to leave something out."""
        self.failed: list[str] = []
        """What did not check out."""
        self.passed: int = 0
        self._fast = fast
        unicode = console.encoding.lower().startswith("utf")
        self._good, self._bad = ("✓", "✗") if unicode else ("ok", "FAILED")
        self._began = time.monotonic()
        self._live: Live | None = None
        self._closed = False
        self._plain = not console.is_terminal or console.is_dumb_terminal
        self._title = ""
        self._explanation = ""
        self._above: list[RenderableType] = []
        self._lines: list[RenderableType] = []
        self._events: list[tuple[float, Text]] = []
        self._gauge: Callable[[], RenderableType] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    # ------------------------------------------------------------------- steps

    def step(self, title: str, explanation: str) -> None:
        """Begin the next step; the one before it is final."""
        self._end_step()
        self._title, self._explanation = title, explanation
        self._above, self._lines, self._events = [], [], []
        if self._plain:
            self.console.print()
            self.console.print(f"== {title}")
            self.console.print(explanation, style="dim")
        else:
            self._live = Live(self._render(), console=self.console, auto_refresh=False)
            self._live.start()
        self.redraw()

    def close(self) -> None:
        """End the last step; what happens from now on is not shown."""
        self._end_step()
        self._closed = True

    def _end_step(self) -> None:
        self.ungauge()
        if self._live is not None:
            self.redraw()
            self._live.stop()
            self._live = None

    # ------------------------------------------------------- what a step shows

    def line(self, text: str, style: str = "") -> None:
        """Add a line to the step."""
        self._add(Text.from_markup(text, style=style))

    def check(self, text: str, *, ok: bool, why: str = "") -> None:
        """Add a line that says whether something is as it should be; ``why`` it is not."""
        if ok:
            self.passed += 1
            self._add(_marked(self._good, "green", Text(text)))
        else:
            self.failed.append(f"{text}: {why}" if why else text)
            self._add(_marked(self._bad, "bold red", Text(self.failed[-1])))

    def _add(self, item: RenderableType) -> None:
        self._lines.append(item)
        if self._plain:
            self.console.print(Padding(item, (0, 0, 0, 2), expand=False))
        self.redraw()

    def wide(self, item: RenderableType) -> None:
        """Show something over the whole width, above the step's lines."""
        self._above.append(item)
        if self._plain:
            self.console.print(item)
        self.redraw()

    def event(self, name: str, subject: str) -> None:
        """Add an event of the hub's."""
        if self._closed:
            return
        now = time.monotonic() - self._began
        self._events.append((now, Text.assemble((name, "cyan"), " ", (subject, "bold"))))
        if self._plain:
            self.console.print(f"  {now:5.1f} s  event {name} {subject}".rstrip())
        self.redraw()

    def gauge(self, render: Callable[[], RenderableType]) -> None:
        """Show something above the step's lines that changes; `ungauge` makes it final."""
        self._gauge = render
        self.redraw()

    def ungauge(self) -> None:
        """Leave the gauge as it is now."""
        if self._gauge is not None:
            gauge, self._gauge = self._gauge, None
            self.wide(gauge())

    # -------------------------------------------------------------------- time

    async def pause(self, seconds: float) -> None:
        """Give the user time to read."""
        if not self._fast:
            await asyncio.sleep(seconds)

    async def run_gauge(self) -> None:
        """Redraw the gauge until cancelled."""
        while True:
            self.redraw()
            await asyncio.sleep(_REDRAW_SECONDS)

    @property
    def elapsed(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self._began

    # ----------------------------------------------------------------- drawing

    def redraw(self) -> None:
        """Draw the step as it is now; needed only for what a gauge shows.

        A console that records gets each step once, as it ended.
        """
        if self._live is not None:
            self._live.update(self._render(), refresh=not self.console.record)

    def _render(self) -> RenderableType:
        columns = Table.grid(expand=True, padding=(0, 2, 0, 0))
        if self.narrow:
            columns.add_row(Group(*self._lines))
            if self._events:
                columns.add_row(self._render_events())
        else:
            columns.add_column(ratio=3)
            columns.add_column(ratio=2)
            columns.add_row(Group(*self._lines), self._render_events())
        parts: list[RenderableType] = [Text(self._explanation, style="dim"), ""]
        above = [*self._above, *([self._gauge()] if self._gauge is not None else [])]
        for item in above:
            parts += [item, ""]
        return Panel(
            Group(*parts, columns),
            title=f"[bold]{self._title}[/]",
            title_align="left",
            border_style="blue",
            padding=(0, 1),
        )

    def _render_events(self) -> RenderableType:
        events = Table.grid(padding=(0, 1, 0, 0))
        events.add_column(justify="right", style="dim", no_wrap=True, min_width=4)
        events.add_column(overflow="ellipsis", no_wrap=True)
        hidden = len(self._events) - _EVENTS_SHOWN
        if hidden > 0:
            events.add_row("", Text(f"{hidden} events before", style="dim"))
        for when, text in self._events[-_EVENTS_SHOWN:]:
            events.add_row(f"{when:.1f}", text)
        return events


def _marked(mark: str, style: str, text: Text) -> RenderableType:
    row = Table.grid(padding=(0, 1, 0, 0))
    row.add_row(Text(mark, style=style), text)
    return row
