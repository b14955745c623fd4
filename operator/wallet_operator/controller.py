"""The loops that run while this replica leads: looking at wallets as the queue hands them out, and the resync.

An error of the API server ends one look; the wallet is looked at again after a pause that grows from error to error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from wallet_core.errors import WalletError
from wallet_core.ports import Clock
from wallet_operator.api import ApiFailure
from wallet_operator.kinds import Key
from wallet_operator.metrics import Metrics
from wallet_operator.queue import Ask, Queue

log = structlog.get_logger()

LOOKS_AT_ONCE_MAX = 8
PAUSE_SECONDS_MIN = 1.0
PAUSE_SECONDS_MAX = 30.0
RESYNC_RETRY_SECONDS = 5.0


class Looking(Protocol):
    """What the loops call; see Reconciler."""

    async def list_wallets(self) -> set[Key]:
        """Every wallet that is to be looked at. Raises an ApiFailure."""

    async def look(self, key: Key, ask: Ask) -> float | None:
        """Look at one. Returns after how many seconds to look again; None: never. Raises an ApiFailure."""


class Controller:
    """See the module."""

    def __init__(
        self,
        queue: Queue,
        reconciler: Looking,
        metrics: Metrics,
        clock: Clock,
        *,
        resync_seconds: float,
        resynced: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._reconciler = reconciler
        self._metrics = metrics
        self._clock = clock
        self._resync_seconds = resync_seconds
        self._resynced = resynced
        self._pauses: dict[Key, float] = {}

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._resync())
            for _ in range(LOOKS_AT_ONCE_MAX):
                group.create_task(self._look())

    async def _resync(self) -> None:
        while True:
            try:
                keys = await self._reconciler.list_wallets()
            except ApiFailure as error:
                self._metrics.failures.labels(error.error_code).inc()
                log.warning("resync_failed", error_code=error.error_code, message=str(error))
                await self._clock.sleep(RESYNC_RETRY_SECONDS)
                continue
            self._resynced()
            self._metrics.resynced_at.set(self._clock.unix_time())
            for key in sorted(keys):
                self._queue.add(key, Ask.RECONCILE)
            await self._clock.sleep(self._resync_seconds)

    async def _look(self) -> None:
        while True:
            key, ask = await self._queue.take()
            try:
                await self._look_once(key, ask)
            finally:
                self._queue.done(key)

    async def _look_once(self, key: Key, ask: Ask) -> None:
        try:
            seconds = await self._reconciler.look(key, ask)
        except WalletError as error:
            self._metrics.failures.labels(error.error_code).inc()
            log.warning("look_failed", wallet="/".join(key), error_code=error.error_code, message=str(error))
        except Exception:  # a loop's top: our own fault in one wallet must not stop the others
            self._metrics.failures.labels("internal_error").inc()
            log.exception("look_crashed", wallet="/".join(key))
        else:
            self._pauses.pop(key, None)
            if seconds is None:
                self._queue.forget(key)
            else:
                self._queue.add_later(key, Ask.LOOK, seconds)
            return
        pause = self._pauses.get(key, PAUSE_SECONDS_MIN)
        self._pauses[key] = min(2 * pause, PAUSE_SECONDS_MAX)
        self._queue.add_later(key, ask, pause)
