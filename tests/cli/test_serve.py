"""`stt serve`: workers as real processes, with real signals, and all ways in which they end."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cli.demo.test_demo import alive
from cli.processes import PATIENCE, Stt, descendants, run_stt
from seigr_toolset_transmissions import STTNode, generate_seed
from seigr_toolset_transmissions.cli.failures import Failure
from seigr_toolset_transmissions.cli.main import run
from seigr_toolset_transmissions.cli.worker import share
from seigr_toolset_transmissions.cli.workers import Target, serve
from seigr_toolset_transmissions.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

    from seigr_toolset_transmissions import Session

NODE_SEED, SHARED_SEED = (
    b"the node's own seed, a secret one",
    b"the seed of all of the workers' peers",
)

APP = f"""
import asyncio, os, sys
from contextlib import asynccontextmanager
from pathlib import Path
from seigr_toolset_transmissions import STTNode, generate_seed
from seigr_toolset_transmissions.transports.unix import UnixNetwork

def make(port=PORT, seed={NODE_SEED!r}, **options):
    node = STTNode(seed, {SHARED_SEED!r}, "127.0.0.1", port, **options)

    @node.on_request
    async def answer(peer_node_id, data):
        if data == b"who":
            return b"%d" % os.getpid()
        while not node.cluster.locate(data):
            await asyncio.sleep(0.01)
        return await node.endpoints.request(data, b"who", timeout=5)

    return node

async def make_later():
    return make()

@asynccontextmanager
async def make_inside():
    yield make()
    print("what the node needs is closed", flush=True)

@asynccontextmanager
async def make_slow():
    yield make()
    Path("closing").touch()
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    print("closed", flush=True)

@asynccontextmanager
async def make_stuck():
    yield make()
    await asyncio.Event().wait()

async def make_started():
    node = make()
    await node.start(server_mode=True)
    return node

def make_anywhere(): return make(0)
def make_anyone(): return make(seed=generate_seed())
def make_unix(): return make(network=UnixNetwork())
def make_nothing(): pass
def make_mistake(): raise LookupError("no such thing")
def make_end(): sys.exit(7)
def make_crash(): os.kill(os.getpid(), 9)
number = 7
"""


@pytest.fixture
def port() -> int:
    """A port that is free: at port 0, each worker would get another one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


@pytest.fixture
def folder(port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the program is, and where the workers meet."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own paths may be too long for a socket
        monkeypatch.setenv("TMPDIR", name)  # also for a supervisor that is killed
        write_app(Path(name), port)
        (Path(name) / "broken.py").write_text("import no_such_module")
        yield Path(name)


def write_app(folder: Path, port: int, more: str = "") -> None:
    (folder / "app.py").write_text(APP.replace("PORT", str(port)) + more)
    # Python takes a source of the same second and size for the one that it has compiled.
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)


def pid_of(stt: Stt, worker: int, *, after: int = 0) -> int:
    """Wait until a worker listens whose process is another one than ``after``; return its."""
    return int(stt.until(rf"worker {worker} \(pid (?!{after}\))(\d+)\) listens")[1])


def until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + PATIENCE
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("target", "code", "said"),
    [
        ("nothing:make", 2, "there is no module 'nothing' in FOLDER or among the installed"),
        ("app:none", 2, "module 'app' has no 'none': check its name"),
        ("app:number", 2, "app:number is an int, not a function: name one that returns an STTNode"),
        ("app:make_nothing", 2, "app:make_nothing returned None, not an STTNode"),
        (
            "app:make_started",
            2,
            "app:make_started returned cannot be started: a node that runs cannot",
        ),
        ("app:make_unix", 2, "workers cannot share an address of UnixNetwork: use --workers 1"),
        ("app:make_mistake", 1, "app:make_mistake raised LookupError: no such thing"),
        ("app:make_end", 1, "app:make_end raised SystemExit: 7"),
        ("app:make_crash", 1, ") ended: killed by SIGKILL"),
        ("app:make_anyone", 1, "the workers have different node ids: make the node with the same"),
        (
            "app:make_anywhere",
            1,
            "the workers listen on different ports: give the node a fixed port",
        ),
        ("broken:make", 1, "raised ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_what_cannot_start_is_not_tried_again(
    folder: Path, target: str, code: int, said: str
) -> None:
    done = run_stt("serve", target, "--workers", "2", cwd=folder)
    assert done.returncode == code
    last = done.stderr.decode().splitlines()[-1]
    assert said.replace("FOLDER", str(folder)) in last
    assert last.startswith("stt: ")
    raised = "raised" in said
    assert ("Traceback" in done.stderr.decode()) is raised  # for the author of the program


def test_a_port_that_is_taken_ends_the_command(folder: Path, port: int) -> None:
    with socket.create_server(("127.0.0.1", port)):
        for count in ("1", "2"):
            done = run_stt("serve", "app:make", "--workers", count, cwd=folder)
            assert done.returncode == 1
            assert f"cannot listen on 127.0.0.1 port {port}: " in done.stderr.decode()
            assert done.stderr.count(b"\n") == 1


def test_a_system_that_cannot_share_a_port_runs_one_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(Failure, match="several workers can share a port on Linux only"):
        asyncio.run(serve(Target("app", "make"), 2))


def test_a_second_command_does_not_share_the_port_of_the_first(folder: Path) -> None:
    with Stt("serve", "app:make", "--workers", "2", cwd=folder) as stt:
        pid_of(stt, 2)
        done = run_stt("serve", "app:make", "--workers", "2", cwd=folder)
        assert done.returncode == 1
        assert b"another `stt serve` listens on 127.0.0.1:" in done.stderr
        stt.signal(signal.SIGTERM)
        assert stt.end() == 143


def test_each_worker_shows_its_node_at_a_path_of_its_own(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "monitor"
    arguments = ("--workers", "2", "--monitor", str(path))
    with Stt("serve", "app:make", *arguments, cwd=folder) as stt:
        pid_of(stt, 1)
        pid_of(stt, 2)
        assert run(["status", f"{path}.2"]) == 0
        assert "worker-2, other hubs " in capsys.readouterr().out
        assert run(["status", str(path)]) == 1
        assert f"(workers show theirs at {path}.1 and {path}.2)" in capsys.readouterr().err
        stt.signal(signal.SIGTERM)
        assert stt.end() == 143
    assert not list(folder.glob("monitor*"))


def test_workers_are_one_node_to_their_peers(folder: Path, port: int) -> None:
    with Stt("serve", "app:make", "--workers", "2", cwd=folder) as stt:
        pids = {pid_of(stt, 1), pid_of(stt, 2)}
        asyncio.run(reach_each_other(pids, port))


async def reach_each_other(workers: set[int], port: int) -> None:
    """Connect peers until each worker has one; have the worker of one ask the other."""
    peers: dict[int, Session] = {}
    ids: dict[int, bytes] = {}
    async with AsyncExitStack() as stack:
        while set(peers) != workers:  # the system chooses the worker by the port of the peer
            peer = STTNode(generate_seed(), SHARED_SEED)
            peer.on_request(say_who_asks)
            await stack.enter_async_context(peer)
            session = await peer.connect("127.0.0.1", port)
            pid = int(await session.request(b"who", timeout=PATIENCE))
            peers[pid] = session
            ids[pid] = peer.node_id
        one, other = workers
        reply = await peers[one].request(ids[other], timeout=PATIENCE)
        assert reply == b"asked by " + peers[other].peer_node_id


async def say_who_asks(peer_node_id: bytes, data: bytes) -> bytes:
    return b"asked by " + peer_node_id


def test_a_worker_that_dies_is_restarted_and_the_others_stay(folder: Path) -> None:
    with Stt("serve", "app:make", "--workers", "2", cwd=folder) as stt:
        first, second = pid_of(stt, 1), pid_of(stt, 2)
        os.kill(first, signal.SIGKILL)
        stt.until(rf"worker 1 \(pid {first}\) ended: killed by SIGKILL; it restarts in 0\.5 s\n")
        assert alive(pid_of(stt, 1, after=first))
        assert alive(second)
        assert stt.stderr.count("worker 2") == 1


def test_at_sigterm_all_workers_deliver_what_is_left_and_their_folder_is_removed(
    folder: Path,
) -> None:
    with Stt("serve", "app:make_inside", "--workers", "2", cwd=folder) as stt:
        pids = [pid_of(stt, 1), pid_of(stt, 2)]
        (meeting,) = folder.glob("stt-*")
        assert meeting.stat().st_mode & 0o777 == 0o700
        stt.signal(signal.SIGTERM)
        assert stt.end() == 143
        assert not any(alive(pid) for pid in pids)
        assert not meeting.exists()
        assert stt.stdout.read() == b"what the node needs is closed\n" * 2
        assert stt.stderr.endswith(
            "stt: the workers deliver what is left; Ctrl-C again ends them at once\n"
        )


def test_a_worker_that_gets_the_signal_twice_delivers_what_is_left_all_the_same(
    folder: Path,
) -> None:
    with Stt("serve", "app:make_slow", cwd=folder) as stt:
        pid = pid_of(stt, 1)
        # As systemd does it: to all processes of the service.
        for process in (stt.process.pid, pid):
            os.kill(process, signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE
        while not (folder / "closing").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        stt.until("Ctrl-C again ends them at once")
        os.kill(pid, signal.SIGTERM)
        (folder / "go").touch()
        assert stt.end() == 143
        assert stt.stdout.read() == b"closed\n"


def test_a_second_ctrl_c_ends_workers_that_do_not_end(folder: Path) -> None:
    with Stt("serve", "app:make_stuck", cwd=folder) as stt:
        pid = pid_of(stt, 1)
        stt.signal(signal.SIGINT)
        stt.until("Ctrl-C again ends them at once")
        assert alive(pid)
        stt.signal(signal.SIGINT)
        assert stt.end() == 130
        assert not alive(pid)


def test_workers_end_with_a_supervisor_that_is_killed(folder: Path) -> None:
    with Stt("serve", "app:make_later", "--workers", "2", cwd=folder) as stt:
        pids = [pid_of(stt, 1), pid_of(stt, 2)]
        assert set(pids) == set(descendants(stt.process.pid))
        stt.process.kill()
        stt.process.wait()
        until_gone(pids)


def test_sighup_restarts_one_worker_after_another(folder: Path) -> None:
    with Stt("serve", "app:make", "--workers", "2", cwd=folder) as stt:
        first, second = pid_of(stt, 1), pid_of(stt, 2)
        stt.signal(signal.SIGHUP)
        stt.until("all workers have restarted")
        assert not alive(first)
        assert not alive(second)
        happened = re.findall(r"worker \d \(pid \d+\) (?:listens|delivers)", stt.stderr)[2:]
        assert [re.sub(r"\(.*?\) ", "", each) for each in happened] == [
            "worker 1 delivers",
            "worker 1 listens",
            "worker 2 delivers",
            "worker 2 listens",
        ]


def test_a_broken_program_costs_one_worker_until_it_is_mended(folder: Path, port: int) -> None:
    with Stt("serve", "app:make", "--workers", "2", cwd=folder) as stt:
        pid_of(stt, 1)
        second = pid_of(stt, 2)
        write_app(folder, port, "raise ValueError('broken')")
        stt.signal(signal.SIGHUP)
        broken = r"worker 1 \(pid \d+\) ended: app:make raised ValueError: broken; it restarts in"
        stt.until(broken + r" 0\.5 s")
        stt.until(broken + r" 1 s")
        assert alive(second)
        write_app(folder, port)
        stt.until("all workers have restarted")
        until_gone([second])


def test_a_node_that_has_a_cluster_keeps_it() -> None:
    own = Cluster("unix:///nowhere", name="own")
    node = STTNode(NODE_SEED, SHARED_SEED, cluster=own)
    share(node, "/elsewhere", 1)
    assert node.cluster is own
    assert own.folder == "/elsewhere"  # where workers pass sockets to each other
    other = STTNode(NODE_SEED, SHARED_SEED)
    share(other, "/elsewhere", 1)
    assert other.cluster.name == "worker-1"
