"""Bootstrap: topics and the first checkpoint, once, and a list of everything that a person must mend."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from stub_node import Make, Seen, nodes_of
from virtual_time import in_virtual_time, until
from wallet_core.chain import BlockRef, Window
from wallet_core.checkpoint import CHECKPOINT_KEY, IDENTITY_KEY, Identity, SyncState, identity_record, read_identity
from wallet_core.errors import KafkaUnreachable
from wallet_core.messages import Topic
from wallet_core.testing.fake_chain import FakeChain
from wallet_core.testing.fake_clock import FakeClock
from wallet_core.topics import plan_topics
from wallet_workers.bootstrap import BootstrapFailed
from wallet_world import ALICE, CHAIN_ID, KEYS, PREFIX, BootstrapRun, Replica, World

STATE_TOPIC = PREFIX + Topic.STATE_SYNC


def base_of(world: World) -> int:
    return world.state().window.base.number


async def problems_of(world: World) -> list[str]:
    with pytest.raises(BootstrapFailed) as raised:
        await world.bootstrap()
    return raised.value.problems


def stored(world: World) -> dict[bytes, bytes]:
    return {
        record.key: record.value for record in world.broker.read_committed(STATE_TOPIC) if record.key and record.value
    }


@in_virtual_time
async def test_topics_identity_and_checkpoint_are_made() -> None:
    """A wallet begins with its topics as planned and the newest settled block as its base."""
    world = World()
    await world.bootstrap()
    assert world.broker.topics() == {PREFIX + plan.name: (plan.partitions, plan.config) for plan in plan_topics(2, 1)}
    assert read_identity(stored(world)) == Identity(
        "wallets", "mainnet", CHAIN_ID, world.chain.blocks[0].header.hash, KEYS.fingerprint
    )
    assert world.state() == SyncState(Window(BlockRef(6, world.chain.blocks[6].header.hash)))


@in_virtual_time
async def test_a_second_run_changes_nothing_and_starts_no_producer() -> None:
    """It may run at any time beside a leader without taking the ledger from it."""
    world = World()
    await world.bootstrap()
    leader = Replica(world)
    await leader.lead()
    world.chain.mine()
    await leader.catch_up()
    steps: list[str] = []

    async def before(step: str) -> None:
        steps.append(step)

    end = world.state_end()
    await BootstrapRun(world, before=before).run()
    assert (world.state_end(), steps) == (end, [])
    world.chain.mine()
    await leader.catch_up()
    assert world.state().window.tip.number == 12


@in_virtual_time
async def test_two_first_runs_make_one_checkpoint() -> None:
    """Whoever is later finds it, or is refused by the ledger and looks again."""
    world = World()
    await asyncio.gather(*(BootstrapRun(world).run() for _ in range(3)))
    checkpoints = [record for record in world.broker.read_committed(STATE_TOPIC) if record.key == CHECKPOINT_KEY]
    assert len(checkpoints) == 1


@in_virtual_time
async def test_a_checkpoint_that_the_first_look_missed_is_not_written_again() -> None:
    """A commit returns before its marker is written, so only the ledger's own recovery decides."""
    world = World()
    await world.bootstrap()

    class LateView:
        async def read(self) -> Mapping[bytes, bytes]:
            return {}

    before = stored(world)
    world.chain.mine_empty(20)
    await BootstrapRun(world, state=LateView()).run()
    assert stored(world) == before


@pytest.mark.parametrize("lost_at", ["start", "end", "read", "send", "commit", "committed"])
@in_virtual_time
async def test_a_lost_answer_is_looked_up(lost_at: str) -> None:
    """Whatever became of the append, there is one checkpoint in the end."""
    world = World()
    lost: list[str] = []

    async def before(step: str) -> None:
        if step == lost_at and not lost:
            lost.append(step)
            raise KafkaUnreachable("the answer was lost")

    await BootstrapRun(world, before=before).run()
    assert lost
    checkpoints = [record for record in world.broker.read_committed(STATE_TOPIC) if record.key == CHECKPOINT_KEY]
    assert len(checkpoints) == 1


# --- where the history begins --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "blocks", "base"),
    [
        ("latest", 10, 6),
        ("latest", 5, 1),
        ("latest", 4, 0),
        ("latest", 0, 0),
        (0, 10, 0),
        (1, 10, 0),
        (4, 10, 3),
        (7, 10, 6),
        (11, 10, 6),
    ],
)
@in_virtual_time
async def test_the_first_block_is_resolved_once(start: object, blocks: int, base: int) -> None:
    """`latest` is the newest settled block, on a short chain the genesis block; the base is always a settled one."""
    world = World(chain={"startBlock": start})
    world.chain = FakeChain(CHAIN_ID)
    world.chain.mine_empty(blocks)
    await world.bootstrap()
    assert world.state().window == Window(BlockRef(base, world.chain.blocks[base].header.hash))
    world.chain.mine_empty(50)
    await world.bootstrap()
    assert base_of(world) == base


@pytest.mark.parametrize(("finalized", "base"), [(2, 2), (9, 6)])
@in_virtual_time
async def test_by_the_finalized_tag_the_base_is_final_too(finalized: int, base: int) -> None:
    """A wallet never begins above what the node calls final."""
    world = World(chain={"confirmation": {"tag": "finalized"}})
    world.chain.finalize(finalized)
    await world.bootstrap()
    assert base_of(world) == base


@in_virtual_time
async def test_a_node_that_names_no_finalized_block_is_waited_for() -> None:
    """A passing fault must not move the start of the wallet to the genesis block for good."""
    world = World(chain={"confirmation": {"tag": "finalized"}})
    run = BootstrapRun(world)
    task = asyncio.create_task(run.run())
    await until(lambda: "finalized" in str(run.status.as_dict()["message"]))
    assert stored(world) == {}
    world.chain.finalize(4)
    await task
    assert base_of(world) == 4


@in_virtual_time
async def test_a_start_above_the_chain_waits_for_the_node() -> None:
    """A node that is still syncing is no reason to give up: the field is named, and the wallet begins later."""
    world = World(chain={"startBlock": 12})
    run = BootstrapRun(world)
    task = asyncio.create_task(run.run())
    await until(lambda: "spec.chain.startBlock 12" in str(run.status.as_dict()["message"]))
    assert stored(world) == {}
    world.chain.mine_empty(30)
    await task
    assert base_of(world) == 11


# --- what a person must mend ---------------------------------------------------------------------------------------


@in_virtual_time
async def test_all_problems_are_listed() -> None:
    """Not only the first: a person mends all of them in one go."""
    world = World(kafka={"createTopics": False})
    for plan in plan_topics(2, 1)[2:]:
        world.broker.create_topic(PREFIX + plan.name, 3, {"cleanup.policy": "delete", "retention.ms": "1000"})
    problems = await problems_of(world)
    told = "\n".join(problems)
    for topic in (Topic.COMMAND, Topic.ADDRESS_CREATED):
        assert f"topic {PREFIX}{topic} is missing" in told
    for topic in (Topic.TRANSACTION, Topic.ERRORS, Topic.ORDERS, Topic.STATE_SYNC):
        assert f"topic {PREFIX}{topic} has 3 partitions" in told
    for topic in (Topic.TRANSACTION, Topic.STATE_SYNC):
        assert f"topic {PREFIX}{topic} could lose records" in told
    assert len(world.broker.topics()) == 4, "nothing is created"


@in_virtual_time
async def test_problems_are_told_though_something_is_away() -> None:
    """A node that is down must not hide topics that lose records."""
    world = World(kafka={"createTopics": False})
    run = BootstrapRun(world)
    run.node.is_unreachable = True
    world.redis.reachable = False
    with pytest.raises(BootstrapFailed, match=r"command is missing"):
        await run.run()
    assert run.status.as_dict()["reason"] == "RedisUnreachable"


@pytest.mark.parametrize("topic", [Topic.ADDRESS_CREATED, Topic.TRANSACTION])
@in_virtual_time
async def test_a_wallet_that_has_spoken_and_lost_its_checkpoint_does_not_begin_anew(topic: Topic) -> None:
    """To begin anew would leave out blocks, or say things twice."""
    world = World()
    await world.bootstrap()
    world.broker.produce(PREFIX + topic, b"0x" + b"aa" * 20, b"{}")
    world.broker.delete_topic(STATE_TOPIC)
    (problem,) = await problems_of(world)
    assert problem.startswith("CheckpointLost: ")
    assert topic in problem
    assert world.state_end() == 0


@in_virtual_time
async def test_an_empty_kafka_is_not_where_a_known_wallet_begins() -> None:
    """It is another one, or lost its disk: beginning anew would forget every address that was given out.

    A rewind that a person orders goes on.
    """
    world = World()
    with pytest.raises(BootstrapFailed) as raised:
        await BootstrapRun(world, bootstrapped=True).run()
    (problem,) = raised.value.problems
    assert problem.startswith("CheckpointLost: ")
    assert "is this its Kafka?" in problem
    assert world.state_end() == 0
    world.order(id="begin", type="rewind", to=5, after_loss=True)
    await BootstrapRun(world, bootstrapped=True).run()
    assert base_of(world) == 5
    await BootstrapRun(world, bootstrapped=True).run()
    assert base_of(world) == 5


@in_virtual_time
async def test_a_wallet_that_never_spoke_may_lose_its_checkpoint() -> None:
    """Nothing was promised to anybody yet, and nobody knows that it had one."""
    world = World()
    await world.bootstrap()
    world.broker.delete_topic(STATE_TOPIC)
    await world.bootstrap()
    assert base_of(world) == 6


@pytest.mark.parametrize(
    ("field", "identity"),
    [
        ("namespace", Identity("other", "mainnet", CHAIN_ID, "genesis", KEYS.fingerprint)),
        ("name", Identity("wallets", "other", CHAIN_ID, "genesis", KEYS.fingerprint)),
        ("chain_id", Identity("wallets", "mainnet", 1, "genesis", KEYS.fingerprint)),
        ("fingerprint", Identity("wallets", "mainnet", CHAIN_ID, "genesis", "ab" * 20)),
    ],
)
@pytest.mark.parametrize("has_checkpoint", [True, False])
@in_virtual_time
async def test_topics_of_another_wallet_are_refused(field: str, identity: Identity, *, has_checkpoint: bool) -> None:
    """The problem names what differs, and nothing is written."""
    world = World()
    await world.bootstrap()
    genesis = world.chain.blocks[0].header.hash
    other = Identity(
        identity.namespace,
        identity.name,
        identity.chain_id,
        genesis,
        identity.fingerprint,
    )
    record = identity_record(other)
    world.broker.produce(STATE_TOPIC, record.key, record.value)
    if not has_checkpoint:
        world.broker.produce(STATE_TOPIC, CHECKPOINT_KEY, None)
    end = world.state_end()
    (problem,) = await problems_of(world)
    assert problem.startswith("TopicsOfAnotherWallet: ")
    assert f"{field} {getattr(other, field)} (here: " in problem
    assert world.state_end() == end


@in_virtual_time
async def test_a_re_created_resource_of_the_same_identity_goes_on() -> None:
    """Its history is its own."""
    world = World()
    await world.bootstrap()
    world.publish(ALICE)
    end = world.state_end()
    await world.bootstrap()
    assert world.state_end() == end


@in_virtual_time
async def test_a_claimed_topic_without_a_checkpoint_is_claimed_by_its_owner_only() -> None:
    """The identity may be there though the checkpoint is not; the owner goes on from it."""
    world = World()
    await world.bootstrap()
    world.broker.produce(STATE_TOPIC, CHECKPOINT_KEY, None)
    await world.bootstrap()
    assert base_of(world) == 6
    assert IDENTITY_KEY in stored(world)


# --- what is away for a moment -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "reason", "error_code"),
    [
        ("node", "RpcUnreachable", "rpc_unreachable"),
        ("redis", "RedisUnreachable", "redis_unreachable"),
        ("kafka", "KafkaUnreachable", "kafka_unreachable"),
        ("chain", "WrongChain", "wrong_chain"),
    ],
)
@in_virtual_time
async def test_what_is_away_is_waited_for(part: str, reason: str, error_code: str) -> None:
    """For as long as it takes, with the reason in `/status`; then the run ends well by itself. Tries are counted."""
    world = World()
    run = BootstrapRun(world)
    world.redis.reachable = part != "redis"
    world.broker.reachable = part != "kafka"
    run.node.is_unreachable = part == "node"
    if part == "chain":
        run.node.chain = FakeChain(5)
    task = asyncio.create_task(run.run())
    await until(lambda: run.status.as_dict()["reason"] == reason)
    await asyncio.sleep(3600)
    assert not task.done()
    assert run.status.as_dict()["reason"] == reason
    retries = run.metrics.registry.get_sample_value("wallet_retries_total", {"error_code": error_code})
    assert retries is not None
    assert retries > 300
    world.redis.reachable = world.broker.reachable = True
    run.node.is_unreachable, run.node.chain = False, world.chain
    await task
    assert run.status.as_dict()["troubles"] == []
    assert base_of(world) == 6


@in_virtual_time
async def test_a_stop_ends_a_run_that_waits() -> None:
    """A Job that is deleted does not linger, and one that was stopped did not succeed: its wallet has no checkpoint."""
    world = World()
    world.broker.reachable = False
    run = BootstrapRun(world)
    task = asyncio.create_task(run.run())
    await asyncio.sleep(600)
    run.stopping.request()
    before = asyncio.get_running_loop().time()
    with pytest.raises(BootstrapFailed, match="stopped"):
        await task
    assert asyncio.get_running_loop().time() - before < 1


@pytest.mark.parametrize("has_checkpoint", [True, False])
@in_virtual_time
async def test_a_node_with_another_genesis_block_is_not_used(*, has_checkpoint: bool) -> None:
    """The node is what is wrong, for the topics are this wallet's: bootstrap waits for another, and writes nothing."""
    world = World()
    await world.bootstrap()
    record = identity_record(Identity("wallets", "mainnet", CHAIN_ID, "0xother", KEYS.fingerprint))
    world.broker.produce(STATE_TOPIC, record.key, record.value)
    if not has_checkpoint:
        world.broker.produce(STATE_TOPIC, CHECKPOINT_KEY, None)
    end = world.state_end()
    run = BootstrapRun(world)
    running = asyncio.create_task(run.run())
    await until(lambda: run.status.as_dict()["reason"] == "WrongChain")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert world.state_end() == end


async def test_the_quorum_says_on_which_chain_a_wallet_begins(make_stub: Make, clock: FakeClock, seen: Seen) -> None:
    """The first endpoint, of another chain with the same id, is far ahead: it says neither where nor on which."""
    elsewhere = FakeChain(CHAIN_ID, "elsewhere")
    elsewhere.mine_empty(500)
    world = World(chain={"rpc": [{"url": f"http://{name}"} for name in ("one", "two", "three")], "quorum": 2})
    stubs = [await make_stub(chain) for chain in (elsewhere, world.chain, world.chain)]
    async with nodes_of(*(stub.endpoint for stub in stubs), clock=clock, seen=seen, quorum=2) as nodes:
        async with asyncio.timeout(30):
            await BootstrapRun(world, node=nodes).run()
    identity = read_identity(stored(world))
    assert identity is not None
    assert identity.genesis_hash == world.chain.blocks[0].header.hash
    assert world.state().window.base == BlockRef(6, world.chain.blocks[6].header.hash)
