"""The operator's own settings."""

from __future__ import annotations

import re

import pytest

from wallet_core.errors import InvalidSetting
from wallet_operator import config
from wallet_operator.config import Config, read_config

LEAST = {
    "WALLET_OPERATOR_IMAGE": "workers:1",
    "WALLET_OPERATOR_POD_NAME": "operator-0",
    "WALLET_OPERATOR_POD_NAMESPACE": "system",
}


def test_what_is_not_set_has_the_documented_default() -> None:
    """Empty, as a chart writes what it was not given, is not set."""
    expected = Config("workers:1", "operator-0", "system")
    assert read_config(LEAST) == expected
    optional = {
        f"WALLET_OPERATOR_{name}": ""
        for name in ("ALLOWED_REPOSITORIES", "NAMESPACES", "NETWORK_POLICIES", "DNS_PORTS", "EGRESS_PORTS",
                     "RESYNC_SECONDS", "UPGRADE_READY_SECONDS", "LEASE_NAME", "HTTP_ADDRESS")
    }  # fmt: skip
    assert read_config(LEAST | optional) == expected


def test_everything_can_be_set() -> None:
    """Lists have commas between their parts, and blanks do not matter."""
    environ = LEAST | {
        "WALLET_OPERATOR_ALLOWED_REPOSITORIES": "a/workers, b/",
        "WALLET_OPERATOR_NAMESPACES": "one,two",
        "WALLET_OPERATOR_NETWORK_POLICIES": "true",
        "WALLET_OPERATOR_MONITORING_NAMESPACES": "prometheus",
        "WALLET_OPERATOR_DNS_PORTS": "53,5353",
        "WALLET_OPERATOR_EGRESS_PORTS": "19092,30303",
        "WALLET_OPERATOR_RESYNC_SECONDS": "5",
        "WALLET_OPERATOR_UPGRADE_READY_SECONDS": "90",
        "WALLET_OPERATOR_LEASE_NAME": "lease",
        "WALLET_OPERATOR_HTTP_ADDRESS": "127.0.0.1:9",
    }
    assert read_config(environ) == Config(
        image="workers:1",
        pod_name="operator-0",
        pod_namespace="system",
        allowed_repositories=("a/workers", "b/"),
        namespaces=("one", "two"),
        network_policies=True,
        monitoring_namespaces=("prometheus",),
        dns_ports=(53, 5353),
        egress_ports=(19092, 30303),
        resync_seconds=5.0,
        upgrade_ready_seconds=90.0,
        lease_name="lease",
        http_address="127.0.0.1:9",
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IMAGE", ""),
        ("POD_NAME", ""),
        ("POD_NAMESPACE", ""),
        ("NETWORK_POLICIES", "yes"),
        ("DNS_PORTS", "domain"),
        ("EGRESS_PORTS", "0"),
        ("EGRESS_PORTS", "http"),
        ("EGRESS_PORTS", "65536"),
        ("RESYNC_SECONDS", "soon"),
        ("RESYNC_SECONDS", "0"),
        ("RESYNC_SECONDS", "nan"),
        ("UPGRADE_READY_SECONDS", "3601"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    """In one line, with exit code 2."""
    with pytest.raises(InvalidSetting, match=f"^WALLET_OPERATOR_{name}: "):
        read_config(LEAST | {f"WALLET_OPERATOR_{name}": value})


def test_the_table_names_every_setting() -> None:
    """What the chart writes and what is read are the same."""
    documented = set(re.findall(r"`(WALLET_OPERATOR_[A-Z_]+)`", config.__doc__ or ""))
    fields = {f"WALLET_OPERATOR_{name.upper()}" for name in Config.__dataclass_fields__}
    assert documented == fields
