"""The quorum in the leader's steps: nothing settles that so many endpoints do not agree on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import pytest

from orders_world import outcome, worked_off
from virtual_time import in_virtual_time, until
from wallet_core.blocks import Block, Frame, Head, Header, Receipt, Transaction
from wallet_core.errors import ForkBelowWindow, InvalidSetting, NodeInconsistent, RpcUnreachable, WrongChain
from wallet_core.orders import OrderStatus
from wallet_core.settings import Role
from wallet_core.testing.fake_chain import FakeChain, FakeNode
from wallet_workers.sequencer import BLOCKS_PER_APPEND_MAX, QUORUM_LAG_BLOCKS
from wallet_world import ALICE, SETTLE_DEPTH, Replica, World, caught_up

ENDPOINTS = [{"url": "http://one:8545"}, {"url": "http://two:8545"}, {"url": "http://three:8545"}]


def world_of(quorum: int, endpoints: int = 3) -> World:
    return World(chain={"rpc": ENDPOINTS[:endpoints], "quorum": quorum})


async def led(world: World, others: int = 2) -> Replica:
    """A leader at the tip, whose node has other endpoints beside it."""
    await world.bootstrap()
    world.publish(ALICE)
    replica = Replica(world)
    replica.node.quorum = world.settings(Role.SYNC).chain.quorum
    replica.node.others = [world.node() for _ in range(others)]
    await replica.lead()
    await replica.catch_up()
    return replica


def test_a_quorum_beyond_the_endpoints_is_an_invalid_setting() -> None:
    """It could never be reached."""
    with pytest.raises(InvalidSetting, match="quorum 3 needs as many rpc endpoints, and there are 2"):
        world_of(3, endpoints=2).settings(Role.SYNC)


@in_virtual_time
async def test_a_block_settles_when_a_quorum_agrees() -> None:
    """Two of three are enough, whatever the third says."""
    world = world_of(2)
    replica = await led(world)
    replica.node.others[1].chain = world.chain.branch(8)
    world.chain.mine_empty(3)
    await replica.catch_up()
    assert world.state().window.base.number == world.chain.tip.number - SETTLE_DEPTH + 1


@in_virtual_time
async def test_without_a_quorum_nothing_is_written() -> None:
    """The step ends with the reason, and the very same state is looked at again."""
    world = world_of(2, endpoints=2)
    replica = await led(world, others=1)
    written, base = world.state_end(), world.state().window.base
    honest = replica.node.others[0].chain
    replica.node.others[0].chain = world.chain.branch(8)
    world.chain.mine(world.chain.transfer(ALICE, 5))
    for _ in range(2):
        with pytest.raises(NodeInconsistent, match="disagree"):
            await replica.sequencer.step()
    assert (world.state_end(), world.state().window.base) == (written, base)
    replica.node.others[0].is_unreachable = True
    with pytest.raises(RpcUnreachable, match="1 of 2"):
        await replica.sequencer.step()
    assert world.state_end() == written
    replica.node.others[0].is_unreachable, replica.node.others[0].chain = False, honest
    await replica.catch_up()
    assert world.state().window.base.number == base.number + 1
    assert [status for status, *_ in world.said()] == ["detected"]


@in_virtual_time
async def test_a_block_that_the_quorum_contradicts_is_not_settled() -> None:
    """The endpoint that is followed may be the one on a branch of its own."""
    world = world_of(2)
    replica = await led(world)
    written = world.state_end()
    others = world.chain.branch(8)
    for node in replica.node.others:
        node.chain = others
    world.chain.mine()
    agreed = others.blocks[world.state().window.base.number + 1].header
    with pytest.raises(NodeInconsistent, match=f"endpoints agree on {agreed.hash}"):
        await replica.sequencer.step()
    assert world.state_end() == written


@in_virtual_time
async def test_one_endpoint_on_another_branch_rolls_back_no_settled_block() -> None:
    """A fork below the window that only one endpoint has is that endpoint's fault: nothing halts, nothing is said."""
    world = world_of(2)
    replica = await led(world)
    written = world.state_end()
    replica.node.chain = world.chain.branch(SETTLE_DEPTH + 3)
    with pytest.raises(NodeInconsistent, match="it is not followed"):
        await replica.sequencer.step()
    assert world.state_end() == written
    replica.node.chain = world.chain
    world.chain.mine()
    await replica.catch_up()
    assert world.state().window.tip.hash == world.chain.tip.hash


@in_virtual_time
async def test_a_fork_below_the_window_of_a_quorum_halts() -> None:
    """Where the endpoints agree that a settled block is gone, a person must look; the message names the way out."""
    world = world_of(2)
    replica = await led(world)
    world.chain.reorganize(SETTLE_DEPTH + 3)
    with pytest.raises(ForkBelowWindow, match="walletctl sync rewind --to"):
        await replica.sequencer.step()


@in_virtual_time
async def test_the_reason_is_in_the_status_until_they_agree_again() -> None:
    """Whoever looks sees who disagrees; it is tried again by itself."""
    world = world_of(2, endpoints=2)
    await world.bootstrap()
    replica = Replica(world)
    replica.node.quorum, replica.node.others = 2, [world.node()]
    async with replica.running():
        await caught_up(replica)
        honest = replica.node.others[0].chain
        replica.node.others[0].chain = world.chain.branch(8)
        world.chain.mine()
        await until(lambda: replica.shown["reason"] == "RpcUnreachable")
        assert "NodeInconsistent: the endpoints disagree" in str(replica.shown["message"])
        replica.node.others[0].chain = honest
        await caught_up(replica)


@in_virtual_time
async def test_a_node_of_another_genesis_leads_to_nothing_written() -> None:
    """The state names its genesis block; a node that has another is of another chain, whatever its id."""
    world = World()
    await world.bootstrap()
    written = world.state_end()
    replica = Replica(world)
    replica.node.chain = FakeChain(world.chain.chain_id, "elsewhere")
    replica.node.chain.mine_empty(30)
    with pytest.raises(WrongChain, match="block 0"):
        await replica.lead()
    assert world.state_end() - written <= 1  # a recovery's own marker, and no record
    assert replica.shown["reason"] != "Working"


# --- far behind, and orders ---------------------------------------------------------------------------------------


class Boasting(FakeNode):
    """Says that its tip is higher than it is."""

    ahead = 0

    async def head(self) -> Head:
        head = await super().head()
        return Head(msgspec.structs.replace(head.tip, number=head.tip.number + self.ahead), head.finalized)


@in_virtual_time
async def test_one_endpoints_tip_alone_settles_nothing() -> None:
    """A block in the newest place is not settled, nor its deposit final, because one endpoint says that it is deep."""
    world = world_of(2)
    await world.bootstrap()
    world.publish(ALICE)
    node = Boasting(world.chain, world.clock)
    replica = Replica(world, node=node)
    node.quorum, node.others = 2, [world.node(), world.node()]
    await replica.lead()
    await replica.catch_up()
    world.chain.mine_empty(BLOCKS_PER_APPEND_MAX - 1)
    world.chain.mine(world.chain.transfer(ALICE, 5))
    node.ahead = 2 * SETTLE_DEPTH
    await replica.sequencer.step()
    assert [event["status"] for event in world.events()] == ["detected"]
    assert world.state().window.base.number == world.chain.tip.number - SETTLE_DEPTH + 1


@in_virtual_time
async def test_far_behind_a_quorums_tip_settles_blocks() -> None:
    """At once, as without a quorum, though the other endpoints are a little late."""
    world = world_of(2)
    replica = await led(world)
    for other in replica.node.others:
        other.lag = QUORUM_LAG_BLOCKS
    world.chain.mine(world.chain.transfer(ALICE, 5))
    world.chain.mine_empty(BLOCKS_PER_APPEND_MAX + SETTLE_DEPTH + QUORUM_LAG_BLOCKS)
    await replica.sequencer.step()
    assert world.state().window.blocks == ()
    assert [event["status"] for event in world.events()] == ["confirmed"]


@in_virtual_time
async def test_endpoints_are_held_only_to_blocks_that_settle() -> None:
    """That a quorum agrees on a block near the tip says how deep others are; the chain may still leave it."""
    world = world_of(2)
    await world.bootstrap()
    node = Remembering(world.chain, world.clock)
    replica = Replica(world, node=node)
    node.quorum, node.others = 2, [world.node(), world.node()]
    await replica.lead()
    await replica.catch_up()
    node.held_to = 0
    world.chain.mine_empty(BLOCKS_PER_APPEND_MAX + SETTLE_DEPTH + QUORUM_LAG_BLOCKS)
    await replica.catch_up()
    assert node.held_to == world.state().window.base.number


class Remembering(FakeNode):
    """Remembers the highest block that endpoints would be held to."""

    held_to = 0

    async def agreed_header(self, number: int, *, may_settle: bool = True) -> Header:
        if may_settle:
            self.held_to = max(self.held_to, number)
        return await super().agreed_header(number, may_settle=may_settle)


@in_virtual_time
async def test_a_rescan_says_nothing_that_one_endpoint_alone_says() -> None:
    """An old block with a deposit that only the first endpoint has is not read, and the outcome says why."""
    world = world_of(2)
    await world.bootstrap()
    world.publish(ALICE)
    node = Forging(world.chain, world.clock)
    replica = Replica(world, node=node)
    node.quorum, node.others = 2, [world.node(), world.node()]
    await replica.lead()
    world.chain.mine_empty(20)
    await replica.catch_up()
    forged = world.state().window.base.number - 2
    node.forge(forged, world.chain.transfer(ALICE, 10**21))
    world.order(id="r1", type="rescan", from_block=forged, to_block=forged)
    await worked_off(replica)
    assert world.events() == []
    assert "the chain's is" in outcome(world, "r1").message
    node.forged = None
    await worked_off(replica, rounds=80)
    assert outcome(world, "r1").status is OrderStatus.DONE


class Forging(FakeNode):
    """Gives one block with a transaction that nobody else knows, and a hash of its own."""

    forged: Block | None = None

    def forge(self, number: int, transaction: Transaction) -> None:
        header = self.chain.block_at(number).header
        self.forged = Block(msgspec.structs.replace(header, hash="0x" + "fa" * 32), (transaction,))

    async def block(self, number: int) -> Block:
        if self.forged is not None and number == self.forged.header.number:
            return self.forged
        return await super().block(number)

    async def header(self, number: int) -> Header:
        return (await super().block(number)).header

    async def receipt(self, transaction_hash: str, block_hash: str) -> Receipt:
        return Receipt(transaction_hash, block_hash, succeeded=True)

    async def frames(self, block: Block) -> Mapping[str, Sequence[Frame] | None] | None:
        return None if block == self.forged else await super().frames(block)
