"""Addresses and node ids as a user writes them.

``HOST:PORT`` with a name or an IPv4 address, or ``[IPV6]:PORT``. Where a node listens, ``PORT``
alone means this machine only, and ``:PORT`` all of its addresses.
"""

from __future__ import annotations

import ipaddress
import re

from .failures import Misuse

__all__ = [
    "LOOPBACK",
    "format_address",
    "parse_address",
    "parse_listen_address",
    "parse_node_id",
    "short_id",
]

LOOPBACK = "127.0.0.1"
"""This machine only: where `STTNode` listens, too, unless it is given a host."""

_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_NAME = re.compile(r"(?!-)[\w-]{1,63}(?<!-)(\.(?!-)[\w-]{1,63}(?<!-))*\.?")
_NODE_ID = re.compile(r"[0-9a-fA-F]{64}")
_LONGEST_NAME = 253
_SHORT_ID = 8


def parse_address(text: str) -> tuple[str, int]:
    """Return the host and port to dial.

    Raises:
        Misuse: It is not an address; the text shows one.

    """
    example = f"localhost:{text}" if _PORT.fullmatch(text) else "192.0.2.7:9000"
    host, port = _split(text, f"HOST:PORT, for instance {example} or [2001:db8::7]:9000")
    if not host:
        raise Misuse(f"{text!r} names no host: write HOST:PORT, for instance localhost:{port}")
    if port == 0:
        raise Misuse(f"{text!r}: no node can be reached at port 0; ports go from 1 to 65535")
    return host, port


def parse_listen_address(text: str) -> tuple[str, int]:
    """Return the host and port to listen on: host ``""`` for all addresses, port 0 for any free.

    Without a host it is the one on which the library listens by default.

    Raises:
        Misuse: It is not an address; the text shows one.

    """
    form = "PORT, HOST:PORT or :PORT, for instance 9000, 192.0.2.7:9000 or :9000"
    return _split(text, form) if ":" in text else (LOOPBACK, _port(text, text, form))


def _split(text: str, form: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or "/" in text or "@" in text:
        raise Misuse(f"{text!r} is not an address: write {form}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise Misuse(f"{text!r}: {host!r} is not an IPv6 address") from None
    elif ":" in host:
        raise Misuse(f"{text!r} is ambiguous: write an IPv6 address in brackets, [ADDRESS]:PORT")
    elif host and not (_NAME.fullmatch(host) and len(host) <= _LONGEST_NAME):
        raise Misuse(f"{text!r}: {host!r} is not a host name or address; write {form}")
    return host, _port(port, text, form)


def _port(port: str, text: str, form: str) -> int:
    if not _PORT.fullmatch(port):
        raise Misuse(f"{text!r} is not an address: write {form}")
    if int(port) > 65_535:
        raise Misuse(f"{text!r}: ports go up to 65535")
    return int(port)


def parse_node_id(text: str) -> bytes:
    """Return the node id that the text gives in hex.

    Raises:
        Misuse: It is not one.

    """
    if not _NODE_ID.fullmatch(text):
        raise Misuse(
            f"{text!r} is not a node id: write the 64 hex digits that `stt id` prints "
            "on the peer's side"
        )
    return bytes.fromhex(text)


def format_address(address: tuple[str, int]) -> str:
    """Return an address as users write it; ``*`` stands for all addresses of a machine."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host or '*'}:{port}"


def short_id(node_id: bytes) -> str:
    """Return the first digits of a node id, enough to tell a few peers apart."""
    return node_id.hex()[:_SHORT_ID]
