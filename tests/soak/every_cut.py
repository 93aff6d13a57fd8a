"""Cut a conversation at every byte offset: ``python -m tests.soak.every_cut``.

It sends twenty messages each way, some in parts, in virtual time. For each byte offset in each
direction it cuts the connection once by an end of stream, once by a reset and once by a black hole.
Prints a summary, and exits with code 1 at the first message that is lost, duplicated or reordered.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.fault_network import Direction, Fault, Kind
from helpers.lossless import messages, run_scenario
from seigr_toolset_transmissions.protocol import outbox

PART_BYTES = 100
FIRST_PART_BYTES = 40
"""After a cut, so that messages under way continue in other frames than before."""
SIZES = [0, 1, 64, 99, 100, 101, 250, 30, 5, 7, 400, 2, 33, 199, 200, 201, 12, 90, 3, 10]
TO_LISTENER = messages(b"out", SIZES)
TO_DIALER = messages(b"in", SIZES)


def cut_at(fault: Fault) -> str | None:
    """Run the scenario with this fault; return what went wrong, or None."""
    vars(outbox).update(MAX_DATA_BYTES=PART_BYTES, FIRST_PART_BYTES=FIRST_PART_BYTES)
    outcome = run_scenario(TO_LISTENER, TO_DIALER, [fault])
    if outcome.at_listener == TO_LISTENER and outcome.at_dialer == TO_DIALER:
        return None
    return (
        f"{fault}: {len(outcome.at_listener)} and {len(outcome.at_dialer)} messages arrived, "
        f"events {outcome.events}"
    )


def main() -> int:
    """Run all cuts and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stride", type=int, default=1, help="try every n-th offset (default: 1)")
    stride: int = parser.parse_args().stride
    vars(outbox).update(MAX_DATA_BYTES=PART_BYTES, FIRST_PART_BYTES=FIRST_PART_BYTES)
    passed = run_scenario(TO_LISTENER, TO_DIALER).cables[0].passed
    faults = [
        Fault(direction, offset, kind)
        for direction in Direction
        for kind in Kind
        for offset in range(0, passed[direction] + 1, stride)
    ]
    began = time.monotonic()
    with ProcessPoolExecutor() as pool:
        for done, problem in enumerate(pool.map(cut_at, faults, chunksize=64), 1):
            if problem is not None:
                print(f"FAILED {problem}")
                return 1
            if done % 2000 == 0 or done == len(faults):
                print(f"{done:6d} of {len(faults)} cuts: nothing lost, duplicated or reordered")
    print(
        f"{len(faults)} runs of {len(SIZES)} messages each way, "
        f"cut at {passed[Direction.OUT] + 1} offsets out and {passed[Direction.IN] + 1} in, "
        f"by {', '.join(kind.name for kind in Kind)}: exactly once and in order in all of them "
        f"({time.monotonic() - began:.0f} s)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
