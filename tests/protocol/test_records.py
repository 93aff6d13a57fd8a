"""Records: whatever the buffers' sizes, their bytes arrive, and in no record too long."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seigr_toolset_transmissions.errors import STTAuthenticationError
from seigr_toolset_transmissions.protocol import noise
from seigr_toolset_transmissions.protocol.noise import MAX_PLAINTEXT_BYTES, TAG_BYTES, CipherState
from seigr_toolset_transmissions.protocol.records import RECORD_HEADER_BYTES, seal, unseal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

KEY = bytes(range(32))
KIB = 1024
PATTERN = bytes(byte * 7 % 251 for byte in range(300 * KIB))


def pieces(*sizes: int) -> list[bytes]:
    """Return buffers of these sizes whose bytes show where they belong."""
    start = 0
    buffers = []
    for size in sizes:
        assert start + size <= len(PATTERN)
        buffers.append(PATTERN[start : start + size])
        start += size
    return buffers


def records(sealed: bytes | bytearray) -> list[int]:
    """Return the plaintext length of each record, by its prefix alone."""
    sizes = []
    start = 0
    while start < len(sealed):
        length = int.from_bytes(sealed[start : start + RECORD_HEADER_BYTES])
        assert length >= TAG_BYTES
        sizes.append(length - TAG_BYTES)
        start += RECORD_HEADER_BYTES + length
    assert start == len(sealed)
    return sizes


def unseal_all(cipher: CipherState, sealed: bytes | bytearray) -> list[bytes]:
    plaintexts = []
    done = 0
    data = memoryview(sealed)
    while record := unseal(cipher, data, done):
        plaintext, done = record
        plaintexts.append(plaintext)
    assert done == len(sealed)
    return plaintexts


def check(buffers: Sequence[bytes | memoryview]) -> list[int]:
    """Seal, check and unseal; return the records' plaintext lengths."""
    sealed = seal(CipherState(KEY), buffers)
    plaintexts = unseal_all(CipherState(KEY), sealed)
    assert [len(plaintext) for plaintext in plaintexts] == records(sealed)
    assert max(map(len, plaintexts)) <= MAX_PLAINTEXT_BYTES
    assert b"".join(plaintexts) == b"".join(buffers)
    return records(sealed)


MAX = MAX_PLAINTEXT_BYTES


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([0], [0]),
        ([0, 0, 0], [0]),
        ([1], [1]),
        ([0, 1, 0], [1]),
        ([16 * KIB], [16 * KIB]),
        ([16 * KIB + 1], [16 * KIB + 1]),
        ([MAX - 1], [MAX - 1]),
        ([MAX], [MAX]),
        ([MAX + 1], [MAX, 1]),
        ([2 * MAX], [MAX, MAX]),
        ([4, MAX - 4], [4, MAX - 4]),
        ([4, MAX - 3], [4, MAX - 3]),
        ([0, 0, MAX, 0, 0], [MAX]),
        ([1] * 1000, [1000]),
        ([100] * 1000, [MAX, 100_000 - MAX]),
        ([4, 100 * KIB, 4, 100 * KIB], [4, MAX, 100 * KIB - MAX + 4, MAX, 100 * KIB - MAX]),
        ([64 * KIB, 10, 64 * KIB, 20], [MAX, 27, MAX, 37]),
        ([16 * KIB - 1] + [200 * KIB] + [16 * KIB - 1] * 2, [16 * KIB - 1] + [MAX] * 3 + [41_009]),
        ([MAX, MAX, MAX, MAX], [MAX] * 4),
    ],
)
def test_buffers_of_these_sizes_arrive_in_records_of_those(
    sizes: list[int], expected: list[int]
) -> None:
    assert check(pieces(*sizes)) == expected


@pytest.mark.parametrize("kind", [bytes, memoryview])
@pytest.mark.parametrize("size", [10, 20 * KIB, 100 * KIB])
def test_buffers_of_any_kind_are_sealed(
    kind: Callable[[bytes], bytes | memoryview], size: int
) -> None:
    check([kind(buffer) for buffer in pieces(4, size)])


SIZES = st.one_of(
    st.integers(0, 100),
    st.integers(16 * KIB - 2, 16 * KIB + 2),
    st.integers(MAX - 2, MAX + 2),
    st.integers(0, 100 * KIB),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(SIZES, min_size=1, max_size=40))
def test_buffers_of_any_sizes_arrive(sizes: list[int]) -> None:
    check([memoryview(PATTERN)[:size] for size in sizes])


def test_sealing_and_unsealing_continue_where_they_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "_REKEY_MASK", 3)  # a new key every four records
    sender, receiver = CipherState(KEY), CipherState(KEY)
    for sizes in ([1], [MAX, MAX, 5], [20 * KIB], [3 * MAX], [7]):
        buffers = pieces(*sizes)
        assert b"".join(unseal_all(receiver, seal(sender, buffers))) == b"".join(buffers)
    assert sender.n == receiver.n == 9


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_a_record_that_is_not_complete_is_left_for_later(size: int) -> None:
    before = seal(CipherState(KEY), pieces(5))
    sealed = before + seal(CipherState(KEY), pieces(size))
    receiver = CipherState(KEY)
    for end in range(len(before), len(sealed)):
        with memoryview(sealed)[:end] as data:
            assert unseal(receiver, data, len(before)) is None
    assert receiver.n == 0
    with memoryview(sealed) as data:
        assert unseal(receiver, data, len(before)) == (PATTERN[:size], len(sealed))
        assert unseal(receiver, data, len(sealed)) is None


def test_a_tampered_record_is_refused() -> None:
    sealed = bytearray(seal(CipherState(KEY), pieces(30)))
    for at in range(RECORD_HEADER_BYTES, len(sealed)):
        sealed[at] ^= 1
        with pytest.raises(STTAuthenticationError):
            unseal(CipherState(KEY), memoryview(sealed), 0)
        sealed[at] ^= 1
    assert unseal(CipherState(KEY), memoryview(sealed), 0)


@pytest.mark.parametrize("length", range(TAG_BYTES))
def test_a_record_too_short_for_a_tag_is_refused(length: int) -> None:
    with pytest.raises(STTAuthenticationError):
        unseal(CipherState(KEY), memoryview(length.to_bytes(2) + bytes(length)), 0)


def test_a_shortened_record_is_refused() -> None:
    sealed = seal(CipherState(KEY), pieces(30))
    shorter = (len(sealed) - 3).to_bytes(2) + sealed[2:]
    with pytest.raises(STTAuthenticationError):
        unseal(CipherState(KEY), memoryview(shorter), 0)


def test_a_record_repeated_or_left_out_is_refused() -> None:
    sender = CipherState(KEY)
    first, second = (seal(sender, pieces(10)) for _ in range(2))
    with pytest.raises(STTAuthenticationError):
        unseal(CipherState(KEY), memoryview(second), 0)
    receiver = CipherState(KEY)
    assert unseal(receiver, memoryview(first), 0)
    with pytest.raises(STTAuthenticationError):
        unseal(receiver, memoryview(first), 0)
