"""Build the documentation site: `python docs/build_site.py FOLDER`. This needs the extra `docs`.

The pages are files of the repository first, and link to each other and to the source as such. The
site has no source, so links to it become plain text; the README becomes the first page.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent

PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "vulnerabilities.md",
}
"""The pages that lie outside `docs/`, and what they are called in the site."""

_SHIM = "https://unpkg.com/iframe-worker/shim"
"""What the generator loads so that search works from disk. Ours comes with the site."""

_FENCED = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)#]+)(#[^)]*)?\)")
_PICTURE = re.compile(r"(!\[[^\]]*\])\(docs/([^)]*)\)")


def in_site(path: Path) -> str | None:
    """Return where a file of the repository lies in the site, or None if it does not."""
    try:
        name = path.relative_to(ROOT).as_posix()
    except ValueError:
        return None
    if name in PAGES:
        return PAGES[name]
    if name.startswith("docs/") and path.suffix in {".json", ".md", ".png"}:
        return name.removeprefix("docs/")
    return None


def rewrite(text: str, source: Path, page: str) -> str:
    """Let the links of a page lead to pages of the site; drop the others."""

    def link(match: re.Match[str]) -> str:
        words, target, anchor = match[1], match[2], match[3] or ""
        goal = in_site(Path(os.path.normpath(source.parent / target)))
        if goal is None:
            return words
        return f"[{words}]({os.path.relpath(goal, Path(page).parent)}{anchor})"

    parts = _FENCED.split(text)
    parts[::2] = [_PICTURE.sub(r"\1(\2)", _LINK.sub(link, part)) for part in parts[::2]]
    return "".join(parts)


def build(folder: Path) -> None:
    """Build the site in a folder, which is replaced.

    Raises:
        subprocess.CalledProcessError: A page has a fault; its output says which.

    """
    with TemporaryDirectory() as staging:
        pages = Path(staging, "docs")
        shutil.copytree(ROOT / "docs", pages, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        shutil.copy(ROOT / "zensical.toml", staging)
        for source in [*(ROOT / "docs").rglob("*.md"), *(ROOT / name for name in PAGES)]:
            page = in_site(source) or ""
            text = rewrite(source.read_text(encoding="utf-8"), source, page)
            (pages / page).write_text(text, encoding="utf-8")
        subprocess.run(
            [sys.executable, "-m", "zensical", "build", "--strict"],
            cwd=staging,
            check=True,
            capture_output=True,
            text=True,
        )
        site = Path(staging, "site")
        for path in site.rglob("*.html"):
            shim = os.path.relpath(site / "assets" / "worker-from-disk.js", path.parent)
            path.write_text(path.read_text(encoding="utf-8").replace(_SHIM, shim), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(site, folder)


if __name__ == "__main__":
    try:
        build(Path(sys.argv[1]))
    except subprocess.CalledProcessError as error:
        sys.exit(error.stdout + error.stderr)
