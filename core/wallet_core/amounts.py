"""Amounts of an asset: integers of its smallest unit, in a type of their own.

An asset's `decimals` say how many base units make a whole one: 10 ** 18 wei are one ETH. Whole units exist as text
only, for people to read; no float ever touches an amount.
"""

from __future__ import annotations

from typing import NewType

BaseUnits = NewType("BaseUnits", int)
"""An amount in the asset's smallest unit (wei, for ETH); never negative."""

ETH_DECIMALS = 18


def format_units(amount: BaseUnits, decimals: int) -> str:
    """Write an amount in whole units: digits, and a point only before digits that are not all zero. No exponent."""
    if amount < 0:
        raise ValueError("an amount is never negative")
    digits = str(amount).rjust(decimals + 1, "0")
    whole, fraction = digits[: len(digits) - decimals], digits[len(digits) - decimals :].rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole
