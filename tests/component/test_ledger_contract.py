"""What the sequencer relies on when it writes, on the fake ledger and on a real Kafka."""

from collections.abc import AsyncIterator

import pytest

from component.kafka_worlds import WORLDS, KafkaWorld, open_world
from wallet_core.errors import CheckpointLost, KafkaUnreachable, OutcomeUnknown, Superseded
from wallet_core.messages import Record, Topic
from wallet_core.ports import Recovered


@pytest.fixture(params=WORLDS)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[KafkaWorld]:
    async with open_world(request) as world:
        yield world


def state(key: str, value: str | None) -> Record:
    return Record(Topic.STATE_SYNC, key.encode(), None if value is None else value.encode())


def event(number: int) -> Record:
    return Record(Topic.TRANSACTION, b"0x%040d" % number, b"event %d" % number)


class TestLedger:
    async def test_what_was_appended_is_recovered(self, world: KafkaWorld) -> None:
        """The last value of each key comes back, and a tombstone takes its key away."""
        await world.create_ledger_topics()
        ledger = world.ledger()
        start = await ledger.recover()
        assert dict(start.values) == {}
        position = await ledger.append(start.position, [state("checkpoint", "1"), state("block", "a")])
        position = await ledger.append(position, [state("checkpoint", "2"), state("block", None), state("other", "b")])

        recovered = await world.ledger().recover()

        assert dict(recovered.values) == {b"checkpoint": b"2", b"other": b"b"}
        assert recovered.position >= position

    async def test_a_recovered_position_can_be_appended_to(self, world: KafkaWorld) -> None:
        """A successor goes on exactly where its predecessor stopped."""
        await world.create_ledger_topics()
        first, second = world.ledger(), world.ledger()
        await first.append((await first.recover()).position, [state("checkpoint", "1"), event(1)])

        await second.append((await second.recover()).position, [state("checkpoint", "2"), event(2)])

        assert [value for _, value in await world.read_committed(Topic.STATE_SYNC)] == [b"1", b"2"]

    async def test_a_stale_writer_writes_nothing(self, world: KafkaWorld) -> None:
        """A leader that slept while another led is told so, and not one of its records is sent."""
        await world.create_ledger_topics()
        stale, leader = world.ledger(), world.ledger()
        position = (await stale.recover()).position
        await leader.append((await leader.recover()).position, [state("checkpoint", "new"), event(1)])

        with pytest.raises(Superseded):
            await stale.append(position, [state("checkpoint", "stale"), event(2)])

        assert await world.read_committed(Topic.STATE_SYNC) == [(b"checkpoint", b"new")]
        assert [value for _, value in await world.read_committed(Topic.TRANSACTION)] == [b"event 1"]

    async def test_a_stale_writer_stays_superseded(self, world: KafkaWorld) -> None:
        """Trying again does not help it, and the rightful leader, fenced by the attempt, recovers and goes on."""
        await world.create_ledger_topics()
        stale, leader = world.ledger(), world.ledger()
        position = (await stale.recover()).position
        await leader.append((await leader.recover()).position, [state("checkpoint", "new")])
        for _ in range(2):
            with pytest.raises(Superseded):
                await stale.append(position, [state("checkpoint", "stale")])

        await leader.append((await leader.recover()).position, [state("checkpoint", "newer")])

        assert [value for _, value in await world.read_committed(Topic.STATE_SYNC)] == [b"new", b"newer"]

    @pytest.mark.parametrize("step", ["send", "commit"])
    async def test_fenced_in_the_middle_nothing_is_visible(self, world: KafkaWorld, step: str) -> None:
        """A successor that starts before our commit shuts us out, whatever was sent already."""
        await world.create_ledger_topics()
        successor = world.ledger()
        steps: list[str] = []
        taken_over: list[Recovered] = []

        async def take_over(at: str) -> None:
            steps.append(at)
            if steps.count(step) == 1 and at == step:
                taken_over.append(await successor.recover())

        ledger = world.ledger(take_over)
        position = (await ledger.recover()).position
        with pytest.raises(OutcomeUnknown):
            await ledger.append(position, [state("checkpoint", "late"), event(1)])
        assert await world.read_committed(Topic.STATE_SYNC) == []
        assert await world.read_committed(Topic.TRANSACTION) == []

        await successor.append(taken_over[0].position, [state("checkpoint", "successor")])
        assert await world.read_committed(Topic.STATE_SYNC) == [(b"checkpoint", b"successor")]

    async def test_a_successor_between_start_and_read_is_seen(self, world: KafkaWorld) -> None:
        """The sleep that hurts most, right after the own producer's start: the successor's whole term is noticed."""
        await world.create_ledger_topics()
        successor = world.ledger()
        begun = world.ledger()
        position = (await begun.recover()).position  # its producer is started here, and kept for the append

        await successor.append((await successor.recover()).position, [state("checkpoint", "successor")])

        with pytest.raises(Superseded):
            await begun.append(position, [state("checkpoint", "late")])
        assert await world.read_committed(Topic.STATE_SYNC) == [(b"checkpoint", b"successor")]

    async def test_a_prepared_producer_that_was_fenced_costs_one_attempt(self, world: KafkaWorld) -> None:
        """Somebody only recovered between two steps: the outcome is unknown once, and recovery mends it."""
        await world.create_ledger_topics()
        ledger = world.ledger()
        position = await ledger.append((await ledger.recover()).position, [state("checkpoint", "1")])
        await ledger.close()
        position = (await ledger.recover()).position
        await world.ledger().recover()

        with pytest.raises(OutcomeUnknown):
            await ledger.append(position, [state("checkpoint", "2")])
        recovered = await ledger.recover()
        assert recovered.values[b"checkpoint"] == b"1"
        await ledger.append(recovered.position, [state("checkpoint", "2")])

        assert [value for _, value in await world.read_committed(Topic.STATE_SYNC)] == [b"1", b"2"]

    async def test_an_open_transaction_of_a_dead_predecessor_is_aborted(self, world: KafkaWorld) -> None:
        """What it had sent is never seen, and does not count as a record of another leader."""
        await world.create_ledger_topics()
        first = world.ledger()
        position = await first.append((await first.recover()).position, [state("checkpoint", "1")])
        await first.close()
        await world.open_transaction(world.role, [state("checkpoint", "dead"), event(1)])

        ledger = world.ledger()
        recovered = await ledger.recover()
        assert dict(recovered.values) == {b"checkpoint": b"1"}
        assert recovered.position > position
        await ledger.append(recovered.position, [state("checkpoint", "2"), event(2)])

        assert [value for _, value in await world.read_committed(Topic.STATE_SYNC)] == [b"1", b"2"]
        assert [value for _, value in await world.read_committed(Topic.TRANSACTION)] == [b"event 2"]

    async def test_aborted_records_above_the_position_do_not_supersede(self, world: KafkaWorld) -> None:
        """A successor that died in its first step has changed nothing: the old leader may go on."""
        await world.create_ledger_topics()
        ledger = world.ledger()
        position = await ledger.append((await ledger.recover()).position, [state("checkpoint", "1")])
        await ledger.close()
        await ledger.recover()
        await world.open_transaction(world.role, [state("checkpoint", "dead")])
        await world.fence(world.role)

        with pytest.raises(OutcomeUnknown):  # its prepared producer was fenced
            await ledger.append(position, [state("checkpoint", "2")])
        await ledger.append(position, [state("checkpoint", "2")])

        assert [value for _, value in await world.read_committed(Topic.STATE_SYNC)] == [b"1", b"2"]

    async def test_all_topics_or_none(self, world: KafkaWorld) -> None:
        """Until the commit a reader sees nothing in any topic; after it, everything, in order."""
        await world.create_ledger_topics()
        before_commit = []

        async def look(step: str) -> None:
            if step == "commit":
                before_commit.extend(await world.visible_now(Topic.TRANSACTION))
                before_commit.extend(await world.visible_now(Topic.STATE_SYNC))

        ledger = world.ledger(look)
        events = [Record(Topic.TRANSACTION, b"0x%040d" % (n % 5), b"%05d" % n) for n in range(2_000)]
        await ledger.append((await ledger.recover()).position, [state("checkpoint", "1"), *events])

        assert before_commit == []
        seen = await world.read_committed(Topic.TRANSACTION)
        assert sorted(seen) == sorted((record.key, record.value) for record in events)
        for key in {record.key for record in events}:
            values = [value for seen_key, value in seen if seen_key == key]
            assert values == sorted(v for v in values if v is not None)

    async def test_a_lost_answer_of_the_commit(self, world: KafkaWorld) -> None:
        """The outcome is unknown though all was written, and recovery tells."""
        await world.create_ledger_topics()
        lost: list[str] = []

        async def lose(step: str) -> None:
            if step == "committed" and not lost:
                lost.append(step)
                raise KafkaUnreachable("the answer was lost")

        ledger = world.ledger(lose)
        with pytest.raises(OutcomeUnknown):
            await ledger.append((await ledger.recover()).position, [state("checkpoint", "1")])

        recovered = await ledger.recover()
        assert recovered.values[b"checkpoint"] == b"1"
        await ledger.append(recovered.position, [state("checkpoint", "2")])

    async def test_a_topic_that_was_deleted(self, world: KafkaWorld) -> None:
        """Neither a leader at work nor a newcomer takes a vanished topic for an empty one."""
        await world.create_ledger_topics()
        ledger = world.ledger()
        position = await ledger.append((await ledger.recover()).position, [state("checkpoint", "1")])
        await world.delete(Topic.STATE_SYNC)

        with pytest.raises(CheckpointLost):
            await ledger.append(position, [state("checkpoint", "2")])
        with pytest.raises(CheckpointLost):
            await world.ledger().recover()

    async def test_a_topic_that_was_made_anew(self, world: KafkaWorld) -> None:
        """It is shorter than what was known, so it lost the checkpoint."""
        await world.create_ledger_topics()
        ledger = world.ledger()
        position = await ledger.append((await ledger.recover()).position, [state("checkpoint", "1")])
        await world.delete(Topic.STATE_SYNC)
        await world.create(Topic.STATE_SYNC)

        with pytest.raises(CheckpointLost):
            await world.ledger().append(position, [state("checkpoint", "2")])
        assert await world.read_committed(Topic.STATE_SYNC) == []

    async def test_every_append_shows_in_the_state_topic(self, world: KafkaWorld) -> None:
        """One without a state record is refused: the next leader could not know of it."""
        await world.create_ledger_topics()
        ledger = world.ledger()
        position = (await ledger.recover()).position
        with pytest.raises(ValueError, match="could not be seen"):
            await ledger.append(position, [event(1)])
