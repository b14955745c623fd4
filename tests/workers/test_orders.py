"""Orders, step by step on the fakes: rescans beside the head, rewinds before it, and what becomes of each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from orders_world import fork_below_window, outcome, outcome_or_none, worked_off
from virtual_time import in_virtual_time, until
from wallet_core.addresses import checksum_address, lower_hex
from wallet_core.errors import ForkBelowWindow
from wallet_core.messages import Topic
from wallet_core.orders import OrderStatus
from wallet_core.rescans import BLOCKS_PER_BATCH_MAX
from wallet_workers.bootstrap import BootstrapFailed
from wallet_workers.orders import LOOK_SECONDS
from wallet_world import (
    ALICE,
    BLOCKS_BEFORE_BOOTSTRAP,
    BOB,
    PREFIX,
    SETTLE_DEPTH,
    BootstrapRun,
    Replica,
    World,
    caught_up,
    led,
)

TIP = BLOCKS_BEFORE_BOOTSTRAP


class Killed(BaseException):
    """The end of a process, at this very moment."""


async def led_until_killed(replica: Replica) -> None:
    await replica.lead()
    while True:
        await replica.sequencer.step()
        await asyncio.sleep(LOOK_SECONDS)


# --- rescans -------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_an_address_watched_later_gets_its_earlier_deposits() -> None:
    """The rescan says `confirmed` of what came before, once; the head says the rest."""
    world = World()
    leader = await led(world)
    early = world.chain.transfer(BOB, 5)
    world.chain.mine(early)
    world.chain.mine_empty(20)
    await leader.catch_up()
    world.broker.produce(PREFIX + Topic.ADDRESS_CREATED, b"watch:" + lower_hex(BOB).encode(), b"{}")
    world.order(id="r1", type="rescan", from_block=0)
    await worked_off(leader)
    assert world.said() == [("confirmed", early.hash, TIP + 1)]
    assert world.events()[0]["confirmations"] == world.chain.tip.number - TIP
    assert outcome(world, "r1").status is OrderStatus.RUNNING  # the unsettled blocks are waited for
    world.chain.mine_empty(SETTLE_DEPTH)
    await worked_off(leader)
    assert (outcome(world, "r1").status, outcome(world, "r1").published) == (OrderStatus.DONE, 1)
    world.order(id="r2", type="rescan", from_block=0)
    world.chain.mine_empty(SETTLE_DEPTH)
    await worked_off(leader)
    world.chain.mine_empty(SETTLE_DEPTH)
    await worked_off(leader)
    assert (outcome(world, "r2").status, outcome(world, "r2").published) == (OrderStatus.DONE, 0)
    assert len(world.said()) == 1


@in_virtual_time
async def test_a_rescan_knows_the_gas_address_of_the_checkpoint() -> None:
    """What it sent is no deposit, read again by settings that forgot it, either."""
    world = World(sweep={"gasAddress": checksum_address(ALICE)})
    leader = await led(world)
    await leader.lock.release()
    world.chain.mine(world.chain.transfer(BOB, 5, sender=ALICE), other := world.chain.transfer(BOB, 6))
    world.chain.mine_empty(SETTLE_DEPTH)
    world.spec = {}
    heir = Replica(world)
    await heir.lead()
    await heir.catch_up()
    world.publish(BOB)
    world.order(id="r1", type="rescan", from_block=0)
    world.chain.mine_empty(SETTLE_DEPTH)
    await worked_off(heir)
    world.chain.mine_empty(SETTLE_DEPTH)
    await worked_off(heir)
    assert outcome(world, "r1").status is OrderStatus.DONE
    assert [txid for _, txid, _ in world.said()] == [other.hash]


@in_virtual_time
async def test_head_and_rescan_meet_without_gap_or_overlap() -> None:
    """A deposit in every block around the meeting point: each is confirmed exactly once, whoever found it."""
    world = World()
    leader = await led(world)
    paid = [world.chain.transfer(BOB, n + 1) for n in range(3 * SETTLE_DEPTH)]
    for transfer in paid[:SETTLE_DEPTH]:
        world.chain.mine(transfer)
    await leader.catch_up()
    world.publish(BOB)
    world.order(id="r1", type="rescan", from_block=1)
    await worked_off(leader, 3)  # taken at the last block that was matched without the address
    assert outcome(world, "r1").to_block == world.chain.tip.number
    for transfer in paid[SETTLE_DEPTH:]:
        world.chain.mine(transfer)
        await worked_off(leader, 3)
    world.chain.mine_empty(SETTLE_DEPTH)
    await worked_off(leader)
    confirmed = [txid for status, txid, _ in world.said() if status == "confirmed"]
    assert sorted(confirmed) == sorted(transfer.hash for transfer in paid)
    detected = [txid for status, txid, _ in world.said() if status == "detected"]
    assert sorted(detected) == sorted(transfer.hash for transfer in paid[SETTLE_DEPTH:])
    assert outcome(world, "r1").status is OrderStatus.DONE


@in_virtual_time
async def test_a_new_leader_goes_on_where_the_rescan_was() -> None:
    """Its place is in the checkpoint: batches that were appended are not read again."""
    world = World()
    leader = await led(world)
    paid = world.chain.transfer(BOB, 5)
    world.chain.mine(paid)
    world.chain.mine_empty(4 * BLOCKS_PER_BATCH_MAX)
    await worked_off(leader)
    world.publish(BOB)
    world.order(id="r1", type="rescan", from_block=0)
    while outcome_or_none(world, "r1") is None or outcome(world, "r1").next_block <= BLOCKS_PER_BATCH_MAX:
        await leader.sequencer.step()
        await asyncio.sleep(LOOK_SECONDS)
    middle = outcome(world, "r1").next_block
    assert middle <= 2 * BLOCKS_PER_BATCH_MAX + 1
    await leader.sequencer.close()
    await leader.lock.release()
    successor = Replica(world)
    asked: list[int] = []
    block = successor.node.block

    async def counted(number: int) -> object:
        asked.append(number)
        return await block(number)

    successor.node.block = counted  # type: ignore[assignment, method-assign]  # to see what is asked
    await successor.lead()
    await worked_off(successor)
    assert min(number for number in asked if number > 0) == middle  # the genesis block proves the chain
    assert [txid for _, txid, _ in world.said()] == [paid.hash]


@in_virtual_time
async def test_orders_that_are_none_are_refused_and_harm_nothing() -> None:
    """Each gets an outcome that says why, and the next order is carried out."""
    world = World()
    leader = await led(world)
    for value in (b"garbage", b"\xff", None, b"[]", b'{"id": "x", "type": "dance"}', b'{"id": 7, "type": "rewind"}'):
        world.broker.produce(PREFIX + Topic.ORDERS, None, value)
    world.order(id="high", type="rescan", from_block=0, to_block=10**9)
    world.order(id="backwards", type="rescan", from_block=5, to_block=4)
    world.order(id="bad id!", type="rescan", from_block=5)
    world.order(id="good", type="rescan", from_block=1, to_block=3)
    await worked_off(leader)
    outcomes = {order.id: order for order in world.state().orders.orders}
    assert outcomes.pop("good").status is OrderStatus.DONE
    assert set(outcomes) == {f"offset-{n}" for n in (0, 1, 2, 3, 4, 5, 8)} | {"high", "backwards"}
    assert all(order.status is OrderStatus.REFUSED and order.message for order in outcomes.values())


@in_virtual_time
async def test_the_same_id_is_the_same_order() -> None:
    """Sent twice, carried out once."""
    world = World()
    leader = await led(world)
    world.order(id="r1", type="rescan", from_block=1, to_block=3)
    world.order(id="r1", type="rescan", from_block=1, to_block=4)
    await worked_off(leader)
    assert [order.to_block for order in world.state().orders.orders] == [3]
    assert world.state().orders.position == 2


@in_virtual_time
async def test_a_node_that_fails_the_rescan_does_not_disturb_the_head() -> None:
    """The head is served, no trouble is shown, and the rescan goes on when the node has its old blocks again."""
    world = World()
    leader = await led(world)
    leader.node.null_blocks = {2}
    world.order(id="r1", type="rescan", from_block=1, to_block=4)
    await worked_off(leader, 3)
    world.chain.mine()
    await worked_off(leader, 3)
    assert world.state().window.tip.number == world.chain.tip.number
    assert leader.shown["troubles"] == []
    leader.node.null_blocks = set()
    await worked_off(leader)
    assert outcome(world, "r1").status is OrderStatus.DONE


# --- rewinds -------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_rewind_is_the_way_out_of_a_fork_below_the_window() -> None:
    """What is gone is orphaned, what moved is told anew, what stayed is not told again; sequence goes on."""
    world = World()
    leader = await led(world)
    world.publish(ALICE)
    stays, moves, dies = (world.chain.transfer(ALICE, n) for n in (1, 2, 3))
    world.chain.mine(stays)  # 11
    world.chain.mine()  # 12
    world.chain.mine(moves)  # 13
    world.chain.mine(dies)  # 14
    world.chain.mine_empty(2 * SETTLE_DEPTH)
    await leader.catch_up()
    before = len(world.events())
    depth = world.chain.tip.number - 12
    world.chain.reorganize(depth, [(), (moves,), *[()] * depth])
    with pytest.raises(ForkBelowWindow):
        await leader.catch_up()
    world.order(id="w1", type="rewind", to=11)
    await leader.sequencer.recover()
    await worked_off(leader)
    assert world.said()[before:] == [
        ("orphaned", dies.hash, 14),
        ("orphaned", moves.hash, 13),
        ("confirmed", moves.hash, 14),
    ]
    assert [event["sequence"] for event in world.events()] == list(range(1, len(world.events()) + 1))
    assert (outcome(world, "w1").status, outcome(world, "w1").published) == (OrderStatus.DONE, 2)
    assert world.state().window.tip.hash == world.chain.tip.hash
    said = world.said()
    world.chain.mine_empty(SETTLE_DEPTH)
    await worked_off(leader, 3)
    assert world.state().replay_to is None
    assert world.said() == said


@in_virtual_time
async def test_a_halted_loop_sees_a_rewind_at_once_and_writes_nothing_else() -> None:
    """Within seconds, not at the next minute; a rescan that waits in the topic is not even taken while it is halted."""
    world = World()
    await world.bootstrap()
    replica = Replica(world)
    async with replica.running():
        await caught_up(replica)
        world.chain.mine_empty(2 * SETTLE_DEPTH)
        await caught_up(replica)
        fork_below_window(world, keep=3)
        await until(lambda: replica.shown["reason"] == "Halted")
        end = world.state_end()
        world.order(id="r1", type="rescan", from_block=1, to_block=2)
        await asyncio.sleep(70)
        assert world.state_end() == end
        world.order(id="w1", type="rewind", to=2)
        ordered_at = world.clock.monotonic()
        await until(lambda: (found := outcome_or_none(world, "w1")) and found.status is OrderStatus.DONE)
        assert world.clock.monotonic() - ordered_at < 5
        await caught_up(replica)
        await until(lambda: outcome(world, "r1").status is OrderStatus.DONE)


@in_virtual_time
@pytest.mark.parametrize(
    ("to", "why"), [(lambda world: world.state().window.base.number + 1, "newest settled one of the wallet")]
)
async def test_a_rewind_that_would_leave_something_out_is_refused(to: Callable[[World], int], why: str) -> None:
    """Nothing changes but the outcome."""
    world = World()
    leader = await led(world)
    window = world.state().window
    world.order(id="w1", type="rewind", to=to(world))
    await worked_off(leader)
    assert outcome(world, "w1").status is OrderStatus.REFUSED
    assert why in outcome(world, "w1").message
    assert world.state().window == window


@in_virtual_time
async def test_a_rewind_that_was_cut_off_is_finished_by_the_next_leader() -> None:
    """Whatever commit was the last one: the events in the end are the same, each once."""
    for cut_after in range(1, 4):
        world = World()
        leader = await led(world)
        world.publish(ALICE)
        dies = world.chain.transfer(ALICE, 3)
        world.chain.mine(dies)
        world.chain.mine_empty(2 * SETTLE_DEPTH)
        await leader.catch_up()
        fork_below_window(world, keep=TIP)
        world.order(id="w1", type="rewind", to=5)
        await leader.sequencer.close()
        await leader.lock.release()
        commits = 0

        async def before(step: str, cut_after: int = cut_after) -> None:
            nonlocal commits
            commits += step == "commit"
            if commits == cut_after:
                raise Killed

        cut = Replica(world, before=before)
        with pytest.raises(Killed):
            await led_until_killed(cut)
        await cut.sequencer.close()
        await cut.lock.release()
        successor = Replica(world)
        await successor.lead()
        await worked_off(successor)
        assert [each[:2] for each in world.said()] == [("confirmed", dies.hash), ("orphaned", dies.hash)]


@in_virtual_time
async def test_a_fork_while_the_old_blocks_are_followed_again() -> None:
    """A deposit above the replayed tip whose block is forked away meanwhile is orphaned when its number comes."""
    world = World()
    leader = await led(world)
    world.publish(ALICE)
    world.chain.mine_empty(9)
    dies = world.chain.transfer(ALICE, 3)
    world.chain.mine(dies)
    world.chain.mine_empty(2)
    await leader.catch_up()
    gone = world.chain.roll_back(4)  # the node is behind for a while: the deposit's block cannot be judged
    world.order(id="w1", type="rewind", to=5)
    await leader.sequencer.recover()
    await worked_off(leader, 3)
    assert outcome(world, "w1").status is OrderStatus.DONE
    assert [status for status, _, _ in world.said()] == ["confirmed"]
    world.chain.mine_empty(len(gone) + 1)
    await worked_off(leader, 3)
    assert [status for status, _, _ in world.said()] == ["confirmed", "orphaned"]


# --- a lost checkpoint ---------------------------------------------------------------------------------------------


@in_virtual_time
async def test_only_an_order_goes_on_after_a_lost_checkpoint() -> None:
    """Bootstrap makes none by itself; with the order nothing is said twice, and what is gone is orphaned."""
    world = World()
    leader = await led(world)
    world.publish(ALICE)
    stays, dies = world.chain.transfer(ALICE, 1), world.chain.transfer(ALICE, 2)
    world.chain.mine(stays)
    world.chain.mine(dies)
    world.chain.mine_empty(2 * SETTLE_DEPTH)
    await leader.catch_up()
    said = world.said()
    await leader.sequencer.close()
    await leader.lock.release()
    world.broker.delete_topic(PREFIX + Topic.STATE_SYNC)
    world.order(id="plain", type="rewind", to=TIP)
    with pytest.raises(BootstrapFailed, match="CheckpointLost"):
        await world.bootstrap()
    world.order(id="high", type="rewind", to=TIP + 3, after_loss=True)
    with pytest.raises(BootstrapFailed, match="rewind to that one or below"):
        await world.bootstrap()
    depth = world.chain.tip.number - (TIP + 1)
    world.chain.reorganize(depth, [()] * (depth + 1))
    world.order(id="w1", type="rewind", to=TIP, after_loss=True)
    await BootstrapRun(world).run()
    assert world.state().sequence == 2
    successor = Replica(world)
    await successor.lead()
    await worked_off(successor)
    assert world.said() == [*said, ("orphaned", dies.hash, TIP + 2)]
    assert [event["sequence"] for event in world.events()] == [1, 2, 3]
    assert [(order.id, order.status) for order in world.state().orders.orders] == [("w1", OrderStatus.DONE)]
    world.chain.mine(world.chain.transfer(ALICE, 9))
    await worked_off(successor, 3)
    assert world.said()[-1][0] == "detected"
