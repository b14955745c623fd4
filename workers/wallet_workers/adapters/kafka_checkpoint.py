"""Read-only sight of the state topic (port `CheckpointWatch`), for who may act only once a checkpoint exists.

It waits for the first *record*, not for an end offset: a commit returns before its marker is written. A topic that does
not exist yet is a checkpoint that does not exist yet; bootstrap makes both.
"""

from __future__ import annotations

import asyncio

from aiokafka import TopicPartition

from wallet_core.messages import Topic
from wallet_workers.adapters.kafka_clients import (
    READ_COMMITTED,
    Consumer,
    KafkaClients,
    existing_topics,
    kafka_errors,
    stop_consumer,
)

POLL_SECONDS = 0.2
"""Between two looks for a topic that is missing; also how long one look for records may last."""


class KafkaCheckpointWatch:
    """See the module. A checkpoint once seen is remembered, and the connection closed."""

    def __init__(self, clients: KafkaClients, *, topic_prefix: str, state_topic: Topic, key: bytes) -> None:
        self._clients = clients
        self._partition = TopicPartition(topic_prefix + state_topic, 0)
        self._key = key
        self._consumer: Consumer = None
        self._seen = False

    async def wait_for_checkpoint(self, timeout_seconds: float) -> bool:
        """Whether a committed checkpoint exists, waiting for the first at most that long. Raises KafkaUnreachable."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_seconds
        try:
            while not self._seen:
                self._seen = await self._look()
                if loop.time() >= until:
                    break
        except BaseException:
            await self.close()
            raise
        if self._seen:
            await self.close()
        return self._seen

    async def close(self) -> None:
        """Close the connection; a later call opens it again."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await stop_consumer(consumer)

    async def _look(self) -> bool:
        if self._consumer is None:
            self._consumer = await self._clients.consumer(READ_COMMITTED, auto_offset_reset="earliest")
        if not self._consumer.assignment():
            if self._partition.topic not in await existing_topics(self._consumer):
                await asyncio.sleep(POLL_SECONDS)
                return False
            self._consumer.assign([self._partition])
            with kafka_errors(f"asking for the beginning of {self._partition.topic}"):
                beginning = (await self._consumer.beginning_offsets([self._partition]))[self._partition]
            self._consumer.seek(self._partition, beginning)
        with kafka_errors(f"reading {self._partition.topic}"):
            fetched = await self._consumer.getmany(self._partition, timeout_ms=round(POLL_SECONDS * 1000))
            if not fetched:
                await self._consumer.end_offsets([self._partition])  # silence must not hide a broker that is gone
        return any(record.key == self._key and record.value for record in fetched.get(self._partition, ()))
