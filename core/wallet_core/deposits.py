"""A deposit, its identity, and what is said of it.

What counts as one is the subject of `transfers`.

**Identity.** `event_id` is a hash of (chain id, transaction hash, kind, position), the position being 0 for the
transaction's own value, the ordinal among its value-moving frames for ETH moved inside contracts (`traces`), and the
place among its own logs for a token (`tokens`). A withdrawal from the beacon chain comes by no transaction: its id is a
hash of (chain id, "withdrawal", index, validator, address, amount in gwei). Nothing in an id depends on the block:
after a fork the same transfer in another block keeps its id, so a reader sees one story of one transfer. A block's log
index or a transaction's index would change.

**Status.** `detected` once in a block, `confirmed` once final, `orphaned` when the chain took the block back. A deposit
first seen in a block that is final already gets `confirmed` only. The last event of an id is what holds.

**Sequence.** The running number of everything that one writer ever said: later is always larger, across addresses too.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum

from wallet_core.addresses import Address, checksum_address
from wallet_core.amounts import BaseUnits, format_units
from wallet_core.blocks import Withdrawal
from wallet_core.messages import Record, TransactionAsset, TransactionEvent, transaction_record


class Status(StrEnum):
    """What the last event of a deposit says."""

    DETECTED = "detected"
    CONFIRMED = "confirmed"
    ORPHANED = "orphaned"


class Kind(StrEnum):
    """By which part of a transaction the value moved. Part of every id: may never change."""

    TRANSACTION = "transaction"
    """Its own value."""
    FRAME = "frame"
    """A call that a contract made while it ran."""
    LOG = "log"
    """A token, by its contract's log."""


@dataclass(frozen=True)
class Deposit:
    """One transfer to a published address."""

    event_id: str
    """64 hex digits; see `calculate_event_id` and `calculate_withdrawal_id`."""
    txid: str | None
    """Transaction hash, 0x and lower-case hex; None for a withdrawal."""
    sender: Address | None
    """Who paid: an account, a contract, or whom a token's log names; None for a withdrawal."""
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


def calculate_withdrawal_id(chain_id: int, withdrawal: Withdrawal) -> str:
    """The identity of a withdrawal (EIP-4895): 64 hex digits likewise."""
    paid = withdrawal
    identity = json.dumps(
        [chain_id, "withdrawal", paid.index, paid.validator_index, paid.address.lower(), paid.amount_gwei],
        separators=(",", ":"),
    )
    return hashlib.sha256(identity.encode()).hexdigest()


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
            from_=None if deposit.sender is None else checksum_address(deposit.sender),
            asset=deposit.asset,
            chain_id=chain_id,
            block_number=said.block_number,
            block_hash=said.block_hash,
            timestamp=said.timestamp,
            confirmations=said.confirmations,
        ),
        source,
    )
