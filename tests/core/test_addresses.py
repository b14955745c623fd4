"""Addresses: EIP-55 for people, lower case for keys, 20 bytes inside."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet_core.addresses import Address, address_of_public_key, checksum_address, lower_hex, parse_address

# The vectors of EIP-55 itself.
EIP_55 = [
    "0x52908400098527886E0F7030069857D2E4169EE7",
    "0x8617E340B3D01FA5F11F306F4090FD50E238070D",
    "0xde709f2102306220921060314715629080e2fb77",
    "0x27b1fdb04752bbc536007a920d24acb045561c26",
    "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
    "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
    "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
    "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
]
addresses = st.binary(min_size=20, max_size=20).map(Address)


@pytest.mark.parametrize("text", EIP_55)
def test_checksums_are_those_of_eip_55(text: str) -> None:
    """Whoever checks our checksums by the standard finds them right."""
    assert checksum_address(parse_address(text.lower())) == text


@given(addresses)
def test_every_form_of_an_address_is_read_as_the_same_bytes(address: Address) -> None:
    """Checksummed, lower-case and upper-case text mean one address."""
    upper = "0x" + address.hex().upper()
    assert {parse_address(text) for text in (checksum_address(address), lower_hex(address), upper)} == {address}
    assert lower_hex(address) == checksum_address(address).lower()


def test_mixed_case_with_a_wrong_checksum_is_refused() -> None:
    """A mistyped cold address must not be sent to."""
    good = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
    for place, digit in enumerate(good[2:], start=2):
        changed = (
            good[:place] + (digit.swapcase() if digit.isalpha() else str((int(digit) + 1) % 10)) + good[place + 1 :]
        )
        with pytest.raises(ValueError, match="EIP-55"):
            parse_address(changed)


@pytest.mark.parametrize(
    "text", ["", "0x", "0x" + "1" * 39, "0x" + "1" * 41, "1" * 40, "0x" + "g" * 40, "0X" + "1" * 40]
)
def test_anything_but_forty_hex_digits_is_refused(text: str) -> None:
    """An address is never guessed at."""
    with pytest.raises(ValueError, match="40 hex digits"):
        parse_address(text)
    with pytest.raises(ValueError, match="40 hex digits"):
        parse_address("0x" + "1" * 40 + "\n")


def test_the_address_of_a_public_key_is_the_well_known_one() -> None:
    """The generator point, private key 1, has an address that many sources agree on."""
    generator = bytes.fromhex(
        "0479be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
        "483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8"
    )
    assert checksum_address(address_of_public_key(generator)) == "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf"


def test_a_compressed_public_key_is_refused() -> None:
    """Its hash would be an address whose key nobody has."""
    with pytest.raises(ValueError, match="65 bytes"):
        address_of_public_key(b"\x02" + bytes(32))
