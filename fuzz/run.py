"""Run one target with atheris: ``python -m fuzz.run TARGET [--seconds N]``.

Inputs that reach something new are kept in ``fuzz/work/TARGET``, where the next run picks up. An
input that reveals a bug is written to ``fuzz/work/TARGET-crash-...``. None of these belongs in the
repository, except a finding made as short as possible, which goes into ``fuzz/corpus/TARGET``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

__all__ = ["main"]

NAMES = ("frames", "handshake", "session", "records", "addresses", "seeds")
"""The targets. They are imported only after atheris is ready to instrument their imports."""

_HERE = Path(__file__).parent
_LONGEST_INPUT = 2048


def main() -> None:
    """Run the target named on the command line; does not return."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.run")
    parser.add_argument("target", choices=NAMES)
    parser.add_argument("--seconds", type=int, default=60, help="how long to run (default: 60)")
    arguments = parser.parse_args()
    try:
        import atheris
    except ModuleNotFoundError:
        sys.exit("atheris is not installed: run `pip install -e '.[fuzz]'` (on Linux)")
    with atheris.instrument_imports(include=["seigr_toolset_transmissions"]):
        from .targets import TARGETS
    work = _HERE / "work" / arguments.target
    work.mkdir(parents=True, exist_ok=True)
    options = [
        sys.argv[0],
        f"-max_total_time={arguments.seconds}",
        f"-max_len={_LONGEST_INPUT}",
        f"-artifact_prefix={work}-",
        "-print_final_stats=1",
        str(work),  # new inputs go into the first folder
        str(_HERE / "corpus" / arguments.target),
    ]
    atheris.Setup(options, TARGETS[arguments.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
