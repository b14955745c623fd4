"""More, fewer, no and other workers: what a change of the resource does to the pods that it is not about."""

import json
import math
import time
import uuid
from datetime import datetime

import pytest

from e2e.conftest import MakeWallet
from e2e.customers import Customer
from e2e.deposits import check_books, paying
from e2e.kubectl import Document, eventually
from e2e.operators import name_of, restarts
from e2e.wallets import Wallet
from wallet_core.settings import Role
from wallet_operator.manifests import selector_text

SHARDS = 3
GONE_SECONDS_MAX = 60.0
RANKED_SECONDS_MAX = 150.0
OLDER_SECONDS = 20.0
"""Than the others, so that a power of two comes between their ages for long enough."""
SCALED_SECONDS_MAX = 5.0
"""From `kubectl scale` to the moment when Kubernetes chooses which pods go."""


@pytest.fixture(scope="module")
def lasting_wallet(make_lasting_wallet: MakeWallet) -> Wallet:
    return make_lasting_wallet("scaling")


@pytest.fixture
def wallet(lasting_wallet: Wallet) -> Wallet:
    """A wallet that works, whatever the test before left of it."""
    lasting_wallet.apply()
    lasting_wallet.wait_ready()
    return lasting_wallet


def test_scaling_disturbs_neither_deposits_nor_the_leader(wallet: Wallet) -> None:
    """`kubectl scale` to three shards and back: each deposit is reported once, and no pod that stays is touched.

    The leader leads all the time. `/scale` says what an autoscaler has to know.
    """
    run = uuid.uuid4().hex
    accounts = wallet.create_accounts(*(f"{run}-{number}" for number in range(4)))
    leader = eventually(
        wallet.wait_leader,
        lambda pod: seconds_ready(pod) >= OLDER_SECONDS,
        RANKED_SECONDS_MAX,
        "the leader is older than those that will come",
    )
    commanders = uids(wallet.pods("command"))
    heights = [block_number(wallet)]

    with paying(wallet, accounts.values()) as payments:
        scale(wallet, SHARDS)
        assert read_scale(wallet) == (SHARDS, SHARDS, uids(wallet.pods("sync")))
        assert uids([leader]) < uids(wallet.pods("sync"))
        heights.append(block_number(wallet))

        # Kubernetes removes first what was ready last, but compares the powers of two of the ages only.
        eventually(
            lambda: [seconds_ready(pod) for pod in wallet.pods("sync") if uids([pod]) != uids([leader])],
            lambda others: power_of_two(max(others) + SCALED_SECONDS_MAX) < power_of_two(seconds_ready(leader)),
            RANKED_SECONDS_MAX,
            "the leader is the oldest to Kubernetes, too",
        )
        scale(wallet, 1)
        heights.append(block_number(wallet))
        eventually(lambda: selected(wallet), lambda found: len(found) == 1, GONE_SECONDS_MAX, "one pod is left")
        assert read_scale(wallet) == (1, 1, uids([leader]))

    events = check_books(wallet, payments)
    blocks = {int(each["block_number"]) for each in events}
    for since, until in zip(heights, [*heights[1:], max(blocks) + 1], strict=True):
        assert blocks & set(range(since, until)), "no deposit between two steps: nothing was shown"
    assert uids(wallet.leaders()) == uids([leader])
    words = [line["event"] for line in log_of(wallet, leader)]
    assert [words.count(word) for word in ("started", "leading", "not_leading")] == [1, 1, 0]
    assert uids(wallet.pods("command")) == commanders
    assert [restarts(pod) for role in ("sync", "command") for pod in wallet.pods(role)] == [0, 0]


def test_commands_wait_while_command_workers_are_suspended(wallet: Wallet) -> None:
    """`accounts.suspend` stops these only: deposits are reported, the wallet is Ready, commands are answered later."""
    customer = Customer(wallet)
    followers = uids(wallet.pods("sync"))
    wallet.patch({"accounts": {"suspend": True}})
    try:
        eventually(lambda: selected(wallet, "command"), lambda pods: pods == [], GONE_SECONDS_MAX, "no command worker")
        wallet.wait_ready()
        late = [uuid.uuid4().hex for _ in range(3)]
        commands = [{"type": "create_account", "id": each} for each in late]
        wallet.toolbox.send(f"{wallet.topic_prefix}command", commands)
        customer.pays()
        check_books(wallet, customer.payments)
        assert not wallet.accounts().keys() & set(late)
    finally:
        wallet.patch({"accounts": {"suspend": False}})
    wallet.wait_accounts(*late)
    wallet.wait_ready()
    assert uids(wallet.pods("sync")) == followers


@pytest.mark.parametrize(("field", "role", "other"), [("accounts", "command", "sync"), ("sync", "sync", "command")])
def test_resources_of_a_role_roll_its_pods_only(wallet: Wallet, field: str, role: str, other: str) -> None:
    """Each role's pods are replaced for its own resources, and for no other's."""
    before, others = uids(wallet.pods(role)), uids(wallet.pods(other))
    wallet.patch({field: {"resources": {"requests": {"memory": "96Mi"}}}})
    wallet.wait_ready()
    pods = wallet.pods(role)
    assert len(pods) == len(before)
    assert not uids(pods) & before
    assert [pod["spec"]["containers"][0]["resources"]["requests"] for pod in pods] == [{"memory": "96Mi"}]
    assert uids(wallet.pods(other)) == others
    assert [restarts(pod) for pod in wallet.pods(other)] == [0]


def scale(wallet: Wallet, shards: int) -> None:
    """As a person does it; and wait until it is so."""
    wallet.kubectl("-n", wallet.namespace, "scale", f"wm/{wallet.name}", f"--replicas={shards}")
    status = wallet.wait_ready()["status"]
    assert status["shards"] == shards


def read_scale(wallet: Wallet) -> tuple[int, int, set[str]]:
    """`/scale`, as an autoscaler reads it: replicas that are wanted, those there are, and the pods of its selector."""
    path = f"/apis/wallet-manager.dev/v1alpha1/namespaces/{wallet.namespace}/walletmanagers/{wallet.name}/scale"
    found = json.loads(wallet.kubectl("get", "--raw", path))
    pods = wallet.kubectl.list(wallet.namespace, "pods", found["status"]["selector"])
    return found["spec"]["replicas"], found["status"]["replicas"], uids(pods)


def selected(wallet: Wallet, role: str = "sync") -> list[str]:
    """The names of a role's pods, of those on their way out, too."""
    selector = selector_text(wallet.name, Role(role))
    return [name_of(pod) for pod in wallet.kubectl.list(wallet.namespace, "pods", selector)]


def block_number(wallet: Wallet) -> int:
    """The node's newest block."""
    [number] = wallet.toolbox.rpc(("eth_blockNumber",))
    return int(number, 16)


def seconds_ready(pod: Document) -> float:
    """How long ago a pod became ready; 0 where it is not."""
    ready = next((each for each in pod["status"].get("conditions", ()) if each["type"] == "Ready"), {"status": "False"})
    if ready["status"] != "True":
        return 0.0
    return time.time() - datetime.fromisoformat(ready["lastTransitionTime"]).timestamp()


def power_of_two(seconds: float) -> int:
    """Of an age in nanoseconds: how Kubernetes ranks the pods of a ReplicaSet by age (LogarithmicScaleDown)."""
    return int(math.log2(max(1.0, seconds * 1e9)))


def uids(pods: list[Document]) -> set[str]:
    """Which pods they are."""
    return {pod["metadata"]["uid"] for pod in pods}


def log_of(wallet: Wallet, pod: Document) -> list[Document]:
    """Every line that it wrote."""
    lines = wallet.kubectl("-n", wallet.namespace, "logs", name_of(pod)).splitlines()
    return [json.loads(line) for line in lines]
