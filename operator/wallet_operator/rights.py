"""Which rights the operator needs, and which of them it lacks.

One right that is missing would show late and far from its cause: a namespace that kopf may not list ends kopf for all.
So all are asked for at the start, and each that is missing is named.
"""

from __future__ import annotations

from dataclasses import dataclass

from wallet_operator.api import Api
from wallet_operator.config import Config
from wallet_operator.kinds import ACCESS_REVIEW, CHILD_KINDS, EVENT, LEASE, POD, WALLETS, Kind


@dataclass(frozen=True, order=True)
class Right:
    """One verb on one kind of object."""

    group: str
    resource: str
    """Plural, with a subresource behind a slash."""
    verb: str
    namespace: str
    """Empty: in all namespaces."""
    name: str = ""
    """Empty: any object."""

    def __str__(self) -> str:
        resource = f"{self.resource}.{self.group}" if self.group else self.resource
        what = f"{self.verb} {resource}" + (f" {self.name}" if self.name else "")
        return f"{what} in {f'namespace {self.namespace}' if self.namespace else 'all namespaces'}"


def needed_rights(config: Config) -> list[Right]:
    """Everything that the operator does, and nothing else."""
    found: list[Right] = []
    for namespace in config.namespaces or ("",):
        found += _rights(WALLETS, ("get", "list", "watch"), namespace)
        found.append(Right(WALLETS.group, f"{WALLETS.plural}/status", "patch", namespace))
        for kind in CHILD_KINDS:
            found += _rights(kind, ("list", "watch", "create", "patch", "delete"), namespace)
        found += _rights(POD, ("list",), namespace)
        found += _rights(EVENT, ("create",), namespace)
    found += _rights(LEASE, ("create",), config.pod_namespace)
    found += [Right(LEASE.group, LEASE.plural, verb, config.pod_namespace, config.lease_name) for verb in _OWN_LEASE]
    return found


_OWN_LEASE = ("get", "update")


async def missing_rights(api: Api, rights: list[Right]) -> list[Right]:
    """Those that the API server does not grant. Raises ApiUnreachable."""
    return [right for right in rights if not await _is_granted(api, right)]


async def _is_granted(api: Api, right: Right) -> bool:
    resource, _, subresource = right.resource.partition("/")
    attributes = {
        "group": right.group,
        "resource": resource,
        "subresource": subresource,
        "verb": right.verb,
        "namespace": right.namespace,
        "name": right.name,
    }
    review = {
        "apiVersion": ACCESS_REVIEW.api_version,
        "kind": ACCESS_REVIEW.kind,
        "spec": {"resourceAttributes": {name: value for name, value in attributes.items() if value}},
    }
    answer = await api.create(ACCESS_REVIEW, None, review)
    return bool((answer.get("status") or {}).get("allowed"))


def _rights(kind: Kind, verbs: tuple[str, ...], namespace: str) -> list[Right]:
    return [Right(kind.group, kind.plural, verb, namespace) for verb in verbs]
