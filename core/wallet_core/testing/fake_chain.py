"""A chain in memory, and the `Node` port over it.

Everything is determined by the calls made: hashes are SHA-256 of what they stand for and of a running number, so two
blocks are never the same one, and the same calls give the same chain. The chain itself is always right; what nodes do
wrong is done by `FakeNode`, by switches that a test may set and clear at any time.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from wallet_core.addresses import Address, lower_hex
from wallet_core.blocks import Block, Frame, FrameKind, Head, Header, Log, Receipt, Transaction, Withdrawal
from wallet_core.bloom import bloom_of
from wallet_core.errors import NodeInconsistent, RpcUnreachable, Unavailable, WrongChain
from wallet_core.ports import Clock
from wallet_core.tokens import TRANSFER_TOPIC

GENESIS_TIMESTAMP = 1_700_000_000
BLOCK_SECONDS = 12
LogContent = tuple[Address, tuple[str, ...], str]
"""What a contract logs: the contract, the topics, the data."""
STRANGER = Address(bytes.fromhex("5721a9e7" * 5))
"""Who sends, where a test does not care."""


@dataclass(frozen=True)
class Outcome:
    """What a transaction does, in one block or in whichever it is."""

    fails: bool = False
    logs: Sequence[LogContent] = ()
    """See `transfer_log`. None of them where it fails."""
    calls: Sequence[Frame] = ()
    """Its frames in pre-order below its own."""


class FakeChain:
    """The canonical chain and every block that was ever on it."""

    def __init__(self, chain_id: int = 1337, name: str = "") -> None:
        """Chains of one id and different names differ from the genesis block on."""
        self.chain_id = chain_id
        self._name = name
        self.finalized_number: int | None = None
        """The newest finalized block; None while there is none."""
        self._made = 0
        self._blocks: list[Block] = []
        self._outcomes: dict[str, Outcome] = {}
        self._outcomes_in: dict[tuple[str, str], Outcome] = {}
        # By block and transaction, where it is another than elsewhere.
        self._numbers: dict[str, int] = {}
        # Of every block that ever was, by its hash.
        self._mined_in: dict[str, list[str]] = {}
        # By transaction, the blocks that ever held it.
        self._withdrawals_made = 0
        self.announced = 0
        """How many blocks were ever put on top."""
        self.grown = asyncio.Event()
        """Set at the next new block, which leaves a new one here."""
        self.mine()

    @property
    def blocks(self) -> Sequence[Block]:
        """The canonical chain from the genesis block on."""
        return tuple(self._blocks)

    @property
    def tip(self) -> Header:
        """The newest canonical header."""
        return self._blocks[-1].header

    def snapshot(self) -> FakeChain:
        """The chain as it is now, for a node that hears of nothing new."""
        snapshot = copy.copy(self)
        snapshot._blocks = list(self._blocks)
        snapshot.grown = asyncio.Event()
        return snapshot

    def branch(self, depth: int) -> FakeChain:
        """Another chain, as long, that left this one `depth` blocks below the tip: what a node on a fork has."""
        branch = self.snapshot()
        branch._name += f" branch at {self.tip.number - depth}"
        branch.reorganize(depth)
        return branch

    def transfer(
        self,
        to: Address | None,
        amount_wei: int,
        sender: Address = STRANGER,
        *,
        fails: bool = False,
        logs: Sequence[LogContent] = (),
        calls: Sequence[Frame] = (),
    ) -> Transaction:
        """A new transaction, not in any block yet, with its outcome; `to` None creates a contract.

        `logs` (see `transfer_log`) are what it logs unless it fails, `calls` its frames in pre-order below its own.
        """
        recipient = None if to is None else lower_hex(to)
        made = Transaction(
            hash=self._new_hash("transaction"), from_=lower_hex(sender), to=recipient, value=hex(amount_wei)
        )
        self._outcomes[made.hash] = Outcome(fails, logs, calls)
        return made

    def withdrawal(self, to: Address, amount_gwei: int, validator_index: int = 1) -> Withdrawal:
        """A payment from the beacon chain, not in any block yet."""
        self._withdrawals_made += 1
        return Withdrawal(self._withdrawals_made, validator_index, lower_hex(to), amount_gwei)

    def mine(
        self,
        *transactions: Transaction,
        withdrawals: Sequence[Withdrawal] = (),
        outcomes: Mapping[str, Outcome] | None = None,
    ) -> Block:
        """Put a block with these transactions and withdrawals on top.

        `outcomes`: what transactions, by their hash, do in this block, where that is not what they do elsewhere.
        """
        number = len(self._blocks)
        parent_hash = self._blocks[-1].header.hash if self._blocks else "0x" + "00" * 32
        block_hash = self._new_hash(f"block {parent_hash}")
        self._numbers[block_hash] = number
        self._outcomes_in |= {(block_hash, each): outcome for each, outcome in (outcomes or {}).items()}
        for transaction in transactions:
            self._mined_in.setdefault(transaction.hash, []).append(block_hash)
        logs = self._logs_of(block_hash, transactions)
        timestamp = GENESIS_TIMESTAMP + BLOCK_SECONDS * number
        header = Header(number, block_hash, parent_hash, timestamp, bloom_of(logs))
        block = Block(header, transactions, tuple(withdrawals))
        self._blocks.append(block)
        self.announced += 1
        self.grown.set()
        self.grown = asyncio.Event()
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

    def canonical(self, block_hash: str) -> Block | None:
        """The block of this hash, if it is in the canonical chain."""
        number = self._numbers.get(block_hash, len(self._blocks))
        found = self._blocks[number] if number < len(self._blocks) else None
        return found if found is not None and found.header.hash == block_hash else None

    def receipt(self, transaction_hash: str) -> Receipt | None:
        """The outcome in the canonical chain; None for a transaction that is not in it."""
        holding = map(self.canonical, self._mined_in.get(transaction_hash, ()))
        block = next((block for block in holding if block is not None), None)
        if block is None:
            return None
        transaction = next(each for each in block.transactions if each.hash == transaction_hash)
        return Receipt(
            transaction_hash,
            block.header.hash,
            succeeded=not self._outcome(transaction_hash, block.header.hash).fails,
            logs=tuple(log for log in self.logs(block) if log.transaction_hash == transaction_hash),
            contract_address=created_by(transaction) if transaction.to is None else None,
        )

    def logs(self, block: Block) -> Sequence[Log]:
        """Everything that was logged in a block."""
        return self._logs_of(block.header.hash, block.transactions)

    def frames(self, transaction: Transaction, block: Block) -> Sequence[Frame]:
        """A transaction's call frames in that block, its own first."""
        kind, to = (
            (FrameKind.CREATE, created_by(transaction)) if transaction.to is None else (FrameKind.CALL, transaction.to)
        )
        outcome = self._outcome(transaction.hash, block.header.hash)
        top = Frame(kind, 0, transaction.from_, to, int(transaction.value, 16), outcome.fails)
        return (top, *outcome.calls)

    def _outcome(self, transaction_hash: str, block_hash: str) -> Outcome:
        return self._outcomes_in.get((block_hash, transaction_hash)) or self._outcomes[transaction_hash]

    def _logs_of(self, block_hash: str, transactions: Sequence[Transaction]) -> Sequence[Log]:
        outcomes = ((each.hash, self._outcome(each.hash, block_hash)) for each in transactions)
        contents = [(name, content) for name, outcome in outcomes if not outcome.fails for content in outcome.logs]
        return [
            Log(lower_hex(contract), topics, data, block_hash, transaction_hash, index)
            for index, (transaction_hash, (contract, topics, data)) in enumerate(contents)
        ]

    def block_at(self, number: int) -> Block:
        """The canonical block of this number."""
        return self._blocks[number]

    def _new_hash(self, subject: str) -> str:
        self._made += 1
        return "0x" + hashlib.sha256(f"{self.chain_id}{self._name} {self._made} {subject}".encode()).hexdigest()


def created_by(transaction: Transaction) -> str:
    """The address of the contract that a transaction creates."""
    return "0x" + hashlib.sha256(f"contract {transaction.hash}".encode()).hexdigest()[:40]


def transfer_log(contract: Address, to: Address, amount: int, sender: Address = STRANGER) -> LogContent:
    """What an ERC-20 contract logs of a transfer."""
    return contract, (TRANSFER_TOPIC, "0x" + sender.hex().zfill(64), "0x" + to.hex().zfill(64)), f"0x{amount:064x}"


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
        self.stray_logs: list[Log] = []
        """What the node adds to the logs of any block: never the right ones."""
        self.has_traces = True
        self.untraceable: set[int] = set()
        """Numbers of blocks whose state the node has no more."""
        self.untraceable_transactions: set[str] = set()
        """Hashes of transactions whose traces are too large."""
        self.lost_traces: set[str] = set()
        """Hashes of transactions that the node leaves out of its traces."""
        self.stuck_at: int | None = None
        """The number of the block beyond which the node has not come; None: it goes on."""
        self.finalized_lag = 0
        """How many blocks the finalized block is behind the chain's; a larger one than before makes it go back."""
        self.seconds_ahead = 0
        """What the node adds to the timestamp of its tip."""
        self.quorum = 1
        """How many nodes, this one and `others`, must agree on a block that may settle."""
        self.others: list[FakeNode] = []
        """Further endpoints, asked by `agreed_header` only."""
        self._genesis_hash: str | None = None

    async def head(self) -> Head:
        """See the port."""
        self._answer()
        tip = self.chain.block_at(self._tip_number()).header
        finalized = self.chain.finalized_number if self._with_finalized else None
        said = msgspec.structs.replace(tip, timestamp=tip.timestamp + self.seconds_ahead)
        if finalized is None:
            return Head(said, None)
        return Head(said, self.chain.block_at(max(min(finalized - self.finalized_lag, tip.number), 0)).header)

    def expect_genesis(self, genesis_hash: str) -> None:
        """See the port."""
        for node in (self, *self.others):
            node._genesis_hash = genesis_hash

    @property
    def knows_genesis(self) -> bool:
        """Whether it was told which genesis block is the right one."""
        return self._genesis_hash is not None

    async def header(self, number: int) -> Header:
        """See the port."""
        return (await self.block(number)).header

    async def agreed_header(
        self,
        number: int,
        *,
        may_settle: bool = True,  # noqa: ARG002 - of the port; here nobody is put aside
    ) -> Header:
        """See the port."""
        if self.quorum == 1:
            return await self.header(number)
        answers: list[Header] = []
        faults: list[str] = []
        for place, node in enumerate((self, *self.others), start=1):
            try:
                answers.append(await node.header(number))
            except Unavailable as error:
                faults.append(f"endpoint {place}: {error}")
        hashes = [answer.hash for answer in answers]
        agreed = next((answer for answer in answers if hashes.count(answer.hash) >= self.quorum), None)
        if agreed is not None:
            return agreed
        if len(set(hashes)) > 1:
            raise NodeInconsistent(f"the endpoints disagree on block {number}: {', '.join(hashes)}")
        raise RpcUnreachable(f"{len(answers)} of {self.quorum} endpoints answered: {'; '.join(faults)}")

    async def block(self, number: int) -> Block:
        """See the port."""
        self._answer()
        if number in self.null_blocks or number > self._tip_number():
            raise NodeInconsistent(f"the node does not have block {number}")
        return self.chain.block_at(number)

    async def receipt(self, transaction_hash: str, block_hash: str) -> Receipt:
        """See the port."""
        self._answer()
        found = self.chain.receipt(transaction_hash)
        if found is None or transaction_hash in self.null_receipts or self._known(found.block_hash) is None:
            raise NodeInconsistent(f"the node does not have a receipt of transaction {transaction_hash}")
        in_block = self.foreign_receipts.get(transaction_hash, found.block_hash)
        if in_block != block_hash:
            raise NodeInconsistent(f"transaction {transaction_hash} is in block {in_block}, not in {block_hash}")
        return found

    async def logs(self, block: Header, contracts: Collection[str], topic: str) -> Sequence[Log]:
        """See the port."""
        found = [
            log
            for log in self.chain.logs(self._known_block(block.hash))
            if log.address in contracts and log.topics[:1] == (topic,)
        ]
        if self.stray_logs:
            raise NodeInconsistent(f"among the logs of block {block.number} is one that was not asked for")
        return found

    async def frames(self, block: Block) -> Mapping[str, Sequence[Frame] | None] | None:
        """See the port."""
        known = self._known_block(block.header.hash)
        if not self.has_traces or known.header.number in self.untraceable:
            return None
        if self.lost_traces & {each.hash for each in known.transactions}:
            raise NodeInconsistent(f"the traces of block {block.header.number} leave out transactions")
        return {
            each.hash: None if each.hash in self.untraceable_transactions else self.chain.frames(each, known)
            for each in known.transactions
        }

    def _known_block(self, block_hash: str) -> Block:
        self._answer()
        known = self._known(block_hash)
        if known is None:
            raise NodeInconsistent(f"the node does not have block {block_hash}")
        return known

    async def wait_for_head(self, timeout_seconds: float, seen: int) -> int:
        """See the port."""
        if self.chain.announced > seen:
            return self.chain.announced
        waits = [
            asyncio.ensure_future(self.chain.grown.wait()),
            asyncio.ensure_future(self._clock.sleep(timeout_seconds)),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return self.chain.announced

    def _answer(self) -> None:
        if self.is_unreachable:
            raise RpcUnreachable("endpoint 1 (http://fake:8545): no connection")
        if self.chain.chain_id != self._expected_chain_id:
            found, expected = self.chain.chain_id, self._expected_chain_id
            raise WrongChain(f"endpoint 1 (http://fake:8545): is of chain {found}, not of chain {expected}")
        genesis = self.chain.block_at(0).header.hash
        if self._genesis_hash not in (None, genesis):
            raise WrongChain(f"endpoint 1 (http://fake:8545): its block 0 is {genesis}, not {self._genesis_hash}")

    def _tip_number(self) -> int:
        newest = self.chain.tip.number if self.stuck_at is None else min(self.stuck_at, self.chain.tip.number)
        return max(0, newest - self.lag)

    def _known(self, block_hash: str) -> Block | None:
        found = self.chain.canonical(block_hash)
        if found is None or found.header.number > self._tip_number() or found.header.number in self.null_blocks:
            return None
        return found
