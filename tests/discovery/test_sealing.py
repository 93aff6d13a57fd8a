"""What an announcement says: members read it, and nobody else reads it or says another thing."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seigr_toolset_transmissions.discovery.sealing import (
    MOST_ADDRESSES,
    NAME_BYTES,
    SEALED_BYTES,
    Place,
    seal,
    unseal,
)

pytestmark = pytest.mark.once

KEYS = st.binary(min_size=32, max_size=32)
NAMES = st.binary(min_size=NAME_BYTES, max_size=NAME_BYTES)
ADDRESSES = st.ip_addresses(v=4) | st.ip_addresses(v=6, network="2000::/3")
PLACES = st.builds(
    Place,
    st.binary(min_size=32, max_size=32),
    st.integers(1, 65_535),
    st.lists(ADDRESSES, min_size=1, max_size=MOST_ADDRESSES).map(tuple),
)

KEY, NAME = bytes(range(32)), bytes(range(100, 112))
PLACE = Place(bytes(range(200, 232)), 9400, (ip_address("192.0.2.7"), ip_address("2001:db8::7")))


@given(KEYS, NAMES, PLACES)
def test_a_member_reads_what_was_sealed_and_every_announcement_has_one_size(
    key: bytes, name: bytes, place: Place
) -> None:
    sealed = seal(key, name, place)
    assert len(sealed) == SEALED_BYTES
    assert unseal(key, name, sealed) == place


@given(KEYS.filter(lambda key: key != KEY))
def test_another_group_reads_nothing(key: bytes) -> None:
    assert unseal(key, NAME, seal(KEY, NAME, PLACE)) is None


@given(st.integers(0, SEALED_BYTES - 1), st.integers(1, 255))
def test_no_byte_can_be_altered(at: int, change: int) -> None:
    sealed = bytearray(seal(KEY, NAME, PLACE))
    sealed[at] ^= change
    assert unseal(KEY, NAME, bytes(sealed)) is None


@given(NAMES.filter(lambda name: name != NAME))
def test_it_says_nothing_under_another_name(name: bytes) -> None:
    assert unseal(KEY, name, seal(KEY, NAME, PLACE)) is None


@given(st.binary(max_size=2 * SEALED_BYTES), st.binary(max_size=24))
def test_whatever_a_stranger_says_is_nothing(name: bytes, sealed: bytes) -> None:
    assert unseal(KEY, name, sealed) is None


@pytest.mark.parametrize(
    "useless", [PLACE._replace(port=0), PLACE._replace(addresses=())], ids=["port", "addresses"]
)
def test_a_member_that_names_no_place_is_not_found(useless: Place) -> None:
    assert unseal(KEY, NAME, seal(KEY, NAME, useless)) is None
