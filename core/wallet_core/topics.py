"""The wallet's topics: which there are, and what they must be like so that nothing is ever lost.

Public topics are spread over the wallet's `partitions`; a state topic has one, for its offsets are the ledger's
positions. What is the source of truth is kept for ever: `address.created` by compaction (one record an address),
`transaction` by unlimited retention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wallet_core.messages import Topic
from wallet_core.ports import TopicPlan, TopicState

_THIRTY_DAYS = {"cleanup.policy": "delete", "retention.ms": str(30 * 24 * 3600 * 1000)}
_FOR_EVER = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
_COMPACTED = {"cleanup.policy": "compact"}
_STATE = {"cleanup.policy": "compact", "segment.ms": "600000", "min.cleanable.dirty.ratio": "0.1"}

_MUST_HOLD = ("cleanup.policy", "retention.bytes")
"""Settings without which records vanish. Others (how long commands are kept, how often a log is compacted) are the
cluster's choice."""


def plan_topics(partitions: int) -> tuple[TopicPlan, ...]:
    """Every topic of a wallet with that many partitions for the public ones."""
    return (
        TopicPlan(Topic.COMMAND, partitions, _THIRTY_DAYS),
        TopicPlan(Topic.ADDRESS_CREATED, partitions, _COMPACTED),
        TopicPlan(Topic.TRANSACTION, partitions, _FOR_EVER),
        TopicPlan(Topic.ERRORS, partitions, _THIRTY_DAYS),
        TopicPlan(Topic.STATE_SYNC, 1, _STATE),
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
                f"topic {name} is missing: create it with {plan.partitions} partitions and {_settings(plan.config)}, "
                "or set spec.kafka.createTopics"
            )
            continue
        if state.partitions != plan.partitions:
            problems.append(
                f"topic {name} has {state.partitions} partitions instead of {plan.partitions}: "
                "set spec.kafka.partitions to what is there, or take another topicPrefix"
            )
        must_hold = [key for key in _MUST_HOLD if key in plan.config]
        if plan.config.get("retention.ms") == "-1":
            must_hold.append("retention.ms")
        wrong = {key: plan.config[key] for key in must_hold if state.config.get(key) != plan.config[key]}
        if wrong:
            problems.append(f"topic {name} could lose records: set {_settings(wrong)}")
    return problems


def _settings(config: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in config.items())
