"""The simulation finds what it is there to find."""

import re

import pytest

from simulation.plants import PLANTS
from simulation.simulation import SeedFailed, simulate

SEEDS_MAX = 200


@pytest.mark.parametrize("bug", PLANTS)
def test_a_planted_bug_is_found(bug: str) -> None:
    """Within 200 seeds, and the failure says how to see it again, by its seed."""
    found = next((error for seed in range(SEEDS_MAX) if (error := _failure(seed, bug))), None)
    assert found is not None
    assert re.match(r"seed \d+: (Address|Detection|Credit|Once|Leader|Recovery): ", str(found))
    seed = int(str(found).split()[1].rstrip(":"))
    assert f"make simulate SEEDS={seed}-{seed}" in str(found)
    assert found.events
    again = _failure(seed, bug)
    assert again is not None
    assert (str(again), again.events) == (str(found), found.events)


def _failure(seed: int, bug: str) -> SeedFailed | None:
    try:
        simulate(seed, PLANTS[bug])
    except SeedFailed as error:
        return error
    return None
