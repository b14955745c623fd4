"""The chart's release under wallets that work: changed, tested, removed and installed again."""

import time

import pytest

from e2e.conftest import MakeWallet
from e2e.kubectl import Document, Kubectl, eventually
from e2e.operators import counted
from e2e.release import HelmFailed, Release
from e2e.wallets import Wallet
from kindcluster.__main__ import OPERATOR_NAMESPACE
from wallet_operator.kinds import CHILD_KINDS, WALLET_LABEL, WALLETS

RESYNC_SECONDS = 5
SOON_SECONDS_MAX = 30.0
DEFINITION = f"customresourcedefinition/{WALLETS.plural}.{WALLETS.group}"
ANOTHER_KEY = "00" * 19 + "01"
"""A fingerprint that no key of the tests has."""


def test_a_changed_value_is_in_force_and_a_halted_wallet_is_in_nobodys_way(
    kubectl: Kubectl, release: Release, make_wallet: MakeWallet
) -> None:
    """`helm upgrade --wait` waits for the operator alone; it says that one wallet halted, and looks after the other."""
    halted, healthy = make_wallet("chart-halted"), make_wallet("chart-healthy")
    halted.apply({"accounts": {"fingerprint": ANOTHER_KEY}})
    healthy.apply()
    healthy.wait_ready()
    halted.wait_for("False", "Halted", SOON_SECONDS_MAX)
    pods = uids(healthy) | uids(halted)

    environment = [{"name": "WALLET_OPERATOR_RESYNC_SECONDS", "value": str(RESYNC_SECONDS)}]
    release.upgrade({"extraEnv": environment, "resources": {"requests": {"cpu": "60m"}}})

    pod = release.operator.leader()
    [container] = pod["spec"]["containers"]
    assert container["resources"]["requests"] == {"cpu": "60m", "memory": "128Mi"}
    before = resynced_at(release, pod)
    eventually(
        lambda: resynced_at(release, pod),
        lambda at: before < at < before + 2 * RESYNC_SECONDS,
        3 * RESYNC_SECONDS,
        "it resyncs as often as it was told to",
    )
    kubectl("-n", healthy.namespace, "delete", "poddisruptionbudget", "wallet-command")
    eventually(
        lambda: kubectl.exists(healthy.namespace, "poddisruptionbudget/wallet-command"),
        bool,
        SOON_SECONDS_MAX,
        "what somebody deleted is there again",
    )
    healthy.wait_ready()
    assert halted.condition()["reason"] == "Halted"
    assert halted.condition("Stalled")["status"] == "True"
    assert uids(healthy) | uids(halted) == pods, "no worker was touched"
    look_like_the_readme(kubectl, halted, healthy)


def resynced_at(release: Release, operator: Document) -> float:
    return counted(release.operator.metrics(operator), "wallet_operator_resynced_timestamp_seconds")


def look_like_the_readme(kubectl: Kubectl, halted: Wallet, healthy: Wallet) -> None:
    """What a person sees: README shows the same columns."""
    header, *rows = kubectl("get", "wm", "--all-namespaces").splitlines()
    assert header.split() == ["NAMESPACE", "NAME", "SHARDS", "READY", "BLOCK", "LAG", "REASON", "AGE"]
    cells = {row.split()[0]: row.split() for row in rows}
    _, name, shards, ready, block, lag, reason, _ = cells[healthy.namespace]
    assert (name, shards, ready, reason) == ("wallet", "1", "True", "Working")
    assert int(block) > 0
    assert int(lag) <= 10
    assert {"False", "Halted"} <= set(cells[halted.namespace])
    wide = kubectl("-n", healthy.namespace, "get", "walletmanager", "-o", "wide")
    assert wide.splitlines()[0].split() == ["NAME", *header.split()[2:], "CHECKED"]
    described = kubectl("-n", halted.namespace, "describe", "wm", "wallet")
    assert "KeyMismatch" in described
    events = described.partition("\nEvents:")[2]
    assert "Halted" in events, "and when it happened"


def test_helm_test_says_whether_the_operator_works(kubectl: Kubectl, release: Release) -> None:
    """It passes after an installation, and says what is missing where somebody took the operator's rights."""
    release.upgrade()
    assert "Succeeded" in release.test()
    pod = release.operator.leader()["metadata"]
    kubectl("delete", "clusterrolebinding", "wallet-manager")
    kubectl("-n", OPERATOR_NAMESPACE, "delete", "pod", pod["name"], "--wait")
    try:
        with pytest.raises(
            HelmFailed, match=r"the right to list walletmanagers\.wallet-manager\.dev in all namespaces"
        ):
            release.test()
    finally:
        release.upgrade()


def test_an_uninstall_leaves_the_wallets_at_work_and_a_new_release_takes_them_over(
    kubectl: Kubectl, release: Release, make_wallet: MakeWallet
) -> None:
    """Resources, their definition and the workers stay; nothing has a finalizer, so all can go without an operator."""
    wallet = make_wallet("chart-uninstall")
    release.upgrade()
    wallet.apply()
    wallet.wait_ready()
    address = wallet.create_accounts("customer-1")["customer-1"]
    pods = uids(wallet)

    release.uninstall()
    eventually(release.operator.pods, lambda pods: pods == [], SOON_SECONDS_MAX, "the operator is gone")
    assert kubectl.exists(OPERATOR_NAMESPACE, DEFINITION)
    [paid] = wallet.toolbox.pay([(address, 10**18)])
    wallet.wait_confirmed(paid)
    assert uids(wallet) == pods
    assert finalizers(kubectl, wallet) == {}

    installed_at = time.time()
    release.upgrade()
    eventually(
        lambda: wallet.wait_ready()["status"]["checkedAt"],
        lambda checked_at: checked_at >= time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(installed_at)),
        SOON_SECONDS_MAX + 30,  # numbers are written every half minute
        "the new operator looks after it",
    )
    assert uids(wallet) == pods, "no pod was rolled"
    definition = kubectl.get(OPERATOR_NAMESPACE, DEFINITION)["metadata"]
    assert definition["annotations"]["meta.helm.sh/release-name"] == "wallet-manager"

    release.uninstall()
    kubectl("-n", wallet.namespace, "delete", "wm/wallet", "--wait", "--timeout=10s")
    eventually(
        lambda: kubectl("-n", wallet.namespace, "get", KINDS, "-l", WALLET_LABEL, "-o", "name").split(),
        lambda left: left == [],
        SOON_SECONDS_MAX,
        "what the wallet was made of goes with it",
    )


KINDS = ",".join(f"{kind.plural}.{kind.group}" for kind in CHILD_KINDS)


def uids(wallet: Wallet) -> set[tuple[str, int]]:
    """The wallet's workers, and how often each has begun anew."""
    pods = [pod for role in ("command", "sync") for pod in wallet.pods(role)]
    assert len(pods) == 2
    return {(pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["restartCount"]) for pod in pods}


def finalizers(kubectl: Kubectl, wallet: Wallet) -> dict[str, list[str]]:
    """Those of the resource, and of all that was made from it, by name."""
    found: list[Document] = [wallet.read(), *kubectl.list(wallet.namespace, f"{KINDS},pods", WALLET_LABEL)]
    assert {each["kind"] for each in found} == {
        "WalletManager", "Job", "Deployment", "PodDisruptionBudget", "Pod",
    }  # fmt: skip
    return {
        f"{each['kind']} {each['metadata']['name']}": each["metadata"]["finalizers"]
        for each in found
        if each["metadata"].get("finalizers")
    }
