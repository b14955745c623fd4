"""What a node says of the chain, as far as the wallet reads it.

The shapes are those of Ethereum's JSON-RPC (execution-apis). Hashes and addresses stay the lower-case hex strings of
the wire, and a transaction's amount stays a hex quantity: of the hundreds of transactions in a block almost none is
ours, and only those are worth converting.
"""

from __future__ import annotations

import msgspec


class Transaction(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One transaction of a block, as `eth_getBlockByNumber(…, true)` gives it."""

    hash: str
    """Transaction hash, 0x and 64 lower-case hex digits."""
    from_: str = msgspec.field(name="from")
    """Sender, 0x and 40 lower-case hex digits."""
    to: str | None = None
    """Recipient, or None where the transaction creates a contract."""
    value: str
    """Amount in wei, a hex quantity."""


class Header(msgspec.Struct, frozen=True, gc=False):
    """What identifies a block and links it to its parent."""

    number: int
    """Height; the genesis block is 0."""
    hash: str
    """Block hash, 0x and 64 lower-case hex digits."""
    parent_hash: str
    """Hash of block `number - 1`."""
    timestamp: int
    """Seconds since the Unix epoch, by the block's producer."""


class Block(msgspec.Struct, frozen=True, gc=False):
    """A header with its transactions, in the block's order."""

    header: Header
    transactions: tuple[Transaction, ...] = ()


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """The outcome of one transaction in one block."""

    transaction_hash: str
    block_hash: str
    """The block that the outcome belongs to; after a fork the same transaction may have another."""
    succeeded: bool
    """EIP-658's status is 1."""


class Head(msgspec.Struct, frozen=True, gc=False):
    """The tip of a node's canonical chain at one moment."""

    tip: Header
    finalized: Header | None
    """The newest finalized block; None where it was not asked for, or the node has none yet."""
