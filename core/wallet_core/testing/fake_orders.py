"""The orders, and everything that was said, on a `FakeBroker`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from wallet_core.errors import KafkaUnreachable, TopicsMisconfigured
from wallet_core.messages import Topic
from wallet_core.orders import OrderMessage
from wallet_core.published import PublishedRecord
from wallet_core.testing.fake_broker import FakeBroker, NoSuchTopic


class FakeOrderFeed:
    """Port `OrderFeed`."""

    MESSAGES_MAX = 100

    def __init__(self, broker: FakeBroker, *, topic_prefix: str) -> None:
        self._broker = broker
        self._topic = topic_prefix + Topic.ORDERS

    async def read(self, position: int) -> Sequence[OrderMessage]:
        """Up to 100 messages at and above an offset."""
        try:
            start = position if position <= self._broker.stable_end(self._topic) else 0
        except NoSuchTopic:
            return ()
        records = list(self._broker.read_committed(self._topic, 0, start))[: self.MESSAGES_MAX]
        return [OrderMessage(record.offset, record.value, record.timestamp_ms) for record in records]

    async def close(self) -> None:
        """Nothing to close."""


class FakePublishedEvents:
    """Port `PublishedEvents`: one batch a partition."""

    def __init__(self, broker: FakeBroker, *, topic_prefix: str) -> None:
        self._broker = broker
        self._topic = topic_prefix + Topic.TRANSACTION

    async def read(self) -> AsyncIterator[Sequence[PublishedRecord]]:
        """All records up to the ends as they stand now."""
        try:
            partitions = range(self._broker.partitions(self._topic))
            ends = [self._broker.raw_end(self._topic, partition) for partition in partitions]
        except NoSuchTopic as error:
            raise TopicsMisconfigured(f"the topic {error} does not exist") from error
        for partition, end in zip(partitions, ends, strict=True):
            if self._broker.stable_end(self._topic, partition) < end:
                raise KafkaUnreachable(f"reading {self._topic}: no progress, perhaps for an open transaction")
            records = self._broker.read_committed(self._topic, partition)
            yield [
                PublishedRecord(record.partition, record.offset, record.timestamp_ms, record.value)
                for record in records
                if record.offset < end
            ]
