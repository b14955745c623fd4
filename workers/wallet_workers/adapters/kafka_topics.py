"""The wallet's topics (port `TopicAdmin`): what exists, with which settings, and whether anything was said there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from aiokafka import errors as foreign
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from wallet_core.ports import TopicPlan, TopicState
from wallet_workers.adapters.kafka_clients import (
    POLL_SLICE_MS,
    READ_COMMITTED,
    READ_UNCOMMITTED,
    START_TIMEOUT_SECONDS,
    Admin,
    KafkaClients,
    kafka_errors,
    partitions_of,
    stop_admin,
    stop_consumer,
)

CREATION_TIMEOUT_SECONDS = 15.0
"""For new topics to get leaders."""


class KafkaTopicAdmin:
    """See the module. Connects for each call: it is used at a worker's start only."""

    def __init__(self, clients: KafkaClients, *, topic_prefix: str) -> None:
        self._clients = clients
        self._topic_prefix = topic_prefix

    async def describe(self, names: Sequence[str]) -> Mapping[str, TopicState]:
        """Those of the named topics that exist, by the names as given. Raises KafkaUnreachable."""
        admin = await self._clients.admin()
        try:
            with kafka_errors("describing topics"):
                async with asyncio.timeout(START_TIMEOUT_SECONDS):
                    existing = frozenset(await admin.list_topics())
                    full_names = {
                        self._topic_prefix + name: name for name in names if self._topic_prefix + name in existing
                    }
                    if not full_names:
                        return {}
                    topics = await admin.describe_topics(list(full_names))
                    configs = await _configs(admin, list(full_names))
        finally:
            await stop_admin(admin)
        return {
            full_names[topic["topic"]]: TopicState(
                partitions=len(topic["partitions"]),
                config=configs[topic["topic"]],
                replication_factor=min(len(partition["replicas"]) for partition in topic["partitions"]),
                is_empty=await self._is_empty(topic["topic"]),
            )
            for topic in topics
        }

    async def create(self, plans: Sequence[TopicPlan]) -> None:
        """Create topics and wait until each can be written; one that has come into being meanwhile is no error.

        Raises TopicsMisconfigured where the broker refuses a plan, KafkaUnreachable for anything else.
        """
        admin = await self._clients.admin()
        try:
            with kafka_errors("creating topics"):
                async with asyncio.timeout(CREATION_TIMEOUT_SECONDS):
                    answer = await admin.create_topics(
                        [
                            NewTopic(
                                name=self._topic_prefix + plan.name,
                                num_partitions=plan.partitions,
                                replication_factor=plan.replication_factor,
                                topic_configs=dict(plan.config),
                            )
                            for plan in plans
                        ]
                    )
                    for name, code, *message in answer.topic_errors:
                        kind = foreign.for_code(code)
                        if kind not in (foreign.NoError, foreign.TopicAlreadyExistsError):
                            raise kind(f"{name}: {message[0] if message else ''}")
                    await _wait_for_leaders(admin, [self._topic_prefix + plan.name for plan in plans])
        finally:
            await stop_admin(admin)

    async def _is_empty(self, topic: str) -> bool:
        """No committed record is left, and none may yet appear: an open transaction counts as one."""
        raw = await self._clients.consumer(READ_UNCOMMITTED)
        try:
            partitions = await partitions_of(raw, topic)
            with kafka_errors(f"asking for the ends of {topic}"):
                beginnings = await raw.beginning_offsets(partitions)
                ends = await raw.end_offsets(partitions)
        finally:
            await stop_consumer(raw)
        unread = {partition for partition in partitions if beginnings[partition] < ends[partition]}
        if not unread:
            return True
        committed = await self._clients.consumer(READ_COMMITTED)
        try:
            with kafka_errors(f"looking into {topic}"):
                committed.assign(list(unread))
                for partition in unread:
                    committed.seek(partition, beginnings[partition])
                stable_ends = await committed.end_offsets(list(unread))
                if any(stable_ends[partition] < ends[partition] for partition in unread):
                    return False
                async with asyncio.timeout(START_TIMEOUT_SECONDS):
                    while unread:
                        if await committed.getmany(*unread, timeout_ms=POLL_SLICE_MS):
                            return False
                        unread = {part for part in unread if await committed.position(part) < ends[part]}
        finally:
            await stop_consumer(committed)
        return True


async def _configs(admin: Admin, topics: Sequence[str]) -> dict[str, dict[str, str]]:
    answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics])
    configs: dict[str, dict[str, str]] = {}
    for answer in answers:
        for code, message, _, name, entries in answer.resources:
            if code:
                raise foreign.for_code(code)(f"{name}: {message}")
            configs[name] = {entry[0]: entry[1] for entry in entries}
    return configs


async def _wait_for_leaders(admin: Admin, topics: Sequence[str]) -> None:
    while True:
        known = await admin.describe_topics(list(topics))
        if all(
            topic["error_code"] == 0 and all(partition["leader"] >= 0 for partition in topic["partitions"])
            for topic in known
        ):
            return
        await asyncio.sleep(POLL_SLICE_MS / 1000)
