from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from seigr_toolset_transmissions.cli.failures import Failure, Misuse
from seigr_toolset_transmissions.cli.seeds import (
    find_seeds,
    node_seed,
    write_seed_file,
)

if TYPE_CHECKING:
    from pathlib import Path


def seed_file(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match=f"cannot read seed file {tmp_path}: "):
        node_seed(tmp_path, {})


def test_a_file_that_is_not_there_is_named_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "none"
    with pytest.raises(
        Misuse, match=f"{path}: no such seed file; make one with `stt keygen {path}`$"
    ):
        node_seed(path, {})
    with pytest.raises(Misuse, match=f"`stt keygen {path}`, or copy the group's$"):
        find_seeds(None, path, {})


def test_a_file_that_holds_no_seed_is_misuse(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match=r"seed file .*/seed is empty"):
        node_seed(seed_file(tmp_path / "seed", b""), {})


def test_a_new_seed_can_be_used_and_is_replaced_only_when_forced(tmp_path: Path) -> None:
    path = tmp_path / "seed"
    write_seed_file(path)
    first = node_seed(path, {})
    assert first is not None
    assert len(first) == 32
    with pytest.raises(Failure, match=r"exists already.*--force"):
        write_seed_file(path)
    assert node_seed(path, {}) == first
    write_seed_file(path, force=True)
    assert node_seed(path, {}) != first


def test_a_seed_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="cannot write"):
        write_seed_file(tmp_path / "none" / "seed")
    with pytest.raises(Failure, match="is a directory"):
        write_seed_file(tmp_path, force=True)
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


def test_a_node_seed_that_equals_the_shared_seed_is_misuse() -> None:
    with pytest.raises(Misuse, match=r"the same as the shared seed.*stt keygen node\.seed"):
        find_seeds(None, None, {"STT_SHARED_SEED": "ab" * 16, "STT_NODE_SEED": "AB" * 16})


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
