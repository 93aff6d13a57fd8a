"""Forked processes: what a child must not share with its parent.

`fork` copies a process as it stands. The child holds the parent's sockets, so that it could take
bytes meant for the parent; the parent's keys and message counts, so that both would encrypt under
the same nonce; and locks held by threads that the child does not have. Whoever owns such a thing
registers here what to do about it in a child.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Never

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Orphan", "belongs_to_parent", "in_child"]


def in_child(call: Callable[[], None]) -> None:
    """Have ``call`` run in every forked child, before anything else of this library runs there.

    For module level only: it cannot be taken back.
    """
    if hasattr(os, "register_at_fork"):  # elsewhere there is no fork
        os.register_at_fork(after_in_child=call)


def belongs_to_parent(what: str) -> RuntimeError:
    """Return the error for the use, in a child, of something that its parent has begun to use."""
    return RuntimeError(
        f"{what} belongs to the parent of this forked process and cannot be used here: create and "
        'start a node in the child, or use the start method "spawn" of multiprocessing'
    )


class Orphan:
    """Stands, in a child, for something of its parent: whatever it is asked for is an error."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __getattr__(self, name: str) -> Never:
        raise belongs_to_parent(self._what)
