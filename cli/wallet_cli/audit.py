"""`walletctl audit`: proves that every settled block was read, and that addresses hold what was published.

It reads Kafka and the node and changes nothing. See `auditing.py` for how, `wallet_core.audits` for what is compared.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import structlog
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from wallet_cli.auditing import Audit, AuditPorts, Report, Scope
from wallet_cli.exit_codes import EXIT_NO, EXIT_USAGE
from wallet_cli.output import Output, OutputOption, fail, show
from wallet_cli.run import SECRETS_DIRECTORY
from wallet_cli.running import RUN_DIRECTORY
from wallet_cli.wallet_file import FileOption, RunDirectoryOption, find_wallet
from wallet_core.addresses import Address, parse_address
from wallet_core.coverage import Blocks
from wallet_core.messages import Topic
from wallet_core.orders import BLOCK_NUMBER_MAX
from wallet_core.resource import RpcEndpoint, WalletManager
from wallet_workers.adapters.account_states import AccountStates
from wallet_workers.adapters.endpoints import EndpointStatus
from wallet_workers.adapters.json_rpc import Endpoint, Fault
from wallet_workers.adapters.kafka_accounts import KafkaAccounts
from wallet_workers.adapters.kafka_clients import KafkaClients
from wallet_workers.adapters.kafka_published import KafkaPublishedEvents
from wallet_workers.adapters.kafka_state import KafkaStateView
from wallet_workers.adapters.secret_files import SecretKeyFile
from wallet_workers.adapters.system_clock import SystemClock


def audit(
    *,
    from_block: Annotated[
        int | None, typer.Option("--from", help="First block; else the beginning.", min=0, max=BLOCK_NUMBER_MAX)
    ] = None,
    to_block: Annotated[
        int | None, typer.Option("--to", help="Last block; else the newest settled one.", min=0, max=BLOCK_NUMBER_MAX)
    ] = None,
    address: Annotated[
        list[str] | None, typer.Option(help="This address only; may be given several times, for a watched one too.")
    ] = None,
    secrets: Annotated[
        Path, typer.Option(help="Directory with each secret's keys as files, <name>/<key>.")
    ] = SECRETS_DIRECTORY,
    file: FileOption = None,
    run_directory: RunDirectoryOption = RUN_DIRECTORY,
    output: OutputOption = Output.TABLE,
) -> None:
    """Prove that every settled block was read, and that every address holds what was published.

    Each difference is listed with its cause and what to do. Exit code 0: there is none. 1: there are differences.
    2: these blocks or addresses cannot be audited. 3: Kafka or the node does not answer, or there is no checkpoint.
    """
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))  # stdout is the answer's
    wallet = find_wallet(file, run_directory)
    scope = Scope(from_block, to_block, tuple(map(_checked, address or ())))
    with _Bar(shown=output is Output.TABLE and sys.stderr.isatty()) as bar:
        report = asyncio.run(_audit(wallet, secrets, scope, bar))
    if output is Output.JSON:
        show(document(report), output)
    else:
        show(summary(report), output)
        if report.differences:
            typer.echo()
            show(_differences(report), output)
    if report.differences:
        raise typer.Exit(EXIT_NO)


async def _audit(wallet: WalletManager, secrets: Path, scope: Scope, bar: _Bar) -> Report:
    async with _ports(wallet, secrets) as ports:
        return await Audit(wallet, ports, scope, bar).run()


@asynccontextmanager
async def _ports(wallet: WalletManager, secrets: Path) -> AsyncIterator[AuditPorts]:
    chain, kafka = wallet.spec.chain, wallet.spec.kafka
    clients = KafkaClients(kafka.bootstrap_servers)
    stall_seconds = wallet.spec.tuning.transaction_timeout_seconds + clients.request_timeout_ms / 1000
    async with AccountStates(
        [_endpoint(each, secrets) for each in chain.rpc],
        chain_id=chain.id,
        with_finalized=False,
        clock=SystemClock(),
        events=_Unobserved(),
        quorum=chain.quorum,
        verify=chain.verify,
    ) as node:
        yield AuditPorts(
            node=node,
            state=KafkaStateView(clients, kafka.topic_prefix + Topic.STATE_SYNC),
            accounts=KafkaAccounts(clients, topic_prefix=kafka.topic_prefix, stall_seconds=stall_seconds),
            published=KafkaPublishedEvents(clients, topic_prefix=kafka.topic_prefix, stall_seconds=stall_seconds),
        )


def _endpoint(endpoint: RpcEndpoint, secrets: Path) -> Endpoint:
    if endpoint.url_from is not None:
        return Endpoint(SecretKeyFile(secrets, endpoint.url_from).read())
    return Endpoint(endpoint.url or "")


class _Unobserved:
    """`EndpointEvents` that nobody looks at: what matters is raised."""

    def request_ended(self, endpoint: int, method: str, seconds: float) -> None:
        pass

    def endpoint_failed(self, endpoint: int, fault: Fault) -> None:
        pass

    def endpoint_changed(self, status: EndpointStatus) -> None:
        pass


# --- the answer -----------------------------------------------------------------------------------------------------


def document(report: Report) -> Mapping[str, object]:
    """The report for programs; amounts are integers of base units, as strings."""
    joins = report.joins
    return {
        "wallet": report.wallet,
        "clean": not report.differences,
        "from_block": report.first,
        "block": asdict(report.block),
        "coverage": {
            "covered": asdict(joins.covered) if joins.covered else None,
            "buckets_checked": report.buckets_checked,
            "unrecorded": [asdict(blocks) for blocks in joins.unrecorded],
            "unsettled": asdict(report.unsettled) if report.unsettled else None,
        },
        "addresses": report.addresses,
        "assets": list(report.assets),
        "events_passed_over": report.passed_over,
        "tokens_unsought": report.tokens_unsought,
        "differences": _differences(report),
    }


def summary(report: Report) -> Mapping[str, object]:
    """The report's head for a person."""
    joins = report.joins
    covered = f"{_range(joins.covered)}, {report.buckets_checked} digests checked" if joins.covered else "none yet"
    facts: dict[str, object] = {
        "wallet": report.wallet,
        "differences": len(report.differences),
        "blocks": f"{report.first or 0} to {report.block.number} {report.block.hash}",
        "covered_blocks": covered,
    }
    if joins.unrecorded:
        ranges = ", ".join(map(_range, joins.unrecorded))
        facts["without_record"] = f"{ranges}: read before a rewind, or by a release that kept no record"
    if report.unsettled:
        facts["not_settled_yet"] = _range(report.unsettled)
    facts["balances"] = f"{report.addresses} addresses, {', '.join(report.assets) or 'no asset'}"
    if report.passed_over:
        facts["passed_over"] = f"{report.passed_over} records on `transaction`: no deposits' events"
    if report.tokens_unsought:
        facts["unlisted_tokens"] = f"not looked for: {report.tokens_unsought}"
    return facts


def _differences(report: Report) -> list[dict[str, object]]:
    return [
        {
            "cause": each.cause.value,
            "address": each.address,
            "asset": each.asset,
            "amount": None if each.amount is None else str(each.amount),
            "first_block": each.first_block,
            "last_block": each.last_block,
            "transactions": list(each.transactions),
            "message": each.message,
        }
        for each in report.differences
    ]


def _range(blocks: Blocks) -> str:
    return f"{blocks.first} to {blocks.last}" if blocks.first != blocks.last else str(blocks.first)


class _Bar:
    """Shows how far the audit is, on stderr."""

    def __init__(self, *, shown: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), disable=not shown, transient=True)
        self._task = self._progress.add_task("reading Kafka", total=None)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        self._progress.update(self._task, description=what, completed=done, total=total)


def _checked(address: str) -> Address:
    try:
        return parse_address(address)
    except ValueError as error:
        fail(f"--address: {error}", EXIT_USAGE)
