"""The payloads of the handshake messages: fixed sizes, fixed places, reserved bytes."""

from __future__ import annotations

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seigr_toolset_transmissions.errors import STTProtocolError
from seigr_toolset_transmissions.protocol.hello import (
    HELLO_BYTES,
    OPENING_BYTES,
    REPLY_BYTES,
    Hello,
    Opening,
    OpeningKind,
    Reply,
)

U8 = st.integers(0, 2**8 - 1)
U32 = st.integers(0, 2**32 - 1)
U48 = st.integers(0, 2**48 - 1)
U64 = st.integers(0, 2**64 - 1)
ID = st.binary(min_size=16, max_size=16)

INCARNATION = bytes(range(0xA0, 0xB0))
SESSION_ID = bytes(range(0xC0, 0xD0))


def test_the_payloads_make_the_messages_as_long_as_documented() -> None:
    assert (HELLO_BYTES, REPLY_BYTES, OPENING_BYTES) == (16, 64, 96)


def test_a_hello_has_these_bytes() -> None:
    assert Hello(1, 3).encode() == b"\x01\x03" + bytes(14)
    hello = Hello(1, 3, 0x010203040506, b"wxyzWXYZ")
    assert hello.encode() == bytes([1, 3, 1, 2, 3, 4, 5, 6]) + b"wxyzWXYZ"


def test_a_hello_is_for_the_node_that_it_names_or_for_anybody() -> None:
    node_id, other = b"n" * 32, b"o" * 32
    assert Hello(1, 1).may_be_for(node_id)
    named = Hello(1, 1, 5).meant_for(node_id)
    assert named.may_be_for(node_id)
    assert not named.may_be_for(other)
    expected = hmac.digest(node_id, b"seigr-stt/1 recipient" + bytes(5) + b"\x05", "sha256")
    assert named.recipient == expected[:8]
    assert named.recipient != Hello(1, 1, 6).meant_for(node_id).recipient


def test_a_hello_names_one_of_the_hubs_that_share_a_node_id() -> None:
    node, hub, other = bytes(32), INCARNATION, bytes(16)
    hello = Hello(1, 1, 1_700_000_000_000)
    named = hello.meant_for(node, hub)
    assert named.may_be_for(node)
    assert not named.may_be_for(b"n" * 32)
    assert named.names_hub(node)
    assert named.is_for_hub(hub)
    assert not named.is_for_hub(other)
    assert Hello.decode(named.encode()) == named
    for anybody in (hello, hello.meant_for(node)):
        assert not anybody.names_hub(node)


def test_a_reply_has_these_bytes() -> None:
    encoded = Reply(1, 0x01020304, INCARNATION).encode()
    assert encoded == b"\x01" + bytes(3) + b"\x01\x02\x03\x04" + INCARNATION + bytes(40)
    of_hub = Reply(1, 0x01020304, INCARNATION, hub=True).encode()
    assert of_hub == encoded[:1] + b"\x01" + encoded[2:]


def test_an_opening_has_these_bytes() -> None:
    opening = Opening(OpeningKind.RESUME, 0x01020304, INCARNATION, SESSION_ID, 5, 6, 7)
    assert opening.encode() == b"".join(
        (
            b"\x01" + bytes(3) + b"\x01\x02\x03\x04",
            INCARNATION,
            SESSION_ID,
            *(number.to_bytes(8) for number in (5, 6, 7)),
            bytes(32),
        )
    )
    of_hub = opening._replace(hub=True).encode()
    assert of_hub == b"\x01\x01" + opening.encode()[2:]


@given(st.builds(Hello, U8, U8, U48, st.binary(min_size=8, max_size=8)))
def test_a_hello_is_read_as_it_was_written(hello: Hello) -> None:
    assert Hello.decode(hello.encode()) == hello


@given(st.builds(Reply, U8, U32, ID, st.booleans()))
def test_a_reply_is_read_as_it_was_written(reply: Reply) -> None:
    assert Reply.decode(reply.encode()) == reply


@given(st.builds(Opening, st.sampled_from(OpeningKind), U32, ID, ID, U64, U64, U64, st.booleans()))
def test_an_opening_is_read_as_it_was_written(opening: Opening) -> None:
    decoded = Opening.decode(opening.encode())
    assert decoded == opening
    assert type(decoded.kind) is OpeningKind


def test_reserved_bytes_are_ignored() -> None:
    reply = Reply(1, 2, INCARNATION)
    encoded = reply.encode()
    assert Reply.decode(encoded[:1] + b"\xfe\xff\xff" + encoded[4:24] + b"\xff" * 40) == reply
    opening = Opening(OpeningKind.NEW, 2, INCARNATION, SESSION_ID, 5, 6, 7)
    encoded = opening.encode()
    assert Opening.decode(encoded[:1] + b"\xfe\xff\xff" + encoded[4:64] + b"\xff" * 32) == opening


@pytest.mark.parametrize("kind", [2, 255])
def test_an_opening_of_unknown_kind_is_refused(kind: int) -> None:
    with pytest.raises(STTProtocolError, match=f"kind {kind}"):
        Opening.decode(bytes([kind]) + bytes(OPENING_BYTES - 1))


@given(st.binary(min_size=OPENING_BYTES, max_size=OPENING_BYTES))
def test_hostile_openings_raise_only_documented_errors(payload: bytes) -> None:
    try:
        Opening.decode(payload)
    except STTProtocolError:
        assert payload[0] > 1
