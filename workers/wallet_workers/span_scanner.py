"""What every replica of sync does beside leading or standing by: scan the spans that the sequencer offers.

A span is claimed, scanned and put back, stamped with this worker's own settings; the claim is renewed meanwhile, and
the work dropped when the claim is lost. A scanner under other settings than the cut's leaves its spans alone, and so
does one that the sequencer has excluded for a while because a result of it was refused. Nothing here can do harm: what
is put back is checked.

Trouble is this part's own (`scanning` in `/status`) and never the leader's: the loop waits with growing pauses and
goes on. A claim that cannot be worked off is handed back, so that another scanner need not wait for its end.
"""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from wallet_core.errors import Halt, RedisUnreachable, Unavailable
from wallet_core.ports import Clock, SpanBoard, SpanClaim
from wallet_core.reasons import reason_of
from wallet_core.settings import SyncSettings
from wallet_core.spans import Span, SpanResult, Terms, read_span, read_terms, write_result
from wallet_workers.metrics import Metrics
from wallet_workers.scanner import Scanner
from wallet_workers.status import WorkerStatus
from wallet_workers.stopping import BackOff, Stopping

log = structlog.get_logger()

RENEWALS_PER_CLAIM = 3
IDLE_SECONDS = 0.1
"""Between two looks for a span, while a cut stands and offers nothing."""


class SpanScanner:
    """The loop; runs until it is cancelled or the worker stops."""

    def __init__(
        self,
        settings: SyncSettings,
        *,
        clock: Clock,
        board: SpanBoard,
        scanner: Scanner,
        status: WorkerStatus,
        metrics: Metrics,
        stopping: Stopping,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._board = board
        self._scanner = scanner
        self._status = status
        self._metrics = metrics
        self._stopping = stopping
        self._renewal_seconds = settings.tuning.lock_ttl_seconds / RENEWALS_PER_CLAIM

    async def run(self) -> None:
        """Scan what is offered, for ever."""
        back_off = BackOff(self._stopping)
        while not self._stopping:
            try:
                pause_seconds = await self._scan_next()
            except (Unavailable, Halt) as error:
                self._metrics.span_failures.labels(error.error_code).inc()
                self._status.note("scanning", reason_of(error), f"{type(error).__name__}: {error}")
                await back_off.pause()
            except Exception:  # the leader beside it must not end with it
                self._metrics.span_failures.labels("internal_error").inc()
                log.exception("scanning_failed")
                await back_off.pause()
            else:
                self._status.clear("scanning")
                back_off.reset()
                if pause_seconds:
                    await self._stopping.pause(pause_seconds)

    async def _scan_next(self) -> float:
        """Work off one span, if there is one for us. Returns the seconds until the next look."""
        standing = await self._board.terms()
        terms = None if standing is None else read_terms(standing[1])
        if standing is None or terms is None or not self._is_for_us(terms):
            return self._settings.tuning.poll_seconds
        claim = await self._board.claim(standing[0])
        if claim is None:
            return min(IDLE_SECONDS, self._settings.tuning.poll_seconds)
        span = read_span(claim.span)
        if span is None:
            log.warning("span_unreadable", task=claim.task)
            return self._settings.tuning.poll_seconds
        await self._work_off(claim, span, terms)
        return 0

    def _is_for_us(self, terms: Terms) -> bool:
        return (
            terms.generation == self._settings.generation
            and terms.settings_hash == self._status.settings_hash
            and self._board.scanner not in terms.excluded
        )

    async def _work_off(self, claim: SpanClaim, span: Span, terms: Terms) -> None:
        self._status.fact(scanning=[span.first, span.last])
        work = asyncio.ensure_future(self._scan(claim, span, terms))
        claimed = asyncio.ensure_future(self._keep(claim))
        try:
            await asyncio.wait({work, claimed}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            else:
                log.info("span_lost", first=span.first, last=span.last)
        except BaseException:
            with contextlib.suppress(RedisUnreachable):
                await self._board.hand_back(claim)
            raise
        finally:
            for task in (work, claimed):
                task.cancel()
            await asyncio.gather(work, claimed, return_exceptions=True)
            self._status.fact(scanning=None)

    async def _scan(self, claim: SpanClaim, span: Span, terms: Terms) -> None:
        blocks = await self._scanner.scan_span(span, terms.scope)
        result = SpanResult(
            cut=claim.cut,
            span=span,
            generation=self._settings.generation,
            settings_hash=self._status.settings_hash,
            addresses=self._scanner.addresses,
            blocks=blocks,
        )
        if await self._board.put_back(claim, write_result(result)):
            self._metrics.spans_scanned.inc()
            self._metrics.blocks_scanned.inc(len(blocks))

    async def _keep(self, claim: SpanClaim) -> None:
        """Returns when the claim is lost."""
        while True:
            await self._clock.sleep(self._renewal_seconds)
            with contextlib.suppress(RedisUnreachable):  # the next renewal, or putting back, will tell
                if not await self._board.renew(claim):
                    return
