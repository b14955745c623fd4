"""The loop of sync: who leads, what each kind of trouble does, and that it ends by itself."""

from __future__ import annotations

import asyncio
import json
import warnings

from virtual_time import in_virtual_time, until
from wallet_core.checkpoint import CHECKPOINT_KEY, IDENTITY_KEY
from wallet_core.errors import KafkaUnreachable
from wallet_core.messages import Topic
from wallet_core.testing.fake_chain import FakeChain, FakeNode
from wallet_core.testing.fake_redis import FakeLock
from wallet_workers.stopping import HALT_RECHECK_SECONDS
from wallet_world import ALICE, BOB, CHAIN_ID, PREFIX, Replica, World, caught_up

STATE_TOPIC = PREFIX + Topic.STATE_SYNC
MOMENTS_OF_A_START = 40
"""More turns of the loop than a worker needs from its start to its first wait for a head."""


def now() -> float:
    return asyncio.get_running_loop().time()


async def new_world(**spec: dict[str, object]) -> World:
    world = World(**spec)
    await world.bootstrap()
    return world


@in_virtual_time
async def test_a_lone_replica_leads_and_reports_deposits() -> None:
    """From nothing but a checkpoint: `detected`, then `confirmed`, as blocks come."""
    world = await new_world()
    replica = Replica(world)
    async with replica.running():
        await caught_up(replica)
        assert replica.shown["leader"] is True
        world.publish(ALICE)
        paid = world.chain.transfer(ALICE, 5)
        world.chain.mine(paid)
        await until(lambda: world.said() == [("detected", paid.hash, 11)])
        world.chain.mine_empty(2)
        await until(lambda: world.said() == [("detected", paid.hash, 11), ("confirmed", paid.hash, 11)])
        world.chain.mine_empty(10)
        await caught_up(replica)
    assert len(world.said()) == 2
    assert replica.shown["leader"] is False


@in_virtual_time
async def test_a_new_head_is_acted_on_at_once() -> None:
    """An announced block does not wait for the next poll."""
    world = await new_world(tuning={"pollSeconds": 60})
    replica = Replica(world)
    async with replica.running():
        await caught_up(replica)
        world.chain.mine()
        before = now()
        await caught_up(replica)
        assert now() - before < 1


@in_virtual_time
async def test_without_announcements_the_node_is_polled() -> None:
    """Every `pollSeconds` the tip is asked for."""
    world = await new_world(tuning={"pollSeconds": 2})

    class SilentNode(FakeNode):
        async def wait_for_head(self, timeout_seconds: float, seen: int) -> int:
            await asyncio.sleep(timeout_seconds)
            return seen

    replica = Replica(world, node=SilentNode(world.chain, world.clock))
    async with replica.running():
        await caught_up(replica)
        world.chain.mine()
        before = now()
        await caught_up(replica)
        assert now() - before <= 2.1


@in_virtual_time
async def test_two_replicas_share_one_leader_and_say_everything_once() -> None:
    """The other keeps its address set warm and says that all is well."""
    world = await new_world()
    first, second = Replica(world), Replica(world)
    async with first.running(), second.running():
        await caught_up(first)
        world.publish(ALICE)
        world.chain.mine(world.chain.transfer(ALICE, 5))
        world.chain.mine_empty(5)
        await until(lambda: len(world.said()) == 1 and second.shown.get("addresses") == 1)
        assert (first.shown["leader"], second.shown.get("leader", False)) == (True, False)
        assert second.shown["reason"] == "Working"
    assert [status for status, _, _ in world.said()] == ["confirmed"]


@in_virtual_time
async def test_when_the_leader_stops_another_replica_takes_over() -> None:
    """A clean stop gives the lock up, so nobody waits for its time to run out."""
    world = await new_world()
    first, second = Replica(world), Replica(world)
    async with second.running():
        await caught_up(second)
        async with first.running():
            await until(lambda: first.shown.get("addresses") == 0)
            before = now()
            second.stopping.request()
            await until(lambda: first.shown.get("leader"))
            assert now() - before < 5
            world.publish(ALICE)
            world.chain.mine(world.chain.transfer(ALICE, 5))
            await until(world.said)
    assert [status for status, _, _ in world.said()] == ["detected"]


@in_virtual_time
async def test_when_the_leader_dies_its_lock_runs_out() -> None:
    """Nothing but time is needed, and nothing is said twice."""
    world = await new_world()

    class UnreleasedLock(FakeLock):
        async def release(self) -> None:
            """Kill -9 releases nothing."""

    first, second = Replica(world, lock=world.lock(kind=UnreleasedLock)), Replica(world)
    task = asyncio.create_task(first.worker.run())
    world.publish(ALICE)
    paid = world.chain.transfer(ALICE, 5)
    world.chain.mine(paid)
    await until(world.said)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with second.running():
        before = now()
        await until(lambda: second.shown.get("leader"))
        assert 20 < now() - before < 40
        world.chain.mine_empty(2)
        await until(lambda: len(world.said()) == 2)
    assert world.said() == [("detected", paid.hash, 11), ("confirmed", paid.hash, 11)]


@in_virtual_time
async def test_a_wiped_redis_costs_time_only() -> None:
    """Two replicas may believe that they lead for a moment; every event is there once all the same."""
    world = await new_world()
    first, second = Replica(world), Replica(world)
    async with first.running(), second.running():
        await caught_up(first)
        world.publish(ALICE)
        paid = world.chain.transfer(ALICE, 5)
        world.redis.wipe()
        world.chain.mine(paid)
        for _ in range(20):
            world.chain.mine()
            await asyncio.sleep(3)
        await until(lambda: world.state().window.tip.hash == world.chain.tip.hash)
        assert [first.shown["leader"], second.shown.get("leader", False)].count(True) == 1
    statuses = [status for status, _, _ in world.said()]
    assert statuses in (["detected", "confirmed"], ["confirmed"])
    assert [event["sequence"] for event in world.events()] == list(range(1, len(statuses) + 1))


# --- trouble that ends by itself -----------------------------------------------------------------------------------


@in_virtual_time
async def test_a_node_that_is_away_is_waited_for() -> None:
    """The reason stands in `/status`, nothing is written, and the lock stays: no other replica would do better."""
    world = await new_world()
    replica = Replica(world)
    async with replica.running():
        await caught_up(replica)
        world.publish(ALICE)
        replica.node.is_unreachable = True
        world.chain.mine(world.chain.transfer(ALICE, 5))
        await until(lambda: replica.shown["reason"] == "RpcUnreachable")
        end = world.state_end()
        await asyncio.sleep(3600)
        assert (world.state_end(), world.said()) == (end, [])
        assert replica.shown["leader"] is True
        assert replica.lock.is_held()
        replica.node.is_unreachable = False
        await caught_up(replica)
    assert [status for status, _, _ in world.said()] == ["detected"]
    retries = replica.metrics.registry.get_sample_value("wallet_retries_total", {"error_code": "rpc_unreachable"})
    assert retries is not None
    assert retries > 300


@in_virtual_time
async def test_a_node_of_another_chain_is_never_read() -> None:
    """It says WrongChain for as long as that is so, and goes on with a node of the right one."""
    world = await new_world()
    replica = Replica(world)
    async with replica.running():
        await caught_up(replica)
        other = FakeChain(5)
        other.mine_empty(50)
        end, replica.node.chain = world.state_end(), other
        await until(lambda: replica.shown["reason"] == "WrongChain")
        await asyncio.sleep(600)
        assert world.state_end() == end
        replica.node.chain = world.chain
        world.chain.mine()
        await caught_up(replica)


@in_virtual_time
async def test_a_node_that_contradicts_itself_is_asked_again() -> None:
    """A receipt that is missing today is there tomorrow; the deposit is not."""
    world = await new_world()
    replica = Replica(world)
    async with replica.running():
        await caught_up(replica)
        world.publish(ALICE)
        paid = world.chain.transfer(ALICE, 5)
        replica.node.null_receipts.add(paid.hash)
        world.chain.mine(paid)
        await until(lambda: "NodeInconsistent" in str(replica.shown["message"]))
        await asyncio.sleep(600)
        assert world.state().window.tip.number == 10
        replica.node.null_receipts.clear()
        await until(world.said)
        assert replica.shown["reason"] == "Working"


@in_virtual_time
async def test_a_broker_that_is_away_is_waited_for() -> None:
    """For an hour, and then everything is said once."""
    world = await new_world()
    replica = Replica(world)
    async with replica.running():
        await caught_up(replica)
        world.publish(ALICE)
        paid = world.chain.transfer(ALICE, 5)
        world.broker.reachable = False
        world.chain.mine(paid)
        await until(lambda: replica.shown["reason"] == "KafkaUnreachable")
        await asyncio.sleep(3600)
        world.chain.mine_empty(5)
        world.broker.reachable = True
        await caught_up(replica)
    assert world.said() == [("confirmed", paid.hash, 11)]


@in_virtual_time
async def test_a_redis_that_is_away_stops_the_leader_until_it_is_back() -> None:
    """Past its deadline the leader writes nothing, for another replica may lead by then."""
    world = await new_world()
    replica = Replica(world)
    async with replica.running():
        await caught_up(replica)
        world.redis.reachable = False
        await until(lambda: replica.shown["reason"] == "RedisUnreachable")
        await asyncio.sleep(60)
        assert not replica.lock.is_held()
        assert replica.shown["leader"] is False
        world.chain.mine()
        await asyncio.sleep(600)
        assert world.state().window.tip.number == 10
        world.redis.reachable = True
        await caught_up(replica)


@in_virtual_time
async def test_an_unknown_outcome_is_followed_by_a_recovery() -> None:
    """The answer to a commit is lost: it is read again, and the deposit is said once."""
    world = await new_world()
    lost: list[str] = []

    async def before(step: str) -> None:
        if step == "committed" and not lost and world.said():
            lost.append(step)
            raise KafkaUnreachable("the answer was lost")

    replica = Replica(world, before=before)
    async with replica.running():
        await caught_up(replica)
        world.publish(ALICE)
        paid = world.chain.transfer(ALICE, 5)
        world.chain.mine(paid)
        await until(lambda: lost)
        world.chain.mine()
        await caught_up(replica)
    assert world.said() == [("detected", paid.hash, 11)]
    assert replica.metrics.registry.get_sample_value("wallet_retries_total", {"error_code": "outcome_unknown"}) == 1


# --- halting -------------------------------------------------------------------------------------------------------


async def _halts_until_mended(world: World, replica: Replica, cause: str, mend: object) -> None:
    """The replica runs already and something is wrong: it halts, keeps its lock, writes nothing, and goes on later."""
    assert callable(mend)
    await until(lambda: replica.shown["reason"] == "Halted")
    assert cause in str(replica.shown["message"])
    topic_is_there = STATE_TOPIC in world.broker.topics()
    end = world.state_end() if topic_is_there else None
    await asyncio.sleep(10 * HALT_RECHECK_SECONDS)
    assert replica.shown["reason"] == "Halted"
    assert replica.shown["leader"] is True
    assert replica.lock.is_held()
    assert (world.state_end() if topic_is_there else None) == end
    mend()
    before = now()
    await until(lambda: replica.shown["reason"] == "Working")
    assert now() - before <= HALT_RECHECK_SECONDS + 1


@in_virtual_time
async def test_a_fork_below_the_window_halts_until_the_chain_is_back() -> None:
    """No deposit is taken back by guess."""
    world = await new_world()
    replica = Replica(world)
    async with replica.running():
        await caught_up(replica)
        whole, forked = world.chain, FakeChain(CHAIN_ID)
        forked._blocks[:] = whole.blocks
        forked._made = 10_000
        forked.reorganize(6, [()] * 8)
        replica.node.chain = forked
        waited_for, whole.grown = whole.grown, asyncio.Event()
        waited_for.set()

        def mend() -> None:
            replica.node.chain = whole

        await _halts_until_mended(world, replica, "ForkBelowWindow", mend)
        whole.mine()
        await caught_up(replica)


@in_virtual_time
async def test_a_lost_checkpoint_halts_until_it_is_restored() -> None:
    """To begin anew would leave out blocks, or say things twice."""
    world = await new_world()
    stored = {record.key: record.value for record in world.broker.read_committed(STATE_TOPIC)}
    world.broker.produce(STATE_TOPIC, CHECKPOINT_KEY, None)
    replica = Replica(world)
    async with replica.running():

        def mend() -> None:
            world.broker.produce(STATE_TOPIC, CHECKPOINT_KEY, stored[CHECKPOINT_KEY])

        await _halts_until_mended(world, replica, "CheckpointLost", mend)
        await caught_up(replica)


@in_virtual_time
async def test_topics_of_another_wallet_halt() -> None:
    """Two wallets that share topics would both report and both write."""
    world = await new_world()
    identity = next(record.value for record in world.broker.read_committed(STATE_TOPIC) if record.key == IDENTITY_KEY)
    other = json.dumps(json.loads(identity or b"") | {"name": "other"}).encode()
    world.broker.produce(STATE_TOPIC, IDENTITY_KEY, other)
    replica = Replica(world)
    async with replica.running():
        await _halts_until_mended(
            world,
            replica,
            "TopicsOfAnotherWallet",
            lambda: world.broker.produce(STATE_TOPIC, IDENTITY_KEY, identity),
        )


@in_virtual_time
async def test_a_stop_ends_a_halted_worker_at_once() -> None:
    """A person who mends things must be able to restart it."""
    world = await new_world()
    world.broker.produce(STATE_TOPIC, CHECKPOINT_KEY, None)
    replica = Replica(world)
    async with replica.running():
        await until(lambda: replica.shown["reason"] == "Halted")
        before = now()
    assert now() - before < 1
    assert await world.lock().acquire(), "the lock was given up"


@in_virtual_time
async def test_a_process_that_is_torn_down_at_any_moment_leaves_no_wait_unawaited() -> None:
    """At the end of `asyncio.run` every task is cancelled at once, also one that has not begun to run."""
    world = await new_world(tuning={"pollSeconds": 60})
    has_waited = False
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for moment in range(MOMENTS_OF_A_START):
            replica = Replica(world)
            task = asyncio.create_task(replica.worker.run())
            for _ in range(moment):
                await asyncio.sleep(0)
            has_waited = any("_wait_for_head" in repr(each) for each in asyncio.all_tasks())
            for each in asyncio.all_tasks() - {asyncio.current_task()}:
                each.cancel()
            await asyncio.gather(task, return_exceptions=True)
            world.redis.wipe()
    assert has_waited
    assert [str(each.message) for each in warned] == []


@in_virtual_time
async def test_a_standby_does_not_go_on_about_a_halt_of_its_own_leadership() -> None:
    """What halted it is the business of whoever leads now."""
    world = await new_world()
    world.broker.produce(STATE_TOPIC, CHECKPOINT_KEY, None)
    replica = Replica(world)
    async with replica.running():
        await until(lambda: replica.shown["reason"] == "Halted")
        world.redis.wipe()
        assert await world.lock(ttl_seconds=10_000).acquire()
        await until(lambda: replica.shown["leader"] is False)
        await until(lambda: replica.shown["reason"] == "Working")


# --- settings ------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_replica_with_older_settings_gives_the_lock_up() -> None:
    """A newer one must be able to lead, whichever of them came first."""
    world = await new_world()
    newer = Replica(world, generation=2)
    async with newer.running():
        await caught_up(newer)
    older = Replica(world, generation=1)
    async with older.running():
        await until(lambda: "generation 2" in str(older.shown.get("superseded")))
        assert older.shown["superseded_by"] == 2, "whoever chooses generations learns which one is too low"
        assert older.shown["leader"] is False
        again = Replica(world, generation=2)
        async with again.running():
            world.chain.mine()
            await caught_up(again)
            assert again.shown["leader"] is True
    assert world.state().generation == 2


# --- the tip -------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_stale_tip_is_said_and_unsaid() -> None:
    """The wallet is not ready while its node's newest block is old, and reports deposits all the same."""
    world = await new_world(chain={"staleAfterSeconds": 200})
    replica = Replica(world)
    async with replica.running():
        await caught_up(replica)
        await until(lambda: replica.shown["reason"] == "TipStale")
        world.publish(BOB)
        world.chain.mine_empty(40)
        world.chain.mine(world.chain.transfer(BOB, 1))
        await caught_up(replica)
    assert len(world.said()) == 1
