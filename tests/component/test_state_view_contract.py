"""What bootstrap and the command worker rely on when they look at the state, on the fake view and on a real Kafka."""

from collections.abc import AsyncIterator

import pytest

from component.kafka_worlds import WORLDS, KafkaWorld, open_world
from wallet_core.messages import Record, Topic


@pytest.fixture(params=WORLDS)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[KafkaWorld]:
    async with open_world(request) as world:
        yield world


def state(value: bytes | None, key: bytes = b"checkpoint") -> Record:
    return Record(Topic.STATE_SYNC, key, value)


class TestStateView:
    async def test_before_there_is_a_topic(self, world: KafkaWorld) -> None:
        """Bootstrap may still be at work: no state, no error, and the same view sees what comes."""
        view = world.state_view()
        assert await view.read() == {}
        await world.create(Topic.STATE_SYNC)
        assert await view.read() == {}
        await world.produce(Topic.STATE_SYNC, b"checkpoint", b"1")
        assert await view.read() == {b"checkpoint": b"1"}

    async def test_the_last_value_of_each_key(self, world: KafkaWorld) -> None:
        """A tombstone takes its key away."""
        await world.create(Topic.STATE_SYNC)
        records = [state(b"1"), state(b"a", b"block"), state(b"2"), state(None, b"block")]
        await (await world.open_transaction(world.role, records)).commit()
        await world.produce(Topic.STATE_SYNC, b"last", b"x")  # behind the marker
        await world.settle(Topic.STATE_SYNC)
        assert await world.state_view().read() == {b"checkpoint": b"2", b"last": b"x"}

    async def test_an_open_transaction_is_left_alone(self, world: KafkaWorld) -> None:
        """It is not seen and not waited for, and looking does not fence who writes it."""
        await world.create(Topic.STATE_SYNC)
        await world.produce(Topic.STATE_SYNC, b"checkpoint", b"1")
        transaction = await world.open_transaction(world.role, [state(b"2")])
        assert await world.state_view().read() == {b"checkpoint": b"1"}
        await transaction.commit()
        await world.produce(Topic.STATE_SYNC, b"last", b"x")
        await world.settle(Topic.STATE_SYNC)
        assert await world.state_view().read() == {b"checkpoint": b"2", b"last": b"x"}
