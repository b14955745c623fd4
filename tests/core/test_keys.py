"""Keys: one seed, one account key, one fingerprint; and no key in any error."""

from __future__ import annotations

import re

import pytest
from bip32 import BIP32
from hypothesis import given, settings
from hypothesis import strategies as st

from wallet_core.addresses import checksum_address
from wallet_core.errors import InvalidKey
from wallet_core.keys import (
    HARDENED,
    account_number,
    derive_account_keys,
    fingerprint_of,
    is_private,
    parse_account_key,
)

# "test test test test test test test test test test test junk", by BIP-39
SEED = bytes.fromhex(
    "9dfc3c64c2f8bede1533b6a79f8570e5943e0b8fd1cf77107adf7b72cef42185"
    "d564a3aee24cab43f80e3c4538087d70fc824eabbad596a23c97b6ee8322ccc0"
)
XPUB = "xpub6Ce9NcJvTk36xtLSrJLZqE7wtgA5deCeYs7rSQtreh4cj6ByPtrg9sD7V2FNFLPnf8heNP3FGkeV9qwfzvZNSd54JoNXVsXFYSYwHsnJxqP"
FINGERPRINT = "3bf9540752f9058347626413dab111dae5854ae1"


def test_the_account_keys_of_a_seed_never_change() -> None:
    """NEVER CHANGE: a wallet that is rebuilt from its seed must be the same wallet."""
    keys = derive_account_keys(SEED, 0)
    assert keys.xpub == XPUB
    assert keys.fingerprint == FINGERPRINT
    assert checksum_address(keys.gas_address) == "0x302FA11a6E784DFa89f96942a919C09B45559676"


@settings(max_examples=20)
@given(st.binary(min_size=64, max_size=64), st.integers(0, HARDENED - 1))
def test_xpub_and_xprv_are_two_sides_of_one_key(seed: bytes, account: int) -> None:
    """Both files of a wallet fit the one fingerprint in its resource."""
    keys = derive_account_keys(seed, account)
    public, private = parse_account_key(keys.xpub), parse_account_key(keys.xprv)
    assert (is_private(keys.xpub), is_private(keys.xprv)) == (False, True)
    assert private.get_xpub() == keys.xpub
    assert account_number(public) == account_number(private) == account
    assert fingerprint_of(public) == fingerprint_of(private) == keys.fingerprint
    assert re.fullmatch("[0-9a-f]{40}", keys.fingerprint)
    assert bytes.fromhex(keys.fingerprint)[:4] == public.get_fingerprint()  # BIP-32's short form is its beginning


def test_printing_the_keys_does_not_print_the_private_one() -> None:
    """A log line must not cost the wallet."""
    assert "xprv" not in repr(derive_account_keys(SEED, 0))


@pytest.mark.parametrize("account", [-1, HARDENED])
def test_an_account_number_that_does_not_exist_is_refused(account: int) -> None:
    """It would be another account's key, or none."""
    with pytest.raises(InvalidKey, match="account number"):
        derive_account_keys(SEED, account)


def test_a_seed_of_another_size_is_refused() -> None:
    """Entropy or words in its place would give a wallet that no other program finds again."""
    with pytest.raises(InvalidKey, match="64 bytes"):
        derive_account_keys(SEED[:32], 0)


def _of_other_depths() -> list[str]:
    master = BIP32.from_seed(SEED)
    paths = ["m", "m/44'", "m/44'/60'", "m/44'/60'/0", "m/44'/60'/0'/0", "m/44'/60'/0'/0'"]
    test_network = BIP32.from_seed(SEED, network="test")
    return [
        *(master.get_xpriv_from_path(path) for path in paths),
        *(master.get_xpub_from_path(path) for path in paths),
        test_network.get_xpriv_from_path("m/44'/60'/0'"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        *_of_other_depths(),
        "",
        "xpub",
        "xprv",
        XPUB[:-1],
        XPUB + "1",
        XPUB[:50] + ("2" if XPUB[50] != "2" else "3") + XPUB[51:],
        XPUB.replace("xpub", "xprv"),
        "xpub" + "é" * 107,
        "xpub" + "0OIl" * 27,
        "test test test",
    ],
)
def test_anything_but_an_accounts_extended_key_is_refused_without_repeating_it(text: str) -> None:
    """A wrong file may hold the master key: no part of it may reach a log, by the message or the error's cause."""
    with pytest.raises(InvalidKey) as raised:
        parse_account_key(text)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    assert not any(text[start : start + 8] in str(raised.value) for start in range(len(text) - 8))
