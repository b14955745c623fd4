"""From causes to conditions: a table; and when a status is written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from resource_definition import faults
from resources import MINIMAL
from wallet_core.reasons import Reason
from wallet_core.settings import Role
from wallet_operator.bootstrap import Failure
from wallet_operator.pods import WorkerPod
from wallet_operator.reports import Report
from wallet_operator.status import STALLING, View, is_due, judge, next_status, rfc3339

NOW = 1_767_225_600.0  # 2026-01-01
HASHES = {Role.BOOTSTRAP: "hb", Role.COMMAND: "hc", Role.SYNC: "hs"}
LEADING = {"reason": "Working", "leader": True, "block": 90, "lag": 2, "settings_hash": "hs"}
STANDBY = {"reason": "Working", "leader": False, "settings_hash": "hs"}
SERVING = {"reason": "Working", "partitions": [0, 1, 2, 3], "settings_hash": "hc"}


def pod(role: Role, name: str = "", **changes: Any) -> WorkerPod:
    name = name or f"{role}-0"
    made = WorkerPod(
        name, f"uid-{name}", role, "10.0.0.1", is_over=False, is_going=False, is_ready=True, trouble="",
        exit_code=None, last_words="",
    )  # fmt: skip
    return replace(made, **changes)


def report(of: WorkerPod, document: dict[str, Any]) -> Report:
    return Report(of, document, 0.0)


def view(*documents: tuple[Role, dict[str, Any]], **changes: Any) -> View:
    """A wallet of these workers; without any it works as it should."""
    given: tuple[tuple[Role, dict[str, Any]], ...] = documents or (
        (Role.SYNC, LEADING),
        (Role.SYNC, STANDBY),
        (Role.COMMAND, SERVING),
    )
    pods = tuple(pod(role, f"{role}-{place}") for place, (role, _) in enumerate(given))
    made = View(
        generation=3,
        bootstrapped=True,
        reports=tuple(report(each, document) for each, (_, document) in zip(pods, given, strict=True)),
        pods=pods,
        expected=frozenset({Role.COMMAND, Role.SYNC}),
        partitions=4,
        settings_hashes=HASHES,
        is_rolled_out=True,
        shards=2,
        selector="a=b",
    )
    return replace(made, **changes)


def troubled(reason: Reason, message: str = "it is so", **facts: Any) -> dict[str, Any]:
    return {"reason": str(reason), "message": message, "troubles": [{}], **facts}


SYNC, COMMAND = Role.SYNC, Role.COMMAND
CAUSES: dict[str, tuple[View, str, str, str]] = {
    "all work": (view(), "True", "Working", ""),
    "a standby is in trouble": (
        view((SYNC, LEADING), (SYNC, troubled(Reason.KAFKA_UNREACHABLE)), (COMMAND, SERVING)), "True", "Working", "",
    ),
    "the resource is refused": (view(refusal="spec.image: is odd"), "False", "InvalidSpec", "spec.image: is odd"),
    "a name is taken": (view(taken=("Job a",)), "False", "NameTaken", "Job a: exists and belongs to somebody else"),
    "a former wallet's object is still there": (
        view(former=("Job a",)), "Unknown", "Pending", "waits for the former wallet's objects to go: Job a",
    ),
    "halted": (
        view((SYNC, troubled(Reason.HALTED, "ForkBelowWindow: …", leader=True)), (COMMAND, SERVING)),
        "False", "Halted", "sync-0: ForkBelowWindow: …",
    ),
    "the checkpoint is lost": (
        view((SYNC, troubled(Reason.HALTED, "CheckpointLost: …", leader=True)), (COMMAND, SERVING)),
        "False", "Halted", "sync-0: CheckpointLost: …; or order `walletctl sync rewind --to N`, then delete the Job",
    ),
    "wrong chain": (
        view((SYNC, troubled(Reason.WRONG_CHAIN, leader=True)), (COMMAND, SERVING)),
        "False", "WrongChain", "check spec.chain.id",
    ),
    "secret missing": (
        view((SYNC, LEADING), (COMMAND, troubled(Reason.SECRET_MISSING, "SecretMissing accounts/xpub"))),
        "False", "SecretMissing", "command-1: SecretMissing accounts/xpub; create the Secret",
    ),
    "secret missing before bootstrap ended": (
        view((Role.BOOTSTRAP, troubled(Reason.SECRET_MISSING, "SecretMissing provider/url")), bootstrapped=False),
        "False", "SecretMissing", "bootstrap-0: SecretMissing provider/url",
    ),
    "bootstrap fails": (
        view(bootstrap_failure=Failure("TopicsOfAnotherWallet: of b.a", is_wrong_setting=False), bootstrapped=False),
        "False", "BootstrapFailing", "TopicsOfAnotherWallet: of b.a",
    ),
    "bootstrap has a wrong setting": (
        view(bootstrap_failure=Failure("redis.urlFrom: is no URL", is_wrong_setting=True), bootstrapped=False),
        "False", "InvalidSpec", "redis.urlFrom: is no URL",
    ),
    "bootstrap fails later, and all work": (
        view(bootstrap_failure=Failure("TopicsMisconfigured: …", is_wrong_setting=False)), "True", "Working", "",
    ),
    "kafka is away": (
        view((SYNC, troubled(Reason.KAFKA_UNREACHABLE)), (COMMAND, troubled(Reason.KAFKA_UNREACHABLE))),
        "False", "KafkaUnreachable", "check that Kafka runs",
    ),
    "kafka is away for command only": (
        view((SYNC, LEADING), (COMMAND, troubled(Reason.KAFKA_UNREACHABLE))), "False", "KafkaUnreachable", "command-1",
    ),
    "redis is away": (
        view((SYNC, troubled(Reason.REDIS_UNREACHABLE, leader=False)), (COMMAND, SERVING)),
        "False", "RedisUnreachable", "spec.redis",
    ),
    "the node is away": (
        view((SYNC, troubled(Reason.RPC_UNREACHABLE, leader=True)), (COMMAND, SERVING)),
        "False", "RpcUnreachable", "spec.chain.rpc",
    ),
    "the first of several": (
        view((SYNC, troubled(Reason.REDIS_UNREACHABLE)), (COMMAND, troubled(Reason.SECRET_MISSING))),
        "False", "SecretMissing", "command-1",
    ),
    "the tip is stale": (
        view((SYNC, troubled(Reason.TIP_STALE, leader=True, block=90, lag=0)), (COMMAND, SERVING)),
        "False", "TipStale", "sync-0: it is so",
    ),
    "nobody leads": (view((SYNC, STANDBY), (COMMAND, SERVING)), "False", "NoLeader", "no worker of sync leads"),
    "a partition is served by nobody": (
        view((SYNC, LEADING), (COMMAND, {**SERVING, "partitions": [0, 2]})),
        "False", "NoLeader", "nobody serves partitions 1, 3 of command",
    ),
    "partitions are shared": (
        view(
            (SYNC, LEADING), (COMMAND, {**SERVING, "partitions": [0, 2]}), (COMMAND, {**SERVING, "partitions": [1, 3]})
        ),
        "True", "Working", "",
    ),
    "command is suspended": (view((SYNC, LEADING), expected=frozenset({SYNC})), "True", "Working", ""),
    "far behind": (
        view((SYNC, {**LEADING, "reason": "CatchingUp", "lag": 5000}), (COMMAND, SERVING)),
        "False", "CatchingUp", "5000 blocks behind",
    ),
    "a little too far behind": (
        view((SYNC, {**LEADING, "lag": 11}), (COMMAND, SERVING)), "False", "CatchingUp", "11 blocks behind",
    ),
    "just near enough": (view((SYNC, {**LEADING, "lag": 10}), (COMMAND, SERVING)), "True", "Working", ""),
    "a leader that begins": (
        view((SYNC, {"reason": "CatchingUp", "leader": True}), (COMMAND, SERVING)),
        "False", "CatchingUp", "the leader has not appended anything yet",
    ),
    "a new wallet": (
        view(bootstrapped=False, reports=(), pods=(), expected=frozenset(), is_rolled_out=False),
        "Unknown", "Pending", "bootstrap has not ended yet",
    ),
    "a new wallet whose image cannot be had": (
        view(
            bootstrapped=False, reports=(), expected=frozenset(), is_rolled_out=False,
            pods=(pod(Role.BOOTSTRAP, trouble="ImagePullBackOff: no such image"),),
        ),
        "Unknown", "Pending", "bootstrap-0: ImagePullBackOff: no such image",
    ),
    "a role is silent": (
        view((SYNC, LEADING), silent=frozenset({COMMAND}), pods=(pod(COMMAND, trouble="Unschedulable: no node"),)),
        "Unknown", "WorkersSilent", "no worker of command answers; command-0: Unschedulable: no node",
    ),
    "a role is silent, and another says why": (
        view((COMMAND, troubled(Reason.KAFKA_UNREACHABLE)), silent=frozenset({SYNC})),
        "False", "KafkaUnreachable", "command-0",
    ),
    "a worker ends at once with a wrong setting": (
        view(
            silent=frozenset({SYNC}), reports=(),
            pods=(pod(SYNC, is_ready=False, exit_code=2, last_words="{}\nWALLET_REDIS: is odd"),),
        ),
        "False", "InvalidSpec", "sync-0: WALLET_REDIS: is odd",
    ),
}  # fmt: skip


@pytest.mark.parametrize("cause", CAUSES)
def test_a_cause_gives_its_condition(cause: str) -> None:
    """What is wrong and what to do, in one word and one line; True only if every role does its work."""
    given, status, reason, message = CAUSES[cause]
    verdict = judge(given)
    assert verdict is not None
    assert (verdict.status, verdict.reason) == (status, reason)
    assert message in verdict.message


def conditions(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["type"]: each for each in status["conditions"]}


@pytest.mark.parametrize("cause", CAUSES)
def test_only_what_no_waiting_mends_stalls(cause: str) -> None:
    """Helm gives up on a stalled wallet at once."""
    given, status, reason, _ = CAUSES[cause]
    found = conditions(next_status(given, {}, NOW))["Stalled"]
    assert (found["status"] == "True") == (status == "False" and reason in {"InvalidSpec", "Halted", "WrongChain"})
    assert {"InvalidSpec", "Halted", "WrongChain"} == {str(each) for each in STALLING}


@pytest.mark.parametrize("cause", CAUSES)
def test_the_definition_of_the_resource_has_a_place_for_all_that_is_said(cause: str) -> None:
    """The API server drops an unknown field without a word, and refuses a wrong one with the whole patch."""
    status = next_status(CAUSES[cause][0], {}, NOW)
    written = {name: value for name, value in status.items() if value is not None}  # None takes a field away
    assert faults({**MINIMAL, "status": written}) == []


def test_who_may_yet_answer_changes_nothing() -> None:
    """A new operator does not call a wallet ill because it has not asked it yet."""
    before = next_status(view(), {}, NOW)
    unheard = view(reports=())
    assert judge(unheard) is None
    assert conditions(next_status(unheard, before, NOW + 5))["Ready"] == conditions(before)["Ready"]
    new = conditions(next_status(unheard, {}, NOW))["Ready"]
    assert (new["status"], new["reason"]) == ("Unknown", "Pending")


def test_the_numbers_are_the_leaders() -> None:
    """Without a leader the last known block stays, and how far behind it is nobody knows."""
    status = next_status(view(), {}, NOW)
    assert {name: status[name] for name in ("block", "lag", "shards", "readyWorkers", "selector", "reason")} == {
        "block": 90, "lag": 2, "shards": 2, "readyWorkers": 3, "selector": "a=b", "reason": "Working",
    }  # fmt: skip
    assert status["checkedAt"] == "2026-01-01T00:00:00Z"
    later = next_status(view((SYNC, STANDBY), (COMMAND, SERVING)), status, NOW + 10)
    assert (later["block"], later["lag"]) == (90, None)


def test_of_two_who_think_they_lead_the_farther_one_counts() -> None:
    """The other one was replaced and does not know it."""
    status = next_status(view((SYNC, {**LEADING, "block": 50}), (SYNC, LEADING), (COMMAND, SERVING)), {}, NOW)
    assert status["block"] == 90


def test_a_generation_is_observed_when_every_pod_runs_it() -> None:
    """`kubectl wait` after an edit waits for the edit, not for what was ready before it."""
    old = {"observedGeneration": 2}
    for unfinished in (
        view(is_rolled_out=False),
        view((SYNC, {**LEADING, "settings_hash": "before"}), (COMMAND, SERVING)),
        view(reports=(report(pod(SYNC), LEADING),)),
    ):
        status = next_status(unfinished, old, NOW)
        assert status["observedGeneration"] == 2
        assert {each["observedGeneration"] for each in status["conditions"] if each["type"] != "Paused"} == {2}
        assert conditions(status)["Reconciling"]["status"] == "True"
    status = next_status(view(), old, NOW)
    assert status["observedGeneration"] == 3
    assert conditions(status)["Reconciling"]["status"] == "False"
    going = view()
    leaving = replace(going, pods=(*going.pods, pod(SYNC, "sync-old", is_going=True)))
    assert next_status(leaving, old, NOW)["observedGeneration"] == 3, "who leaves need not say anything"


def test_a_generation_that_cannot_work_is_observed_too() -> None:
    """Else nobody would see that it stalls: Helm looks at the generation first."""
    assert (
        next_status(view(refusal="no", is_rolled_out=False), {"observedGeneration": 2}, NOW)["observedGeneration"] == 3
    )
    halted = troubled(Reason.HALTED, settings_hash="hs")
    stalled = view((SYNC, halted), (COMMAND, SERVING), is_rolled_out=False)
    assert next_status(stalled, {"observedGeneration": 2}, NOW)["observedGeneration"] == 3
    by_the_old = view((SYNC, {**halted, "settings_hash": "before"}), (COMMAND, SERVING), is_rolled_out=False)
    assert next_status(by_the_old, {"observedGeneration": 2}, NOW)["observedGeneration"] == 2


def test_a_pause_is_said_and_awaits_nothing() -> None:
    """What runs may be older than the resource for as long as it is paused."""
    status = next_status(view(paused=True, is_rolled_out=False), {"observedGeneration": 2}, NOW)
    found = conditions(status)
    assert (found["Paused"]["status"], found["Reconciling"]["status"]) == ("True", "False")
    assert status["observedGeneration"] == 2
    assert found["Paused"]["observedGeneration"] == 3, "or `kubectl wait --for=condition=Paused` would wait for ever"


def test_why_an_upgrade_waits_is_said() -> None:
    """In the condition that says that something is awaited."""
    found = conditions(next_status(view(is_rolled_out=False, waits_for="wallet a/b has its turn"), {}, NOW))
    assert (found["Reconciling"]["reason"], found["Reconciling"]["message"]) == (
        "WaitsForTurn",
        "wallet a/b has its turn",
    )


@pytest.mark.parametrize("is_rolled_out", [False, True])
def test_what_is_forbidden_is_said(is_rolled_out: bool) -> None:
    """By another word than an upgrade's turn, and also where no pod is awaited; in a silent role's condition, too."""
    forbidden = ("mainnet-sync: exceeded quota",)
    found = conditions(next_status(view(is_rolled_out=is_rolled_out, forbidden=forbidden), {}, NOW))["Reconciling"]
    assert (found["status"], found["reason"], found["message"]) == ("True", "Forbidden", "mainnet-sync: exceeded quota")
    silent = judge(view((COMMAND, SERVING), silent=frozenset({SYNC}), forbidden=forbidden))
    assert silent is not None
    assert "no worker of sync answers; mainnet-sync: exceeded quota" in silent.message


def test_why_a_rollout_takes_long_is_said() -> None:
    """Its pods know: an image that is not there, a node that is full. The wallet itself may work on."""
    waiting = pod(SYNC, "sync-new", trouble="ImagePullBackOff: no such image", is_ready=False)
    rolling = replace(view(is_rolled_out=False), pods=(*view().pods, waiting))
    found = conditions(next_status(rolling, {}, NOW))
    assert found["Ready"]["status"] == "True"
    assert found["Reconciling"]["message"].endswith("are awaited; sync-new: ImagePullBackOff: no such image")


@pytest.mark.parametrize(("available", "expected"), [(False, "True"), (True, "False")])
def test_a_node_without_traces_is_said(available: bool, expected: str) -> None:
    """ETH that contracts pay is not seen then; the wallet is Ready all the same."""
    given = view((SYNC, {**LEADING, "traces_available": available}), (COMMAND, SERVING))
    found = conditions(next_status(given, {}, NOW))
    assert found["TracesUnavailable"]["status"] == expected
    assert found["Ready"]["status"] == "True"
    assert "TracesUnavailable" not in conditions(next_status(view(), {}, NOW)), "nobody has asked for traces yet"


def test_a_transition_keeps_its_time() -> None:
    """It says since when, also while the message changes."""
    first = next_status(view((SYNC, troubled(Reason.TIP_STALE, "90 s old", leader=True))), {}, NOW)
    second = next_status(view((SYNC, troubled(Reason.TIP_STALE, "99 s old", leader=True))), first, NOW + 9)
    assert conditions(second)["Ready"]["lastTransitionTime"] == rfc3339(NOW)
    assert "99 s old" in conditions(second)["Ready"]["message"]
    third = next_status(view(), second, NOW + 20)
    assert conditions(third)["Ready"]["lastTransitionTime"] == rfc3339(NOW + 20)


def test_conditions_are_written_at_once_and_numbers_now_and_then() -> None:
    """Every write is an event for everybody who watches."""
    before = next_status(view(), {}, NOW)
    moved = view((SYNC, {**LEADING, "block": 91}), (COMMAND, SERVING))
    assert is_due(before, {}, NOW)
    assert not is_due(next_status(moved, before, NOW + 10), before, NOW + 10)
    assert is_due(next_status(moved, before, NOW + 30), before, NOW + 30)
    assert is_due(next_status(moved, before, NOW - 3600), before, NOW - 3600), "the clock was put back"
    for at_once in (view((SYNC, STANDBY), (COMMAND, SERVING)), view(shards=3), view(paused=True), view(generation=4)):
        assert is_due(next_status(at_once, before, NOW + 1), before, NOW + 1)


def test_a_message_that_only_counts_is_no_reason_to_write() -> None:
    """The age of a stale tip is another one at every look."""
    before = next_status(view((SYNC, troubled(Reason.TIP_STALE, "90 s old", leader=True))), {}, NOW)
    after = next_status(view((SYNC, troubled(Reason.TIP_STALE, "99 s old", leader=True))), before, NOW + 9)
    assert not is_due(after, before, NOW + 9)


@pytest.mark.parametrize("given", [view((SYNC, troubled(Reason.HALTED, "x" * 50_000))), view(refusal="x" * 50_000)])
def test_messages_fit_into_a_condition(given: View) -> None:
    """A worker's long message is cut, and the API server's too."""
    verdict = judge(given)
    assert verdict is not None
    assert len(verdict.message) <= 1024
