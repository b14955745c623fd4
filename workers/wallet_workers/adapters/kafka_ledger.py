"""The ledger: compare-and-append over one state topic (port `Ledger`).

**The rule.** A transaction is committed only if the state topic held, between the writer's start and its commit,
nothing that the writer did not know. Three steps make it so, in this order:

1. A producer with the role's transactional id is *started* (InitProducerId). Kafka then has aborted or finished
   whatever earlier producers of the id had open, markers included, and refuses all they may still send (`epoch`).
2. The topic's *raw end* is asked for (`read_uncommitted`, so that nothing can hide behind an open transaction), and
   everything committed from `after` up to it is read. Any record there: `Superseded`, and nothing is sent.
3. The records are sent, every send is awaited, and the transaction is committed.

Whoever wrote before our start is seen in step 2. Whoever starts after our start, at any moment, fences us, and our
commit fails. There is no third. It does not matter how long the process sleeps between any two of these steps.

**Why a fresh producer each time.** A used one may have a commit still on its way (a lost reply, a retry); were it used
again, that late EndTxn could settle the next transaction half-way. A new epoch shuts it out.

**Why the next producer may be started ahead.** The argument needs only that the start lies *before* the raw end is
asked for, and a producer that was never used has no EndTxn on its way. So right after an append the next producer is
started in the background, and a producer that only recovered is kept. Nothing depends on how old it is: fenced
meanwhile, forgotten by the broker, or cut off, its commit fails, the outcome is unknown, and `recover` never uses a
producer from before. One that idled for `PREPARED_AGE_SECONDS_MAX` is replaced without trying. The price: a leader that
was replaced and wakes inside an append may still fence its successor once, which then recovers; that leader's own next
step is refused.

**Reading.** The reader stays where it stopped, at or below the next `after`: so it fetches our own records together
with their commit marker, in the background, while the next step is computed; records below `after` are ours and are
skipped.

**Time.** Every wait ends: a start after START_TIMEOUT_SECONDS, sending and committing after the transaction's own
time-out (Kafka aborts it then anyway), reading when the position has not moved for that long and one request more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from wallet_core.errors import CheckpointLost, KafkaUnreachable, OutcomeUnknown, Superseded
from wallet_core.messages import Record, Topic
from wallet_core.ports import Recovered
from wallet_workers.adapters.kafka_clients import KafkaClients, Producer, discard, kafka_errors
from wallet_workers.adapters.kafka_sending import send_all
from wallet_workers.adapters.kafka_state_reader import StateReader

PREPARED_AGE_SECONDS_MAX = 120.0
"""An unused producer older than this is replaced: far below the 9 minutes after which idle connections are closed."""


@dataclass(frozen=True)
class _Prepared:
    starting: asyncio.Task[Producer]
    since: float
    """By the event loop's clock, in seconds."""


class KafkaLedger:
    """See the module. One caller at a time; `close()` when done."""

    def __init__(
        self,
        clients: KafkaClients,
        *,
        topic_prefix: str,
        state_topic: Topic,
        transactional_id: str,
        transaction_timeout_ms: int,
        prepare_ahead: bool = True,
    ) -> None:
        self._clients = clients
        self._topic_prefix = topic_prefix
        self._state_topic = state_topic
        self._state_name = topic_prefix + state_topic
        self._transactional_id = transactional_id
        self._transaction_timeout_ms = transaction_timeout_ms
        self._prepare_ahead = prepare_ahead
        self._topics_written = {self._state_name}
        self._reader: StateReader | None = None
        self._prepared: _Prepared | None = None
        self._endings: set[asyncio.Task[None]] = set()

    async def recover(self) -> Recovered:
        """Fence earlier writers, then read the state. Raises CheckpointLost where the topic is gone."""
        await self._abandon(None)
        producer: Producer = None
        try:
            reader = await self._open_reader()
            producer = await self._start_producer()
            end = await reader.raw_end()
            values = await reader.latest_values(end)
        except BaseException:
            await self._abandon(producer)
            raise
        self._keep(producer)
        return Recovered(reader.position, values)

    async def append(self, after: int, records: Sequence[Record]) -> int:
        """Write all records in one transaction, if the state topic holds nothing at or above `after`.

        At least one record must be for the state topic: else a later append could not see this one. Returns the new
        position. Raises Superseded, CheckpointLost or OutcomeUnknown, as the port says.
        """
        if not any(record.topic == self._state_topic for record in records):
            raise ValueError(f"an append without a record for {self._state_topic} could not be seen by the next")
        producer: Producer = None
        try:
            reader = await self._open_reader()
            producer = await self._take_producer()
            end = await self._check_unchanged(reader, after)
            position = await self._write(producer, end, records)
        except KafkaUnreachable as error:
            await self._abandon(producer)
            raise OutcomeUnknown(str(error)) from error
        except BaseException:
            await self._abandon(producer)
            raise
        self._end_later(producer)
        if self._prepare_ahead:
            self._prepared = self._prepare()
        return position

    async def close(self) -> None:
        """Drop producers and connections. An open transaction is left to the next writer, who aborts it."""
        await self._abandon(None)
        if self._endings:
            await asyncio.wait(self._endings)

    async def _check_unchanged(self, reader: StateReader, after: int) -> int:
        """Step 2 of the rule. Returns the raw end."""
        end = await reader.raw_end()
        if end < after:
            raise CheckpointLost(f"{self._state_name} ends at {end}, below {after}: it lost records")
        if await reader.holds_record(after, end):
            raise Superseded(f"{self._state_name} grew beyond {after}: another leader wrote")
        return end

    async def _write(self, producer: Producer, end: int, records: Sequence[Record]) -> int:
        with kafka_errors(f"appending to {self._state_name}"):
            async with asyncio.timeout(self._transaction_timeout_ms / 1000):
                await producer.begin_transaction()
                written = (await send_all(producer, self._topic_prefix, records))[self._state_name, 0]
                if written.first_offset != end:
                    raise OutcomeUnknown(
                        f"{self._state_name}: a record came to lie at {written.first_offset} instead of {end}: "
                        "who else writes there?"
                    )
                await producer.commit_transaction()
        self._topics_written |= {self._topic_prefix + record.topic for record in records}
        return written.next_offset

    async def _open_reader(self) -> StateReader:
        if self._reader is None:
            self._reader = await StateReader.open(
                self._clients,
                self._state_name,
                stall_seconds=(self._transaction_timeout_ms + self._clients.request_timeout_ms) / 1000,
            )
        return self._reader

    async def _start_producer(self) -> Producer:
        producer = await self._clients.transactional_producer(self._transactional_id, self._transaction_timeout_ms)
        try:
            with kafka_errors("looking up topics"):
                for topic in sorted(self._topics_written):  # so that sending need not look them up
                    await producer.partitions_for(topic)
        except BaseException:
            await discard(producer)
            raise
        return producer

    async def _take_producer(self) -> Producer:
        prepared, self._prepared = self._prepared, None
        if prepared is None:
            return await self._start_producer()
        if _now() - prepared.since > PREPARED_AGE_SECONDS_MAX:
            await _drop(prepared)
            return await self._start_producer()
        try:
            return await prepared.starting
        except KafkaUnreachable:
            return await self._start_producer()

    def _prepare(self) -> _Prepared:
        return _Prepared(asyncio.create_task(self._start_producer()), _now())

    def _keep(self, producer: Producer) -> None:
        async def started() -> Producer:
            return producer

        self._prepared = _Prepared(asyncio.create_task(started()), _now())

    def _end_later(self, producer: Producer) -> None:
        ending = asyncio.create_task(discard(producer))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)

    async def _abandon(self, producer: Producer | None) -> None:
        """After any failure nothing that was open is used again."""
        prepared, self._prepared = self._prepared, None
        reader, self._reader = self._reader, None
        if producer is not None:
            await discard(producer)
        if prepared is not None:
            await _drop(prepared)
        if reader is not None:
            await reader.close()


async def _drop(prepared: _Prepared) -> None:
    if not prepared.starting.done():
        prepared.starting.cancel()
        await asyncio.wait([prepared.starting])
    if not prepared.starting.cancelled() and prepared.starting.exception() is None:
        await discard(prepared.starting.result())


def _now() -> float:
    return asyncio.get_running_loop().time()
