"""The operator against a real API server: what it makes of a resource, keeps so, and leaves alone."""

import time
from dataclasses import dataclass
from typing import Any

import pytest

from e2e.audit import requests
from e2e.conftest import MakeWallet
from e2e.kubectl import Document, Kubectl, KubectlFailed, eventually
from e2e.nodes import Node
from e2e.operators import Operator, counted
from e2e.wallets import READY_SECONDS_MAX, Wallet
from field_cases import FIELDS
from resources import USDT
from wallet_core.settings import Role
from wallet_operator.kinds import (
    CHILD_KINDS,
    DEPLOYMENT,
    DISRUPTION_BUDGET,
    JOB,
    WALLET_LABEL,
    WALLETS,
    annotation,
)

SOON_SECONDS_MAX = 15.0
"""Until a change has been carried out."""
GONE_SECONDS_MAX = 60.0
RESYNC_SECONDS = 60.0
LOOKS_A_MINUTE_MAX = 10
REQUESTS_A_MINUTE_MAX = 100
CHILDREN = ",".join(f"{kind.plural}.{kind.group}" for kind in CHILD_KINDS)
NEVER_CHANGED = {"chain.id", "chain.startBlock", "kafka.topicPrefix", "kafka.partitions", "accounts.fingerprint"}
VALUES: dict[str, Any] = {
    "pod.nodeSelector": {"no": "node"},  # first: nothing that follows starts a pod
    "chain.rpc": FIELDS["chain.rpc"][0],
    "chain.quorum": 2,  # of these two endpoints
    "chain.verify": True,
    "chain.confirmation.depth": 13,  # as long as there is one
    "chain.confirmation": {"tag": "finalized", "depth": None},
    "kafka.createTopics": False,
    "accounts.suspend": True,
    "assets": [{"type": "native", "symbol": "ETH"}, USDT],
    "image": "wallet-manager/workers:another",
    "pod.tolerations": [{"key": "a", "operator": "Exists"}],
    "pod.affinity": {
        "nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 1, "preference": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}
            ]
        }
    },
    "paused": True,
}
"""What is another value than that of `Wallet.document` where the table's is not, and what comes first."""


@pytest.fixture(scope="module")
def wallet(make_lasting_wallet: MakeWallet) -> Wallet:
    """A wallet that works; every test here leaves it so."""
    wallet = make_lasting_wallet("kept")
    wallet.apply()
    wallet.wait_ready()
    return wallet


@dataclass(frozen=True)
class Made:
    """What was made of a resource."""

    templates: dict[Role, object]
    replicas: dict[Role, int]
    job: str
    generation: str


def made(wallet: Wallet) -> Made | None:
    """None while it is not all of one generation."""
    kinds = f"{DEPLOYMENT.plural},{JOB.plural}"
    found = wallet.kubectl.list(wallet.namespace, kinds, f"{WALLET_LABEL}={wallet.name}")
    jobs = [each["metadata"]["name"] for each in found if each["kind"] == JOB.kind]
    deployments = {role: each for role in Role for each in found if each["metadata"]["name"] == f"wallet-{role}"}
    generations = {annotation(each, "applied-generation") for each in deployments.values()}
    if len(jobs) != 1 or len(generations) != 1 or deployments.keys() != {Role.COMMAND, Role.SYNC}:
        return None
    return Made(
        templates={role: each["spec"]["template"] for role, each in deployments.items()},
        replicas={role: each["spec"]["replicas"] for role, each in deployments.items()},
        job=jobs[0],
        generation=generations.pop() or "",
    )


def wait_made(wallet: Wallet, seconds: float = SOON_SECONDS_MAX) -> Made:
    """What was made of the resource as it is now."""
    generation = str(wallet.read()["metadata"]["generation"])
    found = eventually(
        lambda: made(wallet),
        lambda found: found is not None and found.generation == generation,
        seconds,
        f"generation {generation} is carried out",
    )
    assert found is not None
    return found


def rolled(before: Made, after: Made) -> set[Role]:
    """The roles whose pods are other ones."""
    deployed = {role for role in before.templates if before.templates[role] != after.templates[role]}
    return deployed | ({Role.BOOTSTRAP} if before.job != after.job else set())


def patch_of(path: str, value: object) -> dict[str, Any]:
    """A merge patch that sets one field."""
    for step in reversed(path.split(".")):
        value = {step: value}
    assert isinstance(value, dict)
    return value


@pytest.mark.usefixtures("wallet")  # first: keys are handed out in order, and topics remember theirs
def test_each_field_changes_the_pods_that_it_concerns_and_no_others(make_lasting_wallet: MakeWallet) -> None:
    """As the golden table has it; a scale, a pause or another role's resources roll no pod, and a pause holds all."""
    wallet = make_lasting_wallet("fields")
    wallet.apply()
    before = wait_made(wallet, READY_SECONDS_MAX)
    paths = [*VALUES, *(path for path in FIELDS if path not in VALUES and path not in NEVER_CHANGED)]
    paths.remove("paused")
    wrong = {}
    for path in paths:
        wallet.patch(patch_of(path, VALUES.get(path, FIELDS[path][0])))
        after = wait_made(wallet)
        if (found := rolled(before, after)) != FIELDS[path][1]:
            wrong[path] = found
        before = after
    assert not wrong
    assert (before.replicas[Role.COMMAND], before.replicas[Role.SYNC]) == (0, 3), "suspended, and scaled"

    wallet.patch({"paused": True})
    generation = wallet.read()["metadata"]["generation"]
    wallet.patch({"pod": {"annotations": {"b": "c"}}})
    paused = eventually(
        lambda: wallet.condition("Paused"),
        lambda each: each.get("status") == "True" and each["observedGeneration"] > generation,
        SOON_SECONDS_MAX,
        "the operator has seen a change of a paused wallet",
    )
    assert paused["reason"] == "SpecPaused"
    held = made(wallet)
    assert held is not None
    assert not rolled(before, held), "nothing is applied meanwhile"
    wallet.patch({"paused": False})
    assert rolled(before, wait_made(wallet)) == FIELDS["pod.annotations"][1], "the change comes after all"
    wallet.kubectl("-n", wallet.namespace, "delete", f"wm/{wallet.name}")


def test_what_somebody_changed_is_mended_counted_and_told(wallet: Wallet, operator: Operator, kubectl: Kubectl) -> None:
    """Who edits or deletes what was made of a wallet finds it again as it was, and the reason in `kubectl describe`."""
    pod, before = operator.leader(), made(wallet)
    assert before is not None
    pods = {each["metadata"]["uid"] for role in ("command", "sync") for each in wallet.pods(role)}
    sync, command = f"deployment/{wallet.name}-sync", f"deployment/{wallet.name}-command"
    budget = f"poddisruptionbudget/{wallet.name}-command"

    def spec_of(what: str) -> Document:
        spec: Document = kubectl.get(wallet.namespace, what)["spec"]
        return spec

    def drifts(kind: str) -> float:
        return counted(operator.metrics(pod), "wallet_operator_drift_total", kind=kind)

    changes = (
        (sync, ("set", "image", sync, "worker=wallet-manager/workers:foreign")),
        (command, ("set", "env", command, "WALLET_HTTP_ADDRESS=0.0.0.0:1")),
        (command, ("set", "env", command, "WALLET_SECRETS_DIR-")),
        (sync, ("scale", sync, "--replicas=3")),
        (budget, ("patch", budget, "--type=merge", "-p", '{"spec": {"maxUnavailable": 0}}')),
    )
    for what, change in changes:
        kind = DEPLOYMENT.kind if what != budget else DISRUPTION_BUDGET.kind
        spec, count = spec_of(what), drifts(kind)
        kubectl("-n", wallet.namespace, *change)
        eventually(lambda: drifts(kind), lambda now: now == count + 1, SOON_SECONDS_MAX, f"{change[1:]} is counted")  # noqa: B023 - called at once
        assert spec_of(what) == spec
    told = kubectl.list(wallet.namespace, "events")
    messages = {each["message"] for each in told if each["reason"] == "Drift"}
    for name in ("Deployment wallet-sync", "Deployment wallet-command", "PodDisruptionBudget wallet-command"):
        assert any(name in message for message in messages), messages
    wallet.wait_ready()

    kubectl("-n", wallet.namespace, "delete", command, budget, f"job/{before.job}")
    after = wait_made(wallet)
    assert not rolled(before, after)
    eventually(lambda: kubectl.exists(wallet.namespace, budget), bool, SOON_SECONDS_MAX, "the budget is there again")
    wallet.wait_ready()
    [leader] = wallet.pods("sync")
    assert leader["metadata"]["uid"] in pods, "who was not touched went on"


def test_a_deleted_wallet_leaves_nothing_behind_and_takes_nothing_from_others_when_it_is_made_again(
    wallet: Wallet, kubectl: Kubectl
) -> None:
    """Garbage collection takes its objects, no finalizer holds anything up, and Kafka remembers all.

    Somebody's object that has the name of one of them by then is named and left alone; when it is gone, the wallet
    becomes Ready by itself, and goes on where it was.
    """
    address = wallet.create_accounts("customer")["customer"]
    selector = f"{WALLET_LABEL}={wallet.name}"
    objects = [wallet.read(), *kubectl.list(wallet.namespace, CHILDREN, selector)]
    assert len(objects) == 5, "the resource, a Job, two Deployments and a budget"
    assert not [each for each in objects if each["metadata"].get("finalizers")]
    block = objects[0]["status"]["block"]

    kubectl("-n", wallet.namespace, "delete", f"wm/{wallet.name}")
    eventually(
        lambda: kubectl.list(wallet.namespace, f"{CHILDREN},replicasets,pods", selector),
        lambda found: not found,
        GONE_SECONDS_MAX,
        "nothing is left of it",
    )

    taken = f"deployment/{wallet.name}-sync"
    kubectl.apply(foreign_deployment(wallet.namespace, f"{wallet.name}-sync"))
    before = eventually(
        lambda: kubectl.get(wallet.namespace, taken),
        lambda each: each.get("status", {}).get("observedGeneration") == 1,
        SOON_SECONDS_MAX,
        "its controller has nothing to do any more",
    )
    wallet.apply()
    condition = wallet.wait_for("False", "NameTaken", READY_SECONDS_MAX)
    assert f"Deployment {wallet.name}-sync" in condition["message"]
    assert "rename or delete it" in condition["message"]
    assert kubectl.exists(wallet.namespace, f"deployment/{wallet.name}-command"), "all else is made"
    assert kubectl.get(wallet.namespace, taken) == before

    kubectl("-n", wallet.namespace, "delete", taken)
    assert wallet.wait_ready()["status"]["block"] >= block
    assert wallet.accounts()["customer"] == address
    [payment] = wallet.toolbox.pay([(address, 7)])
    events = [each for each in wallet.wait_confirmed(payment) if each["txid"] == payment]
    assert [each["status"] for each in events] == ["detected", "confirmed"]


def foreign_deployment(namespace: str, name: str) -> Document:
    """Somebody's own, of no pods."""
    labels = {"app": "somebody-elses"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "theirs"}]}}
    return {
        "apiVersion": DEPLOYMENT.api_version,
        "kind": DEPLOYMENT.kind,
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": pod},
    }


def test_a_quiet_wallet_is_left_in_peace(wallet: Wallet, operator: Operator, node: Node, kubectl: Kubectl) -> None:
    """Status writes and answers of the operator's own cause no work: fewer than 10 looks a minute, and few requests."""
    wallet.wait_ready()
    wallet.wait_for("False", "NotReconciling", READY_SECONDS_MAX, kind="Reconciling")
    pod = operator.leader()
    begin, before = time.time(), operator.metrics(pod)
    words = ("wait", f"wm/{wallet.name}", "--for=condition=Ready=False", f"--timeout={RESYNC_SECONDS:g}s")
    with pytest.raises(KubectlFailed, match="timed out"):  # a minute long it stays Ready
        kubectl("-n", wallet.namespace, *words)
    end, after = time.time(), operator.metrics(pod)
    assert end - begin >= RESYNC_SECONDS, "so all that happens by itself has happened"
    looks = counted(after, "wallet_operator_reconciles_total") - counted(before, "wallet_operator_reconciles_total")
    assert 0 < looks < LOOKS_A_MINUTE_MAX * counted(after, "wallet_operator_wallets"), "by its own count"
    resynced = "wallet_operator_resynced_timestamp_seconds"
    assert counted(after, resynced) > counted(before, resynced)
    asked = requests(node, begin, end)
    mine = [each for each in asked if each.namespace == wallet.namespace]
    assert 0 < sum(each.verb == "get" for each in mine) < LOOKS_A_MINUTE_MAX, "each look begins by reading the resource"
    assert len(mine) < REQUESTS_A_MINUTE_MAX
    changed = [each.resource for each in mine if each.is_write]
    assert changed.count(f"{WALLETS.plural}/status") <= 3, "numbers, every 30 s"
    assert all(changed.count(kind.plural) <= 2 for kind in CHILD_KINDS), "all objects, once a resync"
