"""Reads one topic from its beginning to its end, as it stands when the reading begins.

The ends are the *raw* ones (`read_uncommitted`), asked for when the reading begins: a commit returns before its marker
is written, so a `read_committed` end could lie below what the caller itself has just said. Reading goes on until every
partition's position, which moves over markers and aborted records too, has reached that end; a transaction that stays
open below it holds the reading up, and ends it as KafkaUnreachable.

Both consumers live for one reading: it happens when a person's order or audit asks for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from aiokafka import TopicPartition

from wallet_core.errors import KafkaUnreachable
from wallet_workers.adapters.kafka_clients import (
    POLL_SLICE_MS,
    READ_COMMITTED,
    READ_UNCOMMITTED,
    Consumer,
    KafkaClients,
    kafka_errors,
    partitions_of,
    require_topic,
    stop_consumer,
)

FETCH_BYTES_MAX = 1024 * 1024
"""Of one partition in one fetch."""
RECORDS_MAX = 1_000
"""Of one batch: what is held at once, and how long the loop's other tasks wait."""


async def read_whole(clients: KafkaClients, topic: str, stall_seconds: float) -> AsyncIterator[Sequence[Any]]:
    """All committed records, in batches of at most RECORDS_MAX, tombstones too.

    `stall_seconds`: how long the reading may stay at one place, longer than a transaction may stay open. Raises
    KafkaUnreachable, TopicsMisconfigured where the topic is gone.
    """
    consumer = await clients.consumer(READ_COMMITTED, max_partition_fetch_bytes=FETCH_BYTES_MAX)
    try:
        ends = await _raw_ends(clients, topic)
        with kafka_errors(f"reading {topic}"):
            consumer.assign(list(ends))
            for partition, beginning in (await consumer.beginning_offsets(list(ends))).items():
                consumer.seek(partition, beginning)
        async for records in _read(consumer, topic, ends, stall_seconds):
            yield records
    finally:
        await stop_consumer(consumer)


async def _raw_ends(clients: KafkaClients, topic: str) -> Mapping[TopicPartition, int]:
    raw = await clients.consumer(READ_UNCOMMITTED)
    try:
        await require_topic(raw, topic)
        partitions = await partitions_of(raw, topic)
        with kafka_errors(f"asking for the ends of {topic}"):
            ends: Mapping[TopicPartition, int] = await raw.end_offsets(partitions)
    finally:
        await stop_consumer(raw)
    return ends


async def _read(
    consumer: Consumer, topic: str, ends: Mapping[TopicPartition, int], stall_seconds: float
) -> AsyncIterator[Sequence[Any]]:
    loop = asyncio.get_running_loop()
    moved_at = loop.time()
    positions = dict.fromkeys(ends, -1)
    while True:
        with kafka_errors(f"reading {topic}"):
            reached = {partition: await consumer.position(partition) for partition in ends}
        if reached != positions:
            moved_at, positions = loop.time(), reached
        behind = [partition for partition, end in ends.items() if positions[partition] < end]
        if not behind:
            return
        if loop.time() - moved_at > stall_seconds:
            raise KafkaUnreachable(f"reading {topic}: no progress, perhaps for an open transaction")
        with kafka_errors(f"reading {topic}"):
            fetched = await consumer.getmany(*behind, timeout_ms=POLL_SLICE_MS, max_records=RECORDS_MAX)
        yield [
            record for partition, records in fetched.items() for record in records if record.offset < ends[partition]
        ]
