"""Seeds are made, saved, loaded and checked; none ever shows in an error."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seigr_toolset_transmissions import STTNode, generate_seed, load_seed, save_seed
from seigr_toolset_transmissions.errors import STTSeedError
from seigr_toolset_transmissions.seeds import MIN_SEED_BYTES, check_seed, decode_seed

if TYPE_CHECKING:
    from pathlib import Path

HEX = set(b"0123456789abcdefABCDEF")
WHITE = set(b" \t\r\n\f\v")
SEED = b"a seed that only tests use"


def seed_file(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


# Checking


def test_generated_seeds_are_32_bytes_and_all_different() -> None:
    seeds = {generate_seed() for _ in range(100)}
    assert len(seeds) == 100
    assert {len(seed) for seed in seeds} == {32}
    for seed in seeds:
        assert check_seed(seed, "node_seed") is seed


@pytest.mark.parametrize("size", [MIN_SEED_BYTES, 30, 32, 1000])
def test_a_seed_of_16_bytes_or_more_is_accepted(size: int) -> None:
    seed = b"s" * size
    assert check_seed(seed, "node_seed") is seed


@given(st.binary(max_size=MIN_SEED_BYTES - 1))
def test_a_short_seed_is_refused_with_the_remedy_and_without_the_seed(seed: bytes) -> None:
    with pytest.raises(STTSeedError, match="stt keygen") as refusal:
        check_seed(seed, "shared_seed")
    assert str(refusal.value) == (
        f"shared_seed must have at least 16 bytes, not {len(seed)}: "
        "make a seed with `stt keygen` or generate_seed()"
    )
    assert refusal.value.__context__ is None


@pytest.mark.parametrize(
    "seed",
    ["a phrase that is a str", bytearray(SEED), memoryview(SEED), None, 2**200, [1] * 32],
    ids=lambda seed: type(seed).__name__,
)
def test_a_seed_that_is_not_bytes_is_refused_with_the_remedy_and_without_the_seed(
    seed: object,
) -> None:
    with pytest.raises(STTSeedError) as refusal:
        check_seed(seed, "node_seed")
    assert str(refusal.value) == (
        f"node_seed must be bytes, not {type(seed).__name__}: "
        "make a seed with `stt keygen` or generate_seed()"
    )


@pytest.mark.parametrize("name", ["node_seed", "shared_seed"])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_the_text_of_a_seed_file_is_refused_with_the_remedy(name: str, end: bytes) -> None:
    text = generate_seed().hex().encode() + end
    with pytest.raises(STTSeedError, match=rf"^{name} is 64 hex digits.*load_seed") as refusal:
        check_seed(text, name)
    assert text.decode().strip() not in str(refusal.value)


def test_short_hex_digits_are_the_text_of_a_file_only_with_a_line_end() -> None:
    assert check_seed(b"ab" * 16, "node_seed") == b"ab" * 16
    with pytest.raises(STTSeedError, match="load_seed"):
        check_seed(b"ab" * 16 + b"\n", "node_seed")


@pytest.mark.parametrize("shared", [SEED, [b"another" * 3, SEED]], ids=["one", "several"])
def test_a_node_refuses_the_shared_seed_as_its_own(shared: bytes | list[bytes]) -> None:
    with pytest.raises(STTSeedError, match="a seed of its own") as refusal:
        STTNode(SEED, shared)
    assert "tests" not in str(refusal.value)


async def test_a_node_refuses_its_own_seed_as_a_new_shared_seed() -> None:
    node = STTNode(SEED, b"another" * 3)
    with pytest.raises(STTSeedError, match="a seed of its own"):
        await node.set_shared_seed([b"yet another" * 2, SEED])


# Files


@given(st.binary(min_size=16, max_size=200), st.sampled_from(["", "\n", "\r\n", "  \t\n"]))
def test_hex_digits_are_the_seed_that_they_write(seed: bytes, end: str) -> None:
    assert decode_seed(seed.hex().encode() + end.encode(), "it") == seed
    assert decode_seed(b" " + seed.hex().upper().encode(), "it") == seed


@pytest.mark.parametrize("phrase", ["correct horse battery", "Grüße aus der Küche"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_a_phrase_is_one_seed_with_and_without_a_line_end(phrase: str, end: str) -> None:
    assert decode_seed((phrase + end).encode(), "it") == phrase.encode()
    assert decode_seed((phrase + " " + end).encode(), "it") == (phrase + " ").encode()


@given(st.binary(min_size=16, max_size=200).filter(lambda seed: min(seed) < 9))
def test_binary_content_is_the_seed_itself_to_the_last_byte(seed: bytes) -> None:
    assert decode_seed(seed, "it") == seed
    assert decode_seed(seed + b"\n", "it") == seed + b"\n"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" \n",
        b"ab" * 15,  # 30 digits: 15 bytes
        b"fifteen bytes..",
        b"fifteen bytes..\n",
        b"a" * 33,  # an odd number of digits
        b"x" * 4097,
    ],
)
def test_content_that_is_not_a_seed_is_refused_without_being_shown(content: bytes) -> None:
    with pytest.raises(STTSeedError, match=r"^it (holds|is)") as caught:
        decode_seed(content, "it")
    text = str(caught.value)
    assert len(content.strip()) < 3 or content.strip().decode()[:8] not in text


@given(st.binary(max_size=40))
def test_any_content_is_a_seed_or_is_refused(content: bytes) -> None:
    try:
        assert len(decode_seed(content, "it")) >= MIN_SEED_BYTES
    except STTSeedError:
        assert len(content.rstrip(b"\r\n")) < MIN_SEED_BYTES or set(content) <= HEX | WHITE


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o666])
def test_a_file_that_others_can_use_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = seed_file(tmp_path / "my seed", b"ab" * 16, mode)
    with pytest.raises(STTSeedError, match=r"run `chmod 600 '.*/my seed'`"):
        load_seed(path)


def test_a_file_that_only_its_owner_can_read_is_loaded(tmp_path: Path) -> None:
    assert load_seed(seed_file(tmp_path / "seed", b"ab" * 16)) == b"\xab" * 16
    assert load_seed(str(seed_file(tmp_path / "seed", b"ab" * 16, 0o400))) == b"\xab" * 16


def test_a_file_that_cannot_be_read_raises_what_opening_it_raises(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no such seed file \(.*stt keygen.*\): .*/none"
    ) as caught:
        load_seed(tmp_path / "none")
    assert caught.value.filename == str(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        load_seed(tmp_path)


def test_a_saved_seed_loads_again_and_only_its_owner_can_read_it_whatever_the_umask(
    tmp_path: Path,
) -> None:
    path, seed = tmp_path / "new.seed", generate_seed()
    before = os.umask(0)
    try:
        save_seed(path, seed)
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o644)
        save_seed(path, seed, overwrite=True)
        assert path.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)
    assert path.read_bytes() == seed.hex().encode() + b"\n"
    assert load_seed(path) == seed


def test_a_saved_seed_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "seed"
    save_seed(path, SEED)
    with pytest.raises(FileExistsError):
        save_seed(path, b"another" * 3)
    assert load_seed(path) == SEED
    save_seed(path, b"another" * 3, overwrite=True)
    assert load_seed(path) == b"another" * 3
    assert list(tmp_path.iterdir()) == [path]


def test_a_seed_is_not_written_through_somebody_elses_link(tmp_path: Path) -> None:
    target = tmp_path / "target"
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(FileExistsError):
        save_seed(link, SEED)
    assert not target.exists()


def test_an_unusable_seed_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(STTSeedError, match="at least 16"):
        save_seed(tmp_path / "seed", b"short")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_seed_that_is_not_safely_stored_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        save_seed(tmp_path / "seed", SEED, overwrite=overwrite)
    assert list(tmp_path.iterdir()) == []
