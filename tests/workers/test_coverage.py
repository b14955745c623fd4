"""The record of what was read, as the leader's steps write it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from virtual_time import in_virtual_time
from wallet_core.coverage import BUCKET_BLOCKS, Blocks, Bucket, Joins, check_joins, digest_of, read_buckets
from wallet_core.messages import Topic
from wallet_core.orders import OrderStatus
from wallet_workers.orders import LOOK_SECONDS
from wallet_world import PREFIX, SETTLE_DEPTH, Replica, World, led

BATCH = 100
"""Blocks at a time: few enough not to count as far behind."""


def buckets_of(world: World) -> Sequence[Bucket]:
    values: dict[bytes, bytes] = {}
    for record in world.broker.read_committed(PREFIX + Topic.STATE_SYNC):
        if record.value is None:
            values.pop(record.key or b"", None)
        else:
            values[record.key or b""] = record.value
    return read_buckets(values)


def check_digests(world: World, buckets: Sequence[Bucket]) -> None:
    for bucket in buckets:
        hashes = [block.header.hash for block in world.chain.blocks[bucket.first : bucket.last + 1]]
        assert bucket.digest == digest_of(hashes)


async def grow(leader: Replica, blocks: int) -> None:
    """In batches, each of which a leader that has just recovered takes in."""
    for _ in range(0, blocks, BATCH):
        leader.world.chain.mine_empty(BATCH)
        await leader.sequencer.recover()
        await leader.catch_up()
        assert await leader.lock.renew()


@in_virtual_time
async def test_every_settled_block_is_covered_once_and_in_order() -> None:
    """Over the ends of buckets, forks and recoveries: from the block above the first base to the newest settled."""
    world = World()
    leader = await led(world)
    first = world.state().window.base.number + 1
    await grow(leader, BUCKET_BLOCKS + 2 * BATCH)
    world.chain.reorganize(SETTLE_DEPTH - 2, [()] * SETTLE_DEPTH)
    await leader.catch_up()
    base = world.state().window.base.number
    buckets = buckets_of(world)
    assert [each.begins for each in buckets] == [True, False]
    assert check_joins(buckets, base, first_read=buckets[0].first, is_rewound=False).covered == Blocks(first, base)
    check_digests(world, buckets)


async def rewind(leader: Replica, target: int) -> None:
    """Ordered, carried out, and followed until the newest block."""
    world = leader.world
    world.order(id=f"to-{target}", type="rewind", to=target)
    for _ in range(30):
        assert await leader.lock.renew()
        await asyncio.sleep(LOOK_SECONDS)
        await leader.sequencer.recover()
        await leader.catch_up()
    assert [order.status for order in world.state().orders.orders] == [OrderStatus.DONE]


@in_virtual_time
async def test_after_a_rewind_coverage_begins_anew_above_its_target() -> None:
    """What was read below, in the target's own bucket, has no record any more; what is below that bucket still has."""
    world = World()
    leader = await led(world)
    await grow(leader, BUCKET_BLOCKS + 3 * BATCH)
    target = world.chain.tip.number - BATCH // 2
    await rewind(leader, target)
    base = world.state().window.base.number
    buckets = buckets_of(world)
    joins = check_joins(buckets, base, first_read=buckets[0].first, is_rewound=False)
    assert base > target
    assert (joins.gaps, joins.beyond, joins.unrecorded) == ((), (), (Blocks(BUCKET_BLOCKS, target),))
    assert (buckets[-1].first, buckets[-1].last, buckets[-1].begins) == (target + 1, base, True)
    check_digests(world, buckets)


@in_virtual_time
async def test_after_a_fork_and_a_rewind_the_new_branch_is_covered() -> None:
    """The branch that was left has no record any more; the bucket that ends at the target stays, and goes on."""
    world = World()
    leader = await led(world)
    await grow(leader, BUCKET_BLOCKS)
    target = BUCKET_BLOCKS - 1
    depth = world.chain.tip.number - target
    world.chain.reorganize(depth, [()] * (depth + 1))
    await rewind(leader, target)
    base = world.state().window.base.number
    buckets = buckets_of(world)
    assert base > target
    assert check_joins(buckets, base, first_read=buckets[0].first, is_rewound=False) == Joins(
        Blocks(buckets[0].first, base)
    )
    assert [each.begins for each in buckets] == [True, False]
    check_digests(world, buckets)
