"""A deposit's identity, and how it is announced."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet_core.addresses import Address, lower_hex
from wallet_core.amounts import BaseUnits
from wallet_core.blocks import Withdrawal
from wallet_core.deposits import (
    Announcement,
    Deposit,
    Kind,
    Status,
    announce,
    calculate_event_id,
    calculate_withdrawal_id,
)
from wallet_core.messages import Topic, TransactionAsset, TransactionEvent

ETH = TransactionAsset(symbol="ETH", contract=None, decimals=18)
FIRST_ETHER_EVER = "0x5c504ed432cb51138bcf09aa5e8a410dd4a1e204ef84bfed1be16dfba1b22060"
BLOCK = "0x" + "b1" * 32
SENDER = Address(bytes.fromhex("5aaeb6053f3e94c9b9a09f33669435e7ef1beaed"))
ALICE = Address(bytes.fromhex("fb6916095ca1df60bb79ce92ce3ea74c37c5d359"))
hashes = st.binary(min_size=32, max_size=32).map(lambda octets: "0x" + octets.hex())

# --- identity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chain_id", "transaction_hash", "position", "event_id"),
    [
        (1, "0x" + "00" * 32, 0, "4b051fa9eb9472e08f6ecc75b23f1f84bf3bccbe6664e0421c62ceecb04c5b89"),
        (1337, "0x" + "ab" * 32, 0, "8adcd152686aafde00c24f4f8b11e3ad93d1f64849d8af991aee4c975d02bf05"),
        (1, FIRST_ETHER_EVER, 0, "00e5a9a994b152ec2c298eab51442f55323f83e5dd0c718748a080908c99290e"),
        (1, FIRST_ETHER_EVER, 7, "73cef1d21405ff34c4c9364502e79346e99ffd14bf71044116e0fbf32dedb5f9"),
    ],
)
def test_event_ids_never_change(chain_id: int, transaction_hash: str, position: int, event_id: str) -> None:
    """Golden vectors: readers keep these ids for ever, so a release that changes one credits every deposit twice."""
    assert calculate_event_id(chain_id, transaction_hash, Kind.TRANSACTION, position) == event_id
    assert (
        calculate_event_id(chain_id, transaction_hash.upper().replace("0X", "0x"), Kind.TRANSACTION, position)
        == event_id
    )


@pytest.mark.parametrize(
    ("kind", "event_id"),
    [
        (Kind.FRAME, "c374fc4abceef19fc7e934284b49297dc5af50a5ff136babdbca6cc9225d7a25"),
        (Kind.LOG, "e268a304cee46c788ceac29413c98bd456a6c74d69166fae81a5ceae275ea8e6"),
    ],
)
def test_ids_of_other_kinds_never_change(kind: Kind, event_id: str) -> None:
    """Golden likewise; one transaction's value, its first inner movement and its first log are three transfers."""
    assert calculate_event_id(1, FIRST_ETHER_EVER, kind, 0) == event_id


@given(st.sets(st.tuples(st.integers(1, 2**53), hashes, st.integers(0, 500)), min_size=2))
def test_different_transfers_have_different_ids(transfers: set[tuple[int, str, int]]) -> None:
    """Chain, transaction and position each tell transfers apart."""
    assert len({calculate_event_id(chain, txid, Kind.TRANSACTION, n) for chain, txid, n in transfers}) == len(transfers)


# --- withdrawals ---------------------------------------------------------------------------------------------------

WITHDRAWAL = Withdrawal(index=17_000_000, validator_index=812, address=lower_hex(ALICE), amount_gwei=18_250_123)


def test_a_withdrawals_id_never_changes() -> None:
    """A golden vector: chain, index, validator, address and amount in gwei, by whatever case a node writes."""
    golden = "0b487ad3c9f860763edc1ff83c4bd207a7d61c19a5d70c7ee64ef5b33029f9e3"
    assert calculate_withdrawal_id(1, WITHDRAWAL) == golden
    upper = msgspec.structs.replace(WITHDRAWAL, address="0x" + ALICE.hex().upper())
    assert calculate_withdrawal_id(1, upper) == golden


@pytest.mark.parametrize(
    "change", [{"index": 1}, {"validator_index": 1}, {"address": "0x" + "00" * 20}, {"amount_gwei": 1}]
)
def test_every_part_of_a_withdrawal_tells_it_apart(change: dict[str, Any]) -> None:
    """Of two withdrawals to one address of one amount, too."""
    assert calculate_withdrawal_id(1, msgspec.structs.replace(WITHDRAWAL, **change)) != calculate_withdrawal_id(
        1, WITHDRAWAL
    )
    assert calculate_withdrawal_id(2, WITHDRAWAL) != calculate_withdrawal_id(1, WITHDRAWAL)


def test_a_withdrawal_is_announced_without_transaction_and_sender() -> None:
    """Both are null; all else is as for any deposit."""
    event_id = calculate_withdrawal_id(1, WITHDRAWAL)
    deposit = Deposit(event_id, None, None, ALICE, BaseUnits(18_250_123 * 10**9), ETH)
    record = announce(Announcement(Status.CONFIRMED, deposit, 17, BLOCK, 0, 3), 42, 1, "/wallets/mainnet")
    value = json.loads(record.value or b"")
    assert (value["txid"], value["from"], value["value"]) == (None, None, "0.018250123")
    assert TransactionEvent.model_validate_json(record.value or b"").event_id == event_id


# --- what is said --------------------------------------------------------------------------------------------------


def announcement(status: Status, amount: int = 1_500_000_000_000_000_000, confirmations: int = 3) -> Announcement:
    event_id = calculate_event_id(1, FIRST_ETHER_EVER, Kind.TRANSACTION, 0)
    deposit = Deposit(event_id, FIRST_ETHER_EVER, SENDER, ALICE, BaseUnits(amount), ETH)
    return Announcement(status, deposit, 46147, BLOCK, 1438918233, confirmations)


def test_an_announcement_becomes_the_documented_record() -> None:
    """Every field of the public topic, with its place in the sequence."""
    record = announce(announcement(Status.CONFIRMED), 42, 1, "/wallets/mainnet")
    assert (record.topic, record.key) == (Topic.TRANSACTION, lower_hex(ALICE).encode())
    assert json.loads(record.value or b"") == {
        "event_id": "00e5a9a994b152ec2c298eab51442f55323f83e5dd0c718748a080908c99290e",
        "sequence": 42,
        "type": "deposit",
        "status": "confirmed",
        "txid": FIRST_ETHER_EVER,
        "value": "1.5",
        "amount": "1500000000000000000",
        "to": "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
        "from": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "asset": {"symbol": "ETH", "contract": None, "decimals": 18},
        "chain_id": 1,
        "block_number": 46147,
        "block_hash": BLOCK,
        "timestamp": 1438918233,
        "confirmations": 3,
    }
    headers = dict(record.headers)
    assert headers["ce_id"] == b"00e5a9a994b152ec2c298eab51442f55323f83e5dd0c718748a080908c99290e.42"
    assert headers["ce_source"] == b"/wallets/mainnet"


@given(st.sampled_from(Status), st.integers(1, 2**256 - 1), st.integers(1, 2**63))
def test_every_announcement_can_be_said(status: Status, amount: int, sequence: int) -> None:
    """No amount or status makes a record that its own model refuses; the same thing said again is the same bytes."""
    said = announcement(status, amount, 0 if status is Status.ORPHANED else 1)
    record = announce(said, sequence, 1, "/wallets/mainnet")
    value = json.loads(record.value or b"")
    assert (value["status"], value["amount"], value["sequence"]) == (status.value, str(amount), sequence)
    assert announce(said, sequence, 1, "/wallets/mainnet") == record
