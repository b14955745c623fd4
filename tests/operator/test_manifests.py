"""What a wallet is made of: golden values, and which field of the spec changes which pods."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from pydantic import BaseModel

from field_cases import FIELDS
from resources import FULL, MINIMAL
from wallet_core.published import PUBLISHED_TRANSFERS_MAX
from wallet_core.resource import Spec, parse_resource
from wallet_core.settings import Role, environment, settings_hash
from wallet_operator.kinds import DOMAIN, identity
from wallet_operator.manifests import (
    BOOTSTRAP_RESOURCES,
    GRACE_SECONDS,
    SECRETS_DIRECTORY,
    Manifest,
    Wanted,
    bootstrap_job,
    deployment,
    desired,
    disruption_budget,
    pod_template,
    role_settings_hash,
    selector_text,
)
from wallet_operator.network import NetworkRules

IMAGE = "wallet-manager/workers:1"


def wanted(document: dict[str, Any] = MINIMAL, **changes: Any) -> Wanted:
    made = Wanted(parse_resource(document), uid="u1", generation=3, operator_image=IMAGE)
    return replace(made, **changes)


def changed(path: str, value: object, document: dict[str, Any] = FULL) -> dict[str, Any]:
    result = copy.deepcopy(document)
    *parents, last = path.split(".")
    part: Any = result["spec"]
    for step in parents:
        part = part[int(step)] if step.isdigit() else part.setdefault(step, {})
    if value is None:
        del part[last]
    else:
        part[int(last) if last.isdigit() else last] = value
    return result


def test_a_worker_of_sync_is_this_pod() -> None:
    """The whole pod, so that no part of it changes unseen: a change rolls every wallet."""
    variables = environment(parse_resource(MINIMAL), Role.SYNC, 7)
    assert pod_template(wanted(sync_generation=7), Role.SYNC) == {
        "metadata": {
            "labels": {
                "app.kubernetes.io/name": "wallet-manager",
                "app.kubernetes.io/instance": "mainnet",
                "app.kubernetes.io/managed-by": "wallet-operator",
                "app.kubernetes.io/component": "sync",
                "wallet-manager.dev/wallet": "mainnet",
            }
        },
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "containers": [
                {
                    "name": "worker",
                    "image": IMAGE,
                    "args": ["sync"],
                    "env": sorted(
                        [
                            {"name": "WALLET_HTTP_ADDRESS", "value": "0.0.0.0:8080"},
                            {"name": "WALLET_SECRETS_DIR", "value": "/etc/wallet-manager/secrets"},
                            *({"name": name, "value": value} for name, value in variables.items()),
                        ],
                        key=lambda variable: variable["name"],
                    ),
                    "ports": [{"name": "status", "containerPort": 8080, "protocol": "TCP"}],
                    "livenessProbe": {
                        "httpGet": {"path": "/live", "port": 8080},
                        "periodSeconds": 20,
                        "timeoutSeconds": 5,
                    },
                    "readinessProbe": {
                        "httpGet": {"path": "/ready", "port": 8080},
                        "periodSeconds": 5,
                        "timeoutSeconds": 5,
                    },
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                        "readOnlyRootFilesystem": True,
                    },
                    "terminationMessagePolicy": "FallbackToLogsOnError",
                    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - the pod's own
                }
            ],
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "runAsGroup": 10001,
                "fsGroup": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "terminationGracePeriodSeconds": 20,
            "topologySpreadConstraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": "kubernetes.io/hostname",
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {
                        "matchLabels": {
                            "app.kubernetes.io/component": "sync",
                            "wallet-manager.dev/wallet": "mainnet",
                        }
                    },
                }
            ],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    }


def test_what_the_resource_says_about_pods_is_in_every_pod() -> None:
    """Nodes, tolerations, affinity, annotations and pull secrets; the image it pins; resources of the role alone."""
    full = FULL["spec"]
    for role in Role:
        template = pod_template(wanted(FULL), role)
        spec = template["spec"]
        assert spec["nodeSelector"] == full["pod"]["nodeSelector"]
        assert spec["tolerations"] == full["pod"]["tolerations"]
        assert spec["affinity"] == full["pod"]["affinity"]
        assert spec["imagePullSecrets"] == [{"name": "registry"}]
        assert template["metadata"]["annotations"] == full["pod"]["annotations"]
        assert spec["containers"][0]["image"] == full["image"]
    resources = {role: pod_template(wanted(FULL), role)["spec"]["containers"][0].get("resources") for role in Role}
    assert resources == {
        Role.BOOTSTRAP: BOOTSTRAP_RESOURCES,
        Role.COMMAND: full["accounts"]["resources"],
        Role.SYNC: full["sync"]["resources"],
    }


def test_a_role_finds_the_secrets_that_it_reads_and_no_others() -> None:
    """As files, and optional: a worker that starts says what is missing. No other role's keys are in its pod."""
    mounted = {}
    for role in Role:
        spec = pod_template(wanted(FULL), role)["spec"]
        volumes = {each["name"]: each["secret"] for each in spec["volumes"] if "secret" in each}
        mounts = {each["name"]: each for each in spec["containers"][0]["volumeMounts"] if each["name"] != "tmp"}
        assert volumes.keys() == mounts.keys()
        for name, secret in volumes.items():
            assert secret["optional"] is True
            assert secret["defaultMode"] == 0o440, "the worker's group may read them, and nobody may write"
            assert mounts[name]["mountPath"] == f"{SECRETS_DIRECTORY}/{secret['secretName']}"
            assert mounts[name]["readOnly"] is True
        mounted[role] = {each["secretName"]: [item["key"] for item in each["items"]] for each in volumes.values()}
    assert mounted == {
        Role.BOOTSTRAP: {"provider": ["url"]},
        Role.COMMAND: {"accounts": ["xpub"]},
        Role.SYNC: {"provider": ["url"]},
    }


def test_keys_of_one_secret_share_a_volume() -> None:
    """A directory can be mounted once only."""
    document = changed("redis", {"urlFrom": {"secretKeyRef": {"name": "provider", "key": "redis"}}})
    volumes = pod_template(wanted(document), Role.SYNC)["spec"]["volumes"]
    assert [each["secret"]["items"] for each in volumes if "secret" in each] == [
        [{"key": "redis", "path": "redis"}, {"key": "url", "path": "url"}]
    ]


def test_a_pod_may_take_longer_to_end_than_a_worker_does() -> None:
    """A worker is gone 10 s after SIGTERM; who is killed before leaves an open transaction."""
    assert GRACE_SECONDS >= 15


def test_deployments_are_these() -> None:
    """Replicas are absent where somebody else decides them, and 0 where the role is suspended."""
    sync = deployment(wanted(sync_generation=7), Role.SYNC)
    assert (
        sync["metadata"]["annotations"].items()
        >= {
            f"{DOMAIN}/settings-generation": "7",
            f"{DOMAIN}/settings-hash": settings_hash(environment(parse_resource(MINIMAL), Role.SYNC)),
            f"{DOMAIN}/operator-image": IMAGE,
            f"{DOMAIN}/applied-generation": "3",
        }.items()
    )
    assert sync["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "wallet-manager.dev/v1alpha1",
            "kind": "WalletManager",
            "name": "mainnet",
            "uid": "u1",
            "controller": True,
            "blockOwnerDeletion": False,
        }
    ]
    spec = sync["spec"]
    assert spec["template"]["metadata"]["labels"].items() >= spec["selector"]["matchLabels"].items()
    assert (spec["replicas"], spec["revisionHistoryLimit"]) == (1, 3)
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert "replicas" not in deployment(wanted(), Role.COMMAND)["spec"]
    assert deployment(wanted(changed("accounts.suspend", False)), Role.COMMAND)["spec"]["replicas"] == 2
    assert deployment(wanted(FULL), Role.COMMAND)["spec"]["replicas"] == 0
    assert selector_text("mainnet", Role.SYNC) == ("app.kubernetes.io/component=sync,wallet-manager.dev/wallet=mainnet")


def test_bootstrap_is_a_job_that_fails_for_good() -> None:
    """Each failure is seen and read, and another template is another Job, for it cannot be changed."""
    job = bootstrap_job(wanted())
    assert (job["spec"]["backoffLimit"], job["spec"]["template"]["spec"]["restartPolicy"]) == (0, "Never")
    assert "ttlSecondsAfterFinished" not in job["spec"], "its success must stay visible"
    other = bootstrap_job(wanted(changed("chain.settleDepth", 99, MINIMAL)))
    assert job["metadata"]["name"] != other["metadata"]["name"]
    assert job["metadata"]["name"] == bootstrap_job(wanted(generation=9))["metadata"]["name"]
    first, again = (bootstrap_job(wanted(bootstrapped=bootstrapped)) for bootstrapped in (False, True))
    assert first["metadata"]["name"] == again["metadata"]["name"], "a success is no reason to run it again"
    for each, known in ((first, "false"), (again, "true")):
        [container] = each["spec"]["template"]["spec"]["containers"]
        assert {"name": "WALLET_BOOTSTRAPPED", "value": known} in container["env"]
    longest = parse_resource({**MINIMAL, "metadata": {"name": "x" * 40}})
    assert len(bootstrap_job(wanted(wallet=longest))["metadata"]["name"]) <= 63


def test_bootstrap_fits_a_namespace_with_a_quota() -> None:
    """One that counts cpu and memory refuses a pod that does not say both; and what a wallet needs that goes on after a
    lost checkpoint is below the limit, for nobody could raise it."""
    container = bootstrap_job(wanted())["spec"]["template"]["spec"]["containers"][0]
    for part in ("requests", "limits"):
        assert container["resources"][part].keys() == {"cpu", "memory"}
    gib = int(container["resources"]["limits"]["memory"].removesuffix("Gi"))
    assert gib * 2**30 > PUBLISHED_TRANSFERS_MAX * 400 + 256 * 2**20


def test_drains_take_one_command_worker_at_a_time() -> None:
    """And are not held up by one that is not ready; sync needs no budget, for a standby takes over."""
    assert disruption_budget(wanted())["spec"] == {
        "maxUnavailable": 1,
        "selector": {"matchLabels": {"app.kubernetes.io/component": "command", "wallet-manager.dev/wallet": "mainnet"}},
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }


def test_the_roles_wait_for_the_first_bootstrap_only() -> None:
    """Before it there is nothing to work on; later it runs beside them."""
    before = [identity(each) for each in desired(wanted(bootstrapped=False, network=NetworkRules("system")))]
    job = bootstrap_job(wanted())["metadata"]["name"]
    policies = [("NetworkPolicy", f"mainnet-{role}") for role in Role]
    assert before == [*policies, ("Job", job)]
    assert [identity(each) for each in desired(wanted(network=NetworkRules("system")))] == [
        *before,
        ("Deployment", "mainnet-command"),
        ("Deployment", "mainnet-sync"),
        ("PodDisruptionBudget", "mainnet-command"),
    ]
    assert next(identity(each) for each in desired(wanted())) == ("Job", job), "no policies unless they are asked for"


def test_every_object_says_what_is_wanted_of_it() -> None:
    """The hash differs where anything wanted differs, and not with the resource's generation or the time of making."""
    for one, same in zip(desired(wanted()), desired(wanted(generation=9)), strict=True):
        assert _hash(one) == _hash(same)
    one, other = (disruption_budget(wanted(uid=uid)) for uid in ("u1", "u2"))
    assert _hash(one) != _hash(other)


def _hash(manifest: Manifest) -> str:
    return str(manifest["metadata"]["annotations"][f"{DOMAIN}/desired-hash"])


@pytest.mark.parametrize("path", FIELDS)
def test_a_field_changes_the_pods_of_those_roles_that_it_concerns(path: str) -> None:
    """Nothing else is restarted: a scale, a pause or another role's resources roll no pod."""
    value, expected = FIELDS[path]
    before, after = wanted(FULL), wanted(changed(path, value))
    rolled = {role for role in Role if pod_template(before, role) != pod_template(after, role)}
    assert rolled == expected
    settings = {
        role for role in Role if role_settings_hash(before.wallet, role) != role_settings_hash(after.wallet, role)
    }
    assert settings <= expected, "what a worker reads is in its pod"


def test_no_field_of_the_spec_is_forgotten_above() -> None:
    """A new field must say which pods it changes."""
    assert set(_leaves(Spec)) - {"redis.urlFrom", "chain.confirmation.tag"} == set(FIELDS) - {"chain.confirmation"}


def _leaves(model: type[BaseModel], prefix: str = "") -> list[str]:
    found: list[str] = []
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        part = field.annotation
        is_part = isinstance(part, type) and issubclass(part, BaseModel)
        if is_part and not path.endswith(("xpubFrom", "resources")):
            found += _leaves(part, f"{path}.")  # type: ignore[arg-type]  # mypy does not follow `is_part`
        else:
            found.append(path)
    return found
