"""What hubs say to each other is read back as it was written; nonsense is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seigr_toolset_transmissions.cluster.messages import (
    BadMessageError,
    Kind,
    pack_broadcast,
    pack_done,
    pack_json,
    pack_numbers,
    pack_routes,
    unpack_broadcast,
    unpack_done,
    unpack_json,
    unpack_numbers,
    unpack_routes,
)
from seigr_toolset_transmissions.errors import STTMessageSizeError

MARKS = st.lists(st.binary(min_size=8, max_size=8))


@given(joined=MARKS, left=MARKS)
def test_routes_are_read_back(joined: list[bytes], left: list[bytes]) -> None:
    come, gone = list[bytes](), list[bytes]()
    for message in pack_routes([(mark, b"ABCD", 1500) for mark in joined], left):
        here, away = unpack_routes(message)
        assert all(each[1:] == (b"ABCD", 1500) for each in here)
        come += [each[0] for each in here]
        gone += away
    assert (come, gone) == (joined, left)


def test_many_routes_take_several_messages() -> None:
    marks = [number.to_bytes(8) for number in range(10_000)]
    assert len(list(pack_routes([(mark, b"ABCD", 0) for mark in marks], marks))) == 3


@given(st.dictionaries(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)))
def test_confirmations_are_read_back(delivered: dict[int, int]) -> None:
    assert {
        lane: count for message in pack_done(delivered) for lane, count in unpack_done(message)
    } == delivered


def test_many_confirmations_take_several_messages() -> None:
    delivered = dict.fromkeys(range(10_000), 1)
    assert [len(list(unpack_done(message))) for message in pack_done(delivered)] == [
        4096,
        4096,
        1808,
    ]


def test_metadata_come_back_with_what_json_can_carry() -> None:
    metadata = {
        "key": b"\x00\x01",
        "$bytes": "no bytes",
        "$$": {"$bytes": "00"},
        "list": [1, (2, b"3"), {4}],
        5: "a key that is no text",
        "callable": print,
    }
    assert unpack_json(pack_json(metadata)) == {
        "key": b"\x00\x01",
        "$bytes": "no bytes",
        "$$": {"$bytes": "00"},
        "list": [1, [2, b"3"]],
    }


def test_a_broadcast_that_leaves_out_too_many_is_refused() -> None:
    few = [number.to_bytes(32) for number in range(900)]
    assert unpack_broadcast(pack_broadcast(1, None, few, 1.0, b""))[2] == frozenset(few)
    with pytest.raises(STTMessageSizeError, match="leave out fewer endpoints"):
        pack_broadcast(1, None, [number.to_bytes(32) for number in range(1000)], 1.0, b"")


@given(
    where=st.none() | st.dictionaries(st.text(), st.text() | st.binary() | st.integers()),
    exclude=st.frozensets(st.binary()),
    data=st.binary(),
)
def test_broadcasts_are_read_back(
    where: dict[str, object] | None, exclude: frozenset[bytes], data: bytes
) -> None:
    assert unpack_broadcast(pack_broadcast(7, where, exclude, 1.5, data)) == (
        7,
        where,
        exclude,
        1.5,
        data,
    )


def test_what_does_not_travel_is_left_out() -> None:
    told = {"a": 1, "b": b"x", "c": object(), "d": [1, object()], "e": {"f": None}}
    assert unpack_json(pack_json(told)) == {"a": 1, "b": b"x", "d": [1], "e": {"f": None}}


@pytest.mark.parametrize("kind", [Kind.LANE, Kind.CLOSE, Kind.GONE, Kind.TALLY, Kind.BAN])
def test_messages_of_a_wrong_length_are_refused(kind: Kind) -> None:
    for data in (bytes((kind,)), bytes((kind,)) + bytes(99)):
        with pytest.raises(BadMessageError):
            unpack_numbers(kind, data)


def test_a_lane_is_read_back() -> None:
    assert unpack_numbers(Kind.LANE, pack_numbers(Kind.LANE, 3, bytes(32))) == (3, bytes(32))


@given(st.binary())
def test_nonsense_is_refused(data: bytes) -> None:
    for unpack in (
        unpack_routes,
        unpack_broadcast,
        lambda d: list(unpack_done(d)),
        unpack_json,
    ):
        with contextlib.suppress(BadMessageError):  # and nothing else comes out of it
            unpack(data)
