"""The operator's own settings: environment variables, which the chart writes.

| Variable | Default | Meaning |
|-|-|-|
| `WALLET_OPERATOR_IMAGE` | | image of the workers where a resource names none |
| `WALLET_OPERATOR_ALLOWED_REPOSITORIES` | | repositories, with commas between them, from which `spec.image` is accepted; one with a `/` at its end allows all below it. The chart puts that of the workers' image first. None: `spec.image` is refused |
| `WALLET_OPERATOR_NAMESPACES` | | namespaces to serve, with commas between them; none: all. Without all its rights in each of them the operator serves none |
| `WALLET_OPERATOR_NETWORK_POLICIES` | `false` | whether each role gets a NetworkPolicy |
| `WALLET_OPERATOR_MONITORING_NAMESPACES` | `monitoring` | namespaces whose pods a NetworkPolicy lets in to the status port |
| `WALLET_OPERATOR_DNS_PORTS` | `53` | ports of DNS that a NetworkPolicy lets out to, as the DNS pods listen on them: 5353 too on OpenShift |
| `WALLET_OPERATOR_EGRESS_PORTS` | | further TCP ports that a NetworkPolicy lets out to: where a Service listens on another port than its pods, or brokers announce other ports than `kafka.bootstrapServers` |
| `WALLET_OPERATOR_RESYNC_SECONDS` | `60` | how often every wallet is applied anew |
| `WALLET_OPERATOR_UPGRADE_READY_SECONDS` | `600` | how long a wallet may take to be Ready after its upgrade, before the operator says that the upgrade has stopped |
| `WALLET_OPERATOR_LEASE_NAME` | `wallet-operator` | the Lease by which replicas of the operator elect one |
| `WALLET_OPERATOR_POD_NAME`, `WALLET_OPERATOR_POD_NAMESPACE` | | from the downward API; the Lease is in that namespace |
| `WALLET_OPERATOR_HTTP_ADDRESS` | `0.0.0.0:8080` | where `/live`, `/ready` and `/metrics` are served |
"""  # noqa: E501 - a table's row is one line

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wallet_core.errors import InvalidSetting
from wallet_core.resource import PORT_MAX

PREFIX = "WALLET_OPERATOR_"


@dataclass(frozen=True)
class Config:
    """See the module."""

    image: str
    pod_name: str
    pod_namespace: str
    allowed_repositories: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    """Empty: all."""
    network_policies: bool = False
    monitoring_namespaces: tuple[str, ...] = ("monitoring",)
    dns_ports: tuple[int, ...] = (53,)
    egress_ports: tuple[int, ...] = ()
    resync_seconds: float = 60.0
    upgrade_ready_seconds: float = 600.0
    lease_name: str = "wallet-operator"
    http_address: str = "0.0.0.0:8080"


def read_config(environ: Mapping[str, str]) -> Config:
    """Raises InvalidSetting, which names the variable."""
    return Config(
        image=_required(environ, "IMAGE"),
        pod_name=_required(environ, "POD_NAME"),
        pod_namespace=_required(environ, "POD_NAMESPACE"),
        allowed_repositories=_list(environ, "ALLOWED_REPOSITORIES", ""),
        namespaces=_list(environ, "NAMESPACES", ""),
        network_policies=_flag(environ, "NETWORK_POLICIES"),
        monitoring_namespaces=_list(environ, "MONITORING_NAMESPACES", "monitoring"),
        dns_ports=_ports(environ, "DNS_PORTS", "53"),
        egress_ports=_ports(environ, "EGRESS_PORTS", ""),
        resync_seconds=_seconds(environ, "RESYNC_SECONDS", "60"),
        upgrade_ready_seconds=_seconds(environ, "UPGRADE_READY_SECONDS", "600"),
        lease_name=environ.get(PREFIX + "LEASE_NAME") or "wallet-operator",
        http_address=environ.get(PREFIX + "HTTP_ADDRESS") or "0.0.0.0:8080",
    )


def _required(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(PREFIX + name, "")
    if not value:
        raise InvalidSetting(PREFIX + name, "is missing")
    return value


def _list(environ: Mapping[str, str], name: str, default: str) -> tuple[str, ...]:
    return tuple(each.strip() for each in environ.get(PREFIX + name, default).split(",") if each.strip())


def _flag(environ: Mapping[str, str], name: str) -> bool:
    text = environ.get(PREFIX + name) or "false"
    if text not in {"true", "false"}:
        raise InvalidSetting(PREFIX + name, "should be true or false")
    return text == "true"


def _ports(environ: Mapping[str, str], name: str, default: str) -> tuple[int, ...]:
    texts = [each.strip() for each in (environ.get(PREFIX + name) or default).split(",") if each.strip()]
    if not all(text.isdecimal() and 0 < int(text) <= PORT_MAX for text in texts):
        raise InvalidSetting(PREFIX + name, f"a port is a number from 1 to {PORT_MAX}")
    return tuple(map(int, texts))


def _seconds(environ: Mapping[str, str], name: str, default: str) -> float:
    try:
        seconds = float(environ.get(PREFIX + name) or default)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 3600:  # noqa: PLR2004 - the sentence below names them
        raise InvalidSetting(PREFIX + name, "should be a number of seconds from 1 to 3600")
    return seconds
