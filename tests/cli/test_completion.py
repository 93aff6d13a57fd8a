"""`stt completion` in the real shells: what Tab makes of the beginning of a line."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.processes import PATIENCE, environment
from seigr_toolset_transmissions.cli.app import app

pytestmark = pytest.mark.once

BEGINNINGS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}
LOADING = {
    "bash": "source <(stt completion bash)",
    "zsh": "autoload -Uz compinit && compinit -u -D && source <(stt completion zsh)",
}


def need(shell: str) -> str:
    """Return the path of the shell; without it, skip the test."""
    path = shutil.which(shell)
    if path is None:
        assert "STT_REQUIRE_ALL" not in os.environ, f"there is no {shell}: install it"
        pytest.skip(f"this machine has no {shell}")
    return path


def variables(folder: Path) -> dict[str, str]:
    """The environment of a shell in the folder, which finds this `stt`."""
    scripts = Path(sys.executable).parent
    if not (scripts / "stt").exists():
        pytest.skip("the command is not installed beside Python")
    path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    return environment(PATH=path, HOME=str(folder), TERM="dumb", PS1="$ ", COLUMNS="200")


class Terminal:
    """An interactive shell."""

    def __init__(self, shell: str, folder: Path) -> None:
        self._descriptor, its_end = os.openpty()
        self._shown = b""
        self._process = subprocess.Popen(
            BEGINNINGS[shell],
            stdin=its_end,
            stdout=its_end,
            stderr=its_end,
            cwd=folder,
            env=variables(folder),
            start_new_session=True,
        )
        os.close(its_end)
        self.enter(f"{LOADING[shell]}; echo it is load''ed")
        self.until("it is loaded")

    def enter(self, line: str) -> None:
        os.write(self._descriptor, line.encode() + b"\n")

    def until(self, pattern: str) -> str:
        """Wait until what the shell has shown matches; return the first group, or all of it."""
        end = time.monotonic() + PATIENCE
        while (match := re.search(pattern, self._shown.decode(errors="replace"))) is None:
            left = end - time.monotonic()
            assert left > 0, f"no {pattern!r} in {self._shown!r}"
            if select.select([self._descriptor], [], [], left)[0]:
                self._shown += os.read(self._descriptor, 65_536)
        return match[match.lastindex or 0]

    def completed(self, beginning: str) -> str:
        """Press Tab behind the beginning of a line; return the line as the shell then takes it."""
        self._shown = b""
        os.write(self._descriptor, beginning.encode() + b"\t\x01echo '<' \x05 '>'\n")
        return self.until(r"\n< (.*?) *>\r")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._descriptor)


@pytest.mark.parametrize("shell", BEGINNINGS)
def test_a_shell_completes_commands_shells_files_and_directories(
    shell: str, tmp_path: Path
) -> None:
    need(shell)
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox.seed").touch()
    terminal = Terminal(shell, tmp_path)
    try:
        assert terminal.completed("stt rece") == "stt receive"
        assert terminal.completed("stt completion f") == "stt completion fish"
        assert terminal.completed("stt ping --shared inbox.") == "stt ping --shared inbox.seed"
        line = terminal.completed("stt receive 9000 inb")
        assert line.removesuffix("/") == "stt receive 9000 inbox"  # zsh takes a last / back
    finally:
        terminal.close()


def test_fish_completes_them_too(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox.seed").touch()
    lines = ["stt rece", "stt completion z", "stt id inbox.", "stt receive 9000 inb"]
    script = "stt completion fish | source\n" + "\n".join(f"complete -C '{line}'" for line in lines)
    done = subprocess.run(
        [need("fish"), "--no-config", "-c", script],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=tmp_path,
        env=variables(tmp_path),
        check=True,
    )
    found = [line.partition("\t")[0] for line in done.stdout.splitlines()]
    assert found == ["receive", "zsh", "inbox.seed", "inbox/"]


def test_another_shell_is_refused() -> None:
    result = CliRunner().invoke(app, ["completion", "tcsh"])
    assert result.exit_code == 2
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in result.output
