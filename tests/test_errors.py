"""Errors cross processes and can be copied, like Python's own."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING

import pytest

from seigr_toolset_transmissions import errors
from seigr_toolset_transmissions.errors import (
    STTError,
    STTRequestFailedError,
    STTSessionLostError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ERRORS = [
    error
    for name in errors.__all__
    if isinstance(error := getattr(errors, name), type) and issubclass(error, STTError)
]


def pickled(protocol: int, error: STTError) -> STTError:
    twin = pickle.loads(pickle.dumps(error, protocol))  # noqa: S301
    assert isinstance(twin, STTError)
    return twin


COPIES: dict[str, Callable[[STTError], STTError]] = {
    "copied": copy.copy,
    "deeply copied": copy.deepcopy,
    **{
        f"pickled by protocol {protocol}": partial(pickled, protocol)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}


def make(kind: type[STTError]) -> STTError:
    if issubclass(kind, STTSessionLostError):
        return kind(
            "lost", session_id=b"s" * 16, peer_node_id=b"p" * 32, unsent=(b"m",), unknown=(b"",)
        )
    if issubclass(kind, STTRequestFailedError):
        return kind(b"why")
    return kind("what went wrong")


def raised(kind: type[STTError]) -> STTError:
    """An error as a user catches it: with a cause, a traceback, a note and an attribute."""
    try:
        try:
            raise OSError(5, "the cause")  # noqa: TRY301
        except OSError as cause:
            error = make(kind)
            error.add_note("a note")
            error.request = 7  # type: ignore[attr-defined]
            raise error from cause
    except STTError as caught:
        return caught


def lose() -> None:
    raise make(STTSessionLostError)


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_keeps_its_facts_when(kind: type[STTError], how: str) -> None:
    error = raised(kind)
    twin = COPIES[how](error)
    assert type(twin) is kind
    assert str(twin) == str(error)
    assert twin.args == error.args
    assert vars(twin) == vars(error)
    assert twin.__notes__ == ["a note"]


@pytest.mark.parametrize("how", COPIES)
def test_an_error_of_a_subclass_keeps_its_class_when(how: str) -> None:
    twin = COPIES[how](make(ApplicationLostError))
    assert isinstance(twin, ApplicationLostError)
    assert twin.unsent == (b"m",)


class ApplicationLostError(STTSessionLostError):
    pass


def test_an_error_crosses_processes() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        error = pool.submit(lose).exception(timeout=50)
    assert isinstance(error, STTSessionLostError)
    assert error.unsent == (b"m",)


def test_a_reason_that_is_no_bytes_is_refused_where_it_is_given() -> None:
    with pytest.raises(TypeError, match="must be bytes, not str"):
        STTRequestFailedError("no such device")  # type: ignore[arg-type]


def test_a_failure_says_whether_the_handler_gave_a_reason() -> None:
    assert str(STTRequestFailedError(b"why")).endswith("its reason (3 bytes) is in `data`")
    assert str(STTRequestFailedError()).endswith("gave no reason: see the peer's log")
