"""Each example runs as a program of its own, ends by itself, and prints what it should."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from seigr_toolset_transmissions import generate_seed

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
absent: unreachable, disconnected
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
    "access": r"""
the guest is in: open
the hub refused the stranger: the peer is not among the node ids that are allowed
the stranger is not: the peer does not allow this node to connect
the guest, banned: the peer does not allow this node to connect
and forgiven: open
""",
    "seed_rotation": r"""
still here at step 1
still here at step 2
still here at step 3
a new session with the new seed: open
with the old seed: no answer
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


PYTHON = [sys.executable, "-W", "error"]


def run(program: Path, *args: str, cwd: Path | None = None) -> str:
    """Run a program to its end; return what it prints. It must not fail, complain or hang."""
    done = subprocess.run(
        [*PYTHON, str(program), *args],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd=cwd,
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


def test_two_programs_find_each_other_by_what_the_hub_prints(tmp_path: Path) -> None:
    program = EXAMPLES / "two_programs.py"
    for name in ("shared", "hub", "peer"):
        (tmp_path / f"{name}.seed").write_text(f"{generate_seed().hex()}\n", encoding="ascii")
    with subprocess.Popen(
        [*PYTHON, str(program), "hub"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as hub:
        try:
            assert hub.stdout is not None
            line = hub.stdout.readline()
            matched = re.fullmatch(
                r"python two_programs\.py (peer 127\.0\.0\.1 \d+ [0-9a-f]{64})\n", line
            )
            assert matched is not None
            printed = run(program, *matched[1].split(), cwd=tmp_path)
            hub.send_signal(signal.SIGINT)
            rest, complaints = hub.communicate(timeout=50)
        finally:
            hub.kill()
    assert printed == "HELLO\nHOW ARE YOU?\nGOODBYE\n"
    assert rest == "received 'hello'\nreceived 'how are you?'\nreceived 'goodbye'\n"
    assert complaints == ""
    assert hub.returncode == 0


def test_every_example_has_a_test() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*OUTPUTS, "two_programs"}
