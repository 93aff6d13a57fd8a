"""A forked child that makes one call, and the result of that call."""

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
    """Fork now, make a call in the child, and return its result or error as text."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Python warns of forks when there are threads; surviving those is what is tested.
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
