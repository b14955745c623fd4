"""The adapters while their broker is away: every wait ends, nothing leaks, and they go on when it is back."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from component.kafka_worlds import RealWorld
from devstack.processes import free_port
from devstack.services import Kafka
from wallet_core.errors import KafkaUnreachable, OutcomeUnknown, Superseded
from wallet_core.messages import Record, Topic
from wallet_workers.adapters.kafka_follower import KafkaFollower
from wallet_workers.adapters.kafka_sender import KafkaSender

WAIT_SECONDS_MAX = 60


def step(value: bytes) -> list[Record]:
    return [Record(Topic.STATE_SYNC, b"checkpoint", value), Record(Topic.TRANSACTION, b"0x00", value)]


@pytest.fixture
async def nowhere() -> AsyncIterator[RealWorld]:
    """A world whose broker does not exist."""
    world = RealWorld(f"127.0.0.1:{free_port()}")
    yield world
    await world.close()


class TestUnreachable:
    async def test_every_adapter_says_so(self, nowhere: RealWorld) -> None:
        """In bounded time, with the one error that `/status` knows."""
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            with pytest.raises(KafkaUnreachable):
                await nowhere.ledger().recover()
            with pytest.raises(OutcomeUnknown):
                await nowhere.ledger().append(0, step(b"1"))
            with pytest.raises(KafkaUnreachable):
                await nowhere.queue().start()
            with pytest.raises(KafkaUnreachable):
                await anext(nowhere.feed(partitions=1).read_to_stable_end())
            with pytest.raises(KafkaUnreachable):
                await nowhere.state_view().read()
            with pytest.raises(KafkaUnreachable):
                await nowhere.admin().describe(["command"])
            with pytest.raises(KafkaUnreachable):
                await KafkaFollower(nowhere.clients(), "command").start(from_beginning=True)
            with pytest.raises(KafkaUnreachable):
                await KafkaSender(nowhere.clients()).send("command", None, b"{}")


@pytest.mark.parametrize(
    ("fault", "at"), [("kill", "send"), ("kill", "commit"), ("pause", "start"), ("pause", "commit")]
)
async def test_the_broker_goes_away_in_an_append(make_kafka: Callable[..., Any], at: str, fault: str) -> None:
    """The outcome is unknown, in bounded time; with the broker back, recovery tells what is so, and the ledger goes
    on."""
    kafka: Kafka = make_kafka()
    world = RealWorld(kafka.bootstrap_servers)
    world.transaction_timeout_ms = 3_000
    world.start_timeout_seconds = 3
    await world.create_ledger_topics()
    armed: list[str] = []

    async def strike(step_name: str) -> None:
        if armed and step_name == armed[0]:
            armed.clear()
            getattr(kafka, fault)()

    ledger = world.ledger(strike)
    position = await ledger.append((await ledger.recover()).position, step(b"1"))
    await ledger.close()
    armed.append(at)
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        with pytest.raises(OutcomeUnknown):
            await ledger.append(position, step(b"2"))
    if fault == "kill":
        kafka.start()
    else:
        kafka.resume()
    recovered = None
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while recovered is None:
            try:
                recovered = await ledger.recover()
            except KafkaUnreachable:
                continue
        written = recovered.values[b"checkpoint"] == b"2"
        await ledger.append(recovered.position, step(b"3"))
    stale = world.ledger()
    with pytest.raises(Superseded):
        await stale.append(position, step(b"stale"))

    expected = [b"1", b"2", b"3"] if written else [b"1", b"3"]
    assert [value for _, value in await world.read_committed(Topic.STATE_SYNC)] == expected
    assert [value for _, value in await world.read_committed(Topic.TRANSACTION)] == expected
    await world.close()


async def test_a_queue_whose_broker_died_is_broken_and_a_new_one_goes_on(make_kafka: Callable[..., Any]) -> None:
    """The process exits on the first failed transaction; the next one answers what was left, once."""
    kafka: Kafka = make_kafka()
    world = RealWorld(kafka.bootstrap_servers)
    world.transaction_timeout_ms = 3_000
    await world.create(Topic.COMMAND)
    await world.create(Topic.ADDRESS_CREATED)
    await world.produce(Topic.COMMAND, b"a", b"1")

    async def strike(at: str) -> None:
        if at == "commit":
            kafka.kill()

    queue = world.queue(strike)
    await queue.start()
    answer = Record(Topic.ADDRESS_CREATED, b"a", b"1")
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while not (batch := await queue.next_batch(0.1)):
            pass
        with pytest.raises(KafkaUnreachable):
            await queue.commit(batch, [answer])
        await queue.close()
    kafka.start()

    successor = world.queue()
    await successor.start()
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while not (batch := await successor.next_batch(0.1)):
            pass
        await successor.commit(batch, [answer])
    assert await world.read_committed(Topic.ADDRESS_CREATED) == [(b"a", b"1")]
    await world.close()


async def test_follow_and_send(kafka: Kafka) -> None:
    """What is sent after a follower started is seen by it, with key and headers."""
    world = RealWorld(kafka.bootstrap_servers)
    await world.create("command", 3)
    await world.produce("command", b"old", b"0")
    topic = world.prefix + "command"
    follower, sender = KafkaFollower(world.clients(), topic), KafkaSender(world.clients())
    await follower.start(from_beginning=False)
    partition, offset = await sender.send(topic, b"new", b"1", [("ce_id", b"x")])
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while not (records := await follower.next_records(0.1)):
            pass
    assert [(r.partition, r.offset, r.key, r.value, r.headers) for r in records] == [
        (partition, offset, b"new", b"1", (("ce_id", b"x"),))
    ]
    await follower.close()
    await sender.close()
