"""The README's tables that must not fall behind the code."""

from __future__ import annotations

import re
from pathlib import Path

from wallet_workers.adapters.json_rpc import Fault
from wallet_workers.adapters.verdict import NOT_COUNTED

REPOSITORY = Path(__file__).resolve().parents[2]


def rows(section: str) -> list[list[str]]:
    """The cells of the section's tables, without their heads."""
    text = (REPOSITORY / "README.md").read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [cells for cells in lines[2:] if cells]


def test_every_fault_that_is_counted_is_explained() -> None:
    """Who is woken by a count must find out what it means, and what the wallet does about it."""
    told = [name for cells in rows("Distrust of nodes") for name in re.findall(r"`(\w+)`", cells[0])]
    assert sorted(told) == sorted(set(Fault) - NOT_COUNTED)


def test_every_promise_names_tests_that_are_there() -> None:
    """A promise that nothing holds is a sentence."""
    promises = rows("What is promised")
    assert promises
    for promise, _, held_by in promises:
        named = re.findall(r"`(\w+/\w+\.py)`", held_by)
        assert named, promise
        missing = [name for name in named if not (REPOSITORY / "tests" / name).is_file()]
        assert not missing, promise
