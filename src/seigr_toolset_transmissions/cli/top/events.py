"""The events of a node in `stt top`: only the lines that are seen are drawn."""

from __future__ import annotations

from collections import deque
from time import localtime, strftime
from typing import TYPE_CHECKING

from rich.cells import set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from ..printable import printable_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from textual.reactive import Reactive

    from ...seeing import SeenEvent

__all__ = ["EventList", "event_text"]

_MOST_LINES = 1000
_PLAIN = Style()
_STYLES = {
    "error": Style(color="red"),
    "hub_lost": Style(color="red"),
    "session_suspended": Style(color="yellow"),
    "hub_suspended": Style(color="yellow"),
}
_SESSION_DIGITS = 8
_ID_DIGITS = 16


class EventList(ScrollView, can_focus=True):
    """The last events. It follows new ones, unless the user has scrolled up."""

    virtual_size: Reactive[Size]

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[tuple[str, Style]] = deque(maxlen=_MOST_LINES)
        self._last = 0

    def add(self, events: Sequence[SeenEvent], names: Mapping[str, str]) -> None:
        """Add events, and say so if some are missing.

        Args:
            events: The new ones.
            names: What to call the peers with these ids, in hexadecimal.

        """
        if not events:
            return
        for event in events:
            missed = event.number - self._last - 1
            if self._last and missed > 0:
                self._lines.append((f"{missed:,} events were missed", Style(dim=True)))
            self._last = event.number
            self._lines.append((event_text(event, names), _STYLES.get(event.name, _PLAIN)))
        follows = self.is_vertical_scroll_end
        self.virtual_size = Size(self.scrollable_content_region.width, len(self._lines))
        if follows:
            self.scroll_end(animate=False)
        self.refresh()

    def restart(self) -> None:
        """Expect numbers from 1 on again."""
        self._last = 0

    def on_resize(self) -> None:
        """Fit the lines."""
        self.virtual_size = Size(self.scrollable_content_region.width, len(self._lines))

    def render_line(self, y: int) -> Strip:
        """Draw a line; see `textual.widget.Widget`."""
        at, width = self.scroll_offset.y + y, self.scrollable_content_region.width
        if at >= len(self._lines):
            return Strip.blank(width)
        text, style = self._lines[at]
        return Strip([Segment(set_cell_size(text, width), style)], width)


def event_text(event: SeenEvent, names: Mapping[str, str]) -> str:
    """Return an event as one line that is safe to print."""
    facts = dict(event.facts)
    parts = [strftime("%H:%M:%S", localtime(event.time)), event.name]
    if error := facts.pop("error_type", None):
        parts.append(str(error))
    if peer := str(facts.pop("peer_node_id", "")):
        parts.append(names.get(peer, peer[:_ID_DIGITS]))
    if session := str(facts.pop("session_id", "")):
        parts.append(f"session {session[:_SESSION_DIGITS]}")
    reason = facts.pop("reason", None)
    parts += [f"{key} {value}" for key, value in facts.items()]
    if reason is not None:
        parts.append(f"({reason})")
    return printable_line("  ".join(parts))
