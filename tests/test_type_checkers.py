"""The files in `typed/` are as the type checkers of users should find them: free of errors.

Where a checker must find a mistake, the line says that it is ignored, and both checkers report a
line of which nothing had to be ignored. So each file fails if they accept too much or too little.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]
FILES = sorted(ROOT.glob("tests/typed/*.py"))


def check(*command: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_finds_the_mistakes_and_no_others(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    check("mypy", "--follow-imports=silent", "--cache-dir", tmp_path, *FILES)


def test_pyright_finds_the_mistakes_and_no_others(tmp_path: Path) -> None:
    pytest.importorskip("basedpyright")
    settings = {
        "include": list(map(str, FILES)),
        "extraPaths": [str(ROOT / "src")],
        "typeCheckingMode": "standard",
        "enableTypeIgnoreComments": True,
        "reportUnnecessaryTypeIgnoreComment": "error",
        "reportDeprecated": "error",
    }
    project = tmp_path / "pyrightconfig.json"
    project.write_text(json.dumps(settings))
    check("basedpyright", "--project", project, "--pythonpath", sys.executable)
