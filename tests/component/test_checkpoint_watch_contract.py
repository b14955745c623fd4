"""What a command worker relies on before its first answer, on the fake watch and on a real Kafka."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from component.kafka_worlds import CHECKPOINT_KEY, WORLDS, KafkaWorld, open_world
from wallet_core.messages import Record, Topic

POLL_SECONDS = 0.1


@pytest.fixture(params=WORLDS)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[KafkaWorld]:
    async with open_world(request) as world:
        yield world


class TestCheckpointWatch:
    async def test_without_a_topic_there_is_no_checkpoint(self, world: KafkaWorld) -> None:
        """Bootstrap may still be at work: no error, and the same watch sees what comes."""
        watch = world.watch()
        assert await watch.wait_for_checkpoint(POLL_SECONDS) is False
        await world.create(Topic.STATE_SYNC)
        await world.produce(Topic.STATE_SYNC, CHECKPOINT_KEY, b"{}")
        async with asyncio.timeout(20):
            while not await watch.wait_for_checkpoint(POLL_SECONDS):
                pass

    async def test_other_records_are_no_checkpoint(self, world: KafkaWorld) -> None:
        """The identity stands there before the first checkpoint does."""
        await world.create(Topic.STATE_SYNC)
        await world.produce(Topic.STATE_SYNC, b"identity", b"{}")
        assert await world.watch().wait_for_checkpoint(POLL_SECONDS) is False

    async def test_only_a_committed_checkpoint_counts(self, world: KafkaWorld) -> None:
        """One whose transaction is open may never come to be."""
        await world.create(Topic.STATE_SYNC)
        watch = world.watch()
        record = Record(Topic.STATE_SYNC, CHECKPOINT_KEY, b"{}")
        transaction = await world.open_transaction(world.role, [record])
        assert await watch.wait_for_checkpoint(POLL_SECONDS) is False
        await transaction.commit()
        async with asyncio.timeout(20):
            while not await watch.wait_for_checkpoint(POLL_SECONDS):
                pass
        assert await watch.wait_for_checkpoint(0) is True
