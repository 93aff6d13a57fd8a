"""``python -m seigr_toolset_transmissions.cli``: the `stt` command without its script."""

from __future__ import annotations

import sys

from .main import run

if __name__ == "__main__":
    sys.exit(run())
