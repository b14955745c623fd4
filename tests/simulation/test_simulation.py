"""The promises hold in whatever world a seed makes."""

import functools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from simulation.simulation import Outcome, simulate
from simulation.trace import What

SEEDS = 200
TESTS = Path(__file__).parent.parent


@functools.cache
def outcome(seed: int) -> Outcome:
    """What a seed came to; run once for all tests."""
    return simulate(seed)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_promises_hold(seed: int) -> None:
    """After every committed transaction, and at the end, every promise that a reader can check holds."""
    assert outcome(seed).blocks > 1


@pytest.mark.timeout(900)
def test_everything_happens() -> None:
    """A fault that the simulation is there to make, and never makes, protects nobody."""
    happened: Counter[What] = Counter()
    for seed in range(SEEDS):
        happened.update(outcome(seed).happened)
    assert [what for what in What if not happened[what]] == []


def test_a_seed_replays_exactly() -> None:
    """The same seed gives the same run, whatever ran before it."""
    assert simulate(41) == simulate(41)
    assert simulate(41).digest != simulate(42).digest


def test_a_seed_replays_in_another_process() -> None:
    """Nothing hangs on Python's hashes or on where objects lie, so a failure seen elsewhere can be seen here."""
    program = "from simulation.simulation import simulate; print([simulate(seed).digest for seed in range(5)])"
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1


def test_seeds_differ_in_what_they_do() -> None:
    """The worlds are not all alike: some publish nothing, some publish much."""
    events = [outcome(seed).events for seed in range(30)]
    assert len(set(events)) > 10
    assert max(events) > 30
