"""Which addresses the wallet published, and when: `address.created`, read once from its beginning to its end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from wallet_core.audits import PublishedAddress
from wallet_core.messages import WATCH_PREFIX, Topic, address_of_key
from wallet_workers.adapters.kafka_clients import KafkaClients
from wallet_workers.adapters.kafka_whole_topic import read_whole


class KafkaAccounts:
    """See the module."""

    def __init__(self, clients: KafkaClients, *, topic_prefix: str, stall_seconds: float) -> None:
        """`stall_seconds`: see `read_whole`."""
        self._clients = clients
        self._topic = topic_prefix + Topic.ADDRESS_CREATED
        self._stall_seconds = stall_seconds

    async def read(self) -> AsyncIterator[Sequence[PublishedAddress]]:
        """All of them, in batches; one may come twice. Raises KafkaUnreachable, TopicsMisconfigured."""
        async for records in read_whole(self._clients, self._topic, self._stall_seconds):
            yield [
                PublishedAddress(address, record.timestamp // 1000, record.key.startswith(WATCH_PREFIX.encode()))
                for record in records
                if record.value is not None and (address := address_of_key(record.key)) is not None
            ]
