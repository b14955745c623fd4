"""A chain in memory, and the `Node` port over it.

Everything is determined by the calls made: hashes are SHA-256 of what they stand for and of a running number, so two
blocks are never the same one, and the same calls give the same chain. The chain itself is always right; what nodes do
wrong is done by `FakeNode`, by switches that a test may set and clear at any time.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

from wallet_core.addresses import Address, lower_hex
from wallet_core.blocks import Block, Head, Header, Receipt, Transaction
from wallet_core.errors import NodeInconsistent, RpcUnreachable, WrongChain
from wallet_core.ports import Clock

GENESIS_TIMESTAMP = 1_700_000_000
BLOCK_SECONDS = 12
STRANGER = Address(bytes.fromhex("5721a9e7" * 5))
"""Who sends, where a test does not care."""


class FakeChain:
    """The canonical chain and every block that was ever on it."""

    def __init__(self, chain_id: int = 1337) -> None:
        self.chain_id = chain_id
        self.finalized_number: int | None = None
        """The newest finalized block; None while there is none."""
        self._made = 0
        self._blocks: list[Block] = []
        self._failed: set[str] = set()
        self.grown = asyncio.Event()
        """Set at every new block; who waits clears it."""
        self.mine()

    @property
    def blocks(self) -> Sequence[Block]:
        """The canonical chain from the genesis block on."""
        return tuple(self._blocks)

    @property
    def tip(self) -> Header:
        """The newest canonical header."""
        return self._blocks[-1].header

    def transfer(
        self, to: Address | None, amount_wei: int, sender: Address = STRANGER, *, fails: bool = False
    ) -> Transaction:
        """A new transaction, not in any block yet, with its outcome; `to` None creates a contract."""
        recipient = None if to is None else lower_hex(to)
        made = Transaction(
            hash=self._new_hash("transaction"), from_=lower_hex(sender), to=recipient, value=hex(amount_wei)
        )
        if fails:
            self._failed.add(made.hash)
        return made

    def mine(self, *transactions: Transaction) -> Block:
        """Put a block with these transactions on top."""
        number = len(self._blocks)
        parent_hash = self._blocks[-1].header.hash if self._blocks else "0x" + "00" * 32
        header = Header(
            number, self._new_hash(f"block {parent_hash}"), parent_hash, GENESIS_TIMESTAMP + BLOCK_SECONDS * number
        )
        block = Block(header, transactions)
        self._blocks.append(block)
        self.grown.set()
        return block

    def mine_empty(self, count: int) -> None:
        """Put that many blocks without transactions on top."""
        for _ in range(count):
            self.mine()

    def roll_back(self, depth: int) -> Sequence[Block]:
        """Take the newest `depth` blocks off, and return them, oldest first. The genesis block stays."""
        if not 0 <= depth < len(self._blocks):
            raise ValueError(f"a chain of {len(self._blocks)} blocks cannot lose {depth}")
        kept = len(self._blocks) - depth
        gone = self._blocks[kept:]
        del self._blocks[kept:]
        return gone

    def reorganize(self, depth: int, branch: Sequence[Sequence[Transaction]] | None = None) -> Sequence[Block]:
        """Replace the newest `depth` blocks by one for each entry of `branch` (by default as many empty ones).

        Returns the blocks that are gone, oldest first.
        """
        gone = self.roll_back(depth)
        for transactions in [()] * depth if branch is None else branch:
            self.mine(*transactions)
        return gone

    def finalize(self, number: int) -> None:
        """Call the canonical block of this number, and all below it, final."""
        if not 0 <= number < len(self._blocks):
            raise ValueError(f"there is no block {number}")
        self.finalized_number = number

    def receipt(self, transaction_hash: str) -> Receipt | None:
        """The outcome in the canonical chain; None for a transaction that is not in it."""
        for block in reversed(self._blocks):
            if any(each.hash == transaction_hash for each in block.transactions):
                return Receipt(transaction_hash, block.header.hash, succeeded=transaction_hash not in self._failed)
        return None

    def _new_hash(self, subject: str) -> str:
        self._made += 1
        return "0x" + hashlib.sha256(f"{self.chain_id} {self._made} {subject}".encode()).hexdigest()


class FakeNode:
    """`wallet_core.ports.Node` over a `FakeChain`, with the faults that nodes have."""

    def __init__(
        self, chain: FakeChain, clock: Clock, *, with_finalized: bool = False, chain_id: int | None = None
    ) -> None:
        """`chain_id`: what the wallet expects, where it is not the chain's."""
        self.chain = chain
        self._clock = clock
        self._with_finalized = with_finalized
        self._expected_chain_id = chain.chain_id if chain_id is None else chain_id
        self.is_unreachable = False
        """Every question ends with RpcUnreachable."""
        self.lag = 0
        """How many blocks the node is late: it knows none above its own tip."""
        self.null_blocks: set[int] = set()
        """Numbers of blocks that the node has lost, with their receipts."""
        self.null_receipts: set[str] = set()
        """Hashes of transactions whose receipts the node has lost."""
        self.foreign_receipts: dict[str, str] = {}
        """By transaction, the hash of another block that the node believes it to be in."""

    async def head(self) -> Head:
        """See the port."""
        self._answer()
        tip = self.chain.blocks[self._tip_number()].header
        finalized = self.chain.finalized_number if self._with_finalized else None
        if finalized is None:
            return Head(tip, None)
        return Head(tip, self.chain.blocks[min(finalized, tip.number)].header)

    async def header(self, number: int) -> Header:
        """See the port."""
        return (await self.block(number)).header

    async def block(self, number: int) -> Block:
        """See the port."""
        self._answer()
        if number in self.null_blocks or number > self._tip_number():
            raise NodeInconsistent(f"the node does not have block {number}")
        return self.chain.blocks[number]

    async def receipt(self, transaction_hash: str, block_hash: str) -> Receipt:
        """See the port."""
        self._answer()
        found = self.chain.receipt(transaction_hash)
        if found is None or transaction_hash in self.null_receipts or not self._knows(found.block_hash):
            raise NodeInconsistent(f"the node does not have a receipt of transaction {transaction_hash}")
        in_block = self.foreign_receipts.get(transaction_hash, found.block_hash)
        if in_block != block_hash:
            raise NodeInconsistent(f"transaction {transaction_hash} is in block {in_block}, not in {block_hash}")
        return found

    async def wait_for_head(self, timeout_seconds: float) -> None:
        """See the port."""
        waits = [
            asyncio.ensure_future(self.chain.grown.wait()),
            asyncio.ensure_future(self._clock.sleep(timeout_seconds)),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self.chain.grown.clear()

    def _answer(self) -> None:
        if self.is_unreachable:
            raise RpcUnreachable("endpoint 1 (http://fake:8545): no connection")
        if self.chain.chain_id != self._expected_chain_id:
            found, expected = self.chain.chain_id, self._expected_chain_id
            raise WrongChain(f"endpoint 1 (http://fake:8545): is of chain {found}, not of chain {expected}")

    def _tip_number(self) -> int:
        return max(0, self.chain.tip.number - self.lag)

    def _knows(self, block_hash: str) -> bool:
        known = self.chain.blocks[: self._tip_number() + 1]
        return any(each.header.hash == block_hash and each.header.number not in self.null_blocks for each in known)
