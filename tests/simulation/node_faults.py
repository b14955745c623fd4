"""What nodes do wrong for a while: late, away, forgetful, stuck on a branch, of another chain, against a quorum.

A node that hangs on an abandoned branch is back before its branch could pass for settled: nobody can tell a chain from
one that was abandoned so far down, and the design excludes it by `settleDepth`. With a quorum it may stay there, and
may even lengthen a branch of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Protocol

from simulation.miner import Miner
from simulation.trace import What
from simulation.wallet import World
from simulation.wallet_resource import CHAIN_ID, TOKEN
from wallet_core.addresses import lower_hex
from wallet_core.blocks import Log
from wallet_core.testing.fake_chain import FakeChain, FakeNode

SECONDS = (0.2, 2.0, 20.0)
PRIVATE_SECONDS = (10.0, 40.0)
"""Long enough for a branch to grow beyond the settled depth."""


class ForAWhile(Protocol):
    """Lets the nemesis end what it begins."""

    def __call__(
        self, what: What, begin: Callable[[], None], end: Callable[[], None], offered_seconds: Sequence[float] = ...
    ) -> None:
        """Begin now, end some time later."""


class NodeFaults:
    """See the module."""

    def __init__(
        self,
        world: World,
        miner: Miner,
        choice: random.Random,
        for_a_while: ForAWhile,
    ) -> None:
        self._world = world
        self._miner = miner
        self._choice = choice
        self._for_a_while = for_a_while
        self._has_quorum = world.resource.spec.chain.quorum > 1
        self._stuck: dict[FakeNode, FakeChain] = {}
        self._other_chain = FakeChain(CHAIN_ID + 1)
        self._other_genesis = FakeChain(CHAIN_ID, name="another")
        self._other_genesis.mine_empty(5)

    def deeds(self) -> Sequence[Callable[[], None]]:
        """All that can be done to nodes."""
        return [
            self._away,
            self._late,
            self._forget,
            self._forget_receipts,
            self._misplace_receipts,
            self._lose_traces,
            self._stray_logs,
            self._finality_goes_back,
            self._stick,
            self._change_chain,
            self._change_genesis,
        ]

    def deeds_against_quorum(self) -> Sequence[Callable[[], None]]:
        """Likewise; none where one endpoint is all that there is."""
        return [self._begin_private_branch, self._others_away] if self._has_quorum else []

    def mend_all(self) -> None:
        """No node lies any more."""
        for node in self._world.nodes:
            self._mend(node)
        self._miner.end_private_branch()

    def release_stuck_nodes(self) -> None:
        """See the module."""
        settled = self._world.chain.tip.number - self._miner.fork_depth_max
        for node, branch in list(self._stuck.items()):
            if not self._has_quorum and _fork_point(branch, self._world.chain) < settled:
                self._mend(node)

    # --- the deeds ----------------------------------------------------------------------------------------------------

    def _away(self) -> None:
        self._with_nodes(What.NODE_AWAY, lambda node: setattr(node, "is_unreachable", True))

    def _late(self) -> None:
        lag = self._choice.choice((1, 3, 30))
        self._with_nodes(What.NODE_LATE, lambda node: setattr(node, "lag", lag))

    def _forget(self) -> None:
        tip = self._world.chain.tip.number
        lost = set(self._choice.sample(range(tip + 1), min(tip, 5)))
        self._with_nodes(What.NODE_FORGETS, lambda node: node.null_blocks.update(lost))

    def _forget_receipts(self) -> None:
        hashes = self._recent_transactions()
        self._with_nodes(What.NODE_FORGETS_RECEIPTS, lambda node: node.null_receipts.update(hashes))

    def _misplace_receipts(self) -> None:
        genesis_hash = self._world.chain.block_at(0).header.hash
        places = dict.fromkeys(self._recent_transactions(), genesis_hash)
        self._with_nodes(What.NODE_MISPLACES_RECEIPTS, lambda node: node.foreign_receipts.update(places))

    def _lose_traces(self) -> None:
        hashes = self._recent_transactions()
        self._with_nodes(What.NODE_LOSES_TRACES, lambda node: node.lost_traces.update(hashes))

    def _stray_logs(self) -> None:
        stray = Log(lower_hex(TOKEN), (), "0x", self._world.chain.tip.hash, "0x" + "00" * 32, 0)
        self._with_nodes(What.NODE_STRAY_LOGS, lambda node: node.stray_logs.append(stray))

    def _finality_goes_back(self) -> None:
        lag = self._choice.choice((1, 5, 20))
        self._with_nodes(What.NODE_FINALITY_GOES_BACK, lambda node: setattr(node, "finalized_lag", lag))

    def _stick(self) -> None:
        self._follow(What.NODE_STUCK, self._world.chain.snapshot())

    def _change_chain(self) -> None:
        self._with_nodes(What.NODE_OTHER_CHAIN, lambda node: setattr(node, "chain", self._other_chain))

    def _change_genesis(self) -> None:
        """Of nodes that know which genesis block is meant: the first node of all is believed."""

        def change(node: FakeNode) -> None:
            if node.knows_genesis:
                node.chain = self._other_genesis

        self._with_nodes(What.NODE_OTHER_GENESIS, change)

    def _begin_private_branch(self) -> None:
        self._follow(What.NODE_PRIVATE_BRANCH, self._miner.begin_private_branch(), PRIVATE_SECONDS)

    def _others_away(self) -> None:
        """One endpoint more than the quorum can spare, or one that it can."""
        nodes = self._world.asked()
        others = [other for node in nodes for other in node.others[: self._choice.randint(1, 2)]]
        is_late = self._choice.random() < 0.5

        def spoil() -> None:
            for other in others:
                other.lag, other.is_unreachable = (30, False) if is_late else (0, True)

        def mend() -> None:
            for other in others:
                other.lag, other.is_unreachable = 0, False

        self._for_a_while(What.OTHERS_AWAY, spoil, mend)

    # --- the parts ----------------------------------------------------------------------------------------------------

    def _recent_transactions(self) -> list[str]:
        return [tx.hash for block in self._world.chain.blocks[-20:] for tx in block.transactions]

    def _follow(self, what: What, branch: FakeChain, offered_seconds: Sequence[float] = SECONDS) -> None:
        def follow(node: FakeNode) -> None:
            node.chain = self._stuck[node] = branch

        self._with_nodes(what, follow, offered_seconds)

    def _with_nodes(
        self, what: What, spoil: Callable[[FakeNode], None], offered_seconds: Sequence[float] = SECONDS
    ) -> None:
        """Spoil one node, or all that are asked at the moment."""
        nodes = self._world.asked()
        if nodes and what is not What.NODE_PRIVATE_BRANCH and self._choice.random() < 0.6:
            nodes = [self._choice.choice(nodes)]

        def spoil_all() -> None:
            for node in nodes:
                spoil(node)

        def mend() -> None:
            for node in nodes:
                self._mend(node)

        self._for_a_while(what, spoil_all, mend, offered_seconds)

    def _mend(self, node: FakeNode) -> None:
        self._stuck.pop(node, None)
        node.chain = self._world.chain
        node.is_unreachable = False
        node.lag = 0
        node.finalized_lag = 0
        node.null_blocks.clear()
        node.null_receipts.clear()
        node.foreign_receipts.clear()
        node.lost_traces.clear()
        node.stray_logs.clear()
        for other in node.others:
            other.lag, other.is_unreachable = 0, False


def _fork_point(branch: FakeChain, chain: FakeChain) -> int:
    """Number of the newest block that both have."""
    number = min(branch.tip.number, chain.tip.number)
    while branch.block_at(number).header.hash != chain.block_at(number).header.hash:
        number -= 1
    return number
