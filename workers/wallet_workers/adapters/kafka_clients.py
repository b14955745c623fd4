"""How this project uses aiokafka: which clients with which limits, how they start and end, and what their errors mean.

Four properties of aiokafka 0.14 shape this module; the adapters rely on it for them.

- *It retries for ever.* An idempotent producer never gives a batch up, a consumer never stops reconnecting, and
  `stop()` waits for batches that may never be delivered. So every wait here has a named time-out, and `discard` ends a
  producer without waiting for what it still holds.
- *It throws many things*: its own errors, bare assertions after a fatal one, OSError, TimeoutError. `kafka_errors`
  turns them into ours by one table; no adapter names a foreign error for any other reason than to decide by it.
- *A metadata request that names a topic may create it* where the broker has `auto.create.topics.enable` on. So adapters
  ask `existing_topics` (which names none) before they name one that might be missing.
- *It logs every attempt of every retry.* The errors raised say the same once; `quiet_client_logs` is the one place that
  silences the library, and the entry points call it.

The classes of the clients are fields of `KafkaClients`: a test passes its own, which act before and after a call.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka import errors as foreign
from aiokafka.admin import AIOKafkaAdminClient

from wallet_core.errors import KafkaUnreachable, TopicsMisconfigured, WalletError
from wallet_workers.adapters.kafka_header_names import mend_header_names

REQUEST_TIMEOUT_MS = 5_000
"""Until one request counts as lost and its connection is closed."""
START_TIMEOUT_SECONDS = 8.0
"""For a client to connect, and for a producer to fence its predecessor. Below a consumer group's session time-out."""
STOP_TIMEOUT_SECONDS = 3.0
"""For a client to close its connections and leave its group."""
RETRY_BACKOFF_MS = 20
"""Between a client's own attempts; a starting producer waits this long for its predecessor's markers."""
BATCH_BYTES_MAX = 512 * 1024
"""Of one produce batch; a broker takes 1 MiB by default."""
POLL_SLICE_MS = 5
"""How long one look for fetched records may wait: a position moves over commit markers without any record to return."""

READ_COMMITTED = "read_committed"
READ_UNCOMMITTED = "read_uncommitted"

Producer = Any
Consumer = Any
Admin = Any
# aiokafka publishes no types.

_OWN_ERROR: tuple[tuple[type[BaseException], type[WalletError]], ...] = (
    (foreign.InvalidReplicationFactorError, TopicsMisconfigured),
    (foreign.InvalidReplicationAssignmentError, TopicsMisconfigured),
    (foreign.InvalidPartitionsError, TopicsMisconfigured),
    (foreign.InvalidConfigurationError, TopicsMisconfigured),
    (foreign.PolicyViolationError, TopicsMisconfigured),
    (foreign.InvalidTopicError, TopicsMisconfigured),
    (foreign.KafkaError, KafkaUnreachable),
    (foreign.IllegalOperation, KafkaUnreachable),
    (foreign.ConsumerStoppedError, KafkaUnreachable),
    (UnicodeDecodeError, KafkaUnreachable),  # a header's name that `mend_header_names` did not get hold of
    (AssertionError, KafkaUnreachable),  # aiokafka's answer to any call after a fatal error
    (OSError, KafkaUnreachable),
    (TimeoutError, KafkaUnreachable),
)
FOREIGN_ERRORS = tuple(kind for kind, _ in _OWN_ERROR)
"""Everything that aiokafka raises when the world, and not the caller, is at fault."""


@contextlib.contextmanager
def kafka_errors(attempt: str) -> Iterator[None]:
    """Turn aiokafka's errors into ours. `attempt` says what was being done, for the message."""
    try:
        yield
    except FOREIGN_ERRORS as error:
        own = next(own for kind, own in _OWN_ERROR if isinstance(error, kind))
        raise own(f"{attempt}: {describe(error)}") from error


def describe(error: BaseException) -> str:
    """An error in one line, its class's name where it has no text."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def quiet_client_logs() -> None:
    """Silence aiokafka: it logs every attempt of every retry, and what matters is raised."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class KafkaClients:
    """Makes started clients of one Kafka. Raises KafkaUnreachable where none of the servers answers in time."""

    bootstrap_servers: str
    """`host:port`, several with commas between."""
    request_timeout_ms: int = REQUEST_TIMEOUT_MS
    start_timeout_seconds: float = START_TIMEOUT_SECONDS
    producer_class: Callable[..., Producer] = AIOKafkaProducer
    consumer_class: Callable[..., Consumer] = AIOKafkaConsumer
    admin_class: Callable[..., Admin] = AIOKafkaAdminClient

    async def transactional_producer(self, transactional_id: str, transaction_timeout_ms: int) -> Producer:
        """A producer that has fenced every earlier one of its id, and whose id has no open transaction left."""
        producer = self.producer_class(
            **self._common(),
            transactional_id=transactional_id,
            transaction_timeout_ms=transaction_timeout_ms,
            max_batch_size=BATCH_BYTES_MAX,
        )
        await self._start(producer, discard)
        return producer

    async def idempotent_producer(self) -> Producer:
        """A producer for single messages, each acknowledged by every replica in sync."""
        producer = self.producer_class(**self._common(), enable_idempotence=True)
        await self._start(producer, discard)
        return producer

    async def consumer(self, isolation_level: str, *, auto_offset_reset: str = "none", **more: Any) -> Consumer:
        """A consumer that commits nothing by itself and has no partition yet."""
        consumer = self.consumer_class(
            **self._common(),
            isolation_level=isolation_level,
            auto_offset_reset=auto_offset_reset,
            enable_auto_commit=False,
            **more,
        )
        mend_header_names(consumer)
        await self._start(consumer, stop_consumer)
        return consumer

    async def admin(self) -> Admin:
        """A client for topics and their settings."""
        admin = self.admin_class(**self._common())
        await self._start(admin, stop_admin)
        return admin

    def _common(self) -> dict[str, Any]:
        return {
            "bootstrap_servers": self.bootstrap_servers,
            "request_timeout_ms": self.request_timeout_ms,
            "retry_backoff_ms": RETRY_BACKOFF_MS,
        }

    async def _start(self, client: Any, stop: Callable[[Any], Awaitable[None]]) -> None:
        try:
            with kafka_errors(f"connecting to {self.bootstrap_servers}"):
                async with asyncio.timeout(self.start_timeout_seconds):
                    await client.start()
        except BaseException:
            await stop(client)
            raise


async def existing_topics(consumer: Consumer) -> frozenset[str]:
    """The names of all topics, as one broker knows them now. Creates none."""
    with kafka_errors("listing topics"):
        async with asyncio.timeout(START_TIMEOUT_SECONDS):
            return frozenset(await consumer.topics())


async def require_topic(consumer: Consumer, topic: str, error: type[WalletError] = TopicsMisconfigured) -> None:
    """Raise `error` where the topic does not exist."""
    if topic not in await existing_topics(consumer):
        raise error(f"the topic {topic} does not exist")


async def partitions_of(consumer: Consumer, topic: str) -> list[TopicPartition]:
    """The partitions of a topic that is known to exist."""
    with kafka_errors(f"looking up {topic}"):
        async with asyncio.timeout(START_TIMEOUT_SECONDS):
            consumer.assign([TopicPartition(topic, 0)])  # a consumer learns the partitions of assigned topics only
            await consumer.end_offsets([TopicPartition(topic, 0)])
        return [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]


async def discard(producer: Producer) -> None:
    """End a producer now, whatever it still holds; its open transaction is left to its successor or to its time-out.

    `stop()` alone would wait until the last batch is delivered, which without a broker is for ever. So its sending task
    ends first. That task awaits its own requests when it is cancelled, hence more than one attempt; and every future
    that nobody awaits any more is looked at, or asyncio would report it when it is collected.
    """
    sender_task, accumulator, manager = (
        producer._sender.sender_task,
        producer._message_accumulator,
        producer._txn_manager,
    )
    if sender_task is not None:
        for _ in range(3):
            sender_task.cancel()
            await asyncio.wait([sender_task], timeout=STOP_TIMEOUT_SECONDS / 10)
            if sender_task.done():
                break
        accumulator.fail_all(foreign.ProducerClosed())
    await _finish(producer.stop())
    await _finish(producer.client.close())
    batches = itertools.chain(*accumulator._batches.values(), accumulator._pending_batches)
    futures = [future for batch in batches for future in (batch.future, batch._drain_waiter)]
    for future in (sender_task, manager.wait_for_transaction_end(), *futures):
        if future is not None and future.done() and not future.cancelled():
            future.exception()


async def stop_consumer(consumer: Consumer) -> None:
    """Close a consumer; without a broker, do not wait for its farewell."""
    await _finish(consumer.stop())
    await _finish(consumer._client.close())


async def stop_admin(admin: Admin) -> None:
    """Close an admin client."""
    await _finish(admin.close())


async def _finish(stopping: Coroutine[Any, Any, None]) -> None:
    """Let a client stop in a task of its own, at most STOP_TIMEOUT_SECONDS.

    A consumer whose broker is away may end its `stop()` half-way with a CancelledError that nobody sent: one of its own
    tasks was cancelled, and it awaits that. Let through, it would look like the end of the caller. What such a stop
    left open is why the connections are closed once more.
    """
    task = asyncio.create_task(stopping)
    try:
        await asyncio.wait([task], timeout=STOP_TIMEOUT_SECONDS)
    finally:
        task.cancel()
    await asyncio.wait([task], timeout=STOP_TIMEOUT_SECONDS / 10)
    if task.done() and not task.cancelled():
        error = task.exception()
        if error is not None and not isinstance(error, FOREIGN_ERRORS):
            raise error
