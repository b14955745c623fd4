"""Reads one state topic: its raw end, and what is committed below it.

Two consumers, because a consumer has one isolation level: `read_uncommitted` for the raw end, `read_committed` for the
records. (And because a broker answers one connection's requests in order: behind a fetch that waits for records, the
question for the end would wait too.) Both are assigned by hand; a missing topic, or a position that the topic no longer
has, is `CheckpointLost`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from wallet_core.errors import CheckpointLost, KafkaUnreachable
from wallet_workers.adapters.kafka_clients import (
    POLL_SLICE_MS,
    READ_COMMITTED,
    READ_UNCOMMITTED,
    Consumer,
    KafkaClients,
    kafka_errors,
    require_topic,
    stop_consumer,
)


class StateReader:
    """A place in a state topic, from which it reads on."""

    def __init__(self, topic: str, raw: Consumer, committed: Consumer, stall_seconds: float) -> None:
        self._topic = topic
        self._partition = TopicPartition(topic, 0)
        self._raw = raw
        self._committed = committed
        self._stall_seconds = stall_seconds
        self._position: int | None = None

    @classmethod
    async def open(cls, clients: KafkaClients, topic: str, *, stall_seconds: float) -> StateReader:
        """Connect. Raises CheckpointLost where the topic does not exist, KafkaUnreachable where nothing answers."""
        raw = await clients.consumer(READ_UNCOMMITTED)
        try:
            await require_topic(raw, topic, CheckpointLost)
            committed = await clients.consumer(READ_COMMITTED)
        except BaseException:
            await stop_consumer(raw)
            raise
        raw.assign([TopicPartition(topic, 0)])
        committed.assign([TopicPartition(topic, 0)])
        raw.pause(TopicPartition(topic, 0))  # it is only asked for offsets
        return cls(topic, raw, committed, stall_seconds)

    @property
    def position(self) -> int:
        """The offset up to which everything was read."""
        if self._position is None:
            raise RuntimeError("nothing was read yet")
        return self._position

    async def raw_end(self) -> int:
        """The end of the topic as it stands after this call began, open and aborted transactions included."""
        try:
            with kafka_errors(f"asking for the end of {self._topic}"):
                ends = await self._raw.end_offsets([self._partition])
        except KafkaUnreachable:
            await require_topic(self._raw, self._topic, CheckpointLost)
            raise
        return int(ends[self._partition])

    async def stable_end(self) -> int:
        """The end of what is committed: no open transaction lies below it."""
        with kafka_errors(f"asking for the stable end of {self._topic}"):
            ends = await self._committed.end_offsets([self._partition])
        return int(ends[self._partition])

    async def latest_values(self, end: int) -> dict[bytes, bytes]:
        """The last committed value of each key below `end`, tombstones left out."""
        values: dict[bytes, bytes] = {}
        async for record in self.from_beginning(end):
            if record.value is None:
                values.pop(record.key, None)
            else:
                values[record.key] = record.value
        return values

    async def from_beginning(self, end: int) -> AsyncIterator[Any]:
        """Every committed record that is left below `end`, in order."""
        with kafka_errors(f"asking for the beginning of {self._topic}"):
            beginnings = await self._committed.beginning_offsets([self._partition])
        self._seek(int(beginnings[self._partition]))
        async for record in self._read(end):
            yield record

    async def holds_record(self, after: int, end: int) -> bool:
        """Whether a committed record lies at or above `after` and below `end`."""
        if self._position is None or self._position > after:
            self._seek(after)
        found = False
        async for record in self._read(end):
            found = found or record.offset >= after
        return found

    async def close(self) -> None:
        """Close both connections."""
        await asyncio.gather(stop_consumer(self._raw), stop_consumer(self._committed))

    def _seek(self, offset: int) -> None:
        self._committed.seek(self._partition, offset)
        self._position = offset

    async def _read(self, end: int) -> AsyncIterator[Any]:
        """Records from the position on, until the position reaches `end`; the position moves over markers too."""
        loop = asyncio.get_running_loop()
        moved_at = loop.time()
        while self.position < end:
            with kafka_errors(f"reading {self._topic}"):
                try:
                    fetched = await self._committed.getmany(self._partition, timeout_ms=POLL_SLICE_MS)
                except OffsetOutOfRangeError as error:
                    raise CheckpointLost(f"{self._topic} no longer holds offset {self._position}") from error
                position = await self._committed.position(self._partition)
            if position > self.position:
                moved_at = loop.time()
                self._position = position
            elif loop.time() - moved_at > self._stall_seconds:
                await require_topic(self._raw, self._topic, CheckpointLost)
                raise KafkaUnreachable(f"reading {self._topic}: no progress at {self._position}, its end is {end}")
            for record in fetched.get(self._partition, ()):
                yield record
