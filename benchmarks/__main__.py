"""Compare this library with the ones people use instead: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from .goals import judge
from .material import Material
from .measures import MEASURES
from .measures.base import Case, Samples, Setting, interleave
from .peers import OWN, PEERS
from .peers.nats_broker import Nats, run_broker
from .processes import Child, Failure
from .report import markdown, write_json

_BROKER_LIMIT = 3 * 3600.0


def main(arguments: list[str] | None = None) -> int:
    """Run, then show and write the results; return the exit status, 0 if nothing failed."""
    chosen = _parse(arguments)
    samples = Samples()
    begun = time.monotonic()
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-"))
        material = Material(directory)
        material.make()
        setting = Setting(
            material=material,
            quick=chosen.quick,
            loops=_loops(chosen.loops, samples),
            peers=_peers(chosen.peers, samples),
        )
        if Nats.name in setting.peers and {"oneway", "roundtrip", "requests"} & set(chosen.only):
            broker = stack.enter_context(Child(run_broker, material, limit=_BROKER_LIMIT))
            setting.brokers[Nats.name] = broker.link.hear("address")
            stack.callback(broker.link.tell, "done")
        for measure in chosen.only:
            _note_missing(measure, samples)
        failed = False
        for turn in range(chosen.rounds):
            for measure in chosen.only:
                for case in _in_turn(MEASURES[measure].cases(setting), turn):
                    if turn == 0 or not case.once:
                        failed |= not _run(case, turn, samples)
    verdicts = judge(samples, setting.loops)
    text = markdown(samples, verdicts, chosen.rounds)
    print(f"\n{text}")
    print(f"{time.monotonic() - begun:.0f} s")
    if chosen.output is not None:
        _write(chosen.output, text, samples)
    return 1 if failed else 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one round, on one loop, with less of everything"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=MEASURES,
        metavar="MEASURE",
        help=f"measure only this: {', '.join(MEASURES)}; may be repeated",
    )
    parser.add_argument(
        "--rounds", type=int, help="how often to measure everything (default: 3; quick: 1)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="write a report, plots and all values there"
    )
    parser.add_argument(
        "--loops",
        help="asyncio, uvloop, or asyncio,uvloop (default: both if installed; quick: asyncio)",
    )
    parser.add_argument(
        "--peers",
        action="append",
        choices=PEERS,
        metavar="PEER",
        help=f"compare {OWN} only with this; may be repeated: {'; '.join(PEERS)}",
    )
    chosen = parser.parse_args(arguments)
    chosen.only = list(dict.fromkeys(chosen.only or MEASURES))
    if chosen.rounds is None:
        chosen.rounds = 1 if chosen.quick else 3
    if chosen.loops is None:
        chosen.loops = "asyncio" if chosen.quick else "asyncio,uvloop"
    unknown = set(chosen.loops.split(",")) - {"asyncio", "uvloop"}
    if unknown or chosen.rounds < 1:
        parser.error(
            f"no such loop: {', '.join(unknown)}" if unknown else "--rounds must be at least 1"
        )
    return chosen


def _loops(names: str, samples: Samples) -> tuple[str, ...]:
    loops = tuple(dict.fromkeys(names.split(",")))
    if "uvloop" in loops and importlib.util.find_spec("uvloop") is None:
        samples.notes["uvloop: not installed"] = None
        loops = tuple(name for name in loops if name != "uvloop") or ("asyncio",)
    return loops


def _peers(names: list[str] | None, samples: Samples) -> tuple[str, ...]:
    present = []
    for name, peer in PEERS.items():
        if names is not None and name not in (OWN, *names):
            continue
        missing = peer.missing()
        if missing is None:
            present.append(name)
        else:
            samples.notes[f"{name}: {missing}"] = None
    return tuple(present)


def _note_missing(measure: str, samples: Samples) -> None:
    missing = getattr(MEASURES[measure], "missing", None)
    if missing is not None and (reason := missing()) is not None:
        samples.notes[f"{measure}: {reason}"] = None


def _in_turn(cases: list[Case], turn: int) -> list[Case]:
    """Keep compared cases together, and let a different peer begin in each round."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.label, []).append(case)
    return [case for group in groups.values() for case in interleave(group, turn)]


def _run(case: Case, turn: int, samples: Samples) -> bool:
    """Run a case and keep its samples, or note why it failed; return whether it succeeded."""
    print(f"round {turn + 1}: {case.label}: {case.peer}", end="", file=sys.stderr, flush=True)
    begun = time.monotonic()
    try:
        found = case.run()
    except (Failure, OSError) as error:  # OSError: a side ended, and its pipe with it
        reason = str(error).strip() or type(error).__name__
        samples.notes[f"{case.label}: {case.peer}: {reason.splitlines()[-1]}"] = None
        print(f" FAILED\n{reason}", file=sys.stderr, flush=True)
        return False
    samples.add(found)
    first = found[0]
    print(
        f" {first.value:,.{first.key.metric.digits}f} {first.key.metric.unit}"
        f" ({time.monotonic() - begun:.1f} s)",
        file=sys.stderr,
        flush=True,
    )
    return True


def _write(directory: Path, text: str, samples: Samples) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    pictures = []
    try:
        from .plots import write_plots

        pictures = write_plots(directory, samples)
    except ImportError:
        print("no plots: matplotlib is not installed", file=sys.stderr)
    shown = "".join(f"\n![{path.stem}]({path.name})\n" for path in pictures)
    (directory / "results.md").write_text(text + shown)
    write_json(directory / "results.json", samples)
    print(f"written to {directory}")


if __name__ == "__main__":
    raise SystemExit(main())
