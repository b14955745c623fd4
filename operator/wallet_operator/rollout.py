"""What the Deployments say of their pods: whether they are all there, and why they are not."""

from __future__ import annotations

from collections.abc import Sequence

from wallet_operator.kinds import DEPLOYMENT, Document, annotation, controller_uid, identity
from wallet_operator.manifests import Manifest


def is_rolled_out(target: Sequence[Manifest], children: Sequence[Document]) -> bool:
    """Whether every Deployment is as it should be, and has these pods and no others."""
    found = {identity(document): document for document in children}
    wanted = [manifest for manifest in target if manifest["kind"] == DEPLOYMENT.kind]
    return bool(wanted) and all(_has_its_pods(manifest, found.get(identity(manifest))) for manifest in wanted)


def _has_its_pods(manifest: Manifest, document: Document | None) -> bool:
    if document is None or annotation(document, "desired-hash") != annotation(manifest, "desired-hash"):
        return False
    status = document.get("status") or {}
    replicas = document["spec"].get("replicas", 1)
    counts = (status.get("replicas", 0), status.get("updatedReplicas", 0))
    return status.get("observedGeneration", 0) >= document["metadata"]["generation"] and counts == (replicas, replicas)


def refused_pods(children: Sequence[Document], owner_uid: str) -> tuple[str, ...]:
    """What the API server told the wallet's Deployments that it does not let make pods: by a quota, for example."""
    return tuple(
        f"{document['metadata']['name']}: {condition.get('message', '')}"
        for document in children
        if document["kind"] == DEPLOYMENT.kind and controller_uid(document) == owner_uid
        for condition in (document.get("status") or {}).get("conditions") or ()
        if (condition["type"], condition["status"]) == ("ReplicaFailure", "True")
    )
