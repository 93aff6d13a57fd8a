"""Every asynchronous test runs on each event loop that a user may have."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import resource
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from types import FrameType

# A run shows what a change does, so each run tries the same inputs. To look for others, run
# pytest --hypothesis-profile=default; what that finds becomes an explicit example.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

# A shell has those that it runs in the background ignore Ctrl-C, and so would all programs that the
# tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# With fewer than its sessions may need, each node that listens would warn, and programs under test
# inherit the limit.
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
if soft != resource.RLIM_INFINITY and soft < 8192:
    most = 8192 if hard == resource.RLIM_INFINITY else min(hard, 8192)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _fail_if_lacking(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Where all that tests need was installed, fail what is skipped for want of a package.

    What a machine lacks, such as IPv6, is no such reason.
    """
    lacking = report.skipped and "could not import" in str(report.longrepr)
    if lacking and "STT_REQUIRE_ALL" in os.environ:
        report.outcome = "failed"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_if_lacking(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_if_lacking(report)
    return report


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_timeout_set_timer() -> Generator[None, object, object]:
    """Let a test whose time runs out fail on every loop.

    pytest-timeout raises its failure from a signal handler. uvloop only logs what such a handler
    raises, unless it is a SystemExit, and the test would hang forever.
    """
    result = yield
    fail = signal.getsignal(signal.SIGALRM)
    assert callable(fail)

    def expire(number: int, frame: FrameType | None) -> None:
        try:
            fail(number, frame)
        except pytest.fail.Exception as failed:
            raise SystemExit(str(failed)) from None

    signal.signal(signal.SIGALRM, expire)
    return result


BACKENDS: list[Any] = [
    pytest.param(("asyncio", {}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
]

if sys.version_info >= (3, 12):

    def eager_loop() -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        return loop

    BACKENDS.append(pytest.param(("asyncio", {"loop_factory": eager_loop}), id="eager"))


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=[0, 1, 2], ids=["alone", "with_one_more", "with_two_more"])
def crowd(request: pytest.FixtureRequest) -> int:
    """How many more handlers there are: a single handler is run in another way than several."""
    count: int = request.param
    return count


@pytest.fixture(autouse=True)
def log_as_ever() -> Iterator[None]:
    """Undo what a command sets, so that later tests see what the library logs."""
    yield
    logging.getLogger("seigr_toolset_transmissions").setLevel(logging.NOTSET)


@pytest.fixture
def no_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert not caplog.get_records("call")


@pytest.fixture
def longest_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each random time be the longest possible."""
    monkeypatch.setattr(random, "uniform", lambda _low, high: high)


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let the programs under test share what Python compiles, and leave nothing beside the source.

    Otherwise, where Python may not write it, each program compiles the whole package again.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.getbasetemp() / "compiled"))
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield
