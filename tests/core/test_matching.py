"""The address set answers like a plain Python set, at any mix of additions and questions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wallet_core.addresses import Address
from wallet_core.blocks import Transaction
from wallet_core.errors import NodeInconsistent
from wallet_core.matching import RECENT_MAX, AddressSet

# Few values for each part, so that equal prefixes, equal ends, zeros at either end and duplicates are common.
PARTS = st.sampled_from([b"\x00" * 4, b"\xff" * 4, b"\x00\x00\x00\x01", b"\x01\x00\x00\x00", b"\x80\x00\x7f\x00"])
ALIKE = st.lists(PARTS, min_size=5, max_size=5).map(lambda parts: Address(b"".join(parts)))
ADDRESSES = st.one_of(ALIKE, st.binary(min_size=20, max_size=20).map(Address))


def payment(to: bytes | None, value: str = "0x1", number: int = 0) -> Transaction:
    return Transaction(
        hash=f"0x{number:064x}", from_="0x" + "aa" * 20, to=None if to is None else "0x" + to.hex(), value=value
    )


def many(count: int, seed: int) -> list[Address]:
    packed = np.random.default_rng(seed).bytes(20 * count)
    return [Address(packed[start : start + 20]) for start in range(0, len(packed), 20)]


@given(st.lists(st.tuples(st.lists(ADDRESSES, max_size=8), st.lists(ADDRESSES, max_size=8))))
def test_it_answers_like_a_set_between_additions(steps: list[tuple[list[Address], list[Address]]]) -> None:
    """Whatever was added before a question is found by it, and nothing else is."""
    addresses, model = AddressSet(), set[Address]()
    for added, asked in steps:
        addresses.add(added)
        model.update(added)
        assert len(addresses) == len(model)
        for address in (*asked, *added):
            assert (address in addresses) == (address in model)
        block = [payment(address, number=at) for at, address in enumerate((*asked, *added))]
        expected = [paid for paid, address in zip(block, (*asked, *added), strict=True) if address in model]
        assert addresses.matching_transactions(block) == expected


@settings(max_examples=15)
@given(st.lists(st.integers(1, 3 * RECENT_MAX), min_size=1, max_size=5), st.integers(0, 2**32), st.lists(ALIKE))
def test_merges_lose_nothing(sizes: list[int], seed: int, alike: list[Address]) -> None:
    """Additions of every size, with repeats of earlier ones, through sealed and merged runs and a growing filter."""
    addresses, model = AddressSet(alike), list(alike)
    for step, size in enumerate(sizes):
        fresh = many(size, seed + step)
        addresses.add(fresh)
        addresses.add(model[::7])
        model += fresh
    everything = set(model)
    assert len(addresses) == len(everything)
    assert all(address in addresses for address in [*alike, *model[::97], model[-1]])
    strangers = [address for address in many(2_000, seed + len(sizes)) if address not in everything]
    block = [payment(address) for address in [*strangers, *model[::101]]]
    assert addresses.matching_transactions(block) == [payment(address) for address in model[::101]]


def test_every_member_is_found_after_many_merges() -> None:
    """All of 100,000 addresses added in pieces are found, those with a common prefix and trailing zeros too."""
    prefix = b"\x11" * 8
    alike = [Address(prefix + at.to_bytes(4, "big") + b"\x00" * 8) for at in range(50_000)]
    model = many(50_000, seed=5) + alike
    np.random.default_rng(6).shuffle(model)
    addresses = AddressSet()
    for start in range(0, len(model), 1_000):
        addresses.add(model[start : start + 1_000])
    assert len(addresses) == len(model)
    block = [payment(address) for address in model]
    assert addresses.matching_transactions(block) == block
    assert Address(prefix + (50_000).to_bytes(4, "big") + b"\x00" * 8) not in addresses


def test_only_payments_match() -> None:
    """A contract creation pays nobody yet, and a transaction without value pays nothing, however zero is written."""
    ours = Address(b"\x01" * 20)
    addresses = AddressSet([ours])
    good = payment(ours, "0xde0b6b3a7640000")
    block = [payment(None, "0x5"), payment(ours, "0x0"), payment(ours, "0x00"), good, payment(b"\x02" * 20)]
    assert addresses.matching_transactions(block) == [good]
    assert addresses.matching_transactions([]) == []
    assert addresses.matching_transactions([payment(None)]) == []


def test_case_of_the_hex_digits_does_not_matter() -> None:
    """A node that writes checksums into its addresses hides no deposit."""
    paid = Transaction(hash="0x" + "0" * 64, from_="0x", to="0x" + "aB" * 20, value="0x1")
    assert AddressSet([Address(b"\xab" * 20)]).matching_transactions([paid]) == [paid]


@pytest.mark.parametrize(
    "to", ["0x", "", "0x" + "zz" * 20, "0x" + "ab" * 19, "0x" + "ab" * 21, "0x" + "ab" * 19 + "  "]
)
def test_an_unreadable_recipient_is_an_error(to: str) -> None:
    """A transaction that cannot be read is never passed over, whatever stands beside it."""
    unreadable = Transaction(hash="0x" + "0" * 64, from_="0x", to=to, value="0x1")
    with pytest.raises(NodeInconsistent):
        AddressSet([Address(b"\x01" * 20)]).matching_transactions([payment(b"\x02" * 20), unreadable])


def test_recipients_of_wrong_lengths_do_not_make_up_for_each_other() -> None:
    """One digit too few and one too many: the total is right, and every border between them wrong."""
    ours = b"\xab" * 20
    short = Transaction(hash="0x", from_="0x", to="0x" + "ab" * 19, value="0x1")
    long = Transaction(hash="0x", from_="0x", to="0x" + "ab" * 21, value="0x1")
    with pytest.raises(NodeInconsistent):
        AddressSet([Address(ours)]).matching_transactions([short, long])


def test_an_unreadable_amount_to_us_is_an_error() -> None:
    """An amount that cannot be read is no reason to overlook a deposit."""
    ours = Address(b"\x01" * 20)
    with pytest.raises(NodeInconsistent):
        AddressSet([ours]).matching_transactions([payment(ours, "many")])


@pytest.mark.parametrize("size", [0, 19, 21])
def test_an_address_of_another_size_is_refused(size: int) -> None:
    """Nothing but 20 bytes enters the set, and a refused addition changes nothing."""
    addresses = AddressSet()
    with pytest.raises(ValueError, match="20 bytes"):
        addresses.add([Address(b"\x01" * 20), Address(b"\x01" * size)])
    assert len(addresses) == 0
