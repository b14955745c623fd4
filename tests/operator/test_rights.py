"""Rights are checked at the start, and what is missing is named."""

from __future__ import annotations

from fake_kubernetes import FakeKubernetes
from wallet_operator.config import Config
from wallet_operator.rights import Right, missing_rights, needed_rights

EVERYWHERE = Config("workers:1", "operator-0", "system", lease_name="lease")
RESTRICTED = Config("workers:1", "operator-0", "system", namespaces=("one", "two"), lease_name="lease")


async def test_a_missing_right_is_named_with_its_place() -> None:
    """Whoever installs the chart can add exactly that."""
    server = FakeKubernetes()
    server.denied = {("patch", "walletmanagers/status"), ("watch", "jobs"), ("update", "leases")}
    async with server.serving() as api:
        missing = await missing_rights(api, needed_rights(RESTRICTED))
        assert sorted(map(str, missing)) == [
            "patch walletmanagers/status.wallet-manager.dev in namespace one",
            "patch walletmanagers/status.wallet-manager.dev in namespace two",
            "update leases.coordination.k8s.io lease in namespace system",
            "watch jobs.batch in namespace one",
            "watch jobs.batch in namespace two",
        ]
        server.denied = set()
        assert await missing_rights(api, needed_rights(EVERYWHERE)) == []


def test_nothing_is_asked_for_that_could_do_harm() -> None:
    """Nothing on Secrets, definitions or namespaces; the spec of a wallet is never written; no wildcard."""
    rights = needed_rights(EVERYWHERE)
    assert len(rights) == len(set(rights))
    assert {right.resource for right in rights} == {
        "walletmanagers",
        "walletmanagers/status",
        "deployments",
        "jobs",
        "poddisruptionbudgets",
        "networkpolicies",
        "pods",
        "events",
        "leases",
    }
    wallets = {right.verb for right in rights if right.resource == "walletmanagers"}
    assert wallets == {"get", "list", "watch"}
    assert {right.verb for right in rights if right.resource == "pods"} == {"list"}


def test_the_lease_is_the_operators_own() -> None:
    """In its namespace and by its name; only a right to create cannot be tied to a name."""
    leases = {right for right in needed_rights(RESTRICTED) if right.resource == "leases"}
    group = "coordination.k8s.io"
    assert leases == {
        Right(group, "leases", "create", "system"),
        Right(group, "leases", "get", "system", "lease"),
        Right(group, "leases", "update", "system", "lease"),
    }
