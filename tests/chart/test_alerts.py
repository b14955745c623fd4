"""Alerts and dashboard: they ask for metrics that exist, by labels that these have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

import dashboard
from rendered_chart import Helm, Render, only
from resource_definition import CHART
from wallet_core.reasons import Reason
from wallet_core.resource import TransactionTuning
from wallet_core.settings import Role
from wallet_core.testing.fake_clock import FakeClock
from wallet_operator.metrics import Metrics as OperatorMetrics
from wallet_workers.adapters.kafka_clients import REQUEST_TIMEOUT_MS, START_TIMEOUT_SECONDS, STOP_TIMEOUT_SECONDS
from wallet_workers.metrics import Metrics as WorkerMetrics
from wallet_workers.status import WorkerStatus
from wallet_workers.stopping import RETRY_SECONDS_MAX

RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((CHART / "files/alerts.yaml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
QUERIES = [graph.query for graphs in dashboard.ROWS.values() for graph in graphs]
GIVEN_BY_PROMETHEUS = {"namespace", "pod", "wallet", "role", "job", "le"}
"""Labels of every worker's series: the pod's own, those of the chart's PodMonitor, and a histogram's."""
STEP_SECONDS_MAX = (
    TransactionTuning().transaction_timeout_seconds
    + REQUEST_TIMEOUT_MS / 1000
    + START_TIMEOUT_SECONDS
    + STOP_TIMEOUT_SECONDS
)
"""What the slowest step takes to fail: a write whose transaction stalls, with a new producer before and after."""


SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}


def series() -> dict[str, set[str]]:
    """The name of every series of the workers and the operator, and the labels of its own."""
    status = WorkerStatus(Role.SYNC, "wallets.mainnet", "", FakeClock())
    found: dict[str, set[str]] = {}
    for metrics in (WorkerMetrics(status), OperatorMetrics()):
        labels = {
            next(iter(each.describe())).name: set(each._labelnames)  # said nowhere else before the first sample
            for each in vars(metrics).values()
            if isinstance(each, MetricWrapperBase)
        }
        for family in metrics.registry.collect():
            own = labels.get(family.name, {label for sample in family.samples for label in sample.labels})
            found |= {family.name + suffix: own for suffix in SUFFIXES[family.type]}
    return found


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Every series that an expression selects, and by which labels. Fails where the expression cannot be read."""
    promql_parser.parse(expression)
    for name, conditions in re.findall(r"\b(wallet_\w+)(?:\{([^}]*)\})?", expression):
        yield name, set(re.findall(r"(\w+)\s*[=!]", conditions))


def grouping_labels(expression: str) -> set[str]:
    """Every label that series are grouped or matched by."""
    groups = re.findall(r"\b(?:by|on) \(([^)]*)\)", expression)
    return {label.strip() for group in groups for label in group.split(",")}


@pytest.mark.parametrize("expression", [rule["expr"] for rule in RULES] + QUERIES)
def test_an_expression_asks_for_what_exists(expression: str) -> None:
    """An alert on a metric that was renamed never fires, and nobody notices."""
    known = series()
    query = expression.replace("@", dashboard.WALLETS).replace("$__rate_interval", "1m")
    own: set[str] = set()
    for name, labels in selectors(query):
        assert name in known, name
        assert labels <= known[name] | GIVEN_BY_PROMETHEUS
        own |= known[name]
    assert grouping_labels(query) <= own | GIVEN_BY_PROMETHEUS


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_what_and_what_to_do_by_labels_that_it_has(rule: dict[str, Any]) -> None:
    """Whoever is woken reads which wallet it is, not `<no value>`."""
    assert rule["labels"]["severity"] in {"critical", "warning"}
    text = rule["annotations"]["summary"] + rule["annotations"]["description"]
    used = set(re.findall(r"\$labels\.(\w+)", text))
    assert used <= (grouping_labels(rule["expr"]) if "by (" in rule["expr"] else set())


def test_what_matters_first_has_an_alert() -> None:
    """Halted, behind, a stale tip, missing workers, errors; and the reasons in them are reasons that there are."""
    named = {rule["alert"] for rule in RULES}
    assert {"WalletHalted", "WalletBehind", "WalletTipStale", "WalletWorkersMissing", "WalletErrors"} <= named
    reasons = [reason for rule in RULES for reason in re.findall(r'reason!?=~?"([^"]*)"', rule["expr"])]
    assert {word for each in reasons for word in each.split("|")} <= {reason.value for reason in Reason}


def seconds(duration: str) -> int:
    """Of Prometheus' `10m`."""
    return int(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]]


def window_and_limit(alert: str) -> tuple[int, float, int]:
    """Seconds that the alert looks back, the count in them that is too much, and seconds for which that must hold."""
    (rule,) = [rule for rule in RULES if rule["alert"] == alert]
    found = re.search(r"(rate|increase)\(\w+(?:\{.*\})?\[(\w+)\]\)\) > ([\d.]+)$", rule["expr"])
    assert found is not None
    window = seconds(found[2])
    return window, float(found[3]) * (window if found[1] == "rate" else 1), seconds(rule["for"])


def test_a_fault_that_lasts_is_an_alert_and_one_that_passes_is_none() -> None:
    """Tries get rarer as a fault lasts, so the limit lies below one try with the longest pause and the slowest step."""
    window, tries, lasting = window_and_limit("WalletErrors")
    assert 2 < tries < window / (RETRY_SECONDS_MAX + STEP_SECONDS_MAX)
    assert window < lasting, "one burst of tries leaves the window before the alert fires"


def test_commands_that_are_refused_now_and_then_are_an_alert() -> None:
    """One a minute is a customer a minute without an address; a single mistake wakes nobody."""
    window, refused, lasting = window_and_limit("WalletCommandsRefused")
    assert window / 60 > refused
    assert window < lasting


def test_the_alerts_of_a_release_are_about_its_own_operator(render: Render) -> None:
    """Another release's operator, alive and well, would hide that this one is down. `job` is as the Prometheus operator
    writes it: namespace and name of the PodMonitor."""
    documents = render("prometheusRule.enabled=true", "podMonitor.enabled=true", "fullnameOverride=one")
    assert only(documents, "PodMonitor", "one")["metadata"]["namespace"] == "operators"
    (group,) = only(documents, "PrometheusRule")["spec"]["groups"]
    for alert in ("WalletOperatorDown", "WalletUpgradeStuck"):
        (rule,) = [each for each in group["rules"] if each["alert"] == alert]
        asked = re.findall(r"wallet_operator_\w+(\S*?)[ )]", rule["expr"])
        assert asked
        assert set(asked) == {'{job="operators/one"}'}
        assert "operators/one" in rule["annotations"]["summary"]


def test_alerts_without_the_monitors_are_refused(helm: Helm) -> None:
    """One would fire for ever, the others never; the message says what to set."""
    done = helm("template", "wm", CHART, "--set", "prometheusRule.enabled=true")
    assert done.returncode != 0
    assert "Set podMonitor.enabled=true too" in done.stderr


def test_the_rule_and_the_dashboard_arrive_whole(render: Render) -> None:
    """Helm's templates and Prometheus' use the same braces: nothing may be taken for the other's."""
    documents = render("prometheusRule.enabled=true", "podMonitor.enabled=true", "dashboard.enabled=true")
    (group,) = only(documents, "PrometheusRule")["spec"]["groups"]
    with_job = json.dumps(RULES).replace("RELEASE_JOB", "operators/wm-wallet-manager")
    assert group["rules"] == json.loads(with_job)
    (text,) = only(documents, "ConfigMap")["data"].values()
    board = json.loads(text)
    expressions = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    assert [query.replace("@", dashboard.WALLETS) for query in QUERIES] == expressions[1:]
