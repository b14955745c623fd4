"""Read-only sight of a state topic (port `StateView`): starts no producer and so fences nobody."""

from __future__ import annotations

from collections.abc import Mapping

from wallet_core.errors import CheckpointLost
from wallet_workers.adapters.kafka_clients import KafkaClients
from wallet_workers.adapters.kafka_state_reader import StateReader

STALL_SECONDS_MAX = 10.0
"""How long a read may stay at one place before the broker counts as unreachable."""


class KafkaStateView:
    """Connects for each read: it is looked at when a process starts, not in a loop."""

    def __init__(self, clients: KafkaClients, topic: str) -> None:
        self._clients = clients
        self._topic = topic

    async def read(self) -> Mapping[bytes, bytes]:
        """The last committed value of each key; empty where there is no topic yet. Raises KafkaUnreachable."""
        try:
            reader = await StateReader.open(self._clients, self._topic, stall_seconds=STALL_SECONDS_MAX)
        except CheckpointLost:
            return {}
        try:
            return await reader.latest_values(await reader.stable_end())
        finally:
            await reader.close()
