"""Everything that was ever said on `transaction` (port `PublishedEvents`). How it is read: `kafka_whole_topic.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from wallet_core.messages import Topic
from wallet_core.published import PublishedRecord
from wallet_workers.adapters.kafka_clients import KafkaClients
from wallet_workers.adapters.kafka_whole_topic import read_whole


class KafkaPublishedEvents:
    """See the module."""

    def __init__(self, clients: KafkaClients, *, topic_prefix: str, stall_seconds: float) -> None:
        """`stall_seconds`: how long the reading may stay at one place, longer than a transaction may stay open."""
        self._clients = clients
        self._topic = topic_prefix + Topic.TRANSACTION
        self._stall_seconds = stall_seconds

    async def read(self) -> AsyncIterator[Sequence[PublishedRecord]]:
        """All records, in batches. Raises KafkaUnreachable, TopicsMisconfigured where the topic is gone."""
        async for records in read_whole(self._clients, self._topic, self._stall_seconds):
            yield [
                PublishedRecord(record.partition, record.offset, record.timestamp, record.value) for record in records
            ]
