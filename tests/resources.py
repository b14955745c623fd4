"""Whole `WalletManager` documents, for tests of what reads them."""

from __future__ import annotations

from typing import Any

from wallet_core.resource import API_VERSION, KIND

GAS = "0x302FA11a6E784DFa89f96942a919C09B45559676"
USDT: dict[str, Any] = {
    "type": "erc20",
    "symbol": "USDT",
    "contract": "0xdAC17F958D2ee523a2206206994597C13D831ec7",
    "decimals": 6,
}
FULL: dict[str, Any] = {
    "apiVersion": API_VERSION,
    "kind": KIND,
    "metadata": {"name": "mainnet", "namespace": "wallets", "uid": "whatever the API server adds"},
    "spec": {
        "chain": {
            "id": 1,
            "rpc": [
                {"url": "http://geth:8545", "wsUrl": "ws://geth:8546"},
                {"urlFrom": {"secretKeyRef": {"name": "provider", "key": "url"}}},
            ],
            "quorum": 2,
            "verify": True,
            "confirmation": {"depth": 9},
            "settleDepth": 65,
            "startBlock": 17,
            "staleAfterSeconds": 121,
        },
        "kafka": {
            "bootstrapServers": "k1:9092,k2:9092",
            "topicPrefix": "eu.",
            "partitions": 13,
            "replicationFactor": 2,
            "createTopics": False,
        },
        "redis": {"url": "redis://redis:6379/0"},
        "accounts": {
            "replicas": 2,
            "fingerprint": "5c" * 20,
            "xpubFrom": {"secretKeyRef": {"name": "accounts", "key": "xpub"}},
            "suspend": True,
            "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "256Mi"}},
        },
        "assets": [{"type": "native", "symbol": "ETH"}, USDT],
        "sync": {"shards": 2, "resources": {"requests": {"memory": "1Gi"}, "limits": {"cpu": "2"}}},
        "sweep": {"gasAddress": GAS},
        "tuning": {"lockTtlSeconds": 31, "transactionTimeoutSeconds": 16, "pollSeconds": 0.5},
        "paused": True,
        "image": "registry.example:5000/wallet/workers:v1@sha256:" + "5c" * 32,
        "imagePullSecrets": [{"name": "registry"}],
        "pod": {
            "nodeSelector": {"kubernetes.io/arch": "amd64"},
            "tolerations": [
                {"key": "wallets", "operator": "Equal", "value": "yes", "effect": "NoExecute", "tolerationSeconds": 60}
            ],
            "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
            "annotations": {"example.com/team": "wallets"},
        },
    },
    "status": {"conditions": []},
}
SPEC = FULL["spec"]
MINIMAL: dict[str, Any] = {
    "apiVersion": API_VERSION,
    "kind": KIND,
    "metadata": {"name": "mainnet"},
    "spec": {
        "chain": {"id": 1, "rpc": [{"url": "http://geth:8545"}]},
        "kafka": {"bootstrapServers": "kafka:9092"},
        "redis": {"url": "redis://redis:6379/0"},
        "accounts": {"fingerprint": "5c" * 20, "xpubFrom": {"secretKeyRef": {"name": "accounts", "key": "xpub"}}},
        "assets": [{"type": "native", "symbol": "ETH"}],
    },
}
SECRET = "s3cret-t0ken"
"""A value that no message may repeat."""
