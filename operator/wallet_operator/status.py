"""What a wallet's status says: pure functions from what is known to conditions and numbers.

`Ready` is True where a replica of sync leads, says that it is Working and is at most LAG_BLOCKS_MAX behind, and every
partition of `command` is served. Otherwise its reason is the first that holds, in this order: the resource is refused,
a name is taken, what the workers and bootstrap say (in `wallet_core.reasons`' order), a role is silent, nobody leads,
the leader is behind. It is Unknown where nobody can say: a new wallet is Pending, a role was silent for too long.
Nothing is concluded from a role that may yet answer: the condition stays as it was.

`observedGeneration` is the newest generation that every pod runs (or that was refused, or that stalls under the very
settings it asks for); the conditions carry it too, so that `kubectl wait` waits for it. `Paused` alone is true of the
newest generation at once. `Stalled` stands for what no waiting mends; Helm gives up on it at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from wallet_core.reasons import Reason
from wallet_core.settings import Role
from wallet_operator.bootstrap import Failure
from wallet_operator.pods import WorkerPod, shortened
from wallet_operator.reports import Report

LAG_BLOCKS_MAX = 10
REFRESH_SECONDS = 30.0
"""Numbers are written at most so often."""
PENDING = "Pending"
NAME_TAKEN = "NameTaken"
WORKERS_SILENT = "WorkersSilent"
STALLING = frozenset({Reason.INVALID_SPEC, Reason.HALTED, Reason.WRONG_CHAIN})
_FINE = frozenset({Reason.WORKING, Reason.CATCHING_UP})
_ORDER: Mapping[str, int] = {reason: place for place, reason in enumerate(Reason)}
REMEDIES: Mapping[str, str] = {
    Reason.SECRET_MISSING: "create the Secret with this key in the wallet's namespace; it is seen within 2 minutes",
    Reason.KAFKA_UNREACHABLE: "check that Kafka runs and spec.kafka.bootstrapServers",
    Reason.REDIS_UNREACHABLE: "check that Redis runs and spec.redis",
    Reason.RPC_UNREACHABLE: "check that the node runs and spec.chain.rpc",
    Reason.WRONG_CHAIN: "check spec.chain.id and spec.chain.rpc",
}
REMEDIES_OF_HALTS: Mapping[str, str] = {
    "CheckpointLost": "or order `walletctl sync rewind --to N`, then delete the Job of bootstrap so that it runs again",
}
"""Ways out of a halt that Kubernetes has a part in, by the error that the worker names."""


@dataclass(frozen=True)
class View:
    """All that is known of a wallet at one look."""

    generation: int
    refusal: str = ""
    """Why the resource, or an object made from it, is not accepted."""
    taken: tuple[str, ...] = ()
    """Objects of others that have the wallet's names."""
    former: tuple[str, ...] = ()
    """The same, of a resource of this name that is gone; they go after it."""
    paused: bool = False
    bootstrapped: bool = False
    bootstrap_failure: Failure | None = None
    reports: tuple[Report, ...] = ()
    """The fresh ones."""
    pods: tuple[WorkerPod, ...] = ()
    silent: frozenset[Role] = frozenset()
    expected: frozenset[Role] = frozenset()
    """Roles of which workers should run."""
    partitions: int = 0
    """Of `command`."""
    settings_hashes: Mapping[Role, str] | None = None
    """What a worker of each role says that has the resource's settings."""
    is_rolled_out: bool = False
    """Whether the pods of all roles, and no others, are those of the resource as it is."""
    waits_for: str = ""
    """Whose turn it is, where the resource is not applied yet."""
    forbidden: tuple[str, ...] = ()
    """What rights, quotas or admission rules keep from being made."""
    shards: int = 0
    """Pods of sync."""
    selector: str = ""


@dataclass(frozen=True)
class Verdict:
    """The condition Ready."""

    status: str
    """True, False or Unknown."""
    reason: str
    message: str


def judge(view: View) -> Verdict | None:
    """The condition Ready; None where nothing can be said yet and it stays as it is."""
    if view.refusal:
        return Verdict("False", Reason.INVALID_SPEC, shortened(view.refusal))
    if view.taken:
        names = ", ".join(view.taken)
        return Verdict("False", NAME_TAKEN, f"{names}: exists and belongs to somebody else; rename or delete it")
    if view.former:
        return Verdict("Unknown", PENDING, f"waits for the former wallet's objects to go: {', '.join(view.former)}")
    leader = _leader(view)
    unserved = _unserved_partitions(view)
    if _works(leader) and not unserved and not view.silent and view.bootstrapped:
        return Verdict("True", Reason.WORKING, "")
    if trouble := _first_trouble(view):
        return trouble
    if not view.bootstrapped:
        return Verdict("Unknown", PENDING, _with_pods("bootstrap has not ended yet", view, Role.BOOTSTRAP))
    for role in sorted(view.silent):
        return Verdict("Unknown", WORKERS_SILENT, _with_pods(f"no worker of {role} answers", view, role))
    heard = {report.pod.role for report in view.reports}
    if not view.expected <= heard:
        return None
    if leader is None:
        return Verdict("False", Reason.NO_LEADER, "no worker of sync leads")
    if unserved:
        return Verdict("False", Reason.NO_LEADER, f"nobody serves partitions {_numbers(unserved)} of command")
    lag = leader.document.get("lag")
    behind = f"{lag} blocks behind" if lag is not None else "the leader has not appended anything yet"
    return Verdict("False", Reason.CATCHING_UP, behind)


def is_ready(view: View) -> bool:
    """Whether the workers say now that all is well; what was so at the last look does not count."""
    verdict = judge(view)
    return verdict is not None and verdict.status == "True"


def is_current(view: View) -> bool:
    """Whether every pod says that it runs with the resource's settings."""
    if view.settings_hashes is None or not view.is_rolled_out:
        return False
    said = {report.pod.uid: report for report in view.reports}
    working = [pod for pod in view.pods if pod.lives and pod.role is not Role.BOOTSTRAP]
    return all(pod.uid in said and said[pod.uid].settings_hash == view.settings_hashes.get(pod.role) for pod in working)


def next_status(view: View, before: Mapping[str, Any], unix_seconds: float) -> dict[str, Any]:
    """The whole status, where `before` is the one that the resource has."""
    now = rfc3339(unix_seconds)
    verdict = judge(view) or _as_before(before)
    observed = observed_generation(view, verdict, before)
    lags = observed < view.generation or bool(view.waits_for or view.forbidden) or not view.is_rolled_out
    leader = _leader(view)
    conditions = [
        _condition("Ready", verdict.status, verdict.reason, verdict.message),
        _flag("Stalled", verdict.status == "False" and verdict.reason in STALLING, verdict.reason, verdict.message),
        _flag(
            "Reconciling",
            lags and not view.paused and not view.refusal,
            "WaitsForTurn" if view.waits_for else "Forbidden" if view.forbidden else "RollingOut",
            view.waits_for
            or shortened("; ".join(view.forbidden))
            or _with_pods("pods with the resource's settings are awaited", view, *Role),
        ),
        _flag("Paused", view.paused, "SpecPaused", "spec.paused is true: nothing is changed of what runs"),
    ]
    if leader is not None and "traces_available" in leader.document:
        conditions.append(
            _flag(
                "TracesUnavailable",
                not leader.document["traces_available"],
                "NodeWithoutTraces",
                "the node has no traces: ETH that contracts pay is not seen; add an endpoint that has them",
            )
        )
    old = {each["type"]: each for each in before.get("conditions") or ()}
    return {
        "conditions": [
            _stamped(each, old.get(each["type"]), view.generation if each["type"] == "Paused" else observed, now)
            for each in conditions
        ],
        "observedGeneration": observed,
        "reason": verdict.reason,
        "bootstrapped": view.bootstrapped,
        "shards": view.shards,
        "readyWorkers": sum(pod.is_ready and pod.lives for pod in view.pods),
        "selector": view.selector,
        # While nobody leads, the last known block stands; how far behind it is then, nobody knows.
        "block": before.get("block") if leader is None else leader.document.get("block", before.get("block")),
        "lag": None if leader is None else leader.document.get("lag"),
        "checkedAt": now,
    }


def observed_generation(view: View, verdict: Verdict, before: Mapping[str, Any]) -> int:
    """See the module. It never goes back."""
    last = int(before.get("observedGeneration") or 0)
    if view.refusal or is_current(view) or (verdict.reason in STALLING and _stalls_with_current_settings(view)):
        return view.generation
    return min(last, view.generation)


def is_due(status: Mapping[str, Any], before: Mapping[str, Any], unix_seconds: float) -> bool:
    """Whether a status should be written: at once where a condition changes, else every REFRESH_SECONDS."""
    if _at_once(status) != _at_once(before):
        return True
    checked = before.get("checkedAt")
    # Either way: a clock that was put back must not keep the numbers as they are until it has caught up.
    return not checked or abs(unix_seconds - datetime.fromisoformat(checked).timestamp()) >= REFRESH_SECONDS


def rfc3339(unix_seconds: float) -> str:
    """A time as Kubernetes writes it, to the second."""
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _leader(view: View) -> Report | None:
    """The leader of sync; of several, of which at most one can write, the one that is farthest."""
    leaders = [each for each in view.reports if each.pod.role is Role.SYNC and each.document.get("leader")]
    return max(leaders, key=lambda each: (each.document.get("block") or -1, each.at), default=None)


def _works(leader: Report | None) -> bool:
    if leader is None or leader.document.get("reason") != Reason.WORKING:
        return False
    lag = leader.document.get("lag")
    return lag is not None and lag <= LAG_BLOCKS_MAX


def _unserved_partitions(view: View) -> list[int]:
    if Role.COMMAND not in view.expected:
        return []
    served = {
        partition
        for report in view.reports
        if report.pod.role is Role.COMMAND
        for partition in report.document.get("partitions") or ()
    }
    return sorted(set(range(view.partitions)) - served)


def _first_trouble(view: View) -> Verdict | None:
    """The first reason, in order, that a worker or bootstrap gives."""
    found: list[tuple[str, str]] = [
        (str(report.document.get("reason")), f"{report.pod.name}: {report.document.get('message') or ''}")
        for report in view.reports
        if report.document.get("reason") not in _FINE
    ]
    found += [
        (Reason.INVALID_SPEC, f"{pod.name}: {pod.last_words.splitlines()[-1]}")
        for pod in view.pods
        if pod.lives and not pod.is_ready and pod.has_wrong_settings and pod.last_words
    ]
    if failure := view.bootstrap_failure:
        found.append((Reason.INVALID_SPEC if failure.is_wrong_setting else Reason.BOOTSTRAP_FAILING, failure.message))
    known = [(reason, message) for reason, message in found if reason in _ORDER]
    if not known:
        return None
    reason, message = min(known, key=lambda each: (_ORDER[each[0]], each[1]))
    remedy = REMEDIES.get(reason)
    if reason == Reason.HALTED:
        remedy = next((text for error, text in REMEDIES_OF_HALTS.items() if f": {error}: " in message), None)
    return Verdict("False", reason, shortened(f"{message}; {remedy}" if remedy else message))


def _stalls_with_current_settings(view: View) -> bool:
    hashes = view.settings_hashes or {}
    is_said = any(
        report.document.get("reason") in STALLING and report.settings_hash == hashes.get(report.pod.role)
        for report in view.reports
    )
    return is_said or (view.bootstrap_failure is not None and view.bootstrap_failure.is_wrong_setting)


def _with_pods(text: str, view: View, *roles: Role) -> str:
    """With what the API server knows of these roles' pods, if anything is wrong."""
    troubles = sorted({f"{pod.name}: {pod.trouble}" for pod in view.pods if pod.role in roles and pod.trouble})
    return shortened("; ".join([text, *troubles, *filter(None, [view.waits_for]), *view.forbidden]))


def _numbers(numbers: Sequence[int], shown_max: int = 12) -> str:
    text = ", ".join(map(str, numbers[:shown_max]))
    return text if len(numbers) <= shown_max else f"{text}, … ({len(numbers)} in all)"


def _as_before(before: Mapping[str, Any]) -> Verdict:
    for each in before.get("conditions") or ():
        if each["type"] == "Ready":
            return Verdict(each["status"], each["reason"], each["message"])
    return Verdict("Unknown", PENDING, "the workers have not answered yet")


def _condition(kind: str, status: str, reason: str, message: str) -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": str(reason), "message": message}


def _flag(kind: str, holds: bool, reason: str, message: str) -> dict[str, Any]:
    if holds:
        return _condition(kind, "True", reason, message)
    return _condition(kind, "False", f"Not{kind}", "")


def _stamped(
    condition: dict[str, Any], before: Mapping[str, Any] | None, observed_generation: int, now: str
) -> dict[str, Any]:
    same = before is not None and before["status"] == condition["status"]
    return {
        **condition,
        "observedGeneration": observed_generation,
        "lastTransitionTime": before["lastTransitionTime"] if before is not None and same else now,
    }


def _at_once(status: Mapping[str, Any]) -> object:
    conditions = sorted(
        (each["type"], each["status"], each["reason"], each.get("observedGeneration"))
        for each in status.get("conditions") or ()
    )
    return conditions, *(status.get(name) for name in ("observedGeneration", "bootstrapped", "shards", "selector"))
