"""Plots: the comparison as bars, and how costs grow with size (flat or linear, as expected)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .measures import crowds, events, one_way, requests, round_trip
from .measures.pairs import BLOCKING
from .peers import OWN

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .measures.base import Key, Metric, Samples

__all__ = ["write_plots"]

_SESSIONS = 1_000
"""The largest crowd that all peers are measured with."""
_COMPARED = (
    *(one_way.pull(size) for size in one_way.SIZES),
    round_trip.MEDIAN,
    requests.alone(64),
    requests.rate(64, max(requests.IN_FLIGHT)),
    crowds.broadcast(_SESSIONS),
    crowds.in_all(_SESSIONS),
    crowds.opening(_SESSIONS),
    crowds.idle(_SESSIONS),
    events.emit(1),
    events.emit(100),
    events.emit(100, waiting=True),
)
_COLUMNS = 3
_OWN_COLOUR = "#d1495b"
_OTHER_COLOUR = "#8d99ae"


def _total_cost(metric: Metric, value: float) -> float:
    """Turn the cost of one of ``size`` things into the cost of all of them."""
    return value * metric.size


def _time_of_message(metric: Metric, value: float) -> float:
    """Turn messages or megabytes per second into microseconds per message."""
    if metric.unit == "MB/s":
        return metric.size / value
    return 1e6 / value


def _as_it_is(_metric: Metric, value: float) -> float:
    return value


_GROWTH: tuple[tuple[str, str, str, Callable[[Metric, float], float]], ...] = (
    # metric, label of the axis, expected growth, how to turn a value into a cost
    ("add an endpoint", "us per call", "flat", _as_it_is),
    ("get an endpoint", "us per call", "flat", _as_it_is),
    ("remove an endpoint", "us per call", "flat", _as_it_is),
    ("find by metadata, per endpoint", "us for all", "linear", _total_cost),
    ("broadcast of 64 B, per recipient", "us CPU for all", "linear", _total_cost),
    ("memory of an idle session", "KiB per session", "flat", _as_it_is),
    ("new sessions", "a second", "flat", _as_it_is),
    ("emit", "us an emit", "linear", _as_it_is),
    ("one way", "us a message", "flat, then linear", _time_of_message),
)


def write_plots(directory: Path, samples: Samples) -> list[Path]:
    """Write ``comparison.svg`` and ``growth.svg``; return their paths.

    Raises:
        ImportError: matplotlib is not installed.

    """
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "benchmarks", "svg.fonttype": "none", "font.size": 8})
    return [_comparison(directory, samples), _growth(directory, samples)]


def _metrics(samples: Samples, name: str) -> list[Metric]:
    return sorted({key.metric for key in samples.keys if key.metric.name == name})


def _figure(count: int) -> tuple[Any, list[Any]]:
    import matplotlib.pyplot as plt

    rows = -(-max(1, count) // _COLUMNS)
    figure, axes = plt.subplots(
        rows, _COLUMNS, figsize=(13, 3.2 * rows), squeeze=False, layout="constrained"
    )
    flat = list(axes.flat)
    for unused in flat[count:]:
        unused.set_visible(False)
    return figure, flat


def _save(figure: Any, path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path


def _label(key: Key) -> str:
    return key.peer if key.loop in (BLOCKING, "asyncio") else f"{key.peer}, {key.loop}"


def _comparison(directory: Path, samples: Samples) -> Path:
    measured = {key.metric for key in samples.keys}
    chosen = [metric for metric in _COMPARED if metric in measured]
    figure, axes = _figure(len(chosen))
    for metric, axis in zip(chosen, axes, strict=False):
        bars = [(samples.median(key) or 0.0, key) for key in samples.keys if key.metric == metric]
        bars.sort(key=lambda bar: bar[0], reverse=not metric.more_is_better)
        values = [value for value, _ in bars]
        colours = [_OWN_COLOUR if key.peer == OWN else _OTHER_COLOUR for _, key in bars]
        drawn = axis.barh([_label(key) for _, key in bars], values, color=colours)
        axis.bar_label(drawn, [f" {value:,.{metric.digits}f}" for value in values])
        axis.margins(x=0.4)
        axis.set_xticks([])
        better = "more" if metric.more_is_better else "less"
        size = str(metric).removeprefix(metric.name).removeprefix(", ")
        facts = ", ".join(filter(None, (size, metric.unit)))
        axis.set_title(f"{metric.name}\n{facts}; {better} is better", fontsize=8)
    return _save(figure, directory / "comparison.svg")


def _growth(directory: Path, samples: Samples) -> Path:
    drawn = [entry for entry in _GROWTH if len(_metrics(samples, entry[0])) > 1]
    figure, axes = _figure(len(drawn))
    for (name, unit, expected, cost), axis in zip(drawn, axes, strict=False):
        metrics = _metrics(samples, name)
        lines: dict[str, list[tuple[int, float]]] = {}
        for metric in metrics:
            for key in samples.keys:
                value = samples.median(key)
                if key.metric == metric and key.peer == OWN and value:
                    lines.setdefault(key.loop, []).append((metric.size, cost(metric, value)))
        for loop, points in lines.items():
            axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=loop)
        scale = "symlog" if metrics[0].size == 0 else "log"
        axis.set_xscale(scale)
        axis.set_yscale("log")
        axis.set_xlabel(metrics[0].of)
        axis.set_ylabel(unit)
        _widen(axis, [value for points in lines.values() for _, value in points])
        axis.set_title(f"{name}: expected {expected}", fontsize=8)
        axis.legend()
    return _save(figure, directory / "growth.svg")


def _widen(axis: Any, values: list[float]) -> None:
    """Show at least two decades, so that flat lines look flat."""
    low, high = min(values), max(values)
    middle = (low * high) ** 0.5
    axis.set_ylim(min(low / 2, middle / 10), max(high * 2, middle * 10))
