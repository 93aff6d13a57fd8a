"""What the machine that runs the tests offers."""

from __future__ import annotations

import socket

__all__ = ["has_ipv6"]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True
