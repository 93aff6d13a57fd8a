"""`Guard`: who may ask the console, and for what. It decides by a request's headers alone."""

from __future__ import annotations

import hmac
import secrets
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["HEADERS", "LOOPBACK", "Guard", "Refusal", "in_url"]

HEADERS: dict[str, str] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "stt",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""What each answer has. None lets a page of another origin read it."""

_NAMES = ("127.0.0.1", "localhost", "[::1]")
_ANYWHERE = ("", "0.0.0.0", "::")  # noqa: S104 - addresses that are compared
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HTTP_PORT = 80


class Refusal(NamedTuple):
    """Why a request is refused."""

    status: int
    reason: str


class Guard:
    """Knows the token of a console, the cookie that it is exchanged for, and the console's names.

    Args:
        host: Where the console listens.
        port: Its port.
        allowed_hosts: What else a ``Host`` header may say.

    """

    def __init__(self, host: str, port: int, allowed_hosts: Iterable[str]) -> None:
        self.token: str = secrets.token_urlsafe(32)
        self._pass = secrets.token_urlsafe(32)
        # A browser sends a cookie to all ports of a host, so each console needs a name of its own.
        self._cookie = f"stt-console-{port}"
        own = _NAMES if host in (*_ANYWHERE, *LOOPBACK) else (in_url(host),)
        names = {f"{name}:{port}" for name in own} | {name.lower() for name in allowed_hosts}
        self._hosts = names | set(own) if port == _HTTP_PORT else names

    def __repr__(self) -> str:
        return "<Guard>"

    def refuses(self, headers: Mapping[str, str]) -> Refusal | None:
        """Return why nothing at all is shown; None if the page itself may be.

        A foreign ``Host`` is how a page from elsewhere looks that has had its own name point at
        this machine.
        """
        host = headers.get("Host", "").lower()
        if host not in self._hosts:
            return Refusal(421, "this host name is not served here: see allowed_hosts")
        origin = headers.get("Origin")
        if origin is not None and not _is_at(origin, host):
            return Refusal(403, "another site asks")
        return None

    def refuses_data(self, headers: Mapping[str, str]) -> Refusal | None:
        """Return why nothing of the node is shown or done, although the page may be shown."""
        if refusal := self.refuses_exchange(headers):
            return refusal
        kind, _, token = headers.get("Authorization", "").partition(" ")
        if kind.lower() == "bearer" and self.knows(token.strip()):
            return None
        if not _same(_cookie_of(headers, self._cookie), self._pass):
            return Refusal(401, "open the address that the console has printed")
        return None

    def refuses_exchange(self, headers: Mapping[str, str]) -> Refusal | None:
        """Return why the token may not be exchanged, whatever it is."""
        if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            return Refusal(403, "another site asks")
        return None

    def knows(self, token: str) -> bool:
        """Return whether this is the token, in the same time for every other one."""
        return _same(token, self.token)

    def cookie(self, headers: Mapping[str, str]) -> str:
        """Return the header ``Set-Cookie`` for someone who knows the token."""
        kept = f"{self._cookie}={self._pass}; Path=/; HttpOnly; SameSite=Strict"
        over_tls = urlsplit(headers.get("Origin", "")).scheme == "https"
        return f"{kept}; Secure" if over_tls else kept


def in_url(host: str) -> str:
    """Return a host as a URL has it."""
    return f"[{host}]" if ":" in host else host.lower()


def _is_at(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host


def _cookie_of(headers: Mapping[str, str], name: str) -> str:
    try:
        found = SimpleCookie(headers.get("Cookie", "")).get(name)
    except CookieError:
        return ""
    return "" if found is None else found.value


def _same(given: str, secret: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), secret.encode())
