"""Sizes and rates for people."""

from __future__ import annotations

__all__ = ["describe"]


def describe(size: int, seconds: float) -> str:
    """Return for instance ``1,048,576 bytes in 0.5 s (2.1 MB/s)``."""
    rate = f" ({size / seconds / 1e6:,.1f} MB/s)" if size and seconds > 0 else ""
    return f"{size:,} bytes in {seconds:.1f} s{rate}"
