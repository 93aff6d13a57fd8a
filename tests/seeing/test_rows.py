"""The table of endpoints: what matches, in which order, and which part of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from seigr_toolset_transmissions.seeing import Rates
from seigr_toolset_transmissions.seeing.rows import Query, rows_of
from seigr_toolset_transmissions.stats import EndpointSnapshot

if TYPE_CHECKING:
    from collections.abc import Container

PLAIN = EndpointSnapshot(
    endpoint_id=bytes(32),
    name=None,
    address=None,
    state="connected",
    sessions=1,
    rtt=None,
    inbox_messages=0,
    inbox_bytes=0,
    unacknowledged_bytes=0,
    messages_sent=0,
    messages_received=0,
    bytes_sent=0,
    bytes_received=0,
    resumes=0,
    last_activity=None,
)
ENDPOINTS = [
    replace(PLAIN, endpoint_id=b"\xa0" * 32, name="Beta", rtt=0.2, address=("192.0.2.7", 9000)),
    replace(PLAIN, endpoint_id=b"\xb1" * 32, state="waiting", inbox_bytes=7),
    replace(PLAIN, endpoint_id=b"\xc2" * 32, name="alpha", rtt=0.1, address=("2001:db8::7", 1)),
]
RATES = {ENDPOINTS[1].endpoint_id: Rates(0, 1, 0, 5), ENDPOINTS[2].endpoint_id: Rates(1, 0, 9, 0)}


def rates(only: Container[bytes] | None) -> dict[bytes, Rates]:
    return {key: value for key, value in RATES.items() if only is None or key in only}


def found(**given: str) -> str:
    """Return the first letters of the ids of the rows."""
    result = rows_of(ENDPOINTS, rates, Query.read(given), None, frozenset())
    return "".join(row["id"][0] for row in result["rows"])


@pytest.mark.parametrize(
    ("sort", "up", "down"),
    [
        ("added", "abc", "cba"),
        ("name", "cab", "acb"),
        ("state", "acb", "bac"),
        ("rtt", "cab", "acb"),  # what is not known comes last
        ("inbox", "acb", "bac"),
        ("received", "cba", "bca"),
        ("sent", "bca", "cba"),
        ("active", "abc", "abc"),
    ],
)
def test_the_rows_are_sorted(sort: str, up: str, down: str) -> None:
    assert found(sort=sort) == up
    assert found(sort=sort, order="down") == down


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"filter": "ALPHA"}, "c"),
        ({"filter": "b1b1"}, "b"),
        ({"filter": "192.0.2.7:90"}, "a"),
        ({"filter": "[2001:db8::7]:1"}, "c"),
        ({"filter": "<script>"}, ""),
        ({"state": "connected"}, "ac"),
        ({"state": "connected", "filter": "a0"}, "a"),
        ({"state": "no such state"}, ""),
    ],
)
def test_the_rows_are_filtered(given: dict[str, str], expected: str) -> None:
    assert found(**given) == expected


def test_only_the_part_that_is_shown_is_sent() -> None:
    query = Query.read({"offset": "1", "count": "1"})
    banned = frozenset({ENDPOINTS[1].endpoint_id})
    result = rows_of(ENDPOINTS, rates, query, ENDPOINTS[2].endpoint_id, banned)
    assert result["matching"] == 3
    [row] = result["rows"]
    assert (row["name"], row["received"], row["banned"]) == ("", 5, True)
    assert (result["selected"]["name"], result["selected"]["sent"]) == ("alpha", 9)
    assert found(offset="3") == ""
    assert found(count="0") == ""


def test_a_name_is_shown_in_part_if_it_is_long() -> None:
    long = replace(PLAIN, name="x" * 10**6)
    [row] = rows_of([long], rates, Query.read({}), None, frozenset())["rows"]
    assert row["name"] == "x" * 200
    assert row["sent"] is None


@pytest.mark.parametrize(
    "given",
    [
        {"sort": "nonsense"},
        {"count": "101"},
        {"count": "-1"},
        {"offset": "-1"},
        {"offset": "x"},
        {"filter": "x" * 201},
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Query.read(given)
