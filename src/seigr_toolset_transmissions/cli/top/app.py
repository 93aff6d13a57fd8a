"""The live view of `stt top`, made with Textual. It is imported only when it is used."""

from __future__ import annotations

import asyncio
from time import localtime, strftime
from typing import TYPE_CHECKING, ClassVar

from textual.app import App
from textual.binding import Binding
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Footer, Input, Static

from ...seeing import RemoteMonitor
from ..columns import rows_of
from ..failures import INTERRUPTED, OK
from ..printable import printable_line
from .events import EventList
from .table import EndpointTable
from .texts import endpoint_lines, hub_lines, node_lines

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from textual.app import ComposeResult
    from textual.binding import BindingType

    from ...seeing import News

__all__ = ["TopApp"]

_PAUSE = 0.25
"""Seconds from one change of the picture to the next: many events are one change."""
_RETRY_SECONDS = 1.0
_HIGH = 34
"""So many lines have room for everything."""


class TopApp(App[int]):
    """Shows the node at a monitor socket; while it is away, the last picture. Returns an exit code.

    Args:
        path: The socket.

    """

    ENABLE_COMMAND_PALETTE: ClassVar[bool] = False
    CSS: ClassVar[str] = """
    #gone { height: auto; text-style: bold reverse; display: none; }
    #node, #hubs { text-wrap: nowrap; text-overflow: ellipsis; }
    #node { height: 4; }
    #hubs { height: auto; display: none; }
    #filter { height: 1; display: none; }
    #filter Static { width: 8; }
    EndpointTable { height: 1fr; min-height: 4; border-top: solid ansi_blue; }
    #details { height: 8; border-top: solid ansi_blue; display: none; }
    EventList { height: 25%; min-height: 4; border-top: solid ansi_blue; }
    EndpointTable, EventList { overflow-x: hidden; scrollbar-size-vertical: 1; }
    EndpointTable:focus, EventList:focus { border-top: solid ansi_cyan; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "leave", "Quit"),
        Binding("ctrl+c", "interrupt", show=False, priority=True),
        Binding("s", "sort(1)", "Sort by next"),
        Binding("S", "sort(-1)", show=False),
        Binding("r", "reverse", "Reverse"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("escape", "clear", show=False),
        Binding("enter", "details", "Details"),
        Binding("e", "events", "Events"),
    ]

    def __init__(self, path: Path) -> None:
        super().__init__(ansi_color=True)
        self.theme = "ansi-dark"
        self._path = path
        self._monitor: RemoteMonitor | None = None
        self._gone = Static(id="gone", markup=False)
        self._node = Static(id="node", markup=False)
        self._hubs = Static(id="hubs", markup=False)
        self._filter = Horizontal(id="filter")
        self._typed = Input(placeholder="name, id, address or state; Esc removes it", compact=True)
        self._table = EndpointTable()
        self._details = Static(id="details", markup=False)
        self._events = EventList()
        self._with_events = True

    def compose(self) -> ComposeResult:
        """See `textual.app.App`."""
        yield self._gone
        yield self._node
        yield self._hubs
        with self._filter:
            yield Static("filter:", markup=False)
            yield self._typed
        yield self._table
        yield self._details
        yield self._events
        yield Footer()

    def on_mount(self) -> None:
        """Begin to watch."""
        self._events.border_title = Content("events")
        self._table.focus()
        self.run_worker(self._watch())

    def on_resize(self) -> None:
        """Fit all to the new size."""
        self._arrange()
        self._draw_node()

    async def _watch(self) -> None:
        """Show the node whenever there is one."""
        while True:
            why = ""
            try:
                async with RemoteMonitor(self._path) as monitor:
                    self._monitor = monitor
                    self._gone.display = False
                    self._events.restart()
                    self._show(monitor)
                    async for news in monitor.news():
                        self._show(monitor, news)
                        await asyncio.sleep(_PAUSE)
                why = monitor.ended
            except ConnectionError as error:
                why = str(error)
            if not self._gone.display:  # else it is still away, for whatever reason now
                clock = strftime("%H:%M:%S", localtime())
                self._gone.update(f" {clock} {printable_line(why)}; waiting for it ")
                self._gone.display = True
            await asyncio.sleep(_RETRY_SECONDS)

    def _show(self, monitor: RemoteMonitor, news: News | None = None) -> None:
        if news is not None:
            names = {row.endpoint.endpoint_id.hex(): row.name for row in self._table.all_rows}
            self._events.add(news.events, names)
        if news is None or news.sample is not None:
            self._table.show(rows_of(monitor))
            self._draw_node()

    def _draw_node(self) -> None:
        if self._monitor is not None:
            first, *others = node_lines(self._monitor, self.size.width)
            self._node.update(Content.assemble((first, "bold"), "\n", _content(others)))
            hubs = hub_lines(self._monitor.snapshot.hubs)
            self._hubs.update(_content(hubs))
            self._hubs.display = bool(hubs)

    def on_endpoint_table_moved(self) -> None:
        """Show the details of the endpoint with the cursor."""
        self._table.border_title = Content(f"endpoints: {self._table.summary}")
        current = self._table.current
        if self._monitor is not None and self._details.display:
            now = self._monitor.snapshot.time
            lines = ["there is no endpoint"] if current is None else endpoint_lines(current, now)
            self._details.update(_content(lines))

    def on_input_changed(self, event: Input.Changed) -> None:
        """Apply the filter while it is typed."""
        self._table.filter_by(event.value)

    def on_input_submitted(self) -> None:
        """Go back to the table, and leave the filter as it is."""
        self._table.focus()

    def action_leave(self) -> None:
        """End."""
        self.exit(OK)

    def action_interrupt(self) -> None:
        """End as other commands do after Ctrl-C."""
        self.exit(INTERRUPTED)

    def action_sort(self, step: int) -> None:
        """Sort by another column."""
        self._table.sort_on(step)

    def action_reverse(self) -> None:
        """Sort the other way round."""
        self._table.reverse()

    def action_filter(self) -> None:
        """Let the user type a filter."""
        self._filter.display = True
        self._typed.focus()

    def action_clear(self) -> None:
        """Remove the filter, or else close the details."""
        if self._filter.display:
            self._typed.value = ""
            self._filter.display = False
            self._table.focus()
        else:
            self._details.display = False
            self._arrange()

    def action_details(self) -> None:
        """Show or hide the details of an endpoint."""
        self._details.display = not self._details.display
        self._arrange()
        self.on_endpoint_table_moved()

    def action_events(self) -> None:
        """Show or hide the events."""
        self._with_events = not self._events.display
        self._arrange()

    def _arrange(self) -> None:
        """Give the table room: where there is little, the details take the place of the events."""
        high = self.size.height >= _HIGH
        self._events.display = self._with_events and (high or not self._details.display)


def _content(lines: Iterable[str]) -> Content:
    return Content("\n".join(lines))
