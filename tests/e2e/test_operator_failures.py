"""The API server goes away, the leader of two operators dies, a right is missing: operators recover, workers go on.

A watch goes on from where it was cut. Where the server does not know that place any more it answers 410 Gone, and
whoever watches has to list anew. Only then is what vanished meanwhile forgotten, for nobody tells of it.
"""

import itertools
import json
import time
from collections.abc import Callable, Iterator

import pytest

from e2e.audit import requests
from e2e.conftest import MakeWallet
from e2e.control_plane import ControlPlane
from e2e.kubectl import Document, Kubectl, KubectlFailed, eventually
from e2e.nodes import Node
from e2e.operators import (
    NAME,
    START_SECONDS_MAX,
    TAKE_OVER_SECONDS_MAX,
    Operator,
    counted,
    name_of,
    restarts,
)
from e2e.release import Release
from e2e.wallets import Wallet
from kindcluster.__main__ import OPERATOR_NAMESPACE
from wallet_operator.kinds import WALLETS
from wallet_operator.leader import RENEW_DEADLINE_SECONDS
from wallet_operator.network import STATUS_PORT

NOTICED_SECONDS_MAX = 5.0
"""By a watch: far below the 60 s of a resync, and below the 10 s of a look."""
FORGOTTEN_SECONDS_MAX = 30.0
KOPF = "kopf/"
"""How the watches' client calls itself."""
EXIT_LEASE_LOST = 1


@pytest.fixture(scope="module")
def control_plane(node: Node) -> ControlPlane:
    return ControlPlane(node)


@pytest.fixture(scope="module")
def wallet(make_lasting_wallet: MakeWallet) -> Wallet:
    """A wallet that works; every test here leaves it so."""
    wallet = make_lasting_wallet("lasting")
    wallet.apply()
    wallet.wait_ready()
    return wallet


def workers(wallet: Wallet) -> dict[str, int]:
    """Every worker's pod by its uid, and how often it was started again."""
    return {pod["metadata"]["uid"]: restarts(pod) for role in ("command", "sync") for pod in wallet.pods(role)}


def done_again(kubectl: Kubectl, *words: str) -> None:
    """kubectl, until it succeeds: a server that starts refuses what it does not know yet."""

    def attempt() -> bool:
        kubectl(*words)
        return True

    eventually(attempt, bool, START_SECONDS_MAX, f"kubectl {words[0]}")


def touch(wallet: Wallet) -> None:
    """Change the resource, but nothing that is made of it: no child's event follows."""
    done_again(wallet.kubectl, "-n", wallet.namespace, "label", f"wm/{wallet.name}", f"touched=at-{time.time_ns()}",
               "--overwrite")  # fmt: skip


def reconciles(operator: Operator, pod: Document) -> float:
    """How often all of a wallet was applied; a look every 10 s is less than that."""
    return counted(operator.metrics(pod), "wallet_operator_reconciles_total", ask="reconcile")


def check_noticed_by_the_watch(operator: Operator, pod: Document, wallet: Wallet) -> None:
    """A change is reconciled soon, and no resync was the cause."""

    def resynced() -> float:
        return counted(operator.metrics(pod), "wallet_operator_resynced_timestamp_seconds")

    def noticed() -> bool:
        last, before = resynced(), reconciles(operator, pod)
        touch(wallet)
        eventually(
            lambda: reconciles(operator, pod), lambda now: now > before, NOTICED_SECONDS_MAX, "a change is noticed"
        )
        return resynced() == last

    assert noticed() or noticed(), "a resync is not due twice in so short a time"


def renewed(operator: Operator) -> Callable[[], str]:
    """When the Lease was renewed last."""
    lease = f"lease/{NAME}"
    return lambda: str(operator.kubectl.get(OPERATOR_NAMESPACE, lease)["spec"]["renewTime"])


def test_a_watch_that_is_gone_is_begun_anew(
    operator: Operator,
    control_plane: ControlPlane,
    node: Node,
    kubectl: Kubectl,
    wallet: Wallet,
    make_lasting_wallet: MakeWallet,
) -> None:
    """One API server takes over from another, and etcd has forgotten: 410. Nothing is missed, nobody stops."""
    paused = make_lasting_wallet("paused")
    paused.apply({"paused": True})
    pod, before = operator.leader(), workers(wallet)
    eventually(
        lambda: operator.metrics(pod),
        lambda metrics: 'namespace="paused"' in metrics,
        FORGOTTEN_SECONDS_MAX,
        "both wallets are known",
    )
    with control_plane.doubled():
        control_plane.compact()
        last = renewed(operator)()
        eventually(renewed(operator), lambda at: at != last, RENEW_DEADLINE_SECONDS, "the Lease is renewed")
        at, count = time.time(), reconciles(operator, pod)
        with operator.frozen(pod):  # for less than its Lease lasts: it does not see what happens meanwhile
            control_plane.kill_first()
            done_again(kubectl, "-n", paused.namespace, "delete", f"wm/{paused.name}", "--ignore-not-found")
            touch(wallet)
            touched_at = time.time()
        eventually(
            lambda: reconciles(operator, pod), lambda now: now > count, NOTICED_SECONDS_MAX, "the change is found"
        )
        metrics = eventually(
            lambda: operator.metrics(pod),
            lambda metrics: bool(metrics) and 'namespace="paused"' not in metrics,
            FORGOTTEN_SECONDS_MAX,
            "a wallet that was deleted unseen is forgotten",
        )
        assert counted(metrics, "wallet_ready", namespace=wallet.namespace) == 1
        check_noticed_by_the_watch(operator, pod, wallet)

        asked = [  # but those that were told to come back when the new server has read the storage
            each
            for each in requests(node, at)
            if each.agent.startswith(KOPF) and each.resource == WALLETS.plural and each.code == 200
        ]
        assert [each.verb for each in asked[:3]] == ["watch", "list", "watch"], asked
        assert asked[1].at < touched_at + NOTICED_SECONDS_MAX
        answer = json.loads(kubectl("get", "--raw", asked[0].uri))
        assert (answer["type"], answer["object"]["code"]) == ("ERROR", 410), "the first watch was answered so"
    [still] = operator.pods()
    assert (name_of(still), restarts(still)) == (name_of(pod), restarts(pod))
    assert operator.leads(pod)
    check_noticed_by_the_watch(operator, pod, wallet)
    assert workers(wallet) == before


def test_an_outage_of_the_api_server(
    operator: Operator, control_plane: ControlPlane, node: Node, wallet: Wallet
) -> None:
    """The operator stops leading, lives and waits; workers go on; a change made right after is carried out."""
    wallet.wait_ready()
    [sync] = wallet.pods("sync")
    pod, before = operator.leader(), workers(wallet)

    def block() -> int:
        status, body = node.fetch(f"http://{sync['status']['podIP']}:{STATUS_PORT}/status")
        return int(json.loads(body)["block"]) if status == 200 else -1

    with control_plane.stopped():
        with pytest.raises(KubectlFailed):
            wallet.read()
        at = block()
        eventually(
            lambda: operator.ask(pod, "/ready"),
            lambda answer: answer[0] == 503 and "the API server does not answer" in answer[1],
            START_SECONDS_MAX,
            "the operator says what it waits for",
        )
        assert operator.ask(pod, "/live") == (200, "alive\n"), "starting it again would help nobody"
        assert not operator.leads(pod)
        eventually(block, lambda number: number > at + 1, START_SECONDS_MAX, "the workers go on")
    done_again(wallet.kubectl, "-n", wallet.namespace, "scale", f"wm/{wallet.name}", "--replicas=2")
    eventually(
        lambda: wallet.kubectl.get(wallet.namespace, f"deployment/{wallet.name}-sync")["spec"]["replicas"],
        lambda replicas: replicas == 2,
        START_SECONDS_MAX,
        "a change made right after is carried out",
    )
    assert name_of(operator.leader()) == name_of(pod)
    last = eventually(
        lambda: operator.leader()["status"]["containerStatuses"][0]["lastState"],
        lambda state: "terminated" in state,
        START_SECONDS_MAX,
        "the kubelet has told how the operator ended",
    )
    assert last["terminated"]["exitCode"] == EXIT_LEASE_LOST, "no probe has killed it"
    wallet.wait_ready()
    assert workers(wallet).items() >= before.items()
    wallet.patch({"sync": {"shards": 1}})
    wallet.wait_ready()


@pytest.fixture
def two_operators(release: Release, operator: Operator) -> Iterator[tuple[Document, Document]]:
    """The leader, and one that waits for its turn. Afterwards there is one again."""
    try:
        release.change({"replicas": 2})
        leader = operator.leader()
        [standby] = [pod for pod in operator.pods() if name_of(pod) != name_of(leader)]
        yield leader, standby
    finally:
        release.upgrade()


def test_another_operator_takes_over_from_a_leader_that_hangs_or_dies(
    two_operators: tuple[Document, Document], operator: Operator, node: Node, kubectl: Kubectl, wallet: Wallet
) -> None:
    """Within the Lease's time; never do two of them write; a standby is ready, and shows its metrics."""
    leader, standby = two_operators
    before, begin = workers(wallet), time.time()
    assert operator.ask(standby, "/ready") == (200, "ready\n")
    assert "wallet_operator_leading 0.0" in operator.metrics(standby)
    touch(wallet)

    with operator.frozen(leader):
        wait_leading(operator, standby)
        check_noticed_by_the_watch(operator, standby, wallet)
    eventually(
        lambda: [operator.ask(leader, "/ready")[0], operator.leads(leader), operator.ask(leader, "/live")[0]],
        lambda seen: seen == [200, False, 200],
        START_SECONDS_MAX,
        "who has lost the Lease waits for it",
    )
    eventually(
        lambda: sum(restarts(pod) for pod in operator.pods() if name_of(pod) == name_of(leader)),
        lambda count: count == restarts(leader) + 1,
        START_SECONDS_MAX,
        "it has begun anew",
    )
    assert operator.leads(standby)

    words = ("delete", "pod", name_of(standby), "--force", "--grace-period=0")
    kubectl("-n", OPERATOR_NAMESPACE, *words)
    wait_leading(operator, leader)
    check_noticed_by_the_watch(operator, leader, wallet)

    writers = [each.pod for each in requests(node, begin) if each.is_write and each.namespace == wallet.namespace]
    turns = [name for name, _ in itertools.groupby(writers)]
    assert turns == [name_of(leader), name_of(standby), name_of(leader)]
    assert workers(wallet) == before


def wait_leading(operator: Operator, pod: Document) -> None:
    """Wait until this pod leads, for at most as long as a Lease allows."""
    eventually(lambda: operator.leads(pod), bool, TAKE_OVER_SECONDS_MAX, f"{name_of(pod)} leads")


def test_an_operator_without_a_right_says_which(
    operator: Operator, release: Release, kubectl: Kubectl, wallet: Wallet
) -> None:
    """In its log and at /ready; it waits, and begins by itself when it has the right. Workers go on."""
    before = workers(wallet)
    missing = {
        f"the right to {verb} in namespace {OPERATOR_NAMESPACE}"
        for verb in (
            "create leases.coordination.k8s.io",
            f"get leases.coordination.k8s.io {NAME}",
            f"update leases.coordination.k8s.io {NAME}",
        )
    }
    old = operator.leader()
    kubectl("-n", OPERATOR_NAMESPACE, "delete", f"rolebinding/{NAME}-lease")
    try:
        kubectl("-n", OPERATOR_NAMESPACE, "delete", "pod", name_of(old))
        [pod] = eventually(
            operator.pods,
            lambda pods: [operator.ask(pod, "/ready")[0] for pod in pods] == [503],
            START_SECONDS_MAX,
            "the new operator is not ready",
        )
        eventually(
            lambda: set(operator.ask(pod, "/ready")[1].splitlines()),
            lambda said: said == missing,
            START_SECONDS_MAX,
            "it names all that is missing",
        )
        assert {line["what"] for line in operator.log(pod) if line["event"] == "missing"} == missing
        assert operator.ask(pod, "/live")[0] == 200
    finally:
        release.change()  # `helm upgrade` makes what is missing, and waits until the operator is ready
    now = operator.leader()
    assert (name_of(now), restarts(now)) == (name_of(pod), 0)
    check_noticed_by_the_watch(operator, now, wallet)
    assert workers(wallet) == before
