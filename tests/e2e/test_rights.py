"""The operator's rights: what the chart grants is what the operator uses, by the API server's own account.

Both are asked once for the whole cluster and once restricted to a namespace, while a wallet is made, changed, tampered
with and cleaned up after, with network policies on.
"""

import json
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest

from e2e.audit import Request, requests
from e2e.conftest import MakeWallet
from e2e.kubectl import Document, Kubectl, eventually
from e2e.nodes import Node
from e2e.operators import NAME, name_of
from e2e.release import Release
from e2e.wallets import Wallet
from kindcluster.__main__ import OPERATOR_NAMESPACE
from wallet_core.settings import Role
from wallet_operator.kinds import CHILD_KINDS
from wallet_operator.rights import Right

OWN_REVIEW = Right("authorization.k8s.io", "selfsubjectaccessreviews", "create", "")
"""Everybody may ask what he may do; the chart need not grant it."""
SOON_SECONDS_MAX = 45.0
RESYNC = {"name": "WALLET_OPERATOR_RESYNC_SECONDS", "value": "5"}
DISRUPTION_BUDGET = "poddisruptionbudget/wallet-command"


@pytest.mark.parametrize("is_restricted", [False, True], ids=["cluster-wide", "restricted"])
def test_the_operator_uses_every_right_that_it_has_and_asks_for_no_other(
    node: Node, kubectl: Kubectl, release: Release, make_wallet: MakeWallet, is_restricted: bool
) -> None:
    """Nobody who breaks into it can do more than its work. Restricted, it serves these namespaces and no others."""
    suffix = "restricted" if is_restricted else "everywhere"
    wallet, other = make_wallet(f"rights-{suffix}"), make_wallet(f"rights-{suffix}-2")
    release.upgrade(
        {
            "networkPolicy": {"enabled": True},
            "watchNamespaces": [wallet.namespace] if is_restricted else [],
            "extraEnv": [RESYNC],
        }
    )
    if is_restricted:
        other.apply()  # cluster-wide it would only make more of the same requests
    make_change_and_tamper_with(kubectl, wallet)
    lose_the_lease(kubectl)

    pod = name_of(release.operator.leader())
    granted = rules(kubectl)
    assert {right.namespace for right in granted} == {OPERATOR_NAMESPACE, wallet.namespace if is_restricted else ""}
    asked = [request for request in requests(node, since=0) if request.pod == pod]
    assert [each for each in asked if each.code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}] == []
    used = {use for request in asked for use in uses(request)}
    unneeded = {right for right in granted if not any(covers(right, use) for use in used)}
    assert unneeded == set(), "granted, and never used"
    assert {use for use in used if not any(covers(right, use) for right in granted)} == {OWN_REVIEW}
    if is_restricted:
        assert "status" not in other.read()
        assert kubectl.list(other.namespace, "jobs") == []


def make_change_and_tamper_with(kubectl: Kubectl, wallet: Wallet) -> None:
    """All that makes the operator do something: a new wallet, an edit, drift, and objects that are too many."""
    wallet.apply()
    wallet.wait_ready()
    policies = {each["metadata"]["name"] for each in kubectl.list(wallet.namespace, "networkpolicies")}
    assert policies == {f"wallet-{role}" for role in Role}

    wallet.patch({"accounts": {"suspend": True}})
    command = kubectl.get(wallet.namespace, "deployment/wallet-command")
    eventually(lambda: wallet.pods("command"), lambda pods: pods == [], SOON_SECONDS_MAX, "command is suspended")
    wallet.wait_ready()
    kubectl("-n", wallet.namespace, "delete", DISRUPTION_BUDGET)
    kubectl("-n", wallet.namespace, "scale", "deployment/wallet-command", "--replicas=1")
    eventually(lambda: kubectl.exists(wallet.namespace, DISRUPTION_BUDGET), bool, SOON_SECONDS_MAX, "it is made again")
    eventually(
        lambda: kubectl.get(wallet.namespace, "deployment/wallet-command")["spec"]["replicas"],
        lambda replicas: replicas == 0,
        SOON_SECONDS_MAX,
        "it is scaled back",
    )
    kubectl.apply(*leftovers(command))
    eventually(
        lambda: [
            kind.kind for kind in CHILD_KINDS if kubectl.exists(wallet.namespace, f"{kind.plural}/wallet-leftover")
        ],
        lambda left: left == [],
        SOON_SECONDS_MAX,
        "what is the wallet's and not wanted any more is deleted",
    )


def lose_the_lease(kubectl: Kubectl) -> None:
    """Somebody deletes it: the operator begins anew, and makes another."""
    kubectl("-n", OPERATOR_NAMESPACE, "delete", f"lease/{NAME}")
    eventually(
        lambda: kubectl.get(OPERATOR_NAMESPACE, f"lease/{NAME}")["spec"]["holderIdentity"],
        bool,
        SOON_SECONDS_MAX,
        "there is a Lease again",
    )


def leftovers(sibling: Document) -> Iterator[Document]:
    """An object of each kind that belongs to the wallet, as another release of the operator might have made it."""
    labels = sibling["metadata"]["labels"]
    selector = {"matchLabels": {"app": "leftover"}}
    container = {"name": "leftover", "image": "registry.invalid/leftover"}
    template = {"metadata": {"labels": selector["matchLabels"]}, "spec": {"containers": [container]}}
    run_once = {"spec": {"containers": [container], "restartPolicy": "Never"}}
    specs: dict[str, dict[str, Any]] = {
        "Deployment": {"replicas": 0, "selector": selector, "template": template},
        "Job": {"suspend": True, "template": run_once},
        "PodDisruptionBudget": {"maxUnavailable": 1, "selector": selector},
        "NetworkPolicy": {"podSelector": selector},
    }
    for kind in CHILD_KINDS:
        yield {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "metadata": {
                "name": "wallet-leftover",
                "namespace": sibling["metadata"]["namespace"],
                "labels": labels,
                "ownerReferences": sibling["metadata"]["ownerReferences"],
            },
            "spec": specs[kind.kind],
        }


def rules(kubectl: Kubectl) -> set[Right]:
    """What the release's roles grant. A cluster's role has no namespace."""
    command = (
        "get",
        "clusterroles,roles",
        "--all-namespaces",
        "-l",
        f"app.kubernetes.io/instance={NAME}",
        "-o",
        "json",
    )
    return {
        Right(group, resource, verb, role["metadata"].get("namespace", ""), name)
        for role in json.loads(kubectl(*command))["items"]
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    }


def uses(request: Request) -> Iterator[Right]:
    """The rights that a request takes; none where it is about no resource, such as /apis."""
    if not request.resource:
        return
    if request.resource == OWN_REVIEW.resource:
        yield OWN_REVIEW
        return
    what, place = (request.group, request.resource), (request.namespace, request.name)
    yield Right(*what, request.verb, *place)
    if request.verb == "patch" and request.code == HTTPStatus.CREATED:  # an apply that made something
        yield Right(*what, "create", *place)


def covers(right: Right, use: Right) -> bool:
    """Whether a rule allows that."""
    return (
        (right.group, right.resource, right.verb) == (use.group, use.resource, use.verb)
        and right.namespace in {"", use.namespace}
        and right.name in {"", use.name}
    )
