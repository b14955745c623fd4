"""What really happened on the chain: every block that ever was, and what each of its transactions moved.

The checker's half of the truth. It is written by whoever makes transactions and blocks, not read from a node or from
the wallet's own decoding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wallet_core.addresses import Address, lower_hex
from wallet_core.blocks import Block
from wallet_core.testing.fake_chain import FakeChain

DEPTH_KNOWN_MAX = 24
"""How deep below a new block its ancestors' depth is still counted; more than any simulated wallet asks for."""


@dataclass(frozen=True)
class Movement:
    """Value that came to an address, if the block that holds it stays."""

    txid: str | None
    symbol: str
    sender: str | None
    recipient: str
    amount: int

    @classmethod
    def of_ether(cls, txid: str, sender: Address, recipient: Address, amount_wei: int) -> Movement:
        """A transaction's own value."""
        return cls(txid, "ETH", lower_hex(sender), lower_hex(recipient), amount_wei)


Placed = tuple[Movement, str]
"""A movement, and its place in its transaction: among its logs, or among its frames that move ether."""


class History:
    """See the module."""

    def __init__(self, chain: FakeChain) -> None:
        self.chain = chain
        self.blocks: dict[str, Block] = {}
        self.published_then: dict[str, int] = {}
        """How many addresses had been published when a block was made, by its hash."""
        self.movements: dict[str, tuple[Movement, ...]] = {}
        """By block hash."""
        self.hashes_at: dict[int, set[str]] = {}
        """Every block that ever had a number."""
        self.finalized: set[str] = set()
        """Every block that was ever called final."""
        self.lies: set[str] = set()
        """Every block that was only ever on a branch which one node made up."""
        self.places: dict[Movement, set[str]] = {}
        """Where in its transaction a movement ever was: it has as many identities."""
        self.tip_max = 0
        self._moved: dict[str, Sequence[Placed]] = {}
        self._best: dict[str, int] = {}

    def moves(self, txid: str, movements: Sequence[Placed]) -> None:
        """What a transaction moves in whichever block it is."""
        self._moved[txid] = movements

    def made(
        self,
        block: Block,
        published: int,
        minted: Sequence[Movement] = (),
        moved: Mapping[str, Sequence[Placed]] | None = None,
        *,
        is_lie: bool = False,
    ) -> None:
        """Remember a new block.

        `minted`: what it moves without a transaction; `moved`: what transactions, by their hash, move in this block
        only.
        """
        header = block.header
        placed = [each for tx in block.transactions for each in (moved or {}).get(tx.hash, self._moved[tx.hash])]
        for movement, place in (*placed, *((each, "minted") for each in minted)):
            self.places.setdefault(movement, set()).add(place)
        self.blocks[header.hash] = block
        self.published_then[header.hash] = published
        self.movements[header.hash] = (*(movement for movement, _ in placed), *minted)
        self.hashes_at.setdefault(header.number, set()).add(header.hash)
        self.tip_max = max(self.tip_max, header.number)
        self._count_depth(header.hash, header.number)
        if is_lie:
            self.lies.add(header.hash)

    def finalize(self, number: int) -> None:
        """Call a canonical block final."""
        self.chain.finalize(number)
        at = self.chain.blocks[number].header
        while at.hash not in self.finalized:
            self.finalized.add(at.hash)
            if at.number == 0:
                break
            at = self.blocks[at.parent_hash].header

    def depth_ever(self, block_hash: str) -> int:
        """The greatest depth that a block ever had on any branch."""
        return self._best[block_hash] - self.blocks[block_hash].header.number + 1

    def descends(self, block_hash: str, ancestor_hash: str) -> bool:
        """Whether a block is the other, or a descendant of it."""
        ancestor = self.blocks[ancestor_hash].header
        at = self.blocks[block_hash].header
        while at.number > ancestor.number:
            at = self.blocks[at.parent_hash].header
        return at.hash == ancestor_hash

    def common_number(self, block_hash: str) -> int:
        """Number of the newest canonical block that a block descends from, or is."""
        at = self.blocks[block_hash].header
        while self.chain.canonical(at.hash) is None:
            at = self.blocks[at.parent_hash].header
        return at.number

    def was_contested(self, block_hash: str) -> bool:
        """Whether a block, or one below it, ever had a rival of its own number."""
        at = self.blocks[block_hash].header
        while len(self.hashes_at[at.number]) == 1 and at.number > 0:
            at = self.blocks[at.parent_hash].header
        return len(self.hashes_at[at.number]) > 1

    def _count_depth(self, block_hash: str, number: int) -> None:
        self._best[block_hash] = number
        at = self.blocks[block_hash].header
        while at.number > 0 and number - at.number < DEPTH_KNOWN_MAX:
            at = self.blocks[at.parent_hash].header
            if self._best[at.hash] >= number:
                break
            self._best[at.hash] = number
