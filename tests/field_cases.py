"""For every field of a WalletManager's spec: which of the wallet's pods it changes, and no others."""

from __future__ import annotations

from resources import GAS
from wallet_core.settings import Role

ALL = {Role.BOOTSTRAP, Role.COMMAND, Role.SYNC}
CHAIN = {Role.BOOTSTRAP, Role.SYNC}
FIELDS: dict[str, tuple[object, set[Role]]] = {
    "chain.id": (5, ALL),
    "chain.rpc": ([{"url": "http://other:8545"}, {"url": "http://another:8545"}], CHAIN),
    "chain.quorum": (1, CHAIN),
    "chain.verify": (False, CHAIN),
    "chain.confirmation.depth": (13, CHAIN),
    "chain.confirmation": ({"tag": "finalized"}, CHAIN),
    "chain.settleDepth": (70, CHAIN),
    "chain.startBlock": ("latest", {Role.BOOTSTRAP}),
    "chain.staleAfterSeconds": (5, {Role.SYNC}),
    "kafka.bootstrapServers": ("k3:9092", ALL),
    "kafka.topicPrefix": ("us.", ALL),
    "kafka.partitions": (14, CHAIN),
    "kafka.replicationFactor": (3, {Role.BOOTSTRAP}),
    "kafka.createTopics": (True, {Role.BOOTSTRAP}),
    "redis.url": ("redis://other:6379/0", CHAIN),
    "accounts.replicas": (3, set()),
    "accounts.fingerprint": ("5d" * 20, {Role.BOOTSTRAP, Role.COMMAND}),
    "accounts.xpubFrom": ({"secretKeyRef": {"name": "accounts", "key": "other"}}, {Role.COMMAND}),
    "accounts.suspend": (False, set()),
    "accounts.resources": ({"limits": {"cpu": "3"}}, {Role.COMMAND}),
    "assets": ([{"type": "native", "symbol": "ETH"}], {Role.SYNC}),
    "sync.shards": (3, set()),
    "sync.resources": ({"limits": {"cpu": "3"}}, {Role.SYNC}),
    "sweep.gasAddress": (GAS.lower(), {Role.SYNC}),
    "tuning.lockTtlSeconds": (32, {Role.SYNC}),
    "tuning.transactionTimeoutSeconds": (17, ALL),
    "tuning.pollSeconds": (2, {Role.SYNC}),
    "paused": (False, set()),
    "image": ("other:2", ALL),
    "imagePullSecrets": ([{"name": "other"}], ALL),
    "pod.nodeSelector": ({"a": "b"}, ALL),
    "pod.tolerations": ([], ALL),
    "pod.affinity": ({}, ALL),
    "pod.annotations": ({"a": "b"}, ALL),
}
"""Another value than that of `resources.FULL`, and the roles whose pods it changes."""
