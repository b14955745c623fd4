"""What the command line needs of Kafka: to follow a topic, and to send one message."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from wallet_workers.adapters.kafka_clients import (
    READ_COMMITTED,
    Consumer,
    KafkaClients,
    Producer,
    discard,
    kafka_errors,
    partitions_of,
    require_topic,
    stop_consumer,
)


@dataclass(frozen=True)
class FollowedRecord:
    """One committed record, as it came."""

    partition: int
    offset: int
    timestamp_ms: int
    """Milliseconds since the Unix epoch."""
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


class KafkaFollower:
    """Follows all partitions of one topic, `read_committed`, without a consumer group."""

    def __init__(self, clients: KafkaClients, topic: str) -> None:
        self._clients = clients
        self._topic = topic
        self._consumer: Consumer = None

    async def start(self, *, from_beginning: bool) -> None:
        """Stand at the beginning, or at the end as it is now: what is committed after this call is seen.

        Raises KafkaUnreachable, or TopicsMisconfigured where the topic does not exist.
        """
        consumer = await self._clients.consumer(READ_COMMITTED, auto_offset_reset="earliest")
        try:
            await require_topic(consumer, self._topic)
            partitions = await partitions_of(consumer, self._topic)
            with kafka_errors(f"asking for the offsets of {self._topic}"):
                ask = consumer.beginning_offsets if from_beginning else consumer.end_offsets
                places = await ask(partitions)
            consumer.assign(partitions)
            for partition, offset in places.items():
                consumer.seek(partition, offset)
        except BaseException:
            await stop_consumer(consumer)
            raise
        self._consumer = consumer

    async def next_records(self, timeout_seconds: float) -> Sequence[FollowedRecord]:
        """What has come, oldest first within a partition; empty after the time-out. Raises KafkaUnreachable."""
        with kafka_errors(f"following {self._topic}"):
            fetched = await self._consumer.getmany(timeout_ms=round(timeout_seconds * 1000))
            if not fetched:
                await self._consumer.end_offsets(list(self._consumer.assignment())[:1])  # is the broker still there?
        return [
            FollowedRecord(
                record.partition, record.offset, record.timestamp, record.key, record.value, tuple(record.headers)
            )
            for records in fetched.values()
            for record in records
        ]

    async def close(self) -> None:
        """Close the connection."""
        if self._consumer is not None:
            await stop_consumer(self._consumer)


class KafkaSender:
    """Sends single messages, each acknowledged by all replicas in sync."""

    def __init__(self, clients: KafkaClients) -> None:
        self._clients = clients
        self._producer: Producer = None

    async def send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()
    ) -> tuple[int, int]:
        """Write one message. Returns its partition and offset. Raises KafkaUnreachable, or TopicsMisconfigured."""
        if self._producer is None:
            await self._check(topic)
            self._producer = await self._clients.idempotent_producer()
        with kafka_errors(f"sending to {topic}"):
            async with asyncio.timeout(2 * self._clients.request_timeout_ms / 1000):
                place = await self._producer.send_and_wait(topic, value=value, key=key, headers=list(headers))
        return place.partition, place.offset

    async def close(self) -> None:
        """Close the connection."""
        if self._producer is not None:
            await discard(self._producer)

    async def _check(self, topic: str) -> None:
        consumer = await self._clients.consumer(READ_COMMITTED)
        try:
            await require_topic(consumer, topic)
        finally:
            await stop_consumer(consumer)
