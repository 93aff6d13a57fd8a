"""The documentation site builds without a warning, has every public name, and no dead link."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

import seigr_toolset_transmissions as package
from helpers.documents import read, rows
from seigr_toolset_transmissions import NodeConfig, errors
from seigr_toolset_transmissions.cli import failures
from test_public import VERBS

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parent.parent
LOADED = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src"}
"""What a browser loads by itself when it shows a page."""


class Page(HTMLParser):
    """What a page links to, what it loads, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if name := given.get("id"):
            self.anchors.add(name)
        if tag == "a" and (target := given.get("href")):
            self.links.add(target)
        elif tag in LOADED and (target := given.get(LOADED[tag])):
            self.loaded.add(target)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("zensical", reason="could not import zensical: install the extra docs")
    pytest.importorskip("mkdocstrings_handlers.python")
    folder = tmp_path_factory.mktemp("site")
    runpy.run_path(str(ROOT / "docs" / "build_site.py"))["build"](folder)
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {
        path.relative_to(site).as_posix(): Page(path.read_text(encoding="utf-8"))
        for path in site.rglob("*.html")
    }


def test_every_page_is_in_the_site(pages: dict[str, Page]) -> None:
    written = {
        path.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        for path in (ROOT / "docs").rglob("*.md")
    }
    others = {"index", "changelog", "contributing", "vulnerabilities", "404"}
    assert set(pages) == written | {f"{name}.html" for name in others}


def test_the_navigation_leads_to_every_page(pages: dict[str, Page]) -> None:
    reached = {os.path.normpath(urlsplit(link).path) for link in pages["index.html"].links}
    assert reached >= set(pages) - {"404.html", "index.html"}


def test_no_link_of_the_site_is_dead(site: Path, pages: dict[str, Page]) -> None:
    dead = []
    followed = 0
    for name, page in pages.items():
        if name == "404.html":  # it is served at any address, so its links are absolute
            continue
        for link in page.links | page.loaded:
            parts = urlsplit(link)
            if parts.scheme in {"http", "https", "mailto"}:
                continue
            followed += 1
            goal = os.path.normpath(Path(name).parent / unquote(parts.path)) if parts.path else name
            anchor = unquote(parts.fragment)
            if not (site / goal).is_file() or (
                anchor and goal in pages and anchor not in pages[goal].anchors
            ):
                dead.append((name, link))
    assert dead == []
    assert followed > 1000


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        assert not [link for link in page.loaded if urlsplit(link).netloc], name
    sheets = list(site.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        text = sheet.read_text(encoding="utf-8")
        assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)]*", text), sheet.name


def test_the_search_works_from_disk(site: Path) -> None:
    """A browser lets no page from disk fetch a file, but it loads a script."""
    script = (site / "search.js").read_text(encoding="utf-8")
    index = json.loads(script[script.index("{") : script.rindex("}") + 1])
    assert any("SendOutcome" in json.dumps(item) for item in index["items"])


PROBE = """<!doctype html><title>silence</title><body>
<script src="assets/worker-from-disk.js"></script><script src="search.js"></script>
<script>
const worker = new Worker("SEARCH");
worker.onmessage = ({ data }) => { document.title = "answer of type " + data.type; };
worker.postMessage({ type: 0, data: __index });
</script>
"""


def test_a_browser_runs_the_search_from_disk(site: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        assert "STT_REQUIRE_ALL" not in os.environ, "there is no Chromium: install it"
        pytest.skip("this machine has no Chromium")
    [search] = (site / "assets" / "javascripts" / "workers").glob("search.*.js")
    probe = site / "probe.html"
    probe.write_text(PROBE.replace("SEARCH", search.relative_to(site).as_posix()))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000"]
    options += ["--disable-background-networking", "--disable-component-update", "--no-first-run"]
    done = subprocess.run(
        [browser, *options, f"--user-data-dir={tmp_path}", "--dump-dom", probe.as_uri()],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    probe.unlink()
    assert "<title>answer of type 1</title>" in done.stdout


def test_every_public_name_is_in_the_reference(pages: dict[str, Page]) -> None:
    reference = set[str]().union(
        *(page.anchors for name, page in pages.items() if name.startswith("reference/"))
    )
    last_words = {anchor.rpartition(".")[2] for anchor in reference}
    assert set(package.__all__) - {"__version__"} <= last_words
    prefix = package.__name__
    assert {f"{prefix}.errors.{name}" for name in errors.__all__} <= reference
    members = {
        f"{kind.__name__}.{verb}" for kind, listed in VERBS.items() for verb in listed.split()
    }
    ends = {".".join(anchor.split(".")[-2:]) for anchor in reference}
    assert members <= ends


def test_the_reference_explains_every_setting(site: Path) -> None:
    text = (site / "reference" / "configuration.html").read_text(encoding="utf-8")
    for field in fields(NodeConfig):
        assert re.search(rf"<code>{field.name}</code>", text), field.name


def test_the_reference_lists_every_exit_code() -> None:
    codes: dict[str, Any] = {
        name: value for name, value in vars(failures).items() if isinstance(value, int)
    }
    listed = {row[1].strip("`"): int(row[0]) for row in rows(read("docs/reference/exit-codes.md"))}
    assert listed == codes
