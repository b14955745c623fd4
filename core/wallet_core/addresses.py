"""Ethereum addresses: 20 bytes inside the wallet, hex with EIP-55's checksum for people, lower-case hex for keys.

An address is the last 20 bytes of the Keccak-256 of the public key's two coordinates (Yellow Paper, appendix F). EIP-55
hides a checksum in the case of its letters; text in one case carries none and is taken as it is.
"""

from __future__ import annotations

import re
from typing import NewType

from eth_hash.backends.pycryptodome import keccak256

Address = NewType("Address", bytes)
"""20 bytes."""

ADDRESS_SIZE = 20
_UNCOMPRESSED_KEY_SIZE = 65
_HEX_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")


def address_of_public_key(public_key: bytes) -> Address:
    """The address of a secp256k1 key in its uncompressed form (65 bytes: 04, x, y)."""
    if len(public_key) != _UNCOMPRESSED_KEY_SIZE:
        raise ValueError("a public key of 65 bytes is needed")
    return Address(keccak256(public_key[1:])[-ADDRESS_SIZE:])


def parse_address(text: str) -> Address:
    """Read `0x` and 40 hex digits. Raises ValueError for any other form, and where mixed case fails EIP-55."""
    if not _HEX_ADDRESS.fullmatch(text):
        raise ValueError("an address is 0x and 40 hex digits")
    address = Address(bytes.fromhex(text[2:]))
    digits = text[2:]
    if digits not in (digits.lower(), digits.upper()) and text != checksum_address(address):
        raise ValueError("the address's checksum (EIP-55) is wrong: a digit or the case of a letter was changed")
    return address


def lower_hex(address: Address) -> str:
    """`0x` and 40 lower-case digits: the form of Kafka keys and of a node's answers."""
    return "0x" + address.hex()


def checksum_address(address: Address) -> str:
    """`0x` and 40 digits, a letter in upper case where the digit of their hash at its place is 8 or more (EIP-55)."""
    digits = address.hex()
    checksum = keccak256(digits.encode()).hex()
    return "0x" + "".join(
        [digit.upper() if check >= "8" else digit for digit, check in zip(digits, checksum, strict=False)]
    )
