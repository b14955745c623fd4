"""What counts as a deposit, its identity, and how it is announced."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet_core.addresses import Address, checksum_address, lower_hex
from wallet_core.amounts import BaseUnits
from wallet_core.blocks import Receipt, Transaction
from wallet_core.deposits import (
    Announcement,
    Deposit,
    Kind,
    Status,
    announce,
    calculate_event_id,
    deposits_of_block,
    may_be_deposit,
)
from wallet_core.errors import NodeInconsistent
from wallet_core.messages import Topic, TransactionAsset

ETH = TransactionAsset(symbol="ETH", contract=None, decimals=18)
FIRST_ETHER_EVER = "0x5c504ed432cb51138bcf09aa5e8a410dd4a1e204ef84bfed1be16dfba1b22060"
BLOCK = "0x" + "b1" * 32
SENDER = Address(bytes.fromhex("5aaeb6053f3e94c9b9a09f33669435e7ef1beaed"))
ALICE = Address(bytes.fromhex("fb6916095ca1df60bb79ce92ce3ea74c37c5d359"))
hashes = st.binary(min_size=32, max_size=32).map(lambda octets: "0x" + octets.hex())


def paid(
    value: str = "0xde0b6b3a7640000", to: str | None = lower_hex(ALICE), n: int = 1, sender: str = lower_hex(SENDER)
) -> Transaction:
    return Transaction(hash=f"0x{n:064x}", from_=sender, to=to, value=value)


def receipts_of(*transactions: Transaction, block_hash: str = BLOCK, succeeded: bool = True) -> dict[str, Receipt]:
    return {each.hash: Receipt(each.hash, block_hash, succeeded) for each in transactions}


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


@given(st.sets(st.tuples(st.integers(1, 2**53), hashes, st.integers(0, 500)), min_size=2))
def test_different_transfers_have_different_ids(transfers: set[tuple[int, str, int]]) -> None:
    """Chain, transaction and position each tell transfers apart."""
    assert len({calculate_event_id(chain, txid, Kind.TRANSACTION, n) for chain, txid, n in transfers}) == len(transfers)


def test_the_block_is_no_part_of_the_identity() -> None:
    """After a fork the same transfer in another block is the same deposit."""
    transaction, other_block = paid(), "0x" + "b2" * 32
    here = deposits_of_block(BLOCK, [transaction], receipts_of(transaction), 1, ETH)
    there = deposits_of_block(other_block, [transaction], receipts_of(transaction, block_hash=other_block), 1, ETH)
    assert here == there


# --- what counts ---------------------------------------------------------------------------------------------------


def test_a_transfer_that_succeeded_is_a_deposit() -> None:
    """Sender, recipient, amount and transaction are those of the chain."""
    transaction = paid()
    assert deposits_of_block(BLOCK, [transaction], receipts_of(transaction), 1, ETH) == (
        Deposit(
            calculate_event_id(1, transaction.hash, Kind.TRANSACTION, 0),
            transaction.hash,
            SENDER,
            ALICE,
            BaseUnits(10**18),
            ETH,
        ),
    )


def test_deposits_stand_in_the_blocks_order() -> None:
    """The order of events of one block is that of its transactions."""
    transactions = [paid(hex(n), n=n) for n in (3, 1, 2)]
    found = deposits_of_block(BLOCK, transactions, receipts_of(*transactions), 1, ETH)
    assert [each.amount for each in found] == [3, 1, 2]


def test_a_failed_transfer_is_no_deposit() -> None:
    """Its receipt says that no value moved."""
    failed, fine = paid(n=1), paid(n=2)
    receipts = receipts_of(failed, succeeded=False) | receipts_of(fine)
    assert [each.txid for each in deposits_of_block(BLOCK, [failed, fine], receipts, 1, ETH)] == [fine.hash]


def test_a_contract_creation_is_no_deposit() -> None:
    """It has no recipient: its value goes to the new contract."""
    creation = paid(to=None)
    assert deposits_of_block(BLOCK, [creation], receipts_of(creation), 1, ETH) == ()


def test_what_the_gas_account_sends_is_no_deposit() -> None:
    """It is the wallet's own funding, in whatever case the node writes the sender."""
    assert not may_be_deposit(paid(sender=checksum_address(SENDER)), SENDER)
    assert not may_be_deposit(paid(), SENDER)
    assert may_be_deposit(paid(), ALICE)
    assert may_be_deposit(paid(), None)


@pytest.mark.parametrize("succeeded", [True, False])
@pytest.mark.parametrize(
    "receipt",
    [
        lambda transaction, succeeded: Receipt(transaction.hash, "0x" + "b2" * 32, succeeded),
        lambda _, succeeded: Receipt("0x" + "ff" * 32, BLOCK, succeeded),
    ],
    ids=["of another block", "of another transaction"],
)
def test_a_receipt_of_something_else_is_never_read_as_a_verdict(
    receipt: Callable[[Transaction, bool], Receipt], succeeded: bool
) -> None:
    """Success there says nothing here, and failure there must not hide a deposit here."""
    transaction = paid()
    with pytest.raises(NodeInconsistent, match=transaction.hash):
        deposits_of_block(BLOCK, [transaction], {transaction.hash: receipt(transaction, succeeded)}, 1, ETH)


@pytest.mark.parametrize(
    "transaction",
    [paid(value="ten"), paid(value=""), paid(to="0x12"), paid(sender="nobody")],
    ids=["value", "empty value", "recipient", "sender"],
)
def test_a_transaction_that_cannot_be_read_stops_the_block(transaction: Transaction) -> None:
    """It is the node's contradiction, never "no deposit"."""
    with pytest.raises(NodeInconsistent, match=transaction.hash):
        deposits_of_block(BLOCK, [transaction], receipts_of(transaction), 1, ETH)


@pytest.mark.parametrize(
    "malformed", ["0x" + "AB" * 32, "0X" + "ab" * 32, "0x" + "zz" * 32, "0x" + "ab" * 31, "\u0661" * 66]
)
def test_a_hash_that_is_none_stops_the_block(malformed: str) -> None:
    """It would become another event id, or an event that no reader can read."""
    transaction = Transaction(hash=malformed, from_=lower_hex(SENDER), to=lower_hex(ALICE), value="0x1")
    with pytest.raises(NodeInconsistent, match=BLOCK):
        deposits_of_block(BLOCK, [transaction], receipts_of(transaction), 1, ETH)


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
