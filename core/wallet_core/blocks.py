"""What a node says of the chain, as far as the wallet reads it.

The shapes are those of Ethereum's JSON-RPC (execution-apis). Hashes and addresses stay the lower-case hex strings of
the wire, and a transaction's amount stays a hex quantity: of the hundreds of transactions in a block almost none is
ours, and only those are worth converting.

Call frames are the exception: nodes write them in two ways, so they come here in one form of our own, a transaction's
frames in pre-order (a call before those that it makes), each with its depth. A list, and no tree: the EVM allows calls
1,024 deep, which anybody can put into a block, and no walk through a list runs out of stack.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

FULL_BLOOM = "0x" + "ff" * 256
"""A logs bloom that excludes nothing: what stands for one that nobody gave."""


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
    logs_bloom: str = FULL_BLOOM
    """Which contracts and topics the block's logs may have (see `bloom`): 0x and 512 hex digits."""


class Withdrawal(msgspec.Struct, frozen=True, gc=False):
    """ETH that the beacon chain pays out in a block, by no transaction (EIP-4895)."""

    index: int
    """Its running number over the whole chain."""
    validator_index: int
    """Whose balance it was on the beacon chain."""
    address: str
    """Who is paid, 0x and 40 lower-case hex digits."""
    amount_gwei: int
    """10 ** 9 wei each."""


class Block(msgspec.Struct, frozen=True, gc=False):
    """A header with its transactions and withdrawals, each in the block's order."""

    header: Header
    transactions: tuple[Transaction, ...] = ()
    withdrawals: tuple[Withdrawal, ...] = ()


class Log(msgspec.Struct, frozen=True, gc=False):
    """What a contract wrote while a transaction ran."""

    address: str
    """The contract, 0x and 40 lower-case hex digits."""
    topics: tuple[str, ...]
    """At most four words of 32 bytes, 0x and 64 lower-case hex digits each; the first names the kind of event."""
    data: str
    """0x and an even number of lower-case hex digits."""
    block_hash: str
    transaction_hash: str
    index: int
    """Its place among the logs of the block. It finds a log again in its receipt; identity it has none, for it changes
    when the block does."""


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """The outcome of one transaction in one block."""

    transaction_hash: str
    block_hash: str
    """The block that the outcome belongs to; after a fork the same transaction may have another."""
    succeeded: bool
    """EIP-658's status is 1."""
    logs: tuple[Log, ...] = ()
    """Everything that the transaction logged, in its own order; nothing where it failed."""
    contract_address: str | None = None
    """The contract that the transaction created; None where it has a recipient."""


class FrameKind(StrEnum):
    """How the EVM came to run some code, or to move some ETH."""

    CALL = "CALL"
    CREATE = "CREATE"
    """CREATE2 too: the two differ in the new contract's address only, and not every node tells them apart."""
    SELFDESTRUCT = "SELFDESTRUCT"
    """The contract's whole balance goes to the recipient."""
    DELEGATECALL = "DELEGATECALL"
    """Another's code runs in the caller's place; moves nothing, whatever value a node shows."""
    CALLCODE = "CALLCODE"
    """Likewise."""
    STATICCALL = "STATICCALL"
    """Can change nothing at all."""


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One call frame of a transaction."""

    kind: FrameKind
    depth: int
    """0 for the transaction's own call; the frame that made this one is the nearest before it with `depth - 1`."""
    sender: str
    """Who calls, creates or destroys itself: 0x and 40 lower-case hex digits."""
    recipient: str | None
    """Who is called, created or paid, likewise; None for a contract that did not come into being."""
    value_wei: int
    failed: bool
    """Whether this frame itself ended in failure, which undoes it and all below it."""


class Head(msgspec.Struct, frozen=True, gc=False):
    """The tip of a node's canonical chain at one moment."""

    tip: Header
    finalized: Header | None
    """The newest finalized block; None where it was not asked for, or the node has none yet."""
