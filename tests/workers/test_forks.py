"""Forks in the leader's steps: what the chain took back is taken back, once, and nothing else is."""

from __future__ import annotations

import pytest

from virtual_time import in_virtual_time
from wallet_core.blocks import Block, Head, Header
from wallet_core.errors import ForkBelowWindow, KafkaUnreachable, NodeInconsistent, OutcomeUnknown
from wallet_core.testing.fake_chain import FakeChain, FakeNode
from wallet_world import ALICE, CHAIN_ID, World, led, mine_and_step


@in_virtual_time
async def test_a_fork_takes_the_deposit_back_and_its_twin_has_the_same_id() -> None:
    """A confirmed deposit is orphaned, then told again in its new block."""
    world = World()
    leader = await led(world)
    world.publish(ALICE)
    paid = world.chain.transfer(ALICE, 5)
    world.chain.mine(paid)
    await leader.catch_up()
    await mine_and_step(leader, 2)
    world.chain.reorganize(3, [(), (paid,), (), ()])
    await leader.catch_up()
    await mine_and_step(leader, 3)
    assert world.said() == [
        ("detected", paid.hash, 11),
        ("confirmed", paid.hash, 11),
        ("orphaned", paid.hash, 11),
        ("confirmed", paid.hash, 12),
    ]
    assert len({event["event_id"] for event in world.events()}) == 1
    assert [event["sequence"] for event in world.events()] == list(range(1, len(world.events()) + 1))


@in_virtual_time
async def test_a_deposit_that_the_chain_lost_stays_orphaned() -> None:
    """No twin, no further word."""
    world = World()
    leader = await led(world)
    world.publish(ALICE)
    paid = world.chain.transfer(ALICE, 5)
    world.chain.mine(paid)
    await leader.catch_up()
    world.chain.reorganize(1, [(), ()])
    await leader.catch_up()
    await mine_and_step(leader, 8)
    assert world.said() == [("detected", paid.hash, 11), ("orphaned", paid.hash, 11)]


@in_virtual_time
async def test_a_lower_tip_of_another_branch_is_rolled_back_to() -> None:
    """What the chain says now may be shorter than what it said before."""
    world = World()
    leader = await led(world)
    world.publish(ALICE)
    paid = world.chain.transfer(ALICE, 5)
    world.chain.mine()
    world.chain.mine(paid)
    await leader.catch_up()
    world.chain.reorganize(2, [()])
    await leader.catch_up()
    assert world.said() == [("detected", paid.hash, 12), ("orphaned", paid.hash, 12)]
    assert world.state().window.tip.hash == world.chain.tip.hash
    await mine_and_step(leader, 1)
    assert world.state().window.tip.hash == world.chain.tip.hash


@in_virtual_time
async def test_a_roll_back_is_counted_once_it_is_written_and_only_then() -> None:
    """One whose append failed is decided anew: alerts on forks must not see two."""
    world = World()
    failing: list[str] = []

    async def before(step: str) -> None:
        if step in failing:
            failing.clear()
            raise KafkaUnreachable("the answer was lost")

    leader = await led(world, before=before)
    await mine_and_step(leader, 4)
    world.chain.reorganize(3, [()])

    def counted() -> tuple[float | None, ...]:
        sample = leader.metrics.registry.get_sample_value
        return sample("wallet_rollbacks_total"), sample("wallet_rolled_back_blocks_total")

    failing.append("commit")
    with pytest.raises(OutcomeUnknown):
        await leader.sequencer.step()
    assert counted() == (0, 0)
    await leader.sequencer.recover()
    await leader.catch_up()
    assert counted() == (1, 3)
    await mine_and_step(leader, 3)
    assert counted() == (1, 3)


@in_virtual_time
async def test_a_late_node_takes_nothing_back() -> None:
    """A lower tip with our own hash is only late."""
    world = World()
    leader = await led(world)
    world.publish(ALICE)
    world.chain.mine(world.chain.transfer(ALICE, 5))
    world.chain.mine()
    await leader.catch_up()
    said, end = world.said(), world.state_end()
    for leader.node.lag in (1, 2, 4):
        assert not await leader.sequencer.step()
    assert (world.said(), world.state_end()) == (said, end)


@in_virtual_time
async def test_a_node_below_the_settled_blocks_is_no_late_one() -> None:
    """It is still syncing, or its chain was replaced: nothing is written, and it is said."""
    world = World()
    leader = await led(world)
    world.chain.mine_empty(5)
    await leader.catch_up()
    end = world.state_end()
    leader.node.lag = 11
    with pytest.raises(NodeInconsistent, match="below the settled block"):
        await leader.sequencer.step()
    assert world.state_end() == end


@in_virtual_time
async def test_a_node_that_flips_back_takes_nothing_back() -> None:
    """The head named another branch, but the block at its number is ours: a fork that is not there orphans nothing."""
    world = World()
    leader = await led(world)
    world.publish(ALICE)
    world.chain.mine(world.chain.transfer(ALICE, 5))
    world.chain.mine_empty(4)
    await leader.catch_up()
    said, end = world.said(), world.state_end()
    strange = Header(number=12, hash="0x" + "f0" * 32, parent_hash="0x" + "f1" * 32, timestamp=0)

    class NodeWhoseHeadFlips(FakeNode):
        async def head(self) -> Head:
            return Head(tip=strange, finalized=None)

    leader.sequencer._node = NodeWhoseHeadFlips(world.chain, world.clock)
    assert not await leader.sequencer.step()
    assert (world.said(), world.state_end()) == (said, end)


@in_virtual_time
async def test_branches_that_do_not_join_take_nothing_back() -> None:
    """A replaced block must name the common ancestor as its parent: else the answers came from different branches."""
    world = World()
    leader = await led(world)
    world.publish(ALICE)
    world.chain.mine(world.chain.transfer(ALICE, 5))
    world.chain.mine_empty(4)
    await leader.catch_up()
    said, end = world.said(), world.state_end()
    strange = Header(number=12, hash="0x" + "f0" * 32, parent_hash="0x" + "f1" * 32, timestamp=0)

    class NodeOfTwoBranches(FakeNode):
        async def head(self) -> Head:
            return Head(tip=strange, finalized=None)

        async def header(self, number: int) -> Header:
            return strange if number == 12 else await super().header(number)

    leader.sequencer._node = NodeOfTwoBranches(world.chain, world.clock)
    with pytest.raises(NodeInconsistent, match="parent"):
        await leader.sequencer.step()
    assert (world.said(), world.state_end()) == (said, end)


@in_virtual_time
async def test_a_fork_below_the_window_halts_and_writes_nothing() -> None:
    """There is no ancestor that may be rolled back to; when the chain comes back the leader goes on."""
    world = World()
    leader = await led(world)
    await mine_and_step(leader, 3)
    base, end = world.state().window.base.number, world.state_end()
    whole = FakeChain(CHAIN_ID)
    whole._blocks[:] = world.chain.blocks
    world.chain.reorganize(world.chain.tip.number - base + 1)
    world.chain.mine()
    for _ in range(2):
        with pytest.raises(ForkBelowWindow):
            await leader.sequencer.step()
    assert world.state_end() == end
    leader.node.chain = whole
    whole.mine()
    await leader.catch_up()
    assert world.state().window.tip.hash == whole.tip.hash


@in_virtual_time
async def test_a_block_that_does_not_fit_on_a_tip_that_the_node_has_too_changes_nothing() -> None:
    """The chain forked and came back between two answers, or the node contradicts itself: the next step looks again."""
    world = World()
    leader = await led(world)
    end = world.state_end()
    strange = Block(Header(11, "0x" + "f0" * 32, "0x" + "f1" * 32, 0))

    class NodeWithAStrangeBlock(FakeNode):
        async def block(self, number: int) -> Block:
            return strange if number == 11 else await super().block(number)

    world.chain.mine()
    leader.scanner._node = NodeWithAStrangeBlock(world.chain, world.clock)
    with pytest.raises(NodeInconsistent, match="block 11 does not name block 10"):
        await leader.sequencer.step()
    assert world.state_end() == end
    leader.scanner._node = leader.node
    await leader.catch_up()
    assert world.state().window.tip.hash == world.chain.tip.hash
