"""The workers' Prometheus metrics, in one place so that alerts and dashboards find their names.

Each process has a registry of its own, made at its start: tests and several workers in one process do not share counts.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from wallet_core.reasons import Reason
from wallet_workers.status import WorkerStatus

_LATENCY_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Every metric of a worker; a role uses those of its work."""

    def __init__(self, status: WorkerStatus) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_ReasonCollector(status))
        registry = self.registry
        self.commands = Counter(
            "wallet_commands",
            "Commands answered, by outcome: created, watched, or the error_code",
            ["outcome"],
            registry=registry,
        )
        self.leading = Gauge("wallet_leading", "1 while this worker holds its role's lock", registry=registry)
        self.block = Gauge("wallet_block", "Number of the last appended block", registry=registry)
        self.tip = Gauge("wallet_tip", "Number of the node's newest block", registry=registry)
        self.lag = Gauge(
            "wallet_lag_blocks", "Blocks between the node's tip and the last appended block", registry=registry
        )
        self.window = Gauge("wallet_window_blocks", "Unsettled blocks in the window", registry=registry)
        self.addresses = Gauge("wallet_addresses", "Addresses that are watched", registry=registry)
        self.traces_available = Gauge(
            "wallet_traces_available",
            "1 where the node could trace the last block: what contracts pay is seen",
            registry=registry,
        )
        self.untraced_blocks = Counter(
            "wallet_untraced_blocks",
            "Blocks scanned without traces: what contracts paid in them was not seen",
            registry=registry,
        )
        self.untraced_transactions = Counter(
            "wallet_untraced_transactions",
            "Transactions that no endpoint could trace: what contracts paid in them was not seen; the log names them",
            registry=registry,
        )
        self.malformed_logs = Counter(
            "wallet_malformed_logs",
            "Transfer logs of listed tokens whose form is not ERC-20's; they may be deposits, and are not reported",
            ["contract"],
            registry=registry,
        )
        self.events = Counter("wallet_events", "Events published on transaction", ["status"], registry=registry)
        self.rollbacks = Counter("wallet_rollbacks", "Forks that took blocks back", registry=registry)
        self.rolled_back_blocks = Counter("wallet_rolled_back_blocks", "Blocks taken back by forks", registry=registry)
        self.append_seconds = Histogram(
            "wallet_append_seconds", "Duration of one append to the ledger", buckets=_LATENCY_BUCKETS, registry=registry
        )
        self.retries = Counter(
            "wallet_retries",
            "Steps that failed and were begun again, by the error's code",
            ["error_code"],
            registry=registry,
        )
        self.spans_posted = Counter("wallet_spans_posted", "Spans offered to the scanners", registry=registry)
        self.spans_scanned = Counter("wallet_spans_scanned", "Spans scanned by this worker", registry=registry)
        self.blocks_scanned = Counter(
            "wallet_span_blocks_scanned",
            "Blocks of spans scanned by this worker: its rate is blocks/s",
            registry=registry,
        )
        self.spans_refused = Counter(
            "wallet_spans_refused",
            "Results of scanners that were not believed, by the cause",
            ["cause"],
            registry=registry,
        )
        self.spans_overdue = Counter(
            "wallet_spans_overdue", "Spans scanned inline because no result came in time", registry=registry
        )
        self.span_failures = Counter(
            "wallet_span_failures",
            "Failed tries to scan a span, by the error's code",
            ["error_code"],
            registry=registry,
        )
        self.rpc_errors = Counter(
            "wallet_rpc_errors",
            "Failed requests to a node, by the endpoint's number and the fault",
            ["endpoint", "fault"],
            registry=registry,
        )
        self.rpc_seconds = Histogram(
            "wallet_rpc_seconds",
            "Duration of requests to a node",
            ["endpoint", "method"],
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.rpc_usable = Gauge(
            "wallet_rpc_usable", "1 where the endpoint proved its chain and answers", ["endpoint"], registry=registry
        )


class _ReasonCollector(Collector):
    def __init__(self, status: WorkerStatus) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(
            "wallet_reason", "1 for the worker's current reason, 0 for the others", labels=["reason"]
        )
        current = self._status.reason
        for reason in Reason:
            family.add_metric([reason.value], 1.0 if reason is current else 0.0)
        yield family
