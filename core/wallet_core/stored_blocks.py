"""A block with its deposits as bytes: in `state.sync`, and in what a scanner hands to the sequencer.

One codec for both, so that a deposit which is checked, stored or passed on is always the whole deposit. Addresses are
written as EIP-55 text, whose checksum is tested on the way back; amounts are decimal strings, for JSON readers lose
integers above 2^53.

A broker takes no record above 1 MiB, so a block full of deposits is written to `state.sync` in several parts. Each
part says how many deposits the whole block has: a part that got lost is noticed, and is never "no deposits".
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from wallet_core.addresses import checksum_address, parse_address
from wallet_core.amounts import BaseUnits
from wallet_core.chain import WindowBlock
from wallet_core.deposits import Deposit
from wallet_core.messages import TransactionAsset

DEPOSITS_PER_RECORD_MAX = 1_000
"""About 400 KB of a record's 1 MiB."""


class StoredAsset(msgspec.Struct):
    """An asset as it is written."""

    symbol: str
    contract: str | None
    decimals: int


class StoredDeposit(msgspec.Struct, rename={"sender": "from", "recipient": "to"}):
    """A deposit as it is written."""

    event_id: str
    txid: str | None
    sender: str | None
    recipient: str
    amount: str
    asset: StoredAsset


class StoredBlock(msgspec.Struct):
    """A block, or a part of one, as it is written."""

    number: int
    hash: str
    parent_hash: str
    timestamp: int
    confirmed: bool
    deposit_count: int
    """Of the whole block, over all its parts."""
    deposits: list[StoredDeposit]


def stored_block(block: WindowBlock) -> StoredBlock:
    """The whole block, ready for msgspec."""
    return _stored(block, block.deposits)


def stored_parts(block: WindowBlock) -> list[StoredBlock]:
    """The block in parts of at most DEPOSITS_PER_RECORD_MAX deposits, ready for msgspec; `count_parts` of them."""
    starts = range(0, count_parts(block) * DEPOSITS_PER_RECORD_MAX, DEPOSITS_PER_RECORD_MAX)
    return [_stored(block, block.deposits[start : start + DEPOSITS_PER_RECORD_MAX]) for start in starts]


def count_parts(block: WindowBlock) -> int:
    """In how many parts the block is written: at least one."""
    return max(-(-len(block.deposits) // DEPOSITS_PER_RECORD_MAX), 1)


def window_block(first: StoredBlock, *others: StoredBlock) -> WindowBlock:
    """The block of its parts again. Raises ValueError where they are not all, or an address or an amount is none."""
    deposits = [deposit for part in (first, *others) for deposit in part.deposits]
    if any(_block_of(part) != _block_of(first) for part in others):
        raise ValueError(f"the parts of block {first.number} are of different blocks")
    if len(deposits) != first.deposit_count:
        raise ValueError(f"block {first.number} has {len(deposits)} deposits instead of {first.deposit_count}")
    return WindowBlock(
        first.number,
        first.hash,
        first.parent_hash,
        first.timestamp,
        tuple(_deposit(each) for each in deposits),
        first.confirmed,
    )


def _block_of(part: StoredBlock) -> tuple[int, str, str, int, bool, int]:
    return part.number, part.hash, part.parent_hash, part.timestamp, part.confirmed, part.deposit_count


def _stored(block: WindowBlock, deposits: Sequence[Deposit]) -> StoredBlock:
    return StoredBlock(
        block.number,
        block.hash,
        block.parent_hash,
        block.timestamp,
        block.confirmed,
        len(block.deposits),
        [
            StoredDeposit(
                deposit.event_id,
                deposit.txid,
                None if deposit.sender is None else checksum_address(deposit.sender),
                checksum_address(deposit.recipient),
                str(deposit.amount),
                StoredAsset(deposit.asset.symbol, deposit.asset.contract, deposit.asset.decimals),
            )
            for deposit in deposits
        ],
    )


def _deposit(stored: StoredDeposit) -> Deposit:
    return Deposit(
        stored.event_id,
        stored.txid,
        None if stored.sender is None else parse_address(stored.sender),
        parse_address(stored.recipient),
        BaseUnits(int(stored.amount)),
        TransactionAsset(symbol=stored.asset.symbol, contract=stored.asset.contract, decimals=stored.asset.decimals),
    )
