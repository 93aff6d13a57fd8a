"""The table of endpoints in `stt top`: only the rows that are seen are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from ..columns import COLUMNS, GAP, Row, by_traffic, fitted, fitting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual import events
    from textual.binding import BindingType
    from textual.reactive import Reactive

    from ..columns import Column

__all__ = ["EndpointTable"]

_TITLES = Style(bold=True, underline=True)
_CURSOR = Style(reverse=True)
_OF_STATE = {
    "suspended": Style(color="yellow", bold=True),
    "disconnected": Style(dim=True),
}
_NO_STYLE = Style()


class EndpointTable(ScrollView, can_focus=True):
    """All endpoints that match the filter, sorted. The cursor stays with its endpoint."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", show=False),
        Binding("down", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home", "move(-1000000)", show=False),
        Binding("end", "move(1000000)", show=False),
    ]

    virtual_size: Reactive[Size]

    class Moved(Message):
        """The cursor is at another endpoint, or its endpoint has news."""

    def __init__(self) -> None:
        super().__init__()
        self._all: Sequence[Row] = ()
        self._shown: list[Row] = []
        self._filter = ""
        self._column: Column | None = None  # None: sorted by traffic
        self._upwards = False  # the other way round
        self._at = 0  # the row with the cursor
        self._chosen: bytes | None = None  # its endpoint, once the user has moved the cursor

    @property
    def all_rows(self) -> Sequence[Row]:
        """All rows, whether they match the filter or not."""
        return self._all

    @property
    def rows(self) -> Sequence[Row]:
        """The rows that match the filter, in the order in which they are shown."""
        return self._shown

    @property
    def current(self) -> Row | None:
        """The row with the cursor; None if there are no rows."""
        return self._shown[self._at] if self._shown else None

    @property
    def summary(self) -> str:
        """How many rows there are, and in which order, for people."""
        order = "traffic" if self._column is None else self._column.title
        matching = f"{len(self._shown):,} of " if self._filter else ""
        return f"{matching}{len(self._all):,}, by {order}{', reversed' * self._upwards}"

    def show(self, rows: Sequence[Row]) -> None:
        """Show these rows."""
        self._all = rows
        self._arrange()

    def filter_by(self, text: str) -> None:
        """Show only endpoints whose name, id, address or state contain this text."""
        self._filter = text.casefold()
        self._arrange()

    def sort_on(self, step: int) -> None:
        """Sort by the next column, or by traffic after the last one."""
        orders: list[Column | None] = [None, *COLUMNS]
        self._column = orders[(orders.index(self._column) + step) % len(orders)]
        self._upwards = False
        self._arrange()

    def sort_by(self, column: Column) -> None:
        """Sort by this column, or the other way round if that is so already."""
        self._upwards = column is self._column and not self._upwards
        self._column = column
        self._arrange()

    def reverse(self) -> None:
        """Sort the other way round."""
        self._upwards = not self._upwards
        self._arrange()

    def _arrange(self) -> None:
        shown = [row for row in self._all if not self._filter or self._matches(row)]
        shown.sort(key=lambda row: row.endpoint.endpoint_id)  # so that equals keep their places
        column = self._column
        downwards = column is None or column.figures
        shown.sort(
            key=by_traffic if column is None else column.key,
            reverse=downwards is not self._upwards,
        )
        self._shown = shown
        ids = [row.endpoint.endpoint_id for row in shown]
        if self._chosen in ids:
            self._at = ids.index(self._chosen)
        else:
            self._at = max(0, min(self._at, len(shown) - 1))
        self.virtual_size = Size(self.scrollable_content_region.width, len(shown) + 1)
        self.refresh()
        self.post_message(self.Moved())

    def _matches(self, row: Row) -> bool:
        return any(self._filter in text.casefold() for text in row.texts())

    def action_move(self, step: int) -> None:
        """Move the cursor by some rows."""
        if not self._shown:
            return
        self._at = max(0, min(self._at + step, len(self._shown) - 1))
        self._chosen = self._shown[self._at].endpoint.endpoint_id
        top, height = self.scroll_offset.y, self.scrollable_content_region.height - 1
        if self._at < top:
            self.scroll_to(y=self._at, animate=False)
        elif self._at >= top + height:
            self.scroll_to(y=self._at - height + 1, animate=False)
        self.refresh()
        self.post_message(self.Moved())

    def action_page(self, step: int) -> None:
        """Move the cursor by a page."""
        self.action_move(step * max(1, self.scrollable_content_region.height - 2))

    def on_click(self, event: events.Click) -> None:
        """Move the cursor to the row, or sort by the column."""
        at = event.get_content_offset(self)
        if at is None:  # the border
            return
        if at.y > 0:
            self.action_move(self.scroll_offset.y + at.y - 1 - self._at)
            return
        left = 0
        for column, width in fitting(self.scrollable_content_region.width):
            left += width + len(GAP)
            if at.x < left:
                self.sort_by(column)
                return

    def on_resize(self) -> None:
        """Fit the columns."""
        self.virtual_size = Size(self.scrollable_content_region.width, len(self._shown) + 1)

    def render_line(self, y: int) -> Strip:
        """Draw a line; see `textual.widget.Widget`."""
        width = self.scrollable_content_region.width
        columns = fitting(width)
        at = self.scroll_offset.y + y - 1
        if y == 0:
            return self._strip(columns, [self._title(column) for column, _ in columns], _TITLES)
        if at >= len(self._shown):
            return Strip.blank(width)
        row = self._shown[at]
        texts = [column.text(row) for column, _ in columns]
        if at == self._at and self.has_focus:
            return self._strip(columns, texts, _CURSOR)
        return self._strip(columns, texts, _OF_STATE.get(row.endpoint.state, _NO_STYLE), only=1)

    def _title(self, column: Column) -> str:
        if column is not self._column:
            return column.title
        return f"{column.title}{'▲' if self._upwards else '▼'}"

    def _strip(
        self,
        columns: list[tuple[Column, int]],
        texts: list[str],
        style: Style,
        *,
        only: int | None = None,
    ) -> Strip:
        """Return a line with this style, or with only one of its cells in this style."""
        segments: list[Segment] = []
        for number, text in enumerate(fitted(texts, columns)):
            if number:
                segments.append(Segment(GAP, style if only is None else _NO_STYLE))
            segments.append(Segment(text, style if only in (None, number) else _NO_STYLE))
        return Strip(segments).adjust_cell_length(
            self.scrollable_content_region.width, style if only is None else None
        )
