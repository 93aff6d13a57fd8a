"""`stt listen --console`: a page in the browser shows the node."""

from __future__ import annotations

import json
import re
import sys
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

from cli.processes import SHARED_SEED, Stt
from seigr_toolset_transmissions.cli.main import run

pytest.importorskip("aiohttp")
pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def shared_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT_SHARED_SEED", SHARED_SEED)


def test_listen_prints_the_address_of_its_console_once() -> None:
    with Stt("listen", "0", "--console") as listening:
        listening.address()
        [url] = re.findall(r"http://\S+", listening.stderr)
        parts = urlsplit(url)
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        body = json.dumps({"token": parts.fragment})
        connection.request("POST", "/session", body, {"Content-Type": "application/json"})
        assert connection.getresponse().status == 200
        connection.close()
        with Stt("listen", "0", "--console", str(parts.port)) as second:
            assert second.end() == 1
            assert f"cannot listen on 127.0.0.1:{parts.port}: " in second.stderr
            assert "Traceback" not in second.stderr


def test_a_console_without_its_package_is_a_misuse(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp.web", None)
    assert run(["listen", "0", "--console"]) == 2
    assert re.fullmatch(r"stt: --console: .*\[console\].*\n", capfd.readouterr().err)
