"""The wallet's topics: which there are, and what they must be like so that nothing is ever lost.

Public topics are spread over the wallet's `partitions`; a state topic has one, for its offsets are the ledger's
positions, and so has `orders`, for orders are carried out one after another. What is the source of truth is kept for
ever: `address.created` by compaction (one record an address), `transaction` by unlimited retention.

What is kept for ever must outlive brokers too. A write that one broker alone has confirmed is gone with it: so with
three replicas or more, two must hold a record before it counts as written (`min.insync.replicas`); and a replica that
missed records never leads (`unclean.leader.election.enable`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wallet_core.messages import Topic
from wallet_core.ports import TopicPlan, TopicState

_THIRTY_DAYS = {"cleanup.policy": "delete", "retention.ms": str(30 * 24 * 3600 * 1000)}
_FOR_EVER = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
_COMPACTED = {"cleanup.policy": "compact"}
_STATE = {"cleanup.policy": "compact", "segment.ms": "600000", "min.cleanable.dirty.ratio": "0.1"}
_NEVER_BEHIND = {"unclean.leader.election.enable": "false"}

_IN_SYNC = "min.insync.replicas"
_IN_SYNC_MIN = 2
_REPLICAS_FOR_IN_SYNC = 3
"""From so many on: with fewer, one broker away would stop every write."""
_MUST_HOLD = ("cleanup.policy", "retention.bytes", *_NEVER_BEHIND)
"""Settings without which records vanish. Others (how long commands are kept, how often a log is compacted) are the
cluster's choice."""


def plan_topics(partitions: int, replication_factor: int) -> tuple[TopicPlan, ...]:
    """Every topic of a wallet with that many partitions for the public ones, and that many replicas of each."""
    durable = dict(_NEVER_BEHIND)
    if replication_factor >= _REPLICAS_FOR_IN_SYNC:
        durable[_IN_SYNC] = str(_IN_SYNC_MIN)
    return (
        TopicPlan(Topic.COMMAND, partitions, _THIRTY_DAYS, replication_factor),
        TopicPlan(Topic.ADDRESS_CREATED, partitions, _COMPACTED | durable, replication_factor),
        TopicPlan(Topic.TRANSACTION, partitions, _FOR_EVER | durable, replication_factor),
        TopicPlan(Topic.ERRORS, partitions, _THIRTY_DAYS, replication_factor),
        TopicPlan(Topic.ORDERS, 1, _THIRTY_DAYS, replication_factor),
        TopicPlan(Topic.STATE_SYNC, 1, _STATE | durable, replication_factor),
    )


def missing_topics(plans: Sequence[TopicPlan], found: Mapping[str, TopicState]) -> list[TopicPlan]:
    """The topics that do not exist yet."""
    return [plan for plan in plans if plan.name not in found]


def check_topics(plans: Sequence[TopicPlan], found: Mapping[str, TopicState], prefix: str) -> list[str]:
    """What is wrong with the topics: a sentence each, with its remedy; nothing where all is well."""
    problems = []
    for plan in plans:
        name = prefix + plan.name
        state = found.get(plan.name)
        if state is None:
            problems.append(
                f"topic {name} is missing: create it with {plan.partitions} partitions, {plan.replication_factor} "
                f"replicas and {_settings(plan.config)}, or set spec.kafka.createTopics"
            )
            continue
        if state.partitions != plan.partitions:
            problems.append(
                f"topic {name} has {state.partitions} partitions instead of {plan.partitions}: "
                "set spec.kafka.partitions to what is there, or take another topicPrefix"
            )
        if state.replication_factor < plan.replication_factor:
            problems.append(
                f"topic {name} has {state.replication_factor} replicas instead of {plan.replication_factor}: "
                "reassign its partitions to more brokers, or set spec.kafka.replicationFactor to what is there"
            )
        if wrong := _wrong_settings(plan, state):
            problems.append(f"topic {name} could lose records: set {_settings(wrong)}")
    return problems


def _wrong_settings(plan: TopicPlan, state: TopicState) -> dict[str, str]:
    must_hold = [key for key in _MUST_HOLD if key in plan.config]
    if plan.config.get("retention.ms") == "-1":
        must_hold.append("retention.ms")
    wrong = {key: plan.config[key] for key in must_hold if state.config.get(key) != plan.config[key]}
    if _IN_SYNC in plan.config and int(state.config.get(_IN_SYNC, 0)) < _IN_SYNC_MIN:
        wrong[_IN_SYNC] = plan.config[_IN_SYNC]
    return wrong


def _settings(config: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in config.items())
