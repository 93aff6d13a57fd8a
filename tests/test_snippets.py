"""What the documents show as code is as a type checker wants it, and their test runs as one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from test_docs import DOCUMENTS, FOREIGN, ROOT, python_blocks, read

if TYPE_CHECKING:
    from pathlib import Path

COMING_FROM = sorted((ROOT / "docs" / "coming-from").glob("*.md"))
GIVEN = """
import asyncio
import json
from collections import deque
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from seigr_toolset_transmissions import HealthMonitor, HealthStatus, NodeConfig, STTNode, Session
from seigr_toolset_transmissions.errors import (
    STTEndpointError, STTRequestError, STTRequestFailedError,
)

node: STTNode
node_seed: bytes
shared_seed: bytes
old: bytes
new: bytes
device_id: bytes
peer_id: bytes
other_id: bytes
alice_id: bytes
bob_id: bytes
registry: set[bytes]
counts: dict[str, int]


async def snippet() -> None:
"""
"""What a block may use without saying so, and the function that lets it await."""


def run(folder: Path, *arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=os.environ | {"MYPYPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_type_checker_accepts_every_snippet(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    checked = 0
    for document in DOCUMENTS:
        for number, block in enumerate(python_blocks(document.read_text(encoding="utf-8"))):
            name = f"{document.relative_to(ROOT).with_suffix('')}-{number}"
            module = tmp_path / (re.sub(r"[^a-z0-9]", "_", name.lower()) + ".py")
            whole = "asyncio.run(" in block or "shout" in block
            module.write_text(block if whole else GIVEN + textwrap.indent(block, "    "))
            checked += 1
    (tmp_path / "shout.py").write_text(python_blocks(read("docs/how-to/testing.md"))[0])
    assert checked > 60
    options = ["--no-error-summary", "--check-untyped-defs", "--cache-dir", ".cache"]
    run(tmp_path, "mypy", *options, "--disable-error-code=import-not-found", ".")


@pytest.mark.parametrize("page", COMING_FROM, ids=lambda path: path.stem)
def test_what_other_libraries_look_like_is_python(page: Path) -> None:
    blocks = re.findall(
        r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    [theirs] = [block for block in blocks if FOREIGN.search(block)]
    compile(theirs, page.name, "exec")
    assert len(blocks) > 1


def test_the_test_of_the_how_to_page_passes(tmp_path: Path) -> None:
    program, test = python_blocks(read("docs/how-to/testing.md"))
    (tmp_path / "shout.py").write_text(program)
    (tmp_path / "test_shout.py").write_text(test)
    assert "1 passed" in run(tmp_path, "pytest", "-q", "-p", "no:cacheprovider", ".")
