"""`stt ping` against a listening process."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

from cli.processes import SHARED_SEED, Stt, cable_to
from seigr_toolset_transmissions.cli import ping
from seigr_toolset_transmissions.cli.main import run

if TYPE_CHECKING:
    import pytest

ANY_PORT = "127.0.0.1:0"
ANSWER = r"answer from [0-9a-f]{8} at 127\.0\.0\.1:\d+: seq=\d+ time=\d+\.\d{3} ms\n"
NO_ANSWER = r"no answer from [0-9a-f]{8} at 127\.0\.0\.1:\d+: seq=\d+\n"
FIGURES = r"min/avg/max = \d+\.\d{3}/\d+\.\d{3}/\d+\.\d{3} ms\n"


def test_each_answer_is_shown_and_all_are_summed_up(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STT_SHARED_SEED", SHARED_SEED)
    with Stt("listen", ANY_PORT) as listener:
        assert run(["ping", listener.address(), "-c", "3", "-i", "0.01"]) == 0
        said = capfd.readouterr().out
        assert re.fullmatch(f"({ANSWER}){{3}}3 asked, 3 answered; {FIGURES}", said)
        listener.until("has left")
        assert listener.process.poll() is None  # it has noticed nothing but a peer

        with Stt("ping", listener.address(), "-c", "0", "-i", "0.01") as endless:
            for _ in range(5):
                assert re.fullmatch(ANSWER, endless.stdout.readline().decode())
            endless.signal(signal.SIGINT)
            assert endless.end() == 130
            last = endless.stdout.read().decode()
            assert re.fullmatch(f"({ANSWER})*\\d+ asked, \\d+ answered; {FIGURES}", last)

        monkeypatch.setattr(ping, "_PATIENCE_SECONDS", -1.0)  # no answer can be fast enough
        assert run(["ping", listener.address(), "-c", "2", "-i", "0.01"]) == 1
        output = capfd.readouterr()
        assert re.fullmatch(f"({NO_ANSWER}){{2}}2 asked, 0 answered\n", output.out)
        assert output.err.endswith("stt: 2 of 2 pings were not answered\n")


def test_it_fails_when_the_peer_closes_the_session() -> None:
    with (
        Stt("listen", ANY_PORT) as listener,
        Stt("ping", listener.address(), "-c", "0", "-i", "0.01") as pinging,
    ):
        assert re.fullmatch(ANSWER, pinging.stdout.readline().decode())
        listener.signal(signal.SIGTERM)
        assert listener.end() == 143
        assert pinging.end() == 1
        assert pinging.stderr.endswith("stt: the peer has closed the session\n")
        last = pinging.stdout.read().decode()
        # The end comes during a round trip, between two, or just after an answer.
        assert re.fullmatch(f"({ANSWER})*({NO_ANSWER})*\\d+ asked, \\d+ answered; {FIGURES}", last)


def test_it_goes_on_over_another_connection_and_fails_without_one() -> None:
    with (
        Stt("listen", ANY_PORT) as listener,
        cable_to(listener.address()) as cable,
        Stt("ping", cable.address, "-c", "0", "-i", "0.01", "--wait", "0.6") as pinging,
    ):
        assert re.fullmatch(ANSWER, pinging.stdout.readline().decode())
        cable.relay.down = True
        cable.cut()
        while not re.fullmatch(NO_ANSWER, pinging.stdout.readline().decode()):
            pass  # answers from before
        cable.relay.down = False
        while not re.fullmatch(ANSWER, pinging.stdout.readline().decode()):
            pass
        listener.process.kill()
        assert pinging.end() == 1
        assert re.search("stt: the session was lost: no connection for 0.6 s.*\n$", pinging.stderr)
