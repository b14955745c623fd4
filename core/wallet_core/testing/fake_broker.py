"""A Kafka of one broker: partitions, transactions with epochs and markers, committed offsets, consumer groups.

What it keeps of the original, because the wallet's correctness hangs on it: a started producer fences the earlier ones
of its id and aborts what they had open; a transaction's end writes a marker, which takes an offset, into each partition
it touched; the last stable offset stops at the first open transaction; aborted records keep their offsets and are shown
to nobody who reads committed ones. What it leaves out: replicas, compaction, retention, and time: an open transaction
stays open until its successor starts, or until `time_out_transactions`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from wallet_core.errors import KafkaUnreachable

Headers = tuple[tuple[str, bytes], ...]


class NoSuchTopic(Exception):
    """The topic or the partition does not exist."""


class ProducerFenced(Exception):
    """A later producer of the same transactional id was started, or the transaction was timed out."""


class _Outcome(Enum):
    OPEN = 0
    COMMITTED = 1
    ABORTED = 2


@dataclass
class _Transaction:
    outcome: _Outcome = _Outcome.OPEN
    partitions: dict[tuple[str, int], int] = field(default_factory=dict)
    """Those it wrote to, in the order of its first record in each, with that record's offset."""
    offsets: dict[tuple[str, str, int], int] = field(default_factory=dict)
    """Consumption that joins it, by group, topic and partition."""


@dataclass(frozen=True)
class StoredRecord:
    """A record as a reader gets it."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(frozen=True)
class _Entry:
    record: StoredRecord | None
    """None for a marker."""
    transaction: _Transaction | None


@dataclass
class _Topic:
    config: Mapping[str, str]
    partitions: list[list[_Entry]]


class FakeBroker:
    """See the module. Every method raises KafkaUnreachable while `reachable` is false."""

    def __init__(self) -> None:
        self.reachable = True
        self.timestamp_ms = 1_700_000_000_000
        """What the next records carry."""
        self._topics: dict[str, _Topic] = {}
        self._epochs: dict[str, int] = {}
        self._open: dict[str, _Transaction] = {}
        self._offsets: dict[tuple[str, str, int], int] = {}
        self.groups: dict[str, FakeGroup] = {}

    def create_topic(self, name: str, partitions: int = 1, config: Mapping[str, str] | None = None) -> None:
        """Create a topic; nothing where it exists."""
        self._connect()
        self._topics.setdefault(name, _Topic(dict(config or {}), [[] for _ in range(partitions)]))

    def delete_topic(self, name: str) -> None:
        """Delete a topic with all that it holds."""
        self._connect()
        del self._topics[name]
        for transaction in self._open.values():
            transaction.partitions = {
                place: first for place, first in transaction.partitions.items() if place[0] != name
            }

    def topics(self) -> Mapping[str, tuple[int, Mapping[str, str]]]:
        """Number of partitions and settings of each topic."""
        self._connect()
        return {name: (len(topic.partitions), topic.config) for name, topic in self._topics.items()}

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has. Raises NoSuchTopic."""
        self._connect()
        if topic not in self._topics:
            raise NoSuchTopic(topic)
        return len(self._topics[topic].partitions)

    def produce(
        self, topic: str, key: bytes | None, value: bytes | None, *, headers: Headers = (), partition: int | None = None
    ) -> tuple[int, int]:
        """Write one record outside any transaction. Returns its partition and offset."""
        return self._append(topic, key, value, headers, partition, None)

    def start_producer(self, transactional_id: str) -> FakeProducer:
        """InitProducerId: fence the earlier producers of this id and abort what they had open."""
        self._connect()
        self._abort(transactional_id)
        self._epochs[transactional_id] = self._epochs.get(transactional_id, -1) + 1
        return FakeProducer(self, transactional_id, self._epochs[transactional_id])

    def time_out_transactions(self) -> None:
        """What the coordinator does after `transaction.timeout.ms`: abort, and fence the producer."""
        for transactional_id in list(self._open):
            self._abort(transactional_id)
            self._epochs[transactional_id] += 1

    def raw_end(self, topic: str, partition: int = 0) -> int:
        """The offset that the next record will have."""
        return len(self._log(topic, partition))

    def stable_end(self, topic: str, partition: int = 0) -> int:
        """The last stable offset: that of the first record of an open transaction, or the end."""
        firsts = [
            each.partitions[topic, partition] for each in self._open.values() if (topic, partition) in each.partitions
        ]
        return min(firsts, default=len(self._log(topic, partition)))

    def read_committed(self, topic: str, partition: int = 0, start: int = 0) -> Iterator[StoredRecord]:
        """The records from an offset on that a `read_committed` reader sees."""
        for entry in self._log(topic, partition)[start : self.stable_end(topic, partition)]:
            if entry.record and (entry.transaction is None or entry.transaction.outcome is _Outcome.COMMITTED):
                yield entry.record

    def committed_offset(self, group: str, topic: str, partition: int) -> int | None:
        """What the group has committed; None where it has not."""
        self._connect()
        return self._offsets.get((group, topic, partition))

    def group(self, name: str) -> FakeGroup:
        """The consumer group of this name."""
        self._connect()
        return self.groups.setdefault(name, FakeGroup())

    def _connect(self) -> None:
        if not self.reachable:
            raise KafkaUnreachable("the fake broker is down")

    def _log(self, topic: str, partition: int) -> list[_Entry]:
        if partition >= self.partitions(topic):
            raise NoSuchTopic(f"{topic}-{partition}")
        return self._topics[topic].partitions[partition]

    def _append(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        partition: int | None,
        transaction: _Transaction | None,
    ) -> tuple[int, int]:
        place = zlib.crc32(key or b"") % self.partitions(topic) if partition is None else partition
        log = self._log(topic, place)
        if transaction is not None:
            transaction.partitions.setdefault((topic, place), len(log))
        log.append(_Entry(StoredRecord(topic, place, len(log), self.timestamp_ms, key, value, headers), transaction))
        return place, len(log) - 1

    def _transaction_of(self, transactional_id: str, epoch: int) -> _Transaction:
        self._connect()
        if self._epochs[transactional_id] != epoch:
            raise ProducerFenced(transactional_id)
        return self._open.setdefault(transactional_id, _Transaction())

    def _end(self, transactional_id: str, outcome: _Outcome) -> None:
        transaction = self._open.pop(transactional_id)
        transaction.outcome = outcome
        for topic, partition in transaction.partitions:
            self._topics[topic].partitions[partition].append(_Entry(None, None))
        if outcome is _Outcome.COMMITTED:
            self._offsets |= transaction.offsets

    def _abort(self, transactional_id: str) -> None:
        if transactional_id in self._open:
            self._end(transactional_id, _Outcome.ABORTED)


class FakeProducer:
    """One epoch of a transactional id. Its transaction begins with its first send."""

    def __init__(self, broker: FakeBroker, transactional_id: str, epoch: int) -> None:
        self._broker = broker
        self._id = transactional_id
        self._epoch = epoch

    def send(self, topic: str, key: bytes, value: bytes | None, headers: Headers = ()) -> int:
        """Write one record in the transaction. Returns its offset. Raises ProducerFenced, NoSuchTopic."""
        transaction = self._broker._transaction_of(self._id, self._epoch)
        return self._broker._append(topic, key, value, headers, None, transaction)[1]

    def send_offset(self, group: str, topic: str, partition: int, offset: int) -> None:
        """Let the group's consumption join the transaction. Raises ProducerFenced."""
        self._broker._transaction_of(self._id, self._epoch).offsets[group, topic, partition] = offset

    def commit(self) -> None:
        """EndTxn. Raises ProducerFenced."""
        self._broker._transaction_of(self._id, self._epoch)
        self._broker._end(self._id, _Outcome.COMMITTED)


class FakeGroup:
    """A consumer group with the eager protocol: all give up their partitions, then each gets its share.

    Members are heard of when they poll, and only then. One that is silent for `SESSION_SECONDS` is out.
    """

    SESSION_SECONDS = 10.0

    def __init__(self) -> None:
        self._heard_at: dict[str, float] = {}
        self._ready: set[str] = set()
        self._rebalancing = False
        self._generation = 0

    def poll(self, member: str, now: float, *, busy: bool) -> tuple[int, int, int] | None:
        """Heartbeat and join. A busy member has a batch in work and gives nothing up yet.

        Returns the generation, the member's rank and the number of members; None while partitions are given up.
        """
        silent = [other for other, heard_at in self._heard_at.items() if now - heard_at > self.SESSION_SECONDS]
        for other in silent:
            self.leave(other)
        if member not in self._heard_at:
            self._rebalancing = True
        self._heard_at[member] = now
        if self._rebalancing and not busy:
            self._ready.add(member)
            if self._ready >= set(self._heard_at):
                self._rebalancing = False
                self._ready.clear()
                self._generation += 1
        if self._rebalancing and not busy:
            return None
        members = sorted(self._heard_at)
        return self._generation, members.index(member), len(members)

    def leave(self, member: str) -> None:
        """Leave at once."""
        if self._heard_at.pop(member, None) is not None:
            self._ready.discard(member)
            self._rebalancing = True
