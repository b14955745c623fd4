"""Documents that a cluster must refuse, each with words of the message that a person then reads."""

from __future__ import annotations

import copy
from typing import Any

from resources import FULL, USDT

REMOVED = object()


def changed(document: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """The document with one field set, or taken out."""
    copied = copy.deepcopy(document)
    *parents, last = path.split(".")
    part: Any = copied
    for step in parents:
        part = part[int(step)] if step.isdigit() else part[step]
    if value is REMOVED:
        del part[last]
    else:
        part[int(last) if last.isdigit() else last] = value
    return copied


REFERENCE = {"secretKeyRef": {"name": "a", "key": "b"}}
REFUSED: tuple[tuple[str, object, str], ...] = (
    ("metadata.name", "x" * 41, "choose a shorter one"),
    ("spec.chain.id", 0, "0 is less than the minimum"),
    ("spec.chain.rpc", [], "should be non-empty"),
    ("spec.chain.rpc.0", {"wsUrl": "ws://geth:8546"}, "needs exactly one of url and urlFrom"),
    ("spec.chain.rpc.0", {"url": "http://geth:8545", "urlFrom": REFERENCE}, "needs exactly one of url and urlFrom"),
    ("spec.chain.rpc.0.url", "geth:8545", "does not match"),
    ("spec.chain.rpc", [{"url": "http://geth:8545"}] * 2, "an endpoint is there twice"),
    ("spec.chain.rpc", [{"url": "http://a"}, {"urlFrom": REFERENCE}, {"urlFrom": REFERENCE}], "remove one of them"),
    ("spec.chain.rpc.0.url", "http://user:secret@geth:99999/path", "needs a number from 1 to 65535"),
    ("spec.chain.rpc.0.wsUrl", "ws://geth:0", "needs a number from 1 to 65535"),
    ("spec.chain.quorum", 3, "lower it, or add endpoints"),
    ("spec.chain.confirmation", {}, "needs exactly one of depth and tag"),
    ("spec.chain.confirmation", {"depth": 1, "tag": "finalized"}, "needs exactly one of depth and tag"),
    ("spec.chain.confirmation", {"tag": "safe"}, "is not one of"),
    ("spec.chain.startBlock", "newest", "does not match"),
    ("spec.chain.startBlock", -1, "less than the minimum"),
    ("spec.chain.startBlock", True, "is not of type"),
    ("spec.kafka.bootstrapServers", "kafka", "does not match"),
    ("spec.kafka.bootstrapServers", "kafka:99999", "needs a number from 1 to 65535"),
    ("spec.kafka.bootstrapServers", "kafka:65536,kafka:9092", "needs a number from 1 to 65535"),
    ("spec.kafka.bootstrapServers", "kafka:9092,kafka:00", "needs a number from 1 to 65535"),
    ("spec.redis", {}, "needs exactly one of url and urlFrom"),
    ("spec.redis.url", "http://redis", "does not match"),
    ("spec.redis.url", "redis://redis:99999/0", "needs a number from 1 to 65535"),
    ("spec.redis.url", "redis://user:secret@redis:0", "needs a number from 1 to 65535"),
    ("spec.accounts.fingerprint", "5C" * 20, "does not match"),
    ("spec.accounts.xpubFrom.secretKeyRef.name", "Accounts", "does not match"),
    ("spec.assets", [], "should be non-empty"),
    ("spec.assets", [{"type": "native", "symbol": "ETH", "decimals": 18}], "a native asset has no contract"),
    ("spec.assets", [{"type": "erc20", "symbol": "USDT", "decimals": 6}], "an erc20 asset needs contract and decimals"),
    ("spec.assets", [USDT, {"type": "native", "symbol": "USDT"}], "a symbol is there twice"),
    ("spec.assets", [USDT, {**USDT, "symbol": "USDT.e"}], "an asset is there twice"),
    ("spec.assets", [{"type": "native", "symbol": "A"}, {"type": "native", "symbol": "B"}], "an asset is there twice"),
    ("spec.sync.shards", 0, "less than the minimum"),
    ("spec.sweep.gasAddress", "0x12", "does not match"),
    ("spec.tuning.pollSeconds", 0, "needs 0.05 or more"),
    ("spec.accounts.resources", {"limits": {"cpu": "much"}}, "does not match"),
    ("spec.image", "registry.example/wallet workers", "does not match"),
    ("spec.pod.tolerations.0.effect", "Sometimes", "is not one of"),
    ("spec.chian", {}, "unknown field spec.chian"),
    ("spec.chain", REMOVED, "'chain' is a required property"),
)
"""Changes of the full document that neither a cluster nor `walletctl` takes. The words are those of the schema's own
checks as Python's validator says them, but for rules with a message of their own, which are a cluster's words too."""

SET = changed(changed(FULL, "spec.chain.startBlock", 77), "spec.kafka.partitions", 7)
IMMUTABLE: tuple[tuple[str, object, str], ...] = (
    ("spec.chain.id", 5, "another chain needs another WalletManager"),
    ("spec.chain.startBlock", 78, "walletctl sync rescan"),
    ("spec.chain.startBlock", REMOVED, "walletctl sync rescan"),
    ("spec.kafka.topicPrefix", "us.", "a new prefix needs a new WalletManager"),
    ("spec.kafka.topicPrefix", REMOVED, "a new prefix needs a new WalletManager"),
    ("spec.kafka.partitions", 8, "keep their order within a partition"),
    ("spec.kafka.partitions", REMOVED, "keep their order within a partition"),
    ("spec.accounts.fingerprint", "ab" * 20, "another key needs another WalletManager"),
    ("spec.sweep.gasAddress", "0x" + "11" * 20, "write it as it was"),
    ("spec.sweep.gasAddress", REMOVED, "write it as it was"),
    ("spec.sweep", REMOVED, "write it as it was"),
)
"""Changes of SET that are refused, removals too: what is removed could be added again as something else."""
