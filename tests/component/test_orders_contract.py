"""What the leader relies on when it looks for orders and for what was said, on the fakes and on a real Kafka."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from component.kafka_worlds import WORLDS, KafkaWorld, open_world
from wallet_core.errors import KafkaUnreachable, TopicsMisconfigured
from wallet_core.messages import Record, Topic

READ_MAX = 100
YEAR_2020_MS = 1_577_836_800_000


@pytest.fixture(params=WORLDS)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[KafkaWorld]:
    async with open_world(request) as world:
        yield world


def said(key: bytes, value: bytes) -> Record:
    return Record(Topic.TRANSACTION, key, value)


async def everything(world: KafkaWorld) -> list[bytes | None]:
    return [record.value async for records in world.published().read() for record in records]


class TestOrderFeed:
    async def test_messages_come_from_a_position_on(self, world: KafkaWorld) -> None:
        """Each with its offset; nothing where nothing is new, however often one looks; and what comes is seen."""
        await world.create(Topic.ORDERS)
        feed = world.orders()
        assert list(await feed.read(0)) == []
        for value in (b"a", b"b", None):
            await world.produce(Topic.ORDERS, b"", value)
        assert [(found.offset, found.value) for found in await feed.read(0)] == [(0, b"a"), (1, b"b"), (2, None)]
        assert [found.offset for found in await feed.read(2)] == [2]
        assert list(await feed.read(3)) == []
        assert list(await feed.read(3)) == []
        await world.produce(Topic.ORDERS, b"", b"d")
        assert [(found.offset, found.value) for found in await feed.read(3)] == [(3, b"d")]

    async def test_a_missing_topic_holds_no_orders(self, world: KafkaWorld) -> None:
        """No error, and looking does not make it; once it is there it is read."""
        feed = world.orders()
        assert list(await feed.read(0)) == []
        assert await world.admin().describe([Topic.ORDERS]) == {}
        await world.create(Topic.ORDERS)
        await world.produce(Topic.ORDERS, b"", b"a")
        assert [found.value for found in await feed.read(0)] == [b"a"]

    async def test_a_topic_made_anew_is_read_from_its_beginning(self, world: KafkaWorld) -> None:
        """A position beyond its end is of the topic before."""
        await world.create(Topic.ORDERS)
        await world.produce(Topic.ORDERS, b"", b"a")
        assert [found.offset for found in await world.orders().read(7)] == [0]

    async def test_one_read_is_limited(self, world: KafkaWorld) -> None:
        """Who reads on from the last offset gets the rest."""
        await world.create(Topic.ORDERS)
        records = [Record(Topic.ORDERS, b"", b"%d" % n) for n in range(READ_MAX + 5)]
        await (await world.open_transaction(world.prefix + "many", records)).commit()
        await world.settle(Topic.ORDERS)
        feed = world.orders()
        first = await feed.read(0)
        assert len(first) == READ_MAX
        rest = await feed.read(first[-1].offset + 1)
        assert [found.value for found in rest] == [b"%d" % n for n in range(READ_MAX, READ_MAX + 5)]

    async def test_each_message_has_its_time(self, world: KafkaWorld) -> None:
        """In milliseconds, as it was sent: an order of long ago is told from a new one."""
        await world.create(Topic.ORDERS)
        await world.produce(Topic.ORDERS, b"", b"a")
        (found,) = await world.orders().read(0)
        assert found.timestamp_ms > YEAR_2020_MS


class TestPublishedEvents:
    async def test_each_record_has_its_place_and_time(self, world: KafkaWorld) -> None:
        """Whoever finds one that is no event can say which it is."""
        await world.create_ledger_topics()
        await (await world.open_transaction(world.role, [said(b"k", b"%d" % n) for n in range(3)])).commit()
        await world.settle(Topic.TRANSACTION)
        found = [record async for records in world.published().read() for record in records]
        assert [(record.offset, record.value) for record in found] == [(n, b"%d" % n) for n in range(3)]
        assert len({record.partition for record in found}) == 1
        assert all(record.timestamp_ms > YEAR_2020_MS for record in found)

    async def test_everything_committed_is_there(self, world: KafkaWorld) -> None:
        """Of every partition, and nothing that was aborted."""
        await world.create_ledger_topics()
        assert await everything(world) == []
        records = [said(b"%d" % n, b"%d" % n) for n in range(30)]
        await (await world.open_transaction(world.role, records)).commit()
        await world.open_transaction(world.role, [said(b"1", b"aborted")])
        await world.fence(world.role)
        await world.settle(Topic.TRANSACTION)
        assert sorted(await everything(world), key=str) == sorted([record.value for record in records], key=str)

    async def test_one_key_s_values_are_in_order(self, world: KafkaWorld) -> None:
        """The last one is the last that was said."""
        await world.create_ledger_topics()
        await (await world.open_transaction(world.role, [said(b"k", b"%d" % n) for n in range(20)])).commit()
        await world.settle(Topic.TRANSACTION)
        assert await everything(world) == [b"%d" % n for n in range(20)]

    async def test_what_the_caller_itself_has_just_committed_is_there(self, world: KafkaWorld) -> None:
        """Although a commit returns before its marker is written."""
        await world.create_ledger_topics()
        ledger = world.ledger()
        position = (await ledger.recover()).position
        for n in range(10):
            state = Record(Topic.STATE_SYNC, b"checkpoint", b"%d" % n)
            position = await ledger.append(position, [state, said(b"k", b"%d" % n)])
            assert (await everything(world))[-1] == b"%d" % n

    async def test_an_open_transaction_is_not_passed_over(self, world: KafkaWorld) -> None:
        """It may hold the last word on a transfer: the reading fails instead."""
        await world.create_ledger_topics()
        await world.open_transaction(world.prefix + "other", [said(b"k", b"open")])
        with pytest.raises(KafkaUnreachable):
            await everything(world)

    async def test_a_missing_topic_halts(self, world: KafkaWorld) -> None:
        """Nothing was lost silently."""
        with pytest.raises(TopicsMisconfigured):
            await everything(world)
