"""The times that callers are willing to wait."""

from __future__ import annotations

from typing import Any

__all__ = ["check_timeout"]


def check_timeout(timeout: Any) -> None:
    """Raise TypeError or ValueError if ``timeout`` is neither None nor a number of seconds.

    A negative number is allowed: it is what is left of the time after a deadline has passed.
    """
    if timeout is None:
        return
    if not isinstance(timeout, int | float):
        kind = type(timeout).__name__
        raise TypeError(f"timeout must be a number of seconds or None, not {kind}")
    if timeout != timeout:  # true of NaN alone
        raise ValueError("timeout must be a number of seconds or None, not NaN")
