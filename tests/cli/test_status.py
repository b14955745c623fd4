"""`walletctl status`: what the workers say, and what it makes of workers that say nothing."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from wallet_cli.output import Output, show
from wallet_cli.running import Process, RunFile, RunningWallet, RunningWorker
from wallet_cli.status import Look, Report, all_working, ask, document, look, look_until, table
from wallet_core.chain import BlockRef, Window, roll_back
from wallet_core.errors import ForkBelowWindow
from wallet_core.settings import Role
from wallet_workers.adapters.system_clock import SystemClock
from wallet_workers.status import WorkerStatus

WALLET = "default.local"
WORKING = {"role": "sync", "wallet": WALLET, "reason": "Working", "message": "", "leader": True, "block": 5, "tip": 6}
STALE = WORKING | {"reason": "TipStale", "message": "the newest block is 300 s old", "leader": False}


@asynccontextmanager
async def _serving(answer: Any) -> AsyncIterator[RunningWorker]:
    """A worker that answers so."""

    async def status(_request: web.Request) -> web.Response:
        return web.json_response(answer) if isinstance(answer, dict) else web.Response(text=answer)

    application = web.Application()
    application.add_routes([web.get("/status", status)])
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        yield RunningWorker("sync", 0, 17, f"http://127.0.0.1:{port}")
    finally:
        await runner.cleanup()


async def _asked(worker: RunningWorker) -> Report:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.5)) as session:
        return await ask(session, WALLET, worker)


async def test_a_workers_word_is_taken() -> None:
    """Its reason, facts and message are shown as they are."""
    async with _serving(STALE) as worker:
        report = await _asked(worker)
    assert not report.is_working
    assert table([report]) == [
        {
            "worker": "sync-0",
            "reason": "TipStale",
            "leader": False,
            "block": 5,
            "tip": 6,
            "lag": None,
            "addresses": None,
            "message": "the newest block is 300 s old",
        }
    ]


async def test_a_halt_by_a_deep_fork_is_shown_with_its_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    """Who is on call reads the block, what to check, and the command to type, in the table too."""
    said = WorkerStatus(Role.SYNC, WALLET, "cafe", SystemClock())
    with pytest.raises(ForkBelowWindow) as raised:
        roll_back(Window(BlockRef(1_234, "0x" + "ab" * 32)), 1_233)
    said.trouble(raised.value)
    async with _serving(said.as_dict()) as worker:
        report = await _asked(worker)
    assert not report.is_working
    show(table([report]), Output.TABLE)
    shown = " ".join(capsys.readouterr().out.split())
    assert "Halted" in shown
    for part in (
        "ForkBelowWindow: the chain forked below block 1234 0xabab",
        "check that the node follows the right chain",
        "`walletctl sync rewind --to N` goes on from a block below the fork",
    ):
        assert part in shown


@pytest.mark.parametrize("answer", [WORKING | {"role": "command"}, WORKING | {"wallet": "default.other"}])
async def test_somebody_elses_word_is_not_taken(answer: dict[str, object]) -> None:
    """Another wallet's worker that has the port by now does not make this one work."""
    async with _serving(answer) as worker:
        report = await _asked(worker)
    assert not report.is_working
    assert report.problem == f"somebody else answers at {worker.url}"


async def test_what_is_no_status_is_no_answer() -> None:
    """A server that speaks no JSON there is no worker."""
    async with _serving("hello") as worker:
        report = await _asked(worker)
    assert report.problem.startswith("no answer: ")


async def test_a_worker_that_is_silent_is_shown_as_such() -> None:
    """Neither a refused connection nor one that nobody answers holds up the others, or hides the worker."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        report = await _asked(RunningWorker("sync", 0, 17, f"http://127.0.0.1:{silent.getsockname()[1]}"))
        assert report.problem == "no answer within 2 s"
        refused = silent.getsockname()[1]
    report = await _asked(RunningWorker("sync", 0, 17, f"http://127.0.0.1:{refused}"))
    assert report.problem.startswith("no answer: Cannot connect")
    assert table([report])[0]["reason"] == "no answer"


async def test_a_worker_between_two_lives_is_shown_as_such() -> None:
    """It has no address to ask at."""
    report = await _asked(RunningWorker("sync", 0))
    assert report.problem == "not running; waits to be started again"


@pytest.mark.parametrize(
    ("documents", "expected"), [([], False), ([WORKING], True), ([WORKING, STALE], False), ([WORKING, {}], False)]
)
def test_all_is_well_only_if_every_worker_says_so(documents: list[dict[str, object]], expected: bool) -> None:
    """No worker at all is not well."""
    assert all_working([Report(RunningWorker("sync", 0), document=each) for each in documents]) is expected


def test_a_program_gets_everything() -> None:
    """The JSON form holds each worker's whole document, and why one has none."""
    wallet = RunningWallet(WALLET, Process(1, 1), "w.yaml")
    first = RunningWorker("sync", 0, 17, "http://127.0.0.1:1")
    found = document(wallet, [Report(first, document=WORKING), Report(RunningWorker("sync", 1), "not running")])
    assert json.loads(json.dumps(found)) == {
        "wallet": WALLET,
        "working": False,
        "workers": [
            {"worker": "sync-0", "pid": 17, "url": "http://127.0.0.1:1", "problem": None, "status": WORKING},
            {"worker": "sync-1", "pid": None, "url": None, "problem": "not running", "status": None},
        ],
    }


async def test_the_running_wallets_workers_are_asked(tmp_path: Path) -> None:
    """Those that the run file lists; without one there is no wallet, which is no error yet."""
    assert await look(None, tmp_path) == (None, [])
    async with _serving(WORKING) as worker:
        RunFile.claim(tmp_path, WALLET, Path("w.yaml")).list_workers([worker])
        wallet, reports = await look(None, tmp_path)
    assert wallet is not None
    assert wallet.wallet == WALLET
    assert [report.document for report in reports] == [WORKING]


async def test_a_wait_ends_when_all_work_or_the_time_is_over() -> None:
    """It looks again until then, also while there is no wallet yet."""
    wallet = RunningWallet(WALLET, Process(1, 1), "w.yaml")
    well = [Report(RunningWorker("sync", 0), document=WORKING)]
    ill = [Report(RunningWorker("sync", 0), document=STALE)]
    looks: list[Look] = [(None, []), (wallet, ill), (wallet, well), (wallet, ill)]

    async def look_again() -> Look:
        return looks.pop(0)

    assert await look_until(look_again, lambda: True, pause_seconds=0) == (wallet, well)
    assert await look_until(look_again, lambda: False) == (wallet, ill)
