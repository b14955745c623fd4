"""The wallet's keys: one seed, of which each part of the wallet gets the least that it needs.

    seed ── m/44'/60'/<account>' ── xpub ── command workers: every address, no key
                                 └─ xprv ── sweeper: every account's key below, and the gas account's
                                     └─ 0'/0: the gas account, hardened, so that it is on no path of an account

An account key is known by its fingerprint: BIP-32's identifier of the key, the HASH160 of the compressed public key,
all 20 bytes. xpub and xprv have the same one, so a resource that names it fits one key only.

An xpub together with one private key below it that is not hardened gives the xprv (BIP-32, "Implications"): no private
key of an account ever leaves the sweeper.

No error raised here repeats a key, a part of one, or anything a library said of it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import coincurve
from bip32 import BIP32
from Crypto.Hash import RIPEMD160

from wallet_core.addresses import Address, address_of_public_key
from wallet_core.errors import InvalidKey

HARDENED = 2**31
"""Steps of a path from this number on are hardened (BIP-32)."""
ACCOUNT_DEPTH = 3
"""Steps from the seed to the account key: purpose, coin, account (BIP-44)."""
SEED_SIZE = 64
"""Bytes that BIP-39 makes of a seed phrase."""
GAS_PATH = (HARDENED, 0)
"""Steps from the account key to the gas account."""
_XPUB, _XPRV = "xpub", "xprv"


@dataclass(frozen=True, slots=True)
class AccountKeys:
    """What one account of a seed consists of."""

    account: int
    """BIP-44's account number."""
    xpub: str
    """Extended public key at `account_path(account)`: for the command workers."""
    xprv: str = field(repr=False)
    """Extended private key at the same place: for the sweeper alone."""
    fingerprint: str
    """40 lower-case hex digits."""
    gas_address: Address
    """Where the gas for token sweeps is paid in."""


def account_path(account: int) -> str:
    """Path of an account's key from the seed."""
    return f"m/44'/60'/{account}'"


def derive_account_keys(seed: bytes, account: int) -> AccountKeys:
    """Derive an account's keys from the 64 bytes that BIP-39 makes of a seed phrase."""
    if len(seed) != SEED_SIZE:
        raise InvalidKey(f"a seed has {SEED_SIZE} bytes")
    if not 0 <= account < HARDENED:
        raise InvalidKey(f"an account number lies between 0 and {HARDENED - 1}")
    master = BIP32.from_seed(seed)
    xprv = master.get_xpriv_from_path(account_path(account))
    key = parse_account_key(xprv)
    gas_key = coincurve.PublicKey(key.get_pubkey_from_path(list(GAS_PATH)))
    return AccountKeys(
        account=account,
        xpub=key.get_xpub(),
        xprv=xprv,
        fingerprint=fingerprint_of(key),
        gas_address=address_of_public_key(gas_key.format(compressed=False)),
    )


def is_private(text: str) -> bool:
    """Whether an extended key is a private one."""
    return text.startswith(_XPRV)


def parse_account_key(text: str) -> BIP32:
    """Read the xpub or xprv of an account. Raises InvalidKey for any other text, and for a key of another depth."""
    if not text.startswith((_XPUB, _XPRV)):
        raise InvalidKey("not an extended key: it begins with neither xpub nor xprv")
    try:
        key = BIP32.from_xpriv(text) if is_private(text) else BIP32.from_xpub(text)
    except (ValueError, AssertionError):
        raise InvalidKey("not an extended key: length, checksum or content is wrong") from None
    if key.depth != ACCOUNT_DEPTH or key.index < HARDENED:
        raise InvalidKey(f"not an account's key: it must stand at {account_path(0)[:-2]}<account>', hardened")
    return key


def account_number(key: BIP32) -> int:
    """BIP-44's number of a parsed account key."""
    number: int = key.index - HARDENED
    return number


def fingerprint_of(key: BIP32) -> str:
    """BIP-32's identifier of a parsed key: 40 lower-case hex digits."""
    return RIPEMD160.new(hashlib.sha256(key.pubkey).digest()).hexdigest()
