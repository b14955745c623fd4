"""Kafka, Redis and the node go away and come back, under one wallet.

It says within a minute what is missing and what to do, lives on, and works again by itself; each deposit is told once.
"""

import pytest

from e2e.conftest import MakeWallet
from e2e.customers import Customer
from e2e.deposits import check_books
from e2e.kubectl import Document, Kubectl
from e2e.nodes import Node
from e2e.services import CHANGE_SECONDS_MAX, Service, chain_standing_still
from e2e.wallets import Wallet
from wallet_core.settings import Role
from wallet_operator.kinds import WALLET_LABEL

TOLD_SECONDS_MAX = 60.0
STALE_AFTER_SECONDS = 15


@pytest.fixture(scope="module")
def wallet(make_lasting_wallet: MakeWallet) -> Wallet:
    """A wallet that works; every test here leaves it so."""
    wallet = make_lasting_wallet("outages")
    wallet.apply({"chain": {"staleAfterSeconds": STALE_AFTER_SECONDS}})
    wallet.wait_ready()
    return wallet


@pytest.mark.parametrize(
    ("name", "reason", "remedy"),
    [
        ("kafka", "KafkaUnreachable", "check that Kafka runs and spec.kafka.bootstrapServers"),
        ("redis", "RedisUnreachable", "check that Redis runs and spec.redis"),
    ],
    ids=["kafka", "redis"],
)
def test_kafka_or_redis_away(name: str, reason: str, remedy: str, wallet: Wallet, kubectl: Kubectl) -> None:
    """Deposits made before, meanwhile and right after are told once; what Kafka had said is still there."""
    customer = Customer(wallet)
    customer.pays()
    said = check_books(wallet, customer.payments)
    lives = lives_of(wallet)
    with Service(kubectl, name).stopped():
        condition = wallet.wait_for("False", reason, TOLD_SECONDS_MAX)
        assert remedy in condition["message"]
        customer.pays()
    customer.pays()
    wallet.wait_ready()
    assert check_books(wallet, customer.payments)[: len(said)] == said
    check_lives(wallet, lives, may_end=Role.COMMAND if name == "kafka" else None)


def test_the_node_away_holds_up_no_drain(wallet: Wallet, kubectl: Kubectl, node: Node) -> None:
    """Without a node the wallet is not Ready but its pods are: they can be drained, and their successors are, too.

    The chain that a new pod of the node serves is the same as before.
    """
    customer = Customer(wallet)
    customer.pays()
    check_books(wallet, customer.payments)
    head_before = wallet.toolbox.rpc(("eth_getBlockByNumber", "latest", False))[0]
    lives = lives_of(wallet)
    with Service(kubectl, "ganache").stopped():
        condition = wallet.wait_for("False", "RpcUnreachable", TOLD_SECONDS_MAX)
        assert "check that the node runs and spec.chain.rpc" in condition["message"]
        check_lives(wallet, lives)
        drain(kubectl, node.container, f"{WALLET_LABEL}={wallet.name}")
        for role in (Role.COMMAND, Role.SYNC):
            limit = f"--timeout={CHANGE_SECONDS_MAX:g}s"
            kubectl("-n", wallet.namespace, "rollout", "status", f"deployment/{wallet.name}-{role}", limit)
        assert not lives_of(wallet).keys() & lives.keys()
        assert wallet.condition()["status"] != "True"
    customer.pays()
    wallet.wait_ready()
    check_books(wallet, customer.payments)
    assert wallet.toolbox.rpc(("eth_getBlockByNumber", head_before["number"], False))[0] == head_before


def test_a_chain_that_stands_still(wallet: Wallet) -> None:
    """A node that answers and gets no new blocks is told by the age of its newest one; nothing halts."""
    customer = Customer(wallet)
    customer.pays()
    check_books(wallet, customer.payments)
    lives = lives_of(wallet)
    with chain_standing_still(wallet.toolbox):
        condition = wallet.wait_for("False", "TipStale", STALE_AFTER_SECONDS + TOLD_SECONDS_MAX)
        assert "check that the node is in sync" in condition["message"]
        assert wallet.condition("Stalled")["status"] == "False"
        customer.pays()
    wallet.wait_ready()
    check_books(wallet, customer.payments)
    check_lives(wallet, lives)


def lives_of(wallet: Wallet) -> dict[str, int]:
    """How often each worker was started again, by the name of its pod."""
    pods = [pod for role in (Role.COMMAND, Role.SYNC) for pod in wallet.pods(role)]
    assert pods
    return {pod["metadata"]["name"]: container_of(pod)["restartCount"] for pod in pods}


def check_lives(wallet: Wallet, before: dict[str, int], may_end: Role | None = None) -> None:
    """No worker was killed. One whose role may end by itself, with exit code 1, was started again in its pod."""
    after = lives_of(wallet)
    assert after.keys() == before.keys()
    for role in (Role.COMMAND, Role.SYNC):
        for pod in wallet.pods(role):
            name = pod["metadata"]["name"]
            if role is not may_end:
                assert after[name] == before[name], container_of(pod)
            elif after[name] > before[name]:
                assert container_of(pod)["lastState"]["terminated"]["exitCode"] == 1
    events = wallet.kubectl.list(wallet.namespace, "events")
    assert not [event["message"] for event in events if "Liveness probe" in event["message"]]


def container_of(pod: Document) -> Document:
    [container] = pod["status"]["containerStatuses"]
    found: Document = container
    return found


def drain(kubectl: Kubectl, node: str, selector: str) -> None:
    """Evict these pods from the node, as an administrator does; then let new ones come."""
    limit = f"--timeout={CHANGE_SECONDS_MAX:g}s"
    try:
        kubectl("drain", node, f"--pod-selector={selector}", "--delete-emptydir-data", limit)
    finally:
        kubectl("uncordon", node)
