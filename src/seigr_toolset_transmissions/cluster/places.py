"""What a program says about where hubs meet: URLs, and lists of addresses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from ..transports.nats import without_password
from .meeting import FolderMeeting

if TYPE_CHECKING:
    from ..transports.base import Address

__all__ = ["Folder", "Server", "read_address", "read_where"]

_EVERYWHERE = {"0.0.0.0", "::"}  # noqa: S104  they are refused


class Folder(NamedTuple):
    """A folder of this machine."""

    path: str


class Server(NamedTuple):
    """A NATS server."""

    url: str


def read_where(where: object) -> Folder | Server | list[Address]:
    """Return the place that text names, or the addresses in a list of texts.

    Raises:
        TypeError: It is neither.
        ValueError: It is no place where hubs can meet; the message says what is.

    """
    if isinstance(where, str):
        return _read_url(where)
    if not isinstance(where, Iterable):
        raise TypeError(
            "where must be a URL, as in Cluster('unix:///run/app/hubs'), a Bus, or a list of the "
            f"addresses of all hubs, not {where!r}"
        )
    addresses = [read_address(text) for text in where]
    if not addresses:
        raise ValueError("the list of the addresses of all hubs is empty")
    for host, port in addresses:
        if not port:
            raise ValueError(f"'tcp://{host}' has no port: other hubs must know which it is")
    return list(dict.fromkeys(addresses))


def _read_url(text: str) -> Folder | Server:
    url = urlsplit(text)
    plain = not url.query and not url.fragment
    if url.scheme in {"nats", "tls"} and url.netloc and plain:
        return Server(text)
    if url.scheme == "unix" and url.path.startswith("/") and not url.netloc and plain:
        try:
            FolderMeeting.check(url.path)
        except OSError as error:
            raise ValueError(f"hubs cannot meet in {url.path}: {error.strerror}") from error
        return Folder(url.path)
    raise ValueError(
        f"hubs cannot meet at {without_password(text)!r}: give the absolute path of a folder, as "
        "in 'unix:///run/app/hubs', or a NATS server, as in 'nats://broker:4222' (and its options "
        "to a NatsBus), or a list of the addresses of all hubs, as in ['tcp://10.0.0.5:7000']"
    )


def read_address(text: object) -> Address:
    """Return the host and the port of an address, 0 if it has none.

    Raises:
        TypeError: It is no text.
        ValueError: It is no address.

    """
    if not isinstance(text, str):
        raise TypeError(f"the address of a hub must be a str, not {text!r}")
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port or 0
    except ValueError:  # the port is not a number, say
        host = None
    if not host or "@" in url.netloc or text != f"tcp://{url.netloc}":
        raise ValueError(f"{text!r} is not the address of a hub, such as 'tcp://10.0.0.5:7000'")
    if host in _EVERYWHERE:
        raise ValueError(f"{text!r} leads other hubs nowhere: give the address where they reach it")
    return host, port
