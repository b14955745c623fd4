"""The automaton that follows one chain: each of its rules by example, and all of them against a naive model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wallet_core.addresses import Address
from wallet_core.amounts import BaseUnits
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
    settled_number,
    validate_links,
)
from wallet_core.deposits import Announcement, Deposit, Status
from wallet_core.errors import ForkBelowWindow, IllegalMove
from wallet_core.messages import TransactionAsset

ETH = TransactionAsset(symbol="ETH", contract=None, decimals=18)
ALICE = Address(b"\xaa" * 20)
BASE = BlockRef(100, "a100")
BLOCKS_MAX = 64


def deposit(name: str) -> Deposit:
    return Deposit(name, f"tx-{name}", Address(b"\x01" * 20), ALICE, BaseUnits(1), ETH)


def branch(
    name: str, parent: BlockRef, count: int, deposits: Mapping[int, Sequence[str]] | None = None
) -> tuple[WindowBlock, ...]:
    """Blocks `<name><number>` on top of a parent, with deposits by block number."""
    blocks = []
    for number in range(parent.number + 1, parent.number + 1 + count):
        paid = tuple(deposit(each) for each in (deposits or {}).get(number, ()))
        block = WindowBlock(number, f"{name}{number}", parent.hash, 12 * number, paid)
        blocks.append(block)
        parent = block.ref
    return tuple(blocks)


def tip_only(number: int) -> Horizon:
    return Horizon(number)


def grown(rules: Rules, count: int, deposits: Mapping[int, Sequence[str]] | None = None) -> Move:
    """One move by branch a's first blocks above the base, with a horizon that sees no further."""
    return extend(Window(BASE), rules, branch("a", BASE, count, deposits), tip_only(BASE.number + count))


def said(move: Move) -> list[tuple[str, str, int, int]]:
    """What a move says: status, deposit, block number, confirmations."""
    return [
        (each.status.value, each.deposit.event_id, each.block_number, each.confirmations) for each in move.announcements
    ]


def numbers(window: Window) -> list[int]:
    return [block.number for block in window.blocks]


def confirmed_numbers(window: Window) -> list[int]:
    return [block.number for block in window.blocks if block.confirmed]


def head(tip: str, finalized: str | None = None) -> Head:
    """A node's head from block names such as `a105`."""
    made = [
        Header(int(name[1:]), name, f"{name[0]}{int(name[1:]) - 1}", 0) if name else None for name in (tip, finalized)
    ]
    assert made[0] is not None
    return Head(made[0], made[1])


# --- what to do about a head ---------------------------------------------------------------------------------------


def test_a_higher_tip_is_followed_in_bounded_steps() -> None:
    """However far behind, one step fetches a bounded number of blocks, from the next one on."""
    window = Window(BASE, branch("a", BASE, 2))
    assert next_move(window, head("a103"), BLOCKS_MAX) == Extend(103, 103)
    assert next_move(window, head("a999"), BLOCKS_MAX) == Extend(103, 102 + BLOCKS_MAX)


def test_a_higher_tip_of_another_branch_is_extended_to_as_well() -> None:
    """Only the links of the fetched blocks tell that the chain forked, so the head's own hash decides nothing."""
    assert next_move(Window(BASE, branch("a", BASE, 2)), head("b103"), BLOCKS_MAX) == Extend(103, 103)


@pytest.mark.parametrize("tip", ["a103", "a102", "a101", "a100", "z99"])
def test_a_late_node_is_waited_for(tip: str) -> None:
    """Our own tip, an earlier block of ours, or one too low to compare: nothing is taken back."""
    assert next_move(Window(BASE, branch("a", BASE, 3)), head(tip), BLOCKS_MAX) == Rest()


@pytest.mark.parametrize("tip", ["b103", "b101", "b100"])
def test_a_tip_at_or_below_ours_with_another_hash_is_a_fork(tip: str) -> None:
    """A shorter branch is a branch: what is not in the node's chain any more must be taken back."""
    assert next_move(Window(BASE, branch("a", BASE, 3)), head(tip), BLOCKS_MAX) == FindAncestor(int(tip[1:]))


def test_a_tip_of_ours_lets_finalized_blocks_be_confirmed() -> None:
    """By the tag, confirmation comes without any new block."""
    assert next_move(Window(BASE, branch("a", BASE, 3)), head("a103", "a101"), BLOCKS_MAX) == Confirm()
    assert next_move(Window(BASE, branch("a", BASE, 3)), head("a102", "a101"), BLOCKS_MAX) == Confirm()


def test_links_are_followed_up_to_the_first_break() -> None:
    """A block joins only if it names the one before it as its parent and has the next number."""
    headers = [Header(block.number, block.hash, block.parent_hash, 0) for block in branch("a", BASE, 4)]
    assert validate_links(BASE, headers) == 4
    assert validate_links(BASE, []) == 0
    assert validate_links(BlockRef(100, "b100"), headers) == 0
    assert validate_links(BlockRef(99, "a100"), headers) == 0
    assert validate_links(BASE, [*headers[:2], *headers[3:]]) == 2
    assert validate_links(BASE, [headers[0], Header(102, "b102", "b101", 0), headers[2]]) == 1


# --- extend and confirm --------------------------------------------------------------------------------------------


def test_a_deposit_is_detected_in_the_newest_block_with_one_confirmation() -> None:
    """The newest block has depth 1, as the resource says."""
    move = grown(Rules(3, 10), 1, {101: ["x"]})
    assert said(move) == [("detected", "x", 101, 1)]
    assert move.window == Window(BASE, branch("a", BASE, 1, {101: ["x"]}))


def test_an_announcement_carries_its_block() -> None:
    """A reader finds the transfer by number, hash and time of its block."""
    (only,) = grown(Rules(3, 10), 1, {101: ["x"]}).announcements
    assert only == Announcement(Status.DETECTED, deposit("x"), 101, "a101", 1212, 1)


def test_a_deposit_is_confirmed_by_depth_once() -> None:
    """With depth 3 the second block above says nothing, the third confirms, and no later one repeats it."""
    rules, window, story = Rules(3, 10), Window(BASE), []
    for block in branch("a", BASE, 5, {101: ["x"]}):
        move = extend(window, rules, [block], tip_only(block.number))
        window = move.window
        story.append(said(move))
    assert story == [[("detected", "x", 101, 1)], [], [("confirmed", "x", 101, 3)], [], []]


def test_a_deposit_first_seen_in_a_confirmed_block_is_confirmed_only() -> None:
    """One move says one thing of a deposit, also when several blocks come at once."""
    move = grown(Rules(3, 10), 4, {101: ["old"], 102: ["deep", "too"], 103: ["new"], 104: ["newest"]})
    assert said(move) == [
        ("confirmed", "old", 101, 4),
        ("confirmed", "deep", 102, 3),
        ("confirmed", "too", 102, 3),
        ("detected", "new", 103, 2),
        ("detected", "newest", 104, 1),
    ]
    assert confirmed_numbers(move.window) == [101, 102]


def test_depth_one_confirms_the_newest_block() -> None:
    """The smallest depth needs no block above."""
    assert said(grown(Rules(1, 10), 1, {101: ["x"]})) == [("confirmed", "x", 101, 1)]


def test_a_tip_far_above_does_not_confirm_what_is_not_settled_below_it() -> None:
    """Between the window's depth and the settled boundary the node's tip is not believed, only our own chain is."""
    blocks = branch("a", BASE, 2, {101: ["x"]})
    move = extend(Window(BASE), Rules(3, 10), blocks, tip_only(109))
    assert said(move) == [("detected", "x", 101, 2)]
    assert numbers(move.window) == [101, 102]


def test_blocks_settled_below_the_nodes_tip_are_confirmed_and_leave_at_once() -> None:
    """Far behind, nothing waits for the blocks above to be fetched; confirmations count up to the node's tip."""
    blocks = branch("a", BASE, 3, {101: ["x"], 102: ["y"], 103: ["z"]})
    move = extend(Window(BASE), Rules(3, 10), blocks, tip_only(111))
    assert said(move) == [("confirmed", "x", 101, 11), ("confirmed", "y", 102, 10), ("detected", "z", 103, 1)]
    assert move.window == Window(BlockRef(102, "a102"), blocks[2:])


def test_a_confirmation_deeper_than_the_settle_depth_holds_far_behind_too() -> None:
    """Whichever of the two depths is larger decides what is settled below the node's tip."""
    blocks = branch("a", BASE, 3, {101: ["x"], 102: ["y"]})
    move = extend(Window(BASE), Rules(12, 4), blocks, tip_only(112))
    assert said(move) == [("confirmed", "x", 101, 12), ("detected", "y", 102, 2)]
    assert move.window.base == BlockRef(101, "a101")


# --- the finalized tag ---------------------------------------------------------------------------------------------

BY_TAG = Rules(None, 10)


def test_the_finalized_tag_confirms_up_to_its_block() -> None:
    """Depth says nothing then: only blocks at or below the finalized one are confirmed."""
    first = extend(Window(BASE), BY_TAG, branch("a", BASE, 4, {101: ["x"], 103: ["y"]}), tip_only(104))
    assert said(first) == [("detected", "x", 101, 4), ("detected", "y", 103, 2)]
    second = extend(first.window, BY_TAG, (), Horizon(104, BlockRef(102, "a102")))
    assert said(second) == [("confirmed", "x", 101, 4)]
    assert confirmed_numbers(second.window) == [101, 102]


def test_a_finalized_block_that_joins_in_the_same_move_confirms() -> None:
    """First seen in a final block: `confirmed` only, by the tag as by depth."""
    move = extend(Window(BASE), BY_TAG, branch("a", BASE, 2, {101: ["x"]}), Horizon(102, BlockRef(101, "a101")))
    assert said(move) == [("confirmed", "x", 101, 2)]


def test_a_finalized_number_that_goes_back_takes_nothing_back() -> None:
    """Once confirmed stays confirmed: a node behind a balancer may be late."""
    blocks = branch("a", BASE, 4, {103: ["x"]})
    window = extend(Window(BASE), BY_TAG, blocks, Horizon(104, BlockRef(103, "a103"))).window
    for late in (BlockRef(101, "a101"), BASE, BlockRef(90, "a90"), None):
        assert extend(window, BY_TAG, (), Horizon(104, late)) == Move(window, ())


@pytest.mark.parametrize("finalized", [BlockRef(102, "b102"), BlockRef(100, "b100")])
def test_a_finalized_block_of_another_branch_confirms_nothing(finalized: BlockRef) -> None:
    """The number alone is never believed inside the window."""
    move = extend(Window(BASE), BY_TAG, branch("a", BASE, 4, {101: ["x"]}), Horizon(104, finalized))
    assert said(move) == [("detected", "x", 101, 4)]
    assert confirmed_numbers(move.window) == []


def test_a_finalized_block_of_another_branch_is_not_believed_far_behind_either() -> None:
    """A finalized block that contradicts ours proves that node and window differ, however deep the node's tip is."""
    blocks = branch("a", BASE, 4, {101: ["x"]})
    move = extend(Window(BASE), BY_TAG, blocks, Horizon(500, BlockRef(102, "b102")))
    assert said(move) == [("detected", "x", 101, 4)]
    assert move.window.base == BASE


def test_a_finalized_block_above_our_tip_confirms_only_what_is_settled_below_the_nodes_tip() -> None:
    """Its hash cannot be compared yet; what lies `settle_depth` below the tip is believed, the rest waits."""
    blocks = branch("a", BASE, 4, {101: ["x"], 102: ["y"]})
    move = extend(Window(BASE), BY_TAG, blocks, Horizon(110, BlockRef(109, "a109")))
    assert said(move) == [("confirmed", "x", 101, 10), ("detected", "y", 102, 3)]
    assert move.window.base == BlockRef(101, "a101")


def test_a_block_above_the_finalized_one_does_not_settle_however_deep() -> None:
    """Far behind by the tag, both bounds hold: final and deep."""
    blocks = branch("a", BASE, 4, {102: ["x"]})
    move = extend(Window(BASE), BY_TAG, blocks, Horizon(500, BlockRef(101, "a101")))
    assert said(move) == [("detected", "x", 102, 3)]
    assert (move.window.base, numbers(move.window)) == (BlockRef(101, "a101"), [102, 103, 104])


def test_without_a_finalized_block_nothing_is_confirmed_by_the_tag() -> None:
    """A young chain has none; a deposit then stays `detected` and every block stays in the window."""
    move = extend(Window(BASE), BY_TAG, branch("a", BASE, 64, {101: ["x"]}), tip_only(500))
    assert said(move) == [("detected", "x", 101, 64)]
    assert move.window.base == BASE


# --- settle --------------------------------------------------------------------------------------------------------


def test_a_block_leaves_the_window_when_confirmed_and_deep_enough() -> None:
    """It settles exactly at `settle_depth`, says nothing by that, and becomes the base."""
    before = grown(Rules(2, 4), 3).window
    assert (before.base, numbers(before)) == (BASE, [101, 102, 103])
    move = extend(before, Rules(2, 4), branch("a", before.tip, 1), tip_only(104))
    assert (move.window.base, numbers(move.window)) == (BlockRef(101, "a101"), [102, 103, 104])
    assert said(move) == []


def test_a_deep_block_that_is_not_confirmed_does_not_settle() -> None:
    """A confirmation deeper than `settle_depth` keeps the window as long as it needs."""
    assert numbers(grown(Rules(6, 2), 5).window) == [101, 102, 103, 104, 105]
    assert numbers(grown(Rules(6, 2), 6).window) == [102, 103, 104, 105, 106]


def test_settle_depth_one_leaves_an_empty_window() -> None:
    """On a chain that never forks every block may settle at once; the tip is then the base."""
    window = grown(Rules(1, 1), 3).window
    assert window == Window(BlockRef(103, "a103"))
    assert (window.tip, window.hash_at(103), window.hash_at(102), window.hash_at(104)) == (
        window.base,
        "a103",
        None,
        None,
    )


@pytest.mark.parametrize(
    ("rules", "tip", "finalized", "number"),
    [
        (Rules(3, 10), 100, None, 91),
        (Rules(12, 10), 100, None, 89),
        (Rules(3, 10), 5, None, 0),
        (Rules(1, 1), 7, None, 7),
        (BY_TAG, 100, 95, 91),
        (BY_TAG, 100, 40, 40),
        (BY_TAG, 100, None, 0),
    ],
)
def test_the_newest_settled_block_of_a_head(rules: Rules, tip: int, finalized: int | None, number: int) -> None:
    """Where a new wallet begins: confirmed and settled, on a short or never finalized chain the genesis block."""
    assert settled_number(rules, head(f"a{tip}", None if finalized is None else f"a{finalized}")) == number


# --- roll back -----------------------------------------------------------------------------------------------------


def test_a_fork_takes_back_confirmed_and_detected_deposits_newest_first() -> None:
    """A reader who undoes them in this order never sees a later deposit stand on one that is gone."""
    window = grown(Rules(3, 10), 5, {101: ["kept"], 102: ["a", "b"], 103: ["c"], 105: ["d"]}).window
    move = roll_back(window, 101)
    assert said(move) == [
        ("orphaned", name, number, 0) for name, number in (("d", 105), ("c", 103), ("b", 102), ("a", 102))
    ]
    assert move.window == Window(BASE, window.blocks[:1])


def test_the_twin_in_the_new_branch_is_told_again_under_its_own_id() -> None:
    """After `orphaned` the same transfer in another block is detected and confirmed like any other."""
    rules = Rules(2, 10)
    window = roll_back(grown(rules, 3, {102: ["x"]}).window, 101).window
    move = extend(window, rules, branch("b", window.tip, 1, {102: ["x"]}), tip_only(102))
    assert said(move) == [("detected", "x", 102, 1)]
    assert said(extend(move.window, rules, branch("b", move.window.tip, 1), tip_only(103))) == [
        ("confirmed", "x", 102, 2)
    ]


def test_the_base_is_the_deepest_ancestor() -> None:
    """The whole window can be taken back, but no block below it."""
    window = grown(Rules(2, 10), 3).window
    assert roll_back(window, 100).window == Window(BASE)
    with pytest.raises(ForkBelowWindow, match=r"100 a100.*settleDepth"):
        roll_back(window, 99)


# --- rules that change between runs --------------------------------------------------------------------------------


def test_a_lowered_depth_confirms_with_the_next_block() -> None:
    """What was detected under the old depth is confirmed under the new one, once."""
    window = grown(Rules(6, 10), 3, {101: ["x"]}).window
    move = extend(window, Rules(2, 10), branch("a", window.tip, 1), tip_only(104))
    assert said(move) == [("confirmed", "x", 101, 4)]


def test_a_raised_depth_takes_no_confirmation_back() -> None:
    """Whoever credited may rely on it; deposits that were not confirmed wait for the new depth."""
    window = grown(Rules(2, 10), 3, {102: ["x"], 103: ["y"]}).window
    assert confirmed_numbers(window) == [101, 102]
    story = []
    for block in branch("a", window.tip, 3):
        move = extend(window, Rules(4, 10), [block], tip_only(block.number))
        window = move.window
        story.append(said(move))
    assert story == [[], [], [("confirmed", "y", 103, 4)]]


def test_a_lowered_settle_depth_lets_several_blocks_go() -> None:
    """The window shrinks with the next block, without a word."""
    window = grown(Rules(2, 10), 6).window
    move = extend(window, Rules(2, 3), branch("a", window.tip, 1), tip_only(107))
    assert (move.window.base.number, numbers(move.window), said(move)) == (105, [106, 107], [])


def test_a_raised_settle_depth_lets_the_window_grow() -> None:
    """What was settled stays settled; nothing more settles until the new depth is reached."""
    window = grown(Rules(2, 3), 6).window
    assert window.base.number == 104
    longer = extend(window, Rules(2, 5), branch("a", window.tip, 2), tip_only(108)).window
    assert (longer.base.number, numbers(longer)) == (104, [105, 106, 107, 108])
    assert extend(longer, Rules(2, 5), branch("a", longer.tip, 1), tip_only(109)).window.base.number == 105


def test_the_tag_instead_of_a_depth_keeps_what_was_confirmed() -> None:
    """Changing the kind of confirmation repeats nothing and takes nothing back."""
    window = grown(Rules(2, 10), 3, {102: ["x"], 103: ["y"]}).window
    assert said(extend(window, BY_TAG, (), Horizon(103, BlockRef(101, "a101")))) == []
    assert said(extend(window, BY_TAG, (), Horizon(103, BlockRef(103, "a103")))) == [("confirmed", "y", 103, 1)]


# --- illegal moves -------------------------------------------------------------------------------------------------


def _move_that_skips_a_block(window: Window) -> Move:
    return extend(window, Rules(2, 10), branch("a", window.tip, 2)[1:], tip_only(105))


def _move_onto_another_branch(window: Window) -> Move:
    return extend(window, Rules(2, 10), branch("b", BlockRef(103, "b103"), 1), tip_only(104))


def _move_with_a_broken_middle(window: Window) -> Move:
    first, second = branch("a", window.tip, 2)
    return extend(window, Rules(2, 10), [first, replace(second, parent_hash="b104")], tip_only(105))


def _move_that_repeats_the_tip(window: Window) -> Move:
    return extend(window, Rules(2, 10), window.blocks[-1:], tip_only(103))


def _move_with_a_verdict(window: Window) -> Move:
    return extend(window, Rules(2, 10), [replace(branch("a", window.tip, 1)[0], confirmed=True)], tip_only(104))


def _move_back_to_the_tip(window: Window) -> Move:
    return roll_back(window, window.tip.number)


def _move_back_to_above_the_tip(window: Window) -> Move:
    return roll_back(window, window.tip.number + 1)


@pytest.mark.parametrize(
    "illegal",
    [
        _move_that_skips_a_block,
        _move_onto_another_branch,
        _move_with_a_broken_middle,
        _move_that_repeats_the_tip,
        _move_with_a_verdict,
        _move_back_to_the_tip,
        _move_back_to_above_the_tip,
    ],
)
def test_an_illegal_move_raises_and_changes_nothing(illegal: Callable[[Window], Move]) -> None:
    """A fault of the caller stops it before anything is said."""
    window = grown(Rules(2, 10), 3, {102: ["x"]}).window
    before = replace(window)
    with pytest.raises(IllegalMove):
        illegal(window)
    assert window == before
    assert said(extend(window, Rules(2, 10), branch("a", window.tip, 1), tip_only(104))) == []


# --- against a naive model -----------------------------------------------------------------------------------------


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
        except NodeInDoubt:
            return False
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
TestFollowingAChain.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, report_multiple_bugs=False
)
