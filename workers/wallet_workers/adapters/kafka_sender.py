"""Sends single messages from the command line."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from wallet_workers.adapters.kafka_clients import (
    READ_COMMITTED,
    KafkaClients,
    Producer,
    discard,
    kafka_errors,
    require_topic,
    stop_consumer,
)


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
