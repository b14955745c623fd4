"""Several sync processes, 2,000 blocks behind, on real services: what is published is what an independent scan finds.

In every test replicas fail, come, go or lie on the way, or services go away, or the chain forks. A reader then sees
each deposit of the chain as it is, confirmed once, in the order of the blocks; what a fork took back is taken back,
newest first; and nothing else is said. `deposit_chains.py` has the chain and the scan, `replay` reads what was said.
"""

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client

from component.deposit_chains import DepositChain, Paid
from component.worker_processes import Journal, Launch, Wallet, Worker, eventually, running_wallet
from devstack.services import Anvil, Kafka, Redis
from devstack.tools import Tools
from wallet_core.messages import Topic
from wallet_core.settings import Role

BLOCKS_BEHIND = 2_000
BLOCKS_PER_DEPOSIT = 50
BLOCKS_AT_THE_HEAD = 24
"""Each with deposits, above the blocks behind."""
ACCOUNTS = 3
LOCK_TTL_SECONDS = 4
CATCH_UP_SECONDS_MAX = 120.0
FINALITY: dict[str, Any] = {"confirmation": {"depth": 3}, "settleDepth": 12}


class Shard:
    """One sync process, and what happened on its board."""

    def __init__(self, wallet: Wallet, launch: Launch, start: Path, **faults: str) -> None:
        self.notes = wallet.directory / f"notes-{len(wallet.workers)}"
        self.notes.touch()
        self._gate = self.notes.with_suffix(".gate")
        environ = {
            "SHARD_NOTES": str(self.notes),
            "SHARD_START": str(start),
            "SHARD_GATE": str(self._gate),
            **faults,
        }
        self.worker: Worker = wallet.start(
            Role.SYNC, launch=lambda role, variables, log: launch(role, {**variables, **environ}, log)
        )

    async def until_noted(self, what: str, times: int = 1) -> None:
        async def look() -> int:
            assert self.worker.process.exit_code is None, self.worker.last_lines()
            return self.times_noted(what)

        await eventually(look, lambda found: found >= times, CATCH_UP_SECONDS_MAX, self.worker.last_lines)

    def times_noted(self, what: str) -> int:
        return self.notes.read_text().splitlines().count(what)

    def open_gate(self) -> None:
        self._gate.touch()

    async def leads(self) -> bool:
        return bool((await self.worker.status()).get("leader"))

    async def refused(self) -> float:
        """How many results it refused as a sequencer."""
        _, body = await self.worker.get("/metrics")
        lines = [line for line in body.splitlines() if line.startswith("wallet_spans_refused_total{")]
        return sum(float(line.rpartition(" ")[2]) for line in lines)


def replay(events: Sequence[dict[str, Any]]) -> list[Paid]:
    """The deposits that stand confirmed after these events, in the order in which they were confirmed.

    Events behind a gap of the sequence are left out: a commit comes to light partition by partition. Fails where an
    event comes twice, or not in the order of the blocks: newest last, and newest first when taken back.
    """
    standing: dict[str, dict[str, Any]] = {}
    for due, event in enumerate(events, 1):
        if event["sequence"] > due:
            break
        assert event["sequence"] == due
        event_id, number = event["event_id"], event["block_number"]
        newest = max((each["block_number"] for each in standing.values()), default=0)
        before = standing.pop(event_id, None)
        match event["status"]:
            case "detected":
                assert before is None
                assert number >= newest
            case "confirmed":
                assert before is None or (before["status"], before["block_hash"]) == ("detected", event["block_hash"])
                assert number >= max((n for n, status in stand(standing) if status == "confirmed"), default=0)
                assert before is not None or number >= newest
            case "orphaned":
                assert before is not None
                assert (number, event["block_hash"]) == (newest, before["block_hash"])
                continue
        standing[event_id] = event
    return [
        Paid(
            event["block_number"],
            event["block_hash"],
            event["txid"],
            event["to"].lower(),
            event["asset"]["symbol"],
            int(event["amount"]),
        )
        for event in standing.values()
        if event["status"] == "confirmed"
    ]


def stand(standing: dict[str, dict[str, Any]]) -> list[tuple[int, str]]:
    return [(each["block_number"], each["status"]) for each in standing.values()]


class Behind:
    """A wallet whose chain went on for 2,000 blocks while nobody followed it."""

    def __init__(self, wallet: Wallet, chain: DepositChain, addresses: list[str], launch: Launch) -> None:
        self.wallet = wallet
        self.chain = chain
        self.addresses = addresses
        self._launch = launch
        self._start = wallet.directory / "start"

    def shard(self, **faults: str) -> Shard:
        return Shard(self.wallet, self._launch, self._start, **faults)

    async def begin(self, *shards: Shard) -> None:
        """Let the leader offer spans, now that all of them are there and one of them leads."""

        async def look() -> list[dict[str, Any]]:
            return [await shard.worker.status() for shard in shards]

        def fits(said: list[dict[str, Any]]) -> bool:
            return all(said) and any(each.get("leader") for each in said)

        await eventually(look, fits, CATCH_UP_SECONDS_MAX, shards[0].worker.last_lines)
        self._start.touch()

    async def check(self, *shards: Shard) -> list[dict[str, Any]]:
        """Wait until what is published is what the chain has, and one of these leads at the head. All the events."""
        expected = await self.chain.scan(self.addresses)
        assert len(expected) >= 3 * (BLOCKS_BEHIND // BLOCKS_PER_DEPOSIT)
        journal = await self.wallet.journal()

        async def look() -> tuple[list[Paid], Counter[Paid], Counter[Paid]]:
            await journal.read_to_end()
            told = replay(self.events(journal))
            missing, unfounded = Counter(expected), Counter(told)
            missing.subtract(told)
            unfounded.subtract(expected)
            return told, +missing, +unfounded

        def more() -> str:
            return "\n\n".join(shard.worker.last_lines() for shard in shards)

        told, _, _ = await eventually(look, lambda seen: not (seen[1] or seen[2]), CATCH_UP_SECONDS_MAX, more)
        assert [each.block_number for each in told] == [each.block_number for each in expected]
        await self.until_at_the_head(journal, *shards)
        return self.events(journal)

    async def follow(self, shard: Shard) -> None:
        """Wait until the shard leads and has appended the newest block."""
        tip = await self.chain.height()
        await shard.worker.until(lambda said: said.get("block") == tip, CATCH_UP_SECONDS_MAX)

    @staticmethod
    def events(journal: Journal) -> list[dict[str, Any]]:
        return sorted((each.json() for each in journal.of(Topic.TRANSACTION)), key=lambda event: int(event["sequence"]))

    async def until_at_the_head(self, journal: Journal, *shards: Shard) -> None:
        """One of them leads, is at the head, and has said nothing that is not in the journal."""
        tip = await self.chain.height()

        async def look() -> list[dict[str, Any]]:
            return [await shard.worker.status() for shard in shards]

        def fits(statuses: list[dict[str, Any]]) -> bool:
            return any(said.get("leader") and said["block"] == said["tip"] == tip for said in statuses)

        statuses = await eventually(look, fits, CATCH_UP_SECONDS_MAX)
        (sequence,) = [said["sequence"] for said in statuses if said.get("leader")]
        assert sequence == len(self.events(journal))


Make = Callable[..., AbstractAsyncContextManager[Behind]]


@pytest.fixture(scope="module")
def calm_anvil(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Anvil]:
    """For the chain of all tests that neither change nor stop it: 2,000 blocks take anvil some seconds."""
    anvil = Anvil(tools=tools, data=tmp_path_factory.mktemp("anvil"), mining=False)
    anvil.start()
    try:
        yield anvil
    finally:
        anvil.stop()


@pytest.fixture
async def make_behind(tmp_path: Path, kafka: Kafka, calm_anvil: Anvil, fork: Launch) -> Make:
    @asynccontextmanager
    async def make(
        redis: Redis, anvil: Anvil = calm_anvil, finality: dict[str, Any] = FINALITY
    ) -> AsyncIterator[Behind]:
        chain = DepositChain(anvil)
        await chain.begin()
        changes = {
            "spec": {
                "chain": {**finality, "startBlock": 1},
                "assets": [{"type": "native", "symbol": "ETH"}, chain.asset],
                "tuning": {"lockTtlSeconds": LOCK_TTL_SECONDS},
            }
        }
        async with running_wallet(tmp_path / "wallet", kafka, redis, anvil, launch=fork, changes=changes) as wallet:
            await wallet.bootstrap()
            wallet.start(Role.COMMAND)
            addresses = [await create_account(wallet, f"account {number}") for number in range(ACCOUNTS)]
            if await chain.height() < BLOCKS_BEHIND:
                await chain.grow(BLOCKS_BEHIND, BLOCKS_PER_DEPOSIT, addresses)
                await chain.grow(BLOCKS_AT_THE_HEAD, 1, addresses)
                await chain.mine(wallet.resource["spec"]["chain"]["confirmation"]["depth"])
            yield Behind(wallet, chain, addresses, fork)

    return make


async def create_account(wallet: Wallet, account: str) -> str:
    """The address of the account with this id: the same in every wallet with the same key."""
    await wallet.send(json.dumps({"id": account, "type": "create_account"}).encode())
    journal = await wallet.journal()
    replies = await journal.until(
        Topic.ADDRESS_CREATED, lambda seen: any(each.json()["id"] == account for each in seen)
    )
    return next(str(each.json()["address"]) for each in replies if each.json()["id"] == account)


@pytest.mark.parametrize("dies", ["the leader", "another"])
async def test_one_is_killed_and_one_is_paused_on_the_way(dies: str, make_behind: Make, redis_server: Redis) -> None:
    """Each of the three holds a span at that moment; the third goes on without the two, and the paused wakes late."""
    async with make_behind(redis_server) as behind:
        _, paused, third = await lose_two_of_three(behind, leader_dies=dies == "the leader")
        await behind.check(third)
        await wake(paused)
        await behind.check(third, paused)


async def lose_two_of_three(behind: Behind, *, leader_dies: bool) -> tuple[Shard, Shard, Shard]:
    """Three scanners hold their third spans; of the leader and another one is killed and one is paused.

    Returns the killed, the paused, and the third, which is about to go on.
    """
    shards = [behind.shard(SHARD_DO="hold", SHARD_AFTER="3") for _ in range(3)]
    await behind.begin(*shards)
    await asyncio.gather(*(shard.until_noted("hold") for shard in shards))
    leading = [await shard.leads() for shard in shards]
    assert leading.count(True) == 1
    leader = shards.pop(leading.index(True))
    other, third = shards
    killed, paused = (leader, other) if leader_dies else (other, leader)
    killed.worker.process.kill()
    paused.worker.process.signal(signal.SIGSTOP)
    third.open_gate()
    return killed, paused, third


async def wake(paused: Shard) -> None:
    """It wakes up with its span, and perhaps as the leader it was, and is seen to be neither."""
    paused.open_gate()
    paused.worker.process.signal(signal.SIGCONT)
    await paused.worker.until(lambda said: not said.get("leader") and "scanning" not in said)


@pytest.mark.parametrize(
    ("depth", "finality"),
    [(5, FINALITY), (20, {"confirmation": {"depth": 12}, "settleDepth": 64})],
    ids=["5 deep", "20 deep, below the confirmation"],
)
async def test_the_head_forks_while_one_is_killed_and_one_is_paused(
    depth: int, finality: dict[str, Any], make_behind: Make, redis_server: Redis, make_anvil: Callable[..., Anvil]
) -> None:
    """Twice: before anybody saw these blocks, and when all their deposits were told and the paused one wakes.

    What was confirmed is orphaned, and confirmed again where the chain has it again; the rest is not.
    """
    async with make_behind(redis_server, make_anvil(mining=False), finality) as behind:
        chain, confirmation_depth = behind.chain, finality["confirmation"]["depth"]
        _, paused, third = await lose_two_of_three(behind, leader_dies=depth == 5)
        await chain.fork(depth)
        events = await behind.check(third)
        assert "orphaned" not in {event["status"] for event in events}

        for _ in range(depth // 2):  # one after another: anvil may lock itself up when it mines while it is asked much
            await chain.grow(2, 1, behind.addresses)
            await behind.follow(third)
        await chain.mine(confirmation_depth)
        await behind.check(third)
        await chain.fork(depth)
        await wake(paused)
        await chain.deposit(chain.keeper, behind.addresses[0])
        await chain.mine(confirmation_depth)
        events = await behind.check(third, paused)
        orphaned = {event["event_id"] for event in events if event["status"] == "orphaned"}
        confirmed = Counter(event["event_id"] for event in events if event["status"] == "confirmed")
        again = {event_id for event_id in orphaned if confirmed[event_id] == 2}
        assert again
        assert {event_id for event_id in orphaned if confirmed[event_id] == 1}


async def test_replicas_come_and_go_at_any_moment(make_behind: Make, redis_server: Redis) -> None:
    """Nothing is handed over: who comes takes part from its first claim, who goes is gone in time, the leader too."""
    async with make_behind(redis_server) as behind:
        first, second = (behind.shard(SHARD_DO="wait", SHARD_AFTER="3") for _ in range(2))
        await behind.begin(first, second)
        await asyncio.gather(*(shard.until_noted("claim", 3) for shard in (first, second)))
        leader, other = (first, second) if await first.leads() else (second, first)
        third = behind.shard(SHARD_DO="wait", SHARD_AFTER="3")
        await third.until_noted("claim", 3)
        assert await leader.worker.drain() == 0
        fourth = behind.shard(SHARD_DO="wait", SHARD_AFTER="1")
        await fourth.until_noted("claim")
        assert await other.worker.drain() == 0
        for shard in (third, fourth):
            shard.open_gate()
        await behind.check(third, fourth)


async def test_redis_is_wiped_in_the_middle(make_behind: Make, make_redis: Callable[..., Redis]) -> None:
    """The lock, the spans and the results are gone: one of them leads again and cuts again."""
    redis = make_redis()
    async with make_behind(redis) as behind:
        shards = [behind.shard(SHARD_DO="wait", SHARD_AFTER="5") for _ in range(2)]
        await behind.begin(*shards)
        await asyncio.gather(*(shard.until_noted("claim", 5) for shard in shards))
        with redis_client.Redis.from_url(redis.url) as client:
            assert client.flushall()
        for shard in shards:
            shard.open_gate()
        await behind.check(*shards)
        cuts = [line for shard in shards for line in shard.worker.logged("spans_cut")]
        assert len(cuts) >= 2


async def test_redis_is_away_in_the_middle(make_behind: Make, make_redis: Callable[..., Redis]) -> None:
    """Nobody leads without a lock, and they say so; once it is back the rest is caught up with."""
    redis = make_redis()
    async with make_behind(redis) as behind:
        shards = [behind.shard(SHARD_DO="wait", SHARD_AFTER="3") for _ in range(3)]
        await behind.begin(*shards)
        await asyncio.gather(*(shard.until_noted("claim", 3) for shard in shards))
        await asyncio.to_thread(redis.pause)
        for shard in shards:
            shard.open_gate()
            await shard.worker.until(lambda said: not said["leader"])
            await shard.worker.until_reason("RedisUnreachable")
        await asyncio.to_thread(redis.resume)
        await behind.check(*shards)


async def test_the_node_is_away_in_the_middle(
    make_behind: Make, redis_server: Redis, make_anvil: Callable[..., Anvil]
) -> None:
    """Scanners cannot work their spans off, and hand them back; once the node is back the rest is caught up with."""
    anvil = make_anvil(mining=False)
    async with make_behind(redis_server, anvil) as behind:
        shards = [behind.shard(SHARD_DO="wait", SHARD_AFTER="3") for _ in range(3)]
        await behind.begin(*shards)
        await asyncio.gather(*(shard.until_noted("claim", 3) for shard in shards))
        await asyncio.to_thread(anvil.pause)
        for shard in shards:
            shard.open_gate()
        (leader,) = [shard for shard in shards if await shard.leads()]
        await leader.worker.until_reason("RpcUnreachable")
        await asyncio.to_thread(anvil.resume)
        await behind.check(*shards)


async def test_a_lying_scanner_is_refused(make_behind: Make, redis_server: Redis) -> None:
    """Whatever it says, and though it does not stay away when excluded: its lies are counted, and none is published."""
    async with make_behind(redis_server) as behind:
        liar = behind.shard(SHARD_DO="lie")
        honest = behind.shard(SHARD_DO="wait")
        await behind.begin(liar, honest)
        await liar.until_noted("lie", 6)
        honest.open_gate()
        await behind.check(liar, honest)
        assert await liar.refused() + await honest.refused() >= 6


async def test_all_replicas_take_part(make_behind: Make, redis_server: Redis) -> None:
    """Three processes with nothing wrong share the spans, and the board is clean afterwards."""
    async with make_behind(redis_server) as behind:
        shards = [behind.shard(SHARD_DO="wait", SHARD_AFTER="1") for _ in range(3)]
        await behind.begin(*shards)
        await asyncio.gather(*(shard.until_noted("claim") for shard in shards))
        for shard in shards:
            shard.open_gate()
        await behind.check(*shards)
        assert sum(shard.times_noted("claim") for shard in shards) >= BLOCKS_BEHIND // 64
        name = behind.wallet.resource["metadata"]["name"]
        with redis_client.Redis.from_url(redis_server.url) as client:
            assert list(client.scan_iter(match=f"{{tests.{name}}}:spans*")) == []
