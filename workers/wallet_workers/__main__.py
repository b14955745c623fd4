"""`python -m wallet_workers <role>`: one worker process, configured by its environment alone.

Exit codes: 0 after a stop, or when bootstrap is done; 1 where the process cannot go on and should be started again
(bootstrap prints what a person must mend); 2 for a missing or malformed setting, named in one line before anything
connects.

A process that was asked to stop is gone within 10 s: the step under way may end, then it is cut off, and where even
cleaning up does not end (a client that waits for a broker that hangs) the process leaves as it stands. What it leaves
open is what a killed process would leave: the next leader recovers.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from wallet_core.errors import AddressTaken, InvalidSetting, WalletError
from wallet_core.settings import ROLE_SETTINGS, Role, settings_from_environment, settings_hash
from wallet_workers.adapters.kafka_clients import quiet_client_logs
from wallet_workers.adapters.system_clock import SystemClock
from wallet_workers.bootstrap import Bootstrap, BootstrapFailed
from wallet_workers.command import CommandWorker
from wallet_workers.logs import configure_logs
from wallet_workers.metrics import Metrics
from wallet_workers.service import serving
from wallet_workers.status import WorkerStatus
from wallet_workers.stopping import Stopping
from wallet_workers.sync import SyncWorker
from wallet_workers.wiring import Process, Stopped, bootstrap_ports, command_ports, sync_ports

log = structlog.get_logger()

DRAIN_SECONDS_MAX = 8.0
"""After a SIGTERM a step that is under way may take so long to end; then it is cut off, and the next leader
recovers."""
EXIT_SECONDS_MAX = 9.5
"""After a SIGTERM the process is gone so soon, whatever it still waits for."""


@dataclass(frozen=True)
class RoleParts:
    """What a role is made of: where its ports come from, and what runs on them."""

    ports: Callable[[Any, Process], AbstractAsyncContextManager[Any]]
    run: Callable[[Any, Any, Process], Awaitable[None]]
    """(settings, ports, process)."""


ROLES: Mapping[Role, RoleParts] = {
    Role.BOOTSTRAP: RoleParts(
        bootstrap_ports,
        lambda settings, ports, at: Bootstrap(settings, ports, at.status, at.metrics, at.stopping).run(),
    ),
    Role.COMMAND: RoleParts(
        command_ports,
        lambda settings, ports, at: CommandWorker(settings, ports, at.status, at.metrics, at.stopping).run(),
    ),
    Role.SYNC: RoleParts(
        sync_ports, lambda settings, ports, at: SyncWorker(settings, ports, at.status, at.metrics, at.stopping).run()
    ),
}


def main(arguments: list[str], environ: Mapping[str, str], roles: Mapping[Role, RoleParts] = ROLES) -> int:
    """Run one role to its end and return the exit code."""
    if len(arguments) != 1 or arguments[0] not in list(Role):
        print(f"usage: python -m wallet_workers {'|'.join(Role)}", file=sys.stderr)  # noqa: T201 - before logs exist
        return 2
    role = Role(arguments[0])
    try:
        settings = settings_from_environment(ROLE_SETTINGS[role], environ)
        configure_logs(role=role.value, wallet=settings.qualified_name)
        quiet_client_logs()
        return asyncio.run(_run(role, settings, environ, roles[role]))
    except InvalidSetting as error:
        print(error, file=sys.stderr)  # noqa: T201 - one line for whoever wrote the setting
        return 2
    except AddressTaken as error:
        return _exit_code(error, stopped=1)


async def _run(role: Role, settings: Any, environ: Mapping[str, str], parts: RoleParts) -> int:
    clock = SystemClock()
    stopping = Stopping(clock)
    status = WorkerStatus(role, settings.qualified_name, settings_hash(environ), clock)
    process = Process(
        clock=clock,
        stopping=stopping,
        status=status,
        metrics=Metrics(status),
        secrets=Path(environ.get("WALLET_SECRETS_DIR", "/etc/wallet-manager/secrets")),
    )
    done = 1 if role is Role.BOOTSTRAP else 0  # a bootstrap that was stopped has not done its work

    def stop_soon() -> None:
        if not stopping:
            _leave_after(EXIT_SECONDS_MAX, done)
            stopping.request()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop_soon)
    address = environ.get("WALLET_HTTP_ADDRESS", "0.0.0.0:8080")
    async with serving(address, status, process.metrics, stopping, lambda: process.facts()):  # noqa: PLW0108 - `facts` is set later
        log.info("started", settings_hash=status.settings_hash, address=address)
        work = asyncio.create_task(_work(settings, process, parts))
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not work.done():
            await asyncio.wait({work}, timeout=DRAIN_SECONDS_MAX)
            work.cancel()
        await asyncio.gather(work, stop, return_exceptions=True)
    return done if work.cancelled() else _exit_code(work.exception(), stopped=done)


def _leave_after(seconds: float, exit_code: int) -> None:
    """End the process then, unless it has ended. A thread: neither the event loop nor a client's end is waited for."""

    def leave() -> None:
        log.warning("left_unfinished", seconds_since_stop=seconds)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()


async def _work(settings: Any, process: Process, parts: RoleParts) -> None:
    async with parts.ports(settings, process) as ports:
        await parts.run(settings, ports, process)


def _exit_code(error: BaseException | None, stopped: int) -> int:
    match error:
        case None:
            log.info("stopped")
            return 0
        case Stopped():
            log.info("stopped")
            return stopped
        case InvalidSetting():
            raise error
        case BootstrapFailed():
            for problem in error.problems:
                log.error("bootstrap_problem", problem=problem)
            return 1
        case WalletError():
            log.error("ended", error_code=error.error_code, message=str(error))
            return 1
        case _:
            log.error("crashed", exc_info=error)
            return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
