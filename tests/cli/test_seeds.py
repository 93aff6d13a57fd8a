from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seigr_toolset_transmissions.cli.failures import Failure, Misuse
from seigr_toolset_transmissions.cli.seeds import (
    MAX_BYTES,
    decode_seed,
    find_seeds,
    node_seed,
    read_seed_file,
    write_seed_file,
)

if TYPE_CHECKING:
    from pathlib import Path

HEX = set(b"0123456789abcdefABCDEF")


def seed_file(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


@given(st.binary(min_size=16, max_size=200), st.sampled_from(["", "\n", "\r\n", "  \t\n"]))
def test_hex_digits_are_the_seed_that_they_write(seed: bytes, end: str) -> None:
    assert decode_seed(seed.hex().encode() + end.encode(), "it") == seed
    assert decode_seed(b" " + seed.hex().upper().encode(), "it") == seed


@given(st.binary(min_size=16, max_size=200).filter(lambda seed: not set(seed.strip()) <= HEX))
def test_anything_else_is_the_seed_itself_to_the_last_byte(seed: bytes) -> None:
    assert decode_seed(seed, "it") == seed
    assert decode_seed(seed + b"\n", "it") == seed + b"\n"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" \n",
        b"ab" * 15,  # 30 digits: 15 bytes
        b"fifteen bytes..",
        b"a" * 33,  # an odd number of digits
        b"x" * (MAX_BYTES + 1),
    ],
)
def test_what_is_no_seed_is_refused_without_being_shown(content: bytes) -> None:
    with pytest.raises(Misuse, match=r"^it (holds|is)") as caught:
        decode_seed(content, "it")
    text = str(caught.value)
    assert len(content.strip()) < 3 or content.strip().decode()[:8] not in text


@given(st.binary(max_size=40))
def test_any_content_is_a_seed_or_a_misuse(content: bytes) -> None:
    try:
        assert len(decode_seed(content, "it")) >= 16
    except Misuse:
        assert len(content) < 16 or set(content.strip()) <= HEX


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o666])
def test_a_file_that_others_can_use_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = seed_file(tmp_path / "my seed", b"ab" * 16, mode)
    with pytest.raises(Misuse, match=r"run `chmod 600 '.*/my seed'`"):
        read_seed_file(path)


def test_a_file_of_ones_own_is_read(tmp_path: Path) -> None:
    assert read_seed_file(seed_file(tmp_path / "seed", b"ab" * 16)) == b"\xab" * 16
    assert read_seed_file(seed_file(tmp_path / "seed", b"ab" * 16, 0o400)) == b"\xab" * 16


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(Misuse, match=f"cannot read seed file {path}: "):
            read_seed_file(path)


def test_a_new_seed_is_readable_by_nobody_else_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "new.seed"
    before = os.umask(0)
    try:
        write_seed_file(path)
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o644)
        write_seed_file(path, force=True)
        assert path.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)
    content = path.read_bytes()
    assert len(content) == 65
    assert content.endswith(b"\n")
    assert len(read_seed_file(path)) == 32


def test_a_seed_is_never_replaced_unasked(tmp_path: Path) -> None:
    path = tmp_path / "seed"
    write_seed_file(path)
    first = path.read_bytes()
    with pytest.raises(Failure, match=r"exists already.*--force"):
        write_seed_file(path)
    assert path.read_bytes() == first
    write_seed_file(path, force=True)
    assert path.read_bytes() != first
    assert list(tmp_path.iterdir()) == [path]


def test_a_seed_is_not_written_through_somebody_elses_link(tmp_path: Path) -> None:
    target = tmp_path / "target"
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(Failure, match="exists already"):
        write_seed_file(link)
    assert not target.exists()


def test_a_seed_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="cannot write"):
        write_seed_file(tmp_path / "none" / "seed")
    with pytest.raises(Failure, match="is a directory"):
        write_seed_file(tmp_path, force=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("force", [False, True])
def test_a_seed_that_is_not_safely_stored_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(Failure, match=r"cannot write .*/seed: No space left on device"):
        write_seed_file(tmp_path / "seed", force=force)
    assert list(tmp_path.iterdir()) == []


def test_an_option_goes_before_a_file_variable_and_that_before_a_value(tmp_path: Path) -> None:
    option = seed_file(tmp_path / "1", b"01" * 16)
    named = seed_file(tmp_path / "2", b"02" * 16)
    environment = {"STT_NODE_SEED_FILE": str(named), "STT_NODE_SEED": "03" * 16}
    assert node_seed(option, environment) == b"\1" * 16
    assert node_seed(None, environment) == b"\2" * 16
    del environment["STT_NODE_SEED_FILE"]
    assert node_seed(None, environment) == b"\3" * 16
    assert node_seed(None, {"STT_NODE_SEED_FILE": "", "STT_NODE_SEED": ""}) is None


def test_a_value_in_the_environment_may_be_any_bytes() -> None:
    raw = bytes(range(128, 160))
    assert node_seed(None, {"STT_NODE_SEED": os.fsdecode(raw)}) == raw


def test_without_a_shared_seed_there_is_no_node() -> None:
    with pytest.raises(Misuse, match="stt keygen"):
        find_seeds(None, None, {})


def test_without_a_node_seed_the_identity_is_new_each_time() -> None:
    environment = {"STT_SHARED_SEED": "ab" * 16}
    first, second = find_seeds(None, None, environment), find_seeds(None, None, environment)
    assert first.ephemeral
    assert first.node != second.node
    assert first.shared == second.shared == b"\xab" * 16
    assert not find_seeds(None, None, environment | {"STT_NODE_SEED": "cd" * 16}).ephemeral


def test_seeds_do_not_show_in_a_repr() -> None:
    seeds = find_seeds(None, None, {"STT_SHARED_SEED": "the very secret shared seed"})
    assert "secret" not in repr(seeds)
    assert seeds.node.hex() not in repr(seeds)
    assert repr(seeds.node) not in repr(seeds)
