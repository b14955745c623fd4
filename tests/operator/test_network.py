"""Network policies let through what the roles need, and nothing else that is known."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from resources import FULL, MINIMAL
from wallet_core.resource import WalletManager, parse_resource
from wallet_core.settings import Role
from wallet_operator.manifests import role_labels
from wallet_operator.network import NetworkRules, network_policy_spec

RULES = NetworkRules("wallet-system", ("monitoring",))


def wallet(**spec: Any) -> WalletManager:
    document = copy.deepcopy(MINIMAL)
    document["spec"] |= spec
    return parse_resource(document)


def out(of: WalletManager, role: Role, rules: NetworkRules = RULES) -> list[dict[str, Any]]:
    spec = network_policy_spec(of, role, rules, role_labels("mainnet", role))
    assert all("to" not in rule for rule in spec["egress"]), "services may be outside of the cluster"
    return [port for rule in spec["egress"] for port in rule["ports"]]


def passes(ports: list[dict[str, Any]], protocol: str, port: int) -> bool:
    return any(
        each["protocol"] == protocol and each["port"] <= port <= each.get("endPort", each["port"]) for each in ports
    )


@pytest.mark.parametrize("role", Role)
def test_every_role_finds_names_and_kafka(role: Role) -> None:
    """Each broker's port, and DNS over both transports: long answers come by TCP."""
    ports = out(wallet(kafka={"bootstrapServers": "a:9092,b:9093"}), role)
    for protocol, port in (("UDP", 53), ("TCP", 53), ("TCP", 9092), ("TCP", 9093)):
        assert passes(ports, protocol, port)


@pytest.mark.parametrize("role", [Role.BOOTSTRAP, Role.SYNC])
def test_who_reads_the_chain_reaches_the_node_and_redis(role: Role) -> None:
    """By the ports of the URLs, or those that their schemes mean."""
    ports = out(
        wallet(
            chain={
                "id": 1,
                "rpc": [{"url": "http://geth:8545", "wsUrl": "wss://geth/ws"}, {"url": "https://node.example/x"}],
            },
            redis={"url": "rediss://redis"},
        ),
        role,
    )
    assert {each["port"] for each in ports} == {53, 9092, 8545, 443, 6379}


def test_command_reaches_neither_the_node_nor_redis() -> None:
    """It needs Kafka only, and holds what addresses are made of."""
    assert {each["port"] for each in out(parse_resource(FULL), Role.COMMAND)} == {53, 9092}


def test_a_port_that_only_a_secret_knows_opens_all() -> None:
    """A wallet that cannot reach its node would be worse."""
    ports = out(parse_resource(FULL), Role.SYNC)
    assert passes(ports, "TCP", 12345)
    assert passes(ports, "TCP", 65535)


def test_further_ports_are_let_out() -> None:
    """Where a Service listens on another port than its pods, the policy sees the pods' one."""
    assert passes(out(wallet(), Role.COMMAND, NetworkRules("system", egress_ports=(19092,))), "TCP", 19092)


@pytest.mark.parametrize("role", Role)
def test_dns_is_reached_where_its_pods_listen(role: Role) -> None:
    """OpenShift's listen on 5353 behind a Service of port 53, which a policy does not see."""
    ports = out(wallet(), role, NetworkRules("system", dns_ports=(53, 5353)))
    for protocol in ("UDP", "TCP"):
        assert passes(ports, protocol, 53)
        assert passes(ports, protocol, 5353)


def test_only_the_operator_and_monitoring_come_in_and_to_the_status_port_only() -> None:
    """Nobody else has anything to ask a worker."""
    spec = network_policy_spec(wallet(), Role.SYNC, RULES, role_labels("mainnet", Role.SYNC))
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["podSelector"] == {"matchLabels": role_labels("mainnet", Role.SYNC)}
    (rule,) = spec["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 8080}]
    assert rule["from"] == [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "wallet-system"}},
            "podSelector": {
                "matchLabels": {
                    "app.kubernetes.io/name": "wallet-manager",
                    "app.kubernetes.io/component": "operator",
                }
            },
        },
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}},
    ]
