"""Frames: what an established connection carries inside its records (``docs/wire-format.md``).

The plaintexts of successive records (see `records`), concatenated, are a stream of frames. A frame
may begin in one record and end in another, so a large message is encrypted from where it lies in
memory. This file turns frames into bytes and back. It knows the length that each type must have,
but not what the frames mean.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from ..errors import STTLimitError, STTProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "MAX_DATA_BYTES",
    "Abort",
    "Ack",
    "Cancel",
    "Close",
    "CloseAck",
    "Frame",
    "FrameDecoder",
    "FrameType",
    "Pad",
    "Part",
    "Ping",
    "Pong",
    "ReplyEnd",
    "RequestEnd",
    "Welcome",
    "WelcomeStatus",
    "encode_data",
    "encode_header",
    "short_headers",
]

MAX_DATA_BYTES = 1 << 16
"""Longest payload of any frame. A longer message goes in parts, so that control frames can go
between them, and so that after a cut at most one part must be sent again."""

_SHORT_PIECE = 1024
"""Pieces of an unfinished payload are joined as long as they are no longer than this."""

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
    REQUEST = 10
    REPLY = 11
    CANCEL = 12


_ack = Struct(">IQQ")
_ACK, _REQUEST, _REPLY = int(FrameType.ACK), int(FrameType.REQUEST), int(FrameType.REPLY)
_ACK_HEADER = _ACK << _TYPE_SHIFT | _two.size


class WelcomeStatus(IntEnum):
    """The listener's answer to an opening."""

    ACCEPTED = 0
    ENDED = 1
    """The session that the dialer wants to resume has ended; the position at its end is known."""
    UNKNOWN = 2
    """The session that the dialer wants to resume is not known, or no longer."""
    REFUSED = 3
    """The listener accepts no more sessions at present."""
    FORBIDDEN = 4
    """The listener has no sessions with this dialer."""


class Welcome(NamedTuple):
    """The listener's first frame. ``recv_next`` and ``credit`` are as in `Ack`.

    With status ENDED, ``recv_next`` is the listener's position when the session ended; with
    UNKNOWN, REFUSED and FORBIDDEN, both are 0.
    """

    status: WelcomeStatus
    recv_next: int
    credit: int

    def encode(self) -> bytes:
        """Return the frame's bytes."""
        return _control(FrameType.WELCOME, _welcome.pack(*self))


class Ack(NamedTuple):
    """How many frames its sender has accepted, and how many bytes it will accept, in all."""

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
    """Answers a `Close`: everything arrived; its sender has sent ``final`` frames and no more."""

    final: int

    def encode(self) -> bytes:
        """Return the frame's bytes."""
        return _control(FrameType.CLOSE_ACK, _one.pack(self.final))


class Abort(NamedTuple):
    """Its sender ends the session without delivering the rest, having accepted ``recv_next``."""

    recv_next: int

    def encode(self) -> bytes:
        """Return the frame's bytes."""
        return _control(FrameType.ABORT, _one.pack(self.recv_next))


class Cancel(NamedTuple):
    """Its sender no longer waits for the reply to the request of this id."""

    request_id: int

    def encode(self) -> bytes:
        """Return the frame's bytes."""
        return _control(FrameType.CANCEL, _one.pack(self.request_id))


class Part(NamedTuple):
    """The payload of one DATA_PART frame, in the pieces in which it came."""

    pieces: list[bytes]


class RequestEnd(NamedTuple):
    """The payload of one REQUEST frame, in pieces: the message that it completes is a request."""

    pieces: list[bytes]


class ReplyEnd(NamedTuple):
    """The payload of one REPLY frame, in pieces: the message that it completes is a reply."""

    pieces: list[bytes]


class Pad(NamedTuple):
    """Padding, which hides how much its sender really sends. It is returned so as to be counted."""

    length: int

    def encode(self) -> bytes:
        """Return the frame's bytes."""
        return _control(FrameType.PAD, bytes(self.length))


Frame = (
    list[bytes]
    | Part
    | RequestEnd
    | ReplyEnd
    | Ack
    | Ping
    | Pong
    | Close
    | CloseAck
    | Abort
    | Cancel
    | Welcome
    | Pad
)
"""What `FrameDecoder.feed` returns: a ``list`` is a run of whole DATA payloads."""


def _control(frame_type: FrameType, payload: bytes) -> bytes:
    return _header.pack(frame_type << _TYPE_SHIFT | len(payload)) + payload


def short_headers(frame_type: FrameType) -> list[bytes]:
    """Return the headers of frames with payloads of 0 to 1024 bytes, by that length.

    Most messages are short, and packing a header costs as much as the rest of encoding one.
    """
    return [_header.pack(frame_type << _TYPE_SHIFT | length) for length in range(1025)]


_SHORT_HEADERS = short_headers(FrameType.DATA)


def encode_data(messages: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """Return the buffers of one DATA frame for each message, to be sent in this order.

    No message may be longer than `MAX_DATA_BYTES`.
    """
    headers, pack = _SHORT_HEADERS, _header.pack
    if len(messages) == 1:  # common, and this takes half the time
        n = len(messages[0])
        return [headers[n] if n < 1025 else pack(n), messages[0]]
    buffers: list[bytes | memoryview] = [b""] * (2 * len(messages))
    buffers[::2] = [headers[n] if n < 1025 else pack(n) for n in map(len, messages)]
    buffers[1::2] = messages
    return buffers


def encode_header(frame_type: FrameType, length: int) -> bytes:
    """Return the header of a frame with a payload of ``length`` bytes."""
    return _header.pack(frame_type << _TYPE_SHIFT | length)


class FrameDecoder:
    """Turns the plaintexts of one connection's records into frames, and keeps an unfinished one.

    It holds at most one frame, and has checked the length before it keeps any of it.
    """

    __slots__ = ("_missing", "_pieces", "_type")

    def __init__(self) -> None:
        self._type = 0
        self._missing = 0  # bytes that the payload of the unfinished frame still lacks
        self._pieces: list[bytes] | None = (
            None  # those of a payload, or of a header if nothing is missing
        )

    @property
    def midway(self) -> bool:
        """Whether a frame has begun and is not complete."""
        return self._pieces is not None

    def feed(self, plaintext: bytes) -> list[Frame]:
        """Take the next plaintext and return the frames that it completes, in order.

        Raises:
            STTLimitError: A frame is longer than its type allows.
            STTProtocolError: A frame of unknown type, or of a length that its type cannot have.

        After an error, do not use the decoder again.

        """
        frames: list[Frame] = []
        run: list[bytes] = []
        start = 0
        if self._pieces is not None:
            if self._missing > len(plaintext):
                # A piece takes more memory than its bytes: keep few, however short the records are.
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
                # Acknowledgements, requests and replies are far more frequent than all others.
                frame_type = header >> _TYPE_SHIFT
                if header != _ACK_HEADER and (
                    (frame_type != _REQUEST and frame_type != _REPLY)
                    or stop - start > MAX_DATA_BYTES
                ):
                    frame_type = _checked_type(header)
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
                elif frame_type == _REQUEST:
                    frames.append(RequestEnd([plaintext[start:stop]]))
                elif frame_type == _REPLY:
                    frames.append(ReplyEnd([plaintext[start:stop]]))
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
        elif self._type in _MESSAGE_CLASSES:
            frames.append(_MESSAGE_CLASSES[self._type](pieces))
        elif self._type == FrameType.PAD:
            frames.append(Pad(sum(map(len, pieces))))
        else:
            frames.append(_decode_control(self._type, b"".join(pieces)))


_MESSAGE_CLASSES: dict[int, type[Part | RequestEnd | ReplyEnd]] = {
    FrameType.DATA_PART: Part,
    FrameType.REQUEST: RequestEnd,
    FrameType.REPLY: ReplyEnd,
}

_CONTROL_BYTES: dict[int, int] = {
    FrameType.WELCOME: _welcome.size,
    FrameType.ACK: _two.size,
    FrameType.PING: _one.size,
    FrameType.PONG: _one.size,
    FrameType.CLOSE: _one.size,
    FrameType.CLOSE_ACK: _one.size,
    FrameType.ABORT: _one.size,
    FrameType.CANCEL: _one.size,
}
"""The length that the payload of each control frame must have."""

_CONTROL_CLASSES: dict[int, type[Ping | Pong | Close | CloseAck | Abort | Cancel]] = {
    FrameType.PING: Ping,
    FrameType.PONG: Pong,
    FrameType.CLOSE: Close,
    FrameType.CLOSE_ACK: CloseAck,
    FrameType.ABORT: Abort,
    FrameType.CANCEL: Cancel,
}


def _checked_type(header: int) -> int:
    """Return the type in a header, after checking that the length is possible for that type."""
    frame_type = header >> _TYPE_SHIFT
    length = header & _LENGTH_MASK
    if frame_type in _CONTROL_BYTES:
        if length != _CONTROL_BYTES[frame_type]:
            name = FrameType(frame_type).name
            raise STTProtocolError(f"a {name} frame with a payload of {length} bytes")
    elif frame_type in _MESSAGE_CLASSES or frame_type in (FrameType.DATA, FrameType.PAD):
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
