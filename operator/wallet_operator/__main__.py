"""`python -m wallet_operator`: the operator's process, configured by its environment alone (see `config`).

    serve /live … ─► rights and kind are there ─► the Lease is won ─► kopf, and the controller's loops

Exit codes: 0 after a stop, 1 where it led and cannot lead any more (it is started again, as a standby), 2 for a wrong
setting.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine, Mapping
from typing import Any

import aiohttp
import kopf
import structlog
from kopf._core.engines.peering import Identity

from wallet_core.errors import InvalidSetting
from wallet_core.ports import Clock
from wallet_operator.api import Api, ApiFailure, NotThere, load_configuration
from wallet_operator.clock import SystemClock
from wallet_operator.config import Config, read_config
from wallet_operator.controller import Controller
from wallet_operator.handlers import make_registry
from wallet_operator.http import Health, serving
from wallet_operator.kinds import WALLETS
from wallet_operator.leader import Election
from wallet_operator.logs import configure_logs
from wallet_operator.metrics import Metrics
from wallet_operator.queue import Queue
from wallet_operator.reconcile import Reconciler
from wallet_operator.rights import missing_rights, needed_rights
from wallet_operator.upgrade import Turns
from wallet_operator.workers_status import HttpAskPod

log = structlog.get_logger()

RECHECK_SECONDS = 5.0


class Operator:
    """One process of the operator."""

    def __init__(self, config: Config, api: Api, session: aiohttp.ClientSession, clock: Clock) -> None:
        self._config = config
        self._api = api
        self._session = session
        self._clock = clock
        self._metrics = Metrics()
        self._health = Health(clock, config.resync_seconds)
        self._queue = Queue()
        self._stopping = asyncio.Event()

    async def run(self) -> int:
        """Until SIGTERM or SIGINT, or until it cannot lead any more. Returns the exit code."""
        async with serving(self._config.http_address, self._health, self._metrics):
            self._listen_to_signals()
            if not await self._unless_stopped(self._wait_until_able()):
                return 0
            election = Election(
                self._api,
                self._config.pod_namespace,
                self._config.lease_name,
                self._config.pod_name,
                self._clock,
                self._health.attempted,
            )
            if not await self._unless_stopped(election.win()):
                return 0
            try:
                return await self._lead(election)
            finally:
                self._metrics.leading.set(0)
                await election.resign()

    async def _wait_until_able(self) -> None:
        """Until all rights are granted and the kind exists; what is missing is named, and looked for again."""
        said: tuple[str, ...] = ()
        while self._health.missing:
            self._health.attempted()
            try:
                self._health.missing = await self._find_missing()
            except ApiFailure as error:
                self._health.missing = (str(error),)
            if self._health.missing != said:
                said = self._health.missing
                for missing in said:
                    log.error("missing", what=missing)
            if self._health.missing:
                await self._clock.sleep(RECHECK_SECONDS)

    async def _find_missing(self) -> tuple[str, ...]:
        rights = await missing_rights(self._api, needed_rights(self._config))
        if rights:
            return tuple(f"the right to {right}" for right in rights)
        try:
            for namespace in self._config.namespaces or (None,):
                await self._api.find_kind(WALLETS, namespace)
        except NotThere:
            return (f"the CustomResourceDefinition {WALLETS.plural}.{WALLETS.group}: install it with the chart",)
        return ()

    async def _lead(self, election: Election) -> int:
        turns = Turns(
            self._clock,
            election,
            ready_seconds_max=self._config.upgrade_ready_seconds,
            namespaces=self._config.namespaces,
        )
        reconciler = Reconciler(self._api, HttpAskPod(self._session), self._config, turns, self._metrics, self._clock)
        controller = Controller(
            self._queue,
            reconciler,
            self._metrics,
            self._clock,
            resync_seconds=self._config.resync_seconds,
            resynced=self._health.resynced,
        )
        self._health.lead()
        self._metrics.leading.set(1)
        # Those of ours are started first: kopf takes every later task for its own, and cancels it at its end.
        lost = asyncio.create_task(election.keep())
        control = asyncio.create_task(controller.run())
        watching = asyncio.create_task(self._watch())
        await asyncio.wait({lost, control, watching}, return_when=asyncio.FIRST_COMPLETED)
        # kopf may end with an error of its own where it is stopped before it has quite begun.
        is_stopped = self._stopping.is_set() or not (lost.done() or control.done() or watching.exception())
        self._stopping.set()
        for task in (lost, control):
            task.cancel()
        results = await asyncio.gather(lost, control, watching, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                log.error("ended", exc_info=result)
        return 0 if is_stopped else 1

    async def _watch(self) -> None:
        """kopf, until a signal or the end of the lead."""
        registry = make_registry(self._queue)
        kopf.on.startup(registry=registry)(self._take_signals_back)
        await kopf.operator(
            registry=registry,
            standalone=True,
            identity=Identity(self._config.pod_name),  # else kopf asks for a user name, and a numeric user has none
            clusterwide=not self._config.namespaces,
            namespaces=self._config.namespaces,
            stop_flag=self._stopping,
        )

    async def _take_signals_back(self, **_: Any) -> None:
        """From kopf, which does not tell that it was a signal that ended it."""
        self._listen_to_signals()

    def _listen_to_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stopping.set)

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Run that to its end, or until the stop; whether it came to its end. Raises what the work raises."""
        task = asyncio.create_task(work)
        stop = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if task.done():
            task.result()
            return True
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return False


async def run(environ: Mapping[str, str]) -> int:
    """Run the operator. Raises InvalidSetting."""
    config = read_config(environ)
    configuration = await load_configuration()
    api = Api(configuration)
    try:
        async with aiohttp.ClientSession() as session:
            return await Operator(config, api, session, SystemClock()).run()
    finally:
        await api.close()


def main() -> int:
    """Returns the exit code."""
    configure_logs()
    try:
        return asyncio.run(run(os.environ))
    except InvalidSetting as error:
        print(error, file=sys.stderr)  # noqa: T201 - one line for whoever wrote the setting
        return 2


if __name__ == "__main__":
    sys.exit(main())
