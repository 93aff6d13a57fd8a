"""Frames: what an established connection carries inside its records (``docs/wire-format.md``).

The plaintexts of successive records (see `records`), put end to end, are a stream of frames; a
frame may begin in one record and end in another, so that a large message is encrypted straight
from where it lies. This file turns frames into bytes and back. It knows the length that each type
must have, and nothing of what the frames mean.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from .errors import STTLimitError, STTProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "MAX_DATA_BYTES",
    "Abort",
    "Ack",
    "Close",
    "CloseAck",
    "Frame",
    "FrameDecoder",
    "FrameType",
    "Pad",
    "Part",
    "Ping",
    "Pong",
    "Welcome",
    "WelcomeStatus",
    "encode_data",
    "encode_part",
]

MAX_DATA_BYTES = 1 << 16
"""Longest payload of any frame. A longer message goes in parts, so that control
frames can pass between them and a cut costs at most one part to send again."""

_SHORT_PIECE = 1024
"""Pieces of an unfinished payload are joined as long as they are not longer than this."""

_HEADER_BYTES = 4
_TYPE_SHIFT = 28
_LENGTH_MASK = (1 << _TYPE_SHIFT) - 1

_header = Struct(">I")
_one = Struct(">Q")
_two = Struct(">QQ")
_welcome = Struct(">BQQ")


class FrameType(IntEnum):
    """The upper four bits of a frame's header; the lower 28 are the length of its payload."""

    DATA = 0
    DATA_PART = 1
    WELCOME = 2
    ACK = 3
    PING = 4
    PONG = 5
    CLOSE = 6
    CLOSE_ACK = 7
    PAD = 8
    ABORT = 9


_ack = Struct(">IQQ")
_ACK = int(FrameType.ACK)
_ACK_HEADER = _ACK << _TYPE_SHIFT | _two.size


class WelcomeStatus(IntEnum):
    """The listener's answer to an opening."""

    ACCEPTED = 0
    ENDED = 1
    """The session that was to be resumed has ended here, and how far it came is remembered."""
    UNKNOWN = 2
    """The session that was to be resumed is not known here (any more)."""
    REFUSED = 3
    """The listener takes no more sessions."""
    FORBIDDEN = 4
    """The listener has no sessions with this dialer."""


class Welcome(NamedTuple):
    """The listener's first frame. ``recv_next`` and ``credit`` are as in `Ack`.

    With status ENDED, ``recv_next`` is how far the session had come when it ended; with UNKNOWN,
    REFUSED and FORBIDDEN, both are 0.
    """

    status: WelcomeStatus
    recv_next: int
    credit: int

    def encode(self) -> bytes:
        """Return the frame's bytes."""
        return _control(FrameType.WELCOME, _welcome.pack(*self))


class Ack(NamedTuple):
    """What its sender has accepted, in frames, and will accept, in bytes; both since the start."""

    recv_next: int
    credit: int

    def encode(self) -> bytes:
        """Return the frame's bytes."""
        return _ack.pack(_ACK_HEADER, *self)


class Ping(NamedTuple):
    """Asks for a `Pong` with the same token."""

    token: int

    def encode(self) -> bytes:
        """Return the frame's bytes."""
        return _control(FrameType.PING, _one.pack(self.token))


class Pong(NamedTuple):
    """Answers a `Ping`."""

    token: int

    def encode(self) -> bytes:
        """Return the frame's bytes."""
        return _control(FrameType.PONG, _one.pack(self.token))


class Close(NamedTuple):
    """Its sender has sent ``final`` sequenced frames in all and will send no more."""

    final: int

    def encode(self) -> bytes:
        """Return the frame's bytes."""
        return _control(FrameType.CLOSE, _one.pack(self.final))


class CloseAck(NamedTuple):
    """Answers a `Close`: all was received; its sender has sent ``final`` frames and no more."""

    final: int

    def encode(self) -> bytes:
        """Return the frame's bytes."""
        return _control(FrameType.CLOSE_ACK, _one.pack(self.final))


class Abort(NamedTuple):
    """Its sender has ended the session without delivering the rest, and had accepted so much."""

    recv_next: int

    def encode(self) -> bytes:
        """Return the frame's bytes."""
        return _control(FrameType.ABORT, _one.pack(self.recv_next))


class Part(NamedTuple):
    """The payload of one DATA_PART frame, in the pieces in which it came."""

    pieces: list[bytes]


class Pad(NamedTuple):
    """Nothing: its sender hides how much it has to say. It is told of so that it can be counted."""

    length: int

    def encode(self) -> bytes:
        """Return the frame's bytes."""
        return _control(FrameType.PAD, bytes(self.length))


Frame = list[bytes] | Part | Ack | Ping | Pong | Close | CloseAck | Abort | Welcome | Pad
"""What `FrameDecoder.feed` returns: a ``list`` is a run of whole DATA payloads."""


def _control(frame_type: FrameType, payload: bytes) -> bytes:
    return _header.pack(frame_type << _TYPE_SHIFT | len(payload)) + payload


_SHORT_HEADERS = [_header.pack(length) for length in range(1025)]
"""Headers of short DATA frames, ready made: most messages are short, and packing costs as much as
all else that is done for one."""


def encode_data(messages: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """Return the buffers of one DATA frame for each message, to be sent in this order.

    No message may be longer than `MAX_DATA_BYTES`.
    """
    headers, pack = _SHORT_HEADERS, _header.pack
    if len(messages) == 1:  # as a rule, when they are not many; in half the time
        n = len(messages[0])
        return [headers[n] if n < 1025 else pack(n), messages[0]]
    buffers: list[bytes | memoryview] = [b""] * (2 * len(messages))
    buffers[::2] = [headers[n] if n < 1025 else pack(n) for n in map(len, messages)]
    buffers[1::2] = messages
    return buffers


def encode_part(length: int) -> bytes:
    """Return the header of a DATA_PART frame with a payload of ``length`` bytes."""
    return _header.pack(FrameType.DATA_PART << _TYPE_SHIFT | length)


class FrameDecoder:
    """Turns the plaintexts of one connection's records into frames; keeps what is unfinished.

    It holds at most one frame, whose length was checked before any of it was kept.
    """

    __slots__ = ("_missing", "_pieces", "_type")

    def __init__(self) -> None:
        self._type = 0
        self._missing = 0  # bytes that the payload of the unfinished frame still lacks
        self._pieces: list[bytes] | None = None  # of a payload, or (nothing missing) of a header

    @property
    def midway(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._pieces is not None

    def feed(self, plaintext: bytes) -> list[Frame]:
        """Take the next plaintext and return the frames that it completes, in order.

        Raises:
            STTLimitError: A frame is longer than its type allows.
            STTProtocolError: A frame of unknown type, or of a length that its type cannot have.

        After an error the decoder must not be used any more.

        """
        frames: list[Frame] = []
        run: list[bytes] = []
        start = 0
        if self._pieces is not None:
            if self._missing > len(plaintext):
                # A piece costs memory beyond its bytes: keep few, however short the records are.
                if len(self._pieces[-1]) + len(plaintext) <= _SHORT_PIECE:
                    self._pieces[-1] += plaintext
                else:
                    self._pieces.append(plaintext)
                self._missing -= len(plaintext)
                return frames
            if self._missing:
                start = self._missing
                self._pieces.append(plaintext if start == len(plaintext) else plaintext[:start])
                self._complete(frames, run, self._pieces)
            else:
                plaintext = b"".join((*self._pieces, plaintext))
            self._pieces = None
            self._missing = 0
        unpack = _header.unpack_from
        append = run.append
        end = len(plaintext)
        start += _HEADER_BYTES  # from here on: where the payload starts
        while start <= end:
            (header,) = unpack(plaintext, start - _HEADER_BYTES)
            if header <= MAX_DATA_BYTES:  # a DATA frame: its type is 0
                stop = start + header
                if stop > end:
                    self._keep(FrameType.DATA, stop - end, plaintext[start:])
                    start = end + _HEADER_BYTES
                    break
                append(plaintext[start:stop])
            else:
                stop = start + (header & _LENGTH_MASK)
                # An acknowledgement is far more frequent than all others.
                frame_type = _ACK if header == _ACK_HEADER else _checked_type(header)
                if stop > end:
                    self._keep(frame_type, stop - end, plaintext[start:])
                    start = end + _HEADER_BYTES
                    break
                if run:
                    frames.append(run)
                    run = []
                    append = run.append
                if header == _ACK_HEADER:
                    frames.append(Ack(*_two.unpack_from(plaintext, start)))
                else:
                    self._type = frame_type
                    self._complete(frames, run, [plaintext[start:stop]])
            start = stop + _HEADER_BYTES
        if run:
            frames.append(run)
        if start - _HEADER_BYTES < end:
            self._keep(0, 0, plaintext[start - _HEADER_BYTES :])
        return frames

    def _keep(self, frame_type: int, missing: int, piece: bytes) -> None:
        self._type = frame_type
        self._missing = missing
        self._pieces = [piece]

    def _complete(self, frames: list[Frame], run: list[bytes], pieces: list[bytes]) -> None:
        """Add the frame of type ``_type`` whose payload is complete to ``frames`` or ``run``."""
        if self._type == FrameType.DATA:
            run.append(b"".join(pieces))
        elif self._type == FrameType.DATA_PART:
            frames.append(Part(pieces))
        elif self._type == FrameType.PAD:
            frames.append(Pad(sum(map(len, pieces))))
        else:
            frames.append(_decode_control(self._type, b"".join(pieces)))


_CONTROL_BYTES: dict[int, int] = {
    FrameType.WELCOME: _welcome.size,
    FrameType.ACK: _two.size,
    FrameType.PING: _one.size,
    FrameType.PONG: _one.size,
    FrameType.CLOSE: _one.size,
    FrameType.CLOSE_ACK: _one.size,
    FrameType.ABORT: _one.size,
}
"""The length that the payload of each control frame must have."""

_CONTROL_CLASSES: dict[int, type[Ping | Pong | Close | CloseAck | Abort]] = {
    FrameType.PING: Ping,
    FrameType.PONG: Pong,
    FrameType.CLOSE: Close,
    FrameType.CLOSE_ACK: CloseAck,
    FrameType.ABORT: Abort,
}


def _checked_type(header: int) -> int:
    """Return the type of a header that is not a short enough DATA frame's, or refuse it."""
    frame_type = header >> _TYPE_SHIFT
    length = header & _LENGTH_MASK
    if frame_type in _CONTROL_BYTES:
        if length != _CONTROL_BYTES[frame_type]:
            name = FrameType(frame_type).name
            raise STTProtocolError(f"a {name} frame with a payload of {length} bytes")
    elif frame_type in (FrameType.DATA, FrameType.DATA_PART, FrameType.PAD):
        if length > MAX_DATA_BYTES:
            raise STTLimitError(f"a frame of {length} bytes; the limit is {MAX_DATA_BYTES}")
        if length == 0 and frame_type == FrameType.DATA_PART:
            raise STTProtocolError("a DATA_PART frame without a payload")
    else:
        raise STTProtocolError(f"a frame of the unknown type {frame_type}")
    return frame_type


def _decode_control(frame_type: int, payload: bytes) -> Frame:
    if frame_type == FrameType.ACK:
        return Ack(*_two.unpack(payload))
    if frame_type == FrameType.WELCOME:
        status, recv_next, credit = _welcome.unpack(payload)
        try:
            return Welcome(WelcomeStatus(status), recv_next, credit)
        except ValueError as error:
            raise STTProtocolError(f"a WELCOME frame with the unknown status {status}") from error
    return _CONTROL_CLASSES[frame_type](*_one.unpack(payload))
