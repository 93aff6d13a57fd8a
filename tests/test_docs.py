"""The documents say what is there: tables, snippets, links and bytes agree with the source."""

from __future__ import annotations

import ast
import hashlib
import hmac
import inspect
import re
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

import seigr_toolset_transmissions
from helpers.session_pair import NoBudget
from seigr_toolset_transmissions import (
    NodeConfig,
    STTNode,
    accepting,
    config,
    controls,
    frames,
    identity,
    noise,
    outbox,
    registry,
    session,
)
from seigr_toolset_transmissions.cli.app import app
from seigr_toolset_transmissions.frames import FrameDecoder, FrameType, WelcomeStatus
from seigr_toolset_transmissions.hello import Hello, Opening, OpeningKind, Reply
from seigr_toolset_transmissions.identity import Identity, derive_psk
from seigr_toolset_transmissions.noise import CipherState, Handshake
from seigr_toolset_transmissions.phase import Link, Phase
from seigr_toolset_transmissions.records import seal, unseal
from seigr_toolset_transmissions.session import SessionMachine

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(seigr_toolset_transmissions.__file__).parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[cli]' && .venv/bin/stt demo"
TEST = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/pytest"


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """Return what stands under a heading, up to the next one of any level."""
    [rest] = re.findall(rf"^#+ {re.escape(heading)}\n(.*)", text, re.DOTALL | re.MULTILINE)
    return re.split(r"^#+ ", str(rest), maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """Return the cells of the tables' rows, the headings left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    ruled = [index for index, row in enumerate(cells) if set(row[0]) == {"-"}]
    return [row for index, row in enumerate(cells) if index not in ruled and index + 1 not in ruled]


def names(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


# --------------------------------------------------------------------------- README


def test_the_readme_has_the_two_commands_each_in_one_line() -> None:
    lines = [line.strip() for line in read("README.md").splitlines()]
    assert RUN in lines
    assert TEST in lines


def test_what_the_readme_says_of_the_tests_is_what_is_run() -> None:
    script = ROOT / ".ci" / "run"
    if not script.exists():
        pytest.skip("only the repository has it")
    commands = [line.strip() for line in script.read_text(encoding="utf-8").splitlines()]
    [command] = [line for line in commands if ".[dev]" in line and line.startswith("python3 ")]
    assert command in [line.strip() for line in read("README.md").splitlines()]


def test_the_readmes_first_program_is_the_first_example() -> None:
    first = re.findall(r"^```python\n(.*?)^```", read("README.md"), re.DOTALL | re.MULTILINE)[0]
    assert first == read("examples/first.py")


def test_the_readme_lists_the_commands() -> None:
    listed = [names(row[0]) for row in rows(section(read("README.md"), "The command line"))]
    assert listed == [{f"stt {name}"} for name in app.commands]


def test_the_readme_names_every_document_and_example() -> None:
    text = read("README.md")
    for path in (*ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.py"), ROOT / "CHANGELOG.md"):
        assert f"({path.relative_to(ROOT).as_posix()})" in text


def test_the_changelog_has_this_version() -> None:
    assert f"## [{seigr_toolset_transmissions.__version__}]" in read("CHANGELOG.md")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        goal = document.parent / path if path else document
        assert goal.exists(), target
        assert not anchor or anchor in anchors(goal), target


def anchors(document: Path) -> set[str]:
    """What its headings can be linked to by."""
    return {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    }


# -------------------------------------------------------------------------- snippets


def snippets() -> Iterator[Any]:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        for number, block in enumerate(blocks):
            if "asyncio.run(" not in block:  # a program of its own: see test_examples
                yield pytest.param(block, id=f"{document.stem}-{number}")


@pytest.mark.parametrize("block", list(snippets()))
async def test_a_snippet_runs_on_a_real_node(block: str) -> None:
    node, other = (STTNode(bytes([n]) * 32, b"the documents' seed") for n in range(2))
    later = STTNode(bytes([9]) * 32, b"the documents' seed")
    failures: list[dict[str, Any]] = []

    @node.events.on("error")
    async def fail(error_type: str, details: dict[str, Any]) -> None:
        failures.append(details)

    address = await node.start(server_mode=True)
    assert address is not None
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(node)
        await stack.enter_async_context(other)
        await (await other.connect(*address)).send(b"one message")
        await node.events.wait_for("peer_connected", timeout=10)
        await other.sessions[0].send(b"another one")
        await other.sessions[0].flush()
        namespace = {
            "node": node,
            "peer_id": other.node_id,
            "other_id": later.node_id,
            "counts": {},
            "Any": Any,
            "STTNode": STTNode,
            "node_seed": bytes([7]) * 32,
            "shared_seed": b"the documents' seed",
            "alice_id": bytes([1]) * 32,
            "bob_id": bytes([2]) * 32,
            "registry": {bytes([1]) * 32},
            "old": b"the documents' seed",
            "new": b"the documents' next seed",
        }
        code = compile(block, "<snippet>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if "stream" in block or "wait_for" in block:  # waits for a peer that is yet to come
            stack.push_async_callback(later.stop)
            await later.start()
            connecting = node._runtime.own(_connect_late(later, address))
        else:
            connecting = None
        result = eval(code, namespace)  # noqa: S307 - our own documents
        if inspect.isawaitable(result):
            await result
        if connecting is not None:
            await connecting
        if "kick" in block and "STTNode(" not in block:
            # Which is told of, like every end of a session that was not agreed on.
            assert not node.sessions
            await node.events.wait_for("peer_disconnected", timeout=10)
            assert {details.pop("reason").partition(":")[0] for details in failures} == {
                "the peer was kicked"
            }
            return
        await other.sessions[0].send(b"for a handler, if there is one")
        await other.sessions[0].flush()
    assert failures == []


async def _connect_late(node: STTNode, address: tuple[str, int]) -> None:
    await node.connect(*address)


# ---------------------------------------------------------------------------- events


def library_sources() -> Iterator[ast.Module]:
    for path in sorted([*PACKAGE.glob("*.py"), *PACKAGE.glob("events/*.py")]):
        yield ast.parse(path.read_text(encoding="utf-8"))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for item in ast.walk(tree):
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
            yield item


def strings(function: ast.AST, value: ast.expr) -> set[str]:
    """Return the strings that an expression of a function can be, as far as it shows."""
    match value:
        case ast.Constant(str(text)):
            return {text}
        case ast.Call(func=ast.Name(id="Delivery"), args=[name]):
            return strings(function, name)
        case ast.IfExp():
            return strings(function, value.body) | strings(function, value.orelse)
        case ast.Name():
            return {
                text for source in assigned(function, value) for text in strings(function, source)
            }
    return set()


def keys(function: ast.AST, value: ast.expr) -> set[str]:
    """Return the keys that a dict expression of a function can have, as far as it shows."""
    match value:
        case ast.Dict():
            return {key.value for key in value.keys if isinstance(key, ast.Constant)}  # type: ignore[misc]
        case ast.BinOp():
            return keys(function, value.left) | keys(function, value.right)
        case ast.Name():
            return {key for source in assigned(function, value) for key in keys(function, source)}
    return set()


def assigned(function: ast.AST, name: ast.Name) -> list[ast.expr]:
    return [
        item.value
        for item in ast.walk(function)
        if isinstance(item, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == name.id for target in item.targets)
    ]


def arguments_of(
    function: ast.AST, method: str
) -> Iterator[tuple[list[ast.expr], list[ast.keyword]]]:
    """Find the calls of a method, direct or through functools.partial."""
    for call in ast.walk(function):
        if not isinstance(call, ast.Call):
            continue
        match call.func, call.args:
            case ast.Attribute(attr=attribute), arguments if attribute == method:
                yield arguments, call.keywords
            case _, [ast.Attribute(attr=attribute), *arguments] if attribute == method:
                yield arguments, call.keywords


def errors_in_the_source() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for tree in library_sources():
        for function in functions(tree):
            for (kind, details), _ in arguments_of(function, "report"):
                for name in strings(function, kind):
                    found.setdefault(name, set()).update(keys(function, details) | {"count"})
            for arguments, keywords in [
                *arguments_of(function, "emit_error"),
                *arguments_of(function, "emit"),
            ]:
                given = {keyword.arg: keyword.value for keyword in keywords}
                if "error_type" in given:
                    kind, details = given["error_type"], given["details"]
                elif len(arguments) == 2:
                    kind, details = arguments
                else:
                    continue
                for name in strings(function, kind):
                    found.setdefault(name, set()).update(keys(function, details))
    return found


def test_the_table_of_errors_is_that_of_the_source() -> None:
    table = rows(section(read("docs/events.md"), "Errors"))
    documented = {name: names(row[1]) for row in table for name in names(row[0])}
    assert documented == errors_in_the_source()


def events_in_the_source() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for tree in library_sources():
        for function in functions(tree):
            for arguments, keywords in arguments_of(function, "emit"):
                for name in strings(function, arguments[0]) if arguments else ():
                    found.setdefault(name, set()).update(str(item.arg) for item in keywords)
            for arguments, _ in arguments_of(function, "tell"):
                for name in strings(function, arguments[1]) if len(arguments) == 2 else ():
                    found.setdefault(name, set()).add("session_id")
    return found


def test_the_table_of_events_is_that_of_the_source() -> None:
    table = rows(section(read("docs/events.md"), "The events of a node"))
    documented = {name: names(row[1]) for row in table for name in names(row[0])}
    assert documented == events_in_the_source()


# ----------------------------------------------------------------------- wire format


WIRE = read("docs/wire-format.md")


def test_the_table_of_frames_is_that_of_the_source() -> None:
    table = rows(section(WIRE, "Frames"))[: len(FrameType)]
    assert [(int(row[0]), row[1]) for row in table] == [(t.value, t.name) for t in FrameType]
    for kind, row in zip(FrameType, table, strict=True):
        length = frames._CONTROL_BYTES.get(kind)
        if length is not None:
            assert row[2] == f"{length} bytes"
        else:
            assert f"{frames.MAX_DATA_BYTES:,} bytes" in row[2]
        assert row[3] == ("yes" if kind in {FrameType.DATA, FrameType.DATA_PART} else "no")
    statuses = ", ".join(f"{status.value} {status.name}" for status in WelcomeStatus)
    assert f"status: {statuses} |" in WIRE


def test_the_numbers_of_the_wire_format_are_those_of_the_source() -> None:
    limits = {row[0]: row[1] for row in rows(section(WIRE, "Limits"))}
    default = NodeConfig()
    mib = config.MIB
    assert limits == {
        "record, with its tag": f"{noise.MAX_MESSAGE_BYTES:,} bytes",
        "payload of a frame": f"{frames.MAX_DATA_BYTES:,} bytes",
        "cost of a sequenced frame beyond its payload": f"{outbox.FRAME_COST}",
        "records under one key": f"{noise.REKEY_INTERVAL:,}",
        "message*": f"{default.max_message_bytes // mib} MiB; at most {2**32 - 1:,} bytes, "
        "which is what fits the handshake",
        "credit ahead of what is consumed*": f"{default.receive_window_bytes // mib} MiB",
        "accepted and not acknowledged*": f"{default.send_window_bytes // mib} MiB of cost, "
        f"or {default.send_window_messages:,} frames",
        "handshake*": f"{default.handshake_timeout:g} s",
        "suspended session*": f"{default.resume_window:g} s",
        "PING every*, dead after a silence of*": f"{default.ping_interval:g} s, "
        f"{default.ping_timeout:g} s",
        "connection that takes no bytes*": f"{default.write_timeout:g} s",
        "delay of an ACK*": f"{default.ack_delay * 1000:g} ms",
        "sessions of a node*, with one peer*, suspended*": f"{default.max_sessions:,}, "
        f"{default.max_sessions_per_peer}, as many as there may be",
        "remembered first messages, ended sessions": (
            f"{accepting._FIRST_MESSAGES:,}, {registry._TOMBSTONES:,}"
        ),
    }
    assert session.ACK_SHARE == 4
    assert "has cost a quarter of the receive\n  window" in WIRE
    assert f"more than {session.MAX_PONGS} PINGs" in WIRE
    assert controls.CONTROL_SECONDS == 1
    assert f"more than\n{controls.MAX_CONTROLS:,} control frames" in WIRE


def test_the_labels_of_the_wire_format_are_those_of_the_source() -> None:
    table = rows(section(WIRE, "Keys"))
    assert [(names(row[1]), names(row[2])) for row in table] == [
        ({identity.SHARED_SEED_LABEL.decode()}, {identity.PSK_PURPOSE.decode()}),
        ({identity.NODE_SEED_LABEL.decode()}, {identity.STATIC_KEY_PURPOSE.decode()}),
    ]
    assert f'SHA-256("{identity.NODE_ID_LABEL.decode()}" ||' in WIRE
    assert f"`{noise.PROLOGUE.decode()}` (ASCII, {len(noise.PROLOGUE)} bytes)" in WIRE


def test_the_fields_of_the_wire_format_lie_one_behind_the_other() -> None:
    """Each byte table begins at 0 and has no gap."""
    sizes = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}
    tables = re.findall(r"^\| offset \| size \|.*\n\|[-|]+\n((?:\|.*\n)+)", WIRE, re.MULTILINE)
    ends = []
    for table in tables:
        end = 0
        for row in [line.strip("|").split("|") for line in table.splitlines()]:
            assert int(row[0]) == end
            size = row[1].strip()
            end += sizes.get(size) or int(size)
        ends.append(end)
    assert ends == [
        len(Hello(1, 1).encode()),
        len(Reply(1, 1, bytes(16)).encode()),
        len(Opening(OpeningKind.NEW, 1, bytes(16), bytes(16), 0, 0, 0).encode()),
        frames._CONTROL_BYTES[FrameType.WELCOME],
    ]


def root_of(seed: bytes, label: bytes) -> bytes:
    """As the document has it, without our own code."""
    salt = hashlib.sha256(label).digest()
    return hashlib.scrypt(seed, salt=salt, n=2**15, r=8, p=1, maxmem=2**26, dklen=32)


def key_of(root: bytes, purpose: bytes) -> bytes:
    """HKDF-Expand for one block, from its definition."""
    return hmac.digest(root, purpose + b"\x01", "sha256")


def worked_example() -> dict[str, bytes]:
    """Compute the document's example with the library."""
    limits = NodeConfig()
    shared_seed = b"the shared seed of the example"
    dialer_seed, listener_seed = b"the dialer's node seed", b"the listener's node seed"
    ephemerals = [X25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2)]
    incarnations = [bytes([3]) * 16, bytes([4]) * 16]
    psk = derive_psk(shared_seed)
    dialer, listener = Identity.from_seed(dialer_seed), Identity.from_seed(listener_seed)
    values = {
        "shared seed": shared_seed,
        "dialer's node seed": dialer_seed,
        "listener's node seed": listener_seed,
        "dialer's ephemeral private key": ephemerals[0].private_bytes_raw(),
        "listener's ephemeral private key": ephemerals[1].private_bytes_raw(),
        "dialer's incarnation": incarnations[0],
        "listener's incarnation": incarnations[1],
        "root of the shared seed": root_of(shared_seed, b"seigr-stt/1 shared-seed"),
        "pre-shared key": psk,
        "root of the dialer's node seed": root_of(dialer_seed, b"seigr-stt/1 node-seed"),
        "dialer's static private key": dialer.private_key.private_bytes_raw(),
        "dialer's static public key": dialer.public_key,
        "dialer's node id": dialer.node_id,
        "root of the listener's node seed": root_of(listener_seed, b"seigr-stt/1 node-seed"),
        "listener's static private key": listener.private_key.private_bytes_raw(),
        "listener's static public key": listener.public_key,
        "listener's node id": listener.node_id,
    }

    def opening(kind: OpeningKind, session_id: bytes, epoch: int) -> bytes:
        length, credit = limits.max_message_bytes, limits.receive_window_bytes
        return Opening(kind, length, incarnations[0], session_id, epoch, 0, credit).encode()

    writer = Handshake(
        initiator=True, static=dialer.private_key, ephemeral=lambda: ephemerals[0], psk=psk
    )
    reader = Handshake(
        initiator=False, static=listener.private_key, ephemeral=lambda: ephemerals[1], psk=psk
    )
    payloads = [
        Hello(1, 1).encode(),
        Reply(1, limits.max_message_bytes, incarnations[1]).encode(),
        opening(OpeningKind.NEW, bytes(16), 0),
    ]
    for number, payload in enumerate(payloads, start=1):
        values[f"payload {number}"] = payload
        values[f"message {number}"] = message = writer.write_message(payload)
        assert reader.read_message(message) == payload
        writer, reader = reader, writer
    channels = [reader.finish(), writer.finish()]  # the dialer's, the listener's
    values["handshake hash"] = channels[0].handshake_hash
    values["session id"] = session_id = channels[0].handshake_hash[:16]

    sides = [
        SessionMachine(
            session_id,
            limits,
            link=link,
            peer_max_message=limits.max_message_bytes,
            peer_credit=credit,
            budget=NoBudget(),
            now=0.0,
        )
        for link, credit in ((Link.OPENING, 0), (Link.UP, limits.receive_window_bytes))
    ]
    decoders = [FrameDecoder(), FrameDecoder()]

    def carry(number: int, sender: int) -> list[bytes]:
        """Carry what one side has to say to the other, in one record."""
        receiver = 1 - sender
        buffers = sides[sender].data_to_send(2**20)
        values[f"frames {number}"] = b"".join(map(bytes, buffers))
        record = bytes(seal(channels[sender].send_cipher, buffers))
        values[f"record {number}"] = record
        unsealed = unseal(channels[receiver].receive_cipher, memoryview(record), 0)
        assert unsealed is not None
        plaintext, end = unsealed
        assert end == len(record)
        return sides[receiver].receive(decoders[receiver].feed(plaintext), 0.0)

    sides[1].welcome()
    assert carry(1, 1) == []
    sides[0].outbox.send(b"hello")
    assert carry(2, 0) == [b"hello"]
    sides[1].consumed(5, 1)
    assert carry(3, 1) == []
    sides[0].close()
    for number, sender in ((4, 0), (5, 1), (6, 0)):
        assert carry(number, sender) == []
    assert [side.phase for side in sides] == [Phase.CLOSED, Phase.CLOSED]

    values["payload 3 to resume"] = opening(OpeningKind.RESUME, session_id, 1)
    values["key of a direction"] = key = bytes([5]) * 32
    cipher = CipherState(key)
    records = [bytes(seal(cipher, [b""])) for _ in range(noise.REKEY_INTERVAL + 1)]
    for number in (0, noise.REKEY_INTERVAL - 1, noise.REKEY_INTERVAL):
        values[f"empty record with counter {number}"] = records[number]
    return values


def render_example(values: dict[str, bytes]) -> str:
    lines = []
    for name, value in values.items():
        digits = value.hex()
        lines.append(f"{name}:")
        lines += [f"    {digits[start : start + 64]}" for start in range(0, len(digits), 64)]
    return "\n".join(lines) + "\n"


def test_the_keys_of_the_worked_example_come_of_its_roots() -> None:
    values = worked_example()
    purpose = b"seigr-stt/1 psk"
    assert values["pre-shared key"] == key_of(values["root of the shared seed"], purpose)
    for side in ("dialer's", "listener's"):
        private = key_of(values[f"root of the {side} node seed"], b"seigr-stt/1 static-key")
        assert values[f"{side} static private key"] == private


def test_the_worked_example_is_what_the_library_does() -> None:
    [block] = re.findall(
        r"^```text\n(.*?)^```", section(WIRE, "Worked example"), re.DOTALL | re.MULTILINE
    )
    assert block == render_example(worked_example())
