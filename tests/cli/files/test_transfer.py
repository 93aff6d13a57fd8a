"""`stt send` and `stt receive`: files from disk to disk, whole or resumable, and nowhere else."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import signal
import threading
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cli.documented import documented_keys
from cli.processes import CTRL_C, PATIENCE, SHARED_SEED, Stt, cable_to, run_stt
from helpers.nodes import live, until
from helpers.relay import Direction, Fault, Kind
from seigr_toolset_transmissions import NodeConfig, STTNode
from seigr_toolset_transmissions.cli.failures import Failure
from seigr_toolset_transmissions.cli.files import transfer
from seigr_toolset_transmissions.cli.files.arriving import SUFFIX, PartialFile, fault_in
from seigr_toolset_transmissions.cli.files.receive import Receiver
from seigr_toolset_transmissions.cli.files.transfer import send_files
from seigr_toolset_transmissions.cli.main import run
from seigr_toolset_transmissions.cli.nodes import running
from seigr_toolset_transmissions.cli.seeds import Seeds
from seigr_toolset_transmissions.errors import STTSessionClosedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from seigr_toolset_transmissions import Session

MIB = 1024 * 1024
ANY_PORT = "127.0.0.1:0"
SHARED = SHARED_SEED.encode()
RECEIVER = Seeds(b"the node seed of the receiver", SHARED, ephemeral=False)
SENDER = Seeds(b"the node seed of the sender", SHARED, ephemeral=False)


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {}  # what files do, no other loop changes


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "from").mkdir()
    return tmp_path / "from"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "to").mkdir()
    return tmp_path / "to"


@asynccontextmanager
async def receiving(
    directory: Path, *, force: bool = False, as_json: bool = False
) -> AsyncIterator[STTNode]:
    """A node that receives files, as `stt receive` does."""
    async with running(RECEIVER, NodeConfig(), ("127.0.0.1", 0)) as node:
        receiver = Receiver(node, directory, force=force, once=False, as_json=as_json)
        try:
            yield node
        finally:
            await receiver.end()


async def send(node: STTNode, *paths: Path, as_json: bool = False) -> None:
    """Send files, as `stt send` does."""
    assert node.address is not None
    await send_files(SENDER, NodeConfig(), node.address, paths, expect=None, as_json=as_json)


class Peer:
    """A peer that speaks the protocol, or breaks it, message by message."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def say(self, kind: str, **facts: Any) -> None:
        await self.session.send(json.dumps({"kind": kind} | facts).encode())

    async def hears(self, kind: str) -> dict[str, Any]:
        async with asyncio.timeout(20):
            message: dict[str, Any] = json.loads(await self.heard.get())
        assert message["kind"] == kind, message
        return message


@asynccontextmanager
async def peer_of(node: STTNode, **settings: Any) -> AsyncIterator[Peer]:
    config = NodeConfig(**settings)
    other = STTNode(b"the node seed of a peer", SHARED, config=config)
    async with other:
        assert node.address is not None
        peer = Peer(await other.connect(*node.address))

        async def on_data(session_id: bytes, data: bytes) -> None:
            peer.heard.put_nowait(data)

        other.events.register("data_received", on_data)
        assert (await peer.hears("greeting"))["version"] == 1
        yield peer


def contents_of(directory: Path) -> dict[str, bytes]:
    """The files of a directory."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def test_files_arrive_under_their_names_and_are_sent_once(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = {"empty": b"", "a name with ü": b"small", "large.bin": os.urandom(3_000_000)}
    for name, content in contents.items():
        (source / name).write_bytes(content)
    async with receiving(target) as node:
        paths = [source / name for name in contents]
        await send(node, *paths)
        assert contents_of(target) == contents
        said = capsys.readouterr()
        for name, content in contents.items():
            facts = rf"{len(content):,} bytes in .*, sha256 {digest_of(content)}\n"
            assert re.search(f"sent {source / name}: {facts}", said.out)
            assert re.search(f"stt: received {target / name}: {facts}", said.err)

        sent_at = (target / "large.bin").stat().st_mtime_ns
        await send(node, *paths)
        said = capsys.readouterr()
        assert said.out.count(" was there already, with the same content\n") == 3
        assert (target / "large.bin").stat().st_mtime_ns == sent_at


async def test_json_has_what_became_of_each_file_on_both_sides(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("new", "same", "taken"):
        (source / name).write_bytes(b"content of " + name.encode())
    (target / f"new{SUFFIX}").write_bytes(b"content")
    (target / "same").write_bytes(b"content of same")
    (target / "taken").write_bytes(b"other")
    async with receiving(target, as_json=True) as node:
        paths = [source / name for name in ("new", "same", "taken", "none")]
        (source / "none").touch()
        (source / "none").chmod(0)
        with pytest.raises(Failure, match="not sent: "):
            await send(node, *paths, as_json=True)
        receiver = node.node_id.hex()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    sent = {line["file"]: line for line in lines if line["peer_node_id"] == receiver}
    received = {line["file"]: line for line in lines if line["peer_node_id"] != receiver}
    assert [sent[str(path)]["outcome"] for path in paths[:3]] == ["sent", "present", "refused"]
    assert [received[path.name]["outcome"] for path in paths[:3]] == [
        *("received", "present", "refused")
    ]
    for new in (sent[str(source / "new")], received["new"]):
        assert (new["bytes"], new["bytes_before"]) == (len(b" of new"), len(b"content"))
        assert new["sha256"] == digest_of(b"content of new")
        assert 0 <= new["seconds"] < PATIENCE
    for same in (sent[str(source / "same")], received["same"]):
        assert (same["bytes"], same["bytes_before"]) == (0, len(b"content of same"))
        assert same["sha256"] == digest_of(b"content of same")
    for taken in (sent[str(source / "taken")], received["taken"]):
        assert taken["reason"].startswith("there is another file of that name already")
        assert taken["bytes"] is taken["sha256"] is None
    assert new.keys() == documented_keys("send") == documented_keys("receive")


async def test_json_names_a_file_that_broke_off(
    target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = ""
    async with receiving(target, as_json=True) as node:
        async with peer_of(node) as peer:
            await peer.say("offer", name="file", size=4)
            await peer.hears("start")
            await peer.say("given-up")
            await peer.say("offer", name="file", size=4)
            await peer.hears("start")
            await peer.session.close()
        while printed.count("\n") < 2:
            await asyncio.sleep(0.01)
            printed += capsys.readouterr().out
    given_up, broken = map(json.loads, printed.splitlines())
    for line in (given_up, broken):
        assert (line["file"], line["outcome"], line["bytes"]) == ("file", "incomplete", None)
    assert given_up["reason"] == "the sender cannot read the rest"
    assert broken["reason"]


def test_a_receiver_whose_output_cannot_be_written_ends(source: Path, target: Path) -> None:
    (source / "file").write_bytes(b"content")
    with (
        Path("/dev/full").open("w") as full,
        Stt("receive", ANY_PORT, str(target), "--json", stdout=full) as receiver,
    ):
        assert run_stt("send", receiver.address(), str(source / "file")).returncode == 0
        assert receiver.end() == 1
        assert "stt: cannot write to standard output: No space left on device" in receiver.stderr
    assert contents_of(target) == {"file": b"content"}


async def test_another_file_of_that_name_is_kept_unless_it_may_be_replaced(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "taken").write_bytes(b"new")
    (source / "free").write_bytes(b"free")
    (target / "taken").write_bytes(b"old")
    async with receiving(target) as node:
        with pytest.raises(Failure, match="not sent: 1 of 2 files"):
            await send(node, source / "taken", source / "free")
        said = capsys.readouterr().err
        assert f"stt: {source / 'taken'} was refused: there is another file of that name" in said
        assert "stt: refused taken from " in said
    assert (target / "taken").read_bytes() == b"old"
    assert (target / "free").read_bytes() == b"free"
    async with receiving(target, force=True) as node:
        await send(node, source / "taken")
    assert (target / "taken").read_bytes() == b"new"


async def test_an_interrupted_transfer_continues_where_it_stopped(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = os.urandom(40 * MIB)
    (source / "file").write_bytes(content)
    part = target / f"file{SUFFIX}"
    async with receiving(target) as node:
        sending = asyncio.ensure_future(send(node, source / "file"))
        await until(lambda: part.exists() and part.stat().st_size > MIB)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await until(lambda: not node.sessions)
        said = capsys.readouterr().err
        while "the transfer is incomplete" not in said:
            await asyncio.sleep(0.01)
            said += capsys.readouterr().err
        assert "interrupted: the transfer of " in said
        assert re.search(r"received [\d,]+ of 41,943,040 bytes of .*; the transfer is incomp", said)
        there = part.stat().st_size
        assert MIB < there < len(content)

        await send(node, source / "file")
        said = capsys.readouterr().out
        assert f": {len(content) - there:,} bytes in " in said
        assert f" after the {there:,} that were there, sha256 {digest_of(content)}\n" in said
    assert (target / "file").read_bytes() == content
    assert not part.exists()


@pytest.mark.parametrize("part", [b"ANOTHER", b"beginning and more than there is to send"])
async def test_a_part_of_another_file_is_not_continued(
    part: bytes, source: Path, target: Path
) -> None:
    (source / "file").write_bytes(b"beginning and end")
    (target / f"file{SUFFIX}").write_bytes(part)
    async with receiving(target) as node:
        await send(node, source / "file")
    assert contents_of(target) == {"file": b"beginning and end"}


async def test_a_pipe_and_an_unreadable_file_among_others(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(source / "pipe")
    writer = threading.Thread(target=(source / "pipe").write_bytes, args=(b"piped",))
    writer.start()
    memory = source / "mem"
    memory.symlink_to("/proc/self/mem")  # opens well, and has nothing at its first address
    async with receiving(target) as node:
        with pytest.raises(Failure, match="not sent: 1 of 2 files"):
            await send(node, memory, source / "pipe")
    writer.join()
    assert contents_of(target) == {"pipe": b"piped"}
    assert f"stt: cannot read {memory}: Input/output error\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../out", "/etc/out", "a/b", "a\\b", "a\0b", "a\nb", "\x1b[2J", "\udcff"),
        *("x" * 247, f"x{SUFFIX}"),
    ],
)
async def test_names_that_could_do_harm_are_refused(name: str, target: Path) -> None:
    assert fault_in(name)
    async with receiving(target) as node, peer_of(node) as peer:
        await peer.say("offer", name=name, size=3)
        await peer.hears("refused")
        await peer.say("offer", name="harmless", size=3)
        await peer.hears("start")
    await until(lambda: list(target.iterdir()) == [])
    assert [path.name for path in target.parent.iterdir()] == ["to"]


@pytest.mark.parametrize("name", ["x" * 246, ".hidden", "a b", "ü", "-rf", "a:b", "$(id)"])
def test_plain_names_are_taken(name: str) -> None:
    assert fault_in(name) == ""


@pytest.mark.parametrize("there", ["part", "target", "directory"])
async def test_no_link_is_followed_out_of_the_directory(there: str, target: Path) -> None:
    outside = target.parent / "outside"
    outside.write_bytes(b"precious")
    if there == "directory":
        (target / f"file{SUFFIX}").mkdir()
    else:
        name = f"file{SUFFIX}" if there == "part" else "file"
        (target / name).symlink_to(outside)
    async with receiving(target, force=True) as node, peer_of(node) as peer:
        await peer.say("offer", name="file", size=8)
        if there == "target":  # with force the link is replaced, not what it leads to
            await peer.hears("start")
            await peer.session.send(b"D" + b"12345678")
            await peer.say("end", size=8, sha256=digest_of(b"12345678"))
            await peer.hears("done")
            assert not (target / "file").is_symlink()
        else:
            reason = (await peer.hears("refused"))["reason"]
            assert reason.startswith("it cannot be written there: ")
    assert outside.read_bytes() == b"precious"


async def test_a_part_is_closed_before_its_sender_may_offer_the_file_again(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[PartialFile] = []
    close = PartialFile.close

    def close_slowly(part: PartialFile) -> None:
        time.sleep(0.05)  # in the receiver's thread
        close(part)
        closed.append(part)

    monkeypatch.setattr(PartialFile, "close", close_slowly)
    async with receiving(target) as node, peer_of(node) as peer:
        for refused in range(1, 3):
            await peer.say("offer", name="file", size=0)
            await peer.hears("start")
            await peer.say("end", size=0, sha256=digest_of(b"another"))
            await peer.hears("refused")
            assert len(closed) == refused
            assert contents_of(target) == {}


async def test_content_that_was_changed_on_its_way_gets_no_name(target: Path) -> None:
    async with receiving(target) as node, peer_of(node) as peer:
        await peer.say("offer", name="file", size=4)
        assert (await peer.hears("start"))["at"] == 0
        await peer.session.send(b"Dgood")
        await peer.say("end", size=4, sha256=digest_of(b"evil"))
        assert (await peer.hears("refused"))["reason"] == "what arrived differs from what was sent"
        assert contents_of(target) == {}


@pytest.mark.parametrize(
    "message",
    [
        b"hello",
        b"",
        b"[]",
        b"{}",
        b"[" * 60_000,
        b'{"kind": 1}',
        b'{"kind": "nonsense"}',
        b'{"kind": "offer"}',
        b'{"kind": "offer", "name": "x", "size": -1}',
        b'{"kind": "offer", "name": "x", "size": true}',
        b'{"kind": "offer", "name": "' + b"x" * 100_000 + b'"}',
    ],
)
async def test_a_peer_that_breaks_the_protocol_is_disconnected(
    message: bytes, target: Path
) -> None:
    async with receiving(target) as node, peer_of(node) as peer:
        await peer.session.send(message)
        await peer.session.wait_closed()
        with pytest.raises(STTSessionClosedError):
            await peer.say("offer", name="x", size=3)
    assert contents_of(target) == {}


async def test_a_second_try_takes_the_place_of_one_without_a_connection(
    source: Path, target: Path
) -> None:
    (source / "file").write_bytes(b"beginning and end")
    part = target / f"file{SUFFIX}"
    async with receiving(target) as node, peer_of(node, reconnect_delay=1e6) as peer:
        await peer.say("offer", name="file", size=17)
        await peer.hears("start")
        await peer.session.send(b"Dbeginning")
        await until(lambda: part.stat().st_size == 9)

        with pytest.raises(Failure):
            await send(node, source / "file")  # it could still be coming

        live(node.sessions[0]).cut("the test cuts it")
        await send(node, source / "file")
        assert (target / "file").read_bytes() == b"beginning and end"
        peer.session.abort()


@pytest.mark.parametrize("greeting", [None, b"hello?", b'{"kind": "start", "at": 0}'])
async def test_a_peer_that_receives_no_files_gets_none(
    greeting: bytes | None, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_GREETING_SECONDS", 0.05)
    (source / "file").write_bytes(b"content")
    async with running(RECEIVER, NodeConfig(), ("127.0.0.1", 0)) as node:

        async def greet(session_id: bytes) -> None:
            if greeting is not None:
                await node.send_to_sessions([session_id], greeting)

        node.events.register("session_created", greet)
        with pytest.raises(Failure, match="no `stt receive` at 127"):
            await send(node, source / "file")
        with pytest.raises(TimeoutError):
            await node.endpoints.receive_any(timeout=0)


# ------------------------------------------------------------------------- processes


def random_file(path: Path, size: int) -> str:
    """Write a file of random bytes; return its SHA-256."""
    content = os.urandom(size)
    path.write_bytes(content)
    return digest_of(content)


def test_a_large_file_takes_little_memory_on_either_side(source: Path, target: Path) -> None:
    size = 160 * MIB
    digest = random_file(source / "large.bin", size)
    with (
        Stt("receive", ANY_PORT, str(target), "--once") as receiver,
        Stt("send", receiver.address(), str(source / "large.bin")) as sender,
    ):
        assert (sender.end(), receiver.end()) == (0, 0)
        said = rf"{size:,} bytes in \d+\.\d s \(.* MB/s\), sha256 {digest}\n"
        assert re.fullmatch("sent .*/large.bin: " + said, sender.stdout.read().decode())
        assert re.search("stt: received .*/large.bin: " + said, receiver.stderr)
    for side in (sender, receiver):
        assert 20 * MIB < side.peak_bytes < 120 * MIB


def test_a_broken_cable_costs_no_byte_and_shows_beside_the_progress(
    source: Path, target: Path
) -> None:
    name = "a file with a name that is longer than half of the terminal's width"
    digest = random_file(source / name, 60 * MIB)
    fault = Fault(Direction.OUT, 20 * MIB, Kind.RST)
    with (
        Stt("receive", ANY_PORT, str(target), "--once", columns=80) as receiver,
        cable_to(receiver.address(), fault, fault) as cable,
        Stt("send", cable.address, str(source / name), columns=80) as sender,
    ):
        sender.until("connected to")
        cable.relay.down = True
        receiver.until(r"a file with a name that… ")
        sender.until(r"\(no connection\)")
        cable.relay.down = False
        assert (sender.end(), receiver.end()) == (0, 0)
        assert len(cable.relay.links) >= 3
        for side in (sender, receiver):
            assert "is broken; it has 120 s to come back" in side.stderr
            assert "is back" in side.stderr
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sender.stderr)
        assert re.search(r"\ra file with a name that… ━+ 62\.9/62\.9 MB [^(\r]+\r\nsent ", shown)
        assert f"sha256 {digest}" in shown
    assert digest_of((target / name).read_bytes()) == digest


def test_ctrl_c_while_sending_says_goodbye_and_the_next_try_is_not_refused(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(source / "pipe")
    with Stt("receive", ANY_PORT, str(target), "--once") as receiver:
        address = receiver.address()
        with (
            Stt("send", address, str(source / "pipe"), columns=80) as sender,
            (source / "pipe").open("wb", buffering=0) as pipe,
        ):
            pipe.write(b"half")
            sender.until("0/|4/|bytes")
            sender.type(CTRL_C)
            assert sender.end() == 130
            assert "^C" not in sender.stderr  # it would stand in the middle of the drawing
            assert "Traceback" not in sender.stderr
            assert re.search("interrupted: the transfer of .* is incomplete", sender.stderr)
        assert receiver.end() == 1
        assert "bytes of " in receiver.stderr
        assert receiver.stderr.endswith("stt: not everything has arrived\n")
        assert "was lost" not in receiver.stderr
    (source / "pipe").unlink()
    (source / "pipe").write_bytes(b"half and half")
    monkeypatch.setenv("STT_SHARED_SEED", SHARED_SEED)
    with Stt("receive", ANY_PORT, str(target)) as receiver:
        assert run(["send", receiver.address(), str(source / "pipe")]) == 0
        assert re.search("bytes in .*sha256", capfd.readouterr().out)
        receiver.signal(signal.SIGINT)
        assert receiver.end() == 130


@pytest.mark.parametrize("how", ["interrupted", "restarted"])
def test_the_sender_learns_that_the_receiver_ended_too_early(
    how: str, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = source / "node.seed"
    assert run(["keygen", str(seed)]) == 0
    os.mkfifo(source / "pipe")
    with (
        Stt("receive", ANY_PORT, str(target), "--seed", str(seed)) as receiver,
        Stt("send", address := receiver.address(), str(source / "pipe")) as sender,
        (source / "pipe").open("wb", buffering=0) as pipe,
    ):
        pipe.write(b"half")
        part = target / f"pipe{SUFFIX}"
        while not part.exists() or not part.stat().st_size:
            assert sender.process.poll() is None
        receiver.signal(signal.SIGINT if how == "interrupted" else signal.SIGKILL)
        assert receiver.end() == (130 if how == "interrupted" else -9)
        if how == "interrupted":
            with suppress(BrokenPipeError):  # the sender may have ended already
                pipe.write(b"more")
            why = "the peer closed the session"
            sender_ends(sender, why)
            return
        why = "the session was lost: the peer was restarted"
        with Stt("receive", address, str(target), "--seed", str(seed)):
            pipe.write(b"more")
            sender_ends(sender, why)


def sender_ends(sender: Stt, why: str) -> None:
    assert sender.end() == 1
    advice = "; send it again to continue from there\n"
    assert re.search(f"stt: the transfer of .*/pipe is incomplete: {why}.*{advice}", sender.stderr)
    assert sender.stdout.read() == b""
