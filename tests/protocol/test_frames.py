"""Frames: their bytes, their reading in any pieces, and what hostile bytes can cause."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from seigr_toolset_transmissions.errors import STTLimitError, STTProtocolError
from seigr_toolset_transmissions.protocol.frames import (
    MAX_DATA_BYTES,
    Abort,
    Ack,
    Cancel,
    Close,
    CloseAck,
    Frame,
    FrameDecoder,
    FrameType,
    Pad,
    Part,
    Ping,
    Pong,
    ReplyEnd,
    RequestEnd,
    Welcome,
    WelcomeStatus,
    encode_data,
    encode_header,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

U64 = st.integers(0, 2**64 - 1)

Control = Ack | Ping | Pong | Close | CloseAck | Abort | Cancel | Welcome

CONTROL: list[tuple[Control, str]] = [
    (Welcome(WelcomeStatus.ACCEPTED, 1, 2), "20000011 00 0000000000000001 0000000000000002"),
    (Welcome(WelcomeStatus.ENDED, 3, 0), "20000011 01 0000000000000003 0000000000000000"),
    (Welcome(WelcomeStatus.UNKNOWN, 0, 0), "20000011 02 0000000000000000 0000000000000000"),
    (Welcome(WelcomeStatus.REFUSED, 0, 0), "20000011 03 0000000000000000 0000000000000000"),
    (Ack(0x0102030405060708, 2**64 - 1), "30000010 0102030405060708 ffffffffffffffff"),
    (Ping(7), "40000008 0000000000000007"),
    (Pong(2**63), "50000008 8000000000000000"),
    (Close(9), "60000008 0000000000000009"),
    (CloseAck(10), "70000008 000000000000000a"),
    (Abort(11), "90000008 000000000000000b"),
    (Cancel(12), "c0000008 000000000000000c"),
]
"""Every control frame and, written by hand, its bytes."""


def header(frame_type: int, length: int) -> bytes:
    return struct.pack(">I", frame_type << 28 | length)


def data(*messages: bytes) -> bytes:
    return b"".join(encode_data(messages))


def part(payload: bytes) -> bytes:
    return encode_header(FrameType.DATA_PART, len(payload)) + payload


def ending(frame_type: FrameType, payload: bytes) -> bytes:
    return encode_header(frame_type, len(payload)) + payload


def pad(size: int) -> bytes:
    return header(FrameType.PAD, size) + bytes(size)


NAMES = {Part: "part", RequestEnd: "request", ReplyEnd: "reply"}

Plain = bytes | tuple[str, bytes] | Frame
"""A frame regardless of the pieces in which it came: DATA is its payload."""


def plain(frames: Iterable[Frame]) -> list[Plain]:
    result: list[Plain] = []
    for frame in frames:
        if isinstance(frame, Part | RequestEnd | ReplyEnd):
            result.append((NAMES[type(frame)], b"".join(frame.pieces)))
        elif isinstance(frame, list):
            result += frame
        else:
            result.append(frame)
    return result


def decode(*plaintexts: bytes) -> list[Plain]:
    decoder = FrameDecoder()
    return plain(frame for plaintext in plaintexts for frame in decoder.feed(plaintext))


EVERY_TYPE = b"".join(
    (
        data(b"", b"x", b"short", b"y" * 70),
        *(frame.encode() for frame, _ in CONTROL),
        part(b"beginning"),
        ending(FrameType.REQUEST, b"a request"),
        ending(FrameType.REPLY, b""),
        pad(0),
        data(b"end"),
        pad(5),
        data(b""),
    )
)
EVERY_FRAME: list[Plain] = [
    b"",
    b"x",
    b"short",
    b"y" * 70,
    *(frame for frame, _ in CONTROL),
    ("part", b"beginning"),
    ("request", b"a request"),
    ("reply", b""),
    Pad(0),
    b"end",
    Pad(5),
    b"",
]


@pytest.mark.parametrize(("frame", "encoded"), CONTROL)
def test_a_control_frame_has_these_bytes_and_is_read_from_them(
    frame: Control, encoded: str
) -> None:
    assert frame.encode() == bytes.fromhex(encoded)
    (read,) = FrameDecoder().feed(frame.encode())
    assert type(read) is type(frame)
    assert read == frame


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 65_536, MAX_DATA_BYTES])
def test_a_data_frame_is_its_length_and_its_payload(size: int) -> None:
    payload = bytes(size)
    encoded = data(payload)
    assert encoded == struct.pack(">I", size) + payload
    assert FrameDecoder().feed(encoded) == [[payload]]
    assert data(payload, b"x", payload) == encoded + struct.pack(">I", 1) + b"x" + encoded


def test_payloads_are_not_copied_when_encoded() -> None:
    messages = (b"one", memoryview(b"two"))
    assert [buffer for buffer in encode_data(messages) if buffer in messages] == list(messages)


@pytest.mark.parametrize("size", [1, MAX_DATA_BYTES])
def test_a_part_is_marked_as_such(size: int) -> None:
    encoded = part(bytes(size))
    assert encoded[:4] == struct.pack(">I", 0x10000000 | size)
    assert FrameDecoder().feed(encoded) == [Part([bytes(size)])]


def test_neighbouring_messages_come_as_one_run() -> None:
    encoded = data(b"a", b"b") + Ping(1).encode() + data(b"c", b"", b"d")
    assert FrameDecoder().feed(encoded) == [[b"a", b"b"], Ping(1), [b"c", b"", b"d"]]


def test_every_frame_type_is_read_in_one_piece() -> None:
    assert decode(EVERY_TYPE) == EVERY_FRAME


def test_every_frame_type_is_read_byte_by_byte() -> None:
    assert decode(*(bytes([byte]) for byte in EVERY_TYPE)) == EVERY_FRAME


@pytest.mark.parametrize("split", range(len(EVERY_TYPE) + 1))
def test_every_frame_type_is_read_in_two_pieces_whatever_the_split(split: int) -> None:
    assert decode(EVERY_TYPE[:split], b"", EVERY_TYPE[split:]) == EVERY_FRAME


@pytest.mark.parametrize("trailing", range(1, 9))
def test_a_frame_that_has_only_begun_is_kept_for_later(trailing: int) -> None:
    decoder = FrameDecoder()
    following = data(b"next!")
    assert plain(decoder.feed(EVERY_TYPE + following[:trailing])) == EVERY_FRAME
    assert decoder.midway
    assert decoder.feed(following[trailing:]) == [[b"next!"]]
    assert not decoder.midway


def test_of_padding_only_the_length_is_reported() -> None:
    decoder = FrameDecoder()
    sizes = (0, 1000, MAX_DATA_BYTES)
    assert decoder.feed(b"".join(map(pad, sizes))) == [Pad(size) for size in sizes]
    assert not decoder.midway
    assert decoder.feed(pad(3)[:5]) == []
    assert decoder.feed(b"\xff\xff" + data(b"after")) == [Pad(3), [b"after"]]


TOKENS: dict[FrameType, st.SearchStrategy[Ping | Pong | Close | CloseAck | Abort | Cancel]] = {
    FrameType.PING: st.builds(Ping, U64),
    FrameType.PONG: st.builds(Pong, U64),
    FrameType.CLOSE: st.builds(Close, U64),
    FrameType.CLOSE_ACK: st.builds(CloseAck, U64),
    FrameType.ABORT: st.builds(Abort, U64),
    FrameType.CANCEL: st.builds(Cancel, U64),
}


@st.composite
def frame_sequences(draw: st.DrawFn) -> tuple[list[Plain], bytes]:
    frames: list[Plain] = []
    encoded = bytearray()
    payloads = st.binary(max_size=30) | st.integers(1000, 3000).map(lambda size: b"\xa5" * size)
    for kind in draw(st.lists(st.sampled_from(FrameType), max_size=20)):
        match kind:
            case FrameType.DATA:
                payload = draw(payloads)
                frames.append(payload)
                encoded += data(payload)
            case FrameType.DATA_PART:
                payload = draw(payloads.filter(len))
                frames.append(("part", payload))
                encoded += part(payload)
            case FrameType.REQUEST | FrameType.REPLY:
                payload = draw(payloads)
                frames.append((kind.name.lower(), payload))
                encoded += ending(kind, payload)
            case FrameType.PAD:
                size = draw(st.integers(0, 2000))
                frames.append(Pad(size))
                encoded += pad(size)
            case _:
                frame: Control
                if kind is FrameType.WELCOME:
                    frame = Welcome(draw(st.sampled_from(WelcomeStatus)), draw(U64), draw(U64))
                elif kind is FrameType.ACK:
                    frame = Ack(draw(U64), draw(U64))
                else:
                    frame = draw(TOKENS[kind])
                frames.append(frame)
                encoded += frame.encode()
    return frames, bytes(encoded)


@given(frame_sequences(), st.data())
def test_frames_come_out_as_they_went_in_wherever_records_begin(
    sequence: tuple[list[Plain], bytes], choices: st.DataObject
) -> None:
    frames, encoded = sequence
    cuts = choices.draw(st.lists(st.integers(0, len(encoded)), max_size=10).map(sorted))
    bounds = [0, *cuts, len(encoded)]
    decoder = FrameDecoder()
    decoded: list[Plain] = []
    for start, stop in pairwise(bounds):
        decoded += plain(decoder.feed(encoded[start:stop]))
    assert decoded == frames
    assert [type(frame) for frame in decoded] == [type(frame) for frame in frames]
    assert not decoder.midway


@pytest.mark.parametrize("frame_type", [2, 3, 4, 5, 6, 7, 9, 12])
@pytest.mark.parametrize("off", [-8, -1, 1, 2**20])
def test_a_control_frame_of_another_length_is_refused_at_its_header(
    frame_type: int, off: int
) -> None:
    length = {FrameType.WELCOME: 17, FrameType.ACK: 16}.get(FrameType(frame_type), 8) + off
    with pytest.raises(STTProtocolError, match="payload"):
        FrameDecoder().feed(header(frame_type, length))


@pytest.mark.parametrize("frame_type", range(13, 16))
@pytest.mark.parametrize("length", [0, 8, 2**28 - 1])
def test_a_frame_of_unknown_type_is_refused_at_its_header(frame_type: int, length: int) -> None:
    with pytest.raises(STTProtocolError, match="unknown type") as caught:
        FrameDecoder().feed(data(b"before") + header(frame_type, length))
    assert type(caught.value) is STTProtocolError


@pytest.mark.parametrize("frame_type", [0, 1, 8, 10, 11])
@pytest.mark.parametrize("length", [MAX_DATA_BYTES + 1, 2**28 - 1])
def test_a_frame_that_is_too_long_is_refused_at_its_header(frame_type: int, length: int) -> None:
    decoder = FrameDecoder()
    decoder.feed(header(frame_type, length)[:3])
    with pytest.raises(STTLimitError, match=str(MAX_DATA_BYTES)):
        decoder.feed(header(frame_type, length)[3:])


def test_a_part_without_payload_is_refused() -> None:
    with pytest.raises(STTProtocolError, match="without a payload"):
        FrameDecoder().feed(header(FrameType.DATA_PART, 0))


@pytest.mark.parametrize("status", [5, 255])
def test_a_welcome_of_unknown_status_is_refused(status: int) -> None:
    encoded = header(FrameType.WELCOME, 17) + struct.pack(">BQQ", status, 0, 0)
    with pytest.raises(STTProtocolError, match=f"status {status}") as caught:
        FrameDecoder().feed(encoded)
    assert type(caught.value) is STTProtocolError


@given(st.lists(st.binary(max_size=40)))
@example([header(FrameType.WELCOME, 17) + b"\xff" * 20])
def test_hostile_bytes_raise_only_documented_errors(plaintexts: list[bytes]) -> None:
    decoder = FrameDecoder()
    try:
        for plaintext in plaintexts:
            decoder.feed(plaintext)
    except STTProtocolError:
        pass


@pytest.mark.parametrize("size", [0, 1, 3])
def test_a_frame_in_tiny_records_takes_no_memory_beyond_its_bytes(size: int) -> None:
    length = 60_000
    decoder = FrameDecoder()
    decoder.feed(encode_header(FrameType.DATA_PART, length))
    fed = 0
    for _ in range(length // 4):
        assert decoder.feed(bytes(size)) == []
        fed += size
    pieces = decoder._pieces
    assert pieces is not None
    assert sum(map(len, pieces)) == fed
    assert len(pieces) <= 2 + fed // 512
    (frame,) = decoder.feed(bytes(length - fed))
    assert plain([frame]) == [("part", bytes(length))]
