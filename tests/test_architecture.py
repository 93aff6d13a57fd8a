"""Who may import whom: the layers of the package, read from its sources."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import seigr_toolset_transmissions

PACKAGE = "seigr_toolset_transmissions"
ROOT = Path(seigr_toolset_transmissions.__file__).parent

FOUNDATION = {"callables", "config", "errors", "figures", "forks", "payload"}
ALLOWED = {
    "callables": set[str](),
    "errors": set[str](),
    "config": {"errors"},
    "figures": set[str](),
    "payload": {"errors"},
    "forks": set[str](),
    # They stand alone: no node, session or transport.
    "events": FOUNDATION | {"events"},
    "fanout": FOUNDATION,
    "waiting": FOUNDATION,
    "room": FOUNDATION | {"waiting"},
    "inbox": FOUNDATION | {"room", "waiting"},
    "endpoints": FOUNDATION | {"fanout", "inbox", "room", "waiting"},
    # The protocol, from the bottom up.
    "identity": FOUNDATION,
    "noise": FOUNDATION | {"identity"},
    "frames": FOUNDATION,
    "hello": FOUNDATION,
    "records": FOUNDATION | {"noise"},
    "outbox": FOUNDATION | {"frames"},
    "budget": FOUNDATION | {"frames", "outbox"},
    "controls": FOUNDATION,
    "phase": FOUNDATION,
    "session": FOUNDATION | {"budget", "controls", "frames", "outbox", "phase"},
    # Where the protocol meets the transports.
    "loop_time": FOUNDATION,
    "flushers": FOUNDATION,
    "connection": FOUNDATION
    | {"frames", "loop_time", "noise", "outbox", "records", "session", "transports"},
    "handshaking": FOUNDATION | {"hello", "identity", "noise", "transports"},
    "pump": FOUNDATION | {"endpoints", "events", "loop_time", "outbox", "session"},
    "live_session": FOUNDATION
    | {
        "connection",
        "endpoints",
        "events",
        "flushers",
        "frames",
        "phase",
        "pump",
        "session",
        "transports",
    },
    "checked_session": FOUNDATION | {"live_session"},
    "backoff": FOUNDATION,
    # The parts of a node.
    "access": FOUNDATION | {"identity"},
    "admission": FOUNDATION | {"transports"},
    "unheard": FOUNDATION,
    "unread": FOUNDATION | {"endpoints", "events"},
    "runtime": FOUNDATION | {"endpoints", "events", "unheard"},
    "stopping": FOUNDATION | {"runtime"},
    "dial_slots": FOUNDATION,
    "racing": FOUNDATION | {"handshaking", "transports"},
    "dialing": FOUNDATION
    | {
        "access",
        "dial_slots",
        "endpoints",
        "handshaking",
        "hello",
        "noise",
        "racing",
        "runtime",
        "transports",
    },
    "clones": FOUNDATION | {"live_session", "runtime", "transports"},
    "reconnect": FOUNDATION
    | {"backoff", "clones", "dialing", "hello", "live_session", "noise", "runtime", "transports"},
    "registry": FOUNDATION
    | {
        "budget",
        "checked_session",
        "clones",
        "connection",
        "controls",
        "dialing",
        "endpoints",
        "events",
        "frames",
        "live_session",
        "loop_time",
        "noise",
        "outbox",
        "pump",
        "reconnect",
        "runtime",
        "session",
        "transports",
    },
    "accepting": FOUNDATION
    | {
        "access",
        "admission",
        "frames",
        "handshaking",
        "hello",
        "identity",
        "live_session",
        "noise",
        "records",
        "phase",
        "registry",
        "session",
        "transports",
    },
    "connecting": FOUNDATION
    | {
        "dial_slots",
        "dialing",
        "handshaking",
        "hello",
        "live_session",
        "phase",
        "registry",
        "session",
        "transports",
    },
    "keeper": FOUNDATION | {"backoff", "connecting", "dial_slots", "registry"},
    "transports": FOUNDATION | {"transports", "workers"},
    "workers": {"forks"},
}
"""For each file or folder, what of the package it may import. Who is not named may import all but
the command line."""

SANS_IO = ["noise", "frames", "hello", "records", "outbox", "controls", "phase", "session"]
IMPURE = {
    "asyncio",
    "concurrent",
    "datetime",
    "os",
    "random",
    "secrets",
    "select",
    "selectors",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
    "uuid",
}
PUBLIC_MODULES = {"config", "endpoints", "errors", "events"}


def name_of(source: Path) -> tuple[str, ...]:
    return source.relative_to(ROOT).with_suffix("").parts


SOURCES = {".".join(name_of(source)): source for source in sorted(ROOT.rglob("*.py"))}


def imports(source: Path) -> set[str]:
    """All modules that a file imports, for type checking too, by their absolute names."""
    here = (PACKAGE, *name_of(source)[:-1])
    found = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            # `from package import name` may import a module or an attribute.
            is_package = module == PACKAGE or (ROOT / module.partition(".")[2]).is_dir()
            found |= {f"{module}.{alias.name}" for alias in node.names} if is_package else {module}
    return found


def own_imports(source: Path) -> set[str]:
    """The modules of this package that a file imports, by their first name below it."""
    prefix = f"{PACKAGE}."
    return {
        name.removeprefix(prefix).partition(".")[0]
        for name in imports(source)
        if name.startswith(prefix)
    }


def roots(source: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(source)}


def test_the_rules_name_files_that_exist() -> None:
    files = {name.partition(".")[0] for name in SOURCES}
    assert set(ALLOWED) <= files
    assert set(SANS_IO) <= files


def test_the_reader_of_imports_sees_each_way_to_write_one(tmp_path: Path) -> None:
    source = ROOT / "node.py"
    assert {"errors", "accepting", "registry", "transports"} <= own_imports(source)
    assert "asyncio" in roots(source)
    transport = SOURCES["transports.tcp"]
    assert "transports" in own_imports(transport)
    assert own_imports(SOURCES["__init__"]) >= {"node", "errors", "events"}


@pytest.mark.parametrize("name", [n for n in SOURCES if n.partition(".")[0] in ALLOWED])
def test_a_file_imports_only_from_below(name: str) -> None:
    assert own_imports(SOURCES[name]) - ALLOWED[name.partition(".")[0]] == set()


@pytest.mark.parametrize("name", SANS_IO)
def test_protocol_logic_does_no_io_and_knows_no_clock_or_chance(name: str) -> None:
    assert roots(SOURCES[name]) & IMPURE == set()


@pytest.mark.parametrize("name", [n for n in SOURCES if not n.startswith("cli")])
def test_only_cryptography_is_needed_beside_the_standard_library(name: str) -> None:
    allowed = sys.stdlib_module_names | {PACKAGE, "cryptography"}
    assert roots(SOURCES[name]) - allowed == set()


@pytest.mark.parametrize("name", [n for n in SOURCES if not n.startswith("cli")])
def test_nothing_below_knows_the_command_line(name: str) -> None:
    assert "cli" not in own_imports(SOURCES[name])


@pytest.mark.parametrize("name", [n for n in SOURCES if n.startswith("cli")])
def test_the_command_line_uses_what_is_public(name: str) -> None:
    public = set(seigr_toolset_transmissions.__all__) | PUBLIC_MODULES | {"cli", "__main__"}
    assert own_imports(SOURCES[name]) - public == set()


def test_all_public_names_are_there_and_documented() -> None:
    for name in seigr_toolset_transmissions.__all__:
        value = getattr(seigr_toolset_transmissions, name)
        assert name == "__version__" or value.__doc__, name


@pytest.mark.parametrize("name", [n for n in SOURCES if not n.startswith("cli")])
def test_each_file_says_what_it_is_for(name: str) -> None:
    assert ast.get_docstring(ast.parse(SOURCES[name].read_text()))
