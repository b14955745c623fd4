"""Accounts: the same command gives the same address, for ever."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import coincurve
import pytest
from bip32 import BIP32
from hypothesis import given, settings
from hypothesis import strategies as st

from wallet_core.accounts import (
    AccountKey,
    Identity,
    calculate_anonymous_identity,
    calculate_identity,
    command_reply,
)
from wallet_core.addresses import address_of_public_key, checksum_address
from wallet_core.canonical_json import CanonicalObject, canonical_object, parse
from wallet_core.errors import BadMeta, KeyMismatch
from wallet_core.keys import derive_account_keys
from wallet_core.messages import Topic
from wallet_core.ports import CommandMessage

# "test test test test test test test test test test test junk", by BIP-39
SEED = bytes.fromhex(
    "9dfc3c64c2f8bede1533b6a79f8570e5943e0b8fd1cf77107adf7b72cef42185"
    "d564a3aee24cab43f80e3c4538087d70fc824eabbad596a23c97b6ee8322ccc0"
)
KEYS = derive_account_keys(SEED, 0)
KEY = AccountKey.from_xpub(KEYS.xpub, KEYS.fingerprint)

# NEVER CHANGE A LINE OF THE GOLDEN VECTORS. Money is on its way to addresses that were calculated like these.
GOLDEN = [
    (
        "user-17",
        "{}",
        "1da1647dbdc39472eae2232116e43ed080b69c30517c18647224f617f6bd030e",
        "m/44'/60'/0'/248558142/1869669660/1566327908",
        "0x9EA6863F39549B324672aA3aff5563607C474c01",
    ),
    (
        "user-17",
        '{"user": 17, "desk": "emea"}',
        "f4ec05ca40517aed7048ea6c3114406f01575d44990e1b7d51059155fc4d6acc",
        "m/44'/60'/0'/2054554341/269770427/772349261",
        "0xd71bEB6cDAa1E087EC3fac34853f9fdA0Bb6C424",
    ),
    (
        "user-17",
        '{"user": 17.0, "desk": "emea"}',
        "d43574206a7756bae7bfd5c0fe0413053f7f5305d814ec980c8b850becd2659c",
        "m/44'/60'/0'/1780136464/446551470/1559755448",
        "0x959c14C38C845DC31Fbc4159f14f41610e7EAB07",
    ),
    (
        'é\u2028"\\',
        '{"ключ": [null, true, "\\ud83d\\ude00"]}',
        "46cdf4b3d57ec4524bc12afc94f2ef974a5b53874882c3636275fe78ba4707bf",
        "m/44'/60'/0'/593951321/1969205524/1232610655",
        "0x8BbaC339CCa5816EE5e4284b00254E02ceAfF25D",
    ),
]
GOLDEN_ANONYMOUS = [
    (
        ("command", 0, 0, 0, b""),
        "053f85388208cecd5541e6fdf1ae6026eaacb3d55c0faf8a5a90650f20509af5",
        "m/44'/60'/0'/44024476/545403827/715668703",
        "0x2A8FeFe918092473deE697305E0E91FbB013F77e",
    ),
    (
        ("mainnet.command", 11, 123456789, 1767225600000, b'{"type":"create_account"}'),
        "19fd57f1e6a27194880382ae6d62bbb396aa74fa8aa4f7280be58efe1b1b784e",
        "m/44'/60'/0'/218016760/2041093221/285241429",
        "0x2b3E8f91026a8C86Ab341aa772b538B1cA944e6f",
    ),
]

identities = st.binary(min_size=32, max_size=32).map(Identity)


def _meta(text: str) -> CanonicalObject:
    parsed = parse(text)
    assert isinstance(parsed, dict)
    return canonical_object(parsed)


def _message(value: bytes, **changes: Any) -> CommandMessage:
    message = CommandMessage("command", 3, 41, 1_767_225_600_000, b"key", value, ())
    return dataclasses.replace(message, **changes)


def _answer(message: CommandMessage) -> Any:
    record = command_reply(KEY, message, chain_id=1, source="/wallets/mainnet")
    return json.loads(record.value or b"")


@pytest.mark.parametrize(("command_id", "meta", "identity", "path", "address"), GOLDEN)
def test_golden_vectors(command_id: str, meta: str, identity: str, path: str, address: str) -> None:
    """These may never change."""
    calculated = calculate_identity(command_id, _meta(meta))
    assert calculated.hex() == identity
    assert KEY.path(calculated) == path
    assert checksum_address(KEY.address(path)) == address


@pytest.mark.parametrize(("place", "identity", "path", "address"), GOLDEN_ANONYMOUS)
def test_golden_vectors_of_commands_without_an_id(
    place: tuple[str, int, int, int, bytes], identity: str, path: str, address: str
) -> None:
    """These may never change."""
    calculated = calculate_anonymous_identity(*place)
    assert calculated.hex() == identity
    assert KEY.path(calculated) == path
    assert checksum_address(KEY.address(path)) == address


def test_what_is_hashed_is_the_text_that_the_design_names() -> None:
    """Anybody can calculate an address again with nothing but the design."""
    expected = hashlib.sha256('["wm1","ü",{"a":1.0}]'.encode()).digest()
    assert calculate_identity("ü", _meta('{ "a": 1.0 }')) == expected
    expected = hashlib.sha256(b'["wm1-anonymous","t",1,2,3,"eyA="]').digest()
    assert calculate_anonymous_identity("t", 1, 2, 3, b"{ ") == expected


@given(identities)
def test_a_path_has_the_first_93_bits_of_the_identity(identity: Identity) -> None:
    """Three steps below the hardened ones, each of 31 bits, the first bits first."""
    *prefix, a, b, c = KEY.path(identity).split("/")
    assert prefix == ["m", "44'", "60'", "0'"]
    bits = "".join(f"{int(step):031b}" for step in (a, b, c))
    assert bits == "".join(f"{byte:08b}" for byte in identity)[:93]


@settings(max_examples=25)
@given(st.binary(min_size=64, max_size=64), st.integers(0, 2**31 - 1), identities)
def test_the_seed_derives_the_key_of_every_published_address(seed: bytes, account: int, identity: Identity) -> None:
    """The public way of the command worker and the private way of the sweeper meet: by bip32, from the seed itself."""
    keys = derive_account_keys(seed, account)
    key = AccountKey.from_xpub(keys.xpub, keys.fingerprint)
    path = key.path(identity)
    private_key = coincurve.PrivateKey(BIP32.from_seed(seed).get_privkey_from_path(path))
    assert key.address(path) == address_of_public_key(private_key.public_key.format(compressed=False))


def test_steps_at_the_ends_of_their_range_are_derived_too() -> None:
    """0 and 2 ** 31 - 1 are numbers like any other."""
    master = BIP32.from_seed(SEED)
    for identity in (bytes(32), b"\xff" * 32):
        path = KEY.path(Identity(identity))
        public_key = coincurve.PublicKey(master.get_pubkey_from_path(path))
        assert KEY.address(path) == address_of_public_key(public_key.format(compressed=False))


@pytest.mark.parametrize(
    "path",
    [
        "",
        "m",
        "m/44'/60'/1'/1/2/3",
        "m/44'/60'/0'/1/2",
        "m/44'/60'/0'/1/2/3/4",
        "m/44'/60'/0'/1/2/3'",
        "m/44'/60'/0'/1/2/2147483648",
        "m/44'/60'/0'/1/02/3",
        "m/44'/60'/0'/1/ 2/3",
    ],
)
def test_a_path_of_another_form_or_account_is_refused(path: str) -> None:
    """The key knows its own account only."""
    with pytest.raises(ValueError, match="not a path"):
        KEY.address(path)


def test_the_reply_tells_all_that_is_needed_to_find_the_key_again() -> None:
    """And repeats the caller's meta, at the top level and as it was."""
    value = b'{"id": "user-17", "type": "create_account", "meta": {"user": 17, "desk": "emea"}}'
    record = command_reply(KEY, _message(value), chain_id=1, source="/wallets/mainnet")
    assert record.topic is Topic.ADDRESS_CREATED
    assert record.key == b"0xd71beb6cdaa1e087ec3fac34853f9fda0bb6c424"
    assert json.loads(record.value or b"") == {
        "user": 17,
        "desk": "emea",
        "id": "user-17",
        "address": "0xd71bEB6cDAa1E087EC3fac34853f9fdA0Bb6C424",
        "chain_id": 1,
        "path": "m/44'/60'/0'/2054554341/269770427/772349261",
        "fingerprint": KEYS.fingerprint,
        "meta": {"user": 17, "desk": "emea"},
    }


def test_a_command_with_an_id_has_one_reply_wherever_and_however_it_is_sent() -> None:
    """Sent twice, spelled otherwise, on a topic made again: the same record, byte for byte."""
    first = _message(b'{"id":"x","type":"create_account","meta":{"a":1.50,"b":"\\u00e9"}}')
    other = CommandMessage(
        "copy.command",
        9,
        7,
        5,
        None,
        '{"type": "create_account", "meta": {"b": "é", "a": 1.50}}'.encode(),
        (("ce_id", b"x"),),
    )
    replies = {command_reply(KEY, message, chain_id=1, source="/w/m") for message in (first, other)}
    assert len(replies) == 1


def test_another_id_or_meta_is_another_account() -> None:
    """No two different commands share an address."""
    values = [
        b'{"id": "x", "type": "create_account"}',
        b'{"id": "X", "type": "create_account"}',
        b'{"id": "x", "type": "create_account", "meta": {"a": 1}}',
        b'{"id": "x", "type": "create_account", "meta": {"a": 1.0}}',
        b'{"id": "x", "type": "create_account", "meta": {"a": "1"}}',
        b'{"id": "x", "type": "create_account", "meta": {"a": null}}',
        b'{"id": "e\xcc\x81", "type": "create_account"}',
        b'{"id": "\xc3\xa9", "type": "create_account"}',
    ]
    assert len({_answer(_message(value))["address"] for value in values}) == len(values)


def test_a_command_without_an_id_is_known_by_its_place() -> None:
    """Read again it has the same address; at any other place, or with another value, it is another command."""
    value = b'{"type": "create_account"}'
    changes: list[dict[str, Any]] = [
        {},
        {"topic": "x.command"},
        {"partition": 4},
        {"offset": 42},
        {"timestamp_ms": 1_767_225_600_001},
        {"value": value + b" "},
    ]
    answers = [
        _answer(_message(value, **change) if "value" not in change else _message(**change)) for change in changes
    ]
    assert len({answer["address"] for answer in answers}) == len(changes)
    assert answers[0] == _answer(_message(value, key=b"other"))
    assert {answer["id"] for answer in answers} == {None}


def test_an_id_cannot_be_made_to_look_like_a_place() -> None:
    """The two kinds of identity begin with different words, and both are JSON: nothing can be smuggled in."""
    place = ("t", 1, 2, 3, b"{}")
    assert calculate_identity('x",{}]', _meta("{}")) != calculate_identity("x", _meta("{}"))
    assert calculate_anonymous_identity(*place) != calculate_identity("wm1-anonymous", _meta("{}"))


def test_a_bad_command_is_raised_as_such() -> None:
    """The worker turns it into an event on `errors`."""
    with pytest.raises(BadMeta):
        command_reply(KEY, _message(b'{"type": "create_account", "meta": 1}'), chain_id=1, source="/w/m")


@pytest.mark.parametrize(
    ("text", "fingerprint", "reason"),
    [
        (KEYS.xpub, "00" * 20, "fingerprint is 3bf95407"),
        (KEYS.xpub, KEYS.fingerprint.upper(), "fingerprint is"),
        (KEYS.xprv, KEYS.fingerprint, "private one"),
        (BIP32.from_seed(SEED).get_xpub_from_path("m/44'/60'"), KEYS.fingerprint, "not an account's key"),
        (BIP32.from_seed(SEED).get_xpub_from_path("m/44'/60'/0"), KEYS.fingerprint, "not an account's key"),
        ("", KEYS.fingerprint, "not an extended key"),
        (KEYS.xpub[:-1], KEYS.fingerprint, "not an extended key"),
    ],
)
def test_any_other_key_is_refused_without_repeating_it(text: str, fingerprint: str, reason: str) -> None:
    """A wrong key file must do no harm: no address of it is ever published, and a private one stays private."""
    with pytest.raises(KeyMismatch, match=reason) as raised:
        AccountKey.from_xpub(text, fingerprint)
    assert "xprv9" not in str(raised.value)
    assert not text or text not in str(raised.value)


def test_printing_the_key_prints_no_key() -> None:
    """With the xpub and any one private key below it, all are known: it does not belong in a log."""
    assert repr(KEY) == f"AccountKey(account=0, fingerprint='{KEYS.fingerprint}')"


def test_a_watched_address_is_answered_without_a_key() -> None:
    """No path, no fingerprint, a key of its own in the topic; the same bytes for the same command."""
    value = (
        b'{"id": "t", "type": "watch_address", "address": "0xdac17f958d2ee523a2206206994597c13d831ec7", '
        b'"meta": {"n": 1.0}}'
    )
    first = command_reply(KEY, _message(value), chain_id=1, source="/w/m")
    assert first == command_reply(KEY, _message(value), chain_id=1, source="/w/m")
    assert first.key == b"watch:0xdac17f958d2ee523a2206206994597c13d831ec7"
    assert first.value == (
        b'{"n":1.0,"id":"t","address":"0xdAC17F958D2ee523a2206206994597C13D831ec7","chain_id":1,"path":null,'
        b'"fingerprint":null,"meta":{"n":1.0}}'
    )
