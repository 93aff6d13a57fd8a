"""Amounts for people: sizes, rates, times, in a few letters each."""

from __future__ import annotations

__all__ = ["bytes_text", "count_text", "rtt_text", "span_text"]

_STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_SPANS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def bytes_text(size: float) -> str:
    """Return for instance ``12.3 MB``: at most 8 letters."""
    return _scaled(size, "B")


def count_text(count: float) -> str:
    """Return for instance ``12.3 k``, or ``999``: at most 7 letters."""
    return _scaled(count, "").rstrip()


def _scaled(value: float, unit: str) -> str:
    for step, prefix in _STEPS:
        if value >= 0.9995 * step:
            scaled = value / step
            return f"{scaled:.{_digits(scaled)}f} {prefix}{unit}"
    return f"{value:.0f} {unit}" if value >= 9.95 or value == int(value) else f"{value:.1f} {unit}"


def _digits(value: float) -> int:
    return 2 if value < 9.995 else 1 if value < 99.95 else 0


def rtt_text(seconds: float | None) -> str:
    """Return a round trip, for instance ``0.42 ms``, or ``-`` if it is unknown."""
    if seconds is None:
        return "-"
    if seconds >= 1:
        return f"{seconds:.{_digits(seconds)}f} s"
    value = 1000 * seconds
    return f"{value:.{_digits(value)}f} ms"


def span_text(seconds: float) -> str:
    """Return for instance ``3 h 12 min``: the two largest units."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for length, name in _SPANS:
        count, left = divmod(left, length)
        if count or parts or length == 1:
            parts.append(f"{count} {name}")
    return " ".join(parts[:2])
