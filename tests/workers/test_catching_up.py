"""A leader far behind: spans offered, results taken in order, nonsense refused, and always a way on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from span_replicas import (
    BOB,
    GENERATION,
    LOCK_TTL_SECONDS,
    RULES,
    SETTINGS,
    SETTLE_DEPTH,
    Replica,
    World,
    check_everything_was_found,
    take_turns,
)
from wallet_core.addresses import checksum_address
from wallet_core.amounts import BaseUnits
from wallet_core.chain import BlockRef, Window, WindowBlock, settled_number
from wallet_core.errors import NodeInconsistent, WalletError
from wallet_core.spans import SPAN_BLOCKS, SPANS_POSTED_MAX, Span, SpanResult, write_result
from wallet_core.testing.fake_chain import STRANGER
from wallet_workers.catching_up import BOARD_RETRY_SECONDS, EXCLUDED_SPANS, PATIENCE_CLAIMS


async def test_all_scanners_share_the_work() -> None:
    """What they find is appended in the order of the chain, a span at a time, and the board is left clean."""
    world = World(1_000)
    leader, second, third = Replica(world), Replica(world), Replica(world)
    world.clock.meanwhile = take_turns(second.scan_one, third.scan_one, leader.scan_one)
    await leader.catch_up()
    check_everything_was_found(world, leader)
    spans = world.settled // SPAN_BLOCKS
    assert leader.counted("spans_posted") == spans
    assert leader.inline == 1  # the blocks that are left over
    assert await second.board.terms() is None
    assert "span_lag" not in leader.status.as_dict()


async def test_spans_know_the_gas_address_of_the_checkpoint() -> None:
    """It stays when the settings, which all scanners share, forget it: what it funds is no deposit."""
    world = World(1_000)
    leader, scanner = Replica(world), Replica(world)
    assert SETTINGS.sweep.gas_address is None
    leader.state = replace(leader.state, gas_address=checksum_address(STRANGER))
    world.clock.meanwhile = scanner.scan_one
    await leader.catch_up()
    assert leader.inline == 1
    assert leader.counted("spans_posted") == world.settled // SPAN_BLOCKS
    assert len(leader.appended) == world.settled
    assert not [block.number for block in leader.appended if block.deposits]


async def test_at_the_head_no_span_is_cut() -> None:
    """A wallet a few blocks behind scans by itself, as ever."""
    world = World(2 * SPAN_BLOCKS + SETTLE_DEPTH - 2)
    leader = Replica(world)
    assert await leader.step() is None
    assert await leader.board.terms() is None
    world.chain.mine()
    assert await leader.step() == 0
    assert await leader.board.terms() is not None
    assert leader.status.as_dict()["span_lag"] == 2 * SPAN_BLOCKS


async def test_only_settled_blocks_are_offered() -> None:
    """What the chain may still take back never leaves the sequencer's hands."""
    world = World(4 * SPAN_BLOCKS + SETTLE_DEPTH - 2)
    leader, scanner = Replica(world), Replica(world)
    assert await leader.step() == 0
    offered = []
    while claimed := await scanner.claim():
        offered.append(claimed[1])
    assert [span.last for span in offered] == [SPAN_BLOCKS, 2 * SPAN_BLOCKS, 3 * SPAN_BLOCKS]


async def test_a_bounded_number_of_spans_is_offered_ahead() -> None:
    """However far behind, Redis holds no more than so many."""
    world = World((SPANS_POSTED_MAX + 5) * SPAN_BLOCKS)
    leader, scanner = Replica(world), Replica(world)
    await leader.step()
    await leader.step()
    assert leader.counted("spans_posted") == SPANS_POSTED_MAX
    world.clock.meanwhile = scanner.scan_one
    await leader.catch_up()
    check_everything_was_found(world, leader)


async def test_results_are_taken_in_order_however_they_come_back() -> None:
    """A later span waits for the one before it."""
    world = World(400)
    leader, scanner = Replica(world), Replica(world)
    await leader.step()
    claims = []
    while claimed := await scanner.claim():
        claims.append(claimed)
    for claimed in reversed(claims):
        assert await leader.step() == 0
        await scanner.board.put_back(claimed[0], write_result(await scanner.result(*claimed)))
    await leader.catch_up()
    check_everything_was_found(world, leader)


async def test_a_dead_scanners_span_is_scanned_by_another() -> None:
    """When its claim has ended; the sequencer does not lose patience before."""
    world = World(400)
    leader, dead, alive = Replica(world), Replica(world), Replica(world)
    await leader.step()
    assert await dead.claim() is not None
    world.clock.meanwhile = alive.scan_one
    await leader.catch_up()
    check_everything_was_found(world, leader)
    assert leader.counted("spans_overdue") == 0


async def test_slow_but_steady_scanners_are_waited_for() -> None:
    """The sequencer loses patience with silence, not with the length of the way."""
    world = World(1_000)
    leader, slow = Replica(world), Replica(world)

    async def scan_slowly() -> None:
        world.clock.advance(LOCK_TTL_SECONDS - 1)
        await slow.scan_one()

    world.clock.meanwhile = scan_slowly
    await leader.catch_up()
    check_everything_was_found(world, leader)
    assert leader.counted("spans_overdue") == 0


async def test_where_nobody_answers_the_sequencer_scans_by_itself() -> None:
    """After two lives of a claim, and from then on at once, until a good result comes again."""
    world = World(1_000)
    leader, scanner = Replica(world), Replica(world)
    began = world.clock.monotonic()
    await leader.catch_up()
    check_everything_was_found(world, leader)
    waited = world.clock.monotonic() - began
    assert PATIENCE_CLAIMS * LOCK_TTL_SECONDS <= waited < 2 * PATIENCE_CLAIMS * LOCK_TTL_SECONDS
    assert leader.counted("spans_overdue") == leader.inline - 1
    assert await scanner.board.terms() is None


async def test_a_result_is_checked_whenever_it_is_handed_out() -> None:
    """Its append may have failed for hours, and the chain become another one meanwhile."""
    world = World(400)
    leader, scanner = Replica(world), Replica(world)
    assert await leader.step() == 0
    await scanner.scan_one()
    assert len(await leader.catching_up.blocks(leader.state, world.settled) or ()) == SPAN_BLOCKS
    world.chain.reorganize(world.chain.tip.number - 1)
    assert not await leader.catching_up.blocks(leader.state, world.settled)
    assert leader.counted("spans_refused", cause="hash") == 1
    world.clock.meanwhile = scanner.scan_one
    await leader.catch_up()
    assert [block.hash for block in leader.appended] == [world.ref(block.number).hash for block in leader.appended]


# --- nonsense ---------------------------------------------------------------------------------------------------------


def on_another_branch(result: SpanResult) -> SpanResult:
    """Linked to the wallet's tip, and then blocks that no node has."""
    blocks = list[WindowBlock]()
    for block in result.blocks:
        parent_hash = blocks[-1].hash if blocks else block.parent_hash
        blocks.append(replace(block, hash=f"0x{block.number:064x}", parent_hash=parent_hash))
    return replace(result, blocks=tuple(blocks))


def with_deposits_times(times: int) -> Callable[[SpanResult], SpanResult]:
    def lie(result: SpanResult) -> SpanResult:
        return replace(
            result,
            blocks=tuple(
                replace(
                    block,
                    deposits=tuple(replace(each, amount=BaseUnits(each.amount * times)) for each in block.deposits),
                )
                for block in result.blocks
            ),
        )

    return lie


def with_an_invented_deposit(result: SpanResult) -> SpanResult:
    invented = next(block.deposits for block in result.blocks if block.deposits)
    first, *others = result.blocks
    return replace(result, blocks=(replace(first, deposits=invented), *others))


LIES: dict[str, Callable[[SpanResult], SpanResult]] = {
    "hash": on_another_branch,
    "gap": lambda result: replace(result, blocks=result.blocks[:-1]),
    "range": lambda result: replace(result, span=Span(result.span.first + 1, result.span.last + 1)),
    "generation": lambda result: replace(result, generation=GENERATION - 1),
    "settings": lambda result: replace(result, settings_hash="another"),
    "cut": lambda result: replace(result, cut="another"),
    "addresses": lambda result: replace(result, addresses=0),
    "deposits": with_deposits_times(1_000),
    "parent": lambda result: replace(
        result, blocks=(replace(result.blocks[0], parent_hash="0x" + "00" * 32), *result.blocks[1:])
    ),
}


@pytest.mark.parametrize("cause", [*LIES, "deposits invented", "undecodable"])
async def test_nonsense_is_refused_and_scanned_again_by_another(cause: str) -> None:
    """It is counted by its cause, no block of it is appended, and the liar is left out for a while."""
    world = World(700)
    leader, liar, honest = Replica(world), Replica(world), Replica(world)
    lie = with_an_invented_deposit if cause == "deposits invented" else LIES.get(cause)
    lies = 0
    await leader.scanner.read_addresses()

    async def tell_a_lie() -> None:
        nonlocal lies
        claimed = await liar.claim()
        if claimed is None:
            return
        result = await liar.result(*claimed)
        if any(block.deposits for block in result.blocks):
            lies += 1
            await liar.board.put_back(claimed[0], b"?" if lie is None else write_result(lie(result)))

    world.clock.meanwhile = take_turns(tell_a_lie, honest.scan_one)
    await leader.catch_up()
    check_everything_was_found(world, leader)
    assert lies > 0
    assert leader.counted("spans_refused", cause=cause.split(maxsplit=1)[0]) > 0
    assert leader.inline == 1


async def test_a_refused_scanner_is_welcome_again_after_a_while() -> None:
    """What was wrong with it may be over."""
    world = World((EXCLUDED_SPANS + SPANS_POSTED_MAX + 8) * SPAN_BLOCKS)
    leader, sometimes, honest = Replica(world), Replica(world), Replica(world)
    await leader.step()
    claimed = await sometimes.claim()
    assert claimed is not None
    await sometimes.board.put_back(claimed[0], b"?")
    assert await leader.step() == 0
    assert await sometimes.claim() is None
    again = 0

    async def try_again() -> None:
        nonlocal again
        if claimed := await sometimes.claim():
            again += 1
            await sometimes.board.put_back(claimed[0], write_result(await sometimes.result(*claimed)))

    world.clock.meanwhile = take_turns(try_again, honest.scan_one)
    await leader.catch_up()
    check_everything_was_found(world, leader)
    assert again > 0


async def test_where_only_a_liar_is_there_the_sequencer_scans_by_itself() -> None:
    """Even one that does not stay away when it is excluded."""
    world = World(700)
    leader, liar = Replica(world), Replica(world)

    async def lie() -> None:
        standing = await liar.board.terms()
        claim = None if standing is None else await liar.board.claim(standing[0])
        if claim is not None:
            await liar.board.put_back(claim, b"?")

    world.clock.meanwhile = lie
    await leader.catch_up()
    check_everything_was_found(world, leader)
    assert leader.inline == world.settled // SPAN_BLOCKS + 1


# --- the world changes meanwhile --------------------------------------------------------------------------------------


async def test_a_wiped_board_is_cut_again() -> None:
    """In the middle, twice: nothing is lost, nothing comes twice."""
    world = World(1_000)
    leader, scanner = Replica(world), Replica(world)
    world.clock.meanwhile = scanner.scan_one
    for tip in (200, 600):
        while leader.state.window.tip.number < tip:
            assert await leader.step() is not None
        world.redis.wipe()
    await leader.catch_up()
    check_everything_was_found(world, leader)
    assert leader.inline == 1


async def test_without_redis_the_sequencer_scans_by_itself() -> None:
    """It goes back to the board when Redis is back, after a pause in which it does not ask."""
    world = World(2_000)
    leader, scanner = Replica(world), Replica(world)
    world.clock.meanwhile = scanner.scan_one
    await leader.step()
    world.redis.reachable = False
    for _ in range(5):
        assert await leader.step() is None
        await leader.scan_inline()
    world.redis.reachable = True
    assert await leader.step() is None
    world.clock.advance(BOARD_RETRY_SECONDS)
    await leader.catch_up()
    check_everything_was_found(world, leader)
    assert scanner.counted("spans_scanned") == leader.counted("spans_overdue") == 0
    assert leader.counted("spans_posted") > 0


@pytest.mark.parametrize("after_call", range(1, 40))
async def test_a_lost_answer_of_redis_loses_nothing_else(after_call: int) -> None:
    """Whichever it was: the command was carried out, and its sender was not told."""
    world = World(500)
    leader, scanner = Replica(world), Replica(world)
    calls = 0

    async def scan() -> None:
        nonlocal calls
        calls += 1
        if calls == after_call // 2:
            world.redis.loses_next_answer = bool(after_call % 2)
        await scanner.scan_one()
        if calls == after_call // 2:
            world.redis.loses_next_answer = True

    async def meanwhile() -> None:
        try:
            await scan()
        except WalletError:
            world.clock.advance(1)

    world.clock.meanwhile = meanwhile
    await leader.catch_up()
    check_everything_was_found(world, leader)


async def test_another_leader_cuts_for_itself() -> None:
    """Results of the earlier leader's cut are never looked at, and the earlier one is told that its cut is gone."""
    world = World(600)
    before, after, scanner = Replica(world), Replica(world), Replica(world)
    await before.step()
    old = await scanner.claim()
    assert old is not None
    await after.step()
    assert not await scanner.board.put_back(old[0], b"?")
    world.clock.meanwhile = scanner.scan_one
    await after.catch_up()
    check_everything_was_found(world, after)
    assert after.counted("spans_refused", cause="undecodable") == 0
    await before.catch_up()
    check_everything_was_found(world, before)


async def test_a_tip_that_the_chain_took_back_is_not_a_scanners_fault() -> None:
    """Nothing is offered above it: the sequencer scans inline, which finds no continuation and rolls back."""
    world = World(600)
    leader = Replica(world)
    leader.state = replace(leader.state, window=Window(BlockRef(10, "0x" + "99" * 32)))
    assert await leader.step() is None
    assert await leader.board.terms() is None


async def test_a_tip_taken_back_later_is_not_a_scanners_fault_either() -> None:
    """The results no longer continue it; nobody is excluded for that."""
    world = World(600)
    leader, scanner = Replica(world), Replica(world)
    world.clock.meanwhile = scanner.scan_one
    while leader.state.window.tip.number < 128:
        await leader.step()
    tip = leader.state.window.tip
    leader.state = replace(leader.state, window=Window(replace(tip, hash="0x" + "99" * 32)))
    assert await leader.step() is None
    assert leader.metrics.registry.get_sample_value("wallet_spans_refused_total", {"cause": "parent"}) is None


async def test_a_tip_that_moved_otherwise_begins_another_cut() -> None:
    """After a rewind the spans lie elsewhere."""
    world = World(800)
    leader, scanner = Replica(world), Replica(world)
    world.clock.meanwhile = scanner.scan_one
    while leader.state.window.tip.number < 3 * SPAN_BLOCKS:
        await leader.step()
    leader.state = replace(leader.state, window=Window(world.ref(30)))
    leader.appended = leader.appended[:30]
    await leader.catch_up()
    check_everything_was_found(world, leader)


async def test_a_checked_span_is_kept_until_it_is_appended() -> None:
    """An append that must be tried again needs no second scan."""
    world = World(600)
    leader, scanner = Replica(world), Replica(world)
    world.clock.meanwhile = scanner.scan_one
    head = await leader.node.head()
    once = await leader.catching_up.blocks(leader.state, settled_number(RULES, head))
    again = await leader.catching_up.blocks(leader.state, settled_number(RULES, head))
    assert once
    assert again == once


async def test_a_checked_span_is_not_kept_for_another_branch() -> None:
    """What continued the old tip says nothing of a new one of the same height."""
    world = World(600)
    leader, scanner = Replica(world), Replica(world)
    world.clock.meanwhile = scanner.scan_one
    settled = settled_number(RULES, await leader.node.head())
    assert await leader.catching_up.blocks(leader.state, settled)
    moved = replace(leader.state, window=Window(BlockRef(0, "0x" + "99" * 32)))
    assert await leader.catching_up.blocks(moved, settled) is None


async def test_a_result_survives_a_node_that_is_away_while_it_is_checked() -> None:
    """The check is tried again, not the scan."""
    world = World(600)
    leader, scanner = Replica(world), Replica(world)
    await leader.step()
    await scanner.scan_one()
    leader.node.null_blocks = {SPAN_BLOCKS}
    with pytest.raises(NodeInconsistent):
        await leader.step()
    leader.node.null_blocks = set()
    assert await leader.step() == SPAN_BLOCKS


async def test_an_address_published_meanwhile_is_not_missed() -> None:
    """It is paid in a block of a span that was offered before anybody knew it."""
    world = World(300)
    paid = world.chain.mine(world.chain.transfer(BOB, 1))
    world.chain.mine_empty(300)
    leader, scanner = Replica(world), Replica(world)
    await leader.step()
    world.publish(BOB)
    world.clock.meanwhile = scanner.scan_one
    await leader.catch_up()
    assert [block.number for block in leader.appended if block.deposits and block.number > 300] == [paid.header.number]


async def test_a_node_that_became_late_does_not_stop_the_wallet() -> None:
    """A span above what the node calls settled now is not taken; the sequencer follows the node by itself."""
    world = World(600)
    leader, scanner = Replica(world), Replica(world)
    world.clock.meanwhile = scanner.scan_one
    await leader.step()
    leader.node.lag = 560
    assert await leader.step() is None
