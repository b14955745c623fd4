"""Amounts: whole units are text, and nothing is lost on the way from base units."""

from __future__ import annotations

from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet_core.amounts import BaseUnits, format_units


@pytest.mark.parametrize(
    ("amount", "decimals", "text"),
    [
        (0, 18, "0"),
        (1, 18, "0.000000000000000001"),
        (1_500_000_000_000_000_000, 18, "1.5"),
        (10**18, 18, "1"),
        (10**20, 18, "100"),
        (120, 0, "120"),
        (1_000_001, 6, "1.000001"),
        (2**256 - 1, 0, str(2**256 - 1)),
    ],
)
def test_amounts_are_written_without_exponent_or_trailing_zeros(amount: int, decimals: int, text: str) -> None:
    """Readers parse the text with any decimal library."""
    assert format_units(BaseUnits(amount), decimals) == text


@given(st.integers(0, 2**256 - 1), st.integers(0, 36))
def test_an_exact_decimal_number_agrees(amount: int, decimals: int) -> None:
    """No amount of any asset changes on its way through text."""
    text = format_units(BaseUnits(amount), decimals)
    with localcontext() as context:
        context.prec = 200
        assert Decimal(text).scaleb(decimals) == amount


def test_a_negative_amount_is_refused() -> None:
    """There is no such thing on a chain: it would be our own mistake."""
    with pytest.raises(ValueError, match="never negative"):
        format_units(BaseUnits(-1), 18)
