"""Who may ask the console: hosts, origins, the token and the cookie."""

from __future__ import annotations

from http.cookies import SimpleCookie

import pytest

from seigr_toolset_transmissions.seeing.guard import HEADERS, Guard

OWN = "127.0.0.1:8765"


@pytest.fixture
def guard() -> Guard:
    return Guard("127.0.0.1", 8765, ("STT.example.org",))


def signed_in(guard: Guard, origin: str = f"http://{OWN}") -> dict[str, str]:
    """Return the headers of a page that has exchanged the token."""
    [morsel] = SimpleCookie(guard.cookie({"Origin": origin})).values()
    return {"Host": OWN, "Cookie": f"other=1; {morsel.key}={morsel.value}"}


@pytest.mark.parametrize("host", [OWN, "LOCALHOST:8765", "[::1]:8765", "stt.example.org"])
def test_the_page_is_served_under_its_own_names(guard: Guard, host: str) -> None:
    assert guard.refuses({"Host": host}) is None
    assert guard.refuses({"Host": host, "Origin": f"http://{host}"}) is None


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:8765",
        "127.0.0.1",
        "127.0.0.1:80",
        "localhost.evil.example:8765",
        "user@127.0.0.1:8765",
        "stt.example.org:8765",
        "127.0.0.1:8765.",
    ],
)
def test_a_foreign_host_is_misdirected(guard: Guard, host: str) -> None:
    refusal = guard.refuses({"Host": host})
    assert refusal is not None
    assert refusal.status == 421
    assert guard.refuses({}) == refusal


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "http://evil.example",
        "http://127.0.0.1:8766",
        "http://localhost:8765",
        f"ftp://{OWN}",
        f"http://{OWN}@evil.example",
        "http://[",
    ],
)
def test_another_origin_is_refused(guard: Guard, origin: str) -> None:
    refusal = guard.refuses({"Host": OWN, "Origin": origin})
    assert refusal is not None
    assert refusal.status == 403


def test_the_names_follow_from_where_the_console_listens() -> None:
    assert Guard("192.0.2.7", 80, ()).refuses({"Host": "192.0.2.7"}) is None
    assert Guard("2001:db8::7", 8765, ()).refuses({"Host": "[2001:DB8::7]:8765"}) is None
    assert Guard("192.0.2.7", 8765, ()).refuses({"Host": OWN}) is not None
    everywhere = Guard("", 8765, ())
    assert everywhere.refuses({"Host": OWN}) is None
    assert everywhere.refuses({"Host": "192.0.2.7:8765"}) is not None


def test_the_cookie_and_the_token_open_the_data(guard: Guard) -> None:
    assert guard.refuses_data(signed_in(guard)) is None
    assert guard.refuses_data({"Authorization": f"Bearer {guard.token}"}) is None
    assert guard.refuses_data({"Authorization": f"bearer  {guard.token} "}) is None


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer \udcff"},
        {"Authorization": "Bearer wrong"},
        {"Cookie": "stt-console-8765="},
        {"Cookie": "stt-console-8765=wrong"},
        {"Cookie": "stt-console-8765=\udcff; ;=;=="},
    ],
)
def test_anything_else_opens_nothing(guard: Guard, headers: dict[str, str]) -> None:
    refusal = guard.refuses_data(headers)
    assert refusal is not None
    assert refusal.status == 401


def test_the_token_is_no_cookie_and_the_cookie_no_token(guard: Guard) -> None:
    found = signed_in(guard)["Cookie"].rpartition("=")[2]
    assert not guard.knows(found)
    assert guard.refuses_data({"Authorization": f"Bearer {found}"}) is not None
    assert guard.refuses_data({"Cookie": f"stt-console-8765={guard.token}"}) is not None


def test_the_cookie_of_another_console_opens_nothing(guard: Guard) -> None:
    assert guard.refuses_data(signed_in(Guard("127.0.0.1", 8765, ()))) is not None


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_of_another_site_gets_no_data_with_the_readers_cookie(
    guard: Guard, site: str
) -> None:
    """A page at another port of this machine is of the same site, and the cookie goes along."""
    headers = signed_in(guard) | {"Sec-Fetch-Site": site}
    assert guard.refuses(headers) is None  # a link to the page itself may be followed
    for refusal in (guard.refuses_data(headers), guard.refuses_exchange(headers)):
        assert refusal is not None
        assert refusal.status == 403


def test_the_cookie_is_for_this_page_alone(guard: Guard) -> None:
    [morsel] = SimpleCookie(guard.cookie({"Origin": f"http://{OWN}"})).values()
    assert morsel["httponly"]
    assert morsel["samesite"] == "Strict"
    assert not morsel["secure"]
    [morsel] = SimpleCookie(guard.cookie({"Origin": "https://stt.example.org"})).values()
    assert morsel["secure"]


def test_the_policy_lets_in_nothing_from_elsewhere_and_nothing_inline() -> None:
    policy = HEADERS["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert not any(name.startswith("Access-Control") for name in HEADERS)


def test_a_guard_does_not_show_its_token(guard: Guard) -> None:
    assert guard.token not in repr(guard)
    assert len(guard.token) >= 43  # 256 bits
