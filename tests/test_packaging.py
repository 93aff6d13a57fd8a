"""What users install: the files in it, what they say about the project, and what it needs."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import seigr_toolset_transmissions
from helpers.documents import DOCUMENTS, ROOT, read

if TYPE_CHECKING:
    from email.message import Message

pytestmark = pytest.mark.once

PACKAGE = Path(seigr_toolset_transmissions.__file__).parent
PROJECT: dict[str, Any] = tomllib.loads(read("pyproject.toml"))["project"]
EXTRA = re.compile(r"(?:\.|CLONE|seigr-toolset-transmissions)\[([a-z,]+)\]")


def build(folder: Path, *options: str, source: Path = ROOT) -> list[Path]:
    """Build the project from a checkout, or from what an sdist had in it."""
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder), *options]
    subprocess.run(command, cwd=source, capture_output=True, timeout=50, check=True)
    return sorted(folder.iterdir(), key=lambda path: path.suffix)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The sdist and the wheel."""
    return build(tmp_path_factory.mktemp("dist"))


def files_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_a_package_index_takes_what_is_built(built: list[Path]) -> None:
    if find_spec("twine") is None:
        pytest.skip("could not import twine: install the extra dev")
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *built],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_has_the_package_its_manual_page_and_nothing_else(built: list[Path]) -> None:
    expected = {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert f"{PACKAGE.name}/py.typed" in expected
    files = {name for name in files_in(built[1]) if ".dist-info/" not in name}
    [page] = files - expected
    assert page.endswith(".data/data/share/man/man1/stt.1")
    assert expected <= files


def test_the_sdist_builds_the_same_wheel(built: list[Path], tmp_path: Path) -> None:
    sdist, wheel = built
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [again] = build(
        tmp_path / "dist", "-t", "wheel", source=tmp_path / sdist.name.removesuffix(".tar.gz")
    )
    assert files_in(again) == files_in(wheel)


def test_the_base_install_needs_one_package(built: list[Path]) -> None:
    needed = metadata_of(built[1]).get_all("Requires-Dist") or []
    [always] = [line for line in needed if "extra ==" not in line]
    assert always.startswith("cryptography")


def test_every_extra_that_a_document_or_an_error_names_exists() -> None:
    sources = [*DOCUMENTS, *PACKAGE.rglob("*.py")]
    named = {
        extra
        for source in sources
        for extras in EXTRA.findall(source.read_text(encoding="utf-8"))
        for extra in extras.split(",")
    }
    assert {"cli", "nats"} <= named <= set(PROJECT["optional-dependencies"])


WITHOUT_EXTRAS = """
import pkgutil, sys
import cryptography.hazmat.primitives.ciphers.aead

class Refuse:
    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        if root not in sys.stdlib_module_names | {"seigr_toolset_transmissions", "cryptography"}:
            raise ImportError(f"{name} is not in the base install")

sys.meta_path.insert(0, Refuse())
import seigr_toolset_transmissions as package
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.startswith("seigr_toolset_transmissions.cli"):
        __import__(module.name)
"""


def test_the_base_install_can_import_every_module_of_the_library() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_long_description_links_to_nothing_that_only_a_checkout_has() -> None:
    pytest.importorskip("hatchling")
    metadata: dict[str, Any] = {}
    hook = runpy.run_path(str(ROOT / "hatch_build.py"))["LongDescription"]
    hook(str(ROOT), {}).update(metadata)
    text = metadata["readme"]["text"]
    assert "](" not in text
    assert "demo.svg" not in text
    assert "console.png" not in text
    assert "make_pictures" not in text
    assert "docs/guarantee.md has the details" in text


def test_the_changelog_has_this_version() -> None:
    assert PROJECT["version"] == seigr_toolset_transmissions.__version__
    assert f"## [{seigr_toolset_transmissions.__version__}]" in read("CHANGELOG.md")
