"""What a wallet is made of in Kubernetes: pure functions from a resource to the objects that it should have.

    NetworkPolicy <name>-<role>             one a role, where the operator's settings ask for them
    Job           <name>-bootstrap-<hash>   a new one for each pod template: those of Jobs cannot be changed
    Deployment    <name>-command, <name>-sync, once bootstrap has succeeded for the first time
    PodDisruptionBudget <name>-command

Every object carries `desired-hash`, a hash of all that is wanted of it, and each Deployment `template-hash`, one of its
pod template alone; comparing them needs no knowledge of what the API server fills in. A role's environment comes from
`wallet_core.settings`, as it does for `walletctl run`. Replicas, image and resources are in the objects and in no
environment.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wallet_core.resource import Sync, WalletManager
from wallet_core.settings import (
    BOOTSTRAPPED_VARIABLE,
    ROLE_SETTINGS,
    Role,
    environment,
    settings_from_environment,
    settings_hash,
)
from wallet_operator.kinds import (
    DEPLOYMENT,
    DISRUPTION_BUDGET,
    DOMAIN,
    JOB,
    MANAGED_LABEL,
    MANAGER,
    NETWORK_POLICY,
    ROLE_LABEL,
    WALLET_LABEL,
    WALLETS,
    WORKER_CONTAINER,
    Kind,
)
from wallet_operator.network import STATUS_PORT, NetworkRules, network_policy_spec

Manifest = dict[str, Any]

SECRETS_DIRECTORY = "/etc/wallet-manager/secrets"
USER_ID = 10_001
"""Numeric, as `runAsNonRoot` asks for; the images' user, whose files anybody may read."""
GRACE_SECONDS = 20
"""Above the 10 s within which a worker is gone after SIGTERM."""
LIVE_PERIOD_SECONDS = 20
READY_PERIOD_SECONDS = 5
PROBE_TIMEOUT_SECONDS = 5
REVISIONS_MAX = 3
BOOTSTRAP_RESOURCES = {
    "requests": {"cpu": "50m", "memory": "128Mi"},
    "limits": {"cpu": "1", "memory": "3Gi"},
}
"""Bootstrap has its own, so that another role's never make a finished Job anew; and all four, so that a namespace whose
ResourceQuota counts them takes it. It needs 0.1 GB, and 2 GB more where it goes on after a lost checkpoint and reads
all that was ever published."""
_MEMORY_DIRECTORY = "/tmp"  # noqa: S108 - an emptyDir of the pod's own
DEPLOYED_ROLES = (Role.COMMAND, Role.SYNC)
"""Roles that run for ever; bootstrap is a Job."""


@dataclass(frozen=True)
class Wanted:
    """All that decides what a wallet's objects are."""

    wallet: WalletManager
    uid: str
    """The resource's."""
    generation: int
    """The resource's; noted at each Deployment, in no hash."""
    operator_image: str
    """The image where the resource names none."""
    sync_generation: int = 1
    bootstrapped: bool = True
    """Whether bootstrap has succeeded once; without it the roles do not exist."""
    network: NetworkRules | None = None


def desired(wanted: Wanted) -> list[Manifest]:
    """Every object that the wallet should have."""
    manifests: list[Manifest] = []
    if wanted.network is not None:
        manifests += [network_policy(wanted, role, wanted.network) for role in Role]
    manifests.append(bootstrap_job(wanted))
    if wanted.bootstrapped:
        manifests += [deployment(wanted, role) for role in DEPLOYED_ROLES]
        manifests.append(disruption_budget(wanted))
    return manifests


def role_name(wallet_name: str, role: Role) -> str:
    """The name of a role's Deployment, NetworkPolicy and disruption budget."""
    return f"{wallet_name}-{role}"


def role_labels(wallet_name: str, role: Role) -> dict[str, str]:
    """What a role's pods are selected by."""
    return {WALLET_LABEL: wallet_name, ROLE_LABEL: role.value}


def selector_text(wallet_name: str, role: Role) -> str:
    """The same as one string, as `/scale` and `kubectl -l` take it."""
    return ",".join(f"{name}={value}" for name, value in sorted(role_labels(wallet_name, role).items()))


def role_settings_hash(wallet: WalletManager, role: Role) -> str:
    """What a worker with the resource's current settings says in `/status`."""
    return settings_hash(environment(wallet, role))


def resource_hash(wallet: WalletManager) -> str:
    """Of all that the resource says of its pods. What it leaves to defaults is not in it: those are the code's."""
    spec = wallet.spec
    unscaled = spec.model_copy(
        update={
            "paused": False,
            "accounts": spec.accounts.model_copy(update={"replicas": None, "suspend": False}),
            "sync": spec.sync.model_copy(update={"shards": Sync().shards}),
        }
    )
    return hash_of(unscaled.model_dump(by_alias=True, mode="json", exclude_defaults=True))


def network_policy(wanted: Wanted, role: Role, rules: NetworkRules) -> Manifest:
    """Who may talk to a role, and to whom it may talk."""
    name = wanted.wallet.metadata.name
    spec = network_policy_spec(wanted.wallet, role, rules, role_labels(name, role))
    return _object(wanted, NETWORK_POLICY, role_name(name, role), role, spec)


def bootstrap_job(wanted: Wanted) -> Manifest:
    """One run of bootstrap. It retries by itself what is away for a moment; a failure is for good."""
    template = pod_template(wanted, Role.BOOTSTRAP)
    template["spec"]["restartPolicy"] = "Never"
    name = f"{role_name(wanted.wallet.metadata.name, Role.BOOTSTRAP)}-{hash_of(template)}"
    # In no hash: a Job that has succeeded is not run again because it has.
    [container] = template["spec"]["containers"]
    known = {"name": BOOTSTRAPPED_VARIABLE, "value": str(wanted.bootstrapped).lower()}
    container["env"] = [known if each["name"] == BOOTSTRAPPED_VARIABLE else each for each in container["env"]]
    spec = {"backoffLimit": 0, "template": template}
    return _object(wanted, JOB, name, Role.BOOTSTRAP, spec)


def deployment(wanted: Wanted, role: Role) -> Manifest:
    """A role's workers, all alike."""
    wallet = wanted.wallet
    template = pod_template(wanted, role)
    spec: dict[str, Any] = {
        "revisionHistoryLimit": REVISIONS_MAX,
        "selector": {"matchLabels": role_labels(wallet.metadata.name, role)},
        # A new pod is ready without the lock or a partition, so no old one has to go first.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": template,
    }
    replicas = wanted_replicas(wallet, role)
    if replicas is not None:
        spec["replicas"] = replicas
    annotations = {"settings-hash": role_settings_hash(wallet, role), "resource-hash": resource_hash(wallet)}
    if role is Role.SYNC:
        annotations["settings-generation"] = str(wanted.sync_generation)
    manifest = _object(wanted, DEPLOYMENT, role_name(wallet.metadata.name, role), role, spec, annotations)
    # What follows says how the object came to be, not what it is: it is in no hash.
    manifest["metadata"]["annotations"] |= {
        f"{DOMAIN}/template-hash": hash_of(template),
        f"{DOMAIN}/operator-image": wanted.operator_image,
        f"{DOMAIN}/applied-generation": str(wanted.generation),
    }
    return manifest


def wanted_replicas(wallet: WalletManager, role: Role) -> int | None:
    """How many workers of a role there should be; None where somebody else decides."""
    if role is Role.SYNC:
        return wallet.spec.sync.shards
    return 0 if wallet.spec.accounts.suspend else wallet.spec.accounts.replicas


def disruption_budget(wanted: Wanted) -> Manifest:
    """Drains take one command worker at a time, and are not held up by one that is not ready anyway."""
    name = wanted.wallet.metadata.name
    spec = {
        "maxUnavailable": 1,
        "selector": {"matchLabels": role_labels(name, Role.COMMAND)},
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    return _object(wanted, DISRUPTION_BUDGET, role_name(name, Role.COMMAND), Role.COMMAND, spec)


def pod_template(wanted: Wanted, role: Role) -> dict[str, Any]:
    """A worker's pod, fit for a namespace that enforces the `restricted` pod security standard."""
    wallet = wanted.wallet
    pod = wallet.spec.pod
    labels = role_labels(wallet.metadata.name, role)
    variables = environment(wallet, role, wanted.sync_generation)
    secrets = _secret_keys(role, variables)
    variables |= {"WALLET_HTTP_ADDRESS": f"0.0.0.0:{STATUS_PORT}", "WALLET_SECRETS_DIR": SECRETS_DIRECTORY}
    container: dict[str, Any] = {
        "name": WORKER_CONTAINER,
        "image": wallet.spec.image or wanted.operator_image,
        "args": [role.value],
        "env": [{"name": name, "value": value} for name, value in sorted(variables.items())],
        "ports": [{"name": "status", "containerPort": STATUS_PORT, "protocol": "TCP"}],
        "livenessProbe": _probe("/live", LIVE_PERIOD_SECONDS),
        "readinessProbe": _probe("/ready", READY_PERIOD_SECONDS),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "tmp", "mountPath": _MEMORY_DIRECTORY},
            *(
                {"name": f"secret-{place}", "mountPath": f"{SECRETS_DIRECTORY}/{name}", "readOnly": True}
                for place, name in enumerate(secrets)
            ),
        ],
    }
    if resources := _resources(wallet, role):
        container["resources"] = resources
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "containers": [container],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": labels},
            }
        ],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            *(_secret_volume(f"secret-{place}", name, keys) for place, (name, keys) in enumerate(secrets.items())),
        ],
    }
    if wallet.spec.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": each.name} for each in wallet.spec.image_pull_secrets]
    settings = pod.model_dump(by_alias=True, mode="json", exclude_none=True)
    spec |= {name: settings[name] for name in ("nodeSelector", "tolerations", "affinity") if settings[name]}
    metadata: dict[str, Any] = {"labels": _labels(wallet.metadata.name, role)}
    if pod.annotations:
        metadata["annotations"] = dict(pod.annotations)
    return {"metadata": metadata, "spec": spec}


def hash_of(value: object) -> str:
    """Ten hex digits that two different values hardly share."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]


def _object(
    wanted: Wanted, kind: Kind, name: str, role: Role, spec: object, annotations: Mapping[str, str] | None = None
) -> Manifest:
    metadata = wanted.wallet.metadata
    manifest: Manifest = {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {
            "name": name,
            "namespace": metadata.namespace,
            "labels": _labels(metadata.name, role),
            "annotations": {f"{DOMAIN}/{key}": value for key, value in (annotations or {}).items()},
            "ownerReferences": [
                {
                    "apiVersion": WALLETS.api_version,
                    "kind": WALLETS.kind,
                    "name": metadata.name,
                    "uid": wanted.uid,
                    "controller": True,
                    # True needs a right on finalizers, and would hold up a foreground deletion.
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "spec": spec,
    }
    manifest["metadata"]["annotations"][f"{DOMAIN}/desired-hash"] = hash_of(manifest)
    return manifest


def _labels(wallet_name: str, role: Role) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "wallet-manager",
        "app.kubernetes.io/instance": wallet_name,
        MANAGED_LABEL: MANAGER,
        **role_labels(wallet_name, role),
    }


def _probe(path: str, period_seconds: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": STATUS_PORT},
        "periodSeconds": period_seconds,
        "timeoutSeconds": PROBE_TIMEOUT_SECONDS,
    }


def _resources(wallet: WalletManager, role: Role) -> dict[str, Any]:
    if role is Role.BOOTSTRAP:
        return copy.deepcopy(BOOTSTRAP_RESOURCES)
    by_role = {Role.COMMAND: wallet.spec.accounts.resources, Role.SYNC: wallet.spec.sync.resources}
    found = by_role[role].model_dump(mode="json")
    return {name: amounts for name, amounts in found.items() if amounts}


def _secret_keys(role: Role, variables: Mapping[str, str]) -> dict[str, list[str]]:
    """The Secrets that a role reads, by name, and their keys: found in the role's own settings, so never more."""
    found: dict[str, set[str]] = {}

    def look(value: object) -> None:
        if isinstance(value, Mapping):
            if reference := value.get("secret_key_ref"):
                found.setdefault(reference["name"], set()).add(reference["key"])
            value = list(value.values())
        if isinstance(value, list | tuple):
            for each in value:
                look(each)

    look(settings_from_environment(ROLE_SETTINGS[role], variables).model_dump())
    return {name: sorted(found[name]) for name in sorted(found)}


def _secret_volume(volume: str, name: str, keys: list[str]) -> dict[str, Any]:
    """A Secret that need not be there yet: the worker says what is missing, which a pod that never starts cannot."""
    return {
        "name": volume,
        "secret": {
            "secretName": name,
            "optional": True,
            "defaultMode": 0o440,
            "items": [{"key": key, "path": key} for key in keys],
        },
    }
