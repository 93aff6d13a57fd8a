"""Looks up host names in such a way that slow ones keep only each other waiting.

The system's look-up blocks its thread, for a minute if a name server does not answer, and cannot be
cancelled. Numeric addresses need no thread. Names do, and there are three groups of threads: for
look-ups that a caller waits for, for others, and for others whose last look-up was slow.
"""

from __future__ import annotations

import errno
import socket
from functools import partial
from typing import Any

from ..foundation.workers import Workers

__all__ = ["AddressInfo", "look_up"]

AddressInfo = tuple[Any, Any, int, str, tuple[Any, ...]]

_SLOW_NAMES = 4096
"""How many names with a slow last look-up are remembered."""

_urgent = Workers("stt-look-up", 16, most=64)
_others = Workers("stt-look-up", 8, most=32)
_slow_others = Workers("stt-look-up", 8)

_slow: dict[str, None] = {}


async def look_up(
    host: str | None, port: int, flags: int = 0, *, urgent: bool = True
) -> list[AddressInfo]:
    """Return the addresses of a host, as `socket.getaddrinfo` does for a stream.

    Args:
        host: A name or numeric address; None for this machine.
        port: The port.
        flags: As for `socket.getaddrinfo`.
        urgent: Whether a call is waiting for it.

    Raises:
        OSError: The host has no address, or its name cannot be one.

    """
    if not 0 <= port <= 65535:
        raise OSError(errno.EINVAL, "a port must be a number from 0 to 65535")
    numeric = flags | socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=numeric)
    except socket.gaierror:
        pass  # a name
    except ValueError as error:  # a label too long for a domain name, or a zero byte
        raise OSError(errno.EINVAL, "that cannot be a host name") from error
    name = host or ""
    workers = _urgent if urgent else _slow_others if name in _slow else _others
    late = False

    def note_slow() -> None:
        nonlocal late
        late = True
        _slow[name] = None
        if len(_slow) > _SLOW_NAMES:
            del _slow[next(iter(_slow))]

    try:
        found = await workers.run(
            partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM, flags=flags),
            note_slow,
        )
        return list(dict.fromkeys(found))  # a hosts file may name an address twice
    finally:
        if not late:
            _slow.pop(name, None)
