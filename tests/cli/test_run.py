"""`walletctl run`: which workers a resource asks for, with which environment, in which order."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mnemonic import Mnemonic

from wallet_cli.run import next_generation, plan_workers, process_environment, run_wallet
from wallet_cli.running import RunningWorker
from wallet_cli.supervisor import RestartLimits, Supervisor
from wallet_cli.wallet_file import read_wallet
from wallet_core.addresses import checksum_address
from wallet_core.chain import BlockRef, Window
from wallet_core.checkpoint import SyncState
from wallet_core.errors import CheckpointCorrupt, CheckpointLost, KafkaUnreachable
from wallet_core.keys import derive_account_keys
from wallet_core.resource import WalletManager, parse_resource
from wallet_core.settings import (
    ROLE_SETTINGS,
    Role,
    SyncSettings,
    environment,
    settings_from_environment,
    settings_hash,
)

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/walletmanager-local.yaml"
WALLET = read_wallet(EXAMPLE)
HASH = settings_hash(environment(WALLET, Role.SYNC))
STATE = SyncState(Window(BlockRef(0, "0x" + "0" * 64)))
TIMEOUT_SECONDS = 30.0
# Stands in for every role: bootstrap is done at once, the others say what they got and wait for the end.
PROGRAM = """
import json, os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
print(json.dumps(dict(os.environ)), flush=True)
if sys.argv[1] != "bootstrap":
    signal.sigwait({signal.SIGTERM})
"""


def _wallet(replicas: int | None, shards: int) -> WalletManager:
    document = json.loads(WALLET.model_dump_json(by_alias=True, exclude_none=True))
    document["spec"]["sync"]["shards"] = shards
    document["spec"]["accounts"]["replicas"] = replicas
    return parse_resource(document)


class Output:
    """What the workers got, by name, and what walletctl said; stops the supervisor when the test says."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.environments: dict[str, dict[str, str]] = {}
        self.listed: list[list[str]] = []
        self.stop_when: Callable[[], bool] = lambda: False
        command = (sys.executable, "-c", PROGRAM)
        self.supervisor = Supervisor(command, self, self.list_workers, restarts=RestartLimits(0.01, 0.01))

    def say(self, text: str) -> None:
        self.said.append(text)
        self._look()

    def line(self, name: str, text: bytes) -> None:
        self.environments[name] = json.loads(text)
        self._look()

    def list_workers(self, workers: object) -> None:
        assert isinstance(workers, tuple)
        self.listed.append([worker.name for worker in workers if isinstance(worker, RunningWorker)])

    def _look(self) -> None:
        if self.stop_when():
            self.supervisor.stop()


async def _run(output: Output, *states: SyncState | Exception, wallet: WalletManager = WALLET) -> None:
    answers = list(states)

    async def read_sync_state(asked: WalletManager) -> SyncState:
        assert asked is wallet
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with asyncio.timeout(TIMEOUT_SECONDS):
        await run_wallet(wallet, Path("secrets"), output.supervisor, output, read_sync_state)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (STATE, 1),  # as bootstrap leaves it
        (replace(STATE, generation=1, settings_hash=HASH), 1),
        (replace(STATE, generation=7, settings_hash=HASH), 7),
        (replace(STATE, generation=7, settings_hash="another"), 8),
        (replace(STATE, generation=0, settings_hash=HASH), 1),
    ],
)
def test_changed_settings_get_a_new_generation(state: SyncState, expected: int) -> None:
    """One more than the checkpoint's, and never below 1; settings that are the same keep theirs."""
    assert next_generation(state, HASH) == expected


def test_every_worker_can_read_its_settings() -> None:
    """What is written into an environment is what a worker of that role finds there."""
    surroundings = process_environment({"PATH": "/bin"}, Path("secrets"))
    for role in Role:
        (worker,) = plan_workers(WALLET, role, 1, surroundings, generation=3)
        settings = settings_from_environment(ROLE_SETTINGS[role], worker.environment)
        assert settings.qualified_name == "default.local"
        assert not isinstance(settings, SyncSettings) or settings.generation == 3


def test_a_worker_gets_nothing_of_the_users_but_the_basics() -> None:
    """Secrets and settings in the user's environment stay there."""
    users = {"PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "x", "WALLET_NAME": "other", "WALLET_HTTP_ADDRESS": "0.0.0.0:1"}
    assert process_environment(users, Path("secrets")) == {
        "PATH": "/bin",
        "PYTHONUNBUFFERED": "1",
        "WALLET_SECRETS_DIR": str(Path("secrets").resolve()),
    }


@pytest.mark.parametrize(("replicas", "shards", "count"), [(None, 1, 2), (2, 3, 5)])
async def test_bootstrap_comes_first_then_all_that_the_resource_asks_for(
    replicas: int | None, shards: int, count: int
) -> None:
    """One command worker where the resource leaves their number open; sync gets the next generation."""
    wallet = _wallet(replicas, shards)
    output = Output()
    output.stop_when = lambda: len(output.environments) == 1 + count
    await _run(output, replace(STATE, generation=7, settings_hash="another"), wallet=wallet)
    commands = [f"command-{number}" for number in range(replicas or 1)]
    syncs = [f"sync-{number}" for number in range(shards)]
    assert output.listed[0] == ["bootstrap-0"]
    assert output.listed[-1] == [*commands, *syncs]
    assert sorted(output.environments) == sorted(["bootstrap-0", *commands, *syncs])
    assert {output.environments[name]["WALLET_GENERATION"] for name in syncs} == {"8"}
    addresses = [output.environments[name]["WALLET_HTTP_ADDRESS"] for name in (*commands, *syncs)]
    assert len(set(addresses)) == count
    for found in output.environments.values():
        assert found["PATH"] == os.environ["PATH"]


async def test_a_checkpoint_that_is_not_visible_yet_is_waited_for() -> None:
    """Kafka may be away, or a commit's marker not written yet, a moment after bootstrap's success."""
    output = Output()
    output.stop_when = lambda: len(output.environments) == 3
    await _run(output, KafkaUnreachable("no broker"), CheckpointLost("no checkpoint"), STATE)
    waits = [line for line in output.said if "the checkpoint cannot be read" in line]
    assert ["no broker" in waits[0], "no checkpoint" in waits[1]] == [True, True]


async def test_a_stop_while_the_checkpoint_is_waited_for_ends_the_run() -> None:
    """Nothing is started after a stop."""
    output = Output()
    output.stop_when = lambda: "cannot be read" in output.said[-1]
    await _run(output, KafkaUnreachable("no broker"))
    assert list(output.environments) == ["bootstrap-0"]


async def test_a_checkpoint_that_makes_no_sense_ends_the_run() -> None:
    """No worker is started on it."""
    output = Output()
    with pytest.raises(CheckpointCorrupt):
        await _run(output, CheckpointCorrupt("gap"))
    assert list(output.environments) == ["bootstrap-0"]


def test_the_example_names_the_public_seed_only() -> None:
    """The example's key is the one of the tutorials' seed, so that nobody takes it for a secret."""
    keys = derive_account_keys(Mnemonic.to_seed("test test test test test test test test test test test junk"), 0)
    assert WALLET.spec.accounts.fingerprint == keys.fingerprint
    assert WALLET.spec.sweep.gas_address == checksum_address(keys.gas_address)
