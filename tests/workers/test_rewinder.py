"""Rewinds, step by step on the fakes: what is followed again, and what stands in the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from orders_world import fork_below_window, outcome, outcome_or_none, rewound, told_block, worked_off
from virtual_time import in_virtual_time, until
from wallet_core.addresses import Address, checksum_address
from wallet_core.blocks import Block, Header
from wallet_core.errors import NodeInconsistent
from wallet_core.messages import Topic
from wallet_core.orders import OrderStatus
from wallet_core.testing.fake_chain import FakeNode, transfer_log
from wallet_workers.orders import MESSAGES_HELD_MAX
from wallet_workers.rewinder import PATIENCE_SECONDS, RETRY_SECONDS
from wallet_world import (
    ALICE,
    BLOCKS_BEFORE_BOOTSTRAP,
    CHAIN_ID,
    ETH,
    PREFIX,
    SETTLE_DEPTH,
    Replica,
    World,
    caught_up,
    led,
)

TIP = BLOCKS_BEFORE_BOOTSTRAP
FIRST_BASE = TIP - SETTLE_DEPTH + 1
TOKEN = Address(b"\x70" * 20)
TOK = {"type": "erc20", "symbol": "TOK", "contract": checksum_address(TOKEN), "decimals": 6}


# --- following again -----------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_transfer_that_a_fork_moves_while_blocks_are_followed_again() -> None:
    """Its old block was not reached yet: it is taken back before the new one is told, and never told twice."""
    world = World()
    leader = await led(world)
    world.publish(ALICE)
    world.chain.mine_empty(9)
    moves = world.chain.transfer(ALICE, 3)
    world.chain.mine(moves)  # 20
    world.chain.mine_empty(2)
    await leader.catch_up()
    world.chain.roll_back(7)
    await rewound(leader, "w1", to=5)
    world.chain.mine(moves)  # 16
    await worked_off(leader, 1)
    world.chain.mine_empty(20)
    await worked_off(leader, 3)
    assert [each[::2] for each in world.said()] == [
        ("confirmed", 20),
        ("orphaned", 20),
        ("detected", 16),
        ("confirmed", 16),
    ]


@in_virtual_time
async def test_a_record_of_others_on_transaction_stops_no_leader() -> None:
    """A sweep's events come on the same topic; garbage is passed over. What is said goes on from our own."""
    world = World()
    leader = await led(world)
    world.publish(ALICE)
    paid = world.chain.transfer(ALICE, 1)
    world.chain.mine(paid)
    world.chain.mine_empty(20)
    await leader.catch_up()
    world.chain.roll_back(15)
    for value in (b"{}", b"\xff", None, b'{"type": "sweep", "status": "final"}'):
        world.broker.produce(PREFIX + Topic.TRANSACTION, None, value, partition=0)
    await rewound(leader, "w1", to=5)
    assert world.state().replay_to is not None
    await leader.sequencer.close()
    await leader.lock.release()
    heir = Replica(world)
    await heir.lead()
    world.chain.mine_empty(20)
    await worked_off(heir, 3)
    assert world.state().replay_to is None
    assert world.state().sequence == 1


# --- assets' first blocks ------------------------------------------------------------------------------------------


@in_virtual_time
async def test_an_asset_added_counts_from_the_next_block_of_whichever_branch() -> None:
    """A fork moves a transfer that was reported in the asset's first block to the one below: it is not lost."""
    world = World()
    world.assets = [TOK]
    leader = await led(world)
    await leader.sequencer.close()
    await leader.lock.release()
    world.assets = [TOK, ETH]
    heir = Replica(world, generation=2, settings_hash="beef")
    await heir.lead()
    assert world.state().asset_first_blocks["native"] == TIP + 1
    world.publish(ALICE)
    paid = world.chain.transfer(ALICE, 5)
    world.chain.mine(paid)
    await worked_off(heir, 2)
    world.chain.reorganize(2, [(paid,), (), ()])
    await worked_off(heir, 2)
    assert [each[::2] for each in world.said()] == [
        ("detected", TIP + 1),
        ("orphaned", TIP + 1),
        ("confirmed", TIP),
    ]


@in_virtual_time
async def test_after_a_rewind_every_asset_counts_from_the_next_block() -> None:
    """Also one that was added above the block that the wallet went back to."""
    world = World()
    leader = await led(world)
    world.publish(ALICE)
    world.chain.mine_empty(10)
    await leader.catch_up()
    await leader.sequencer.close()
    await leader.lock.release()
    world.assets = [ETH, TOK]
    heir = Replica(world, generation=2, settings_hash="beef")
    await heir.lead()
    paid = world.chain.transfer(TOKEN, 0, logs=[transfer_log(TOKEN, ALICE, 5)])
    world.chain.mine(paid)  # 21
    world.chain.mine_empty(2 * SETTLE_DEPTH)
    await worked_off(heir, 2)
    depth = world.chain.tip.number - 12
    world.chain.reorganize(depth, [(paid,), *[()] * (depth + 1)])  # now in 13
    await rewound(heir, "w1", to=FIRST_BASE)
    assert [each[::2] for each in world.said()] == [("confirmed", 21), ("orphaned", 21), ("confirmed", 13)]


# --- which blocks are asked about ---------------------------------------------------------------------------------


class AskedNode(FakeNode):
    """Knows which blocks the quorum was asked about, and may be slow or fail about some."""

    def __init__(self, world: World) -> None:
        super().__init__(world.chain, world.clock, chain_id=CHAIN_ID)
        self.answered: list[int] = []
        self.slow = range(0)
        """Blocks about which it does not answer before `go_on`."""
        self.go_on = asyncio.Event()
        self.flaky: set[int] = set()
        """Blocks about which it fails the next time."""

    async def agreed_header(self, number: int, *, may_settle: bool = True) -> Header:
        """See the port."""
        if number in self.slow:
            await self.go_on.wait()
        if number in self.flaky:
            self.flaky.remove(number)
            raise NodeInconsistent("endpoints disagree")
        self.answered.append(number)
        return await super().agreed_header(number, may_settle=may_settle)


DEPOSIT_BLOCKS = 200


@asynccontextmanager
async def many_deposits() -> AsyncIterator[tuple[World, Replica, AskedNode]]:
    """A wallet with a deposit in each of many settled blocks, the first of which is the one after `TIP`."""
    world = World()
    await world.bootstrap()
    node = AskedNode(world)
    replica = Replica(world, node=node)
    async with replica.running():
        await caught_up(replica)
        world.publish(ALICE)
        for _ in range(DEPOSIT_BLOCKS):
            world.chain.mine(world.chain.transfer(ALICE, 1))
        world.chain.mine_empty(2 * SETTLE_DEPTH)
        await caught_up(replica)
        yield world, replica, node


@in_virtual_time
async def test_nothing_is_asked_about_blocks_that_are_known_to_be_common() -> None:
    """While the node has the settled block, none below it can be gone, however many have deposits."""
    async with many_deposits() as (world, _, node):
        node.answered.clear()
        world.order(id="w1", type="rewind", to=TIP)
        await until(lambda: (found := outcome_or_none(world, "w1")) and found.status is OrderStatus.DONE)
        assert set(node.answered) <= {TIP, world.chain.tip.number - SETTLE_DEPTH + 1}


@in_virtual_time
async def test_a_rewind_that_asks_about_many_blocks_can_be_cancelled() -> None:
    """The leader is not held up by what it asks; nothing was taken back yet."""
    async with many_deposits() as (world, replica, node):
        fork_below_window(world, keep=TIP + 5)
        await until(lambda: replica.shown["reason"] == "Halted")
        node.slow = range(TIP + 150, TIP + 151)  # no bisection asks about it
        world.order(id="w1", type="rewind", to=TIP + 2)
        await until(lambda: (found := outcome_or_none(world, "w1")) and found.status is OrderStatus.ACCEPTED)
        await until(lambda: node.answered and node.answered[-1] >= TIP + 140)
        world.order(id="c1", type="cancel", order="w1")
        await until(lambda: outcome(world, "w1").status is OrderStatus.CANCELLED)
        assert {status for status, _, _ in world.said()} == {"confirmed"}
        node.go_on.set()
        world.order(id="w2", type="rewind", to=TIP + 2)
        await until(lambda: (found := outcome_or_none(world, "w2")) and found.status is OrderStatus.DONE)
        await caught_up(replica)
        gone = [number for status, _, number in world.said() if status == "orphaned"]
        assert sorted(gone) == list(range(TIP + 6, TIP + DEPOSIT_BLOCKS + 1))


@in_virtual_time
async def test_what_was_agreed_on_is_not_asked_again_after_a_fault() -> None:
    """A node that fails now and then does not make a rewind of many blocks begin from zero, nor run out of patience."""
    async with many_deposits() as (world, replica, node):
        fork_below_window(world, keep=TIP + 5)
        await until(lambda: replica.shown["reason"] == "Halted")
        node.answered.clear()
        node.flaky = set(range(TIP + 6, TIP + DEPOSIT_BLOCKS, 9))
        faults = len(node.flaky)
        world.order(id="w1", type="rewind", to=TIP + 2)
        await until(lambda: (found := outcome_or_none(world, "w1")) and found.status is OrderStatus.DONE)
        assert not node.flaky
        assert outcome(world, "w1").published == DEPOSIT_BLOCKS - 5
        asked_by_bisection = 40  # for each try, and for each look at what is known
        assert len(node.answered) < DEPOSIT_BLOCKS + (faults + 5) * asked_by_bisection
        await caught_up(replica)


# --- what stands in the way ----------------------------------------------------------------------------------------


async def lacks(numbers: range, block: object, number: int) -> Block:
    """A node that has the headers of some blocks, and their bodies no more."""
    if number in numbers:
        raise NodeInconsistent("pruned history unavailable")
    return await block(number)  # type: ignore[operator, no-any-return]  # the node's own method


async def header_only(block: object, number: int) -> Header:
    return (await block(number)).header  # type: ignore[operator, no-any-return]  # the node's own method


@in_virtual_time
@pytest.mark.parametrize("headers_too", [True, False])
async def test_a_rewind_that_the_node_cannot_serve_does_not_stop_the_head(*, headers_too: bool) -> None:
    """It is tried for a while, says why, and is refused in the end. Meanwhile deposits are told."""
    world = World()
    await world.bootstrap()
    replica = Replica(world)
    async with replica.running():
        await caught_up(replica)
        world.publish(ALICE)
        world.chain.mine_empty(20)
        await caught_up(replica)
        block = replica.node.block
        if not headers_too:
            replica.node.header = partial(header_only, block)  # type: ignore[method-assign]  # a pruned node
        replica.node.block = partial(lacks, range(1, 9), block)  # type: ignore[method-assign]  # a pruned node
        world.order(id="w1", type="rewind", to=5)
        await until(lambda: (found := outcome_or_none(world, "w1")) and "pruned" in found.message)
        assert outcome(world, "w1").status is OrderStatus.ACCEPTED
        world.chain.mine(world.chain.transfer(ALICE, 5))
        await caught_up(replica)
        assert [status for status, _, _ in world.said()] == ["detected"]
        await asyncio.sleep(PATIENCE_SECONDS + 20)
        assert outcome(world, "w1").status is OrderStatus.REFUSED
        assert "pruned" in outcome(world, "w1").message
        world.order(id="w2", type="rewind", to=10)
        await until(lambda: (found := outcome_or_none(world, "w2")) and found.status is OrderStatus.DONE)
        await caught_up(replica)


@in_virtual_time
@pytest.mark.parametrize("is_halted", [True, False])
async def test_a_rewind_goes_on_when_the_node_has_its_blocks_again(*, is_halted: bool) -> None:
    """At its next try, without another order; the outcome does not keep the old reason."""
    world = World()
    await world.bootstrap()
    replica = Replica(world)
    async with replica.running():
        await caught_up(replica)
        world.chain.mine_empty(20)
        await caught_up(replica)
        if is_halted:
            fork_below_window(world, keep=8)
            await until(lambda: replica.shown["reason"] == "Halted")
        replica.node.null_blocks = {6}
        world.order(id="w1", type="rewind", to=5)
        await until(lambda: (found := outcome_or_none(world, "w1")) and "block 6" in found.message)
        replica.node.null_blocks = set()
        mended_at = world.clock.monotonic()
        await until(lambda: outcome(world, "w1").status is OrderStatus.DONE)
        assert world.clock.monotonic() - mended_at < 2 * RETRY_SECONDS
        assert "follows the chain" in outcome(world, "w1").message


@in_virtual_time
async def test_a_rewind_is_seen_where_the_head_cannot_be_served() -> None:
    """The chain was replaced by a shorter one: the head waits for the node for ever, and the rewind is what helps."""
    world = World()
    await world.bootstrap()
    replica = Replica(world)
    async with replica.running():
        await caught_up(replica)
        world.publish(ALICE)
        world.chain.mine(world.chain.transfer(ALICE, 5))  # 11
        world.chain.mine_empty(40)
        await caught_up(replica)
        world.chain.reorganize(38, [()] * 10)  # tip 23
        await until(lambda: replica.shown["reason"] == "RpcUnreachable")
        world.order(id="w1", type="rewind", to=12)
        await until(lambda: (found := outcome_or_none(world, "w1")) and found.status is OrderStatus.REFUSED)
        assert told_block(world, "w1") == 11
        world.order(id="w2", type="rewind", to=11)
        await until(lambda: (found := outcome_or_none(world, "w2")) and found.status is OrderStatus.DONE)
        await caught_up(replica)


@in_virtual_time
@pytest.mark.parametrize("before", [100, MESSAGES_HELD_MAX + 5])
async def test_a_halted_leader_sees_a_rewind_behind_whatever_else_lies_there(before: int) -> None:
    """However many messages come before it: more than one read gives, and more than are held."""
    world = World()
    await world.bootstrap()
    replica = Replica(world)
    async with replica.running():
        await caught_up(replica)
        world.chain.mine_empty(2 * SETTLE_DEPTH)
        await caught_up(replica)
        fork_below_window(world, keep=FIRST_BASE + 1)
        await until(lambda: replica.shown["reason"] == "Halted")
        for _ in range(before):
            world.broker.produce(PREFIX + Topic.ORDERS, None, b"garbage")
        world.order(id="w1", type="rewind", to=FIRST_BASE)
        await until(lambda: (found := outcome_or_none(world, "w1")) and found.status is OrderStatus.DONE)
        await caught_up(replica)
