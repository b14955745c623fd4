"""What bootstrap relies on when it looks at topics and makes them, on the fake and on a real Kafka."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from component.kafka_worlds import WORLDS, KafkaWorld, open_world
from wallet_core.errors import TopicsMisconfigured
from wallet_core.messages import Record, Topic
from wallet_core.ports import TopicPlan

STATE = TopicPlan("state.sync", 1, {"cleanup.policy": "compact", "segment.ms": "600000"}, 1)
EVENTS = TopicPlan("transaction", 3, {"cleanup.policy": "delete", "retention.ms": "-1"}, 1)


@pytest.fixture(params=WORLDS)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[KafkaWorld]:
    async with open_world(request) as world:
        yield world


class TestTopicAdmin:
    async def test_what_is_created_is_described(self, world: KafkaWorld) -> None:
        """Partitions and settings, by the names without the prefix; what does not exist is left out."""
        admin = world.admin()
        assert await admin.describe(["state.sync", "transaction"]) == {}
        await admin.create([STATE, EVENTS])

        described = await admin.describe(["state.sync", "transaction", "errors"])

        assert set(described) == {"state.sync", "transaction"}
        assert described["state.sync"].partitions == 1
        assert described["transaction"].partitions == 3
        assert described["state.sync"].config.items() >= STATE.config.items()
        assert described["transaction"].config.items() >= EVENTS.config.items()
        assert [described[name].replication_factor for name in ("state.sync", "transaction")] == [1, 1]

    async def test_settings_that_nobody_made_are_described_too(self, world: KafkaWorld) -> None:
        """What the cluster chose instead decides whether records can be lost."""
        admin = world.admin()
        await admin.create([EVENTS])
        config = (await admin.describe(["transaction"]))["transaction"].config
        assert config["unclean.leader.election.enable"] == "false"
        assert int(config["min.insync.replicas"]) == 1

    async def test_looking_creates_nothing(self, world: KafkaWorld) -> None:
        """Not even where the broker would make topics on demand."""
        admin = world.admin()
        await admin.describe(["state.sync"])
        assert await admin.describe(["state.sync"]) == {}

    async def test_a_topic_that_came_into_being_is_no_error(self, world: KafkaWorld) -> None:
        """Two bootstraps may run at once; the one that is later changes nothing."""
        admin = world.admin()
        await admin.create([STATE])
        await admin.create([TopicPlan("state.sync", 1, {"cleanup.policy": "delete"}, 1), EVENTS])
        described = await admin.describe(["state.sync", "transaction"])
        assert described["state.sync"].config["cleanup.policy"] == "compact"
        assert described["transaction"].partitions == 3

    async def test_a_refused_plan_is_said(self, world: KafkaWorld) -> None:
        """More replicas than brokers cannot be."""
        with pytest.raises(TopicsMisconfigured):
            await world.admin().create([replace(STATE, replication_factor=3)])

    async def test_empty_means_no_committed_record(self, world: KafkaWorld) -> None:
        """Aborted records and markers say nothing; an open transaction may yet."""
        admin = world.admin()
        await admin.create([EVENTS])

        async def is_empty() -> bool:
            return bool((await admin.describe(["transaction"]))["transaction"].is_empty)

        assert await is_empty()
        await world.open_transaction(world.prefix + "x", [Record(Topic.TRANSACTION, b"k", b"v")])
        assert not await is_empty()
        await world.fence(world.prefix + "x")
        assert await is_empty()
        await world.produce(Topic.TRANSACTION, b"k", b"v", partition=2)
        assert not await is_empty()
