"""Which topics a wallet has, and what they must be like."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet_core.messages import Topic
from wallet_core.ports import TopicPlan, TopicState
from wallet_core.topics import check_topics, missing_topics, plan_topics

PLANS = plan_topics(12, 3)
KEPT = {Topic.ADDRESS_CREATED, Topic.TRANSACTION, Topic.STATE_SYNC}
LOSING = {
    "cleanup.policy": "compact,delete",
    "retention.bytes": "1000000",
    "unclean.leader.election.enable": "true",
    "min.insync.replicas": "1",
}
"""Values that could lose records of a topic that is kept for ever."""


def as_planned(plan: TopicPlan, **other: str) -> TopicState:
    """A topic just as planned, with the settings of the cluster's own beside it."""
    config = {"compression.type": "producer", "min.insync.replicas": "1", **plan.config, **other}
    return TopicState(plan.partitions, config, plan.replication_factor, is_empty=True)


def found_as_planned() -> dict[str, TopicState]:
    return {plan.name: as_planned(plan) for plan in PLANS}


def test_every_topic_is_planned_once() -> None:
    """A topic that somebody writes to and nobody makes would stop its role."""
    assert [plan.name for plan in PLANS] == list(Topic)


def test_public_topics_are_spread_and_state_topics_are_not() -> None:
    """The ledger's positions are offsets of one partition."""
    assert {plan.name: plan.partitions for plan in PLANS} == {
        Topic.COMMAND: 12,
        Topic.ADDRESS_CREATED: 12,
        Topic.TRANSACTION: 12,
        Topic.ERRORS: 12,
        Topic.ORDERS: 1,
        Topic.STATE_SYNC: 1,
    }


def test_sources_of_truth_are_kept_for_ever() -> None:
    """Addresses by compaction, events by unlimited retention, both in time and in size."""
    config = {plan.name: plan.config for plan in PLANS}
    for topic, kept in {
        Topic.ADDRESS_CREATED: {"cleanup.policy": "compact"},
        Topic.TRANSACTION: {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"},
        Topic.STATE_SYNC: {"cleanup.policy": "compact"},
    }.items():
        assert config[topic].items() >= kept.items()
    assert config[Topic.COMMAND] == config[Topic.ERRORS] == {"cleanup.policy": "delete", "retention.ms": "2592000000"}


@pytest.mark.parametrize(("replication_factor", "in_sync"), [(1, None), (2, None), (3, "2"), (5, "2")])
def test_what_is_kept_for_ever_outlives_a_broker(replication_factor: int, in_sync: str | None) -> None:
    """Two replicas must hold a record where one of three may be away; a replica that missed records never leads."""
    for plan in plan_topics(12, replication_factor):
        kept = plan.name in KEPT
        assert plan.replication_factor == replication_factor
        assert plan.config.get("unclean.leader.election.enable") == ("false" if kept else None)
        assert plan.config.get("min.insync.replicas") == (in_sync if kept else None)


def test_missing_topics_are_those_that_are_not_there() -> None:
    """Only what does not exist is made."""
    found = found_as_planned()
    assert missing_topics(PLANS, found) == []
    del found[Topic.ERRORS], found[Topic.STATE_SYNC]
    assert [plan.name for plan in missing_topics(PLANS, found)] == [Topic.ERRORS, Topic.STATE_SYNC]
    assert missing_topics(PLANS, {}) == list(PLANS)


def test_topics_as_planned_are_fine() -> None:
    """Other settings are the cluster's choice."""
    assert check_topics(PLANS, found_as_planned(), "eu.") == []


@pytest.mark.parametrize(
    ("topic", "setting", "value"),
    [
        (Topic.ADDRESS_CREATED, "cleanup.policy", "delete"),
        (Topic.ADDRESS_CREATED, "cleanup.policy", "compact,delete"),
        (Topic.STATE_SYNC, "cleanup.policy", "delete"),
        (Topic.TRANSACTION, "cleanup.policy", "compact"),
        (Topic.TRANSACTION, "retention.ms", "604800000"),
        (Topic.TRANSACTION, "retention.bytes", "1073741824"),
        (Topic.COMMAND, "cleanup.policy", "compact"),
        (Topic.ERRORS, "cleanup.policy", "compact"),
        (Topic.TRANSACTION, "unclean.leader.election.enable", "true"),
        (Topic.STATE_SYNC, "min.insync.replicas", "1"),
    ],
)
def test_a_setting_that_could_lose_records_is_a_problem_with_its_remedy(topic: Topic, setting: str, value: str) -> None:
    """The sentence names the topic as the broker knows it and what to set."""
    found = found_as_planned()
    plan = next(plan for plan in PLANS if plan.name == topic)
    found[topic] = as_planned(plan, **{setting: value})
    assert check_topics(PLANS, found, "eu.") == [
        f"topic eu.{topic} could lose records: set {setting}={plan.config[setting]}"
    ]


def test_a_setting_that_is_not_told_is_not_trusted() -> None:
    """No answer about a policy is no good answer."""
    found = found_as_planned() | {Topic.TRANSACTION: TopicState(12, {}, 3, is_empty=True)}
    (problem,) = check_topics(PLANS, found, "")
    assert problem == (
        "topic transaction could lose records: set cleanup.policy=delete, retention.bytes=-1, "
        "unclean.leader.election.enable=false, retention.ms=-1, min.insync.replicas=2"
    )


@pytest.mark.parametrize(
    ("topic", "setting", "value"),
    [
        (Topic.COMMAND, "retention.ms", "60000"),
        (Topic.ERRORS, "retention.ms", "-1"),
        (Topic.STATE_SYNC, "segment.ms", "1"),
        (Topic.STATE_SYNC, "min.cleanable.dirty.ratio", "0.9"),
        (Topic.TRANSACTION, "min.insync.replicas", "3"),
        (Topic.COMMAND, "min.insync.replicas", "1"),
    ],
)
def test_a_setting_that_loses_nothing_is_the_clusters_choice(topic: Topic, setting: str, value: str) -> None:
    """An administrator may keep commands longer or compact later."""
    found = found_as_planned()
    found[topic] = as_planned(next(plan for plan in PLANS if plan.name == topic), **{setting: value})
    assert check_topics(PLANS, found, "") == []


def test_a_topic_with_too_few_replicas_is_a_problem_with_its_remedy() -> None:
    """It would be gone with one broker; more replicas than asked for do no harm."""
    found = found_as_planned()
    found[Topic.TRANSACTION] = replace(found[Topic.TRANSACTION], replication_factor=1)
    found[Topic.ADDRESS_CREATED] = replace(found[Topic.ADDRESS_CREATED], replication_factor=4)
    (problem,) = check_topics(PLANS, found, "eu.")
    assert problem == (
        "topic eu.transaction has 1 replicas instead of 3: reassign its partitions to more brokers, "
        "or set spec.kafka.replicationFactor to what is there"
    )


def test_every_problem_is_listed() -> None:
    """A person mends all of them in one go."""
    found = found_as_planned()
    del found[Topic.COMMAND]
    found[Topic.ERRORS] = replace(found[Topic.ERRORS], partitions=6)
    found[Topic.STATE_SYNC] = TopicState(3, {"cleanup.policy": "delete"}, 3, is_empty=False)
    problems = check_topics(PLANS, found, "eu.")
    assert [problem.split(":")[0] for problem in problems] == [
        "topic eu.command is missing",
        "topic eu.errors has 6 partitions instead of 12",
        "topic eu.state.sync has 3 partitions instead of 1",
        "topic eu.state.sync could lose records",
    ]
    assert "12 partitions, 3 replicas" in problems[0]
    assert "spec.kafka.createTopics" in problems[0]


@given(st.integers(1, 1000), st.integers(1, 15))
def test_what_bootstrap_makes_passes_its_own_check(partitions: int, replication_factor: int) -> None:
    """Whatever the resource says: a wallet never refuses the topics that it made itself."""
    plans = plan_topics(partitions, replication_factor)
    assert check_topics(plans, {plan.name: as_planned(plan) for plan in plans}, "eu.") == []


@given(st.integers(1, 15), st.data())
def test_any_setting_that_loses_records_is_named_with_its_topic(replication_factor: int, data: st.DataObject) -> None:
    """One sentence for one fault, wherever it is: what is kept for ever is kept whole."""
    plans = plan_topics(12, replication_factor)
    plan = data.draw(st.sampled_from([each for each in plans if each.name in KEPT]))
    key = data.draw(st.sampled_from(sorted(plan.config.keys() & LOSING.keys())))
    found = {each.name: as_planned(each) for each in plans} | {plan.name: as_planned(plan, **{key: LOSING[key]})}
    (problem,) = check_topics(plans, found, "eu.")
    assert f"eu.{plan.name}" in problem
    assert f"{key}={plan.config[key]}" in problem
