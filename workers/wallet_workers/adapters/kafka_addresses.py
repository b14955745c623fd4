"""The published addresses (port `AddressFeed`): `address.created`, read up to its last stable offsets.

The offsets are asked for *after* the call began, from the leaders, by a `read_committed` consumer: its `end_offsets`
are the last stable offsets. Who pays an address has seen its record committed, so the record lies below them. Where
nothing is new this costs one round trip a leader and no fetch: what comes in between is fetched in the background.
There are two consumers, because a broker answers the requests of one connection one after the other: a question behind
a fetch that waits for records would wait with it, up to half a second.

What would make the set silently wrong halts instead (`TopicsMisconfigured`): the topic is gone, is shorter than what
was read, lost records before they were read, or has not the partitions that it must have. A topic deleted, made anew
and already longer than before cannot be told from one that grew; bootstrap's identity record and the state topic's own
check stand beside this one.

The same address may come twice, in two records (a command repeated gives the same reply): each *record* is handed out
once, in the order of its partition. A created address and a watched one (`watch:` before its key) are matched alike.
Keys of any other form, and tombstones, are logged and left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Collection, Sequence
from typing import Any, TypeVar

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from wallet_core.addresses import Address
from wallet_core.errors import KafkaUnreachable, TopicsMisconfigured
from wallet_core.messages import Topic, address_of_key
from wallet_workers.adapters.kafka_clients import (
    POLL_SLICE_MS,
    READ_COMMITTED,
    Consumer,
    KafkaClients,
    kafka_errors,
    partitions_of,
    require_topic,
    stop_consumer,
)

METADATA_AGE_MS_MAX = 10_000
"""How soon a change of the number of partitions is noticed."""
FETCH_BYTES_MAX = 4 * 1024 * 1024
"""Of one partition in one fetch: the start reads the whole topic."""
BATCH_ADDRESSES_MAX = 20_000
"""Handed out at a time: ten million at once would be a gigabyte of small objects."""

_log = structlog.get_logger()

_T = TypeVar("_T")


class KafkaAddressFeed:
    """See the module. One caller at a time; `close()` when done."""

    def __init__(self, clients: KafkaClients, *, topic_prefix: str, partitions: int) -> None:
        """`partitions`: how many the topic must have."""
        self._clients = clients
        self._topic = topic_prefix + Topic.ADDRESS_CREATED
        self._partitions = partitions
        self._consumer: Consumer = None
        self._asking: Consumer = None
        self._positions: dict[TopicPartition, int] = {}

    async def read_to_stable_end(self) -> AsyncIterator[Sequence[Address]]:
        """Every address not handed out yet, up to the last stable offsets as they stand after this call began.

        In batches of at most BATCH_ADDRESSES_MAX. Raises TopicsMisconfigured where the topic can no longer be trusted.
        After any failure the next call goes on behind the last batch that was handed out.
        """
        if self._consumer is None:
            await self._open()
        ends = await self._or_close(self._stable_ends())
        loop = asyncio.get_running_loop()
        moved_at = loop.time()
        while behind := [partition for partition, position in self._positions.items() if position < ends[partition]]:
            addresses, reached = await self._or_close(self._next_batch(behind))
            if any(reached[partition] > self._positions[partition] for partition in behind):
                moved_at = loop.time()
                self._positions |= reached
            elif loop.time() - moved_at > self._clients.request_timeout_ms / 1000:
                await self.close()
                raise KafkaUnreachable(f"reading {self._topic}: no progress")
            if addresses:
                yield addresses

    async def close(self) -> None:
        """Close the connection; a later call opens it again at the same place."""
        for consumer in (self._consumer, self._asking):
            if consumer is not None:
                await stop_consumer(consumer)
        self._consumer = self._asking = None

    async def _open(self) -> None:
        asking = await self._clients.consumer(READ_COMMITTED, metadata_max_age_ms=METADATA_AGE_MS_MAX)
        try:
            await require_topic(asking, self._topic)
            partitions = await partitions_of(asking, self._topic)
            self._check_partitions(partitions)
            if not self._positions:
                with kafka_errors(f"asking for the beginning of {self._topic}"):
                    self._positions = await asking.beginning_offsets(partitions)
            asking.assign(list(self._positions))
            asking.pause(*self._positions)
            consumer = await self._clients.consumer(READ_COMMITTED, max_partition_fetch_bytes=FETCH_BYTES_MAX)
        except BaseException:
            await stop_consumer(asking)
            raise
        self._asking, self._consumer = asking, consumer
        consumer.assign(list(self._positions))
        for partition, position in self._positions.items():
            consumer.seek(partition, position)

    def _check_partitions(self, found: Collection[object] | None) -> None:
        if found and len(found) != self._partitions:
            raise TopicsMisconfigured(
                f"{self._topic} has {len(found)} partitions instead of {self._partitions}: blocks may have been "
                "matched without the addresses in the new ones. Look there, check by hand what was deposited to them "
                f"until now, then set spec.kafka.partitions to {len(found)}"
            )

    async def _stable_ends(self) -> dict[TopicPartition, int]:
        try:
            with kafka_errors(f"asking for the end of {self._topic}"):
                ends: dict[TopicPartition, int] = await self._asking.end_offsets(list(self._positions))
        except KafkaUnreachable:
            await require_topic(self._asking, self._topic)
            raise
        self._check_partitions(self._asking.partitions_for_topic(self._topic))
        for partition, position in self._positions.items():
            if ends[partition] < position:
                raise TopicsMisconfigured(
                    f"{self._topic}-{partition.partition} ends at {ends[partition]}, below {position}"
                )
        return ends

    async def _next_batch(self, behind: Sequence[TopicPartition]) -> tuple[list[Address], dict[TopicPartition, int]]:
        """What is fetched of these partitions, and the positions behind it."""
        with kafka_errors(f"reading {self._topic}"):
            try:
                fetched = await self._consumer.getmany(
                    *behind, timeout_ms=POLL_SLICE_MS, max_records=BATCH_ADDRESSES_MAX
                )
            except OffsetOutOfRangeError as error:
                raise TopicsMisconfigured(f"{self._topic} lost records before they were read") from error
            reached = {partition: await self._consumer.position(partition) for partition in behind}
        records = [record for of_partition in fetched.values() for record in of_partition]
        return [address for record in records if (address := _address_of(record)) is not None], reached

    async def _or_close(self, reading: Awaitable[_T]) -> _T:
        """After a failure what was fetched and not handed out is fetched again, from the kept positions."""
        try:
            return await reading
        except BaseException:
            await self.close()
            raise


def _address_of(record: Any) -> Address | None:
    address = None if record.value is None else address_of_key(record.key)
    if address is None:
        _log.warning("address_record_ignored", topic=record.topic, partition=record.partition, offset=record.offset)
    return address
