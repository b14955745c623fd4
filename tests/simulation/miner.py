"""The chain's own life: blocks, forks, finality, and the branch that one node makes up.

The miner puts payments into blocks, leaves some waiting, takes blocks back and gives their transactions another place,
another outcome, or none. Forks are as deep as the wallet's terms allow, but for those below its window, of which there
are few: after them a person must send a rewind.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence

from simulation.history import Placed
from simulation.payments import Payments
from simulation.promises import Promises
from simulation.trace import What
from simulation.wallet import World
from wallet_core.blocks import Block, Transaction, Withdrawal
from wallet_core.testing.fake_chain import FakeChain, Outcome

HUGE_BLOCK_TRANSACTIONS = 120
BURST_BLOCKS = (10, 90, 220, 300)
"""Up to more than the wallet catches up with by itself."""
BURSTS_MAX = 2
FORKS_BELOW_MAX = 2


class Miner:
    """See the module."""

    def __init__(self, world: World, payments: Payments, promises: Promises) -> None:
        self._world = world
        self._choice = random.Random(world.choice.random())
        self._history = world.history
        self._payments = payments
        self._promises = promises
        self.waiting: list[Transaction] = []
        self._outcomes: dict[str, Outcome] = {}
        # What a transaction of several possible outcomes did the last time.
        self._fork_rate = self._choice.choice((0.0, 0.1, 0.3, 0.5))
        self._fork_below_rate = self._choice.choice((0.0, 0.0, 0.0, 0.05))
        self._forks_below = 0
        self._bursts = 0
        self._block_seconds = self._choice.choice((0.3, 1.0, 3.0))
        self.fork_depth_max = world.resource.spec.chain.settle_depth - 1
        self._private: FakeChain | None = None
        self.on_blocks: Callable[[], None] = lambda: None
        self.is_down: Callable[[], bool] = lambda: True
        """Whether no leader runs."""

    async def mine(self) -> None:
        """Make and take back blocks, for ever."""
        while True:
            await asyncio.sleep(self._choice.expovariate(1 / self._block_seconds))
            if self._choice.random() < self._fork_below_rate:
                self.fork_below()
            elif self._choice.random() < self._fork_rate:
                self.fork()
            elif self._bursts < BURSTS_MAX and self._choice.random() < 0.02:
                self._burst()
            else:
                self.make_block()

    def make_block(self) -> None:
        """One block on top, with some of what waits."""
        choice = self._choice
        choice.shuffle(self.waiting)
        taken = self.waiting[: choice.choice((0, 1, 3, 10))]
        del self.waiting[: len(taken)]
        if choice.random() < 0.02:
            taken += [self._payments.stranger() for _ in range(HUGE_BLOCK_TRANSACTIONS)]
            choice.shuffle(taken)
            self._world.trace.happened(What.BLOCK_HUGE)
        withdrawals = [self._payments.withdrawal() for _ in range(choice.choice((0, 0, 0, 1, 3)))]
        self._mine(taken, withdrawals)

    def fork(self) -> None:
        """Take blocks back, as deep as the wallet's terms allow, and mostly put others in their place."""
        choice, chain = self._choice, self._world.chain
        settled_ever = self._history.tip_max - self.fork_depth_max
        if chain.finalized_number is not None:
            settled_ever = max(settled_ever, chain.finalized_number)
        depth_max = min(chain.tip.number - settled_ever, chain.tip.number)
        if depth_max < 1:
            return
        depth = choice.randint(1, depth_max)
        self._world.trace.happened(What.FORK, f"takes back {depth} blocks")
        self._reorganize(depth, max(0, depth + choice.choice((-2, -1, 0, 0, 1, 1, 2))))

    def fork_below(self) -> None:
        """Take back what the wallet holds for settled. The new branch is longer, as one that wins is."""
        choice, chain, steps = self._choice, self._world.chain, self._promises.steps
        if self._forks_below == FORKS_BELOW_MAX or steps.before is None or steps.open_orders("rewind"):
            return  # a rewind under way was sent for the chain as it is
        base = steps.before.base
        if base[0] == 0 or chain.canonical(base[1]) is None or chain.tip.number - base[0] > 100:
            return
        self._forks_below += 1
        ancestor = choice.randint(max(0, base[0] - choice.choice((1, 3, 15))), base[0] - 1)
        if chain.finalized_number is not None:
            chain.finalized_number = min(chain.finalized_number, ancestor)
        self._world.trace.happened(What.FORK_BELOW, f"down to {ancestor}, below {base[0]}")
        depth = chain.tip.number - ancestor
        self._reorganize(depth, depth + choice.randint(1, 3))

    def finalize(self) -> None:
        """Let the newest final block be one that is deep enough to stay."""
        chain = self._world.chain
        number = self._history.tip_max - self._choice.randint(3, 10)
        if number > (chain.finalized_number or 0) and number <= chain.tip.number:
            self._history.finalize(number)

    # --- the branch of one node ---------------------------------------------------------------------------------------

    def begin_private_branch(self) -> FakeChain:
        """A branch that grows with the chain, on which the users' payments are too, and that nobody else has."""
        chain = self._world.chain
        lowest = max(self._history.tip_max - self.fork_depth_max, chain.finalized_number or 0)
        depth = self._choice.randint(0, max(0, min(chain.tip.number - lowest, chain.tip.number)))
        self._private = private = chain.branch(depth)
        for block in private.blocks[len(private.blocks) - depth :]:
            self._history.made(block, len(self._promises.published), is_lie=True)
        return private

    def end_private_branch(self) -> None:
        """It grows no more."""
        self._private = None

    # --- the parts ----------------------------------------------------------------------------------------------------

    def _burst(self) -> None:
        self._bursts += 1
        for _ in range(self._choice.choice(BURST_BLOCKS)):
            if self._choice.random() < 0.1:
                self.waiting.append(self._payments.make())
            self.make_block()

    def _reorganize(self, depth: int, length: int) -> None:
        choice = self._choice
        if self.is_down():
            self._world.trace.happened(What.FORK_WHILE_DOWN)
        gone = self._world.chain.roll_back(depth)
        orphans = [transaction for block in gone for transaction in block.transactions]
        choice.shuffle(orphans)
        stay = [orphan for orphan in orphans if choice.random() < 0.8]
        later = [orphan for orphan in stay if choice.random() < 0.3]
        again = [orphan for orphan in stay if orphan not in later]
        self.waiting += later
        withdrawn = [withdrawal for block in gone for withdrawal in block.withdrawals]
        for left in range(length, 0, -1):
            taken = again if left == 1 else again[: choice.randint(0, len(again))]
            again = [orphan for orphan in again if orphan not in taken]
            self._mine(list(taken), withdrawn if left == 1 else ())
        self.waiting += again
        self.on_blocks()

    def _mine(self, transactions: list[Transaction], withdrawals: Sequence[Withdrawal] = ()) -> Block:
        chain = self._world.chain
        self._promises.look()
        outcomes, moved = self._choose_outcomes(transactions)
        block = chain.mine(*transactions, withdrawals=withdrawals, outcomes=outcomes)
        minted = [self._payments.minted[withdrawal] for withdrawal in withdrawals]
        self._history.made(block, len(self._promises.published), minted, moved)
        self._world.trace.add(f"chain: block {block.header.number} {block.header.hash[:10]} of {len(transactions)}")
        if not transactions and not withdrawals:
            self._world.trace.counts[What.BLOCK_EMPTY] += 1
        if self._choice.random() < 0.5:
            self.finalize()
        if self._private is not None and self._choice.random() < 0.7:
            lie = self._private.mine(*transactions, outcomes=outcomes)
            self._history.made(lie, len(self._promises.published), (), moved, is_lie=True)
        self.on_blocks()
        return block

    def _choose_outcomes(
        self, transactions: Sequence[Transaction]
    ) -> tuple[Mapping[str, Outcome], Mapping[str, Sequence[Placed]]]:
        outcomes: dict[str, Outcome] = {}
        moved: dict[str, Sequence[Placed]] = {}
        for name in (each.hash for each in transactions if each.hash in self._payments.alternatives):
            outcomes[name], moved[name] = self._choice.choice(self._payments.alternatives[name])
            if self._outcomes.setdefault(name, outcomes[name]) != outcomes[name]:
                self._world.trace.happened(What.OTHER_OUTCOME, name[:10])
            self._outcomes[name] = outcomes[name]
        return outcomes, moved
