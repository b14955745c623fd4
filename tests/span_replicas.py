"""Replicas of sync that share a board of spans, on fakes: each step is a call; who waits lets others work."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from wallet_core.addresses import Address, lower_hex
from wallet_core.chain import BlockRef, Rules, Window, WindowBlock, settled_number
from wallet_core.checkpoint import SyncState
from wallet_core.messages import Topic
from wallet_core.ports import SpanClaim
from wallet_core.resource import parse_resource
from wallet_core.settings import Role, SyncSettings, environment, settings_from_environment
from wallet_core.spans import SPAN_BLOCKS, Span, SpanResult, Terms, read_span, read_terms, write_result
from wallet_core.testing.fake_broker import FakeBroker
from wallet_core.testing.fake_chain import FakeChain, FakeNode
from wallet_core.testing.fake_clock import FakeClock
from wallet_core.testing.fake_kafka import FakeAddressFeed
from wallet_core.testing.fake_redis import FakeRedis
from wallet_core.testing.fake_spans import FakeSpanBoard
from wallet_workers.catching_up import CatchingUp
from wallet_workers.metrics import Metrics
from wallet_workers.scanner import Scanner
from wallet_workers.status import WorkerStatus

ALICE = Address(b"\xaa" * 20)
BOB = Address(b"\xbb" * 20)
SETTLE_DEPTH = 6
GENERATION = 2
SETTINGS_HASH = "hash"
LOCK_TTL_SECONDS = 30
PAID_EVERY = 50
RESOURCE = {
    "apiVersion": "wallet-manager.dev/v1alpha1",
    "kind": "WalletManager",
    "metadata": {"name": "w", "namespace": "tests"},
    "spec": {
        "chain": {
            "id": 1337,
            "rpc": [{"url": "http://node:8545"}],
            "confirmation": {"depth": 3},
            "settleDepth": SETTLE_DEPTH,
        },
        "kafka": {"bootstrapServers": "kafka:9092"},
        "redis": {"url": "redis://redis:6379/0"},
        "accounts": {
            "fingerprint": "5c" * 20,
            "xpubFrom": {"secretKeyRef": {"name": "accounts", "key": "xpub"}},
        },
        "assets": [{"type": "native", "symbol": "ETH"}],
        "tuning": {"lockTtlSeconds": LOCK_TTL_SECONDS},
    },
}
SETTINGS = settings_from_environment(SyncSettings, environment(parse_resource(RESOURCE), Role.SYNC, GENERATION))
RULES = Rules(3, SETTLE_DEPTH)

Meanwhile = Callable[[], Awaitable[None]]


async def nothing() -> None:
    """Nobody else is there."""


class SharedClock(FakeClock):
    """While one waits, others work."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Meanwhile = nothing

    async def sleep(self, seconds: float) -> None:
        await self.meanwhile()
        await super().sleep(seconds)


class World:
    """A chain with a payment in every fiftieth block, and what the replicas share."""

    def __init__(self, blocks: int) -> None:
        self.clock = SharedClock()
        self.redis = FakeRedis(self.clock)
        self.broker = FakeBroker()
        self.broker.create_topic(Topic.ADDRESS_CREATED, 2)
        self.publish(ALICE)
        self.chain = FakeChain()
        for number in range(1, blocks + 1):
            self.chain.mine(*([self.chain.transfer(ALICE, number)] if number % PAID_EVERY == 0 else []))

    def publish(self, address: Address) -> None:
        producer = self.broker.start_producer("publish")
        producer.send(Topic.ADDRESS_CREATED, lower_hex(address).encode(), b"{}")
        producer.commit()

    @property
    def settled(self) -> int:
        return self.chain.tip.number - SETTLE_DEPTH + 1

    def ref(self, number: int) -> BlockRef:
        return BlockRef(number, self.chain.blocks[number].header.hash)


class Replica:
    """One process: its sequencer's side and its scanner's side."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.board = FakeSpanBoard(
            world.redis,
            prefix="{tests.w}:spans",
            claim_ttl_ms=LOCK_TTL_SECONDS * 1000,
            cut_ttl_ms=300_000,
            clock=world.clock,
        )
        self.status = WorkerStatus(Role.SYNC, "tests.w", SETTINGS_HASH, world.clock)
        self.metrics = Metrics(self.status)
        self.node = FakeNode(world.chain, world.clock)
        feed = FakeAddressFeed(world.broker, topic_prefix="", partitions=2)
        self.scanner = Scanner(SETTINGS, node=self.node, feed=feed, status=self.status, metrics=self.metrics)
        self.catching_up = CatchingUp(
            SETTINGS,
            clock=world.clock,
            board=self.board,
            node=self.node,
            scanner=self.scanner,
            status=self.status,
            metrics=self.metrics,
        )
        self.state = SyncState(Window(world.ref(0)), asset_first_blocks={"native": 1})
        """As the ledger holds it."""
        self.appended: list[WindowBlock] = []
        self.inline = 0
        """Steps in which it scanned by itself."""

    async def claim(self) -> tuple[SpanClaim, Span, Terms] | None:
        """The next span that this replica may scan."""
        standing = await self.board.terms()
        terms = None if standing is None else read_terms(standing[1])
        if standing is None or terms is None or self.board.scanner in terms.excluded:
            return None
        claim = await self.board.claim(standing[0])
        span = None if claim is None else read_span(claim.span)
        return None if claim is None or span is None else (claim, span, terms)

    async def result(self, claim: SpanClaim, span: Span, terms: Terms) -> SpanResult:
        blocks = await self.scanner.scan_span(span, terms.scope)
        return SpanResult(claim.cut, span, GENERATION, SETTINGS_HASH, self.scanner.addresses, blocks)

    async def scan_one(self) -> None:
        """As an honest scanner does."""
        if claimed := await self.claim():
            await self.board.put_back(claimed[0], write_result(await self.result(*claimed)))

    async def step(self) -> int | None:
        """One step of the sequencer; the number of blocks that came from spans, None where it scanned inline."""
        head = await self.node.head()
        found = await self.catching_up.blocks(self.state, settled_number(RULES, head))
        self.append(found or ())
        return None if found is None else len(found)

    async def catch_up(self, steps_max: int = 2_000) -> None:
        """Step until the settled blocks are all there."""
        for _ in range(steps_max):
            if self.state.window.tip.number >= self.world.settled:
                return
            if await self.step() is None:
                self.inline += 1
                await self.scan_inline()
        raise AssertionError(f"it stands at {self.state.window.tip}")

    async def scan_inline(self) -> None:
        first = self.state.window.tip.number + 1
        last = min(first + SPAN_BLOCKS - 1, self.world.settled)
        self.append(await self.scanner.scan(self.state.window.tip, first, last, self.state.scope))

    def append(self, blocks: Sequence[WindowBlock]) -> None:
        for block in blocks:
            assert block.parent_hash == self.state.window.tip.hash
            self.state = replace(self.state, window=Window(block.ref))
            self.appended.append(block)

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"wallet_{name}_total", labels) or 0


def take_turns(*scanners: Callable[[], Awaitable[None]]) -> Meanwhile:
    turn = itertools.cycle(scanners)

    async def meanwhile() -> None:
        await next(turn)()

    return meanwhile


def check_everything_was_found(world: World, leader: Replica) -> None:
    """Every settled block once, in order, with the deposit that it has."""
    numbers = [block.number for block in leader.appended]
    assert numbers == list(range(1, world.settled + 1))
    paid = [block.number for block in leader.appended if block.deposits]
    assert paid == [number for number in numbers if number % PAID_EVERY == 0]
    assert all(block.hash == world.ref(block.number).hash for block in leader.appended)
