"""Messages: what readers may rely on, byte for byte."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from wallet_core.addresses import Address
from wallet_core.canonical_json import CanonicalObject, canonical_object, parse
from wallet_core.errors import BadMeta, KeyMismatch
from wallet_core.messages import (
    EXCERPT_SIZE_MAX,
    AddressCreated,
    ErrorEvent,
    Record,
    Topic,
    TransactionAsset,
    TransactionEvent,
    address_created_record,
    error_record,
    event_source,
    transaction_record,
)
from wallet_core.ports import CommandMessage

SOURCE = event_source("wallets", "mainnet")
ADDRESS = Address(bytes.fromhex("5aaeb6053f3e94c9b9a09f33669435e7ef1beaed"))
KAFKA_RECORD_SIZE_MAX = 1_000_000


def _reply(meta: str, command_id: str | None = "user-17") -> Record:
    parsed = parse(meta)
    assert isinstance(parsed, dict)
    written: CanonicalObject = canonical_object(parsed)
    return address_created_record(
        command_id=command_id,
        meta=written,
        address=ADDRESS,
        chain_id=1,
        path="m/44'/60'/0'/1/2/3",
        fingerprint="3b" * 20,
        source=SOURCE,
    )


def _event(**changes: Any) -> TransactionEvent:
    fields: dict[str, Any] = {
        "event_id": "5f" * 32,
        "sequence": 12,
        "type": "deposit",
        "status": "confirmed",
        "txid": "0x" + "a1" * 32,
        "value": "1.5",
        "amount": "1500000000000000000",
        "to": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "from_": "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
        "asset": TransactionAsset(symbol="ETH", contract=None, decimals=18),
        "chain_id": 1,
        "block_number": 7,
        "block_hash": "0x" + "b2" * 32,
        "timestamp": 1_767_225_611,
        "confirmations": 3,
    }
    return TransactionEvent(**(fields | changes))


def _message(key: bytes | None = b"k", value: bytes | None = b"{}") -> CommandMessage:
    return CommandMessage("mainnet.command", 3, 42, 1_767_225_600_000, key, value, ())


def _error(message: CommandMessage, error: Exception | None = None) -> tuple[Record, ErrorEvent]:
    record = error_record(message, error or BadMeta("meta is no object"), SOURCE)
    return record, ErrorEvent.model_validate_json(record.value or b"")


# --- address.created ---


def test_the_reply_is_these_bytes() -> None:
    """Meta's fields first, then the wallet's own; numbers as they were written. The same for one command, always."""
    record = _reply('{"limit": 1.50, "big": 12345678901234567890123, "desk": "é"}')
    assert record.topic is Topic.ADDRESS_CREATED
    assert record.key == b"0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed"
    assert (record.value or b"").decode() == (
        '{"big":12345678901234567890123,"desk":"é","limit":1.50,"id":"user-17",'
        '"address":"0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed","chain_id":1,"path":"m/44\'/60\'/0\'/1/2/3",'
        '"fingerprint":"3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b",'
        '"meta":{"big":12345678901234567890123,"desk":"é","limit":1.50}}'
    )
    assert record.headers == (
        ("ce_specversion", b"1.0"),
        ("ce_id", b"0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed"),
        ("ce_source", b"/wallets/mainnet"),
        ("ce_type", b"dev.wallet-manager.address.created"),
        ("content-type", b"application/json"),
    )


def test_the_wallets_own_fields_win() -> None:
    """A caller's meta cannot pass for an address; it is still there under `meta`."""
    forged = (
        '{"address": "0xforged", "id": 1, "path": "m", "fingerprint": "", "chain_id": 5, "meta": {"address": "0x"}}'
    )
    value = json.loads(_reply(forged).value or b"", object_pairs_hook=_without_duplicates)
    assert value["address"] == "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
    assert (value["id"], value["path"], value["chain_id"]) == ("user-17", "m/44'/60'/0'/1/2/3", 1)
    assert value["meta"] == json.loads(forged)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.integers() | st.text(st.characters(codec="utf-8"))))
def test_every_reply_fits_its_model(meta: dict[str, Any]) -> None:
    """The documentation is true, whatever meta holds."""
    record = _reply(json.dumps(meta), command_id=None)
    value = json.loads(record.value or b"", object_pairs_hook=_without_duplicates)
    assert AddressCreated.model_validate(value).meta == meta
    assert meta | value == value | {key: meta[key] for key in meta if key not in AddressCreated.model_fields}


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


# --- transaction ---


def test_an_event_is_these_bytes() -> None:
    """The fields of the design, in their order, and nothing else."""
    record = transaction_record(_event(), SOURCE)
    assert record.topic is Topic.TRANSACTION
    assert record.key == b"0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed"
    assert record.value == (
        b'{"event_id":"' + b"5f" * 32 + b'","sequence":12,"type":"deposit","status":"confirmed","txid":"0x'
        + b"a1" * 32
        + b'","value":"1.5","amount":"1500000000000000000","to":"0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",'
        b'"from":"0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",'
        b'"asset":{"symbol":"ETH","contract":null,"decimals":18},"chain_id":1,"block_number":7,"block_hash":"0x'
        + b"b2" * 32
        + b'","timestamp":1767225611,"confirmations":3}'
    )  # fmt: skip
    headers = dict(record.headers)
    assert headers["ce_id"] == b"5f" * 32 + b".12"
    assert headers["ce_type"] == b"dev.wallet-manager.transaction.deposit.confirmed"


def test_what_was_written_can_be_read() -> None:
    """By the model itself, with `from` under its name on the wire."""
    event = _event(status="orphaned", confirmations=0)
    assert TransactionEvent.model_validate_json(transaction_record(event, SOURCE).value or b"") == event


@pytest.mark.parametrize(
    "change",
    [
        {"status": "pending"},
        {"type": "sweep"},
        {"amount": "1.5"},
        {"amount": "-1"},
        {"value": "1e18"},
        {"txid": "0x"},
        {"sequence": -1},
    ],
)
def test_an_event_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    """Our own mistake must not reach a reader's books."""
    with pytest.raises(ValidationError):
        _event(**change)


# --- errors ---


def test_an_error_repeats_the_message_and_names_its_code() -> None:
    """Who sent it finds it again by its place, its key and its text."""
    record, event = _error(_message(b"user-1", b'{"meta": 1}'))
    assert (record.topic, record.key) == (Topic.ERRORS, b"user-1")
    assert json.loads(record.value or b"") == {
        "type": "command",
        "request": {
            "topic": "mainnet.command",
            "partition": 3,
            "offset": 42,
            "key": "user-1",
            "key_encoding": "utf-8",
            "value": '{"meta": 1}',
            "encoding": "utf-8",
            "size": 11,
            "sha256": hashlib.sha256(b'{"meta": 1}').hexdigest(),
            "truncated": False,
        },
        "error_code": "bad_meta",
        "error_message": "meta is no object",
        "error_stack": None,
    }
    assert dict(record.headers)["ce_id"] == b"mainnet.command-3-42"
    assert dict(record.headers)["ce_type"] == b"dev.wallet-manager.error.command"
    assert event.error_code == "bad_meta"


def test_nothing_is_told_apart_from_empty() -> None:
    """A null value and an empty one are two different mistakes."""
    record, event = _error(_message(None, None))
    assert (record.key, event.request.key, event.request.value, event.request.sha256) == (b"", None, None, None)
    _, event = _error(_message(b"", b""))
    assert (event.request.key, event.request.value, event.request.sha256) == ("", "", hashlib.sha256(b"").hexdigest())


@given(st.none() | st.binary(), st.none() | st.binary() | st.text().map(lambda text: text.encode(errors="replace")))
def test_a_short_message_comes_back_whole(key: bytes | None, value: bytes | None) -> None:
    """Key and value each say how they are written."""
    _, event = _error(_message(key, value))
    request = event.request
    for sent, text, encoding in ((key, request.key, request.key_encoding), (value, request.value, request.encoding)):
        if sent is None:
            assert text is None
        else:
            assert text is not None
            assert sent == (text.encode() if encoding == "utf-8" else base64.b64decode(text, validate=True))
    assert not request.truncated


@pytest.mark.parametrize(
    "unit", [b"\x00", b'"', b"\\", b"\n", b"x", b"\x7f", "é".encode(), "€".encode(), "😀".encode(), b"\xff"]
)
def test_an_error_about_a_large_message_fits_itself(unit: bytes) -> None:
    """Whatever the message is made of, with an unexpected error on top: well below the broker's limit."""
    large = b"a" + unit * (1_000_000 // len(unit))
    record, event = _error(_message(large, large), ValueError("x" * 1_000_000))
    assert len(record.value or b"") + len(record.key) < KAFKA_RECORD_SIZE_MAX / 2
    request = event.request
    assert request.truncated
    assert request.size == len(large)
    assert request.sha256 == hashlib.sha256(large).hexdigest()
    assert request.value is not None
    shown = request.value.encode() if request.encoding == "utf-8" else base64.b64decode(request.value)
    assert large.startswith(shown)
    assert EXCERPT_SIZE_MAX - 3 <= len(shown) <= EXCERPT_SIZE_MAX


def test_a_message_is_cut_only_above_the_limit() -> None:
    """64 KiB come back whole, one byte more does not."""
    for size, truncated in ((EXCERPT_SIZE_MAX, False), (EXCERPT_SIZE_MAX + 1, True)):
        assert _error(_message(b"k", b"x" * size))[1].request.truncated is truncated
        assert _error(_message(b"x" * size, b"v"))[1].request.truncated is truncated


def test_an_unexpected_error_tells_places_but_no_values() -> None:
    """Its text may hold anything: a key file's content, an address of a database with its password."""
    secret = "xprv9s21ZrQH143K"

    def fails(value: str) -> None:
        try:
            _ = {"": 0}[value]
        except KeyError as error:
            raise RuntimeError(f"bad {value}") from error

    try:
        fails(secret)
    except RuntimeError as error:
        record, event = _error(_message(), error)
    assert secret.encode() not in (record.value or b"")
    assert (event.error_code, event.error_message) == ("internal_error", "unexpected RuntimeError")
    assert event.error_stack is not None
    assert "fails" in event.error_stack
    assert "KeyError" in event.error_stack


def test_only_a_bad_command_speaks_for_itself() -> None:
    """An error of the wallet's own is not the caller's business."""
    _, event = _error(_message(), KeyMismatch("the account key's fingerprint is …"))
    assert (event.error_code, event.error_message) == ("internal_error", "unexpected KeyMismatch")


def test_a_message_text_that_is_no_unicode_is_escaped() -> None:
    """A type with a lone surrogate is named in the error; the event must be UTF-8 all the same."""
    _, event = _error(_message(), BadMeta("\ud800"))
    assert event.error_message == "\\ud800"


def test_the_same_error_is_the_same_bytes() -> None:
    """A batch that is tried again after a crash writes the same events."""
    assert error_record(_message(), BadMeta("x"), SOURCE) == error_record(_message(), BadMeta("x"), SOURCE)
