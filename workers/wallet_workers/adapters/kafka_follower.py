"""Follows a topic from the command line: without a consumer group, so that looking disturbs nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wallet_workers.adapters.kafka_clients import (
    READ_COMMITTED,
    Consumer,
    KafkaClients,
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
