"""What a scanner relies on when it matches a block, on the fake feed and on a real Kafka."""

from collections.abc import AsyncIterator

import pytest

from component.kafka_worlds import WORLDS, KafkaWorld, open_world
from wallet_core.addresses import Address
from wallet_core.errors import TopicsMisconfigured
from wallet_core.messages import Record, Topic
from wallet_core.ports import AddressFeed


@pytest.fixture(params=WORLDS)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[KafkaWorld]:
    async with open_world(request) as world:
        yield world


def address(number: int) -> Address:
    return Address(number.to_bytes(20, "big"))


def created(number: int) -> Record:
    return Record(Topic.ADDRESS_CREATED, b"0x" + address(number).hex().encode(), b"{}")


async def publish(world: KafkaWorld, *numbers: int) -> None:
    """Until readers can see it: nobody can pay an address before."""
    transaction = await world.open_transaction(f"{world.prefix}{numbers}", [created(number) for number in numbers])
    await transaction.commit()
    await world.settle(Topic.ADDRESS_CREATED)


async def read(feed: AddressFeed) -> list[Address]:
    return [address for batch in [batch async for batch in feed.read_to_stable_end()] for address in batch]


class TestAddressFeed:
    async def test_what_was_committed_before_the_call_is_returned(self, world: KafkaWorld) -> None:
        """Always, at once, and from every partition; this is why no deposit can be missed."""
        await world.create(Topic.ADDRESS_CREATED, 3)
        feed = world.feed(partitions=3)
        await publish(world, *range(1, 50))
        assert sorted(await read(feed)) == [address(number) for number in range(1, 50)]
        for number in range(50, 60):
            await publish(world, number)
            assert list(await read(feed)) == [address(number)]

    async def test_nothing_is_handed_out_twice(self, world: KafkaWorld) -> None:
        """An unchanged topic has nothing new to say."""
        await world.create(Topic.ADDRESS_CREATED, 3)
        feed = world.feed(partitions=3)
        await publish(world, 1, 2, 3)
        assert len(await read(feed)) == 3
        assert list(await read(feed)) == []
        assert list(await read(feed)) == []

    async def test_an_open_transaction_is_not_seen_until_it_is_committed(self, world: KafkaWorld) -> None:
        """Nobody can have been told of its addresses; and it does not block the call."""
        await world.create(Topic.ADDRESS_CREATED, 1)
        feed = world.feed(partitions=1)
        await publish(world, 1)
        transaction = await world.open_transaction(world.prefix + "open", [created(2)])
        assert list(await read(feed)) == [address(1)]
        await transaction.commit()
        await world.settle(Topic.ADDRESS_CREATED)
        assert list(await read(feed)) == [address(2)]

    async def test_aborted_addresses_are_never_seen(self, world: KafkaWorld) -> None:
        """A reply that was taken back was never given."""
        await world.create(Topic.ADDRESS_CREATED, 1)
        feed = world.feed(partitions=1)
        await world.open_transaction(world.prefix + "dead", [created(1)])
        await world.fence(world.prefix + "dead")
        await publish(world, 2)
        assert list(await read(feed)) == [address(2)]

    async def test_watched_addresses_are_handed_out_too(self, world: KafkaWorld) -> None:
        """With `watch:` before the key; an address that is both comes once a record, and the set takes it once."""
        await world.create(Topic.ADDRESS_CREATED, 1)
        feed = world.feed(partitions=1)
        await world.produce(Topic.ADDRESS_CREATED, b"watch:" + created(1).key, b"{}")
        await publish(world, 1, 2)
        assert list(await read(feed)) == [address(1), address(1), address(2)]

    async def test_other_keys_are_left_out(self, world: KafkaWorld) -> None:
        """What is no address, and an address taken out by a tombstone, does not stop the feed."""
        await world.create(Topic.ADDRESS_CREATED, 1)
        feed = world.feed(partitions=1)
        await world.produce(Topic.ADDRESS_CREATED, b"watched:0x" + b"11" * 20, b"{}")
        await world.produce(Topic.ADDRESS_CREATED, b"watch:0x" + b"AA" * 20, b"{}")
        await world.produce(Topic.ADDRESS_CREATED, b"\xff\xfe", b"{}")
        await world.produce(Topic.ADDRESS_CREATED, created(1).key, None)
        await publish(world, 2)
        assert list(await read(feed)) == [address(2)]

    async def test_an_empty_topic(self, world: KafkaWorld) -> None:
        """Before the first account there is nothing, and that is no error."""
        await world.create(Topic.ADDRESS_CREATED, 2)
        assert list(await read(world.feed(partitions=2))) == []

    async def test_a_topic_that_vanished_halts(self, world: KafkaWorld) -> None:
        """Blocks are never matched against a set that can no longer be complete."""
        await world.create(Topic.ADDRESS_CREATED, 1)
        feed = world.feed(partitions=1)
        await publish(world, 1)
        await read(feed)
        await world.delete(Topic.ADDRESS_CREATED)
        with pytest.raises(TopicsMisconfigured):
            await read(feed)
        with pytest.raises(TopicsMisconfigured):
            await read(world.feed(partitions=1))

    async def test_a_topic_that_was_made_anew_halts(self, world: KafkaWorld) -> None:
        """It is shorter than what was read from it."""
        await world.create(Topic.ADDRESS_CREATED, 1)
        feed = world.feed(partitions=1)
        await publish(world, 1, 2, 3)
        await read(feed)
        await world.delete(Topic.ADDRESS_CREATED)
        await world.create(Topic.ADDRESS_CREATED, 1)
        with pytest.raises(TopicsMisconfigured):
            await read(feed)
        with pytest.raises(TopicsMisconfigured):
            await read(feed)

    async def test_batches_are_bounded_and_reading_goes_on_behind_the_last_one(self, world: KafkaWorld) -> None:
        """Millions of addresses are never held at once, and a failure half-way costs nothing that was handed out."""
        await world.create(Topic.ADDRESS_CREATED, 2)
        feed = world.feed(partitions=2)
        wanted = world.addresses_at_once_max + 5
        flood = [created(number) for number in range(1, 2 * wanted)]
        await (await world.open_transaction(world.prefix + "flood", flood)).commit()
        await world.settle(Topic.ADDRESS_CREATED)
        reading = feed.read_to_stable_end()
        first = await anext(reading)
        await reading.aclose()
        rest = [batch async for batch in feed.read_to_stable_end()]
        assert all(0 < len(batch) <= world.addresses_at_once_max for batch in [first, *rest])
        assert sorted(each for batch in [first, *rest] for each in batch) == [
            address(number) for number in range(1, 2 * wanted)
        ]

    @pytest.mark.parametrize("partitions", [1, 3])
    async def test_a_topic_with_other_partitions_than_it_must_have_halts(
        self, world: KafkaWorld, partitions: int
    ) -> None:
        """Also after a restart: blocks may have been matched without what lies in a partition that was added."""
        await world.create(Topic.ADDRESS_CREATED, partitions)
        await publish(world, 1)
        feed = world.feed(partitions=2)
        for _ in range(2):
            with pytest.raises(TopicsMisconfigured, match=f"{partitions} partitions instead of 2"):
                await read(feed)
        assert await read(world.feed(partitions=partitions)) == [address(1)]
