from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seigr_toolset_transmissions.cli.addresses import (
    format_address,
    parse_address,
    parse_listen_address,
    parse_node_id,
    short_id,
)
from seigr_toolset_transmissions.cli.failures import Misuse


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost:9000", ("localhost", 9000)),
        ("192.0.2.7:1", ("192.0.2.7", 1)),
        ("[2001:db8::7]:65535", ("2001:db8::7", 65_535)),
        ("[fe80::1%eth0]:9000", ("fe80::1%eth0", 9000)),
        ("hub.example.org.:9000", ("hub.example.org.", 9000)),
        ("my_host-2:9000", ("my_host-2", 9000)),
        ("müller.example:9000", ("müller.example", 9000)),
    ],
)
def test_an_address_is_host_and_port(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address
    assert parse_listen_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "9000",
        "localhost",
        "localhost:",
        ":9000",
        "localhost:0",
        "localhost:65536",
        "localhost:-1",
        "localhost:+1",
        "localhost: 1",
        "localhost:1_0",
        "localhost:٣",
        "localhost:90a",
        "localhost:000000009000",
        "::1:9000",
        "[::1]",
        "[::1:9000",
        "::1]:9000",
        "[localhost]:9000",
        "[::g]:9000",
        "http://localhost:9000",
        "user@localhost:9000",
        "local host:9000",
        "-option:9000",
        "a..b:9000",
        f"{'x' * 64}:9000",
        f"{'.'.join(['x' * 60] * 5)}:9000",
        "a\0b:9000",
        "a\nb:9000",
    ],
)
def test_an_address_that_cannot_be_dialed_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(Misuse) as caught:
        parse_address(text)
    assert "\n" not in str(caught.value)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9000", ("127.0.0.1", 9000)),
        (":9000", ("", 9000)),
        ("0", ("127.0.0.1", 0)),
        ("[::]:0", ("::", 0)),
    ],
)
def test_a_listener_may_leave_out_the_host_and_have_any_port(
    text: str, address: tuple[str, int]
) -> None:
    assert parse_listen_address(text) == address


@pytest.mark.parametrize("text", ["", "x", "70000", "::1", "host:x", "host:70000", "1 2"])
def test_an_address_that_cannot_be_listened_on_is_refused(text: str) -> None:
    with pytest.raises(Misuse, match=r"write|ports go up|ambiguous"):
        parse_listen_address(text)


@given(st.text() | st.from_regex(r"[\w.\[\]:%-]{0,20}:[0-9]{0,6}", fullmatch=True))
def test_any_text_is_an_address_or_a_misuse(text: str) -> None:
    for parse, lowest in ((parse_address, 1), (parse_listen_address, 0)):
        try:
            host, port = parse(text)
        except Misuse:
            continue
        assert lowest <= port <= 65_535
        assert host or parse is parse_listen_address
        assert not set(host) & set(" \0\n/@[]")


@given(
    st.from_regex(r"[a-z0-9]{1,20}(\.[a-z0-9]{1,20}){0,3}", fullmatch=True)
    | st.ip_addresses().map(str),
    st.integers(1, 65_535),
)
def test_an_address_that_is_shown_can_be_typed(host: str, port: int) -> None:
    assert parse_address(format_address((host, port))) == (host, port)


def test_all_addresses_are_shown_as_a_star() -> None:
    assert format_address(("", 9000)) == "*:9000"


@given(st.binary(min_size=32, max_size=32))
def test_a_node_id_is_64_hex_digits(node_id: bytes) -> None:
    assert parse_node_id(node_id.hex()) == node_id
    assert parse_node_id(node_id.hex().upper()) == node_id
    assert node_id.hex().startswith(short_id(node_id))


@pytest.mark.parametrize("text", ["", "ab", "g" * 64, "ab" * 33, " " + "ab" * 32, "ab " * 32])
def test_an_invalid_node_id_is_refused(text: str) -> None:
    with pytest.raises(Misuse, match="stt id"):
        parse_node_id(text)


def test_a_port_alone_is_no_address_to_dial_and_an_address_with_it_is_shown() -> None:
    with pytest.raises(Misuse, match="write HOST:PORT, for instance localhost:9000 or"):
        parse_address("9000")
