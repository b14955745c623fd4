"""`python -m simulation [SEEDS [JOBS]]`: run seeds, `200` for the first 200 or `17-17` for those of a range.

JOBS is the number of processes; by default that of the cores. Every failing seed is named with what broke as soon as it
is found; of one seed alone the last events are shown too. The end tells how often what happened. The exit code is 1
where a seed failed.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from simulation.simulation import SeedFailed, simulate
from simulation.trace import What

SEEDS_DEFAULT = "200"
SEEDS_AT_ONCE = 5
"""That a process of the pool is given at a time."""
EVENTS_SHOWN = 400


def main(arguments: Sequence[str]) -> int:
    """Run the seeds that the arguments name."""
    first, last = _range(arguments[0] if arguments else SEEDS_DEFAULT)
    jobs = int(arguments[1]) if len(arguments) > 1 else None
    started, used = time.monotonic(), os.times()
    failed = 0
    happened: Counter[What] = Counter()
    show_events = EVENTS_SHOWN if first == last else 0
    with ProcessPoolExecutor(jobs) as pool:
        chunks = [range(at, min(at + SEEDS_AT_ONCE, last + 1)) for at in range(first, last + 1, SEEDS_AT_ONCE)]
        for done in as_completed(pool.submit(_run, chunk, show_events) for chunk in chunks):
            failures, counts = done.result()
            happened.update(counts)
            failed += len(failures)
            for failure in failures:
                sys.stdout.write(failure + "\n")
                sys.stdout.flush()
    seeds, seconds, now = last - first + 1, time.monotonic() - started, os.times()
    cpu_seconds = sum(now[:4]) - sum(used[:4])
    for what in What:
        sys.stdout.write(f"{happened[what]:10}  {what}\n")
    told = f"{seeds} seeds, {failed} failed, {seconds:.1f} s, {cpu_seconds / seeds:.3f} s of CPU a seed"
    sys.stdout.write(told + "\n")
    return 1 if failed else 0


def _range(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    return (int(first), int(last)) if dash else (0, int(first) - 1)


def _run(seeds: range, show_events: int) -> tuple[list[str], Counter[What]]:
    failures = []
    happened: Counter[What] = Counter()
    for seed in seeds:
        try:
            happened.update(simulate(seed).happened)
        except SeedFailed as error:
            failures.append("\n".join([*error.events[-show_events:], str(error)]) if show_events else str(error))
    return failures, happened


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
