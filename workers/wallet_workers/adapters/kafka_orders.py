"""The orders (port `OrderFeed`): the one partition of `orders`, from a position that the caller keeps.

Looking where nothing is new costs one ListOffsets, answered by a connection that fetches nothing. The connection that
reads is opened when there is something to read, and closed behind it: orders are rare.

Orders are wishes, not money: a topic that is missing holds none, one that was made anew is read from its beginning, and
orders that retention removed before they were read are passed over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiokafka import TopicPartition

from wallet_core.errors import KafkaUnreachable
from wallet_core.messages import Topic
from wallet_core.orders import OrderMessage
from wallet_workers.adapters.kafka_clients import (
    POLL_SLICE_MS,
    READ_COMMITTED,
    Consumer,
    KafkaClients,
    existing_topics,
    kafka_errors,
    stop_consumer,
)

MESSAGES_MAX = 100
"""Of one read."""


class KafkaOrderFeed:
    """See the module. One caller at a time; `close()` when done."""

    def __init__(self, clients: KafkaClients, *, topic_prefix: str) -> None:
        self._clients = clients
        self._topic = topic_prefix + Topic.ORDERS
        self._partition = TopicPartition(self._topic, 0)
        self._asking: Consumer = None

    async def read(self, position: int) -> Sequence[OrderMessage]:
        """Up to MESSAGES_MAX messages at and above an offset. Raises KafkaUnreachable."""
        try:
            if self._asking is None and not await self._open():
                return ()
            end = await self._end()
            start = position if position <= end else 0
            if start < end:
                start = max(start, await self._beginning())
        except KafkaUnreachable:
            await self.close()
            raise
        return await self._read(start, end) if start < end else ()

    async def close(self) -> None:
        """Close the connection; a later call opens it again."""
        asking, self._asking = self._asking, None
        if asking is not None:
            await stop_consumer(asking)

    async def _open(self) -> bool:
        asking = await self._clients.consumer(READ_COMMITTED)
        try:
            exists = self._topic in await existing_topics(asking)
        except BaseException:
            await stop_consumer(asking)
            raise
        if not exists:
            await stop_consumer(asking)
            return False
        asking.assign([self._partition])
        asking.pause(self._partition)
        self._asking = asking
        return True

    async def _end(self) -> int:
        with kafka_errors(f"asking for the end of {self._topic}"):
            return int((await self._asking.end_offsets([self._partition]))[self._partition])

    async def _beginning(self) -> int:
        with kafka_errors(f"asking for the beginning of {self._topic}"):
            return int((await self._asking.beginning_offsets([self._partition]))[self._partition])

    async def _read(self, position: int, end: int) -> Sequence[OrderMessage]:
        consumer = await self._clients.consumer(READ_COMMITTED)
        messages: list[OrderMessage] = []
        try:
            with kafka_errors(f"reading {self._topic}"):
                consumer.assign([self._partition])
                consumer.seek(self._partition, position)
                async with asyncio.timeout(self._clients.request_timeout_ms / 1000):
                    while len(messages) < MESSAGES_MAX and await consumer.position(self._partition) < end:
                        fetched = await consumer.getmany(
                            self._partition, timeout_ms=POLL_SLICE_MS, max_records=MESSAGES_MAX - len(messages)
                        )
                        messages += [
                            OrderMessage(record.offset, record.value, record.timestamp)
                            for record in fetched.get(self._partition, ())
                        ]
        finally:
            await stop_consumer(consumer)
        return messages
