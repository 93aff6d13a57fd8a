"""The columns of a table of endpoints, for `stt status` and `stt top`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.cells import set_cell_size

from ..seeing import Rates
from .addresses import format_address, short_id
from .amounts import bytes_text, count_text, rtt_text
from .printable import printable_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .. import EndpointSnapshot
    from ..seeing import RemoteMonitor

__all__ = ["COLUMNS", "GAP", "Column", "Row", "by_traffic", "cells", "fitted", "fitting", "rows_of"]

GAP = "  "
_ID_DIGITS = 16
_NOTHING = Rates(0, 0, 0, 0)


class Row(NamedTuple):
    """An endpoint, as it is shown."""

    name: str
    """What to call it, as one line that is safe to print."""
    endpoint: EndpointSnapshot
    rates: Rates

    def texts(self) -> tuple[str, ...]:
        """Return what a search looks at."""
        endpoint_id = self.endpoint.endpoint_id.hex()
        return self.name, endpoint_id, _address(self), self.endpoint.state


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table."""

    title: str
    width: int
    """In letters; of the first column: at least."""
    text: Callable[[Row], str]
    key: Callable[[Row], Any]
    """What it is sorted by."""
    figures: bool = True
    """Whether it has figures, which stand to the right, and of which the largest come first."""


def _address(row: Row) -> str:
    address = row.endpoint.address
    return "-" if address is None else printable_line(format_address(address))


COLUMNS: tuple[Column, ...] = (
    Column("endpoint", 16, lambda row: row.name, lambda row: row.name.casefold(), figures=False),
    Column(
        "state",
        12,
        lambda row: printable_line(row.endpoint.state),
        lambda row: row.endpoint.state,
        figures=False,
    ),
    Column("rtt", 7, lambda row: rtt_text(row.endpoint.rtt), lambda row: row.endpoint.rtt or 0.0),
    Column(
        "in/s",
        8,
        lambda row: bytes_text(row.rates.bytes_received),
        lambda row: row.rates.bytes_received,
    ),
    Column(
        "out/s",
        8,
        lambda row: bytes_text(row.rates.bytes_sent),
        lambda row: row.rates.bytes_sent,
    ),
    Column(
        "inbox",
        8,
        lambda row: bytes_text(row.endpoint.inbox_bytes),
        lambda row: row.endpoint.inbox_bytes,
    ),
    Column(
        "unacked",
        8,
        lambda row: bytes_text(row.endpoint.unacknowledged_bytes),
        lambda row: row.endpoint.unacknowledged_bytes,
    ),
    Column("address", 21, _address, _address, figures=False),
    Column(
        "id",
        8,
        lambda row: short_id(row.endpoint.endpoint_id),
        lambda row: row.endpoint.endpoint_id,
        figures=False,
    ),
    Column(
        "resumes", 7, lambda row: count_text(row.endpoint.resumes), lambda row: row.endpoint.resumes
    ),
)
"""In the order in which they are left out where there is no room for all, the last one first."""


def rows_of(monitor: RemoteMonitor) -> list[Row]:
    """Return the endpoints that a monitor sees now."""
    rates = monitor.endpoint_rates()
    return [
        Row(
            printable_line(endpoint.name or endpoint.endpoint_id.hex()[:_ID_DIGITS]),
            endpoint,
            rates.get(endpoint.endpoint_id, _NOTHING),
        )
        for endpoint in monitor.snapshot.endpoints
    ]


def by_traffic(row: Row) -> float:
    """Return how many bytes an endpoint sends and receives each second."""
    return row.rates.bytes_sent + row.rates.bytes_received


def fitting(width: int) -> list[tuple[Column, int]]:
    """Return the columns for which there is room, each with its width; the first gets the rest."""
    shown, left = [COLUMNS[0]], width - COLUMNS[0].width
    for column in COLUMNS[1:]:
        left -= column.width + len(GAP)
        if left < 0:
            left += column.width + len(GAP)
            break
        shown.append(column)
    return [(column, column.width + (0 if index else left)) for index, column in enumerate(shown)]


def fitted(texts: Iterable[str], columns: Iterable[tuple[Column, int]]) -> Iterator[str]:
    """Return the texts of a row, each as wide as its column."""
    for text, (column, width) in zip(texts, columns, strict=True):
        yield (
            text.rjust(width)
            if column.figures and len(text) < width
            else set_cell_size(text, width)
        )


def cells(texts: Iterable[str], columns: Iterable[tuple[Column, int]]) -> str:
    """Return the texts of a row as one line."""
    return GAP.join(fitted(texts, columns))
