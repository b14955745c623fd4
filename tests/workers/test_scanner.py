"""Finding the deposits in a range of blocks: nothing published is missed, nothing else is found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from virtual_time import in_virtual_time
from wallet_core.addresses import Address, checksum_address
from wallet_core.blocks import Block, Header
from wallet_core.chain import BlockRef, WindowBlock
from wallet_core.errors import NodeInconsistent, RpcUnreachable
from wallet_core.testing.fake_chain import FakeChain, FakeNode
from wallet_core.testing.fake_kafka import FakeAddressFeed
from wallet_core.transfers import Scope
from wallet_world import ALICE, BOB, PREFIX, Replica, World

GAS = Address(b"\x6a" * 20)


def since(block: int, gas_address: str | None = None) -> Scope:
    """ETH is reported from `block` on."""
    return Scope({"native": block}, gas_address)


async def new_world(**spec: dict[str, object]) -> World:
    world = World(**spec)
    await world.bootstrap()
    return world


def parent_of(chain: FakeChain, number: int) -> BlockRef:
    return BlockRef(number - 1, chain.blocks[number - 1].header.hash)


async def scan(replica: Replica, first: int, last: int, gas_address: str | None = None) -> tuple[WindowBlock, ...]:
    return await replica.scanner.scan(parent_of(replica.world.chain, first), first, last, since(0, gas_address))


def found(blocks: Sequence[WindowBlock]) -> list[tuple[int, str | None]]:
    return [(block.number, deposit.txid) for block in blocks for deposit in block.deposits]


@in_virtual_time
async def test_deposits_to_published_addresses_are_found_in_their_blocks() -> None:
    """Every block comes back, in order, with its own deposits in the block's order."""
    world = await new_world()
    world.publish(ALICE)
    world.publish(BOB)
    first, second, third = (world.chain.transfer(to, 5) for to in (ALICE, BOB, ALICE))
    stranger = world.chain.transfer(Address(b"\x99" * 20), 5)
    world.chain.mine(stranger, second, first)
    world.chain.mine()
    world.chain.mine(third)
    blocks = await scan(Replica(world), 11, 13)
    assert found(blocks) == [(11, second.hash), (11, first.hash), (13, third.hash)]
    assert [(block.number, block.hash, block.parent_hash, block.timestamp) for block in blocks] == [
        (each.header.number, each.header.hash, each.header.parent_hash, each.header.timestamp)
        for each in world.chain.blocks[11:]
    ]


@in_virtual_time
async def test_an_address_published_while_the_block_is_fetched_is_found() -> None:
    """Whoever pays has seen the record, so it lies below the end that is asked for after fetching."""
    world = await new_world()

    class NodeDuringWhichSomebodyAsks(FakeNode):
        async def block(self, number: int) -> Block:
            block = await super().block(number)
            world.publish(ALICE)
            return block

    paid = world.chain.transfer(ALICE, 5)
    world.chain.mine(paid)
    replica = Replica(world, node=NodeDuringWhichSomebodyAsks(world.chain, world.clock))
    await replica.scanner.read_addresses()
    assert found(await scan(replica, 11, 11)) == [(11, paid.hash)]


@in_virtual_time
async def test_an_address_whose_record_is_not_committed_is_not_watched() -> None:
    """An aborted answer was never given to anybody."""
    world = await new_world()
    producer = world.broker.start_producer("wallets.mainnet-eu.command-0")
    producer.send(PREFIX + "address.created", checksum_address(ALICE).lower().encode(), b"{}")
    world.broker.start_producer("wallets.mainnet-eu.command-0")
    world.chain.mine(world.chain.transfer(ALICE, 5))
    assert found(await scan(Replica(world), 11, 11)) == []


@in_virtual_time
async def test_an_address_that_was_never_published_is_not_found() -> None:
    """The rest of the chain is nobody's business."""
    world = await new_world()
    world.publish(BOB)
    world.chain.mine(world.chain.transfer(ALICE, 5))
    assert found(await scan(Replica(world), 11, 11)) == []


@in_virtual_time
async def test_failed_transfers_creations_and_empty_ones_are_no_deposits() -> None:
    """Only value that moved to an account counts."""
    world = await new_world()
    world.publish(ALICE)
    chain = world.chain
    fine = chain.transfer(ALICE, 1)
    chain.mine(chain.transfer(ALICE, 5, fails=True), chain.transfer(None, 5), chain.transfer(ALICE, 0), fine)
    assert found(await scan(Replica(world), 11, 11)) == [(11, fine.hash)]


@in_virtual_time
async def test_what_the_gas_account_sends_is_no_deposit() -> None:
    """It is funding."""
    world = await new_world()
    world.publish(ALICE)
    own, other = world.chain.transfer(ALICE, 5, sender=GAS), world.chain.transfer(ALICE, 5, sender=BOB)
    world.chain.mine(own, other)
    assert found(await scan(Replica(world), 11, 11, checksum_address(GAS))) == [(11, other.hash)]


@in_virtual_time
async def test_an_asset_is_reported_from_its_first_block_on() -> None:
    """Earlier transfers belong to a time when nobody asked for them."""
    world = await new_world()
    world.publish(ALICE)
    before, after = world.chain.transfer(ALICE, 1), world.chain.transfer(ALICE, 2)
    world.chain.mine(before)
    world.chain.mine(after)
    blocks = await Replica(world).scanner.scan(parent_of(world.chain, 11), 11, 12, since(12))
    assert (len(blocks), found(blocks)) == (2, [(12, after.hash)])


@in_virtual_time
async def test_blocks_that_do_not_continue_the_chain_are_left_out() -> None:
    """The part before the break comes back; with another parent, nothing does."""
    world = await new_world()
    world.chain.mine_empty(3)
    replica = Replica(world)

    class NodeThatForksMeanwhile(FakeNode):
        async def block(self, number: int) -> Block:
            block = await super().block(number)
            if number != 12:
                return block
            return Block(Header(12, "0x" + "f0" * 32, "0x" + "f1" * 32, block.header.timestamp))

    torn = Replica(world, node=NodeThatForksMeanwhile(world.chain, world.clock))
    assert [block.number for block in await scan(torn, 11, 13)] == [11]
    assert await replica.scanner.scan(BlockRef(10, "0x" + "f0" * 32), 11, 13, since(0)) == ()


@pytest.mark.parametrize("fault", ["null block", "null receipt", "foreign receipt", "malformed recipient"])
@in_virtual_time
async def test_a_node_that_contradicts_itself_is_never_read_as_no_deposits(fault: str) -> None:
    """Nodes lie by omission: the scan fails as a whole, and a later one finds the deposit."""
    world = await new_world()
    world.publish(ALICE)
    paid = world.chain.transfer(ALICE, 5)
    world.chain.mine(paid)
    node = FakeNode(world.chain, world.clock)
    match fault:
        case "null block":
            node.null_blocks.add(11)
        case "null receipt":
            node.null_receipts.add(paid.hash)
        case "foreign receipt":
            node.foreign_receipts[paid.hash] = world.chain.blocks[3].header.hash
        case "malformed recipient":
            world.chain.mine(world.chain.transfer(Address(b"\x12"), 5))
    replica = Replica(world, node=node)
    with pytest.raises(NodeInconsistent):
        await scan(replica, 11, 12 if fault == "malformed recipient" else 11)
    node.null_blocks.clear()
    node.null_receipts.clear()
    node.foreign_receipts.clear()
    assert found(await scan(replica, 11, 11)) == [(11, paid.hash)]


@in_virtual_time
async def test_one_failing_request_fails_the_scan_with_its_own_error() -> None:
    """The reason in `/status` is the node's, not that of a group of tasks."""
    world = await new_world()
    world.chain.mine_empty(20)
    node = FakeNode(world.chain, world.clock)
    node.is_unreachable = True
    with pytest.raises(RpcUnreachable):
        await scan(Replica(world, node=node), 11, 30)


@in_virtual_time
async def test_each_address_is_taken_in_once() -> None:
    """The set grows by what is new, and `/status` counts it."""
    world = await new_world()
    replica = Replica(world, feed=FakeAddressFeed(world.broker, topic_prefix=PREFIX, partitions=2))
    world.publish(ALICE)
    await replica.scanner.read_addresses()
    world.publish(ALICE)
    world.publish(BOB)
    await replica.scanner.read_addresses()
    await replica.scanner.read_addresses()
    assert replica.shown["addresses"] == 2
    assert replica.metrics.registry.get_sample_value("wallet_addresses") == 2


@in_virtual_time
async def test_a_reading_that_is_given_up_loses_no_address() -> None:
    """A scan may be given up anywhere, as when its span went to another; the feed hands out nothing twice."""
    world = await new_world()

    class SlowFeed(FakeAddressFeed):
        async def read_to_stable_end(self) -> AsyncIterator[Sequence[Address]]:
            async for batch in super().read_to_stable_end():
                yield batch
                await asyncio.sleep(1)

    published = 5 * FakeAddressFeed.BATCH_ADDRESSES_MAX
    for number in range(published):
        world.publish(Address(number.to_bytes(20)))
    replica = Replica(world, feed=SlowFeed(world.broker, topic_prefix=PREFIX, partitions=2))
    given_up = asyncio.create_task(replica.scanner.read_addresses())
    await asyncio.sleep(1.5)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    assert 0 < replica.scanner.addresses < published
    await replica.scanner.read_addresses()
    assert replica.scanner.addresses == published
