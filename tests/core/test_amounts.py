"""Amounts: whole units are text, and nothing is lost between text and base units."""

from __future__ import annotations

from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet_core.amounts import BaseUnits, format_units, parse_units


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
    assert parse_units(text, decimals) == amount


@given(st.integers(0, 2**256 - 1), st.integers(0, 36))
def test_reading_undoes_writing(amount: int, decimals: int) -> None:
    """No amount of any asset changes on its way through text, and an exact decimal number agrees."""
    text = format_units(BaseUnits(amount), decimals)
    assert parse_units(text, decimals) == amount
    with localcontext() as context:
        context.prec = 200
        assert Decimal(text).scaleb(decimals) == amount


@pytest.mark.parametrize(
    "text", ["", "1.", ".5", "-1", "+1", "1e3", " 1", "1 ", "1_0", "1,5", "0x1", "٣", "1.5.0", "1\n"]
)
def test_anything_but_plain_digits_is_refused(text: str) -> None:
    """An amount that a person mistyped is never guessed at."""
    with pytest.raises(ValueError, match="not an amount"):
        parse_units(text, 18)


def test_more_decimals_than_the_asset_has_are_refused() -> None:
    """Money is never rounded; zeros beyond the decimals are no loss."""
    with pytest.raises(ValueError, match="more than 6 decimals"):
        parse_units("0.0000001", 6)
    assert parse_units("0.1000000000", 6) == 100_000


def test_a_negative_amount_is_refused() -> None:
    """There is no such thing on a chain: it would be our own mistake."""
    with pytest.raises(ValueError, match="never negative"):
        format_units(BaseUnits(-1), 18)
