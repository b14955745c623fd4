"""The run file: who supervises which workers here, and since when."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from wallet_cli.running import Process, RunFile, RunningWorker, RunsAlready, running_wallets

WALLET = "default.local"


def _claim(directory: Path) -> RunFile:
    return RunFile.claim(directory, WALLET, Path("wallet.yaml"))


def _rewrite(file: RunFile, **supervisor: int) -> None:
    content: dict[str, Any] = json.loads(file.path.read_text())
    content["supervisor"] |= supervisor
    file.path.write_text(json.dumps(content))


def test_the_file_says_what_runs(tmp_path: Path) -> None:
    """Whoever reads it finds the supervisor, the resource by its whole path, and each worker's address."""
    file = _claim(tmp_path / "run")
    file.list_workers([RunningWorker("sync", 0, 17, "http://127.0.0.1:1"), RunningWorker("sync", 1)])
    assert json.loads((tmp_path / "run" / f"{WALLET}.json").read_text()) == {
        "wallet": WALLET,
        "supervisor": {"pid": os.getpid(), "started_ticks": Process.of(os.getpid()).started_ticks},  # type: ignore[union-attr]  # it is us
        "resource": str(Path("wallet.yaml").resolve()),
        "workers": [
            {"role": "sync", "replica": 0, "pid": 17, "url": "http://127.0.0.1:1"},
            {"role": "sync", "replica": 1, "pid": None, "url": None},
        ],
    }
    (found,) = running_wallets(tmp_path / "run")
    assert [worker.name for worker in found.workers] == ["sync-0", "sync-1"]


def test_a_wallet_has_one_supervisor(tmp_path: Path) -> None:
    """A second run of a running wallet is refused in one line that names the first."""
    _claim(tmp_path)
    with pytest.raises(
        RunsAlready, match=rf"^{WALLET} runs already, supervised by pid {os.getpid()}: .*kill"
    ) as raised:
        _claim(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("change", [{"pid": 2**22 + 1}, {"started_ticks": 1}])
def test_a_dead_supervisors_file_counts_for_nothing(tmp_path: Path, change: dict[str, int]) -> None:
    """Neither a pid that is gone nor one that another process has by now is taken for the supervisor."""
    _rewrite(_claim(tmp_path), **change)
    assert running_wallets(tmp_path) == []
    _claim(tmp_path)
    assert [wallet.wallet for wallet in running_wallets(tmp_path)] == [WALLET]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"wallet": 1}', b"\xff"])
def test_a_file_that_nobody_can_read_counts_for_nothing(tmp_path: Path, content: bytes) -> None:
    """Half a file, or a stranger's, neither stops a run nor any other command."""
    (tmp_path / f"{WALLET}.json").write_bytes(content)
    assert running_wallets(tmp_path) == []
    _claim(tmp_path)
    assert len(running_wallets(tmp_path)) == 1


def test_the_end_removes_the_file_and_nothing_else(tmp_path: Path) -> None:
    """After a run nothing is left, drafts included; a file that is another's by now stays."""
    file = _claim(tmp_path)
    file.list_workers([])
    file.remove()
    assert list(tmp_path.iterdir()) == []
    file = _claim(tmp_path)
    _rewrite(file, started_ticks=1)
    file.remove()
    assert file.path.exists()


def test_no_directory_is_no_wallet(tmp_path: Path) -> None:
    """Before the first run there is nothing to find."""
    assert running_wallets(tmp_path / "none") == []
