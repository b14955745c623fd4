"""The wallet under simulation: its settings, and its processes with their ports.

What `wiring.py` and `__main__.py` are in production: each role's real loop gets the fakes of its ports, every one
behind `Interrupted`. A planted bug replaces one of them, or the settings of a role: see `plants.py`.
"""

from __future__ import annotations

import asyncio
import functools
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from simulation.broker import SimulatedBroker
from simulation.faults import WRITE_WEIGHT, Faults, Interrupted
from simulation.history import History
from simulation.liar import LyingBoard
from simulation.trace import Trace, What
from simulation.virtual_loop import Process, VirtualLoop
from simulation.wallet_resource import PREFIX, STATE_TOPIC, Document, account_keys
from wallet_core.errors import WalletError
from wallet_core.messages import Topic
from wallet_core.resource import WalletManager, parse_resource
from wallet_core.settings import ROLE_SETTINGS, Role, environment, settings_from_environment, settings_hash
from wallet_core.spans import CUT_LIFE_SECONDS
from wallet_core.testing.fake_chain import FakeChain, FakeNode
from wallet_core.testing.fake_kafka import (
    FakeAddressFeed,
    FakeCommandQueue,
    FakeLedger,
    FakeStateView,
    FakeTopicAdmin,
)
from wallet_core.testing.fake_orders import FakeOrderFeed, FakePublishedEvents
from wallet_core.testing.fake_redis import FakeLock, FakeRedis
from wallet_core.testing.fake_spans import FakeSpanBoard
from wallet_workers.bootstrap import Bootstrap, BootstrapFailed, BootstrapPorts
from wallet_workers.command import CommandPorts, CommandWorker
from wallet_workers.metrics import Metrics
from wallet_workers.status import WorkerStatus
from wallet_workers.stopping import Stopping
from wallet_workers.sync import SyncPorts, SyncWorker

DRAIN_SECONDS_MAX = 8.0
"""As in `__main__.py`: so long may a step go on after the wish to stop."""


class LoopClock:
    """Port `Clock`: the loop's time."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def monotonic(self) -> float:
        """See the port."""
        return self._loop.time()

    def unix_time(self) -> float:
        """See the port."""
        return 1_700_000_000.0 + self._loop.time()

    async def sleep(self, seconds: float) -> None:
        """See the port."""
        await asyncio.sleep(seconds)


class FakeRedisServer:
    """What bootstrap asks of Redis."""

    def __init__(self, redis: FakeRedis) -> None:
        self._redis = redis

    async def ping(self) -> None:
        """Raises RedisUnreachable."""
        self._redis.get("nothing")


class Xpub:
    """Port `SecretFile`."""

    def read(self) -> str:
        """See the port."""
        return account_keys().xpub


@dataclass
class World:
    """All that the wallet's processes share."""

    loop: VirtualLoop
    choice: random.Random
    faults: Faults
    trace: Trace
    clock: LoopClock
    chain: FakeChain
    history: History
    broker: SimulatedBroker
    redis: FakeRedis
    document: Document
    generation: int = 1
    nodes: list[FakeNode] = field(default_factory=list)
    """One for each process that asks a node, by its first endpoint; the nemesis makes them lie."""
    asked: Callable[[], list[FakeNode]] = list
    """Those of the processes that live."""
    published: Callable[[], list[str]] = list
    """The addresses that were published, lower-case hex."""
    fail: Callable[[str], None] = lambda _message: None
    """Ends the simulation: something broke that must not."""
    is_state_lost: Callable[[], bool] = lambda: False

    @property
    def resource(self) -> WalletManager:
        """The wallet's resource as it is now."""
        return _parsed(json.dumps(self.document))


@functools.lru_cache
def _parsed(document: str) -> WalletManager:
    return parse_resource(json.loads(document))


def same(thing: Any, _role: Role, _world: World) -> Any:
    """What is planted where nothing is."""
    return thing


@dataclass(frozen=True)
class Plant:
    """A known bug, as the replacement of one object that a role is given."""

    settings: Callable[[Any, Role, World], Any] = same
    node: Callable[[Any, Role, World], Any] = same
    ledger: Callable[[Any, Role, World], Any] = same
    feed: Callable[[Any, Role, World], Any] = same
    board: Callable[[Any, Role, World], Any] = same
    published: Callable[[Any, Role, World], Any] = same


NO_BUG = Plant()


class WalletProcess(Process):
    """One worker process."""

    def __init__(self, world: World, role: Role, number: int, plant: Plant) -> None:
        super().__init__(world.loop, f"{role.value}-{number}")
        self.role = role
        self._world = world
        self._plant = plant
        self.generation = world.generation
        self.node: FakeNode | None = None
        self.status: WorkerStatus | None = None
        self.failed_by: str | None = None
        """What the process ended with."""
        self._led_at_epoch: int | None = None
        self._transactional_id = f"{world.resource.qualified_name}-{STATE_TOPIC}"
        self._variables = environment(world.resource, role, world.generation)
        self.stopping: Stopping | None = None
        self.ended = False
        self.succeeded = False

    @property
    def is_leader(self) -> bool:
        """Whether it says that it leads."""
        return self.status is not None and bool(self.status.as_dict().get("leader"))

    def freeze(self) -> None:
        """See Process."""
        super().freeze()
        self._led_at_epoch = self._world.broker.epoch(self._transactional_id) if self.is_leader else None

    def thaw(self) -> None:
        """See Process."""
        led_at, self._led_at_epoch = self._led_at_epoch, None
        if led_at is not None and not self.crashed and self._world.broker.epoch(self._transactional_id) > led_at:
            self._world.trace.happened(What.WOKE_LATE, self.name)
        super().thaw()

    def crash(self) -> None:
        """See Process."""
        super().crash()
        if self.role is Role.BOOTSTRAP:
            self._world.trace.happened(What.BOOTSTRAP_CRASH)

    def begin(self) -> None:
        """Start it."""
        self._world.trace.add(f"START {self.name}")
        self.start(self._run())

    async def _run(self) -> None:
        """`__main__._run`, without signals and HTTP."""
        world = self._world
        self.status = status = WorkerStatus(
            self.role, world.resource.qualified_name, settings_hash(self._variables), world.clock
        )
        self.stopping = Stopping(world.clock)
        work = asyncio.ensure_future(self._work(status, self.stopping))
        stop = asyncio.ensure_future(self.stopping.wait())
        await asyncio.wait([work, stop], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not work.done():
            await asyncio.wait([work], timeout=DRAIN_SECONDS_MAX)
            work.cancel()
        await asyncio.gather(work, stop, return_exceptions=True)
        self.ended = True
        error = None if work.cancelled() else work.exception()
        self.succeeded = error is None and not work.cancelled()
        world.trace.add(f"ENDED {error!r}")
        if error is not None and not isinstance(error, WalletError | BootstrapFailed):
            world.fail(f"{self.name} crashed by {error!r}")
        self.failed_by = None if error is None else str(error)
        if isinstance(error, BootstrapFailed) and not self.stopping and not self._may_fail_by(str(error)):
            world.fail(f"{self.name}: {error}")

    def _may_fail_by(self, problems: str) -> bool:
        """A fork may have left the chain too short for the start block, and a lost checkpoint is for a person."""
        return "spec.chain.startBlock" in problems or ("CheckpointLost" in problems and self._world.is_state_lost())

    async def _work(self, status: WorkerStatus, stopping: Stopping) -> None:
        world = self._world
        metrics = Metrics(status)
        settings: Any = settings_from_environment(ROLE_SETTINGS[self.role], self._variables)
        settings = self._plant.settings(settings, self.role, world)
        opened: list[Callable[[], Awaitable[None]]] = []
        try:
            match self.role:
                case Role.BOOTSTRAP:
                    await Bootstrap(settings, self._bootstrap_ports(opened), status, metrics, stopping).run()
                case Role.COMMAND:
                    await CommandWorker(settings, self._command_ports(opened), status, metrics, stopping).run()
                case Role.SYNC:
                    await SyncWorker(settings, self._sync_ports(settings, opened), status, metrics, stopping).run()
        finally:
            for close in reversed(opened):
                await close()

    def _bootstrap_ports(self, opened: list[Callable[[], Awaitable[None]]]) -> BootstrapPorts:
        world = self._world
        return BootstrapPorts(
            clock=world.clock,
            node=self._node(),
            topics=self._interrupted(FakeTopicAdmin(world.broker, topic_prefix=PREFIX), "kafka", "topics"),
            ledger=self._ledger(opened),
            state=self._state(),
            redis=self._interrupted(FakeRedisServer(world.redis), "redis", "redis"),
            orders=self._orders(),
            published=self._published(),
        )

    def _command_ports(self, opened: list[Callable[[], Awaitable[None]]]) -> CommandPorts:
        world = self._world
        queue = FakeCommandQueue(
            world.broker,
            topic_prefix=PREFIX,
            topic=Topic.COMMAND,
            group=f"{world.resource.qualified_name}.command",
            clock=world.clock,
            before=self._before("queue"),
        )
        opened.append(queue.close)
        return CommandPorts(clock=world.clock, queue=queue, state=self._state(), xpub=Xpub())

    def _sync_ports(self, settings: Any, opened: list[Callable[[], Awaitable[None]]]) -> SyncPorts:
        world = self._world
        own = FakeAddressFeed(world.broker, topic_prefix=PREFIX, partitions=settings.kafka.partitions)
        feed = self._plant.feed(own, self.role, world)
        lock = FakeLock(
            world.redis,
            name=f"{{{world.resource.qualified_name}}}:lock:sync",
            ttl_ms=settings.tuning.lock_ttl_seconds * 1000,
            clock=world.clock,
        )
        board = FakeSpanBoard(
            world.redis,
            prefix=f"{{{world.resource.qualified_name}}}:spans",
            claim_ttl_ms=settings.tuning.lock_ttl_seconds * 1000,
            cut_ttl_ms=CUT_LIFE_SECONDS * 1000,
            clock=world.clock,
        )
        lying = LyingBoard(board, world.loop, world.faults, world.trace, world.published)
        return SyncPorts(
            clock=world.clock,
            node=self._node(),
            ledger=self._ledger(opened),
            feed=self._interrupted(feed, "kafka", "feed", loses_answers=False),
            lock=self._interrupted(lock, "redis", "lock", spares=("release",)),
            board=self._interrupted(self._plant.board(lying, self.role, world), "redis", "board"),
            orders=self._orders(),
            published=self._published(),
        )

    def _node(self) -> Any:
        world = self._world
        by_tag = world.resource.spec.chain.confirmation.tag is not None
        node, *others = (
            FakeNode(world.chain, world.clock, with_finalized=by_tag) for _ in world.resource.spec.chain.rpc
        )
        node.quorum, node.others = world.resource.spec.chain.quorum, others
        world.nodes.append(node)
        self.node = node
        planted = self._plant.node(node, self.role, world)
        return self._interrupted(planted, "node", "node", spares=("wait_for_head",))

    def _state(self) -> Any:
        return self._interrupted(FakeStateView(self._world.broker, STATE_TOPIC), "kafka", "state")

    def _orders(self) -> Any:
        return self._interrupted(FakeOrderFeed(self._world.broker, topic_prefix=PREFIX), "kafka", "orders")

    def _published(self) -> Any:
        events = FakePublishedEvents(self._world.broker, topic_prefix=PREFIX)
        return self._interrupted(self._plant.published(events, self.role, self._world), "kafka", "published")

    def _ledger(self, opened: list[Callable[[], Awaitable[None]]]) -> Any:
        ledger = FakeLedger(
            self._world.broker,
            topic_prefix=PREFIX,
            state_topic=Topic.STATE_SYNC,
            transactional_id=self._transactional_id,
            before=self._before("ledger"),
        )
        opened.append(ledger.close)
        return self._plant.ledger(ledger, self.role, self._world)

    def _interrupted(self, port: Any, side: str, name: str, **more: Any) -> Any:
        return Interrupted(port, self._world.faults, self._world.trace, side=side, name=name, **more)

    def _before(self, port: str) -> Callable[[str], Awaitable[None]]:
        world = self._world

        async def before(step: str) -> None:
            what = f"{port}.{step}"
            world.trace.add(what)
            await world.faults.pass_time()
            await world.faults.strike(what, WRITE_WEIGHT)
            if step == "committed":
                world.faults.may_lose_answer("kafka", what)
            else:
                world.faults.may_fail("kafka", what)

        return before
