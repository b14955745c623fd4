"""The `command` partitions assigned to this process, each with its own transactional producer (port `CommandQueue`).

**Exactly once.** Replies and the consumption of their commands are one transaction. The fence is the producer: its id
names the partition (`<group>-<topic>-<partition>`), so starting it shuts out whoever served the partition before.
aiokafka has no KIP-447 (it would fence by the group's generation instead) and reads committed offsets *before* it
announces an assignment, when the former owner may still be committing. So on every assignment: start the producer, then
ask for the committed offset, then seek to it; `earliest` where there is none. Only then is a partition served. (Kafka 4
answers a transaction's end only once its offsets are visible; older brokers could still show the offset before.)

aiokafka swallows a listener's exception and would go on from the stale offset. So the listener catches everything
itself and marks the queue *broken*; so does any failure of a transaction. A broken queue raises at every call: the
process exits, and who takes over starts from what was committed.

**Rebalances.** On revocation the batch in work may still be committed, for at most `REVOCATION_WAIT_SECONDS`; then the
revoked producers end. A batch committed too late finds its partition gone and breaks the queue.

**A late EndTxn.** These producers are reused, and a delayed duplicate of an earlier commit could in theory settle a
later transaction half-way. All replies are sent and acknowledged before the offsets join the transaction: what could be
settled so is replies without their offsets, and replies are made again with the same bytes. Nothing can be lost.

**Bad bytes.** Whatever a caller sent can be handed out, even a header whose name is not UTF-8: `kafka_header_names`.

**Fairness.** Partitions take turns, at most BATCH_MESSAGES_MAX each; a partition's fetched messages wait here until its
turn.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka import ConsumerRebalanceListener, TopicPartition

from wallet_core.errors import KafkaUnreachable
from wallet_core.messages import Record
from wallet_core.ports import CommandMessage
from wallet_workers.adapters.kafka_clients import (
    FOREIGN_ERRORS,
    READ_COMMITTED,
    Consumer,
    KafkaClients,
    Producer,
    describe,
    discard,
    kafka_errors,
    require_topic,
    stop_consumer,
)
from wallet_workers.adapters.kafka_sending import send_all

BATCH_MESSAGES_MAX = 500
"""Messages of one partition handed out, and answered in one transaction, at a time."""
SESSION_TIMEOUT_MS = 10_000
"""After this long without a heartbeat the group gives a member's partitions to others."""
HEARTBEAT_INTERVAL_MS = 1_000
"""How soon a member learns of a rebalance."""
REVOCATION_WAIT_SECONDS = 5.0
"""For the batch in work when a rebalance begins. Below the session time-out, which bounds a rebalance."""
IDLE_SECONDS_MAX = 86_400
"""A member without partitions never polls, and would be thrown out of the group after this long; then it joins
again."""
CONTACT_SECONDS_MAX = 10.0
"""After this long without a message the queue asks the broker whether it is still there."""


@dataclass
class _Partition:
    producer: Producer
    waiting: deque[Any] = field(default_factory=deque)
    """Fetched and not handed out yet."""


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka publishes no types
    def __init__(self, queue: KafkaCommandQueue) -> None:
        self._queue = queue

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        await self._queue._revoke(revoked)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        await self._queue._assign(assigned)


class KafkaCommandQueue:
    """See the module. `start()` once, then `next_batch` and `commit` in turns, by one caller."""

    def __init__(
        self,
        clients: KafkaClients,
        *,
        topic_prefix: str,
        topic: str,
        group: str,
        transaction_timeout_ms: int,
    ) -> None:
        self._clients = clients
        self._topic_prefix = topic_prefix
        self._topic = topic_prefix + topic
        self._group = group
        self._transaction_timeout_ms = transaction_timeout_ms
        self._consumer: Consumer = None
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._turns: deque[TopicPartition] = deque()
        self._changed = asyncio.Event()
        self._in_work: tuple[TopicPartition, int] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._broken: KafkaUnreachable | None = None
        self._contact_at = 0.0

    async def start(self) -> None:
        """Join the group. Raises KafkaUnreachable, or TopicsMisconfigured where the topic does not exist."""
        consumer = await self._clients.consumer(
            READ_COMMITTED,
            auto_offset_reset="earliest",  # a committed offset that retention has overtaken
            group_id=self._group,
            session_timeout_ms=SESSION_TIMEOUT_MS,
            heartbeat_interval_ms=HEARTBEAT_INTERVAL_MS,
            max_poll_interval_ms=IDLE_SECONDS_MAX * 1000,
        )
        try:
            await require_topic(consumer, self._topic)
        except BaseException:
            await stop_consumer(consumer)
            raise
        self._consumer = consumer
        self._contact_at = _now()
        consumer.subscribe([self._topic], listener=_Listener(self))

    @property
    def assigned_partitions(self) -> tuple[int, ...]:
        """The partitions that this process serves at this moment, in order."""
        return tuple(sorted(partition.partition for partition in self._partitions))

    async def next_batch(self, timeout_seconds: float) -> Sequence[CommandMessage]:
        """Up to BATCH_MESSAGES_MAX messages of one partition, in order; empty after the time-out."""
        if self._in_work is not None:
            raise RuntimeError("the batch before was not committed")
        until = _now() + timeout_seconds
        while True:
            self._check()
            if batch := await self._fetched_batch(max(0.0, until - _now())):
                return batch
            if _now() >= until:
                await self._check_contact()
                return ()

    async def commit(self, batch: Sequence[CommandMessage], records: Sequence[Record]) -> None:
        """Write the records and the batch's consumption in one transaction. After any error the process must exit."""
        self._check()
        place = (TopicPartition(self._topic, batch[0].partition), batch[-1].offset + 1)
        if place != self._in_work:
            raise ValueError("only the batch handed out last can be committed, whole and once")
        try:
            await self._write(*place, records)
        except KafkaUnreachable as error:
            raise self._break(error) from error
        except BaseException as error:
            self._break(KafkaUnreachable(f"a transaction was cut off: {describe(error)}"))
            raise
        finally:
            self._in_work = None
            self._idle.set()

    async def close(self) -> None:
        """Leave the group, so that others take over at once."""
        self._break(KafkaUnreachable("the queue was closed"))
        self._in_work = None
        self._idle.set()
        if self._consumer is not None:
            await stop_consumer(self._consumer)
        await self._end(list(self._partitions))

    async def _fetched_batch(self, timeout_seconds: float) -> Sequence[CommandMessage]:
        """A batch of the partition whose turn it is, waiting for messages where none is there."""
        try:
            await self._fetch(0)
            if not any(partition.waiting for partition in self._partitions.values()):
                self._changed.clear()
                async with asyncio.timeout(timeout_seconds):
                    if self._partitions:
                        await self._fetch(timeout_seconds)
                    else:
                        await self._changed.wait()
        except TimeoutError:
            return ()  # a rebalance took longer; aiokafka does not bound that wait
        except FOREIGN_ERRORS as error:
            raise self._break(KafkaUnreachable(f"reading {self._topic}: {describe(error)}")) from error
        self._check()
        return self._hand_out()

    async def _fetch(self, timeout_seconds: float) -> None:
        """Take what is fetched for the partitions that have nothing waiting.

        No await lies between aiokafka's drain and the look at `_partitions`. A partition is in there only after its
        seek, and a seek drops what was fetched before it: so what is kept was read from the committed offset.
        """
        empty = [place for place, partition in self._partitions.items() if not partition.waiting]
        if not empty:
            return
        fetched = await self._consumer.getmany(*empty, timeout_ms=round(timeout_seconds * 1000))
        for place, messages in fetched.items():
            if place in self._partitions:
                self._partitions[place].waiting.extend(messages)
        if fetched:
            self._contact_at = _now()

    def _hand_out(self) -> Sequence[CommandMessage]:
        for _ in range(len(self._turns)):
            place = self._turns[0]
            self._turns.rotate(-1)
            waiting = self._partitions[place].waiting
            if waiting:
                messages = [waiting.popleft() for _ in range(min(BATCH_MESSAGES_MAX, len(waiting)))]
                self._in_work = (place, messages[-1].offset + 1)
                self._idle.clear()
                return [_message(message) for message in messages]
        return ()

    async def _write(self, place: TopicPartition, next_offset: int, records: Sequence[Record]) -> None:
        with kafka_errors(f"answering {place.topic}-{place.partition}"):
            if place not in self._partitions:
                raise KafkaUnreachable(f"{place.topic}-{place.partition} was taken away before its batch was committed")
            producer = self._partitions[place].producer
            async with asyncio.timeout(self._transaction_timeout_ms / 1000):
                await producer.begin_transaction()
                await send_all(producer, self._topic_prefix, records)
                await producer.send_offsets_to_transaction({place: next_offset}, self._group)
                await producer.commit_transaction()
        self._contact_at = _now()

    async def _revoke(self, revoked: Iterable[TopicPartition]) -> None:
        try:
            gone = [place for place in revoked if place in self._partitions]
            if self._in_work is not None and self._in_work[0] in gone:
                await asyncio.wait([asyncio.ensure_future(self._idle.wait())], timeout=REVOCATION_WAIT_SECONDS)
            await self._end(gone)
        except Exception as error:  # noqa: BLE001 - aiokafka swallows it; only a broken queue can tell
            self._break(KafkaUnreachable(f"giving up partitions: {describe(error)}"))

    async def _assign(self, assigned: Iterable[TopicPartition]) -> None:
        try:
            with kafka_errors("taking over partitions"):
                async with asyncio.TaskGroup() as taking_over:
                    for place in assigned:
                        taking_over.create_task(self._take_over(place))
        except Exception as error:  # noqa: BLE001 - aiokafka swallows it; only a broken queue can tell
            first = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
            self._break(KafkaUnreachable(f"taking over partitions: {describe(first)}"))
        self._changed.set()

    async def _take_over(self, place: TopicPartition) -> None:
        transactional_id = f"{self._group}-{place.topic}-{place.partition}"
        producer = await self._clients.transactional_producer(transactional_id, self._transaction_timeout_ms)
        try:
            with kafka_errors(f"asking where {place.topic}-{place.partition} stands"):
                async with asyncio.timeout(self._clients.request_timeout_ms / 1000):
                    offset = await self._consumer.committed(place)
                    if offset is None:
                        offset = (await self._consumer.beginning_offsets([place]))[place]
                    self._consumer.seek(place, offset)
        except BaseException:
            await discard(producer)
            raise
        self._partitions[place] = _Partition(producer)
        self._turns.append(place)

    async def _end(self, places: Sequence[TopicPartition]) -> None:
        ended = [self._partitions.pop(place) for place in places]
        for place in places:
            self._turns.remove(place)
        await asyncio.gather(*(discard(partition.producer) for partition in ended))

    async def _check_contact(self) -> None:
        if _now() - self._contact_at < CONTACT_SECONDS_MAX:
            return
        try:
            with kafka_errors(f"waiting for {self._topic}"):
                await self._consumer.end_offsets([TopicPartition(self._topic, 0)])
        except KafkaUnreachable as error:
            raise self._break(error) from error
        self._contact_at = _now()

    def _check(self) -> None:
        if self._broken is not None:
            raise KafkaUnreachable(str(self._broken))

    def _break(self, error: KafkaUnreachable) -> KafkaUnreachable:
        self._broken = self._broken or error
        self._changed.set()
        return error


def _message(record: Any) -> CommandMessage:
    return CommandMessage(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp,
        key=record.key,
        value=record.value,
        headers=record.headers,
    )


def _now() -> float:
    return asyncio.get_running_loop().time()
