"""What becomes of an EndTxn that comes late, on the fake broker and on a real Kafka.

Its sender gave it up: the reply was lost, or the request was under way when the process slept or died. Why the ledger
uses a producer once, and starts one before it reads, is here.
"""

from collections.abc import AsyncIterator

import pytest

from component.kafka_worlds import WORLDS, KafkaWorld, open_world
from wallet_core.errors import Superseded
from wallet_core.messages import Record, Topic


@pytest.fixture(params=WORLDS)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[KafkaWorld]:
    async with open_world(request) as world:
        await world.create_ledger_topics()
        yield world


def state(value: str) -> Record:
    return Record(Topic.STATE_SYNC, b"checkpoint", value.encode())


def event(number: int) -> Record:
    return Record(Topic.TRANSACTION, b"0x%040d" % number, b"event %d" % number)


async def told(world: KafkaWorld) -> tuple[list[bytes | None], list[bytes]]:
    """What readers see of the state and of the events."""
    states = [value for _, value in await world.read_committed(Topic.STATE_SYNC)]
    return states, sorted(value or b"" for _, value in await world.read_committed(Topic.TRANSACTION))


class TestLateEnd:
    async def test_before_a_successor_it_counts(self, world: KafkaWorld) -> None:
        """Though its sender never heard of it: who recovers sees it, and who had read before is refused."""
        reader = world.ledger()
        position = (await reader.recover()).position
        late = await world.open_transaction(world.role, [state("late"), event(1)])
        assert await late.end_late()
        with pytest.raises(Superseded):
            await world.ledger().append(position, [state("other")])
        successor = world.ledger()
        recovered = await successor.recover()
        assert recovered.values == {b"checkpoint": b"late"}
        await successor.append(recovered.position, [state("next"), event(2)])
        assert await told(world) == ([b"late", b"next"], [b"event 1", b"event 2"])

    async def test_after_a_successors_start_it_is_refused(self, world: KafkaWorld) -> None:
        """What it was to commit was aborted by the start, before the successor read."""
        late = await world.open_transaction(world.role, [state("late"), event(1)])
        successor = world.ledger()
        recovered = await successor.recover()
        assert recovered.values == {}
        assert not await late.end_late()
        assert await told(world) == ([], [])
        await successor.append(recovered.position, [state("next"), event(2)])
        assert not await late.end_late()
        assert await told(world) == ([b"next"], [b"event 2"])

    async def test_it_does_not_settle_what_the_successor_has_open(self, world: KafkaWorld) -> None:
        """The records are sent, and stay unseen until the successor itself commits them."""
        late = await world.open_transaction(world.role, [state("late"), event(1)])
        looked: list[list[tuple[bytes, bytes | None]]] = []

        async def end(step: str) -> None:
            if step == "commit":
                assert not await late.end_late()
                looked.append(await world.visible_now(Topic.STATE_SYNC) + await world.visible_now(Topic.TRANSACTION))

        successor = world.ledger(end)
        await successor.append((await successor.recover()).position, [state("next"), event(2)])
        assert looked == [[]]
        assert await told(world) == ([b"next"], [b"event 2"])

    async def test_a_second_copy_changes_nothing(self, world: KafkaWorld) -> None:
        """As long as nothing else was begun it is accepted again, and says nothing new."""
        late = await world.open_transaction(world.role, [state("late"), event(1)])
        await late.commit()
        assert await late.end_late()
        assert await told(world) == ([b"late"], [b"event 1"])
        successor = world.ledger()
        await successor.append((await successor.recover()).position, [state("next")])
        assert not await late.end_late()
        assert await told(world) == ([b"late", b"next"], [b"event 1"])

    async def test_it_settles_the_next_transaction_of_the_same_producer(self, world: KafkaWorld) -> None:
        """Half-way, whatever was to follow: so no producer of the ledger has a second transaction."""
        reused = await world.open_transaction(world.role, [state("first"), event(1)])
        await reused.commit()
        await reused.go_on([event(2)])
        assert await reused.end_late()
        assert await told(world) == ([b"first"], [b"event 1", b"event 2"])
