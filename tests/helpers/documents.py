"""Reading the documents of the repository: their sections, tables and code."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["DOCUMENTS", "FOREIGN", "ROOT", "names", "python_blocks", "read", "rows", "section"]

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FOREIGN = re.compile(r"^(?:import|from) (?:zmq|nats|socketio|websockets|aiomqtt)\b", re.MULTILINE)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """Return the text under a heading, up to the next heading of any level."""
    [rest] = re.findall(rf"^#+ {re.escape(heading)}\n(.*)", text, re.DOTALL | re.MULTILINE)
    return re.split(r"^#+ ", str(rest), maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """Return the cells of the tables' rows, without the headings."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    ruled = [index for index, row in enumerate(cells) if set(row[0]) == {"-"}]
    return [row for index, row in enumerate(cells) if index not in ruled and index + 1 not in ruled]


def python_blocks(text: str) -> list[str]:
    """Return the blocks of code, without those that show another library."""
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [block for block in blocks if not FOREIGN.search(block)]


def names(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


# --------------------------------------------------------------------------- README
