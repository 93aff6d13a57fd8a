"""What holds for all tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")

TESTS = """
import pytest

def test_that_needs_a_package():
    pytest.importorskip("no_such_package")

def test_that_needs_another_machine():
    pytest.skip("this machine has no IPv6")
"""


HANG = """
import asyncio

async def test_that_hangs():
    await asyncio.Event().wait()
"""


@pytest.mark.parametrize("required", [False, True])
def test_no_test_is_skipped_for_a_package_where_all_must_be_there(
    required: bool, tmp_path: Path
) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "test_skips.py").write_text(TESTS)
    environment = {key: value for key, value in os.environ.items() if key != "STT_REQUIRE_ALL"}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # they take longer to load than the tests
    if required:
        environment["STT_REQUIRE_ALL"] = "1"
    (tmp_path / "test_module.py").write_text("import pytest\npytest.importorskip('no_such')\n")
    last = pytest_in(tmp_path, "--continue-on-collection-errors", env=environment)
    assert last.startswith("1 failed, 1 skipped, 1 error" if required else "3 skipped")


def test_a_test_that_hangs_fails_on_every_loop(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "test_hang.py").write_text(HANG)
    (tmp_path / "pytest.ini").write_text("[pytest]\nanyio_mode = auto\n")
    last = pytest_in(tmp_path, "--timeout", "1", env=dict(os.environ))
    assert last.startswith("3 failed" if sys.version_info >= (3, 12) else "2 failed")


def pytest_in(folder: Path, *options: str, env: dict[str, str]) -> str:
    """Run the tests in a folder; return the last line that pytest prints."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options, folder],
        capture_output=True,
        text=True,
        cwd=folder,
        env=env,
        timeout=60,
        check=False,
    )
    return run.stdout.splitlines()[-1]
