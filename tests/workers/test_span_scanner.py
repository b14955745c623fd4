"""The loop in every replica that scans the spans which a leader offers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from structlog.testing import capture_logs

from span_replicas import ALICE, GENERATION, PAID_EVERY, SETTINGS, Replica, SharedClock, World
from wallet_core.addresses import Address
from wallet_core.settings import SyncSettings
from wallet_core.spans import SPAN_BLOCKS
from wallet_core.testing.fake_broker import FakeBroker
from wallet_core.testing.fake_kafka import FakeAddressFeed
from wallet_core.testing.fake_redis import FakeRedis
from wallet_core.transfers import Scope
from wallet_workers.scanner import Scanner
from wallet_workers.span_scanner import SpanScanner
from wallet_workers.stopping import Stopping


def troubles_of(replica: Replica) -> list[Mapping[str, Any]]:
    troubles = replica.status.as_dict()["troubles"]
    assert isinstance(troubles, list)
    return troubles


def loop_of(replica: Replica, stopping: Stopping, settings: SyncSettings = SETTINGS) -> SpanScanner:
    return SpanScanner(
        settings,
        clock=replica.world.clock,
        board=replica.board,
        scanner=replica.scanner,
        status=replica.status,
        metrics=replica.metrics,
        stopping=stopping,
    )


class Rounds(SharedClock):
    """Ends the loop after so many waits."""

    def __init__(self, rounds: int) -> None:
        super().__init__()
        self.rounds = rounds
        self.stopping = Stopping(self)
        self.stands_still = False

    async def sleep(self, seconds: float) -> None:
        self.rounds -= 1
        if self.rounds <= 0:
            self.stopping.request()
        await super().sleep(0 if self.stands_still else seconds)


async def scanned(world: World, settings: SyncSettings = SETTINGS, *, rounds: int = 60) -> Replica:
    """A replica whose loop ran for a while beside a leader that had offered its spans."""
    clock = world.clock = Rounds(rounds)
    world.redis = FakeRedis(clock)
    leader, replica = Replica(world), Replica(world)
    clock.rounds = 10**9
    await leader.step()
    clock.rounds, clock.stands_still = rounds, True
    await loop_of(replica, clock.stopping, settings).run()
    return replica


async def test_the_loop_works_off_what_is_offered() -> None:
    """Every span, each counted; and then it says no longer that it scans."""
    world = World(600)
    replica = await scanned(world, rounds=10_000)
    assert replica.counted("spans_scanned") == world.settled // SPAN_BLOCKS
    assert replica.counted("span_blocks_scanned") == world.settled // SPAN_BLOCKS * SPAN_BLOCKS
    assert "scanning" not in replica.status.as_dict()


async def test_a_scanner_under_other_settings_leaves_the_spans_alone() -> None:
    """In the middle of a rollout replicas of both settings are there."""
    older = SETTINGS.model_copy(update={"generation": GENERATION - 1})
    replica = await scanned(World(600), older)
    assert replica.counted("spans_scanned") == 0


async def test_trouble_is_the_loops_own() -> None:
    """It shows under its own name, the loop goes on, and the claim is handed back for others to take at once."""
    world = World(600)
    clock = world.clock = Rounds(10**9)
    world.redis = FakeRedis(clock)
    leader, troubled, other = Replica(world), Replica(world), Replica(world)
    await leader.step()
    troubled.node.is_unreachable = True
    clock.rounds, clock.stands_still = 20, True
    await loop_of(troubled, clock.stopping).run()
    assert [trouble["part"] for trouble in troubles_of(troubled)] == ["scanning"]
    assert troubled.counted("span_failures", error_code="rpc_unreachable") > 1
    claimed = await other.claim()
    assert claimed is not None
    assert claimed[1].first == 1


async def test_a_fault_of_our_own_does_not_end_the_loop() -> None:
    """The leader beside it must not end with it."""
    world = World(600)
    clock = world.clock = Rounds(10**9)
    world.redis = FakeRedis(clock)
    leader, broken = Replica(world), Replica(world)
    await leader.step()

    broken.node.null_blocks = None  # type: ignore[assignment]  # every question for a block ends with a TypeError
    clock.rounds = 20
    with capture_logs() as logged:
        await loop_of(broken, clock.stopping).run()
    assert "scanning_failed" in [line["event"] for line in logged]
    assert broken.counted("span_failures", error_code="internal_error") > 1


class HesitantFeed(FakeAddressFeed):
    """Has read, at its first call, what it hands out only when it is told to."""

    def __init__(self, broker: FakeBroker) -> None:
        super().__init__(broker, topic_prefix="", partitions=2)
        self.has_read, self.may_hand_out = asyncio.Event(), asyncio.Event()

    async def read_to_stable_end(self) -> AsyncIterator[Sequence[Address]]:
        batches = [batch async for batch in super().read_to_stable_end()]
        if not self.has_read.is_set():
            self.has_read.set()
            await self.may_hand_out.wait()
        for batch in batches:
            yield batch


async def test_an_address_that_another_reader_was_given_is_not_missed() -> None:
    """The loop and the leader share one address set: whoever matches waits for what is on its way into it."""
    world = World(PAID_EVERY)
    feed = HesitantFeed(world.broker)
    replica = Replica(world)
    scanner = Scanner(SETTINGS, node=replica.node, feed=feed, status=replica.status, metrics=replica.metrics)
    standing_by = asyncio.create_task(scanner.read_addresses())
    await feed.has_read.wait()
    scanning = asyncio.create_task(scanner.scan_each([PAID_EVERY], Scope({"native": 1})))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not scanning.done()
    feed.may_hand_out.set()
    [block] = await scanning
    assert [deposit.recipient for deposit in block.deposits] == [ALICE]
    await standing_by
