"""Two worlds for the contract tests of the ports on Kafka: the fakes, and the adapters on a real broker.

A test gets a `KafkaWorld` and cannot tell which one it is. Every world has a topic prefix of its own, so all tests
share one broker. Interruptions come in through the constructor: `before(step)` is awaited before a producer's `start`,
`send` and `commit`, and after the commit as `committed`.

A real commit returns before its markers are written, and a reader may see nothing of it for some milliseconds more. So
`read_committed` waits until no transaction is open, and `visible_now` is for those moments when one must be.
"""

import asyncio
import functools
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.errors import ConcurrentTransactions, CoordinatorLoadInProgressError, NoError, for_code
from aiokafka.protocol.transaction import EndTxnRequest

from wallet_core.messages import Record, Topic
from wallet_core.testing.fake_broker import FakeBroker, FakeProducer, ProducerFenced
from wallet_core.testing.fake_clock import FakeClock
from wallet_core.testing.fake_kafka import (
    FakeAddressFeed,
    FakeCommandQueue,
    FakeLedger,
    FakeStateView,
    FakeTopicAdmin,
    nothing,
)
from wallet_core.testing.fake_orders import FakeOrderFeed, FakePublishedEvents
from wallet_workers.adapters.kafka_addresses import BATCH_ADDRESSES_MAX, KafkaAddressFeed
from wallet_workers.adapters.kafka_clients import START_TIMEOUT_SECONDS, KafkaClients, discard
from wallet_workers.adapters.kafka_commands import KafkaCommandQueue
from wallet_workers.adapters.kafka_ledger import KafkaLedger
from wallet_workers.adapters.kafka_orders import KafkaOrderFeed
from wallet_workers.adapters.kafka_published import KafkaPublishedEvents
from wallet_workers.adapters.kafka_state import KafkaStateView
from wallet_workers.adapters.kafka_topics import KafkaTopicAdmin

WORLDS = ["fake", "kafka"]
REQUEST_TIMEOUT_MS = 2_000
SETTLE_SECONDS_MAX = 20
TRANSACTION_TIMEOUT_MS = 15_000
STALL_SECONDS = 3.0

Before = Callable[[str], Awaitable[None]]


class OpenTransaction(ABC):
    """A transaction of anybody, begun and not ended."""

    @abstractmethod
    async def commit(self) -> None: ...
    @abstractmethod
    async def go_on(self, records: Sequence[Record]) -> None:
        """Begin the same producer's next transaction, after the commit, and send in it."""

    @abstractmethod
    async def end_late(self) -> bool:
        """Let an EndTxn of this producer, to commit, come to the broker now, whatever was ended or started meanwhile.

        It is a request that was under way when its sender gave it up, or a second copy of one. Whether it was accepted.
        """


class KafkaWorld(ABC):
    addresses_at_once_max: int
    """The largest batch of its feeds."""

    def __init__(self) -> None:
        self.prefix = f"t{uuid.uuid4().hex[:10]}."
        self.opened: list[Any] = []

    @abstractmethod
    def ledger(self, before: Before = nothing) -> Any: ...
    @abstractmethod
    def queue(self, before: Before = nothing) -> Any: ...
    @abstractmethod
    def feed(self, *, partitions: int) -> Any: ...
    @abstractmethod
    def state_view(self) -> Any: ...
    @abstractmethod
    def orders(self) -> Any: ...
    @abstractmethod
    def published(self) -> Any: ...
    @abstractmethod
    def admin(self) -> Any: ...
    @abstractmethod
    async def create(self, topic: str, partitions: int = 1) -> None: ...
    @abstractmethod
    async def delete(self, topic: str) -> None: ...
    @abstractmethod
    async def produce(self, topic: str, key: bytes, value: bytes | None, partition: int = 0) -> None: ...
    @abstractmethod
    async def open_transaction(self, transactional_id: str, records: Sequence[Record]) -> OpenTransaction: ...
    @abstractmethod
    async def fence(self, transactional_id: str) -> None: ...
    @abstractmethod
    async def settle(self, topic: str) -> None: ...
    @abstractmethod
    async def visible_now(self, topic: str) -> list[tuple[bytes, bytes | None]]: ...

    async def read_committed(self, topic: str) -> list[tuple[bytes, bytes | None]]:
        await self.settle(topic)
        return await self.visible_now(topic)

    @property
    def role(self) -> str:
        """The transactional id of this world's ledgers."""
        return self.prefix + "sync"

    @property
    def group(self) -> str:
        return self.prefix + "command"

    async def create_ledger_topics(self) -> None:
        await self.create(Topic.STATE_SYNC)
        await self.create(Topic.TRANSACTION, 3)

    async def close(self) -> None:
        for port in self.opened:
            await port.close()


class _FakeTransaction(OpenTransaction):
    def __init__(self, producer: FakeProducer, prefix: str) -> None:
        self._producer = producer
        self._prefix = prefix

    async def commit(self) -> None:
        self._producer.commit()

    async def go_on(self, records: Sequence[Record]) -> None:
        for record in records:
            self._producer.send(self._prefix + record.topic, record.key, record.value)

    async def end_late(self) -> bool:
        try:
            self._producer.commit()
        except ProducerFenced:
            return False
        return True


class FakeWorld(KafkaWorld):
    addresses_at_once_max = FakeAddressFeed.BATCH_ADDRESSES_MAX

    def __init__(self) -> None:
        super().__init__()
        self.broker = FakeBroker()
        self.clock = FakeClock()

    def ledger(self, before: Before = nothing) -> FakeLedger:
        return FakeLedger(
            self.broker,
            topic_prefix=self.prefix,
            state_topic=Topic.STATE_SYNC,
            transactional_id=self.role,
            before=before,
        )

    def queue(self, before: Before = nothing) -> FakeCommandQueue:
        return FakeCommandQueue(
            self.broker,
            topic_prefix=self.prefix,
            topic=Topic.COMMAND,
            group=self.group,
            clock=self.clock,
            before=before,
        )

    def feed(self, *, partitions: int) -> FakeAddressFeed:
        return FakeAddressFeed(self.broker, topic_prefix=self.prefix, partitions=partitions)

    def state_view(self) -> FakeStateView:
        return FakeStateView(self.broker, self.prefix + Topic.STATE_SYNC)

    def orders(self) -> FakeOrderFeed:
        return FakeOrderFeed(self.broker, topic_prefix=self.prefix)

    def published(self) -> FakePublishedEvents:
        return FakePublishedEvents(self.broker, topic_prefix=self.prefix)

    def admin(self) -> FakeTopicAdmin:
        return FakeTopicAdmin(self.broker, topic_prefix=self.prefix)

    async def create(self, topic: str, partitions: int = 1) -> None:
        self.broker.create_topic(self.prefix + topic, partitions)

    async def delete(self, topic: str) -> None:
        self.broker.delete_topic(self.prefix + topic)

    async def produce(self, topic: str, key: bytes, value: bytes | None, partition: int = 0) -> None:
        self.broker.produce(self.prefix + topic, key, value, partition=partition)

    async def open_transaction(self, transactional_id: str, records: Sequence[Record]) -> OpenTransaction:
        transaction = _FakeTransaction(self.broker.start_producer(transactional_id), self.prefix)
        await transaction.go_on(records)
        return transaction

    async def fence(self, transactional_id: str) -> None:
        self.broker.start_producer(transactional_id)

    async def settle(self, topic: str) -> None:
        name = self.prefix + topic
        for partition in range(self.broker.partitions(name)):
            assert self.broker.stable_end(name, partition) == self.broker.raw_end(name, partition)

    async def visible_now(self, topic: str) -> list[tuple[bytes, bytes | None]]:
        name = self.prefix + topic
        return [
            (record.key or b"", record.value)
            for partition in range(self.broker.partitions(name))
            for record in self.broker.read_committed(name, partition)
        ]


class HookedProducer(AIOKafkaProducer):  # type: ignore[misc]  # aiokafka publishes no types
    """aiokafka's producer, which awaits `before` around its effects."""

    def __init__(self, before: Before, **settings: Any) -> None:
        super().__init__(**settings)
        self._before = before

    async def start(self) -> None:
        await self._before("start")
        await super().start()

    async def send_batch(self, *arguments: Any, **more: Any) -> Any:
        await self._before("send")
        return await super().send_batch(*arguments, **more)

    async def commit_transaction(self) -> None:
        await self._before("commit")
        await super().commit_transaction()
        await self._before("committed")


class _RealTransaction(OpenTransaction):
    def __init__(self, producer: AIOKafkaProducer, prefix: str) -> None:
        self.producer = producer
        self._prefix = prefix

    async def commit(self) -> None:
        await self.producer.commit_transaction()

    async def go_on(self, records: Sequence[Record]) -> None:
        await self.producer.begin_transaction()
        arrivals = [await self.producer.send(self._prefix + each.topic, each.value, each.key) for each in records]
        await asyncio.gather(*arrivals)

    async def end_late(self) -> bool:
        """As aiokafka sends it, which has no call for that."""
        sender, manager = self.producer._sender, self.producer._txn_manager
        coordinator = await sender._find_coordinator(CoordinationType.TRANSACTION, manager.transactional_id)
        request = EndTxnRequest(
            transactional_id=manager.transactional_id,
            producer_id=manager.producer_id,
            producer_epoch=manager.producer_epoch,
            transaction_result=True,
        )
        async with asyncio.timeout(SETTLE_SECONDS_MAX):
            while True:
                answer = await self.producer.client.send(coordinator, request, group=ConnectionGroup.COORDINATION)
                error = for_code(answer.error_code)
                if error not in {ConcurrentTransactions, CoordinatorLoadInProgressError}:  # else ask again
                    return error is NoError

    async def close(self) -> None:
        await discard(self.producer)


class RealWorld(KafkaWorld):
    addresses_at_once_max = BATCH_ADDRESSES_MAX

    def __init__(self, bootstrap_servers: str) -> None:
        super().__init__()
        self.bootstrap_servers = bootstrap_servers
        self.transaction_timeout_ms = TRANSACTION_TIMEOUT_MS
        self.start_timeout_seconds = START_TIMEOUT_SECONDS

    def clients(self, before: Before = nothing) -> KafkaClients:
        return KafkaClients(
            self.bootstrap_servers,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            start_timeout_seconds=self.start_timeout_seconds,
            producer_class=functools.partial(HookedProducer, before),
        )

    def ledger(self, before: Before = nothing) -> KafkaLedger:
        ledger = KafkaLedger(
            self.clients(before),
            topic_prefix=self.prefix,
            state_topic=Topic.STATE_SYNC,
            transactional_id=self.role,
            transaction_timeout_ms=self.transaction_timeout_ms,
        )
        self.opened.append(ledger)
        return ledger

    def queue(self, before: Before = nothing) -> KafkaCommandQueue:
        queue = KafkaCommandQueue(
            self.clients(before),
            topic_prefix=self.prefix,
            topic=Topic.COMMAND,
            group=self.group,
            transaction_timeout_ms=self.transaction_timeout_ms,
        )
        self.opened.append(queue)
        return queue

    def feed(self, *, partitions: int) -> KafkaAddressFeed:
        feed = KafkaAddressFeed(self.clients(), topic_prefix=self.prefix, partitions=partitions)
        self.opened.append(feed)
        return feed

    def state_view(self) -> KafkaStateView:
        return KafkaStateView(self.clients(), self.prefix + Topic.STATE_SYNC)

    def orders(self) -> KafkaOrderFeed:
        feed = KafkaOrderFeed(self.clients(), topic_prefix=self.prefix)
        self.opened.append(feed)
        return feed

    def published(self) -> KafkaPublishedEvents:
        return KafkaPublishedEvents(self.clients(), topic_prefix=self.prefix, stall_seconds=STALL_SECONDS)

    def admin(self) -> KafkaTopicAdmin:
        return KafkaTopicAdmin(self.clients(), topic_prefix=self.prefix)

    async def create(self, topic: str, partitions: int = 1) -> None:
        async with self._admin_client() as admin:
            answer = await admin.create_topics([NewTopic(self.prefix + topic, partitions, 1)])
            assert answer.topic_errors[0][1] == 0
            while self.prefix + topic not in await admin.list_topics():
                pass

    async def delete(self, topic: str) -> None:
        async with self._admin_client() as admin:
            await admin.delete_topics([self.prefix + topic])
            while self.prefix + topic in await admin.list_topics():
                pass

    async def produce(self, topic: str, key: bytes, value: bytes | None, partition: int = 0) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.bootstrap_servers) as producer:
            await producer.send_and_wait(self.prefix + topic, value, key, partition=partition)

    async def open_transaction(self, transactional_id: str, records: Sequence[Record]) -> OpenTransaction:
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap_servers, transactional_id=transactional_id)
        transaction = _RealTransaction(producer, self.prefix)
        self.opened.append(transaction)
        await producer.start()
        await transaction.go_on(records)
        return transaction

    async def fence(self, transactional_id: str) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.bootstrap_servers, transactional_id=transactional_id):
            pass

    async def settle(self, topic: str) -> None:
        async with (
            self._consumer("read_uncommitted") as raw,
            self._consumer("read_committed") as committed,
            asyncio.timeout(SETTLE_SECONDS_MAX),
        ):
            partitions = await self._partitions(raw, topic)
            await self._partitions(committed, topic)
            while await raw.end_offsets(partitions) != await committed.end_offsets(partitions):
                pass

    def _consumer(self, isolation_level: str) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(bootstrap_servers=self.bootstrap_servers, isolation_level=isolation_level)

    async def _partitions(self, consumer: AIOKafkaConsumer, topic: str) -> list[TopicPartition]:
        name = self.prefix + topic
        consumer.assign([TopicPartition(name, 0)])
        await consumer.end_offsets([TopicPartition(name, 0)])
        return [TopicPartition(name, number) for number in sorted(consumer.partitions_for_topic(name))]

    async def visible_now(self, topic: str) -> list[tuple[bytes, bytes | None]]:
        async with self._consumer("read_committed") as consumer:
            partitions = await self._partitions(consumer, topic)
            consumer.assign(partitions)
            await consumer.seek_to_beginning(*partitions)
            ends = await consumer.end_offsets(partitions)
            found = []
            for partition in partitions:
                while await consumer.position(partition) < ends[partition]:
                    for records in (await consumer.getmany(partition, timeout_ms=20)).values():
                        found += [(record.key, record.value) for record in records]
            return found

    @asynccontextmanager
    async def _admin_client(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap_servers)
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()


@asynccontextmanager
async def open_world(request: pytest.FixtureRequest) -> AsyncIterator[KafkaWorld]:
    """The world that the fixture's parameter names."""
    fake = request.param == "fake"
    world = FakeWorld() if fake else RealWorld(request.getfixturevalue("kafka").bootstrap_servers)
    try:
        yield world
    finally:
        await world.close()
