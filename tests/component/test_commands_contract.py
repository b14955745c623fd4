"""What the command worker relies on when it reads commands and answers them, on the fake queue and on a real Kafka."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from component.kafka_worlds import WORLDS, KafkaWorld, open_world
from wallet_core.errors import KafkaUnreachable, TopicsMisconfigured
from wallet_core.messages import Record, Topic
from wallet_core.ports import CommandMessage

POLL_SECONDS = 0.1
WAIT_SECONDS_MAX = 30.0


@pytest.fixture(params=WORLDS)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[KafkaWorld]:
    async with open_world(request) as world:
        yield world


async def topics(world: KafkaWorld, partitions: int = 1) -> None:
    await world.create(Topic.COMMAND, partitions)
    await world.create(Topic.ADDRESS_CREATED, 2)


def replies(batch: Sequence[CommandMessage]) -> list[Record]:
    return [Record(Topic.ADDRESS_CREATED, message.key or b"", message.value) for message in batch]


async def some_batch(queue: Any) -> Sequence[CommandMessage]:
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while True:
            batch: Sequence[CommandMessage] = await queue.next_batch(POLL_SECONDS)
            if batch:
                return batch


async def answered(world: KafkaWorld) -> list[bytes | None]:
    return [value for _, value in await world.read_committed(Topic.ADDRESS_CREATED)]


class TestCommandQueue:
    async def test_messages_come_in_order_and_as_they_were(self, world: KafkaWorld) -> None:
        """From the earliest on, with everything that an account's identity may depend on."""
        await topics(world)
        await world.produce(Topic.COMMAND, b"a", b"1")
        await world.produce(Topic.COMMAND, b"b", None)
        queue = world.queue()
        await queue.start()

        messages = list(await some_batch(queue))
        await queue.commit(messages, [])
        while len(messages) < 2:
            more = await some_batch(queue)
            await queue.commit(more, [])
            messages += more

        assert [(m.topic, m.partition, m.offset, m.key, m.value) for m in messages] == [
            (world.prefix + "command", 0, 0, b"a", b"1"),
            (world.prefix + "command", 0, 1, b"b", None),
        ]
        assert all(message.timestamp_ms > 1_600_000_000_000 for message in messages)
        assert queue.assigned_partitions == (0,)

    async def test_a_committed_batch_is_never_seen_again(self, world: KafkaWorld) -> None:
        """The successor goes on behind it."""
        await topics(world)
        await world.produce(Topic.COMMAND, b"a", b"1")
        first = world.queue()
        await first.start()
        batch = await some_batch(first)
        await first.commit(batch, replies(batch))
        await first.close()
        await world.produce(Topic.COMMAND, b"a", b"2")

        second = world.queue()
        await second.start()
        batch = await some_batch(second)
        await second.commit(batch, replies(batch))

        assert await answered(world) == [b"1", b"2"]

    async def test_a_batch_that_was_not_committed_comes_again(self, world: KafkaWorld) -> None:
        """To whoever takes over, and its answer is written once."""
        await topics(world)
        await world.produce(Topic.COMMAND, b"a", b"1")
        first = world.queue()
        await first.start()
        await some_batch(first)
        await first.close()

        second = world.queue()
        await second.start()
        batch = await some_batch(second)
        await second.commit(batch, replies(batch))

        assert await answered(world) == [b"1"]

    async def test_a_closed_queue_is_over(self, world: KafkaWorld) -> None:
        """It serves nothing, gives nothing and takes nothing; to close it again, or before its start, is no error."""
        await topics(world)
        await world.produce(Topic.COMMAND, b"a", b"1")
        queue = world.queue()
        await queue.start()
        batch = await some_batch(queue)
        for _ in range(2):
            await queue.close()
            assert queue.assigned_partitions == ()
            with pytest.raises(KafkaUnreachable):
                await queue.commit(batch, replies(batch))
            with pytest.raises(KafkaUnreachable):
                await queue.next_batch(0)
        await world.queue().close()
        assert await answered(world) == []

    @pytest.mark.parametrize("step", ["send", "commit"])
    async def test_closed_in_the_middle_of_a_commit(self, world: KafkaWorld, step: str) -> None:
        """The commit fails, nothing of it is seen, and whoever takes over is given the batch."""
        await topics(world)
        await world.produce(Topic.COMMAND, b"a", b"1")

        async def close(at: str) -> None:
            if at == step:
                await first.close()

        first = world.queue(close)
        await first.start()
        batch = await some_batch(first)
        with pytest.raises(KafkaUnreachable):
            await first.commit(batch, replies(batch))

        second = world.queue()
        await second.start()
        again = await some_batch(second)
        assert [(each.offset, each.value) for each in again] == [(each.offset, each.value) for each in batch]
        await second.commit(again, replies(again))
        assert await answered(world) == [b"1"]

    @pytest.mark.parametrize("step", ["send", "commit"])
    async def test_a_zombie_writes_nothing(self, world: KafkaWorld, step: str) -> None:
        """Whoever was replaced in the middle of a batch fails, is broken for good, and its answers are never seen."""
        await topics(world)
        await world.produce(Topic.COMMAND, b"a", b"1")

        async def replace(at: str) -> None:
            if at == step:
                await world.fence(f"{world.group}-{world.prefix}command-0")

        zombie = world.queue(replace)
        await zombie.start()
        batch = await some_batch(zombie)
        with pytest.raises(KafkaUnreachable):
            await zombie.commit(batch, replies(batch))
        with pytest.raises(KafkaUnreachable):
            await zombie.next_batch(0)
        assert await answered(world) == []
        await zombie.close()

        successor = world.queue()
        await successor.start()
        batch = await some_batch(successor)
        await successor.commit(batch, replies(batch))
        assert await answered(world) == [b"1"]

    async def test_a_lost_answer_of_the_commit(self, world: KafkaWorld) -> None:
        """The queue is broken though all was written: whoever takes over goes on behind the batch."""
        await topics(world)
        await world.produce(Topic.COMMAND, b"a", b"1")

        async def lose(at: str) -> None:
            if at == "committed":
                raise KafkaUnreachable("the answer was lost")

        first = world.queue(lose)
        await first.start()
        batch = await some_batch(first)
        with pytest.raises(KafkaUnreachable):
            await first.commit(batch, replies(batch))
        with pytest.raises(KafkaUnreachable):
            await first.next_batch(0)
        await first.close()
        await world.produce(Topic.COMMAND, b"a", b"2")

        second = world.queue()
        await second.start()
        batch = await some_batch(second)
        await second.commit(batch, replies(batch))
        assert await answered(world) == [b"1", b"2"]

    async def test_answers_and_consumption_are_one(self, world: KafkaWorld) -> None:
        """Before the commit nothing is visible."""
        await topics(world)
        await world.produce(Topic.COMMAND, b"a", b"1")
        seen: list[bytes | None] = []

        async def look(at: str) -> None:
            if at == "commit":
                seen.extend(value for _, value in await world.visible_now(Topic.ADDRESS_CREATED))

        queue = world.queue(look)
        await queue.start()
        batch = await some_batch(queue)
        await queue.commit(batch, replies(batch))

        assert seen == []
        assert await answered(world) == [b"1"]

    async def test_a_second_process_takes_its_share(self, world: KafkaWorld) -> None:
        """Partitions are divided while commands flow, and each command is answered once."""
        await topics(world, partitions=4)
        for number in range(8):
            await world.produce(Topic.COMMAND, b"a", b"%d" % number, partition=number % 4)
        first, second = world.queue(), world.queue()
        await first.start()
        await some_batch_answered(first)
        await second.start()
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while not (len(first.assigned_partitions) == len(second.assigned_partitions) == 2):
                for queue in (first, second):
                    await answer_if_any(queue)
        for number in range(8, 16):
            await world.produce(Topic.COMMAND, b"a", b"%d" % number, partition=number % 4)
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while len(await world.visible_now(Topic.ADDRESS_CREATED)) < 16:
                for queue in (first, second):
                    await answer_if_any(queue)

        assert sorted(int(value or b"-1") for value in await answered(world)) == list(range(16))
        assert {*first.assigned_partitions, *second.assigned_partitions} == {0, 1, 2, 3}

    async def test_batches_are_small_and_partitions_take_turns(self, world: KafkaWorld) -> None:
        """A long queue in one partition does not keep another one waiting."""
        await topics(world, partitions=2)
        flood = [Record(Topic.COMMAND, b"flood", b"x") for _ in range(1_200)]
        await (await world.open_transaction(world.prefix + "flood", flood)).commit()
        flooded = await world.read_committed(Topic.COMMAND)
        assert len(flooded) == 1_200
        for partition in range(2):
            await world.produce(Topic.COMMAND, b"one", b"last", partition=partition)
        queue = world.queue()
        await queue.start()

        turns: list[tuple[int, int]] = []
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while sum(length for _, length in turns) < 1_202:
                batch = await some_batch(queue)
                await queue.commit(batch, [])
                turns.append((batch[0].partition, len(batch)))
                assert {message.partition for message in batch} == {batch[0].partition}

        assert max(length for _, length in turns) <= 500
        busy = next(partition for partition, length in turns if length == 500)
        assert [partition for partition, _ in turns].index(1 - busy) <= 2

    async def test_one_batch_at_a_time(self, world: KafkaWorld) -> None:
        """To ask for the next before the commit, or to commit something else, is a mistake of the caller."""
        await topics(world)
        await world.produce(Topic.COMMAND, b"a", b"1")
        queue = world.queue()
        await queue.start()
        batch = await some_batch(queue)

        with pytest.raises(RuntimeError, match="not committed"):
            await queue.next_batch(0)
        await queue.commit(batch, replies(batch))
        with pytest.raises(ValueError, match="whole and once"):
            await queue.commit(batch, replies(batch))

        assert await answered(world) == [b"1"]

    async def test_a_missing_topic_is_said(self, world: KafkaWorld) -> None:
        """Instead of waiting for commands that cannot come."""
        with pytest.raises(TopicsMisconfigured):
            await world.queue().start()


async def answer_if_any(queue: Any) -> None:
    batch = await queue.next_batch(POLL_SECONDS)
    if batch:
        await queue.commit(batch, replies(batch))


async def some_batch_answered(queue: Any) -> None:
    batch = await some_batch(queue)
    await queue.commit(batch, replies(batch))
