"""Forked processes: what a child must not share with its parent.

`fork` copies a process as it stands. The child holds the parent's sockets, so it could take bytes
meant for the parent; the parent's keys and message counts, so both would encrypt under the same
nonce; and locks held by threads that the child does not have. The owner of such a thing registers
here what to do about it in a child.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Never

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Orphan", "belongs_to_parent", "in_child"]


def in_child(call: Callable[[], None]) -> None:
    """Run ``call`` in every forked child before anything else of this library runs there.

    Only for use at module level: it cannot be undone.
    """
    if hasattr(os, "register_at_fork"):  # without it there is no fork
        os.register_at_fork(after_in_child=call)


def belongs_to_parent(what: str) -> RuntimeError:
    """Return the error for using, in a child, something that its parent has begun to use."""
    return RuntimeError(
        f"{what} belongs to the parent of this forked process and cannot be used here: create and "
        'start a node in the child, or use the start method "spawn" of multiprocessing'
    )


class Orphan:
    """Replaces, in a child, something of its parent: every access is an error."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __getattr__(self, name: str) -> Never:
        raise belongs_to_parent(self._what)
