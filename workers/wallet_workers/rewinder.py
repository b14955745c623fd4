"""Carries out rewinds, step by step, before the head is served.

**Before the first change** everything is asked for that the rewind needs: that its target is common to the wallet's
branch and the node's (`wallet_core.rewinds` says why), every block whose events it may take back, and the first block
that is to be read again, whole: for from then on the wallet can do nothing else than follow the chain from there. What
the node does not give is tried again for `PATIENCE_SECONDS`, with the reason in the order's outcome, while the head
goes on; then the order is refused. The patience begins anew with each process.

Once something was taken back there is no way but on: what is not given is waited for.

**Which blocks are asked about.** Up to the newest common block, which a few questions find, no event can be gone, so
the quorum is asked only about blocks above it that events put transfers into. Where they are many, a task of its own
asks, while the head is served and the order can be cancelled. What was agreed on is kept from try to try and from step
to step, as long as the highest of these blocks is still the chain's. A block that changes after it was asked about is
found when it is followed again (`wallet_core.rewinds.replay`).

Above the wallet's base events may be of several branches, after a rewind upon a rewind or a lost checkpoint: there
every block with an event is asked about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import structlog

from wallet_core.blocks import Head
from wallet_core.chain import BlockRef, Rules, settled_number
from wallet_core.checkpoint import SyncState
from wallet_core.coverage import Bucket
from wallet_core.errors import CheckpointCorrupt, OrderRefused, Unavailable
from wallet_core.messages import TransactionEvent, transaction_record
from wallet_core.orders import OrderState, OrderStatus, refused, tried_again
from wallet_core.ports import Clock, Node
from wallet_core.published import Published
from wallet_core.rewinds import (
    ORPHANS_PER_APPEND_MAX,
    begun,
    check_common,
    check_target,
    go_back,
    gone,
    take_back,
)
from wallet_workers.common_blocks import CommonBlocks
from wallet_workers.rescanner import OrderStep, with_order
from wallet_workers.said_before import SaidBefore
from wallet_workers.status import WorkerStatus

log = structlog.get_logger()

RETRY_SECONDS = 5.0
"""Between two tries at a rewind that the node could not serve."""
PATIENCE_SECONDS = 600.0
"""From the first such try to the refusal; from the last one that got further, where the blocks are many."""
BLOCKS_BEFORE_HEAD_MAX = 64
"""Blocks that are asked about while the head waits; more are asked about beside it."""


@dataclass(frozen=True)
class _PutOff:
    order_id: str
    since: float
    """By the monotonic clock, like `until`."""
    until: float


@dataclass
class _Search:
    """What the chain has of the blocks of one rewind's events."""

    order_id: str
    common: int
    """Up to this block no event is gone."""
    hashes: dict[int, str] = field(default_factory=dict)
    """What the quorum agreed on, by number."""


@dataclass(frozen=True)
class _Asking:
    """The task that asks about many blocks."""

    order_id: str
    task: asyncio.Task[None]
    known_before: int
    """How many blocks' hashes were known when it began."""


class Rewinder:
    """The rewind whose turn it is. `stop()` when done."""

    def __init__(
        self, rules: Rules, source: str, *, clock: Clock, node: Node, said_before: SaidBefore, status: WorkerStatus
    ) -> None:
        self._rules = rules
        self._source = source
        self._clock = clock
        self._node = node
        self._said_before = said_before
        self._common_blocks = CommonBlocks(node, status)
        self._put_off: _PutOff | None = None
        self._search: _Search | None = None
        self._asking: _Asking | None = None

    @property
    def task(self) -> asyncio.Task[None] | None:
        """What asks about many blocks beside the head."""
        return self._asking.task if self._asking else None

    async def stop(self) -> None:
        """Give up what is being asked; what was answered stays known."""
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.task.cancel()
            await asyncio.gather(asking.task, return_exceptions=True)

    @property
    def due_at(self) -> float | None:
        """When the rewind that was put off is to be tried again, by the monotonic clock."""
        return self._put_off.until if self._put_off else None

    def is_waiting(self, order: OrderState) -> bool:
        """Whether this rewind waits for its next try, or for what is being asked beside the head."""
        asking, put_off = self._asking, self._put_off
        if asking is not None and asking.order_id == order.id:
            return not asking.task.done()
        return put_off is not None and put_off.order_id == order.id and self._clock.monotonic() < put_off.until

    async def next_step(
        self, state: SyncState, order: OrderState, head: Head, buckets: Callable[[], Sequence[Bucket]]
    ) -> OrderStep | None:
        """The rewind's next step; None where nothing is to be written now, and the head may be served.

        `buckets()`: what is covered, lowest first. Raises the node's and Kafka's errors once it has begun.
        """
        is_new = order.status is OrderStatus.ACCEPTED
        try:
            await self._end_asking(order)
            if is_new:
                await self._check_target(state, order, head)
            published = await self._said_before.load(order.from_block)
            search = self._search = await self._searched(state, order, head, published, buckets)
            if is_new:
                check_common(order.from_block, search.common)
            step = await self._go_on(state, order, head, published, search, buckets)
        except (OrderRefused, CheckpointCorrupt) as error:
            step = with_order(state, refused(order, str(error)))
        except Unavailable as error:
            if not is_new:
                raise
            return self._try_later(state, order, error)
        if step is not None:
            self._put_off = None
        return step

    def _try_later(self, state: SyncState, order: OrderState, error: Unavailable) -> OrderStep | None:
        now = self._clock.monotonic()
        since = self._put_off.since if self._put_off and self._put_off.order_id == order.id else now
        log.warning("rewind_put_off", order=order.id, error_code=error.error_code, message=str(error))
        if now - since >= PATIENCE_SECONDS:
            self._put_off = None
            return with_order(state, refused(order, f"not possible in {PATIENCE_SECONDS:g} s: {error}"))
        self._put_off = _PutOff(order.id, since, now + RETRY_SECONDS)
        return with_order(state, tried_again(order, str(error)))

    async def _check_target(self, state: SyncState, order: OrderState, head: Head) -> None:
        """Raises OrderRefused for a block that no rewind goes to, the node's errors where the next one is not given."""
        to = order.from_block
        check_target(to, state.window.base.number, settled_number(self._rules, head))
        if to < head.tip.number:
            await self._node.block(to + 1)

    async def _end_asking(self, order: OrderState) -> None:
        """Take note of what was asked beside the head. Raises what ended it."""
        asking = self._asking
        if asking is None:
            return
        if asking.order_id != order.id or not asking.task.done():
            await self.stop()
            return
        self._asking = None
        if self._search is not None and len(self._search.hashes) > asking.known_before:
            self._put_off = None  # it got further: patience begins anew
        asking.task.result()

    async def _searched(
        self,
        state: SyncState,
        order: OrderState,
        head: Head,
        published: Published,
        buckets: Callable[[], Sequence[Bucket]],
    ) -> _Search:
        """What is known of the rewind's blocks. Raises the node's errors."""
        base, tip_number = state.window.base, head.tip.number
        known: dict[int, str] = {}
        before = self._search if self._search and self._search.order_id == order.id else None
        if before is not None and before.hashes:
            highest = max(before.hashes)
            if await self._common_blocks.has(BlockRef(highest, before.hashes[highest]), tip_number):
                if order.status is OrderStatus.RUNNING:
                    return before
                known = before.hashes
        if await self._common_blocks.has(base, tip_number):
            common = base.number
        else:
            common = await self._common_blocks.newest(
                published.live_refs(base.number),
                [bucket for bucket in buckets() if bucket.last <= base.number],
                min(state.asset_first_blocks.values(), default=1) - 1,
                enough=order.from_block,
                tip_number=tip_number,
            )
        return _Search(order.id, common, known)

    async def _go_on(
        self,
        state: SyncState,
        order: OrderState,
        head: Head,
        published: Published,
        search: _Search,
        buckets: Callable[[], Sequence[Bucket]],
    ) -> OrderStep | None:
        """The next step; None while more is asked beside the head."""
        to = order.from_block
        state = replace(state, sequence=max(state.sequence, published.sequence))
        numbers = [each for each in published.live_blocks() if max(to, search.common) < each <= head.tip.number]
        unknown = [number for number in numbers if number not in search.hashes]
        asked = self._common_blocks.add_agreed_hashes(unknown, search.hashes)
        if order.status is OrderStatus.ACCEPTED and len(unknown) > BLOCKS_BEFORE_HEAD_MAX:
            self._asking = _Asking(order.id, asyncio.create_task(asked), len(search.hashes))
            return None
        await asked
        found = gone(published, {number: search.hashes[number] for number in numbers})[:ORPHANS_PER_APPEND_MAX]
        if found:
            step = orphaning(state, take_back(found, state.sequence), self._source)
            return replace(
                step, after=replace(step.after, orders=step.after.orders.with_order(begun(order, len(found))))
            )
        base = await self._node.agreed_header(to)
        return OrderStep(go_back(state, order, BlockRef(base.number, base.hash), published, buckets()))


def orphaning(state: SyncState, events: list[TransactionEvent], source: str) -> OrderStep:
    """The step that takes transfers back."""
    records = tuple(transaction_record(event, source) for event in events)
    return OrderStep(replace(state, sequence=state.sequence + len(records)), records, {"orphaned": len(records)})
