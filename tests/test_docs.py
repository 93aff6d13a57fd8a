"""The documents are true: tables, snippets, links and bytes agree with the source."""

from __future__ import annotations

import ast
import asyncio
import builtins
import hashlib
import html
import inspect
import os
import re
import runpy
import shutil
import subprocess
import textwrap
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import seigr_toolset_transmissions
from helpers.documents import DOCUMENTS, ROOT, names, python_blocks, read, rows, section
from helpers.nodes import address_of, in_virtual_time, live, memory_nodes
from seigr_toolset_transmissions import Session, STTNode, errors
from seigr_toolset_transmissions.cli.app import app

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(seigr_toolset_transmissions.__file__).parent
RUN = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[cli]' && .venv/bin/stt demo"
TEST = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/pytest"
FIGURE = re.compile(r"\d[\d,.]*\d|\d")


def test_the_readme_has_the_two_commands_each_in_one_line() -> None:
    lines = [line.strip() for line in read("README.md").splitlines()]
    assert RUN in lines
    assert TEST in lines


def test_the_readmes_first_screen_compares_runs_and_shows() -> None:
    screen = read("README.md").splitlines()[:40]
    assert {RUN, TEST} <= {line.strip() for line in screen}
    assert len(rows("\n".join(screen))) >= 5
    assert "](docs/demo.svg)" in "\n".join(screen)


def test_the_readme_names_every_exception() -> None:
    table = rows(section(read("README.md"), "When something fails"))
    named = {name for row in table for name in names(row[0])}
    public = {name for name in errors.__all__ if name.startswith("STT")}
    only_bases = {"STTError", "STTSessionError"}
    assert {name for name in named if name.startswith("STT")} == public - only_bases


def test_the_readme_says_what_an_exception_is_besides() -> None:
    """Somebody who catches one of the others first would catch this one too."""
    several = 0
    for [cell, *_] in rows(section(read("README.md"), "When something fails")):
        kind, *bases = re.findall(r"`(\w+)`", cell)
        if re.search("`, an? `", cell):
            several += 1
            for base in bases:
                expected = getattr(errors, base, None) or getattr(builtins, base)
                assert issubclass(getattr(errors, kind), expected), (kind, base)
    assert several >= 4


def test_ci_runs_the_readmes_test_command() -> None:
    script = ROOT / ".ci" / "run"
    if not script.exists():
        pytest.skip("only the repository has it")
    commands = [line.strip() for line in script.read_text(encoding="utf-8").splitlines()]
    [command] = [line for line in commands if ".[dev]" in line and line.startswith("python3 ")]
    assert command in [line.strip() for line in read("README.md").splitlines()]


def test_the_readmes_first_program_is_the_first_example() -> None:
    assert python_blocks(read("README.md"))[0] == read("examples/first.py")


def test_the_readmes_comparison_has_the_figures_of_the_last_run() -> None:
    """Nobody should have to take the table in its first screen on trust."""
    measured = section(read("docs/performance.md"), "What the last run showed")
    compared = read("README.md").partition("See a hub")[0]
    figures = {
        figure for row in rows(compared) for cell in row[1:] for figure in FIGURE.findall(cell)
    }
    assert len(figures) > 10
    assert figures <= set(FIGURE.findall(measured))


def test_the_picture_of_the_demo_is_up_to_date() -> None:
    """If this fails, run `python docs/make_pictures.py demo`."""
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", read("docs/demo.svg"))
    shown = " ".join(html.unescape(text).replace("\xa0", " ") for text in texts)
    source = (PACKAGE / "cli" / "demo" / "single.py").read_text(encoding="utf-8")
    for text in ("The cable is pulled", "it is the same session, resumed", "the cable is back"):
        assert text in source
        assert text in shown
    for line in re.findall(r'"  (stt [^\[]*?) *\[dim\](# [^\[]*)\[/\]', source):
        assert all(part in shown for part in line)


@pytest.mark.once  # another version of Python may come with another one of click
def test_the_manual_page_is_up_to_date() -> None:
    """If this fails, run `python docs/man_page.py`."""
    assert read("docs/stt.1") == runpy.run_path(str(ROOT / "docs" / "man_page.py"))["page"]()


@pytest.mark.once
@pytest.mark.parametrize(
    ("formatter", "stream"),
    [("mandoc -T lint -W warning", "stdout"), ("man --warnings -l", "stderr")],
)
def test_no_formatter_complains_about_the_manual_page(formatter: str, stream: str) -> None:
    program, *options = formatter.split()
    if shutil.which(program) is None:
        assert "STT_REQUIRE_ALL" not in os.environ, f"there is no {program}: install it"
        pytest.skip(f"this machine has no {program}")
    done = subprocess.run(
        [program, *options, ROOT / "docs" / "stt.1"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    said = getattr(done, stream).splitlines()
    assert [line for line in said if "missing date" not in line] == []  # it is not released yet


def test_the_readme_lists_the_commands() -> None:
    listed = [names(row[0]) for row in rows(section(read("README.md"), "The command line"))]
    assert listed == [{f"stt {name}"} for name in app.commands]


def test_the_readme_names_every_document_and_example() -> None:
    text = read("README.md")
    for path in (*ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.py"), ROOT / "CHANGELOG.md"):
        assert f"({path.relative_to(ROOT).as_posix()})" in text


@pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).with_suffix("").as_posix()
)
def test_every_link_leads_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        goal = document.parent / path if path else document
        assert goal.exists(), target
        assert not anchor or anchor in anchors(goal), target


def test_the_architecture_names_each_room_and_file_and_only_those() -> None:
    text = read("docs/architecture.md")
    listed = {names(row[0]).pop(): names(row[1]) for row in rows(section(text, "The files"))}
    present = {
        f"{room.name}/": {path.stem for path in room.rglob("*.py")} - {"__init__", "__main__"}
        for room in PACKAGE.iterdir()
        if (room / "__init__.py").exists()
    }
    assert {room: files & present[room] for room, files in listed.items()} == present
    not_files = set[str]().union(*(files - present[room] for room, files in listed.items()))
    commands = {f"stt {name}" for name in ("send", "serve", "cluster", "demo", "status", "top")}
    assert not_files == {"wait_for", "expect", "stream", "connect=True", "--raw"} | commands
    for row in rows(section(text, "To change something, go to")):
        for name in names(row[1]) | names(row[2]):
            if "/" in name or name.endswith(".py"):
                assert (PACKAGE / name).exists() or (ROOT / name).exists(), name


def units() -> Iterator[Any]:
    """Find the systemd units in the documents."""
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for block in re.findall(r"(?:^ {4}.*\n|^\n)+", text, re.MULTILINE):
            if "[Service]" in block:
                name = document.relative_to(ROOT).with_suffix("").as_posix()
                yield pytest.param(textwrap.dedent(block), id=name)


@pytest.mark.parametrize("unit", list(units()))
def test_systemd_takes_a_unit_as_it_is(unit: str, tmp_path: Path) -> None:
    verifier = shutil.which("systemd-analyze")
    if verifier is None:
        assert "STT_REQUIRE_ALL" not in os.environ, "there is no systemd-analyze: install systemd"
        pytest.skip("this machine has no systemd-analyze")
    there = re.sub("^ExecStart=[^ ]+", "ExecStart=/bin/true", unit, flags=re.MULTILINE)
    assert there != unit
    path = tmp_path / "hub.service"
    path.write_text(there)
    done = subprocess.run(
        [verifier, "verify", "--man=no", path],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def anchors(document: Path) -> set[str]:
    """Return the anchors of its headings."""
    return {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    }


# -------------------------------------------------------------------------- snippets


def snippets() -> Iterator[Any]:
    examples = [path.read_text(encoding="utf-8") for path in ROOT.glob("examples/*.py")]
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for number, block in enumerate(python_blocks(text)):
            if "shout" in block or any(block in example for example in examples):
                continue  # test_snippets and test_examples run it
            yield pytest.param(block, id=f"{document.relative_to(ROOT).with_suffix('')}-{number}")


@pytest.mark.parametrize("block", list(snippets()))
async def test_a_snippet_runs_on_a_real_node(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # for what it makes in the present folder
    assert "asyncio.run(" not in block, "a whole program has to be an example, or part of one"
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
            "Callable": Callable,
            "asyncio": asyncio,
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
            # It is reported, like every end of a session that was not agreed on.
            assert not node.sessions
            if "expect(" not in block:  # which has seen it
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


@in_virtual_time
async def test_the_recipe_sends_again_what_a_killed_hub_lost() -> None:
    [block] = [block for block in python_blocks(read("docs/guarantee.md")) if "send_again" in block]
    async with memory_nodes() as nodes:
        hub = await nodes.listen("bob", port=9400)
        node = await nodes.start("alice")
        await node.endpoints.add_endpoint(hub.node_id, address_of(hub), connect=True)
        await node.endpoints.wait_connected(hub.node_id, timeout=10)
        recipe: dict[str, Any] = {"node": node, "peer_id": hub.node_id, "Any": Any}
        exec(compile(block, "<recipe>", "exec"), recipe)  # noqa: S102 - our own document
        sending_again = asyncio.create_task(recipe["send_again"]())

        session = node.get_session_for_endpoint(hub.node_id)
        assert session is not None
        messages = [str(number).encode() for number in range(20)]
        for message in messages[:10]:
            session.send_nowait(message)
        await asyncio.sleep(0)  # they are on their way, and nobody has acknowledged them
        for connection in [*hub._registry.connections, *node._registry.connections]:
            connection.drop()
        live(session).cut("the hub was killed")
        for message in messages[10:]:
            session.send_nowait(message)
        await hub.stop(drain=0)
        while hub.endpoints.list_endpoints():  # what it had acknowledged is gone with it
            await hub.endpoints.remove_endpoint(hub.endpoints.list_endpoints()[0])

        await hub.start(server_mode=True)
        arrived = [(await hub.endpoints.receive_any(timeout=60))[0] for _ in messages]
        assert arrived == messages
        sending_again.cancel()


@in_virtual_time
async def test_the_recipe_for_a_file_leaves_no_half_file_under_its_name(tmp_path: Path) -> None:
    [block] = [block for block in python_blocks(read("README.md")) if "receive_file" in block]
    recipe: dict[str, Any] = {"Session": Session, "STTNode": STTNode}
    recipe |= {"Path": Path, "sha256": hashlib.sha256}
    exec(compile(block, "<recipe>", "exec"), recipe)  # noqa: S102 - our own document
    inbox, original = tmp_path / "inbox", tmp_path / "name"
    inbox.mkdir()
    original.write_bytes(b"all of it")
    async with memory_nodes() as nodes:
        receiver, sender = await nodes.listen("bob", port=9400), await nodes.start("alice")
        address = address_of(receiver)
        for half, error in (
            ([b"name", b"half"], errors.STTPeerGoneError),
            ([b"name", b"half", b"", b"another digest"], ValueError),
        ):
            session = await sender.connect(*address)
            receiving = asyncio.create_task(recipe["receive_file"](receiver, inbox))
            for message in half:
                await session.send(message)
            if error is not ValueError:
                await session.close()
            with pytest.raises(error):
                await receiving
            assert [path.name for path in inbox.iterdir()] == ["name.part"]
        assert (await sender.endpoints.receive_from(receiver.node_id))[0] == b"damaged"
        await session.close()

        session = await sender.connect(*address)
        receiving = asyncio.create_task(recipe["receive_file"](receiver, inbox))
        await recipe["send_file"](sender, session, original)
        assert await receiving == inbox / "name"
        assert {path.name: path.read_bytes() for path in inbox.iterdir()} == {"name": b"all of it"}


# ---------------------------------------------------------------------------- events


def library_sources() -> Iterator[ast.Module]:
    for path in sorted(set(PACKAGE.rglob("*.py")) - set(PACKAGE.glob("cli/**/*.py"))):
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


# ------------------------------------------------------------------------------- log


def loggers_in_the_source() -> set[str]:
    found = set()
    for path in sorted(set(PACKAGE.rglob("*.py")) - set(PACKAGE.glob("cli/**/*.py"))):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        meant = {"__name__": module, "__package__": module.rpartition(".")[0]}
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match call:
                case ast.Call(func=ast.Attribute(attr="getLogger"), args=[ast.Name(id=name)]):
                    found.add(meant[name])
                case ast.Call(func=ast.Attribute(attr="getLogger"), args=[ast.Constant(str(name))]):
                    found.add(name)
    return found


def test_the_table_of_loggers_is_that_of_the_source() -> None:
    """Each logger is one that the table names, or below it; and below each is one that logs."""
    log = section(read("docs/events.md"), "The log")
    all_of_them, *parts = [
        name for row in rows(log.partition("| level")[0]) for name in names(row[0])
    ]
    used = loggers_in_the_source()
    assert len(used) > 10
    for name in used:
        assert name.startswith(f"{all_of_them}.")
        assert any(f"{name}.".startswith(f"{part}.") for part in parts), name
    for part in parts:
        assert any(f"{name}.".startswith(f"{part}.") for name in used), part
