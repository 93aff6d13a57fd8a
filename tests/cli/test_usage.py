"""Help, and what the command says about a misuse."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.documented import all_commands, documented_keys
from cli.processes import MODULE, environment, run_stt
from seigr_toolset_transmissions import __version__
from seigr_toolset_transmissions.cli.app import app
from seigr_toolset_transmissions.cli.main import run
from seigr_toolset_transmissions.cli.notes import complain, note

COMMANDS = [
    "demo",
    "keygen",
    "id",
    "listen",
    "connect",
    "request",
    "send",
    "receive",
    "serve",
    "cluster",
    "status",
    "top",
    "discover",
    "ping",
    "bench",
    "completion",
]


@pytest.fixture(autouse=True)
def no_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("STT_"):
            monkeypatch.delenv(name)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """Run the command, see that it refuses in one line, and return the line."""
    assert run(arguments) == code
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("stt: ")
    assert output.err.count("\n") == 1
    return output.err


def test_the_help_lists_the_commands_and_the_exit_codes() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    listed = result.output.partition("Commands:\n")[2]
    assert [line.split()[0] for line in listed.splitlines()] == COMMANDS
    for text in ("Exit codes", "130", "STT_SHARED_SEED_FILE", "hex digits", "stt demo"):
        assert text in result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_with_an_example(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    example = result.output.partition("\n  Example")[2].splitlines()
    assert any(line.startswith(f"    stt {command}") for line in example)


def test_every_command_takes_the_options_that_say_how_much_it_says() -> None:
    for name, command in all_commands():
        taken = {option for parameter in command.params for option in parameter.opts}
        assert {"-v", "--verbose", "-q", "--quiet"} <= taken, name


def test_commands_that_print_facts_print_them_as_json_too() -> None:
    """Others carry what peers say, change something, or show something to people."""
    as_json = {
        name for name, command in all_commands() if any("--json" in p.opts for p in command.params)
    }
    searches = {"cluster hubs", "cluster find", "cluster locate"}
    assert as_json == searches | {
        "id",
        "send",
        "receive",
        "status",
        "top",
        "discover",
        "ping",
        "bench",
    }
    for name in as_json:
        assert documented_keys(name), name


@pytest.mark.parametrize("command", [[], *([command] for command in COMMANDS)])
def test_a_help_text_keeps_its_layout(command: list[str]) -> None:
    output = CliRunner().invoke(app, [*command, "--help"]).output
    assert "\\b" not in output
    assert "\b" not in output


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert "Commands:" in capsys.readouterr().out
    assert run(["cluster"]) == 2
    output = capsys.readouterr()
    assert "locate" in output.out
    assert output.err == ""


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version_is_the_librarys(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([option]) == 0
    assert capsys.readouterr().out == f"stt {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nonsense"], "No such command 'nonsense'; see `stt --help`"),
        (["connect"], "Missing argument 'HOST:PORT'; see `stt connect --help`"),
        (["completion"], "'SHELL'. Choose from: bash, zsh, fish; see `stt completion --help`"),
        (["send", "localhost:1"], "see `stt send --help`"),
        (["receive", "9000"], "see `stt receive --help`"),
        (["ping", "localhost:1", "-c", "x"], "'x' is not a valid number of pings"),
        (["ping", "localhost:1", "-c", "-1"], "-1 is too small: the least is 0;"),
        (["ping", "localhost:1", "-i", "0"], "0 is too small: the least is 0.01;"),
        (["connect", "localhost:1", "--wait", "0"], "'--wait': 0 is too small"),
        (["connect", "localhost:1", "--wait", "nan"], "'nan' is not a valid number of seconds"),
        (["ping", "localhost:1", "-i", "inf"], "'inf' is not a valid number of seconds"),
        (["connect", "nonsense"], "'nonsense' is not an address: write HOST:PORT"),
        (["listen", "70000"], "ports go up to 65535"),
        (["listen", "9000", "--keep"], "--keep needs --raw"),
        (["listen", "9000", "--console", "70000"], "'--console': 70000 is not in the range"),
        (["ping", "localhost:1", "--expect", "ab"], "is not a node id: write the 64 hex digits"),
        (["connect", "localhost:1"], "no shared seed: make one with `stt keygen"),
        (
            ["connect", "localhost:1", "--shared", "none"],
            "none: no such seed file; make one with `stt keygen none`",
        ),
        (["connect", "localhost", "1"], "'localhost' is not an address: write HOST:PORT"),
        (["listen", "localhost", "1"], "'localhost' is not an address: write PORT, HOST:PORT or"),
        (["listen", "9000", "--exec", ""], "--exec needs a command"),
        (["listen", "9000", "--exec", "'a"], '--exec "\'a": no closing quotation'),
        (["listen", "9000", "--exec", "no-such-program"], "name one that is in PATH"),
        (["listen", "9000", "--exec", "cat", "--echo"], "choose one"),
        (["listen", "9000", "--exec", "cat", "--raw"], "run another `stt listen` for requests"),
        (["listen", "9000", "--echo", "--raw"], "run another `stt listen` for requests"),
        (["request", "localhost:1", "x", "-t", "0"], "'--timeout'"),
        (["receive", "9000", ""], "Invalid value for 'DIR': the name is empty"),
        (["send", "localhost:1", ""], "the name is empty; see `stt send --help`"),
        (["serve", "app"], "'app' is not MODULE:FACTORY: write app:make_node"),
        (
            ["serve", "src/app.py:make"],
            "write the module as in `import`, without .py: src.app:make",
        ),
        (["serve", "app.py"], "write the module as in `import`, without .py: app:make"),
        (["serve", "app:make()"], "'app:make()' is not MODULE:FACTORY"),
        (["serve", "app:make", "-n", "0"], "0 is too small: the least is 1"),
        (["top", "monitor", "--json"], "--json needs --once: a live view is for people"),
        (["cluster", "hubs", "unix:///"], "name the node seed that the hubs share, with --seed"),
        (["cluster", "locate", "unix:///", "ab"], "is not a node id: write the 64 hex digits"),
        (["id"], "no node seed: make one with `stt keygen"),
        (["id", "a.seed", "--seed", "b.seed"], "name the seed file once"),
    ],
)
def test_a_misuse_is_one_line_that_says_what_to_do(
    capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert expected in refused(capsys, *arguments)


def test_a_seed_in_the_environment_that_is_too_short_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STT_SHARED_SEED", "hunter2")
    line = refused(capsys, "listen", "0")
    assert "STT_SHARED_SEED" in line
    assert "hunter2" not in line


def test_a_missing_file_to_send_is_refused_before_anything_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STT_SHARED_SEED", "ab" * 16)
    assert "cannot read" in refused(capsys, "send", "localhost:1", str(tmp_path / "none"))
    assert "is a directory" in refused(capsys, "send", "localhost:1", str(tmp_path))
    (tmp_path / "sub").mkdir()
    twins = [tmp_path / "a", tmp_path / "sub" / "a"]
    for twin in twins:
        twin.touch()
    assert "have the same name" in refused(capsys, "send", "localhost:1", *map(str, twins))
    assert "is not a directory" in refused(capsys, "receive", "0", str(twins[0]))


def test_keygen_prints_the_path_and_never_the_seed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["keygen"]) == 0
    assert capsys.readouterr().out == "stt.seed\n"
    seed = Path("stt.seed").read_text()
    assert "exists already" in refused(capsys, "keygen", code=1)
    assert "make the folder away first" in refused(capsys, "keygen", "away/stt.seed", code=1)
    assert run(["keygen", "--force"]) == 0
    assert Path("stt.seed").read_text() != seed


def test_keygen_gives_the_seed_to_a_pipe_if_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["keygen", "-"]) == 0
    assert len(bytes.fromhex(capsys.readouterr().out)) == 32


def test_the_node_id_depends_on_the_seed_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = str(tmp_path / "node.seed")
    ids: list[str] = []
    for new_seed in (["keygen", path], None, ["keygen", path, "--force"]):
        if new_seed is not None:
            assert run(new_seed) == 0
            capsys.readouterr()
        assert run(["id", path]) == 0
        ids.append(capsys.readouterr().out)
    assert ids[0] == ids[1] != ids[2]
    assert run(["id", "--seed", path]) == 0
    assert capsys.readouterr().out == ids[2]
    assert run(["id", path, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == {"node_id": ids[2].strip()}
    assert facts.keys() == documented_keys("id")
    assert len(bytes.fromhex(ids[0])) == 32


def test_without_the_extra_one_line_says_what_to_install() -> None:
    for module in ("click", "rich"):
        script = (
            f"import sys; sys.modules[{module!r}] = None; "
            "from seigr_toolset_transmissions.cli.main import run; sys.exit(run(['demo']))"
        )
        result = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
        )
        assert result.returncode == 1
        assert result.stdout == ""
        assert result.stderr == (
            f"stt: {module} is missing: run `pip install 'seigr-toolset-transmissions[cli]'`\n"
        )


def test_a_chat_without_its_extra_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("seigr_toolset_transmissions.cli.chat.can_prompt", lambda: True)
    monkeypatch.setitem(sys.modules, "prompt_toolkit.application", None)
    monkeypatch.setenv("STT_SHARED_SEED", "ab" * 16)
    assert "prompt_toolkit is missing: run `pip install" in refused(capsys, "listen", "0", code=1)


def test_an_unreachable_address_is_one_line(tmp_path: Path) -> None:
    del tmp_path
    result = run_stt("connect", "localhost:1")
    assert result.returncode == 1
    assert result.stdout == b""
    assert result.stderr.startswith(b"stt: cannot reach localhost port 1: ")
    assert result.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ([], {"complaint", "note"}),
        (["-q"], {"complaint"}),
        (["-v"], {"complaint", "note", "INFO"}),
        (["-vv"], {"complaint", "note", "INFO", "DEBUG"}),
    ],
)
@pytest.mark.parametrize("before", [True, False])
def test_options_choose_what_goes_to_standard_error(
    options: list[str],
    shown: set[str],
    before: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run_bench(*, as_json: bool, requests: bool) -> None:
        logger = logging.getLogger("seigr_toolset_transmissions.node")
        logger.debug("DEBUG")
        logger.info("INFO")
        note("note")
        complain("complaint")

    monkeypatch.setattr("seigr_toolset_transmissions.cli.app.run_bench", run_bench)
    assert run([*options, "bench"] if before else ["bench", *options]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert {line.split()[-1] for line in captured.err.splitlines()} == shown


def test_output_that_nobody_reads_ends_quietly() -> None:
    # The pipe's reading end is closed before anything is written.
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run(
        [*MODULE, "--help"], stdout=writing, stderr=subprocess.PIPE, timeout=30, check=False
    )
    os.close(writing)
    assert result.stderr == b""
    assert result.returncode == 1


@pytest.mark.parametrize("output", ["/dev/full", "closed"])
def test_output_that_cannot_be_written_is_one_line(output: str) -> None:
    line = 'exec "$@" >&-' if output == "closed" else f'exec "$@" >{output}'
    result = subprocess.run(
        ["/bin/sh", "-c", line, "sh", *MODULE, "keygen", "-"],
        stderr=subprocess.PIPE,
        timeout=30,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith(b"stt: cannot write to standard output: ")
    assert result.stderr.count(b"\n") == 1


@pytest.mark.parametrize("how", ["signal.raise_signal(signal.SIGINT)", "raise KeyboardInterrupt"])
@pytest.mark.parametrize(
    "module",
    ["cli.app", "click", "rich.progress", "cryptography", "seigr_toolset_transmissions.node"],
)
def test_ctrl_c_while_it_is_loading_shows_no_traceback(module: str, how: str) -> None:
    script = f"""
import signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.endswith({module!r}):
            {how}

sys.meta_path.insert(0, Finder())
from seigr_toolset_transmissions.cli.main import run
sys.exit(run(["demo"]))
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=30, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (130, b"", b"")


def test_ctrl_c_is_back_to_normal_once_all_is_loaded() -> None:
    before = signal.getsignal(signal.SIGINT)
    assert run(["--version"]) == 0
    assert signal.getsignal(signal.SIGINT) is before


def test_it_starts_on_systems_without_termios_and_unix_signals(tmp_path: Path) -> None:
    script = f"""
import asyncio, os, sys
for name in ("termios", "resource", "fcntl", "pwd", "grp", "tty"):
    sys.modules[name] = None
for name in ("getpgrp", "tcgetpgrp", "getuid", "register_at_fork", "fork"):
    delattr(os, name)

def refuse(self, *args):
    raise NotImplementedError

for loop in (asyncio.SelectorEventLoop, asyncio.BaseEventLoop):
    loop.add_signal_handler = loop.remove_signal_handler = refuse
from seigr_toolset_transmissions.cli.main import run
assert run(["--help"]) == 0
assert run(["keygen", {str(tmp_path / "seed")!r}]) == 0
assert run(["id", "--seed", {str(tmp_path / "seed")!r}]) == 0
(open({str(tmp_path / "file")!r}, "w")).close()
sys.exit(run(["send", "127.0.0.1:1", {str(tmp_path / "file")!r}]))
"""
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env=environment(),
    )
    assert result.stderr.startswith("stt: cannot reach 127.0.0.1 port 1: ")
    assert result.returncode == 1


@pytest.mark.parametrize("command", ["demo", "bench"])
def test_a_frozen_program_says_that_some_commands_need_python_processes(
    command: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert run([command]) == 1
    output, errors = capfd.readouterr()
    assert output == ""
    assert errors.startswith(f"stt: `stt {command}` starts processes of Python, which a frozen")
    assert errors.count("\n") == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_show_no_traceback(closed: str) -> None:
    line = f'exec "$@" {closed}'
    result = subprocess.run(
        ["/bin/sh", "-c", line, "sh", *MODULE, "connect", "localhost:1"],
        capture_output=True,
        timeout=30,
        env=environment(),
        check=False,
    )
    assert result.returncode == 1
    assert b"Traceback" not in result.stderr
