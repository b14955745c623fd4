"""A whole wallet in memory: a chain, a broker, a Redis, and the real loops on the fakes of the ports."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from virtual_time import LoopClock, until
from wallet_core.accounts import AccountKey
from wallet_core.addresses import Address, lower_hex
from wallet_core.checkpoint import SyncState, read_state
from wallet_core.errors import RedisUnreachable, SecretMissing
from wallet_core.keys import derive_account_keys
from wallet_core.messages import Topic
from wallet_core.ports import Node, StateView
from wallet_core.resource import parse_resource
from wallet_core.settings import (
    ROLE_SETTINGS,
    BootstrapSettings,
    CommandSettings,
    Role,
    SyncSettings,
    environment,
    settings_from_environment,
)
from wallet_core.spans import CUT_LIFE_SECONDS
from wallet_core.testing.fake_broker import FakeBroker
from wallet_core.testing.fake_chain import FakeChain, FakeNode
from wallet_core.testing.fake_kafka import (
    Before,
    FakeAddressFeed,
    FakeCommandQueue,
    FakeLedger,
    FakeStateView,
    FakeTopicAdmin,
    nothing,
)
from wallet_core.testing.fake_orders import FakeOrderFeed, FakePublishedEvents
from wallet_core.testing.fake_redis import FakeLock, FakeRedis
from wallet_core.testing.fake_spans import FakeSpanBoard
from wallet_workers.bootstrap import Bootstrap, BootstrapPorts
from wallet_workers.catching_up import CatchingUp
from wallet_workers.command import CommandPorts, CommandWorker
from wallet_workers.metrics import Metrics
from wallet_workers.orders import OrderDesk
from wallet_workers.scanner import Scanner
from wallet_workers.sequencer import Sequencer
from wallet_workers.status import WorkerStatus
from wallet_workers.stopping import Stopping
from wallet_workers.sync import SyncPorts, SyncWorker

KEYS = derive_account_keys(b"\x07" * 64, 0)
ALICE = Address(b"\xaa" * 20)
BOB = Address(b"\xbb" * 20)
PREFIX = "eu."
GROUP = "wallets.mainnet"
CHAIN_ID = 1337
CONFIRMATION_DEPTH = 3
SETTLE_DEPTH = 5
BLOCKS_BEFORE_BOOTSTRAP = 10


ETH = {"type": "native", "symbol": "ETH"}


def wallet_document(assets: Sequence[Mapping[str, object]] = (ETH,), **spec: Mapping[str, object]) -> dict[str, Any]:
    """The resource of the world's wallet, with some fields of some parts of its spec changed."""
    document: dict[str, dict[str, object]] = {
        "chain": {
            "id": CHAIN_ID,
            "rpc": [{"url": "http://fake:8545"}],
            "confirmation": {"depth": CONFIRMATION_DEPTH},
            "settleDepth": SETTLE_DEPTH,
            "staleAfterSeconds": 0,
        },
        "kafka": {
            "bootstrapServers": "fake:9092",
            "topicPrefix": PREFIX,
            "partitions": 2,
            "replicationFactor": 1,
        },
        "redis": {"url": "redis://fake"},
        "accounts": {
            "fingerprint": KEYS.fingerprint,
            "xpubFrom": {"secretKeyRef": {"name": "accounts", "key": "xpub"}},
        },
        "sweep": {},
    }
    for part, fields in spec.items():
        document[part] = {**document.get(part, {}), **fields}
    return {
        "apiVersion": "wallet-manager.dev/v1alpha1",
        "kind": "WalletManager",
        "metadata": {"namespace": "wallets", "name": "mainnet"},
        "spec": {**document, "assets": list(assets)},
    }


class FakeSecret:
    """Port `SecretFile`; no file while `content` is None."""

    def __init__(self, content: str | None) -> None:
        self.content = content

    def read(self) -> str:
        if self.content is None:
            raise SecretMissing("accounts/xpub")
        return self.content


class PingedRedis:
    """Port `RedisServer` of bootstrap."""

    def __init__(self, redis: FakeRedis) -> None:
        self._redis = redis

    async def ping(self) -> None:
        if not self._redis.reachable:
            raise RedisUnreachable("the fake Redis is down")


class World:
    """Everything outside the workers."""

    def __init__(self, **spec: Mapping[str, object]) -> None:
        self.clock = LoopClock()
        self.broker = FakeBroker()
        self.redis = FakeRedis(self.clock)
        self.chain = FakeChain(CHAIN_ID)
        self.chain.mine_empty(BLOCKS_BEFORE_BOOTSTRAP)
        self.assets: Sequence[Mapping[str, object]] = (ETH,)
        self.spec = spec

    def settings(self, role: Role, generation: int = 1, *, bootstrapped: bool = False) -> Any:
        """A role's settings by way of its environment, as in production."""
        wallet = parse_resource(wallet_document(self.assets, **self.spec))
        return settings_from_environment(
            ROLE_SETTINGS[role], environment(wallet, role, generation, bootstrapped=bootstrapped)
        )

    def node(self) -> FakeNode:
        return FakeNode(self.chain, self.clock, with_finalized="tag" in str(self.spec.get("chain")), chain_id=CHAIN_ID)

    def ledger(self, before: Before = nothing) -> FakeLedger:
        return FakeLedger(
            self.broker,
            topic_prefix=PREFIX,
            state_topic=Topic.STATE_SYNC,
            transactional_id=f"{GROUP}.sync",
            before=before,
        )

    def lock(self, ttl_seconds: float = 30, kind: type[FakeLock] = FakeLock) -> FakeLock:
        return kind(self.redis, name="{wallets.mainnet}.sync", ttl_ms=round(ttl_seconds * 1000), clock=self.clock)

    async def bootstrap(self) -> None:
        """Topics and the first checkpoint, 5 blocks below the tip: at block 6."""
        await BootstrapRun(self).run()

    def publish(self, address: Address) -> None:
        """What a command worker does when it answers."""
        self.broker.produce(PREFIX + Topic.ADDRESS_CREATED, lower_hex(address).encode(), b"{}")

    def order(self, **value: object) -> None:
        """What walletctl does."""
        self.broker.produce(PREFIX + Topic.ORDERS, None, json.dumps(value).encode())

    def state_end(self) -> int:
        """The raw end of the state topic: it moves with everything that is written, markers too."""
        return self.broker.raw_end(PREFIX + Topic.STATE_SYNC)

    def state(self) -> SyncState:
        """The checkpoint as a reader sees it."""
        values: dict[bytes, bytes] = {}
        for record in self.broker.read_committed(PREFIX + Topic.STATE_SYNC):
            assert record.key is not None
            if record.value is None:
                values.pop(record.key, None)
            else:
                values[record.key] = record.value
        return read_state(values)

    def read(self, topic: Topic) -> list[dict[str, Any]]:
        """The values of a topic's committed records, in the order of each partition."""
        name = PREFIX + topic
        return [
            json.loads(record.value or b"null")
            for partition in range(self.broker.partitions(name))
            for record in self.broker.read_committed(name, partition)
        ]

    def events(self) -> list[dict[str, Any]]:
        """Everything said on `transaction`, by sequence."""
        return sorted(self.read(Topic.TRANSACTION), key=lambda event: int(event["sequence"]))

    def said(self) -> list[tuple[str, str, int]]:
        """Status, transaction and block of every event."""
        return [(event["status"], event["txid"], event["block_number"]) for event in self.events()]


class Replica:
    """One process of the role `sync`: the whole loop, or its parts for single steps."""

    def __init__(
        self,
        world: World,
        *,
        node: FakeNode | None = None,
        feed: FakeAddressFeed | None = None,
        lock: FakeLock | None = None,
        before: Before = nothing,
        generation: int = 1,
        settings_hash: str = "cafe",
    ) -> None:
        settings: SyncSettings = world.settings(Role.SYNC, generation)
        self.world = world
        self.node = node or world.node()
        self.feed = feed or FakeAddressFeed(world.broker, topic_prefix=PREFIX, partitions=settings.kafka.partitions)
        self.ledger = world.ledger(before)
        self.lock = lock or world.lock(settings.tuning.lock_ttl_seconds)
        self.stopping = Stopping(world.clock)
        self.status = WorkerStatus(Role.SYNC, GROUP, settings_hash, world.clock)
        self.metrics = Metrics(self.status)
        self.scanner = Scanner(settings, node=self.node, feed=self.feed, status=self.status, metrics=self.metrics)
        board = FakeSpanBoard(
            world.redis,
            prefix="{wallets.mainnet}:spans",
            claim_ttl_ms=settings.tuning.lock_ttl_seconds * 1000,
            cut_ttl_ms=CUT_LIFE_SECONDS * 1000,
            clock=world.clock,
        )
        self.sequencer = Sequencer(
            settings,
            clock=world.clock,
            node=self.node,
            ledger=self.ledger,
            lock=self.lock,
            scanner=self.scanner,
            catching_up=CatchingUp(
                settings,
                clock=world.clock,
                board=board,
                node=self.node,
                scanner=self.scanner,
                status=self.status,
                metrics=self.metrics,
            ),
            orders=OrderDesk(
                settings,
                clock=world.clock,
                node=self.node,
                feed=FakeOrderFeed(world.broker, topic_prefix=PREFIX),
                published=FakePublishedEvents(world.broker, topic_prefix=PREFIX),
                scanner=self.scanner,
                status=self.status,
            ),
            status=self.status,
            metrics=self.metrics,
        )
        ports = SyncPorts(
            world.clock,
            self.node,
            self.ledger,
            self.feed,
            self.lock,
            board,
            FakeOrderFeed(world.broker, topic_prefix=PREFIX),
            FakePublishedEvents(world.broker, topic_prefix=PREFIX),
        )
        self.worker = SyncWorker(settings, ports, self.status, self.metrics, self.stopping)

    @property
    def shown(self) -> Mapping[str, Any]:
        """The `/status` document."""
        return self.status.as_dict()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The loop runs meanwhile, then drains."""
        task = asyncio.create_task(self.worker.run())
        try:
            yield
        finally:
            self.stopping.request()
            await task

    async def lead(self) -> None:
        """Take the lock and recover, for single steps."""
        assert await self.lock.acquire()
        await self.sequencer.recover()

    async def catch_up(self) -> None:
        """Step until there is nothing to do."""
        while await self.sequencer.step():
            pass


async def led(world: World, **replica: object) -> Replica:
    """A leader that has caught up with the chain of a bootstrapped wallet."""
    await world.bootstrap()
    leader = Replica(world, **replica)  # type: ignore[arg-type]  # each test passes what Replica takes
    await leader.lead()
    await leader.catch_up()
    return leader


async def mine_and_step(leader: Replica, count: int) -> None:
    """Blocks one by one, each followed at once."""
    for _ in range(count):
        leader.world.chain.mine()
        await leader.catch_up()


async def caught_up(replica: Replica) -> None:
    """Until the replica has appended the chain's newest block."""
    world = replica.world
    await until(lambda: world.state().window.tip.hash == world.chain.tip.hash and replica.shown["reason"] == "Working")


class BootstrapRun:
    """One process of the role `bootstrap`."""

    def __init__(
        self,
        world: World,
        *,
        before: Before = nothing,
        state: StateView | None = None,
        node: Node | None = None,
        bootstrapped: bool = False,
    ) -> None:
        """`node`: instead of its own one, which is a fake."""
        settings: BootstrapSettings = world.settings(Role.BOOTSTRAP, bootstrapped=bootstrapped)
        self.node = world.node()
        self.stopping = Stopping(world.clock)
        self.status = WorkerStatus(Role.BOOTSTRAP, GROUP, "cafe", world.clock)
        self.metrics = Metrics(self.status)
        ports = BootstrapPorts(
            clock=world.clock,
            node=node or self.node,
            topics=FakeTopicAdmin(world.broker, topic_prefix=PREFIX),
            ledger=world.ledger(before),
            state=state or FakeStateView(world.broker, PREFIX + Topic.STATE_SYNC),
            redis=PingedRedis(world.redis),
            orders=FakeOrderFeed(world.broker, topic_prefix=PREFIX),
            published=FakePublishedEvents(world.broker, topic_prefix=PREFIX),
        )
        self._bootstrap = Bootstrap(settings, ports, self.status, self.metrics, self.stopping)

    async def run(self) -> None:
        await self._bootstrap.run()


class CommandReplica:
    """One process of the role `command`."""

    def __init__(self, world: World, *, xpub: str | None = KEYS.xpub, before: Before = nothing) -> None:
        settings: CommandSettings = world.settings(Role.COMMAND)
        self.world = world
        self.xpub = FakeSecret(xpub)
        self.stopping = Stopping(world.clock)
        self.status = WorkerStatus(Role.COMMAND, GROUP, "cafe", world.clock)
        self.metrics = Metrics(self.status)
        queue = FakeCommandQueue(
            world.broker, topic_prefix=PREFIX, topic=Topic.COMMAND, group=GROUP, clock=world.clock, before=before
        )
        state = FakeStateView(world.broker, PREFIX + Topic.STATE_SYNC)
        ports = CommandPorts(world.clock, queue, state, self.xpub)
        self.worker = CommandWorker(settings, ports, self.status, self.metrics, self.stopping)

    @property
    def shown(self) -> Mapping[str, Any]:
        """The `/status` document."""
        return self.status.as_dict()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """The loop runs meanwhile, then drains."""
        task = asyncio.create_task(self.worker.run())
        try:
            yield task
        finally:
            self.stopping.request()
            await asyncio.gather(task, return_exceptions=True)


ACCOUNT_KEY = AccountKey.from_xpub(KEYS.xpub, KEYS.fingerprint)
