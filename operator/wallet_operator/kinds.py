"""The kinds of objects that the operator deals with, and what it reads from any of them.

Objects are the API server's JSON documents, as dicts: a typed copy would lose the fields that a client does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wallet_core.resource import API_VERSION, KIND

Document = Mapping[str, Any]
"""One Kubernetes object."""
Key = tuple[str, str]
"""A wallet: namespace and name."""

DOMAIN = "wallet-manager.dev"
MANAGER = "wallet-operator"
"""The field manager, and the label `app.kubernetes.io/managed-by` of every child."""
WALLET_LABEL = f"{DOMAIN}/wallet"
ROLE_LABEL = "app.kubernetes.io/component"
MANAGED_LABEL = "app.kubernetes.io/managed-by"
WORKER_CONTAINER = "worker"
"""A pod may have more containers, which others put into it."""


@dataclass(frozen=True)
class Kind:
    """How the API server names a kind."""

    api_version: str
    kind: str
    plural: str

    @property
    def group(self) -> str:
        """The API group; empty for the core's."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """The version in its group."""
        return self.api_version.rpartition("/")[2]

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """The address of one object or of a collection, below the API server's."""
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        place = f"/namespaces/{namespace}" if namespace else ""
        return f"{root}{place}/{self.plural}" + (f"/{name}" if name else "")


WALLETS = Kind(API_VERSION, KIND, "walletmanagers")
DEPLOYMENT = Kind("apps/v1", "Deployment", "deployments")
JOB = Kind("batch/v1", "Job", "jobs")
DISRUPTION_BUDGET = Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
NETWORK_POLICY = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
POD = Kind("v1", "Pod", "pods")
EVENT = Kind("v1", "Event", "events")
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases")
ACCESS_REVIEW = Kind("authorization.k8s.io/v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews")

CHILD_KINDS = (NETWORK_POLICY, JOB, DEPLOYMENT, DISRUPTION_BUDGET)
"""In the order in which they are applied: a pod should find its network policy."""
_BY_NAME = {kind.kind: kind for kind in CHILD_KINDS}


def kind_of(document: Document) -> Kind:
    """A child's kind."""
    return _BY_NAME[document["kind"]]


def identity(document: Document) -> tuple[str, str]:
    """A child's kind and name: what is unique among one wallet's children."""
    return document["kind"], document["metadata"]["name"]


def key_of(document: Document) -> Key:
    """An object's own namespace and name."""
    return document["metadata"]["namespace"], document["metadata"]["name"]


def controller(document: Document) -> Mapping[str, Any]:
    """The reference to the object that controls this one; empty where none does."""
    owners = document["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), {})


def controller_uid(document: Document) -> str | None:
    """The uid of the object that controls this one."""
    return controller(document).get("uid")


def annotation(document: Document, name: str) -> str | None:
    """One of this project's annotations."""
    found: str | None = (document["metadata"].get("annotations") or {}).get(f"{DOMAIN}/{name}")
    return found


def is_going(document: Document) -> bool:
    """Whether it is being deleted."""
    return bool(document["metadata"].get("deletionTimestamp"))
