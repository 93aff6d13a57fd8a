"""Make `docs/demo.svg`, the picture in the README: part of a real run of `stt demo`.

In a virtual environment with the project installed, from the repository's root::

    python docs/demo_picture.py
"""

from __future__ import annotations

import asyncio
import io
import re
import sys
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from seigr_toolset_transmissions.cli.demo import run_demo

COLUMNS = 80
SHOWN = ("6 of 7", "checks passed")
"""Where the parts that are shown begin: a step, and the verdict. Each ends with the next step."""
UNFETCHED = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
"""The picture's frame, without fonts from another host: the reader's own will do."""


def recorder() -> Console:
    """Return a console that writes nowhere and can be drawn."""
    return Console(file=io.StringIO(), record=True, force_terminal=True, width=COLUMNS)


def main(path: Path) -> int:
    """Play the demo and draw some of it; return its exit code."""
    demo = recorder()
    code = asyncio.run(run_demo(demo, fast=False))
    picture = recorder()
    shown = False
    for line in demo.export_text(styles=True).splitlines():
        text = Text.from_ansi(line)
        if any(mark in text.plain for mark in SHOWN):
            shown = True
        elif " of 7 " in text.plain:
            shown = False
        if shown:
            picture.print(text)
    picture.save_svg(str(path), title="stt demo", code_format=UNFETCHED)
    return code


if __name__ == "__main__":
    default = Path(__file__).with_name("demo.svg")
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else default))
