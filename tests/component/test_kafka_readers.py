"""What every reader of a real Kafka bears: records that no proper client writes, and records that are gone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from component.kafka_worlds import RealWorld
from devstack.services import Kafka
from raw_batches import raw_batch
from wallet_core.errors import KafkaUnreachable
from wallet_core.messages import Topic
from wallet_workers.adapters.kafka_clients import KafkaClients
from wallet_workers.adapters.kafka_orders import KafkaOrderFeed

KEY = b"watch:0x" + b"11" * 20
NOT_UTF8 = ((b"\xff\xfe\x00i", b"x"),)


@pytest.fixture
async def world(kafka: Kafka) -> AsyncIterator[RealWorld]:
    world = RealWorld(kafka.bootstrap_servers)
    yield world
    await world.close()


async def the_orders(world: RealWorld) -> Sequence[object]:
    return [found.value for found in await world.orders().read(0)]


async def what_was_published(world: RealWorld) -> Sequence[object]:
    return [record.value async for records in world.published().read() for record in records]


async def the_addresses(world: RealWorld) -> Sequence[object]:
    return [b"{}" async for addresses in world.feed(partitions=1).read_to_stable_end() for _ in addresses]


async def the_state(world: RealWorld) -> Sequence[object]:
    return list((await world.state_view().read()).values())


READERS: dict[Topic, Callable[[RealWorld], Awaitable[Sequence[object]]]] = {
    Topic.ORDERS: the_orders,
    Topic.TRANSACTION: what_was_published,
    Topic.ADDRESS_CREATED: the_addresses,
    Topic.STATE_SYNC: the_state,
}


@pytest.mark.parametrize("topic", READERS)
async def test_a_header_name_that_is_not_utf8_stops_no_reader(topic: Topic, world: RealWorld) -> None:
    """Whoever may write to a topic could otherwise end a worker at each of its starts."""
    await world.create(topic)
    async with AIOKafkaProducer(bootstrap_servers=world.bootstrap_servers) as producer:
        batch = raw_batch(producer.create_batch(), [(KEY, b"{}", NOT_UTF8)])
        await (await producer.send_batch(batch, world.prefix + topic, partition=0))
    assert await READERS[topic](world) == [b"{}"]


class Counted(AIOKafkaConsumer):  # type: ignore[misc]  # aiokafka publishes no types
    """Counts how many were made."""

    made = 0

    def __init__(self, **settings: Any) -> None:
        type(self).made += 1
        super().__init__(**settings)


async def test_orders_that_retention_removed_are_passed_over(world: RealWorld) -> None:
    """What is left is read; where nothing is left a look opens no connection, however far below the position is."""

    class Consumers(Counted):
        pass

    clients = KafkaClients(world.bootstrap_servers, consumer_class=Consumers)
    feed = KafkaOrderFeed(clients, topic_prefix=world.prefix)
    world.opened.append(feed)
    await world.create(Topic.ORDERS)
    for value in (b"a", b"b", b"c"):
        await world.produce(Topic.ORDERS, b"", value)
    await remove_below(world, 2)
    assert [(found.offset, found.value) for found in await feed.read(0)] == [(2, b"c")]
    await remove_below(world, 3)
    made = Consumers.made
    assert list(await feed.read(0)) == []
    assert Consumers.made == made
    await world.produce(Topic.ORDERS, b"", b"d")
    assert [found.offset for found in await feed.read(0)] == [3]


async def test_a_beginning_that_moves_while_orders_are_read_is_looked_at_again(world: RealWorld) -> None:
    """A reading that finds its first record gone is one that failed, and not the end of the worker."""
    looked: list[object] = []

    class Late(AIOKafkaConsumer):  # type: ignore[misc]  # aiokafka publishes no types
        """Says what the beginning was just before it moved."""

        async def beginning_offsets(self, partitions: Sequence[TopicPartition]) -> Any:
            found = await super().beginning_offsets(partitions)
            looked.append(found)
            if len(looked) == 1:
                await remove_below(world, 2)
            return found

    clients = KafkaClients(world.bootstrap_servers, consumer_class=Late)
    feed = KafkaOrderFeed(clients, topic_prefix=world.prefix)
    world.opened.append(feed)
    await world.create(Topic.ORDERS)
    for value in (b"a", b"b", b"c"):
        await world.produce(Topic.ORDERS, b"", value)
    with pytest.raises(KafkaUnreachable, match="OffsetOutOfRange"):
        await feed.read(0)
    assert [found.offset for found in await feed.read(0)] == [2]


async def remove_below(world: RealWorld, offset: int) -> None:
    partition = TopicPartition(world.prefix + Topic.ORDERS, 0)
    admin = AIOKafkaAdminClient(bootstrap_servers=world.bootstrap_servers)
    await admin.start()
    try:
        assert await admin.delete_records({partition: RecordsToDelete(before_offset=offset)})
    finally:
        await admin.close()
