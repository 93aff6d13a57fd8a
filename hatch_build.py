"""The project's long description: the README without what only a checkout has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_PICTURE = re.compile(r"!\[[^\]]*\]\([^)]*\)\n\n(?:\(`[^)]*\)\n\n)?")
_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)[^)]+\)")


class LongDescription(MetadataHookInterface):
    """Drops the pictures and the links to files, which lead nowhere on a package index."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the project's readme."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        text = _LINK.sub(r"\1", _PICTURE.sub("", text))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
