"""The automaton that follows one chain: each of its rules by example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from chains import (
    BASE,
    BLOCKS_MAX,
    branch,
    confirmed_numbers,
    deposit,
    grown,
    head,
    numbers,
    said,
    tip_only,
)
from wallet_core.blocks import Header
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
    extend,
    next_move,
    roll_back,
    settled_number,
    validate_links,
)
from wallet_core.deposits import Announcement, Status
from wallet_core.errors import ForkBelowWindow, IllegalMove, NodeInconsistent

# --- what to do about a head ---------------------------------------------------------------------------------------


def test_a_higher_tip_is_followed_in_bounded_steps() -> None:
    """However far behind, one step fetches a bounded number of blocks, from the next one on."""
    window = Window(BASE, branch("a", BASE, 2))
    assert next_move(window, head("a103"), BLOCKS_MAX) == Extend(103, 103)
    assert next_move(window, head("a999"), BLOCKS_MAX) == Extend(103, 102 + BLOCKS_MAX)


def test_a_higher_tip_of_another_branch_is_extended_to_as_well() -> None:
    """Only the links of the fetched blocks tell that the chain forked, so the head's own hash decides nothing."""
    assert next_move(Window(BASE, branch("a", BASE, 2)), head("b103"), BLOCKS_MAX) == Extend(103, 103)


@pytest.mark.parametrize("tip", ["a103", "a102", "a101", "a100"])
def test_a_late_node_is_waited_for(tip: str) -> None:
    """Our own tip, or an earlier block of ours down to the newest settled one: nothing is taken back."""
    assert next_move(Window(BASE, branch("a", BASE, 3)), head(tip), BLOCKS_MAX) == Rest()


@pytest.mark.parametrize("tip", ["a99", "z99", "a0"])
@pytest.mark.parametrize("finalized", [None, "a0"])
@pytest.mark.parametrize("blocks", [0, 3])
def test_a_node_below_the_settled_block_is_an_error_and_not_late(tip: str, finalized: str | None, blocks: int) -> None:
    """It has no block that could be compared with ours; who waited for it silently would wait for a new chain."""
    with pytest.raises(NodeInconsistent, match=rf"newest block {tip[1:]} is below the settled block 100"):
        next_move(Window(BASE, branch("a", BASE, blocks)), head(tip, finalized), BLOCKS_MAX)


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


def test_a_tip_far_above_says_nothing_of_a_window_that_it_was_not_linked_to() -> None:
    """The chain may have taken the window back meanwhile: only blocks that continue it show that it did not."""
    rules = Rules(3, 6)
    before = grown(rules, 2, {101: ["first"]}).window
    assert extend(before, rules, (), tip_only(200)) == Move(before, ())


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
