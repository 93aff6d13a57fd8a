"""Which members of the group may have a session with this node."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import TYPE_CHECKING

from ..foundation.callables import is_async
from ..foundation.repeats import Repeats
from ..identity import NODE_ID_BYTES

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

__all__ = ["Access", "Allow"]

logger: logging.Logger = logging.getLogger(__name__)

Allow = Iterable[bytes] | Callable[[bytes], object]
"""Node ids, or a function that returns whether a node id is welcome."""


class Access:
    """The peers that a node allows, without those that it has banned.

    Args:
        allow: Node ids of 32 bytes each; or a function that gets the node id of each peer that has
            proven its identity, and returns whether that peer may have a session. None: every
            member of the group may.

    Raises:
        TypeError: ``allow`` is neither, is async, or contains anything but ``bytes``.
        ValueError: An id has another length.

    """

    def __init__(self, allow: Allow | None) -> None:
        self._allowed: AbstractSet[bytes] | None = None
        self._predicate: Callable[[bytes], object] | None = None
        self._banned: set[bytes] = set()
        self._failures = Repeats(logger)
        if callable(allow):
            if is_async(allow):  # what it returns would be true for everybody
                raise TypeError("the allow function must not be async: write it with `def`")
            self._predicate = allow
        elif allow is not None:
            if isinstance(allow, bytes | bytearray | memoryview | str):
                raise TypeError("allow must be a set of node ids, or a function, not one id")
            self._allowed = frozenset(map(check_node_id, allow))

    def refusal(self, node_id: bytes) -> str | None:
        """Return why this peer may have no session; None if it may.

        If the application's function returns an awaitable or raises anything (other than
        `KeyboardInterrupt` and `SystemExit`, which propagate), the peer is refused, and the log
        says why: with a traceback the first time, and then with a count every 10 seconds, because
        any member can cause this as often as it likes. Call it in a running event loop.
        """
        if node_id in self._banned:
            return "the peer is banned"
        if self._allowed is not None and node_id not in self._allowed:
            return "the peer is not among the node ids that are allowed"
        if self._predicate is None:
            return None
        try:
            welcome = self._predicate(node_id)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - in the log
            self._failures.error("the allow function failed; the peer is refused", error)
            return "the allow function failed"
        if isinstance(welcome, Awaitable):
            if isinstance(welcome, Coroutine):
                welcome.close()
            self._failures.error("the allow function returned an awaitable; the peer is refused")
            return "the allow function failed"
        return None if welcome else "the allow function refused the peer"

    def ban(self, node_id: bytes) -> None:
        """Refuse this peer from now on."""
        self._banned.add(check_node_id(node_id))

    def unban(self, node_id: bytes) -> None:
        """Take a ban back; does nothing if there is none."""
        self._banned.discard(node_id)

    def bans(self, node_id: bytes) -> bool:
        """Whether this peer is banned now."""
        return node_id in self._banned

    @property
    def banned(self) -> frozenset[bytes]:
        """The node ids that are banned now."""
        return frozenset(self._banned)


def check_node_id(node_id: object) -> bytes:
    """Return the node id if it can be one.

    Raises:
        TypeError: It is not ``bytes``.
        ValueError: Its length is not `NODE_ID_BYTES`.

    """
    if not isinstance(node_id, bytes):
        raise TypeError(f"a node id is bytes, not {type(node_id).__name__}")
    if len(node_id) != NODE_ID_BYTES:
        raise ValueError(f"a node id has {NODE_ID_BYTES} bytes, not {len(node_id)}")
    return node_id
