"""The resource of a simulated wallet: as it is drawn for a seed, and as somebody edits it while the wallet runs."""

from __future__ import annotations

import copy
import functools
import random
from typing import Any

from simulation.trace import Trace, What
from wallet_core.addresses import Address, checksum_address, lower_hex
from wallet_core.keys import AccountKeys, derive_account_keys
from wallet_core.messages import Topic

CHAIN_ID = 1337
PREFIX = "w."
TOKEN = Address(bytes.fromhex("dac17f958d2ee523a2206206994597c13d831ec7"))
OTHER_TOKEN = Address(b"\x0e" * 20)
SYMBOLS = {"native": "ETH", lower_hex(TOKEN): "USDT", lower_hex(OTHER_TOKEN): "OTH"}
"""What each asset is called, by its key in the checkpoint."""
STATE_TOPIC = PREFIX + Topic.STATE_SYNC
SEED = bytes.fromhex("9dfc3c64c2f8bede1533b6a79f8570e5943e0b8fd1cf77107adf7b72cef42185" * 2)


@functools.cache
def account_keys() -> AccountKeys:
    """The keys of every simulated wallet."""
    return derive_account_keys(SEED, 0)


Document = dict[str, Any]

_ASSETS: dict[str, Document] = {
    "ETH": {"type": "native", "symbol": "ETH"},
    "USDT": {"type": "erc20", "symbol": "USDT", "contract": checksum_address(TOKEN), "decimals": 6},
    "OTH": {"type": "erc20", "symbol": "OTH", "contract": checksum_address(OTHER_TOKEN), "decimals": 18},
}


def draw_document(choice: random.Random, chain_length: int) -> Document:
    """A `WalletManager` with small numbers, so that a short chain meets every rule."""
    depth = choice.randint(1, 6)
    by_tag = choice.random() < 0.25
    quorum = choice.choice((1, 1, 2))
    start: str | int = choice.randint(0, min(chain_length, 40))
    if chain_length <= 40 and choice.random() < 0.5:
        start = "latest"  # else there is something to catch up with
    chain = {
        "id": CHAIN_ID,
        "rpc": [{"url": f"http://fake:{8545 + at}"} for at in range(2 * quorum - 1)],
        "quorum": quorum,
        "confirmation": {"tag": "finalized"} if by_tag else {"depth": depth},
        "settleDepth": choice.randint(max(2, depth), 12),
        "staleAfterSeconds": 0,
        "startBlock": start,
    }
    assets = choice.choice((("ETH", "USDT"), ("ETH", "USDT"), ("ETH",), ("USDT",), ("ETH", "USDT", "OTH")))
    document = {
        "apiVersion": "wallet-manager.dev/v1alpha1",
        "kind": "WalletManager",
        "metadata": {"name": "simulated", "namespace": "default"},
        "spec": {
            "chain": chain,
            "kafka": {
                "bootstrapServers": "fake:9092",
                "topicPrefix": PREFIX,
                "partitions": choice.randint(1, 4),
                "replicationFactor": 1,
            },
            "redis": {"url": "redis://fake:6379/0"},
            "accounts": {
                "fingerprint": account_keys().fingerprint,
                "xpubFrom": {"secretKeyRef": {"name": "accounts", "key": "xpub"}},
            },
            "assets": [_ASSETS[symbol] for symbol in assets],
            "tuning": {
                "lockTtlSeconds": choice.choice((2, 5, 20)),
                "transactionTimeoutSeconds": choice.choice((2, 5, 15)),
                "pollSeconds": choice.choice((0.5, 1.0, 3.0)),
            },
        },
    }
    if choice.random() < 0.7:
        _set_gas_address(document)
    return document


def change(document: Document, choice: random.Random, trace: Trace) -> Document:
    """The resource as somebody edited it: an asset more or less, a gas address, or nothing that matters."""
    changed = copy.deepcopy(document)
    spec = changed["spec"]
    kind = choice.choice(("nothing", "asset", "asset", "gas address"))
    if kind == "asset":
        asset = _ASSETS[choice.choice(list(_ASSETS))]
        if asset not in spec["assets"]:
            spec["assets"].append(asset)
            trace.happened(What.ASSET_ADDED, asset["symbol"])
        elif len(spec["assets"]) > 1:
            spec["assets"].remove(asset)
            trace.happened(What.ASSET_REMOVED, asset["symbol"])
    elif kind == "gas address" and "sweep" not in spec:
        _set_gas_address(changed)
        trace.happened(What.GAS_ADDRESS)
    return changed


def _set_gas_address(document: Document) -> None:
    document["spec"]["sweep"] = {"gasAddress": checksum_address(account_keys().gas_address)}
