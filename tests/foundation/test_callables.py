"""Which functions count as async."""

from __future__ import annotations

import functools
from typing import Any
from unittest import mock

import pytest

from seigr_toolset_transmissions.foundation.callables import is_async


async def function(*_: Any) -> None:
    """Do nothing."""


def plain(*_: Any) -> None:
    """Do nothing."""


class Async:
    async def __call__(self, *_: Any) -> None:
        """Do nothing."""

    async def method(self, *_: Any) -> None:
        """Do nothing."""


class Plain:
    def __call__(self, *_: Any) -> None:
        """Do nothing."""


@pytest.mark.parametrize(
    "given",
    [
        function,
        Async(),
        Async().method,
        functools.partial(function, 1),
        functools.partial(functools.partial(Async().method, 1), 2),
        functools.partial(Async()),
        mock.AsyncMock(),
        mock.create_autospec(function),
    ],
    ids=lambda given: type(given).__name__,
)
def test_async_callables_count(given: object) -> None:
    assert is_async(given)


@pytest.mark.parametrize(
    "given",
    [
        plain,
        Plain(),
        Async,
        functools.partial(plain),
        lambda *_: function(),
        mock.Mock(),
        mock.create_autospec(plain),
        "text",
        None,
    ],
    ids=lambda given: type(given).__name__,
)
def test_other_callables_do_not(given: object) -> None:
    assert not is_async(given)
