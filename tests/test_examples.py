"""Each example runs as a program of its own, ends by itself, and prints what it should."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from helpers.nodes import free_port
from seigr_toolset_transmissions import generate_seed, save_seed

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.once

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
    "rooms": r"""
ada hears 'ben is here'
ben hears 'ada is here'
""",
    "worker_pool": r"""
job \d+ goes to another worker \(handled: None\)
the sum of all squares: 20540
""",
    "fleet": r"""
starting 12 devices
round 1: 10 answered \(10 in all\), 1 slow, 1 away
""",
    "requests": r"""
hello, ann; hello, bob; hello, cy
failed: no such name
""",
    "send_file": r"""
random\.bin: unchanged: True
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
with the old seed: no reply
""",
    "resume": r"""
peer: session_suspended
peer: session_resumed
the rest arrived in order, each exactly once: True
resumed: 1 time
""",
    "opentelemetry_metrics": r"""
stt\.sessions = 1
stt\.suspended = 0
stt\.unacknowledged_bytes = 0
stt\.sessions_opened = 1
stt\.sessions_lost = 0
stt\.messages_sent = 0
stt\.messages_received = 3
stt\.bytes_sent = 0
stt\.bytes_received = 27
""",
}
"""What each example prints, as a regular expression."""

NEEDS = {"opentelemetry_metrics": "opentelemetry.sdk"}
"""What an example imports besides the library."""

ARGUMENTS = {"fleet": ["--devices", "12", "--rounds", "1", "--interval", "20"]}
"""What an example is given so that it takes little time, and no harm if the machine is slow."""

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
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    program = EXAMPLES / f"{name}.py"
    if name in FIXED_PORT:
        text = program.read_text(encoding="utf-8")
        assert text.count(FIXED_PORT[name]) == 1
        program = tmp_path / program.name
        program.write_text(text.replace(FIXED_PORT[name], "port=0"), encoding="utf-8")
    assert re.fullmatch(OUTPUTS[name].lstrip("\n"), run(program, *ARGUMENTS.get(name, ())))


@contextmanager
def program(*arguments: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Run a program until Ctrl-C; yield it and the words of the first line that it prints."""
    with subprocess.Popen(
        [*PYTHON, str(EXAMPLES / arguments[0]), *arguments[1:]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().split()
        finally:
            process.kill()


def interrupt(process: subprocess.Popen[str]) -> str:
    """End a program as Ctrl-C does; return what else it has printed. It must not complain."""
    process.send_signal(signal.SIGINT)
    printed, complaints = process.communicate(timeout=50)
    assert complaints == ""
    return printed


def test_a_peer_talks_to_a_hub_in_another_process(tmp_path: Path) -> None:
    for name in ("shared", "hub", "peer"):
        save_seed(tmp_path / f"{name}.seed", generate_seed())
    with program("hub.py", "127.0.0.1", "0", folder=tmp_path) as (hub, line):
        assert line[:3] == ["python", "peer.py", "HOST"]
        printed = run(EXAMPLES / "peer.py", "127.0.0.1", *line[3:], cwd=tmp_path)
        rest = interrupt(hub)
    assert printed == "HELLO\nHOW ARE YOU?\nGOODBYE\n"
    assert rest == "received 'hello'\nreceived 'how are you?'\nreceived 'goodbye'\n"
    assert hub.returncode == 0


def test_the_peer_of_the_tutorial_talks_to_its_hub(tmp_path: Path) -> None:
    for name in ("shared", "hub", "peer"):
        save_seed(tmp_path / f"{name}.seed", generate_seed())
    port = free_port()
    for name in ("tutorial_hub.py", "tutorial_peer.py"):
        text = (EXAMPLES / name).read_text(encoding="utf-8")
        assert text.count("9400") == 1
        (tmp_path / name).write_text(text.replace("9400", str(port)), encoding="utf-8")
    with program(str(tmp_path / "tutorial_hub.py"), folder=tmp_path) as (hub, line):
        calling = (str(tmp_path / "tutorial_peer.py"), "127.0.0.1", line[-1])
        with program(*calling, folder=tmp_path) as (peer, reply):
            assert reply == ["ARE", "YOU", "THERE?"]
            assert hub.stdout is not None
            assert hub.stdout.readline() == "message 1\n"
            assert hub.stdout.readline() == "message 2\n"
            assert interrupt(peer) == ""
        interrupt(hub)
    assert peer.returncode == hub.returncode == 0


def test_a_hub_says_goodbye_on_sigterm(tmp_path: Path) -> None:
    for name in ("shared", "hub"):
        save_seed(tmp_path / f"{name}.seed", generate_seed())
    with program("hub.py", "127.0.0.1", "0", folder=tmp_path) as (hub, _):
        hub.send_signal(signal.SIGTERM)
        assert hub.communicate(timeout=50) == ("", "")
    assert hub.returncode == 0


def test_people_talk_in_the_rooms_of_a_chat(tmp_path: Path) -> None:
    def expect(person: subprocess.Popen[str], *lines: str) -> None:
        assert person.stdout is not None
        assert [person.stdout.readline() for _ in lines] == [f"{line}\n" for line in lines]

    def say(person: subprocess.Popen[str], line: str) -> None:
        assert person.stdin is not None
        person.stdin.write(f"{line}\n")
        person.stdin.flush()

    with program("chat_rooms.py", "serve", "127.0.0.1", "0", folder=tmp_path) as (hub, line):
        assert line[:4] == ["python", "chat_rooms.py", "join", "HOST"]
        joining = ["chat_rooms.py", "join", "127.0.0.1", *line[4:6]]
        with program(*joining, "ann", folder=tmp_path) as (ann, help_line):
            assert "/join" in help_line
            expect(ann, "in lobby: ann")
            with program(*joining, "ben", folder=tmp_path) as (ben, _):
                expect(ben, "in lobby: ann, ben")
                expect(ann, "ben is here")
                say(ann, "hello")
                expect(ben, "ann: hello")
                say(ben, "/join cellar")
                expect(ben, "in cellar: ben")
                expect(ann, "ben has left")
                say(ben, "/join")
                expect(ben, "which room? /join ROOM")
                say(ben, "/dance")
                expect(ben, "there is no such command: dance")
                say(ben, "/join lobby")
                expect(ben, "in lobby: ann, ben")
                expect(ann, "ben is here")
                say(ben, "/quit")
                assert ben.communicate(timeout=50) == ("", "")
                assert ben.returncode == 0
            expect(ann, "ben has left")
            assert interrupt(ann) == ""
        assert interrupt(hub) == ""


def test_a_chat_tells_what_a_hub_that_was_killed_or_stopped_has_not_heard(tmp_path: Path) -> None:
    serving = ["chat_rooms.py", "serve", "127.0.0.1"]
    with program(*serving, "0", folder=tmp_path) as (hub, line):
        joining = ["chat_rooms.py", "join", "127.0.0.1", *line[4:6], "ann"]
        with program(*joining, folder=tmp_path) as (ann, _):
            assert ann.stdin is not None
            assert ann.stdout is not None
            printed = iter(ann.stdout.readline, "")
            assert next(printed) == "in lobby: ann\n"
            hub.kill()
            assert next(printed) == "the hub is away; what you type waits for it\n"
            ann.stdin.write("is anybody there?\n")
            ann.stdin.flush()  # long before the next hub is there
            with program(*serving, line[4], folder=tmp_path) as (next_hub, _):
                said = {next(printed), next(printed)}
                assert said == {"not heard: is anybody there?\n", "in lobby: ann\n"}
                assert interrupt(next_hub) == ""
            ann.stdin.write("and now?\n")
            ann.stdin.flush()
            assert next(printed).startswith("not sent: and now? (")
            assert interrupt(ann) == ""


def test_files_are_dropped_into_a_folder_and_go_on_where_they_stopped(tmp_path: Path) -> None:
    content = os.urandom(1_000_000)
    (tmp_path / "large").write_bytes(content)
    (tmp_path / "empty").write_bytes(b"")
    serving = ["file_drop.py", "serve", "inbox", "127.0.0.1", "0"]
    with program(*serving, folder=tmp_path) as (hub, line):
        assert line[:4] == ["python", "file_drop.py", "drop", "HOST"]
        part = tmp_path / "inbox" / f".{sha256(content).hexdigest()}.part"
        part.write_bytes(content[:400_000])  # of a drop that was killed
        drop = ["drop", "127.0.0.1", *line[4:6], "large", "empty"]
        printed = run(EXAMPLES / "file_drop.py", *drop, cwd=tmp_path)
        rest = interrupt(hub)
    assert printed == "large: all 1,000,000 bytes have arrived\nempty: all 0 bytes have arrived\n"
    assert re.fullmatch(
        rf"large, 1,000,000 bytes, from {NODE}\nempty, 0 bytes, from {NODE}\n", rest
    )
    assert {file.name: file.read_bytes() for file in (tmp_path / "inbox").iterdir()} == {
        "large": content,
        "empty": b"",
    }


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["peer.py"], "the following arguments are required: host, port, node"),
        (["peer.py", "localhost", "x", "00"], "argument port: invalid int value: 'x'"),
        (
            ["peer.py", "localhost", "9400", "00" * 32],
            "copy the one that your group shares): 'peer.seed'",
        ),
        *(
            ([*call, "localhost", "9400", cut, "x"][:length], "as `stt id` prints")
            for cut in ("00" * 31, "0g" * 32)
            for call, length in (
                (["peer.py"], 4),
                (["chat_rooms.py", "join"], 6),
                (["file_drop.py", "drop"], 6),
            )
        ),
        (["hub.py", "localhost", "x"], "argument port: invalid int value: 'x'"),
        (["hub.py"], "copy the one that your group shares): 'hub.seed'"),
    ],
)
def test_an_example_that_is_called_wrongly_says_how_to_call_it(
    arguments: list[str], complaint: str, tmp_path: Path
) -> None:
    name, *rest = arguments
    done = subprocess.run(
        [*PYTHON, str(EXAMPLES / name), *rest],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd=tmp_path,
    )
    usage, error = done.stderr.splitlines()
    command = " ".join([name, *(word for word in rest if word in ("join", "drop"))])
    assert usage.startswith(f"usage: {command} [-h] ")
    assert error.startswith(f"{command}: error: ")
    assert error.endswith(complaint)
    assert done.returncode == 2


def test_every_example_has_a_test() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {
        *OUTPUTS,
        *("hub", "peer", "chat_rooms", "file_drop", "tutorial_hub", "tutorial_peer"),
    }
