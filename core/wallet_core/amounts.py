"""Amounts of an asset: integers of its smallest unit, in a type of their own.

An asset's `decimals` say how many base units make a whole one: 10 ** 18 wei are one ETH. Whole units exist as text
only, for people to read; no float ever touches an amount.
"""

from __future__ import annotations

import re
from typing import NewType

BaseUnits = NewType("BaseUnits", int)
"""An amount in the asset's smallest unit (wei, for ETH); never negative."""

ETH_DECIMALS = 18

_WHOLE_UNITS = re.compile(r"([0-9]+)(?:\.([0-9]+))?", re.ASCII)


def format_units(amount: BaseUnits, decimals: int) -> str:
    """Write an amount in whole units: digits, and a point only before digits that are not all zero. No exponent."""
    if amount < 0:
        raise ValueError("an amount is never negative")
    digits = str(amount).rjust(decimals + 1, "0")
    whole, fraction = digits[: len(digits) - decimals], digits[len(digits) - decimals :].rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole


def parse_units(text: str, decimals: int) -> BaseUnits:
    """Read an amount in whole units. Raises ValueError for anything but digits with an optional fraction that fits."""
    found = _WHOLE_UNITS.fullmatch(text)
    if found is None:
        raise ValueError(f"not an amount: {text!r}")
    whole, fraction = found[1], (found[2] or "").rstrip("0")
    if len(fraction) > decimals:
        raise ValueError(f"more than {decimals} decimals: {text!r}")
    return BaseUnits(int(whole + fraction.ljust(decimals, "0")))
