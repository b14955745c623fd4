"""The ports on Kafka, on a `FakeBroker`.

`before(step)` is awaited before each effect of the ledger and the queue, and once after a commit: there a test or a
simulation lets the process sleep, die (by raising what is no `Exception`), or lose an answer (by raising
KafkaUnreachable).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import ClassVar

from wallet_core.addresses import Address
from wallet_core.errors import (
    CheckpointLost,
    KafkaUnreachable,
    OutcomeUnknown,
    Superseded,
    TopicsMisconfigured,
)
from wallet_core.messages import Record, Topic, address_of_key
from wallet_core.ports import Clock, CommandMessage, Recovered, TopicPlan, TopicState
from wallet_core.testing.fake_broker import (
    FakeBroker,
    FakeGroup,
    FakeProducer,
    NoSuchTopic,
    ProducerFenced,
    StoredRecord,
)

Before = Callable[[str], Awaitable[None]]


def _latest_values(records: Iterable[StoredRecord]) -> dict[bytes, bytes]:
    values: dict[bytes, bytes] = {}
    for record in records:
        if record.key is not None and record.value is not None:
            values[record.key] = record.value
        elif record.key is not None:
            values.pop(record.key, None)
    return values


async def nothing(step: str) -> None:
    """No interruption."""


class FakeLedger:
    """Port `Ledger`. Steps: `start`, `end`, `read`, `send`, `commit`, `committed`."""

    def __init__(
        self,
        broker: FakeBroker,
        *,
        topic_prefix: str,
        state_topic: Topic,
        transactional_id: str,
        before: Before = nothing,
    ) -> None:
        self._broker = broker
        self._topic_prefix = topic_prefix
        self._state_topic = state_topic
        self._state_name = topic_prefix + state_topic
        self._transactional_id = transactional_id
        self._before = before
        self._prepared: FakeProducer | None = None

    async def recover(self) -> Recovered:
        """Fence earlier writers, then read the state."""
        self._prepared = None
        try:
            self._prepared = await self._start()
            end = await self._raw_end()
            values = _latest_values(await self._read(0, end))
        except NoSuchTopic as error:
            raise CheckpointLost(f"the topic {error} does not exist") from error
        return Recovered(end, values)

    async def append(self, after: int, records: Sequence[Record]) -> int:
        """Write all records in one transaction, if the state topic holds nothing at or above `after`."""
        if not any(record.topic == self._state_topic for record in records):
            raise ValueError(f"an append without a record for {self._state_topic} could not be seen by the next")
        prepared, self._prepared = self._prepared, None
        try:
            producer = prepared or await self._start()
            end = await self._raw_end()
            if end < after:
                raise CheckpointLost(f"{self._state_name} ends at {end}, below {after}")
            if await self._read(after, end):
                raise Superseded(f"{self._state_name} grew beyond {after}")
            position = await self._write(producer, records)
        except (KafkaUnreachable, ProducerFenced) as error:
            raise OutcomeUnknown(str(error)) from error
        except NoSuchTopic as error:
            if self._state_name not in self._broker.topics():
                raise CheckpointLost(f"the topic {error} does not exist") from error
            raise OutcomeUnknown(f"the topic {error} does not exist") from error
        if self._broker.reachable:
            self._prepared = self._broker.start_producer(self._transactional_id)
        return position

    async def close(self) -> None:
        """Drop what is open; the successor aborts it."""
        self._prepared = None

    async def _start(self) -> FakeProducer:
        await self._before("start")
        return self._broker.start_producer(self._transactional_id)

    async def _raw_end(self) -> int:
        await self._before("end")
        return self._broker.raw_end(self._state_name)

    async def _read(self, start: int, end: int) -> list[StoredRecord]:
        await self._before("read")
        if self._broker.stable_end(self._state_name) < end:
            raise KafkaUnreachable(f"reading {self._state_name}: no progress")
        return [record for record in self._broker.read_committed(self._state_name, 0, start) if record.offset < end]

    async def _write(self, producer: FakeProducer, records: Sequence[Record]) -> int:
        position = 0
        await self._before("send")
        for record in records:
            offset = producer.send(self._topic_prefix + record.topic, record.key, record.value, record.headers)
            if record.topic == self._state_topic:
                position = offset + 1
        await self._before("commit")
        producer.commit()
        await self._before("committed")
        return position


class FakeAddressFeed:
    """Port `AddressFeed`."""

    BATCH_ADDRESSES_MAX = 20

    def __init__(self, broker: FakeBroker, *, topic_prefix: str, partitions: int) -> None:
        self._broker = broker
        self._topic = topic_prefix + Topic.ADDRESS_CREATED
        self._partitions = partitions
        self._positions: list[int] = []

    async def read_to_stable_end(self) -> AsyncIterator[Sequence[Address]]:
        """Every address not handed out yet, up to the last stable offsets, in batches."""
        ends = self._stable_ends()
        if any(end < position for end, position in zip(ends, self._positions, strict=True)):
            raise TopicsMisconfigured(f"{self._topic} lost records")
        for partition, end in enumerate(ends):
            records = list(self._broker.read_committed(self._topic, partition, self._positions[partition]))
            while records:
                batch, records = records[: self.BATCH_ADDRESSES_MAX], records[self.BATCH_ADDRESSES_MAX :]
                self._positions[partition] = batch[-1].offset + 1
                if addresses := [
                    address
                    for record in batch
                    if record.value is not None and (address := address_of_key(record.key)) is not None
                ]:
                    yield addresses
            self._positions[partition] = end

    def _stable_ends(self) -> list[int]:
        try:
            found = self._broker.partitions(self._topic)
            if found != self._partitions:
                raise TopicsMisconfigured(f"{self._topic} has {found} partitions instead of {self._partitions}")
            self._positions = self._positions or [0] * found
            return [self._broker.stable_end(self._topic, partition) for partition in range(found)]
        except NoSuchTopic as error:
            raise TopicsMisconfigured(f"the topic {error} does not exist") from error

    async def close(self) -> None:
        """Nothing to close."""


@dataclass
class _Served:
    producer: FakeProducer
    position: int


class FakeCommandQueue:
    """Port `CommandQueue`. Steps: `send`, `commit`, `committed`. One object stands for one process."""

    BATCH_MESSAGES_MAX = 500

    _members = count(1)

    def __init__(
        self,
        broker: FakeBroker,
        *,
        topic_prefix: str,
        topic: str,
        group: str,
        clock: Clock,
        before: Before = nothing,
    ) -> None:
        self._broker = broker
        self._topic_prefix = topic_prefix
        self._topic = topic_prefix + topic
        self._group = group
        self._clock = clock
        self._before = before
        self._member = f"member-{next(self._members):06}"
        self._generation = -1
        self._served: dict[int, _Served] = {}
        self._in_work: tuple[int, int] | None = None
        self._broken = False

    async def start(self) -> None:
        """Raises TopicsMisconfigured where the topic does not exist."""
        if self._topic not in self._broker.topics():
            raise TopicsMisconfigured(f"the topic {self._topic} does not exist")

    @property
    def assigned_partitions(self) -> tuple[int, ...]:
        """The partitions that this process serves."""
        return tuple(sorted(self._served))

    async def next_batch(self, timeout_seconds: float) -> Sequence[CommandMessage]:
        """Up to 500 messages of one partition; empty after the time-out."""
        self._check()
        if self._in_work is not None:
            raise RuntimeError("the batch before was not committed")
        if batch := self._fetched_batch():
            return batch
        await self._clock.sleep(timeout_seconds)
        self._check()
        return self._fetched_batch()

    async def commit(self, batch: Sequence[CommandMessage], records: Sequence[Record]) -> None:
        """Write the records and the batch's consumption in one transaction."""
        self._check()
        partition, next_offset = place = (batch[0].partition, batch[-1].offset + 1)
        if place != self._in_work:
            raise ValueError("only the batch handed out last can be committed, whole and once")
        self._broken = True
        try:
            await self._before("send")
            producer = self._producer_of(partition)
            for record in records:
                producer.send(self._topic_prefix + record.topic, record.key, record.value, record.headers)
            producer.send_offset(self._group, self._topic, partition, next_offset)
            await self._before("commit")
            self._producer_of(partition).commit()
            await self._before("committed")
        except (ProducerFenced, NoSuchTopic) as error:
            raise KafkaUnreachable(f"{self._topic}-{partition}: {type(error).__name__}") from error
        self._broken = False
        self._in_work = None

    async def close(self) -> None:
        """Leave the group."""
        self._broken = True
        self._served = {}
        self._broker.groups.setdefault(self._group, FakeGroup()).leave(self._member)

    def _check(self) -> None:
        if self._broken:
            raise KafkaUnreachable("the queue is broken")

    def _producer_of(self, partition: int) -> FakeProducer:
        """Raises KafkaUnreachable once the queue was closed; what was sent then stays open, for the next to abort."""
        if partition not in self._served:
            raise KafkaUnreachable(f"{self._topic}-{partition}: the queue was closed")
        return self._served[partition].producer

    def _fetched_batch(self) -> Sequence[CommandMessage]:
        self._rebalance()
        for partition, served in list(self._served.items()):
            del self._served[partition]
            self._served[partition] = served  # partitions take turns
            end = self._broker.stable_end(self._topic, partition)
            records = list(self._broker.read_committed(self._topic, partition, served.position))[
                : self.BATCH_MESSAGES_MAX
            ]
            served.position = records[-1].offset + 1 if records else end
            if records:
                self._in_work = (partition, served.position)
                return [
                    CommandMessage(
                        record.topic,
                        record.partition,
                        record.offset,
                        record.timestamp_ms,
                        record.key,
                        record.value,
                        record.headers,
                    )
                    for record in records
                ]
        return ()

    def _rebalance(self) -> None:
        now = self._clock.monotonic()
        share = self._broker.group(self._group).poll(self._member, now, busy=self._in_work is not None)
        if share is None:
            self._served = {}
            self._generation = -1
            return
        generation, rank, members = share
        if generation == self._generation:
            return
        self._generation = generation
        self._served = {}
        for partition in range(rank, self._broker.partitions(self._topic), members):
            producer = self._broker.start_producer(f"{self._group}-{self._topic}-{partition}")
            offset = self._broker.committed_offset(self._group, self._topic, partition)
            self._served[partition] = _Served(producer, offset or 0)


class FakeStateView:
    """Port `StateView`."""

    def __init__(self, broker: FakeBroker, topic: str) -> None:
        self._broker = broker
        self._topic = topic

    async def read(self) -> Mapping[bytes, bytes]:
        """The last committed value of each key; empty where there is no topic yet."""
        if self._topic not in self._broker.topics():
            return {}
        return _latest_values(self._broker.read_committed(self._topic))


class FakeTopicAdmin:
    """Port `TopicAdmin`."""

    _DEFAULTS: ClassVar[Mapping[str, str]] = {"unclean.leader.election.enable": "false", "min.insync.replicas": "1"}

    def __init__(self, broker: FakeBroker, *, topic_prefix: str) -> None:
        self._broker = broker
        self._topic_prefix = topic_prefix

    async def describe(self, names: Sequence[str]) -> Mapping[str, TopicState]:
        """Those of the named topics that exist."""
        topics = self._broker.topics()
        states = {}
        for name in names:
            full_name = self._topic_prefix + name
            if full_name in topics:
                partitions, config = topics[full_name]
                states[name] = TopicState(
                    partitions,
                    {**self._DEFAULTS, **config},
                    replication_factor=1,
                    is_empty=self._is_empty(full_name, partitions),
                )
        return states

    async def create(self, plans: Sequence[TopicPlan]) -> None:
        """Create topics. Raises TopicsMisconfigured where there are fewer brokers than replicas: there is one."""
        for plan in plans:
            if plan.replication_factor != 1:
                raise TopicsMisconfigured(f"{plan.replication_factor} replicas need as many brokers")
            self._broker.create_topic(self._topic_prefix + plan.name, plan.partitions, plan.config)

    def _is_empty(self, topic: str, partitions: int) -> bool:
        return not any(
            self._broker.stable_end(topic, partition) < self._broker.raw_end(topic, partition)
            or any(self._broker.read_committed(topic, partition))
            for partition in range(partitions)
        )
