"""`walletctl` as a user has it: a wallet on this machine, an account, a deposit, and the end, on real services."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mnemonic import Mnemonic

from devstack.processes import wait_until
from devstack.services import Ganache, Kafka, Redis
from wallet_cli.running import Process, RunningWallet, running_wallets
from wallet_core.keys import derive_account_keys

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples/walletmanager-local.yaml"
SEED = Mnemonic.to_seed("test test test test test test test test test test test junk")
TIMEOUT_SECONDS = 150.0
ETHER = 10**18
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


class Walletctl:
    """The command line in a directory of its own, where `walletctl run` runs the example on the test's services."""

    def __init__(self, home: Path, kafka: Kafka, redis: Redis, ganache: Ganache) -> None:
        self._home = home
        text = EXAMPLE.read_text()
        for example, real in (
            ("127.0.0.1:19092", kafka.bootstrap_servers),
            ("127.0.0.1:16379", f"127.0.0.1:{redis.port}"),
            ("127.0.0.1:18545", f"127.0.0.1:{ganache.port}"),
            ('topicPrefix: ""', f"topicPrefix: {home.name}."),
            ("name: local", f"name: {home.name}"),
            ("staleAfterSeconds: 120", "staleAfterSeconds: 0"),  # this chain grows only when the test lets it
        ):
            assert example in text
            text = text.replace(example, real)
        self.resource = home / "wallet.yaml"
        self.resource.write_text(text)
        (home / ".local/secrets/accounts").mkdir(parents=True)
        (home / ".local/secrets/accounts/xpub").write_text(derive_account_keys(SEED, 0).xpub)

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "wallet_cli.main", *map(str, arguments)],
            cwd=self._home, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def __call__(self, *arguments: str | Path, exit_code: int = 0) -> str:
        with self.start(*arguments) as process:
            output, _ = process.communicate(timeout=TIMEOUT_SECONDS + 30)
        assert process.returncode == exit_code, output
        return output

    def answer(self, *arguments: str | Path) -> Any:
        return json.loads(self(*arguments, "-o", "json"))

    @property
    def running(self) -> list[RunningWallet]:
        return running_wallets(self._home / ".local/run")

    @contextmanager
    def run(self) -> Iterator[subprocess.Popen[str]]:
        """`walletctl run` meanwhile; its output goes to `run.log`."""
        with (self._home / "run.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "wallet_cli.main", "run", "-f", str(self.resource)],
                cwd=self._home, env=ENVIRONMENT, stdout=log, stderr=log, text=True,
            )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    @property
    def log(self) -> str:
        return (self._home / "run.log").read_text()


@pytest.fixture
def walletctl(tmp_path: Path, kafka: Kafka, redis_server: Redis, ganache: Ganache) -> Walletctl:
    home = tmp_path / f"w{uuid.uuid4().hex[:10]}"
    home.mkdir()
    return Walletctl(home, kafka, redis_server, ganache)


def _pay(ganache: Ganache, address: str) -> None:
    payer = ganache.rpc("eth_accounts")[0]
    ganache.rpc("eth_sendTransaction", {"from": payer, "to": address, "value": hex(3 * ETHER // 2)})


def test_a_users_session(walletctl: Walletctl, ganache: Ganache) -> None:
    """Run, status, account, watch, and a clean end: each works as the README says, with no other step."""
    with walletctl.run() as run:
        walletctl("status", "--wait", "--timeout", str(TIMEOUT_SECONDS))
        assert walletctl.answer("status")["working"]

        first = walletctl.answer("account", "create", "--id", "a", "--meta", "customer=42", "--wait")
        assert walletctl.answer("account", "create", "--id", "a", "--meta", "customer=42", "--wait") == first
        offline = ("--xpub-file", ".local/secrets/accounts/xpub", "--id", "a", "--meta", "customer=42")
        assert walletctl.answer("keys", "derive", *offline)["address"] == first["address"]
        assert walletctl.answer("account", "create")["topic"].endswith(".command")

        watching = ("watch", "--from-beginning", "--count", "2", "--address", first["address"])
        with walletctl.start(*watching) as watch:
            _pay(ganache, first["address"])

            def ended() -> bool:
                ganache.rpc("evm_mine")
                return watch.poll() is not None

            if not wait_until(ended, TIMEOUT_SECONDS):
                watch.kill()
            output, _ = watch.communicate()
        assert watch.returncode == 0
        detected, confirmed = output.splitlines()
        for line, status in ((detected, "detected"), (confirmed, "confirmed")):
            assert all(part in line for part in (status, "1.5 ETH", first["address"]))
        events = [json.loads(line) for line in walletctl(*watching, "-o", "json").splitlines()]
        assert [event["status"] for event in events] == ["detected", "confirmed"]
        assert events[0]["event_id"] == events[1]["event_id"]

        workers = [Process.of(worker.pid or 0) for worker in walletctl.running[0].workers]
        run.send_signal(signal.SIGINT)
        assert run.wait(TIMEOUT_SECONDS) == 0, walletctl.log
        assert walletctl.running == []
        assert len(workers) == 2
        assert all(worker is not None and not worker.is_alive() for worker in workers)
        assert "walletctl | all workers have ended\n" in walletctl.log


def test_a_second_run_and_a_killed_one(walletctl: Walletctl) -> None:
    """A wallet that runs is not started twice; one that was killed leaves nothing behind that stops the next."""
    with walletctl.run() as run:
        walletctl("status", "--wait", "--timeout", str(TIMEOUT_SECONDS))
        assert f"runs already, supervised by pid {run.pid}" in walletctl("run", "-f", walletctl.resource, exit_code=1)
        workers = [Process.of(worker.pid or 0) for worker in walletctl.running[0].workers]
        run.kill()
        run.wait()
        assert wait_until(lambda: not any(worker and worker.is_alive() for worker in workers), TIMEOUT_SECONDS)
    assert "no wallet runs here" in walletctl("status", exit_code=1)
    with walletctl.run():
        walletctl("status", "--wait", "--timeout", str(TIMEOUT_SECONDS))


def test_without_a_worker_there_is_no_answer(walletctl: Walletctl) -> None:
    """Who asks a wallet that was never started learns that its topics are missing, and how to make them."""
    told = walletctl("account", "create", "-f", walletctl.resource, "--wait", exit_code=1)
    assert "does not exist; bootstrap makes the topics: start the wallet with `walletctl run -f FILE`" in told
