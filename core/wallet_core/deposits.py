"""What a deposit is, and what is said of it.

**What counts.** ETH sent to a published address by a transaction with `to` = that address and `value` > 0, whose
receipt says that it succeeded, and which was not sent by the wallet's own gas account (that is funding, not a deposit).
`to` is null where a contract is created, so a creation is never one.

**Identity.** `event_id` is a hash of (chain id, transaction hash, kind, position). For the transaction's own value the
kind is `transaction` and the position 0. Nothing in it depends on the block: after a fork the same transfer in another
block keeps its id, so a reader sees one story of one transfer. A block's log index or a transaction's index would
change.

**Status.** `detected` once in a block, `confirmed` once final, `orphaned` when the chain took the block back. A deposit
first seen in a block that is final already gets `confirmed` only. The last event of an id is what holds.

**Sequence.** The running number of everything that one writer ever said: later is always larger, across addresses too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from wallet_core.addresses import Address, checksum_address, lower_hex, parse_address
from wallet_core.amounts import BaseUnits, format_units
from wallet_core.blocks import Receipt, Transaction
from wallet_core.errors import NodeInconsistent
from wallet_core.messages import Record, TransactionAsset, TransactionEvent, transaction_record

_TRANSACTION_HASH = re.compile(r"0x[0-9a-f]{64}")


class Status(StrEnum):
    """What the last event of a deposit says."""

    DETECTED = "detected"
    CONFIRMED = "confirmed"
    ORPHANED = "orphaned"


class Kind(StrEnum):
    """By which part of a transaction the value moved."""

    TRANSACTION = "transaction"


@dataclass(frozen=True)
class Deposit:
    """One transfer to a published address."""

    event_id: str
    """64 hex digits; see `calculate_event_id`."""
    txid: str
    """Transaction hash, 0x and lower-case hex."""
    sender: Address
    recipient: Address
    amount: BaseUnits
    """In the asset's base units."""
    asset: TransactionAsset


@dataclass(frozen=True)
class Announcement:
    """One thing to say of one deposit, before it has its place in the sequence."""

    status: Status
    deposit: Deposit
    block_number: int
    block_hash: str
    timestamp: int
    """Of the block, seconds since the Unix epoch."""
    confirmations: int
    """Depth of the block; the newest block has 1. 0 for a block that the chain took back."""


def calculate_event_id(chain_id: int, transaction_hash: str, kind: Kind, position: int) -> str:
    """The identity of a transfer: a SHA-256 of (chain id, transaction hash, kind, position), 64 hex digits."""
    identity = json.dumps([chain_id, transaction_hash.lower(), kind, position], separators=(",", ":"))
    return hashlib.sha256(identity.encode()).hexdigest()


def may_be_deposit(transaction: Transaction, gas_address: Address | None) -> bool:
    """Whether a transaction to a published address is a deposit if it succeeded."""
    return gas_address is None or transaction.from_.lower() != lower_hex(gas_address)


def deposits_of_block(
    block_hash: str,
    transactions: Sequence[Transaction],
    receipts: Mapping[str, Receipt],
    chain_id: int,
    asset: TransactionAsset,
) -> tuple[Deposit, ...]:
    """The deposits among a block's matching transactions, in the block's order.

    `receipts` holds each transaction's receipt by its hash. Raises NodeInconsistent where one belongs to another block,
    or where a transaction's hash, address or value is not of the wire's form.
    """
    deposits = []
    for transaction in transactions:
        if _TRANSACTION_HASH.fullmatch(transaction.hash) is None:
            raise NodeInconsistent(f"block {block_hash}: a transaction's hash is not 0x and 64 lower-case hex digits")
        receipt = receipts[transaction.hash]
        if receipt.block_hash != block_hash or receipt.transaction_hash != transaction.hash:
            raise NodeInconsistent(f"the receipt of {transaction.hash} is not of block {block_hash}")
        if transaction.to is None or not receipt.succeeded:
            continue
        try:
            deposit = Deposit(
                event_id=calculate_event_id(chain_id, transaction.hash, Kind.TRANSACTION, 0),
                txid=transaction.hash,
                sender=parse_address(transaction.from_.lower()),
                recipient=parse_address(transaction.to.lower()),
                amount=BaseUnits(int(transaction.value, 16)),
                asset=asset,
            )
        except ValueError as error:
            raise NodeInconsistent(f"transaction {transaction.hash}: {error}") from error
        deposits.append(deposit)
    return tuple(deposits)


def announce(said: Announcement, sequence: int, chain_id: int, source: str) -> Record:
    """The record on `transaction` that says it, as the writer's event number `sequence`."""
    deposit = said.deposit
    return transaction_record(
        TransactionEvent(
            event_id=deposit.event_id,
            sequence=sequence,
            type="deposit",
            status=said.status.value,
            txid=deposit.txid,
            value=format_units(deposit.amount, deposit.asset.decimals),
            amount=str(deposit.amount),
            to=checksum_address(deposit.recipient),
            from_=checksum_address(deposit.sender),
            asset=deposit.asset,
            chain_id=chain_id,
            block_number=said.block_number,
            block_hash=said.block_hash,
            timestamp=said.timestamp,
            confirmations=said.confirmations,
        ),
        source,
    )
