"""The operator's Prometheus metrics, in one place so that alerts and dashboards find their names."""

from __future__ import annotations

from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge

from wallet_operator.kinds import Key


class Metrics:
    """Every metric of the operator."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.leading = Gauge("wallet_operator_leading", "1 while this replica holds the Lease", registry=registry)
        self.wallets = Gauge("wallet_operator_wallets", "WalletManagers that are served", registry=registry)
        self.reconciles = Counter(
            "wallet_operator_reconciles",
            "Looks at a wallet, by how much was asked for: look or reconcile",
            ["ask"],
            registry=registry,
        )
        self.failures = Counter(
            "wallet_operator_failures",
            "Looks that failed and are begun again, by the error's code",
            ["error_code"],
            registry=registry,
        )
        self.applied = Counter(
            "wallet_operator_applied", "Objects applied, by kind and cause", ["kind", "why"], registry=registry
        )
        self.drift = Counter(
            "wallet_operator_drift",
            "Objects that somebody changed though what is desired of them was the same",
            ["kind"],
            registry=registry,
        )
        self.ready = Gauge(
            "wallet_ready", "1 where the wallet's condition Ready is True", ["namespace", "name"], registry=registry
        )
        self.upgrade_stuck = Gauge(
            "wallet_operator_upgrade_stuck",
            "1 where the wallet that was upgraded last is not Ready, and the others wait",
            registry=registry,
        )
        self.resynced_at = Gauge(
            "wallet_operator_resynced_timestamp_seconds", "When all wallets were listed last", registry=registry
        )

    def say_ready(self, key: Key, *, is_ready: bool) -> None:
        """Whether a wallet is Ready."""
        self.ready.labels(*key).set(is_ready)

    def forget(self, key: Key) -> None:
        """A wallet is gone."""
        with suppress(KeyError):  # it may never have been said to be ready or not
            self.ready.remove(*key)
