"""A forked child that makes one call, and what came of it."""

from __future__ import annotations

import os
import select
import signal
import warnings
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["in_fork", "needs_fork"]

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

_SECONDS = 20


def in_fork(call: Callable[[], object]) -> str:
    """Make a call in a forked child of this very moment; return its result, or error, as text."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Python warns of forks beside threads; surviving them is what is tested.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            outcome = str(call())
        except BaseException as error:  # noqa: BLE001 - for the parent to see
            outcome = f"{type(error).__name__}: {error}"
        os.write(writer, outcome.encode())
        os._exit(0)
    os.close(writer)
    try:
        if not select.select([reader], [], [], _SECONDS)[0]:
            os.kill(pid, signal.SIGKILL)
        return os.read(reader, 65_536).decode()
    finally:
        os.close(reader)
        os.waitpid(pid, 0)
