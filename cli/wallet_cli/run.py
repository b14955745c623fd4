"""`walletctl run`: a whole wallet on this machine, from the resource that Kubernetes would take.

Bootstrap first, until it is done; then as many workers of each role as the resource asks for. Each gets the environment
that its pod would have (`wallet_core.settings.environment`), a port of its own, and nothing else of ours but what any
program needs. The generation of sync's settings, which in the cluster the operator counts, is the checkpoint's, and one
more if the settings have changed since.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from wallet_cli.output import fail
from wallet_cli.running import RUN_DIRECTORY, RunFile, RunsAlready
from wallet_cli.supervisor import Output, RestartBackOff, RestartLimits, Supervisor, Worker
from wallet_cli.wallet_file import RunDirectoryOption, read_wallet
from wallet_cli.worker_logs import LogOutput
from wallet_core.checkpoint import SyncState, read_state
from wallet_core.errors import CheckpointLost, Unavailable
from wallet_core.messages import Topic
from wallet_core.resource import WalletManager
from wallet_core.settings import Role, environment, settings_hash
from wallet_workers.adapters.kafka_clients import KafkaClients
from wallet_workers.adapters.kafka_state import KafkaStateView

SECRETS_DIRECTORY = Path(".local/secrets")
WORKERS_COMMAND = (sys.executable, "-m", "wallet_workers")
SURROUNDINGS = (
    "HOME", "LANG", "LC_ALL", "PATH", "PYTHONPATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TMPDIR", "TZ", "VIRTUAL_ENV",
)  # fmt: skip
"""What any program may need to know. No other variable reaches a worker, least of all another wallet's setting."""

ReadState = Callable[[WalletManager], Awaitable[SyncState]]


def run(
    file: Annotated[Path, typer.Option("--file", "-f", help="YAML file with the WalletManager resource.")],
    secrets: Annotated[
        Path, typer.Option(help="Directory with each secret's keys as files, <name>/<key>.")
    ] = SECRETS_DIRECTORY,
    run_directory: RunDirectoryOption = RUN_DIRECTORY,
) -> None:
    """Run a wallet's workers on this machine.

    Until Ctrl-C or SIGTERM, which let them end in good order; a second Ctrl-C kills them at once.
    """
    wallet = read_wallet(file)
    try:
        run_file = RunFile.claim(run_directory, wallet.qualified_name, file)
    except RunsAlready as error:
        fail(str(error))
    output = LogOutput(sys.stdout.fileno(), coloured=sys.stdout.isatty() and not os.environ.get("NO_COLOR"))
    try:
        asyncio.run(_run(wallet, secrets, run_file, output))
    finally:
        run_file.remove()
        output.close()


async def _run(wallet: WalletManager, secrets: Path, run_file: RunFile, output: LogOutput) -> None:
    supervisor = Supervisor(WORKERS_COMMAND, output, run_file.list_workers)
    loop = asyncio.get_running_loop()
    numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup a closed terminal is no reason to end
        numbers.remove(signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, supervisor.stop)
    await run_wallet(wallet, secrets, supervisor, output, read_sync_state)
    output.say("all workers have ended")


async def run_wallet(
    wallet: WalletManager, secrets: Path, supervisor: Supervisor, output: Output, read_sync_state: ReadState
) -> None:
    """Bootstrap, then every other role, until the supervisor is stopped. Raises InvalidSetting for wrong settings."""
    surroundings = process_environment(os.environ, secrets)
    (bootstrap,) = plan_workers(wallet, Role.BOOTSTRAP, 1, surroundings)
    output.say(f"wallet {wallet.qualified_name} on chain {wallet.spec.chain.id}: bootstrap comes first")
    if not await supervisor.run_to_success(bootstrap):
        return
    state = await _state_once_readable(wallet, supervisor, output, read_sync_state)
    if state is None:
        return
    generation = next_generation(state, settings_hash(environment(wallet, Role.SYNC)))
    workers = [
        *plan_workers(wallet, Role.COMMAND, wallet.spec.accounts.replicas or 1, surroundings),
        *plan_workers(wallet, Role.SYNC, wallet.spec.sync.shards, surroundings, generation),
    ]
    output.say(f"starting {', '.join(worker.name for worker in workers)}; `walletctl status` says how they are")
    await supervisor.run_until_stop(workers)


def plan_workers(
    wallet: WalletManager, role: Role, count: int, surroundings: Mapping[str, str], generation: int = 1
) -> list[Worker]:
    """The workers of one role, all alike."""
    variables = {**surroundings, **environment(wallet, role, generation)}
    return [Worker(role, replica, variables) for replica in range(count)]


def process_environment(environ: Mapping[str, str], secrets: Path) -> dict[str, str]:
    """What every worker's process gets besides its role's settings."""
    kept = {name: environ[name] for name in SURROUNDINGS if name in environ}
    return {**kept, "PYTHONUNBUFFERED": "1", "WALLET_SECRETS_DIR": str(secrets.resolve())}


def next_generation(state: SyncState, wanted_hash: str) -> int:
    """The generation of sync's settings, where the checkpoint was written under `state`'s."""
    changed = state.settings_hash != wanted_hash
    return max(1, state.generation + changed)


async def read_sync_state(wallet: WalletManager) -> SyncState:
    """What sync wrote last. Raises KafkaUnreachable, CheckpointLost or CheckpointCorrupt."""
    kafka = wallet.spec.kafka
    view = KafkaStateView(KafkaClients(kafka.bootstrap_servers), kafka.topic_prefix + Topic.STATE_SYNC)
    return read_state(await view.read())


async def _state_once_readable(
    wallet: WalletManager, supervisor: Supervisor, output: Output, read_sync_state: ReadState
) -> SyncState | None:
    """The checkpoint that bootstrap left; None where the stop came first."""
    back_off = RestartBackOff(RestartLimits())
    while not supervisor.is_stopping:
        try:
            return await read_sync_state(wallet)
        except (Unavailable, CheckpointLost) as error:  # a checkpoint may become visible a moment after bootstrap's end
            pause_seconds = back_off.pause_seconds(0)
            output.say(f"the checkpoint cannot be read ({error}); trying again in {pause_seconds:g} s")
            await supervisor.pause(pause_seconds)
    return None
