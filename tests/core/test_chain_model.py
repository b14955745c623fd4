"""The automaton that follows one chain, against a naive wallet that recomputes everything after each move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from chains import (
    deposit,
)
from wallet_core.blocks import Head, Header
from wallet_core.chain import (
    BlockRef,
    Confirm,
    Extend,
    FindAncestor,
    Horizon,
    Move,
    Rest,
    Rules,
    Window,
    WindowBlock,
    extend,
    next_move,
    roll_back,
    validate_links,
)
from wallet_core.deposits import Announcement, Deposit, Status
from wallet_core.errors import ForkBelowWindow, NodeInconsistent


@dataclass(frozen=True)
class ModelHead:
    """What a model node says of itself: its chain, and the block that it calls finalized."""

    chain: tuple[WindowBlock, ...]
    finalized: BlockRef | None

    @property
    def head(self) -> Head:
        finalized = self.finalized
        return Head(
            header_of(self.chain[-1]),
            Header(finalized.number, finalized.hash, "", 0) if finalized is not None else None,
        )

    @property
    def hashes(self) -> set[str]:
        return {block.hash for block in self.chain}


class NodeInDoubt(Exception):
    """The model's node has no such block (any more)."""


def header_of(block: WindowBlock) -> Header:
    return Header(block.number, block.hash, block.parent_hash, block.timestamp)


def step(window: Window, rules: Rules, seen: ModelHead, fetched: Sequence[WindowBlock], blocks_max: int) -> Move | None:
    """One step as the sequencer does it: the head was `seen`, then blocks and headers are `fetched` from what may be
    another chain by now.
    """

    def block(number: int) -> WindowBlock:
        if number >= len(fetched):
            raise NodeInDoubt
        return fetched[number]

    def back(start: int) -> Move | None:
        for number in range(start, window.base.number - 1, -1):
            if block(number).hash == window.hash_at(number):
                return roll_back(window, number) if number < window.tip.number else None
        return roll_back(window, window.base.number - 1)

    horizon = Horizon(seen.chain[-1].number, seen.finalized)
    match next_move(window, seen.head, blocks_max):
        case Rest():
            return None
        case Confirm():
            return extend(window, rules, (), horizon)
        case FindAncestor(start):
            return back(start)
        case Extend(first, last):
            blocks = [block(number) for number in range(first, last + 1)]
            blocks = blocks[: validate_links(window.tip, [header_of(each) for each in blocks])]
            return extend(window, rules, blocks, horizon) if blocks else back(window.tip.number)


class NaiveWallet:
    """The same wallet without a window: it keeps its whole chain and works everything out from the genesis block."""

    def __init__(self, genesis: WindowBlock) -> None:
        self.chain: tuple[WindowBlock, ...] = (genesis,)
        self.confirmed = {genesis.hash}
        self.settled = 0
        """Number of the newest settled block."""

    def follow(self, chain: tuple[WindowBlock, ...], rules: Rules, seen: ModelHead) -> list[tuple[Status, str, str]]:
        """Be on that chain now; what must be said of it: status, event id, block hash."""
        mine, theirs = {block.hash for block in self.chain}, {block.hash for block in chain}
        gone = [block for block in self.chain if block.hash not in theirs]
        story = [
            (Status.ORPHANED, each.event_id, block.hash)
            for block in reversed(gone)
            for each in reversed(block.deposits)
        ]
        self.chain, self.confirmed = chain, self.confirmed & theirs
        if gone:  # a roll-back only takes back; what it makes of the rest is for the next step
            return story
        for block in chain:
            is_new = block.hash not in mine
            is_confirmed = self.meets_confirmation(block, rules, seen)
            if is_confirmed and block.hash not in self.confirmed:
                self.confirmed.add(block.hash)
                story += [(Status.CONFIRMED, each.event_id, block.hash) for each in block.deposits]
            elif is_new:
                story += [(Status.DETECTED, each.event_id, block.hash) for each in block.deposits]
        for block in chain[self.settled + 1 :]:
            if block.hash not in self.confirmed or not self._is_settled(block, rules, seen):
                break
            self.settled = block.number
        return story

    def meets_confirmation(self, block: WindowBlock, rules: Rules, seen: ModelHead) -> bool:
        if rules.confirmation_depth is not None and depth(block, self.chain[-1]) >= rules.confirmation_depth:
            return True
        hashes = {each.hash for each in self.chain}
        finalized = seen.finalized
        if (
            rules.confirmation_depth is None
            and finalized
            and finalized.hash in hashes
            and block.number <= finalized.number
        ):
            return True
        return self._is_believed(block, rules, seen)

    def _is_believed(self, block: WindowBlock, rules: Rules, seen: ModelHead) -> bool:
        """Whether the block is confirmed and settled in the node's chain, whose head was seen before."""
        if depth(block, seen.chain[-1]) < rules.settle_depth:
            return False
        if rules.confirmation_depth is not None:
            return depth(block, seen.chain[-1]) >= rules.confirmation_depth
        if seen.finalized is None or seen.finalized.number < block.number:
            return False
        above_ours = seen.finalized.number > self.chain[-1].number
        below_window = seen.finalized.number < self.settled
        return above_ours or below_window or self.chain[seen.finalized.number].hash == seen.finalized.hash

    def _is_settled(self, block: WindowBlock, rules: Rules, seen: ModelHead) -> bool:
        return depth(block, self.chain[-1]) >= rules.settle_depth or self._is_believed(block, rules, seen)


def depth(block: WindowBlock, tip: WindowBlock) -> int:
    return tip.number - block.number + 1


class FollowingAChain(RuleBasedStateMachine):
    """A chain grows, forks, flips back, nodes are late: the wallet follows step by step and says the right things."""

    @initialize(
        confirmation=st.one_of(st.none(), st.integers(1, 8)),
        settle=st.integers(1, 12),
        blocks_max=st.sampled_from([1, 3, 64]),
    )
    def begin(self, confirmation: int | None, settle: int, blocks_max: int) -> None:
        self.in_force = Rules(confirmation, settle)
        self.blocks_max = blocks_max
        genesis = WindowBlock(0, "0", "", 0, (), confirmed=False)
        self.chain: list[WindowBlock] = [genesis]
        self.store = {genesis.hash: genesis}
        self.former: list[WindowBlock] = []
        self.finalized = 0
        self.pool: list[Deposit] = []
        self.transfers = 0
        self.window = Window(genesis.ref)
        self.judged_by = self.in_force
        self.naive = NaiveWallet(genesis)
        self.last: dict[str, Status] = {}
        self.told_in: dict[str, str] = {}
        self.credited: dict[str, str] = {}

    # what the chain does

    def _mine(self, pays: int, reincludes: int) -> None:
        parent = self.chain[-1]
        paid = [self.pool.pop(0) for _ in range(min(reincludes, len(self.pool)))]
        for _ in range(pays):
            self.transfers += 1
            paid.append(deposit(f"d{self.transfers}"))
        block = WindowBlock(parent.number + 1, str(len(self.store)), parent.hash, parent.timestamp + 12, tuple(paid))
        self.store[block.hash] = block
        self.chain.append(block)

    @rule(pays=st.lists(st.integers(0, 2), min_size=1, max_size=4), reincludes=st.integers(0, 2))
    def grow(self, pays: list[int], reincludes: int) -> None:
        for each in pays:
            self._mine(each, reincludes)

    @rule(count=st.integers(1, 90))
    def grow_far(self, count: int) -> None:
        for number in range(count):
            self._mine(1 if number % 10 == 0 else 0, 0)

    @rule(
        fork_depth=st.integers(1, 16), length=st.integers(0, 18), pays=st.integers(0, 1), reincludes=st.integers(0, 2)
    )
    def fork(self, fork_depth: int, length: int, pays: int, reincludes: int) -> None:
        fork_depth = min(fork_depth, len(self.chain) - 1)
        self.former = list(self.chain)
        gone = self.chain[len(self.chain) - fork_depth :]
        del self.chain[len(self.chain) - fork_depth :]
        self.pool += [each for block in gone for each in block.deposits]
        for _ in range(length):
            self._mine(pays, reincludes)
        self.finalized = min(self.finalized, self.chain[-1].number)

    @precondition(lambda self: self.former)
    @rule()
    def flip_back(self) -> None:
        """The branch that lost wins after all, with the very same blocks."""
        self.chain, self.former = self.former, self.chain
        in_chain = {each.event_id for block in self.chain for each in block.deposits}
        known = {each.event_id: each for block in self.store.values() for each in block.deposits}
        self.pool = [each for name, each in known.items() if name not in in_chain]
        self.finalized = min(self.finalized, self.chain[-1].number)

    @rule(back=st.integers(0, 20))
    def finalize(self, back: int) -> None:
        self.finalized = max(self.finalized, self.chain[-1].number - back, 0)

    @rule(confirmation=st.one_of(st.none(), st.integers(1, 8)), settle=st.integers(1, 12))
    def change_rules(self, confirmation: int | None, settle: int) -> None:
        self.in_force = Rules(confirmation, settle)

    # what the wallet does

    def _seen(self, lag: int = 0, finalized_back: int = 0, *, lies: bool = False) -> ModelHead:
        chain = tuple(self.chain[: max(1, len(self.chain) - lag)])
        if self.in_force.confirmation_depth is not None:
            return ModelHead(chain, None)
        number = max(0, min(self.finalized - finalized_back, chain[-1].number))
        return ModelHead(chain, BlockRef(number, "a lie" if lies else chain[number].hash))

    def _step(self, seen: ModelHead, fetched: Sequence[WindowBlock]) -> bool:
        """Whether anything changed. Checks what was said against the naive wallet."""
        before = self.window
        try:
            move = step(self.window, self.in_force, seen, fetched, self.blocks_max)
        except ForkBelowWindow:
            assert before.base.hash not in {block.hash for block in fetched}, "halted though the base is in the chain"
            return False
        except NodeInconsistent:
            assert seen.chain[-1].number < before.base.number, "an error though the node's tip can be compared"
            return False
        except NodeInDoubt:
            return False
        assert seen.chain[-1].number >= before.base.number, "the node's tip is too low to say anything"
        if move is None:
            return False
        if move.window.tip.number > before.tip.number or self.in_force.confirmation_depth is None:
            self.judged_by = self.in_force  # by depth, changed rules wait for the next block
        self.window = move.window
        expected = self.naive.follow(self._own_chain(), self.in_force, seen)
        assert [(each.status, each.deposit.event_id, each.block_hash) for each in move.announcements] == expected
        for each in move.announcements:
            self._hear(each)
        return self.window != before

    def _own_chain(self) -> tuple[WindowBlock, ...]:
        chain = [self.store[self.window.tip.hash]]
        while chain[-1].number:
            chain.append(self.store[chain[-1].parent_hash])
        return tuple(reversed(chain))

    def _hear(self, each: Announcement) -> None:
        """A reader who credits on confirmed and debits on orphaned."""
        name, previous = each.deposit.event_id, self.last.get(each.deposit.event_id)
        match each.status:
            case Status.DETECTED:
                assert previous in (None, Status.ORPHANED), f"{name} was {previous} and is detected again"
                assert each.confirmations >= 1
            case Status.CONFIRMED:
                assert previous in (None, Status.ORPHANED, Status.DETECTED), f"{name} is confirmed twice"
                assert previous is not Status.DETECTED or self.told_in[name] == each.block_hash
                needed = self.in_force.confirmation_depth
                assert needed is None or each.confirmations >= needed, f"{name} is confirmed too early"
                self.credited[name] = each.block_hash
            case Status.ORPHANED:
                assert previous in (Status.DETECTED, Status.CONFIRMED), f"{name} was {previous} and is taken back"
                assert self.told_in[name] == each.block_hash
                self.credited.pop(name, None)
        self.last[name], self.told_in[name] = each.status, each.block_hash

    @rule(lag=st.integers(0, 20), finalized_back=st.integers(0, 5))
    def look_through_a_late_node(self, lag: int, finalized_back: int) -> None:
        seen = self._seen(lag, finalized_back)
        self._step(seen, seen.chain)

    @rule()
    def look_through_a_node_that_lies_about_finality(self) -> None:
        seen = self._seen(lies=True)
        self._step(seen, seen.chain)

    @rule(fork_depth=st.integers(0, 4), length=st.integers(0, 6))
    def look_while_the_chain_moves(self, fork_depth: int, length: int) -> None:
        """The head is asked for, then the chain forks, then the blocks are fetched."""
        seen = self._seen()
        self.fork(fork_depth, length, 1, 1) if fork_depth else self.grow([1] * length, 0)
        self._step(seen, self.chain)

    @rule()
    def look(self) -> None:
        seen = self._seen()
        self._step(seen, seen.chain)

    @rule()
    def catch_up(self) -> None:
        seen = self._seen()
        for _ in range(len(self.chain) + len(self.window.blocks) + 2):
            if not self._step(seen, seen.chain):
                break
        else:
            raise AssertionError("the wallet never comes to rest")
        if self.window.base.hash not in seen.hashes:
            return  # halted, or the node is below the base: nothing may be said, and nothing was
        own = {block.hash for block in self._own_chain()}
        assert seen.chain[-1].hash in own, "the wallet rests on another branch than the node"
        if self.window.tip.hash == seen.chain[-1].hash:  # else the node is late
            self._check_what_the_chain_says(seen)

    def _check_what_the_chain_says(self, seen: ModelHead) -> None:
        in_chain = {each.event_id: block for block in seen.chain for each in block.deposits}
        for name, status in self.last.items():
            assert (status is Status.ORPHANED) == (name not in in_chain), f"{name} is {status}"
        for name, block in in_chain.items():
            if self.in_force == self.judged_by and self.naive.meets_confirmation(block, self.in_force, seen):
                assert self.last[name] is Status.CONFIRMED, f"{name} is final and not confirmed"
        confirmed = {name: block.hash for name, block in in_chain.items() if block.hash in self.naive.confirmed}
        assert self.credited == confirmed

    @invariant()
    def the_window_is_one_chain_above_the_newest_settled_block(self) -> None:
        if not hasattr(self, "window"):
            return
        parent = self.window.base
        for block in self.window.blocks:
            assert (block.number, block.parent_hash) == (parent.number + 1, parent.hash)
            assert block.confirmed == (block.hash in self.naive.confirmed)
            parent = block.ref
        assert self.window.base.number == self.naive.settled
        assert self.window.base.hash == self.naive.chain[self.naive.settled].hash
        judged = [block.confirmed for block in self.window.blocks]
        assert judged == sorted(judged, reverse=True), "a block is confirmed above one that is not"


TestFollowingAChain = FollowingAChain.TestCase
TestFollowingAChain.settings = settings(max_examples=150, stateful_step_count=40, report_multiple_bugs=False)
