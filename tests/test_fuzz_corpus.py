"""The fuzz targets, without a fuzzer: every input of the corpus, and random ones."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from fuzz.run import NAMES
from fuzz.targets import TARGETS
from seigr_toolset_transmissions.protocol.frames import Welcome, WelcomeStatus
from seigr_toolset_transmissions.protocol.machine import SessionMachine

CORPUS = Path(__file__).resolve().parent.parent / "fuzz" / "corpus"
RANDOM_INPUTS = 300


def inputs(target: str) -> list[Path]:
    return sorted((CORPUS / target).iterdir())


def test_every_target_can_be_run_and_has_a_corpus() -> None:
    assert sorted(NAMES) == sorted(TARGETS)
    assert {folder.name for folder in CORPUS.iterdir()} == set(TARGETS)
    assert all(len(inputs(target)) >= 10 for target in TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_finds_nothing(target: str) -> None:
    for path in inputs(target):
        try:
            TARGETS[target](path.read_bytes())
        except Exception as error:
            error.add_note(f"with {path}")
            raise


@pytest.mark.parametrize("side", ["dialer", "listener"])
def test_the_session_corpus_has_each_frame_accepted(
    monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    """A change in how an input is read must not leave a corpus that is refused at its start."""
    accepted = set()

    def noting(handler: Any) -> Any:
        def handle(machine: SessionMachine, frame: Any, messages: list[bytes], now: float) -> None:
            handler(machine, frame, messages, now)
            accepted.add(frame.status if isinstance(frame, Welcome) else type(frame))

        return handle

    rules = SessionMachine._RULES
    noted = {kind: (noting(handler), *when) for kind, (handler, *when) in rules.items()}
    monkeypatch.setattr(SessionMachine, "_RULES", noted)
    for path in inputs("session"):
        if path.name.startswith(side):
            TARGETS["session"](path.read_bytes())
    welcomes = set(WelcomeStatus) if side == "dialer" else set()
    assert accepted == set(rules) - {Welcome} | welcomes


@pytest.mark.parametrize("target", TARGETS)
def test_random_inputs_find_nothing(target: str) -> None:
    random = Random(target)  # noqa: S311 - the same inputs every time
    for _ in range(RANDOM_INPUTS):
        data = random.randbytes(random.randrange(200))
        try:
            TARGETS[target](data)
        except Exception as error:
            error.add_note(f"with {data.hex()}")
            raise


@pytest.mark.parametrize("target", TARGETS)
def test_inputs_near_the_corpus_find_nothing(target: str) -> None:
    random = Random(target)  # noqa: S311 - the same inputs every time
    for path in inputs(target):
        data = bytearray(path.read_bytes() or b"\0")
        for _ in range(3):
            data[random.randrange(len(data))] = random.randrange(256)
        try:
            TARGETS[target](bytes(data))
        except Exception as error:
            error.add_note(f"with {data.hex()}")
            raise
