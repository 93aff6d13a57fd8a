"""Each example runs as a program of its own, ends by itself, and prints what it should."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"

NODE = "[0-9a-f]{16}"

OUTPUTS = {
    "first": rf"""
the hub received b'hello, hub' from {NODE}
the peer received b'hello, peer' from {NODE}
""",
    "complete_example": r"""
New peer: 706565725f6e6f64\.\.\.
Message from 706565725f6e6f64: b'Hello back!'

Active endpoints: 1
  706565725f6e6f64: \{'connected_at': \d+\.\d+\}
""",
    "broadcaster": r"""
Message sent to 3 endpoints
peer 1 received b'to each in turn'
peer 2 received b'to each in turn'
peer 3 received b'to each in turn'
accepted for 3 of 3
peer 1 received b'to all at once'
peer 2 received b'to all at once'
peer 3 received b'to all at once'
""",
    "health_monitor": r"""
lively: healthy, connected
silent: unhealthy, connected
""",
    "event_metrics": r"""
session_created: 1
peer_connected: 1
data_received: 3
session_closed: 1
peer_disconnected: 1
on_any saw the same: True
""",
    "address_book": r"""
sessions before the first send: 0
sessions after two sends: 1
beta received b'first'
beta received b'second'
gamma is not at that address: nothing was sent
""",
    "metadata_query": r"""
storage: attic, cellar
large: attic
accepted for all: True
received b'make room'
received b'make room'
attic: ACCEPTED
cellar: UNREACHABLE
""",
    "resume": r"""
peer: session_suspended
peer: session_resumed
the others, in order and each once: True
resumed: 1 time
""",
}
"""What each example prints, as a regular expression."""

FIXED_PORT = {"complete_example": "port=8080"}
"""Examples that listen on a port of their own. A copy that takes any free one is run, because
theirs may be taken on the machine that runs the test."""


def run(program: Path) -> str:
    """Run a program to its end; return what it prints. It must not fail, complain or hang."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_example_prints_what_it_should(name: str, tmp_path: Path) -> None:
    program = EXAMPLES / f"{name}.py"
    if name in FIXED_PORT:
        text = program.read_text(encoding="utf-8")
        assert text.count(FIXED_PORT[name]) == 1
        program = tmp_path / program.name
        program.write_text(text.replace(FIXED_PORT[name], "port=0"), encoding="utf-8")
    assert re.fullmatch(OUTPUTS[name].lstrip("\n"), run(program))


def test_every_example_has_a_test() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(OUTPUTS)
