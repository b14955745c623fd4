"""The role `sync`: replicas that are all alike, one of which leads.

Every replica keeps the address set up to date, so that whoever takes over can go on at once. The one that holds the
lock is the sequencer. The lock saves work; the ledger keeps the books right: a leader that lost the lock unknowingly
can write nothing. Beside that every replica, the leader too, scans the spans that a leader far behind offers: who
leads and who scans are two questions, and neither loop waits for the other.

What each kind of trouble does to a leader:

- doubt about the last write (`OutcomeUnknown`, `Superseded`): check the lock, recover, go on;
- the node, Kafka or Redis away (`Unavailable`): try again with growing pauses; the lock stays while Redis lets it, and
  orders are looked for: a node whose chain was replaced by a shorter one needs a rewind;
- `Halt`: keep the lock, write nothing, look again every minute, and at once where a new order comes: it may be the
  rewind that helps;
- settings older than the checkpoint's: give the lock up, so that a newer replica can lead.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

import structlog

from wallet_core.errors import Halt, OutcomeUnknown, RedisUnreachable, SettingsSuperseded, Superseded, Unavailable
from wallet_core.ports import AddressFeed, Clock, Ledger, Lock, Node, OrderFeed, PublishedEvents, SpanBoard
from wallet_core.reasons import Reason
from wallet_core.settings import SyncSettings
from wallet_workers.catching_up import CatchingUp
from wallet_workers.metrics import Metrics
from wallet_workers.orders import OrderDesk
from wallet_workers.scanner import Scanner
from wallet_workers.sequencer import LeadershipLost, Sequencer
from wallet_workers.span_scanner import SpanScanner
from wallet_workers.status import WorkerStatus
from wallet_workers.stopping import HALT_RECHECK_SECONDS, BackOff, Stopping

log = structlog.get_logger()

RENEWALS_PER_TTL = 3


@dataclass(frozen=True)
class SyncPorts:
    """What sync needs from the world."""

    clock: Clock
    node: Node
    ledger: Ledger
    feed: AddressFeed
    lock: Lock
    board: SpanBoard
    orders: OrderFeed
    published: PublishedEvents


class SyncWorker:
    """One replica of the role."""

    def __init__(
        self,
        settings: SyncSettings,
        ports: SyncPorts,
        status: WorkerStatus,
        metrics: Metrics,
        stopping: Stopping,
    ) -> None:
        self._settings = settings
        self._ports = ports
        self._status = status
        self._metrics = metrics
        self._stopping = stopping
        self._heads_seen = 0
        status.fact(leader=False)
        self._renewal_seconds = settings.tuning.lock_ttl_seconds / RENEWALS_PER_TTL
        self._scanner = Scanner(settings, node=ports.node, feed=ports.feed, status=status, metrics=metrics)
        self._sequencer = Sequencer(
            settings,
            clock=ports.clock,
            node=ports.node,
            ledger=ports.ledger,
            lock=ports.lock,
            scanner=self._scanner,
            catching_up=CatchingUp(
                settings,
                clock=ports.clock,
                board=ports.board,
                node=ports.node,
                scanner=self._scanner,
                status=status,
                metrics=metrics,
            ),
            orders=OrderDesk(
                settings,
                clock=ports.clock,
                node=ports.node,
                feed=ports.orders,
                published=ports.published,
                scanner=self._scanner,
                status=status,
            ),
            status=status,
            metrics=metrics,
        )
        self._span_scanner = SpanScanner(
            settings,
            clock=ports.clock,
            board=ports.board,
            scanner=self._scanner,
            status=status,
            metrics=metrics,
            stopping=stopping,
        )

    async def run(self) -> None:
        """Scan spans, and beside that stand by and lead, in turns, until the stop."""
        scanning = asyncio.create_task(self._span_scanner.run())
        try:
            await self._stand_by_and_lead()
        finally:
            scanning.cancel()
            await asyncio.gather(scanning, return_exceptions=True)

    async def _stand_by_and_lead(self) -> None:
        back_off = BackOff(self._stopping)
        while not self._stopping:
            self._status.beat()
            try:
                leading = await self._ports.lock.acquire()
            except RedisUnreachable as error:
                self._status.trouble(error)
                await back_off.pause()
                continue
            self._status.clear("redis")
            back_off.reset()
            if not leading:
                await self._stand_by()
                continue
            try:
                async with self._renewing():
                    await self._lead()
            except SettingsSuperseded as error:
                log.warning("settings_superseded", message=str(error))
                self._status.fact(superseded=str(error), superseded_by=error.generation)
                await self._stopping.pause(self._settings.tuning.lock_ttl_seconds)

    async def _stand_by(self) -> None:
        self._status.clear("node", "tip")
        self._status.progress(Reason.WORKING)
        try:
            await self._scanner.read_addresses()
            self._status.clear("halt")
        except (Unavailable, Halt) as error:
            self._status.trouble(error)
        await self._stopping.pause(min(self._settings.tuning.poll_seconds, self._renewal_seconds))

    @contextlib.asynccontextmanager
    async def _renewing(self) -> AsyncIterator[None]:
        """Hold the lock: renew it beside the work, and give it up at the end."""
        self._status.fact(leader=True, superseded=None, superseded_by=None)
        self._metrics.leading.set(1)
        log.info("leading")
        renewal = asyncio.create_task(self._renew())
        try:
            yield
        finally:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)
            await self._sequencer.close()
            await self._ports.lock.release()
            self._status.clear("ledger")
            self._status.fact(
                leader=False, block=None, settled_block=None, tip=None, lag=None, sequence=None, span_lag=None
            )
            self._metrics.leading.set(0)
            log.info("not_leading")

    async def _renew(self) -> None:
        while True:
            await self._ports.clock.sleep(self._renewal_seconds)
            try:
                if not await self._ports.lock.renew():
                    log.warning("lock_lost")
                    return
                self._status.clear("redis")
            except RedisUnreachable as error:
                self._status.trouble(error)

    async def _lead(self) -> None:
        """Recover and step, again and again, while the lock is held. Raises SettingsSuperseded."""
        back_off = BackOff(self._stopping)
        recovered = False
        while self._ports.lock.is_held() and not self._stopping:
            self._status.beat()
            try:
                if not recovered:
                    await self._sequencer.recover()
                    recovered = True
                progressed = await self._sequencer.step()
                self._status.clear("ledger")
                if not progressed:
                    await self._stopping.first_of(self._sequencer.wait(self._wait_for_head))
                back_off.reset()
            except LeadershipLost:
                return
            except Halt as error:
                recovered = False
                self._status.trouble(error)
                await self._sequencer.wait(partial(self._pause_while_held, HALT_RECHECK_SECONDS))
            except (OutcomeUnknown, Superseded) as error:
                recovered = False
                self._metrics.retries.labels(error.error_code).inc()
                log.warning("begun_again", error_code=error.error_code, message=str(error))
                if isinstance(error, OutcomeUnknown):
                    self._status.note("ledger", Reason.KAFKA_UNREACHABLE, f"the last append failed: {error}")
                await back_off.pause()
            except Unavailable as error:
                self._metrics.retries.labels(error.error_code).inc()
                self._status.trouble(error)
                if recovered:
                    await self._sequencer.look_for_orders()
                await back_off.pause()

    async def _wait_for_head(self) -> None:
        poll_seconds = self._settings.tuning.poll_seconds
        self._heads_seen = await self._ports.node.wait_for_head(poll_seconds, self._heads_seen)

    async def _pause_while_held(self, seconds: float) -> None:
        """Wait that long, or until the lock is lost: who does not lead has nothing to wait for."""
        until = self._ports.clock.monotonic() + seconds
        while self._ports.lock.is_held() and not self._stopping:
            left = until - self._ports.clock.monotonic()
            if left <= 0:
                return
            self._status.beat()
            await self._stopping.pause(min(left, self._renewal_seconds))
