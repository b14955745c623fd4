"""Grafana's dashboard of the wallets, as JSON on the standard output; `make generated` keeps it in the chart.

Written as a program and not as JSON by hand, so that what the panels have in common (data source, selection of wallets,
legend) is said once, and a change of a query is a change of one line.
"""

import json
import sys
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common, dashboard, prometheus, statetimeline, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, VisibilityMode
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef, VariableRefresh

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
WALLETS = 'namespace=~"$namespace", wallet=~"$wallet"'
"""Selects the series of the chosen wallets; the chart's PodMonitor gives them these labels."""
PANEL_HEIGHT = 8
PANELS_IN_A_ROW = 3
GRID_WIDTH = 24


@dataclass(frozen=True)
class Graph:
    """One panel: `query` with `@` in the place of the selection of wallets."""

    title: str
    query: str
    legend: str
    unit: str = "short"
    description: str = ""


RATE = "rate(%s{@}[$__rate_interval])"
ROWS: dict[str, tuple[Graph, ...]] = {
    "The chain": (
        Graph("Last block written", "max by (namespace, wallet) (wallet_block{@})", "{{wallet}}", "none"),
        Graph(
            "Lag",
            "max by (namespace, wallet) (wallet_lag_blocks{@} and on (namespace, pod) wallet_leading{@} == 1)",
            "{{wallet}}",
            description="Blocks between the node's newest one and the last one written, as the leader sees it.",
        ),
        Graph(
            "Blocks scanned in spans",
            f"sum by (wallet, pod) ({RATE % 'wallet_span_blocks_scanned_total'})",
            "{{pod}}",
            "ops",
            "While the wallet catches up; at the head it is 0.",
        ),
        Graph("Unsettled blocks", "max by (namespace, wallet) (wallet_window_blocks{@})", "{{wallet}}"),
        Graph(
            "Blocks taken back by forks",
            "sum by (wallet) (increase(wallet_rolled_back_blocks_total{@}[$__rate_interval]))",
            "{{wallet}}",
        ),
        Graph(
            "Blocks without traces",
            "sum by (wallet) (increase(wallet_untraced_blocks_total{@}[$__rate_interval]))",
            "{{wallet}}",
            description="What contracts paid in these was not seen; `walletctl sync rescan` finds it.",
        ),
    ),
    "Accounts and deposits": (
        Graph("Events", f"sum by (wallet, status) ({RATE % 'wallet_events_total'})", "{{wallet}} {{status}}", "ops"),
        Graph(
            "Commands", f"sum by (wallet, outcome) ({RATE % 'wallet_commands_total'})", "{{wallet}} {{outcome}}", "ops"
        ),
        Graph("Watched addresses", "max by (namespace, wallet) (wallet_addresses{@})", "{{wallet}}"),
    ),
    "Kafka and nodes": (
        Graph(
            "Append to the ledger, p99",
            f"histogram_quantile(0.99, sum by (wallet, le) ({RATE % 'wallet_append_seconds_bucket'}))",
            "{{wallet}}",
            "s",
        ),
        Graph(
            "Node's answers, p99",
            f"histogram_quantile(0.99, sum by (wallet, endpoint, method, le) ({RATE % 'wallet_rpc_seconds_bucket'}))",
            "{{wallet}} rpc[{{endpoint}}] {{method}}",
            "s",
        ),
        Graph(
            "Usable endpoints",
            "sum by (wallet, endpoint) (wallet_rpc_usable{@})",
            "{{wallet}} rpc[{{endpoint}}]",
            description="How many workers can use it.",
        ),
        Graph(
            "Faults of nodes",
            f"sum by (wallet, endpoint, fault) ({RATE % 'wallet_rpc_errors_total'})",
            "{{wallet}} rpc[{{endpoint}}] {{fault}}",
            "ops",
        ),
        Graph(
            "Steps begun again",
            f"sum by (wallet, role, error_code) ({RATE % 'wallet_retries_total'})",
            "{{wallet}} {{role}} {{error_code}}",
            "ops",
        ),
        Graph(
            "Scanners' results refused",
            f"sum by (wallet, cause) ({RATE % 'wallet_spans_refused_total'})",
            "{{wallet}} {{cause}}",
            "ops",
        ),
    ),
}


def query(expression: str, legend: str) -> prometheus.Dataquery:
    """A query for the chosen wallets."""
    return prometheus.Dataquery().expr(expression.replace("@", WALLETS)).legend_format(legend).range().ref_id("A")


def graph_panel(graph: Graph) -> timeseries.Panel:
    """A graph over time."""
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    return (
        timeseries.Panel()
        .title(graph.title)
        .description(graph.description)
        .datasource(SOURCE)
        .unit(graph.unit)
        .min(0)
        .legend(legend.show_legend(True))
        .height(PANEL_HEIGHT)
        .span(GRID_WIDTH // PANELS_IN_A_ROW)
        .with_target(query(graph.query, graph.legend))
    )


def state_panel() -> statetimeline.Panel:
    """What each wallet was like, over time: the reasons that its workers gave, of which Working is the good one."""
    expression = "max by (namespace, wallet, reason) (wallet_reason{@}) == 1"
    return (
        statetimeline.Panel()
        .title("Reasons")
        .description("What the workers of each wallet say; Working and nothing else is as it should be.")
        .datasource(SOURCE)
        .show_value(VisibilityMode.NEVER)
        .height(PANEL_HEIGHT)
        .span(GRID_WIDTH)
        .with_target(query(expression, "{{wallet}} {{reason}}"))
    )


def label_variable(name: str, values: str) -> dashboard.QueryVariable:
    """A choice among the values of a label."""
    return (
        dashboard.QueryVariable(name)
        .datasource(SOURCE)
        .query(values)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .include_all(True)
        .all_value(".*")
        .multi(True)
    )


def wallets() -> dashboard.Dashboard:
    """The dashboard."""
    board = (
        dashboard.Dashboard("wallet-manager")
        .uid("wallet-manager")
        .description("Deposit wallets: what they do, how far behind they are, and what is wrong.")
        .tags(["wallet-manager"])
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .refresh("30s")
        .time("now-3h", "now")
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
        .with_variable(label_variable("namespace", "label_values(wallet_reason, namespace)"))
        .with_variable(label_variable("wallet", 'label_values(wallet_reason{namespace=~"$namespace"}, wallet)'))
        .with_row(dashboard.Row("At a glance"))
        .with_panel(state_panel())
    )
    for title, graphs in ROWS.items():
        board = board.with_row(dashboard.Row(title))
        for graph in graphs:
            board = board.with_panel(graph_panel(graph))
    return board


if __name__ == "__main__":
    json.dump(wallets().build(), sys.stdout, cls=JSONEncoder, indent=1, sort_keys=True)
    print()
