"""The operator is away, or told to keep its hands off: the workers go on, and nobody is told that he still looks."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import pytest

from e2e.conftest import MakeWallet
from e2e.customers import Customer
from e2e.deposits import check_books
from e2e.kubectl import eventually
from e2e.operators import NAME, SELECTOR, Operator, restarts
from e2e.wallets import Wallet
from kindcluster.__main__ import OPERATOR_NAMESPACE
from wallet_operator.reconcile import LOOK_SECONDS
from wallet_operator.status import REFRESH_SECONDS

CHECKED_SECONDS_MAX = REFRESH_SECONDS + LOOK_SECONDS + 5.0
"""Age of `Checked` while an operator looks; 5 s for the look itself."""
PATIENCE_SECONDS_MAX = 3 * CHECKED_SECONDS_MAX
GONE_SECONDS_MAX = 60.0


@pytest.fixture(scope="module")
def lasting_wallet(make_lasting_wallet: MakeWallet) -> Wallet:
    return make_lasting_wallet("hands-off")


@pytest.fixture
def wallet(lasting_wallet: Wallet) -> Wallet:
    """A wallet that works, whatever the test before left of it."""
    lasting_wallet.apply()
    lasting_wallet.wait_ready()
    return lasting_wallet


def test_workers_go_on_without_the_operator(wallet: Wallet, operator: Operator) -> None:
    """A deposit is confirmed meanwhile; `Checked` stands still, so that nobody believes the rest of the status.

    The next operator looks again, and touches no pod.
    """
    customer = Customer(wallet)
    pods = workers(wallet)
    with no_operator(operator):
        status = wallet.read()["status"]
        customer.pays()
        check_books(wallet, customer.payments)
        eventually(
            lambda: checked_seconds_ago(wallet),
            lambda seconds: seconds > CHECKED_SECONDS_MAX,
            PATIENCE_SECONDS_MAX,
            "Checked is older than it ever is while an operator looks",
        )
        assert wallet.read()["status"] == status
    eventually(
        lambda: checked_seconds_ago(wallet),
        lambda seconds: seconds <= CHECKED_SECONDS_MAX,
        PATIENCE_SECONDS_MAX,
        "the next operator looks",
    )
    assert wallet.wait_ready()["status"]["block"] > status["block"]
    assert workers(wallet) == pods


def test_a_paused_wallet_works_and_is_not_changed(wallet: Wallet) -> None:
    """Neither an edit of the resource nor somebody's change of a child is dealt with before the pause is over."""
    customer = Customer(wallet)
    pods = workers(wallet)
    wallet.patch({"paused": True})
    try:
        wallet.wait_for("True", "SpecPaused", GONE_SECONDS_MAX, kind="Paused")
        wallet.patch({"sync": {"shards": 2}})
        change_budget(wallet, 2)
        changed_at = time.time()
        customer.pays()
        check_books(wallet, customer.payments)
        eventually(
            lambda: checked_seconds_ago(wallet),
            lambda seconds: time.time() - seconds > changed_at + LOOK_SECONDS,
            PATIENCE_SECONDS_MAX,
            "the operator has looked since",
        )
        assert workers(wallet) == pods
        assert budget(wallet) == 2
        assert wallet.condition("Paused")["status"] == "True"
    finally:
        wallet.patch({"paused": False})
    wallet.wait_ready()
    assert len(wallet.pods("sync")) == 2
    assert workers(wallet).items() > pods.items()
    eventually(lambda: budget(wallet), lambda found: found == 1, GONE_SECONDS_MAX, "the budget is as it should be")
    wallet.patch({"sync": {"shards": 1}})
    wallet.wait_ready()


@contextmanager
def no_operator(operator: Operator) -> Iterator[None]:
    """None runs meanwhile; afterwards one leads."""

    def scale(replicas: int) -> None:
        operator.kubectl("-n", OPERATOR_NAMESPACE, "scale", f"deployment/{NAME}", f"--replicas={replicas}")

    scale(0)
    try:
        eventually(
            lambda: operator.kubectl.list(OPERATOR_NAMESPACE, "pods", SELECTOR),
            lambda pods: pods == [],
            GONE_SECONDS_MAX,
            "the operator is gone",
        )
        yield
    finally:
        scale(1)
        operator.leader()


def workers(wallet: Wallet) -> dict[str, int]:
    """Every worker's pod by its uid, and how often it was started again."""
    return {pod["metadata"]["uid"]: restarts(pod) for role in ("command", "sync") for pod in wallet.pods(role)}


def checked_seconds_ago(wallet: Wallet) -> float:
    """How old the status is, by its own word."""
    return time.time() - datetime.fromisoformat(wallet.read()["status"]["checkedAt"]).timestamp()


def change_budget(wallet: Wallet, unavailable: int) -> None:
    """As somebody might, by hand."""
    patch = f'{{"spec":{{"maxUnavailable":{unavailable}}}}}'
    wallet.kubectl("-n", wallet.namespace, "patch", f"pdb/{wallet.name}-command", "--type=merge", "-p", patch)


def budget(wallet: Wallet) -> int:
    """How many command workers may be away at once."""
    found = wallet.kubectl.get(wallet.namespace, f"pdb/{wallet.name}-command")
    unavailable: int = found["spec"]["maxUnavailable"]
    return unavailable
