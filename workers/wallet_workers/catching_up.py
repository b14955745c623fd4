"""The sequencer's side of spans: offer settled blocks to all scanners, take the results in the order of the chain.

`blocks` is asked at each step of a leader that is far behind. It keeps spans posted ahead, waits a moment for the
first one's result, checks it (`wallet_core.spans` says how) and returns its blocks, to be appended in one transaction.
What came back is kept until the sequencer's tip has passed it, for the check or the append may have to be tried again:
each time is checked anew, for the chain may have become another since.

There is always a way on, and it is the sequencer's own scan of the next blocks, which needs nobody else:

- **Redis does not answer.** Leave it alone for BOARD_RETRY_SECONDS and scan inline. The lock, also in Redis, does not
  forbid that: as long as its deadline lies ahead this process leads, and afterwards it stops by itself.
- **The cut is gone** (Redis was wiped, another leader came by): cut again, under another name.
- **Nothing comes back** in time, the claims of dead scanners included, or a span was refused SPAN_REFUSALS_MAX times:
  scan inline, span by span, until good results come again.
- **The first block does not continue our tip**: where our own node says that the tip is no longer on its chain, it is
  not the scanner that is wrong. Scanning inline finds no continuation and so rolls back.

A scanner whose result was refused is excluded until EXCLUDED_SPANS further spans were taken, so that the span goes to
another; this process' own scanner is treated like any. If nobody else is there, it ends in an inline scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from wallet_core.chain import BlockRef, WindowBlock
from wallet_core.checkpoint import SyncState
from wallet_core.errors import RedisUnreachable
from wallet_core.ports import Clock, Node, PutBack, SpanBoard
from wallet_core.settings import SyncSettings
from wallet_core.spans import (
    FAR_BEHIND_BLOCKS_MIN,
    SPANS_POSTED_MAX,
    Expected,
    Refusal,
    Span,
    Terms,
    cut_spans,
    judge,
    write_span,
    write_terms,
)
from wallet_core.transfers import Scope
from wallet_workers.metrics import Metrics
from wallet_workers.scanner import Scanner
from wallet_workers.status import WorkerStatus

log = structlog.get_logger()

RESULT_WAIT_SECONDS = 1.0
"""How long one step waits for a result, before the loop looks at its lock and its stop again."""
RESULT_POLL_SECONDS = 0.02
BOARD_RETRY_SECONDS = 5.0
PATIENCE_CLAIMS = 2
"""So many lives of a claim are waited for a result: a dead scanner's claim must end, and another scan the span."""
SPAN_REFUSALS_MAX = 3
EXCLUDED_SPANS = 16


@dataclass
class _Posted:
    span: Span
    task: str
    addresses: int
    """How many addresses this process knew when it offered the span."""
    refusals: int = 0
    put_back: PutBack | None = None
    """Taken from the board, and not refused."""
    blocks: tuple[WindowBlock, ...] = ()
    """As they were checked last."""

    def continues(self, tip: BlockRef) -> bool:
        return self.span.first == tip.number + 1 and (not self.blocks or self.blocks[0].parent_hash == tip.hash)


@dataclass
class _Cut:
    name: str
    scope: Scope
    heard_at: float
    """When the last good result came back, by the monotonic clock; at first, when the cut began."""
    posted: list[_Posted] = field(default_factory=list)
    """In the order of the chain, without a gap."""
    excluded: dict[str, int] = field(default_factory=dict)
    """Scanner → spans still to be taken before it is welcome again."""


class CatchingUp:
    """See the module."""

    def __init__(
        self,
        settings: SyncSettings,
        *,
        clock: Clock,
        board: SpanBoard,
        node: Node,
        scanner: Scanner,
        status: WorkerStatus,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._board = board
        self._node = node
        self._scanner = scanner
        self._status = status
        self._metrics = metrics
        self._patience_seconds = PATIENCE_CLAIMS * settings.tuning.lock_ttl_seconds
        self._cut: _Cut | None = None
        self._board_due = 0.0
        """When Redis is worth a try again, by the monotonic clock."""

    @property
    def offered_to(self) -> int:
        """The highest block that was offered to other scanners, who may have read it already; 0 where none was."""
        return self._cut.posted[-1].span.last if self._cut and self._cut.posted else 0

    async def blocks(self, state: SyncState, settled: int) -> Sequence[WindowBlock] | None:
        """The checked blocks of the next span; empty where none came back yet; None: scan the next blocks inline.

        `settled` is the newest block that is settled below the node's head. Raises the node's errors.
        """
        appended = self._drop_what_is_appended(state)
        behind = settled - state.window.tip.number
        is_far_behind = behind >= FAR_BEHIND_BLOCKS_MIN or bool(self._cut and self._cut.posted)
        self._status.fact(span_lag=behind if is_far_behind else None)
        if self._clock.monotonic() < self._board_due:
            return None
        try:
            if not is_far_behind:
                await self._end()
                return None
            for posted in appended:
                if posted.put_back is None and self._cut:
                    await self._board.withdraw(self._cut.name, posted.task)
            return await self._next(state, settled)
        except RedisUnreachable as error:
            log.warning("spans_without_redis", message=str(error))
            self._metrics.retries.labels(error.error_code).inc()
            self._cut = None
            self._board_due = self._clock.monotonic() + BOARD_RETRY_SECONDS
            return None

    async def _next(self, state: SyncState, settled: int) -> Sequence[WindowBlock] | None:
        cut = await self._standing_cut(state)
        if cut is None:
            return None
        await self._post(cut, state, settled)
        if not cut.posted or cut.posted[0].span.last > settled:  # the node is late, or lost blocks
            return None
        first = cut.posted[0]
        is_overdue = self._clock.monotonic() - cut.heard_at >= self._patience_seconds
        if first.put_back is None:
            first.put_back = await self._result(cut, first, 0 if is_overdue else RESULT_WAIT_SECONDS)
        if first.put_back is None:
            if not is_overdue:
                return ()
            log.warning("span_overdue", first=first.span.first, last=first.span.last)
            self._metrics.spans_overdue.inc()
            return None
        found = await self._check(cut, first, first.put_back, state)
        if isinstance(found, Refusal):
            return await self._refuse(cut, first, first.put_back, found, state)
        cut.heard_at = self._clock.monotonic()
        first.blocks = found
        return found

    # --- offering -----------------------------------------------------------------------------------------------------

    async def _standing_cut(self, state: SyncState) -> _Cut | None:
        """The cut above the state's tip, a new one where there is none; None where the tip left the node's chain."""
        cut, tip = self._cut, state.window.tip
        why = None
        if cut is None:
            why = "far behind"
        elif cut.scope != state.scope:
            why = "other settings"
        elif cut.posted and not cut.posted[0].continues(tip):
            why = "the tip moved otherwise"
        elif not await self._board.announce(cut.name, self._terms(cut)):
            why = "the board was wiped or taken"
        if why is None:
            return cut
        self._cut = None
        if not await self._is_tip_canonical(state):
            return None
        cut = _Cut("", state.scope, self._clock.monotonic())
        cut.name = await self._board.open(self._terms(cut))
        log.info("spans_cut", cut=cut.name, above=tip.number, why=why)
        self._cut = cut
        return cut

    def _terms(self, cut: _Cut) -> bytes:
        return write_terms(
            Terms(self._settings.generation, self._status.settings_hash, cut.scope, sorted(cut.excluded))
        )

    async def _is_tip_canonical(self, state: SyncState) -> bool:
        tip = state.window.tip
        return (await self._node.header(tip.number)).hash == tip.hash

    async def _post(self, cut: _Cut, state: SyncState, settled: int) -> None:
        """Keep spans posted ahead."""
        next_block = cut.posted[-1].span.last + 1 if cut.posted else state.window.tip.number + 1
        for span in cut_spans(next_block, settled, SPANS_POSTED_MAX - len(cut.posted)):
            addresses = self._scanner.addresses
            task = await self._board.post(cut.name, write_span(span))
            if task is None:
                return
            cut.posted.append(_Posted(span, task, addresses))
            self._metrics.spans_posted.inc()

    # --- taking -------------------------------------------------------------------------------------------------------

    async def _result(self, cut: _Cut, posted: _Posted, wait_seconds: float) -> PutBack | None:
        until = self._clock.monotonic() + wait_seconds
        while (put_back := await self._board.take(cut.name, posted.task)) is None and self._clock.monotonic() < until:
            await self._clock.sleep(RESULT_POLL_SECONDS)
        return put_back

    async def _check(
        self, cut: _Cut, posted: _Posted, put_back: PutBack, state: SyncState
    ) -> tuple[WindowBlock, ...] | Refusal:
        expected = Expected(
            cut=cut.name,
            span=posted.span,
            parent=state.window.tip,
            generation=self._settings.generation,
            settings_hash=self._status.settings_hash,
            addresses_min=posted.addresses,
        )
        result = judge(put_back.result, expected)
        if isinstance(result, Refusal):
            return result
        if (await self._node.header(posted.span.last)).hash != result.blocks[-1].hash:
            return Refusal.HASH
        said = [block for block in result.blocks if block.deposits]
        found = await self._scanner.scan_each([block.number for block in said], state.scope) if said else ()
        return result.blocks if found == tuple(said) else Refusal.DEPOSITS

    async def _refuse(
        self, cut: _Cut, posted: _Posted, put_back: PutBack, why: Refusal, state: SyncState
    ) -> Sequence[WindowBlock] | None:
        """Offer the span again, to others; None where it is to be scanned inline."""
        if why is Refusal.PARENT and not await self._is_tip_canonical(state):
            self._cut = None
            return None
        self._metrics.spans_refused.labels(why.value).inc()
        log.warning(
            "span_refused",
            cause=why.value,
            first=posted.span.first,
            last=posted.span.last,
            scanner=put_back.scanner,
        )
        posted.put_back = None
        posted.refusals += 1
        cut.excluded[put_back.scanner] = EXCLUDED_SPANS
        await self._board.announce(cut.name, self._terms(cut))
        posted.task = await self._board.post(cut.name, write_span(posted.span)) or posted.task
        return None if posted.refusals >= SPAN_REFUSALS_MAX else ()

    # --- ending -------------------------------------------------------------------------------------------------------

    def _drop_what_is_appended(self, state: SyncState) -> Sequence[_Posted]:
        cut = self._cut
        appended: list[_Posted] = []
        while cut is not None and cut.posted and cut.posted[0].span.last <= state.window.tip.number:
            appended.append(cut.posted.pop(0))
            cut.excluded = {scanner: spans - 1 for scanner, spans in cut.excluded.items() if spans > 1}
        return appended

    async def _end(self) -> None:
        """No longer far behind: clear the board."""
        cut, self._cut = self._cut, None
        if cut is not None:
            log.info("spans_done", cut=cut.name)
            await self._board.close(cut.name)
