"""`stt ping` against a listening process."""

from __future__ import annotations

import json
import re
import signal
import statistics

import pytest

from cli.documented import documented_keys
from cli.processes import SHARED_SEED, Stt, cable_to
from seigr_toolset_transmissions.cli import ping
from seigr_toolset_transmissions.cli.main import run

ANY_PORT = "127.0.0.1:0"
ANSWER = r"answer from [0-9a-f]{8} at 127\.0\.0\.1:\d+: seq=\d+ time=\d+\.\d{3} ms\n"
NO_ANSWER = r"no answer from [0-9a-f]{8} at 127\.0\.0\.1:\d+: seq=\d+\n"
FIGURES = r"min/avg/max/mdev = (\d+\.\d{3}/){3}\d+\.\d{3} ms\n"
COUNTS = r"\d+ transmitted, \d+ received, \d+(\.\d+)?% loss\n"


def test_each_answer_is_shown_and_a_summary_follows(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STT_SHARED_SEED", SHARED_SEED)
    with Stt("listen", ANY_PORT) as listener:
        assert run(["ping", listener.address(), "-c", "3", "-i", "0.01"]) == 0
        said = capfd.readouterr().out
        assert re.fullmatch(f"({ANSWER}){{3}}3 transmitted, 3 received, 0% loss\n{FIGURES}", said)
        listener.until("has left")
        assert listener.process.poll() is None  # it has noticed nothing but a peer

        with Stt("ping", listener.address(), "-c", "0", "-i", "0.01") as endless:
            for _ in range(5):
                assert re.fullmatch(ANSWER, endless.stdout.readline().decode())
            endless.signal(signal.SIGINT)
            assert endless.end() == 130
            last = endless.stdout.read().decode()
            # Whether a ping was under way or not: it is not counted.
            match = re.fullmatch(
                rf"({ANSWER})*(\d+) transmitted, \2 received, 0% loss\n{FIGURES}", last
            )
            assert match

        monkeypatch.setattr(ping, "_PATIENCE_SECONDS", 1e-9)  # no answer can be fast enough
        assert run(["ping", listener.address(), "-c", "2", "-i", "0.01"]) == 1
        output = capfd.readouterr()
        assert re.fullmatch(f"({NO_ANSWER}){{2}}2 transmitted, 0 received, 100% loss\n", output.out)
        assert output.err.endswith("stt: 2 of 2 pings were not answered\n")


def test_a_ping_that_is_under_way_at_the_end_is_not_counted() -> None:
    with (
        Stt("listen", ANY_PORT) as listener,
        Stt("ping", listener.address(), "--json", "-c", "0", "-i", "0.01") as pinging,
    ):
        pinging.until("connected to")
        listener.process.send_signal(signal.SIGSTOP)  # from now on, nothing is answered
        pinging.signal(signal.SIGINT)
        assert pinging.end() == 130
        facts = json.loads(pinging.stdout.read())
        assert facts["transmitted"] == facts["received"]
        assert facts["loss"] == 0.0
        listener.process.send_signal(signal.SIGCONT)


def test_one_json_object_has_all_figures(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STT_SHARED_SEED", SHARED_SEED)
    with Stt("listen", ANY_PORT) as listener:
        address = listener.address()
        assert run(["ping", address, "-c", "3", "-i", "0.01", "--json"]) == 0
        facts = json.loads(capfd.readouterr().out)
        assert facts.keys() == documented_keys("ping")
        times = facts.pop("times_ms")
        assert re.fullmatch("[0-9a-f]{64}", facts.pop("peer_node_id"))
        assert facts.pop("avg_ms") == pytest.approx(sum(times) / 3, abs=0.001)
        assert facts.pop("mdev_ms") == pytest.approx(statistics.pstdev(times), abs=0.001)
        assert facts == {
            "address": address,
            "transmitted": 3,
            "received": 3,
            "loss": 0.0,
            "min_ms": min(times),
            "max_ms": max(times),
        }

        monkeypatch.setattr(ping, "_PATIENCE_SECONDS", 1e-9)
        assert run(["ping", address, "-c", "2", "-i", "0.01", "--json"]) == 1
        facts = json.loads(capfd.readouterr().out)
        assert (facts["loss"], facts["times_ms"]) == (1.0, [None, None])
        assert facts["min_ms"] is facts["avg_ms"] is facts["max_ms"] is facts["mdev_ms"] is None


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
        assert re.fullmatch(f"({ANSWER})*({NO_ANSWER})*{COUNTS}{FIGURES}", last)


def test_it_continues_over_another_connection_and_fails_without_one() -> None:
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
