"""`stt discover` and ``--announce``, over loopback."""

from __future__ import annotations

import json
import secrets
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from cli.documented import documented_keys
from cli.processes import SHARED_SEED, Stt
from helpers.multicast import needs_multicast
from seigr_toolset_transmissions.cli.failures import INTERRUPTED, TERMINATED
from seigr_toolset_transmissions.cli.main import run

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("zeroconf")
pytestmark = needs_multicast

SEARCH = ("discover", "--on", "127.0.0.1", "--wait")


@pytest.fixture(autouse=True)
def shared_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT_SHARED_SEED", SHARED_SEED)


def test_what_is_announced_is_found_by_members_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    announced = set[tuple[str, str]]()
    with (
        Stt("listen", "0", "--announce") as lines,
        Stt("listen", "0", "--raw", "--keep", "--announce") as raw,
        Stt("receive", "0", str(tmp_path), "--announce") as files,
        Stt(*SEARCH, "60") as searching,
    ):
        for stt in (lines, raw, files):
            match = stt.until(r"listening on (\S+) as (\w+)")
            announced.add((match[2], match[1]))
            assert "on this machine find this node with `stt discover`" in stt.stderr
        # Each is printed as soon as it is found.
        found = set[tuple[str, ...]]()
        while not announced <= found:  # other tests on this machine may announce nodes too
            found.add(tuple(searching.stdout.readline().decode().split()))
        searching.signal(signal.SIGINT)
        assert searching.end() == INTERRUPTED
        assert "the search was not finished" in searching.stderr

        assert run([*SEARCH, "3", "--json"]) == 0
        output = capsys.readouterr()
        members = json.loads(output.out)
        assert announced <= {(member["node_id"], *member["addresses"]) for member in members}
        assert set(members[0]) == documented_keys("discover")
        assert output.err == "stt: looking for members for 3 s\n"

        monkeypatch.setenv("STT_SHARED_SEED", secrets.token_hex(32))
        assert run([*SEARCH, "0.3"]) == 1
        output = capsys.readouterr()
        assert output.out == ""
        assert "no member of the group was found within 0.3 s: check that" in output.err
        for stt in (lines, raw, files):
            stt.signal(signal.SIGTERM)
        assert [stt.end() for stt in (lines, raw, files)] == [TERMINATED] * 3


def test_an_interface_is_an_address_of_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["discover", "--on", "lo"]) == 2
    assert "'lo' is not an IP address: write one of this machine's" in capsys.readouterr().err
    assert run(["discover", "--on", "192.0.2.99"]) == 1
    assert "cannot look for members: no interface of this machine has" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["discover"], ["listen", "0", "--announce"]])
def test_without_zeroconf_the_commands_say_what_to_install(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    assert run(command) == 2
    output = capsys.readouterr()
    assert "pip install 'seigr-toolset-transmissions[discovery]'" in output.err
    assert output.err.count("\n") == 1
