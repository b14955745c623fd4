"""Rescans that cannot go on: what they say, who goes first meanwhile, how they end, and that they cost nothing."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from orders_world import fork_below_window, outcome, outcome_or_none, step_to, worked_off
from virtual_time import in_virtual_time, until
from wallet_core.addresses import lower_hex
from wallet_core.blocks import Block
from wallet_core.errors import ForkBelowWindow
from wallet_core.messages import Topic
from wallet_core.orders import OrderStatus
from wallet_core.rescans import BLOCKS_PER_BATCH_MAX
from wallet_core.spans import SPAN_BLOCKS
from wallet_workers.orders import LOOK_SECONDS
from wallet_workers.stopping import HALT_RECHECK_SECONDS
from wallet_world import BLOCKS_BEFORE_BOOTSTRAP, BOB, PREFIX, SETTLE_DEPTH, Replica, World, caught_up, led

FIRST_BASE = BLOCKS_BEFORE_BOOTSTRAP - SETTLE_DEPTH + 1


def watch(world: World) -> None:
    """Bob's address is published, and is watched from the next block on."""
    world.broker.produce(PREFIX + Topic.ADDRESS_CREATED, b"watch:" + lower_hex(BOB).encode(), b"{}")


@in_virtual_time
async def test_no_gap_to_blocks_that_other_scanners_have_read_ahead() -> None:
    """Without an end a rescan goes on to the newest span that was offered, though the node's tip is lower now."""
    world = World()
    await world.bootstrap()
    paid = world.chain.transfer(BOB, 5)
    world.chain.mine_empty(4 * SPAN_BLOCKS - 17)
    world.chain.mine(paid)
    world.chain.mine_empty(3 * SPAN_BLOCKS)
    leader, other = Replica(world), Replica(world)
    await leader.lead()
    step = asyncio.create_task(leader.sequencer.step())
    scanned = partial(other.metrics.registry.get_sample_value, "wallet_span_blocks_scanned_total")
    async with other.running():
        await until(lambda: scanned() == 6 * SPAN_BLOCKS)
    await step
    leader.node.lag = world.chain.tip.number - world.state().window.tip.number  # another endpoint, which is late
    watch(world)
    world.order(id="r1", type="rescan", from_block=1)
    await until_taken(leader, "r1")
    assert outcome(world, "r1").to_block == FIRST_BASE + 6 * SPAN_BLOCKS
    leader.node.lag = 0
    for _ in range(200):
        assert await leader.lock.renew()
        await leader.sequencer.step()
        await asyncio.sleep(0.1)
    assert [(status, txid) for status, txid, _ in world.said()] == [("confirmed", paid.hash)]
    assert outcome(world, "r1").published == 1


async def until_taken(leader: Replica, order_id: str) -> None:
    while outcome_or_none(leader.world, order_id) is None:
        await asyncio.sleep(LOOK_SECONDS)
        assert await leader.lock.renew()
        await leader.sequencer.step()


@in_virtual_time
async def test_a_rescan_that_cannot_go_on_lets_the_next_one_go_first() -> None:
    """It says why, is tried again, and goes on by itself when the node has its blocks again."""
    world = World()
    leader = await led(world)
    world.chain.mine_empty(20)
    leader.node.null_blocks = {2}
    world.order(id="r1", type="rescan", from_block=1, to_block=4)
    world.order(id="r2", type="rescan", from_block=10, to_block=12)
    await worked_off(leader, 12)
    assert outcome(world, "r2").status is OrderStatus.DONE
    assert outcome(world, "r1").status is OrderStatus.ACCEPTED
    assert "block 2" in outcome(world, "r1").message
    leader.node.null_blocks = set()
    await worked_off(leader, 80)
    assert outcome(world, "r1").status is OrderStatus.DONE
    assert "block 2" not in outcome(world, "r1").message


@in_virtual_time
async def test_a_rescan_that_waits_for_its_blocks_to_settle_lets_the_next_one_go_first() -> None:
    """The second one's blocks are settled long since."""
    world = World()
    leader = await led(world)
    world.chain.mine_empty(20)
    await leader.catch_up()
    tip = world.chain.tip.number
    world.order(id="r1", type="rescan", from_block=tip, to_block=tip)
    world.order(id="r2", type="rescan", from_block=1, to_block=4)
    await worked_off(leader, 6)
    assert outcome(world, "r1").status is OrderStatus.RUNNING
    assert outcome(world, "r2").status is OrderStatus.DONE


@in_virtual_time
async def test_a_rescan_is_ended_by_an_order() -> None:
    """Also in the middle of a batch; the head and the next rescan go on."""
    world = World()
    leader = await led(world)
    world.chain.mine_empty(3 * BLOCKS_PER_BATCH_MAX)
    await leader.catch_up()
    gate = asyncio.Event()
    leader.node.block = partial(gated, gate, leader.node.block, BLOCKS_PER_BATCH_MAX + 5)  # type: ignore[method-assign]  # a slow node
    world.order(id="r1", type="rescan", from_block=1, to_block=3 * BLOCKS_PER_BATCH_MAX)
    await step_to(leader, "r1", next_block=BLOCKS_PER_BATCH_MAX + 1)
    await worked_off(leader, 1)
    world.order(id="c1", type="cancel", order="r1")
    world.order(id="r2", type="rescan", from_block=1, to_block=4)
    await worked_off(leader, 6)
    assert outcome(world, "r1").status is OrderStatus.CANCELLED
    assert [outcome(world, order_id).status for order_id in ("c1", "r2")] == [OrderStatus.DONE] * 2
    assert outcome(world, "r1").next_block == BLOCKS_PER_BATCH_MAX + 1


async def gated(gate: asyncio.Event, block: object, held: int, number: int) -> Block:
    """A node that gives one block only when the gate is open."""
    if number == held:
        await gate.wait()
    return await block(number)  # type: ignore[operator, no-any-return]  # the node's own method


@in_virtual_time
async def test_after_a_rewind_a_rescan_goes_on_with_the_new_branch() -> None:
    """The block that it was to continue may be another one now, above or below the rewind's target."""
    world = World()
    leader = await led(world)
    world.chain.mine_empty(3 * BLOCKS_PER_BATCH_MAX)
    await leader.catch_up()
    world.order(id="r1", type="rescan", from_block=1, to_block=2 * BLOCKS_PER_BATCH_MAX)
    await step_to(leader, "r1", next_block=BLOCKS_PER_BATCH_MAX + 1)
    fork_below_window(world, keep=SETTLE_DEPTH)
    world.order(id="w1", type="rewind", to=SETTLE_DEPTH)
    await leader.sequencer.recover()
    await worked_off(leader, 20)
    assert outcome(world, "w1").status is OrderStatus.DONE
    assert outcome(world, "r1").status is OrderStatus.DONE


@in_virtual_time
async def test_a_batch_that_was_read_of_the_old_branch_is_not_used_after_a_rewind() -> None:
    """Nobody waits for it: its blocks above the target are gone, and what they hold must not be told."""
    world = World()
    leader = await led(world)
    world.chain.mine_empty(3)
    world.chain.mine(withdrawals=[world.chain.withdrawal(BOB, 5)])  # 14: no receipt can tell that it is gone
    world.chain.mine_empty(2 * SETTLE_DEPTH)
    await leader.catch_up()
    watch(world)
    gate = asyncio.Event()
    leader.node.block = partial(gated, gate, leader.node.block, 3)  # type: ignore[method-assign]  # a slow node
    world.order(id="r1", type="rescan", from_block=1, to_block=20)
    await worked_off(leader, 3)
    fork_below_window(world, keep=10)
    with pytest.raises(ForkBelowWindow):
        await leader.catch_up()
    world.order(id="w1", type="rewind", to=6)
    await asyncio.sleep(LOOK_SECONDS)
    await leader.sequencer.look_for_orders()
    gate.set()
    await worked_off(leader, 20)
    assert outcome(world, "w1").status is OrderStatus.DONE
    assert outcome(world, "r1").status is OrderStatus.DONE
    assert world.said() == []


@in_virtual_time
async def test_a_batch_that_is_read_does_not_keep_a_halted_leader_busy() -> None:
    """It looks again every minute, and no more often because something lies ready that it may not write."""
    world = World()
    await world.bootstrap()
    replica = Replica(world)
    gate, fenced = asyncio.Event(), 0
    async with replica.running():
        await caught_up(replica)
        world.chain.mine_empty(2 * SETTLE_DEPTH)
        await caught_up(replica)
        replica.node.block = partial(gated, gate, replica.node.block, 2)  # type: ignore[method-assign]  # a slow node
        world.order(id="r1", type="rescan", from_block=1, to_block=4)
        await until(lambda: outcome_or_none(world, "r1"))
        await asyncio.sleep(5 * LOOK_SECONDS)
        world.broker.delete_topic(PREFIX + Topic.STATE_SYNC)
        world.broker.create_topic(PREFIX + Topic.STATE_SYNC, 1)
        world.chain.mine()
        await until(lambda: replica.shown["reason"] == "Halted")
        recover = replica.ledger.recover

        async def counted() -> object:
            nonlocal fenced
            fenced += 1
            assert fenced < 50, "it spins"
            return await recover()

        replica.ledger.recover = counted  # type: ignore[method-assign, assignment]  # to see how often it looks
        gate.set()
        await asyncio.sleep(2.5 * HALT_RECHECK_SECONDS)
    assert fenced <= 3
