"""The leader of sync, step by step: from the state in the ledger to the next, and never further than it may."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import pytest

from virtual_time import in_virtual_time
from wallet_core.addresses import checksum_address
from wallet_core.blocks import Block
from wallet_core.checkpoint import CHECKPOINT_KEY, IDENTITY_KEY, with_settings
from wallet_core.errors import (
    CheckpointCorrupt,
    CheckpointLost,
    GasAddressChanged,
    KafkaUnreachable,
    NodeInconsistent,
    OutcomeUnknown,
    RpcUnreachable,
    SettingsSuperseded,
    Superseded,
    TopicsOfAnotherWallet,
    WrongChain,
)
from wallet_core.messages import Topic
from wallet_core.testing.fake_chain import FakeChain, FakeNode
from wallet_workers.sequencer import BLOCKS_PER_APPEND_MAX, LeadershipLost
from wallet_world import (
    ALICE,
    BLOCKS_BEFORE_BOOTSTRAP,
    BOB,
    CHAIN_ID,
    PREFIX,
    Replica,
    World,
    led,
    mine_and_step,
)

STATE_TOPIC = PREFIX + Topic.STATE_SYNC
TIP = BLOCKS_BEFORE_BOOTSTRAP


# --- deposits ------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_deposit_is_detected_then_confirmed_once() -> None:
    """With depth 3: `detected` in its block, `confirmed` two blocks later, and nothing more ever."""
    world = World()
    leader = await led(world)
    world.publish(ALICE)
    paid = world.chain.transfer(ALICE, 15 * 10**17)
    world.chain.mine(paid)
    await leader.catch_up()
    assert world.said() == [("detected", paid.hash, 11)]
    await mine_and_step(leader, 1)
    assert len(world.said()) == 1
    await mine_and_step(leader, 10)
    assert world.said() == [("detected", paid.hash, 11), ("confirmed", paid.hash, 11)]
    detected, confirmed = world.events()
    assert detected["event_id"] == confirmed["event_id"]
    assert (detected["sequence"], confirmed["sequence"]) == (1, 2)
    assert (confirmed["value"], confirmed["confirmations"]) == ("1.5", 3)
    assert leader.metrics.registry.get_sample_value("wallet_events_total", {"status": "confirmed"}) == 1


@in_virtual_time
async def test_events_and_checkpoint_are_written_in_one_transaction() -> None:
    """At no moment does a reader of both see an event that the checkpoint does not count, or the other way round."""
    world = World()
    seen: list[tuple[str, int, int]] = []

    async def before(step: str) -> None:
        seen.append((step, len(world.said()), world.state().sequence))

    leader = await led(world, before=before)
    world.publish(ALICE)
    seen.clear()
    world.chain.mine(world.chain.transfer(ALICE, 1), world.chain.transfer(ALICE, 2))
    await leader.catch_up()
    assert seen == [("end", 0, 0), ("read", 0, 0), ("send", 0, 0), ("commit", 0, 0), ("committed", 2, 2)]


@in_virtual_time
async def test_the_gas_address_once_set_stays() -> None:
    """Removed from the resource it still pays for sweeps; another one halts, for its transfers were deposits so far."""
    world = World(sweep={"gasAddress": checksum_address(ALICE)})
    leader = await led(world)
    await leader.catch_up()
    state = world.state()
    assert state.gas_address == checksum_address(ALICE)
    assert with_settings(state, 9, "x", ["native"], None).gas_address == checksum_address(ALICE)
    with pytest.raises(GasAddressChanged, match="put it back"):
        with_settings(state, 9, "x", ["native"], checksum_address(BOB))


@in_virtual_time
async def test_the_finalized_tag_confirms_without_a_new_block() -> None:
    """By the tag, depth says nothing."""
    world = World(chain={"confirmation": {"tag": "finalized"}})
    world.chain.finalize(5)
    leader = await led(world)
    world.publish(ALICE)
    paid = world.chain.transfer(ALICE, 5)
    world.chain.mine(paid)
    world.chain.mine_empty(4)
    await leader.catch_up()
    assert world.said() == [("detected", paid.hash, 11)]
    world.chain.finalize(11)
    await leader.catch_up()
    await leader.catch_up()
    assert world.said() == [("detected", paid.hash, 11), ("confirmed", paid.hash, 11)]


@in_virtual_time
async def test_far_behind_many_blocks_go_into_one_transaction() -> None:
    """Catching up is bounded by named limits, and says of an old deposit only that it is confirmed."""
    world = World()
    await world.bootstrap()
    world.publish(ALICE)
    paid = world.chain.transfer(ALICE, 5)
    world.chain.mine(paid)
    world.chain.mine_empty(120)
    leader = Replica(world)
    await leader.lead()
    appended = []
    while await leader.sequencer.step():
        appended.append(world.state().window.tip.number)
        assert leader.shown["reason"] == "CatchingUp"
    assert appended == [6 + BLOCKS_PER_APPEND_MAX]
    assert world.said() == [("confirmed", paid.hash, 11)]
    assert leader.shown["reason"] == "Working"
    assert (leader.shown["block"], leader.shown["tip"], leader.shown["lag"]) == (131, 131, 0)
    assert len(world.state().window.blocks) == 4


# --- what may not be written ---------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_leader_whose_lock_ran_out_writes_nothing_more() -> None:
    """It stops by its own clock, before the ledger is even asked."""
    world = World()
    leader = await led(world)
    world.chain.mine()
    end = world.state_end()
    await world.clock.sleep(31)
    with pytest.raises(LeadershipLost):
        await leader.sequencer.step()
    assert world.state_end() == end


@in_virtual_time
async def test_a_leader_that_was_replaced_unknowingly_writes_nothing() -> None:
    """Even with a lock that it believes in: the ledger refuses it."""
    world = World()
    old = await led(world)
    world.publish(ALICE)
    new = Replica(world)
    await new.sequencer.recover()
    world.redis.wipe()
    assert await new.lock.acquire()
    world.chain.mine(world.chain.transfer(ALICE, 5))
    await new.catch_up()
    said = world.said()
    assert len(said) == 1
    with pytest.raises((Superseded, OutcomeUnknown)):
        await old.sequencer.step()
    assert world.said() == said
    await old.sequencer.recover()
    await old.catch_up()
    assert world.said() == said


@pytest.mark.parametrize("lost_at", ["start", "end", "read", "send", "commit", "committed"])
@in_virtual_time
async def test_an_unknown_outcome_is_read_again_and_nothing_is_said_twice(lost_at: str) -> None:
    """Whichever part of an append fails, or only its answer is lost: after a recovery each event is there once."""
    world = World()
    failing: list[str] = []

    async def before(step: str) -> None:
        if step in failing:
            failing.clear()
            raise KafkaUnreachable("the answer was lost")

    leader = await led(world, before=before)
    world.publish(ALICE)
    paid = world.chain.transfer(ALICE, 5)
    world.chain.mine(paid)
    failing.append(lost_at)
    if lost_at != "start":  # a producer is ready from the append before
        with pytest.raises(OutcomeUnknown):
            await leader.catch_up()
        assert world.said() == ([("detected", paid.hash, 11)] if lost_at == "committed" else [])
        await leader.sequencer.recover()
    await leader.catch_up()
    assert world.said() == [("detected", paid.hash, 11)]
    failing.clear()
    await mine_and_step(leader, 3)
    assert world.said() == [("detected", paid.hash, 11), ("confirmed", paid.hash, 11)]


def _unreachable(node: FakeNode) -> None:
    node.is_unreachable = True


def _of_another_chain(node: FakeNode) -> None:
    other = FakeChain(5)
    other.mine_empty(20)
    node.chain = other


def _without_the_newest_block(node: FakeNode) -> None:
    node.null_blocks.add(11)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (_unreachable, RpcUnreachable),
        (_of_another_chain, WrongChain),
        (_without_the_newest_block, NodeInconsistent),
    ],
)
@in_virtual_time
async def test_a_node_in_trouble_changes_nothing(
    fault: Callable[[FakeNode], None], error: type[RpcUnreachable | WrongChain | NodeInconsistent]
) -> None:
    """The step fails with the node's error; with a node in order the same leader goes on."""
    world = World()
    leader = await led(world)
    world.publish(ALICE)
    paid = world.chain.transfer(ALICE, 5)
    world.chain.mine(paid)
    end = world.state_end()
    fault(leader.node)
    with pytest.raises(error):
        await leader.sequencer.step()
    assert (world.said(), world.state_end()) == ([], end)
    leader.node.chain, leader.node.is_unreachable = world.chain, False
    leader.node.null_blocks.clear()
    await leader.catch_up()
    assert world.said() == [("detected", paid.hash, 11)]


@in_virtual_time
async def test_a_chain_that_forks_between_head_and_blocks_is_followed_on_its_new_branch() -> None:
    """The head that was asked for decides nothing about which blocks are ours."""
    world = World()
    leader = await led(world)
    world.publish(ALICE)
    lost, kept = world.chain.transfer(ALICE, 1), world.chain.transfer(ALICE, 2)
    world.chain.mine(lost)
    await leader.catch_up()

    class NodeBehindABalancer(FakeNode):
        async def block(self, number: int) -> Block:
            if world.chain.blocks[11].transactions != (kept,):
                world.chain.reorganize(2, [(kept,), (), ()])
            return await super().block(number)

    world.chain.mine()
    leader.scanner._node = NodeBehindABalancer(world.chain, world.clock)
    await leader.catch_up()
    await leader.catch_up()
    assert [(status, txid) for status, txid, _ in world.said()][:2] == [
        ("detected", lost.hash),
        ("orphaned", lost.hash),
    ]
    assert world.state().window.tip.hash == world.chain.tip.hash
    assert world.said()[-1][1] == kept.hash


# --- recovery ------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_recovery_goes_on_where_the_last_leader_stopped() -> None:
    """Window, sequence and deposits come from the ledger alone."""
    world = World()
    first = await led(world)
    world.publish(ALICE)
    paid = world.chain.transfer(ALICE, 5)
    world.chain.mine(paid)
    await first.catch_up()
    world.redis.wipe()
    second = Replica(world)
    await second.lead()
    await mine_and_step(second, 5)
    assert world.said() == [("detected", paid.hash, 11), ("confirmed", paid.hash, 11)]
    assert [event["sequence"] for event in world.events()] == [1, 2]


@in_virtual_time
async def test_settings_are_written_once() -> None:
    """The first recovery puts generation, hash and the assets' first blocks in force; a restart writes nothing."""
    world = World()
    await world.bootstrap()
    await Replica(world, generation=3, settings_hash="beef").lead()
    state, end = world.state(), world.state_end()
    assert (state.generation, state.settings_hash, state.asset_first_blocks) == (3, "beef", {"native": 7})
    world.redis.wipe()
    await Replica(world, generation=3, settings_hash="beef").lead()
    assert world.state_end() == end


@in_virtual_time
async def test_older_settings_do_not_lead() -> None:
    """And leave the checkpoint as it is."""
    world = World()
    await led(world, generation=3)
    end = world.state_end()
    world.redis.wipe()
    with pytest.raises(SettingsSuperseded):
        await Replica(world, generation=2).lead()
    assert world.state_end() == end


def _write(world: World, key: bytes, value: bytes | None) -> None:
    world.broker.produce(STATE_TOPIC, key, value)


async def _no_topic(world: World) -> None:
    world.broker.delete_topic(STATE_TOPIC)


async def _empty_topic(world: World) -> None:
    world.broker.delete_topic(STATE_TOPIC)
    world.broker.create_topic(STATE_TOPIC)


async def _no_checkpoint(world: World) -> None:
    _write(world, CHECKPOINT_KEY, None)


async def _no_identity(world: World) -> None:
    _write(world, IDENTITY_KEY, None)


async def _nonsense(world: World) -> None:
    _write(world, CHECKPOINT_KEY, b"{}")


async def _another_wallet(world: World) -> None:
    (identity,) = [
        record.value
        for record in world.broker.read_committed(STATE_TOPIC)
        if record.key == IDENTITY_KEY and record.value
    ]
    _write(world, IDENTITY_KEY, json.dumps(json.loads(identity) | {"name": "other"}).encode())


async def _another_genesis(world: World) -> None:
    world.chain = FakeChain(CHAIN_ID)
    world.chain.roll_back(0)
    world.chain._blocks.clear()
    world.chain.mine()
    world.chain.mine_empty(30)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (_no_topic, CheckpointLost),
        (_empty_topic, CheckpointLost),
        (_no_checkpoint, CheckpointLost),
        (_no_identity, CheckpointLost),
        (_nonsense, CheckpointCorrupt),
        (_another_wallet, TopicsOfAnotherWallet),
        (_another_genesis, WrongChain),
    ],
)
@in_virtual_time
async def test_a_state_that_is_not_ours_or_makes_no_sense_halts(
    damage: Callable[[World], Awaitable[None]],
    error: type[CheckpointLost | CheckpointCorrupt | TopicsOfAnotherWallet | WrongChain],
) -> None:
    """Nothing is written: to begin anew would leave out blocks or say things twice."""
    world = World()
    await led(world)
    world.redis.wipe()
    await damage(world)
    before = world.broker.raw_end(STATE_TOPIC) if STATE_TOPIC in world.broker.topics() else None
    with pytest.raises(error):
        await Replica(world).lead()
    assert (world.broker.raw_end(STATE_TOPIC) if STATE_TOPIC in world.broker.topics() else None) == before


@in_virtual_time
async def test_a_topic_that_lost_records_under_a_running_leader_halts_it() -> None:
    """The next append finds the topic shorter than what was read."""
    world = World()
    leader = await led(world)
    await _empty_topic(world)
    world.chain.mine()
    with pytest.raises(CheckpointLost):
        await leader.sequencer.step()


# --- the tip's age -------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_an_old_tip_is_noted_and_cleared_by_a_new_block() -> None:
    """A stale tip makes the wallet not ready and never halts it: deposits that come are still reported."""
    world = World(chain={"staleAfterSeconds": 120})
    leader = await led(world)
    assert leader.shown["reason"] == "Working"
    await world.clock.sleep(119)
    assert await leader.lock.acquire()
    await leader.sequencer.step()
    assert leader.shown["reason"] == "Working"
    await world.clock.sleep(2)
    await leader.sequencer.step()
    assert leader.shown["reason"] == "TipStale"
    assert "newest block 10 is 121 s old" in leader.shown["message"]
    world.publish(BOB)
    world.chain.mine_empty(9)
    world.chain.mine(world.chain.transfer(BOB, 1))
    await leader.catch_up()
    assert leader.shown["reason"] == "Working"
    assert len(world.said()) == 1
