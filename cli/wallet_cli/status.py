"""`walletctl status`: what each local worker says of itself, and whether all is well."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import typer

from wallet_cli.exit_codes import EXIT_NO, EXIT_TIMEOUT
from wallet_cli.output import Output, OutputOption, fail, show
from wallet_cli.running import RUN_DIRECTORY, RunningWallet, RunningWorker
from wallet_cli.wallet_file import FileOption, RunDirectoryOption, find_running
from wallet_core.reasons import Reason
from wallet_core.settings import Role

ANSWER_SECONDS_MAX = 2.0
WAIT_SECONDS = 60.0
POLL_SECONDS = 0.5
_SHOWN = ("leader", "block", "tip", "lag", "addresses")


@dataclass(frozen=True)
class Report:
    """One worker's answer."""

    worker: RunningWorker
    problem: str = ""
    """Why there is none."""
    document: dict[str, Any] = field(default_factory=dict)
    """As `/status` serves it."""

    @property
    def is_working(self) -> bool:
        """Whether the worker says that it is."""
        return self.document.get("reason") == Reason.WORKING


def status(
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until all workers are Working.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait.", min=0)] = WAIT_SECONDS,
    file: FileOption = None,
    run_directory: RunDirectoryOption = RUN_DIRECTORY,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say how the wallet's workers are.

    Of the wallet that runs here. Exit code 0 if all are Working and one of sync leads, 1 if not.
    """
    deadline = time.monotonic() + (timeout if wait else 0)
    wallet, reports = asyncio.run(
        look_until(lambda: look(file, run_directory), lambda: wait and time.monotonic() < deadline)
    )
    if wallet is None:
        fail(_nothing_runs(file, run_directory), EXIT_TIMEOUT if wait else EXIT_NO)
    show(table(reports) if output is Output.TABLE else document(wallet, reports), output)
    if not all_working(reports):
        if wait:
            fail(f"not all workers are Working after {timeout:g} s", EXIT_TIMEOUT)
        raise typer.Exit(EXIT_NO)


Look = tuple[RunningWallet | None, list[Report]]


async def look_until(
    look: Callable[[], Awaitable[Look]], go_on: Callable[[], bool], *, pause_seconds: float = POLL_SECONDS
) -> Look:
    """Look again and again, until all work or `go_on` says no."""
    while True:
        wallet, reports = await look()
        if all_working(reports) or not go_on():
            return wallet, reports
        await asyncio.sleep(pause_seconds)


async def look(file: Path | None, run_directory: Path) -> Look:
    """The wallet that runs, if any, and what each of its workers says. Raises InvalidSetting."""
    wallet = find_running(file, run_directory)
    if wallet is None:
        return None, []
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS_MAX)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        reports = await asyncio.gather(*(ask(session, wallet.wallet, worker) for worker in wallet.workers))
    return wallet, list(reports)


async def ask(session: aiohttp.ClientSession, wallet: str, worker: RunningWorker) -> Report:
    """One worker's report. An answer of somebody else, who has its port by now, is none."""
    if worker.url is None:
        return Report(worker, "not running; waits to be started again")
    try:
        async with session.get(f"{worker.url}/status") as response:
            response.raise_for_status()
            found = await response.json()
    except TimeoutError:
        return Report(worker, f"no answer within {ANSWER_SECONDS_MAX:g} s")
    except (aiohttp.ClientError, ValueError) as error:
        return Report(worker, f"no answer: {error}")
    if not isinstance(found, dict) or (found.get("role"), found.get("wallet")) != (worker.role, wallet):
        return Report(worker, f"somebody else answers at {worker.url}")
    return Report(worker, document=found)


def all_working(reports: Sequence[Report]) -> bool:
    """Whether there are workers, each says that it works, and one of sync leads: while none does, no block is read."""
    has_leader = any(report.document.get("leader") for report in reports if report.worker.role == Role.SYNC)
    return has_leader and all(report.is_working for report in reports)


def table(reports: Sequence[Report]) -> list[dict[str, object]]:
    """One row a worker, for a person."""
    return [
        {
            "worker": report.worker.name,
            "reason": report.document.get("reason", "no answer"),
            **{name: report.document.get(name) for name in _SHOWN},
            "message": report.problem or report.document.get("message") or None,
        }
        for report in reports
    ]


def document(wallet: RunningWallet, reports: Sequence[Report]) -> dict[str, object]:
    """Everything, for a program."""
    return {
        "wallet": wallet.wallet,
        "working": all_working(reports),
        "workers": [
            {
                "worker": report.worker.name,
                "pid": report.worker.pid,
                "url": report.worker.url,
                "problem": report.problem or None,
                "status": report.document or None,
            }
            for report in reports
        ],
    }


def _nothing_runs(file: Path | None, run_directory: Path) -> str:
    which = "no wallet" if file is None else f"the wallet of {file} does not run, or not"
    return f"{which} runs here ({run_directory}): start it with `walletctl run -f FILE`"
