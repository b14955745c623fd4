"""Which blocks a wallet may go back to: what proves that one is common, and what a refusal names."""

from __future__ import annotations

import asyncio

import pytest

from orders_world import fork_below_window, outcome, outcome_or_none, rewound, told_block, worked_off
from virtual_time import in_virtual_time, until
from wallet_core.coverage import BUCKET_BLOCKS, covered_key
from wallet_core.errors import ForkBelowWindow
from wallet_core.messages import Topic
from wallet_core.orders import OrderStatus
from wallet_workers.bootstrap import BootstrapFailed
from wallet_world import (
    ALICE,
    BLOCKS_BEFORE_BOOTSTRAP,
    PREFIX,
    SETTLE_DEPTH,
    BootstrapRun,
    Replica,
    World,
    caught_up,
    led,
)

TIP = BLOCKS_BEFORE_BOOTSTRAP
FIRST_BASE = TIP - SETTLE_DEPTH + 1


@in_virtual_time
async def test_a_rewind_above_the_fork_is_refused_where_nothing_was_said_below_it() -> None:
    """A transfer that the fork moved below the target would be lost; the block that is named finds it."""
    world = World()
    leader = await led(world)
    world.publish(ALICE)
    moves = world.chain.transfer(ALICE, 7)
    world.chain.mine_empty(10)
    world.chain.mine(moves)  # 21
    world.chain.mine_empty(2 * SETTLE_DEPTH)
    await leader.catch_up()
    depth = world.chain.tip.number - 12
    world.chain.reorganize(depth, [(), (moves,), *[()] * depth])  # now in 14
    with pytest.raises(ForkBelowWindow):
        await leader.catch_up()
    await rewound(leader, "w1", to=18)
    assert told_block(world, "w1") == FIRST_BASE
    await rewound(leader, "w2", to=FIRST_BASE)
    assert outcome(world, "w2").status is OrderStatus.DONE
    assert [each[::2] for each in world.said()] == [("confirmed", 21), ("orphaned", 21), ("confirmed", 14)]


@in_virtual_time
async def test_what_was_said_proves_the_block_that_it_was_said_of() -> None:
    """The newest one that is there still: not higher, and not the ones that are gone."""
    world = World()
    leader = await led(world)
    world.publish(ALICE)
    for _ in range(3):
        world.chain.mine(world.chain.transfer(ALICE, 1))  # 11, 14, 17
        world.chain.mine_empty(2)
    world.chain.mine_empty(2 * SETTLE_DEPTH)
    await leader.catch_up()
    fork_below_window(world, keep=15)
    for order_id, to in (("w1", 18), ("w2", 15)):
        await rewound(leader, order_id, to)
        assert told_block(world, order_id) == 14
    await rewound(leader, "w3", to=14)
    assert (outcome(world, "w3").status, outcome(world, "w3").published) == (OrderStatus.DONE, 1)
    assert world.state().window.tip.hash == world.chain.tip.hash


@in_virtual_time
async def test_what_was_said_and_is_gone_is_below_no_target() -> None:
    """Where a rescan said something of blocks that the wallet did not begin with, its events would stay."""
    world = World()
    early = world.chain.transfer(ALICE, 3)
    world.chain.roll_back(TIP - 4)
    world.chain.mine(early)  # 5
    world.chain.mine_empty(TIP - 5)
    leader = await led(world)
    world.publish(ALICE)
    world.chain.mine_empty(20)
    await leader.catch_up()
    world.order(id="r1", type="rescan", from_block=0, to_block=8)
    await worked_off(leader)
    assert [each[::2] for each in world.said()] == [("confirmed", 5)]
    depth = world.chain.tip.number - 4
    world.chain.reorganize(depth, [(), (early,), *[()] * depth])  # now in 6: not below the wallet's first block
    await rewound(leader, "w1", to=5)
    assert told_block(world, "w1") == 4
    await rewound(leader, "w2", to=4)
    assert [each[::2] for each in world.said()] == [("confirmed", 5), ("orphaned", 5), ("confirmed", 6)]


@in_virtual_time
async def test_coverage_proves_blocks_of_which_nothing_was_said() -> None:
    """A wallet without a deposit need not go back to its first block: a bucket's digest holds all hashes."""
    world = World()
    await world.bootstrap()
    replica = Replica(world)

    async def ordered(order_id: str, to: int) -> OrderStatus:
        await until(lambda: replica.shown["reason"] == "Halted")
        world.order(id=order_id, type="rewind", to=to)
        await until(lambda: (found := outcome_or_none(world, order_id)) and found.status.is_final)
        return outcome(world, order_id).status

    world.chain.mine_empty(3 * BUCKET_BLOCKS)
    async with (first := Replica(world)).running():
        await caught_up(first)
    fork_below_window(world, keep=2 * BUCKET_BLOCKS + 500)
    async with replica.running():
        assert await ordered("w1", 2 * BUCKET_BLOCKS + 500) is OrderStatus.REFUSED
        assert told_block(world, "w1") == 2 * BUCKET_BLOCKS - 1
        assert await ordered("w2", BUCKET_BLOCKS + 7) is OrderStatus.DONE  # proved by the bucket that it is in
        await caught_up(replica)
        fork_below_window(world, keep=2 * BUCKET_BLOCKS + 5)
        assert await ordered("w3", 2 * BUCKET_BLOCKS) is OrderStatus.REFUSED
        assert told_block(world, "w3") == 2 * BUCKET_BLOCKS - 1


@in_virtual_time
async def test_a_target_is_free_while_the_node_has_the_settled_block() -> None:
    """All below it is common then; nothing needs to be proved."""
    world = World()
    leader = await led(world)
    world.chain.mine_empty(4 * SETTLE_DEPTH)
    await leader.catch_up()
    world.broker.produce(PREFIX + Topic.STATE_SYNC, covered_key(0), None)  # as an earlier release leaves it
    await rewound(leader, "w1", to=world.state().window.base.number - 1)
    assert outcome(world, "w1").status is OrderStatus.DONE


@in_virtual_time
async def test_after_a_lost_checkpoint_events_alone_prove_a_target() -> None:
    """Where the newest one is gone, blocks up to it may be others: what they hold would be left out."""
    world = World()
    leader = await led(world)
    world.publish(ALICE)
    stays, moves = world.chain.transfer(ALICE, 1), world.chain.transfer(ALICE, 2)
    world.chain.mine(stays)  # 11
    world.chain.mine_empty(9)
    world.chain.mine(moves)  # 21
    world.chain.mine_empty(2 * SETTLE_DEPTH)
    await leader.catch_up()
    await leader.sequencer.close()
    await leader.lock.release()
    depth = world.chain.tip.number - 12
    world.chain.reorganize(depth, [(), (moves,), *[()] * depth])  # now in 14
    world.broker.delete_topic(PREFIX + Topic.STATE_SYNC)
    world.order(id="w1", type="rewind", to=18, after_loss=True)
    with pytest.raises(BootstrapFailed, match=r"above block 11, .* rewind to that one or below"):
        await BootstrapRun(world).run()
    world.order(id="w2", type="rewind", to=11, after_loss=True)
    await BootstrapRun(world).run()
    successor = Replica(world)
    await successor.lead()
    await worked_off(successor)
    assert [each[::2] for each in world.said()[-2:]] == [("orphaned", 21), ("confirmed", 14)]


@in_virtual_time
async def test_after_a_lost_checkpoint_what_waits_for_its_confirmation_is_read_again() -> None:
    """A block above it would settle it unconfirmed, and nobody would credit it."""
    world = World()
    leader = await led(world)
    world.publish(ALICE)
    world.chain.mine(world.chain.transfer(ALICE, 1))  # 11
    await leader.catch_up()
    await leader.sequencer.close()
    await leader.lock.release()
    world.chain.mine_empty(2 * SETTLE_DEPTH)
    world.broker.delete_topic(PREFIX + Topic.STATE_SYNC)
    world.order(id="w1", type="rewind", to=11, after_loss=True)
    with pytest.raises(BootstrapFailed, match=r"block 11 holds transfers .* rewind to block 10 or below"):
        await BootstrapRun(world).run()
    world.order(id="w2", type="rewind", to=10, after_loss=True)
    await BootstrapRun(world).run()
    successor = Replica(world)
    await successor.lead()
    await worked_off(successor)
    assert [each[::2] for each in world.said()] == [("detected", 11), ("confirmed", 11)]


@in_virtual_time
async def test_after_a_lost_checkpoint_no_block_is_taken_that_the_node_cannot_go_on_from() -> None:
    """Bootstrap waits for the node, and a later order to another block may be what helps."""
    world = World()
    leader = await led(world)
    world.publish(ALICE)
    world.chain.mine(world.chain.transfer(ALICE, 1))
    world.chain.mine_empty(20)
    await leader.catch_up()
    await leader.sequencer.close()
    await leader.lock.release()
    world.broker.delete_topic(PREFIX + Topic.STATE_SYNC)
    world.order(id="w1", type="rewind", to=5, after_loss=True)
    bootstrap = BootstrapRun(world)
    bootstrap.node.null_blocks = {6}
    running = asyncio.create_task(bootstrap.run())
    await until(lambda: "block 6" in str(bootstrap.status.as_dict()["troubles"]))
    world.order(id="w2", type="rewind", to=7, after_loss=True)
    await running
    assert world.state().window.base.number == 7


@in_virtual_time
async def test_an_order_that_helped_after_one_loss_does_not_carry_over_to_the_next() -> None:
    """Something was published since: another person must look, and order it anew."""
    world = World()
    leader = await led(world)
    world.publish(ALICE)
    world.chain.mine(world.chain.transfer(ALICE, 1))
    world.chain.mine_empty(20)
    await leader.catch_up()
    for order_id in ("w1", "w2"):
        await leader.sequencer.close()
        await leader.lock.release()
        world.broker.delete_topic(PREFIX + Topic.STATE_SYNC)
        with pytest.raises(BootstrapFailed, match="CheckpointLost"):
            await BootstrapRun(world).run()
        world.broker.timestamp_ms += 1_000
        world.order(id=order_id, type="rewind", to=5, after_loss=True)
        await BootstrapRun(world).run()
        leader = Replica(world)
        await leader.lead()
        await worked_off(leader, 3)
        assert outcome(world, order_id).status is OrderStatus.DONE
        world.broker.timestamp_ms += 1_000
        world.chain.mine(world.chain.transfer(ALICE, 1))
        await worked_off(leader, 2)
