"""What each role's pods may be reached by, and what they may reach: NetworkPolicies, by port.

In comes what reads the status port: the operator and the namespaces of monitoring (the kubelet's probes come from the
node and are never kept out). Out goes DNS, and the ports of what the role talks to, to any address: services may be
outside of the cluster, where no label names them. A port that only a Secret knows cannot be named, so all TCP ports
are open for the role then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from wallet_core.resource import PORT_MAX, WalletManager
from wallet_core.settings import Role
from wallet_operator.kinds import ROLE_LABEL

STATUS_PORT = 8080
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443, "redis": 6379, "rediss": 6379}
OPERATOR_LABELS = {"app.kubernetes.io/name": "wallet-manager", ROLE_LABEL: "operator"}
"""What the chart's operator pods carry."""
_NAMESPACE_LABEL = "kubernetes.io/metadata.name"


@dataclass(frozen=True)
class NetworkRules:
    """What the operator's settings say about the roles' network policies."""

    operator_namespace: str
    monitoring_namespaces: tuple[str, ...] = ()
    egress_ports: tuple[int, ...] = ()
    """Open besides."""
    dns_ports: tuple[int, ...] = (53,)
    """Of the DNS pods themselves: a policy does not see the Service before them."""


def network_policy_spec(
    wallet: WalletManager, role: Role, rules: NetworkRules, pod_labels: dict[str, str]
) -> dict[str, Any]:
    """`spec` of the role's NetworkPolicy."""
    sources: list[dict[str, Any]] = [
        {
            "namespaceSelector": {"matchLabels": {_NAMESPACE_LABEL: rules.operator_namespace}},
            "podSelector": {"matchLabels": OPERATOR_LABELS},
        }
    ]
    sources += [
        {"namespaceSelector": {"matchLabels": {_NAMESPACE_LABEL: name}}} for name in rules.monitoring_namespaces
    ]
    return {
        "podSelector": {"matchLabels": pod_labels},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": sources, "ports": [{"protocol": "TCP", "port": STATUS_PORT}]}],
        "egress": [
            {"ports": [{"protocol": each, "port": port} for port in rules.dns_ports for each in ("UDP", "TCP")]},
            {"ports": _tcp_ports([*egress_ports(wallet, role), *rules.egress_ports])},
        ],
    }


def egress_ports(wallet: WalletManager, role: Role) -> list[int | None]:
    """The TCP ports that a role talks to; None for one that only a Secret knows."""
    spec = wallet.spec
    ports: list[int | None] = [int(server.rpartition(":")[2]) for server in spec.kafka.bootstrap_servers.split(",")]
    if role is Role.COMMAND:
        return ports
    ports.append(_port(spec.redis.url))
    for endpoint in spec.chain.rpc:
        ports.append(_port(endpoint.url))
        if endpoint.ws_url is not None:
            ports.append(_port(endpoint.ws_url))
    return ports


def _port(url: str | None) -> int | None:
    if url is None:
        return None
    parts = urlsplit(url)
    try:
        return parts.port or _DEFAULT_PORTS[parts.scheme]
    except ValueError:  # a port that is none: the worker will say so
        return None


def _tcp_ports(ports: Sequence[int | None]) -> Sequence[dict[str, Any]]:
    if None in ports:
        return [{"protocol": "TCP", "port": 1, "endPort": PORT_MAX}]
    return [{"protocol": "TCP", "port": port} for port in sorted({port for port in ports if port is not None})]
